"""``python -m tigrismount`` is the command line."""

from __future__ import annotations

from tigrismount.cli.entry import run

if __name__ == "__main__":
    run()
