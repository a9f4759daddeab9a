"""The CSI driver: a pod asks for a volume, and a directory of the node shows a bucket."""
