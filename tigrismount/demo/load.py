"""Loading a model as a user's program does: ``python -m tigrismount.demo.load DIRECTORY``.

A process of its own, because a mount in trouble can hang whoever touches it, and the demo must stay able to stop;
and because a fresh process maps fresh pages. It reads the index, opens the shards in its order with the safetensors
library, copies every tensor out and takes its checksum. Progress and the result go to standard output, one JSON
object per line. Imports are not timed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.demo.command import MODULE, CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Loaded:
    """One load of a whole model."""

    seconds: float
    """From opening the index to the last checksum."""
    size_bytes: int
    """Bytes of all tensors."""
    checksums: dict[str, int]
    """xxh3 of each tensor's bytes, by name."""


def load_model(directory: str, progress: Callable[[int], object], *, timeout_s: float = 600.0) -> Loaded:
    """Load every tensor of the model in *directory*, in a child process.

    Args:
        directory: Where the model is.
        progress: Called with the bytes of tensors loaded since the last call.
        timeout_s: Deadline of the whole load.

    Raises:
        CommandError: The child failed or took too long; it is gone.
    """
    command = [*MODULE, "tigrismount.demo.load", directory, str(timeout_s)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True) as child:
        try:
            result = _follow(child, progress)
        finally:
            child.kill()
    if result is None:
        raise CommandError(f"loading {directory} failed: exit status {child.returncode}")
    return result


def _follow(child: subprocess.Popen[bytes], progress: Callable[[int], object]) -> Loaded | None:
    assert child.stdout is not None
    for line in child.stdout:
        message = json.loads(line)
        if "checksums" in message:
            child.wait()
            return Loaded(**message)
        progress(message["loaded"])
    child.wait()
    return None


def main(directory: str, timeout_s: float) -> int:
    """Load the model and report.

    Args:
        directory: Where it is.
        timeout_s: After so long, this process is ended by an alarm.

    Returns:
        Exit status.
    """
    import signal

    from safetensors import safe_open

    from tigrismount.demo.model import checksum

    # The default action ends the process even while it waits for a page of a hung mount.
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    started_s = time.perf_counter()
    with open(os.path.join(directory, _INDEX), encoding="utf-8") as file:
        weight_map = json.load(file)["weight_map"]
    checksums: dict[str, int] = {}
    size_bytes = 0
    for shard in sorted(set(weight_map.values())):
        with safe_open(os.path.join(directory, shard), framework="numpy") as opened:
            for name in opened.keys():  # noqa: SIM118 -- no mapping, its only way to name the tensors
                tensor = opened.get_tensor(name)
                checksums[name] = checksum(tensor)
                size_bytes += tensor.nbytes
                print(json.dumps({"loaded": tensor.nbytes}), flush=True)  # noqa: T201 -- the protocol above
    seconds = time.perf_counter() - started_s
    print(json.dumps({"seconds": seconds, "size_bytes": size_bytes, "checksums": checksums}), flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
