"""How a command says that it failed: one line on standard error, and an exit status that scripts can rely on.

0 done · 1 failed · 2 bad usage or configuration · 3 not mounted or not found.
"""

from __future__ import annotations

import os

import click

FAILED = 1
"""It was tried and did not work."""
BAD_USAGE = 2
"""The command line, the environment or a file is wrong."""
NOT_FOUND = 3
"""There is no such mount or cache."""
HEALTH_BAD_USAGE = 64
"""The same for ``health``, whose low numbers say how a mount does (EX_USAGE of sysexits.h)."""
INTERRUPTED = 130
"""Ctrl-C, as shells number it."""
_RAW_BYTES = frozenset(map(chr, range(0xDC80, 0xDD00)))
"""Of paths that are not UTF-8; standard error shows each with an escape."""


class CommandFailure(Exception):  # noqa: N818 -- not a fault of a program: the normal end of a command that failed
    """A command ends with a message and an exit status.

    Args:
        message: What, where, and what to do next; one line.
        exit_code: Exit status.
    """

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def print_error(message: str) -> None:
    """Write the one line that says why a command failed."""
    _tell(f"tigrismount: error: {_one_line(message)}")


def print_warning(message: str) -> None:
    """Write a line about what works less well than it could."""
    _tell(f"tigrismount: warning: {_one_line(message)}")


def print_note(message: str) -> None:
    """Write a line that tells how far it is, where there is no terminal to show it on."""
    _tell(f"tigrismount: {_one_line(message)}")


def print_outcome(text: str) -> None:
    """Write to standard output what has been done or found, which is so also where nobody can be told.

    A mount is there and a verdict is given although the disk of the output is full, or its reader has gone: that must
    not make another exit status of it, or end the mount that is told about.
    """
    try:
        click.echo(text)
    except OSError as exc:
        discard_output(1)
        if not isinstance(exc, BrokenPipeError):  # else who read it has enough
            print_warning(f"standard output cannot be written: {exc.strerror}")


def discard_output(fd: int) -> None:
    """Let the rest of an output that fails go nowhere: Python would complain once more when it closes it.

    Args:
        fd: 1 or 2.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, fd)
    os.close(null)


def _tell(line: str) -> None:
    """Write *line* to standard error; where that is not possible, what it tells of stays as it is."""
    try:
        click.echo(line, err=True)
    except OSError:
        discard_output(2)


def _one_line(message: str) -> str:
    """Return *message* so that no name in it can steer a terminal: keys come from buckets, shards from an index."""
    line = " ".join(message.split())
    return "".join(c if c.isprintable() or c in _RAW_BYTES else f"\\x{ord(c):02x}" for c in line)
