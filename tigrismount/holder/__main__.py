"""``python -m tigrismount.holder``: the supervisor as a program, for ``launch`` and ``heirloom`` only.

``--status-fd N`` mounts what standard input asks for, ``--state-fd N`` goes on where the program before it executed
this one, and ``--check`` shows that it runs.
"""

from __future__ import annotations

import sys

from tigrismount.holder.launch import run_as_daemon, run_resumed


def main(arguments: list[str]) -> int:
    """Run the supervisor and return its exit status."""
    match arguments:
        case ["--status-fd", number] if number.isdecimal():
            return run_as_daemon(int(number))
        case ["--state-fd", number] if number.isdecimal():
            return run_resumed(int(number))
        case ["--check"]:
            return 0
    print("tigrismount.holder is started by 'tigrismount mount'", file=sys.stderr)  # noqa: T201
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
