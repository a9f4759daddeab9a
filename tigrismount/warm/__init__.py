"""Filling the cache on purpose: what is meant, what is missing of it, and bringing it in as fast as it comes."""
