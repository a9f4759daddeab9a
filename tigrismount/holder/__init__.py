"""The process that holds the mount: opens /dev/fuse, mounts, starts the worker, unmounts. Standard library only."""
