"""The mounter's log: one stream of lines on standard error, each of a mount's with the mount's id."""

from __future__ import annotations

import json

from tigrismount.holder.log import DaemonLog


class MountLog(DaemonLog):
    """The part of one mount.

    Args:
        mount_id: Whose lines these are.
        level: Least severe own messages that are written.
        json_lines: Whether lines are JSON objects.
    """

    def __init__(self, mount_id: str, *, level: str, json_lines: bool) -> None:
        super().__init__(path=None, foreground=True, level=level, json_lines=json_lines)
        self._mount_id = mount_id

    def _write(self, line: str, severity: int) -> None:
        super()._write(_labelled(line, self._mount_id), severity)


def _labelled(line: str, mount_id: str) -> str:
    """Return *line* with the id in it: as a member of a JSON object, in front of all else."""
    if line.startswith("{"):
        try:
            return json.dumps({**json.loads(line), "mount": mount_id})
        except ValueError:
            pass
    return f"{mount_id}: {line}"
