"""Blocks in memory: hit, join or fetch; one flight per part, whoever asks; a hard memory budget."""
