"""The disk cache: one sparse file per object version, an LMDB index, checksums; survives restarts."""
