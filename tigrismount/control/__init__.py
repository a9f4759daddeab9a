"""The control socket of each mount: where it is, how it is asked, and (in the worker) how it answers."""
