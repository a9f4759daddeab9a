"""The filesystem without FUSE: nodes, names, attributes, directories and open files in our own types."""
