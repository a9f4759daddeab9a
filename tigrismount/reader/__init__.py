"""From reads to plans: watches how a file is read and says which blocks come next."""
