"""The object store: listing, metadata and range GETs; botocore and HTTP end here."""
