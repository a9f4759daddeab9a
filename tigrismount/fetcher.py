"""A fetch process: ``python -m tigrismount.fetcher``, started by a worker that wants more than one core.

It has no part in the mount: no descriptor of the kernel's, no lock of the cache, no key of its own. What it serves, and
how, says ``objects.fetchers``. It ends with the worker: the kernel kills it where the worker does not tell it, and the
signals that ask a worker to leave mean nothing to it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket

from tigrismount import __version__
from tigrismount.heap import share_heaps
from tigrismount.loglines import log_to_standard_error
from tigrismount.objects.fetchers.memory import SharedMemory
from tigrismount.objects.fetchers.server import FetchServer
from tigrismount.objects.keys import PassedKeys
from tigrismount.objects.options import S3Config
from tigrismount.privacy import end_with_parent, keep_out_of_core_dumps

_SETUP_BYTES = 64 << 10
_NOT_OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What a service manager or a terminal sends to everything in the worker's group."""


def main() -> None:
    """Serve the worker that passed the descriptors, until it is gone."""
    for number in _NOT_OURS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    keep_out_of_core_dumps()
    share_heaps()
    parser = argparse.ArgumentParser(prog="tigrismount.fetcher", description="Fetch process; started by a worker.")
    parser.add_argument("--control-fd", type=int, required=True, help="where the worker speaks")
    parser.add_argument("--memory-fd", type=int, required=True, help="its buffers")
    arguments = parser.parse_args()
    control = socket.socket(fileno=arguments.control_fd)
    text = control.recv(_SETUP_BYTES)
    if not text:
        return  # the worker ended before it could say anything
    setup = json.loads(text)
    log_to_standard_error(setup["log_level"], json_lines=setup["log_json"])
    if setup.get("version") != __version__:  # installed since the worker was started: its words may mean something else
        what = "a fetch process of %s is of no use to a worker of %s; upgrade the mount"
        logging.getLogger(__name__).warning(what, __version__, setup.get("version"))
        return
    keys = PassedKeys(setup["profile"], isolated=setup["isolated"], anonymous=setup["anonymous"])
    memory = SharedMemory(arguments.memory_fd, setup["memory_bytes"])
    FetchServer(control, memory, setup["index"], S3Config(**setup["config"]), keys).run()


if __name__ == "__main__":
    status = 1
    try:
        main()
        status = 0
    except Exception:
        logging.getLogger(__name__).exception("a fetch process cannot go on")
    finally:
        os._exit(status)  # threads may hang in reads for a worker that is gone
