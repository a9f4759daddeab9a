"""The unprivileged half of the CSI driver: keeps a worker behind each mount that the driver has made."""
