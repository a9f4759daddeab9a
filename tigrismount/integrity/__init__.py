"""Whether whole objects are what their known checksums say: found, compared, remembered, and acted upon."""
