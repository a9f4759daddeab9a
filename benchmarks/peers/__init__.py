"""Plug-ins: one file for each other mount, with a ``PEER`` (``benchmarks.peer`` says what that is).

Mounts that do not speak S3 have none: gcsfuse (Google's API), blobfuse2 (Azure's), hf-mount (Hugging Face's).
"""
