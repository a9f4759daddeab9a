"""The kernel's side: pyfuse3 handlers, errnos and the life of one FUSE connection."""
