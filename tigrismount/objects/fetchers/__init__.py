"""GETs in processes of their own, straight into memory that the worker shares with them."""
