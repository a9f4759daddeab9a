"""tigrismount: mount Tigris and S3 buckets read-only and load model weights fast."""

from __future__ import annotations

__version__ = "0.1.0"
