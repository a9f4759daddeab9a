"""A mount's figures for Prometheus, and whether it is alive and ready, over HTTP."""
