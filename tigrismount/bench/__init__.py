"""How fast a mount is beside what bounds it, measured on the user's own bucket and machine."""
