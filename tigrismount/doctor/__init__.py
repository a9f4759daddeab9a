"""Checks of a host and of a store, each with its verdict and its remedy: what ``tigrismount doctor`` runs."""
