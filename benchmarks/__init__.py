"""Benchmarks of the main job, each a ratio of two things measured in one run on one machine.

``python -m benchmarks.run`` (``make bench``) starts a store, generates a model, and runs the variants in turn. They
are not tests: nothing here fails because a number is low. ``store`` is the S3 side, ``loads`` what is timed (each in
its own process, so that no variant pays for another's memory), ``mounts`` the file system under test, ``report`` the
table.
"""
