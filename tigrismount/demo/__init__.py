"""The main job on this machine: an embedded S3 server, a generated model, and every step shown and checked."""
