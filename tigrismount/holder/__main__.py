"""``python -m tigrismount.holder --status-fd N``: the supervisor as a daemon, for ``launch`` only."""

from __future__ import annotations

import sys

from tigrismount.holder.launch import run_as_daemon


def main(arguments: list[str]) -> int:
    """Run the supervisor and return its exit status."""
    if len(arguments) != 2 or arguments[0] != "--status-fd" or not arguments[1].isdecimal():
        print("tigrismount.holder is started by 'tigrismount mount'", file=sys.stderr)  # noqa: T201
        return 2
    return run_as_daemon(int(arguments[1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
