"""The fetch processes of one client, seen from the worker: started when there is much to fetch, used while they live.

A thread that has a GET to send takes a line to the process that has the fewest, or does the work itself where there is
none. So nothing waits for a process: not for its start, which takes half a second, and not for one that has died.

A process that dies takes its GETs with it: each fails once, in a way that is tried again, and after its lines have
closed nothing of it writes anywhere. One that gives no sign of life, or does not let go of memory that is wanted back,
is killed, which comes to the same. Another one is started in its place, after a pause; where they do not live long
enough to be of use, a long one.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tigrismount import __version__
from tigrismount.objects.fetchers.memory import SharedMemory
from tigrismount.objects.fetchers.process import FetchProcess, Patience

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tigrismount.objects.fetchers.line import Line
    from tigrismount.objects.keys import SigningKeys
    from tigrismount.objects.options import S3Config

log = logging.getLogger(__name__)

RESTART_S = 5.0
"""Least time from the start of a process to that of its successor: a start costs half a CPU second."""
PATIENCE = Patience()
"""Unless a test has less."""
MOST_IN_VAIN = 3
"""Processes in a row that could not be started, or ended without a single answer; then there are none for a while."""
AGAIN_S = 300.0
"""That while: tasks or memory may have been short for a moment. What is broken costs a start each time."""


@dataclass(frozen=True, slots=True)
class FetcherStatistics:
    """What there is and was of fetch processes."""

    configured: int = 0
    """How many there may be."""
    ready: int = 0
    """How many serve now."""
    started: int = 0
    """How many were ever started."""
    gets: int = 0
    """GETs that they were given."""
    in_flight: tuple[int, ...] = ()
    """GETs that each of those that serve has now."""
    pids: tuple[int, ...] = ()
    """Those that serve, likewise."""
    degraded: str = ""
    """Why there are none although they are wanted; empty where all is well."""


class FetchProcesses:
    """Starts, uses and ends the fetch processes. Used by many threads; only :meth:`want` belongs to one.

    Args:
        config: How to reach the store, and how many processes.
        memory: Where they put bytes.
        log_json: Whether their log lines are JSON.
        patience: When one is killed.
    """

    def __init__(
        self, config: S3Config, memory: SharedMemory, *, log_json: bool = False, patience: Patience = PATIENCE
    ) -> None:
        self._patience = patience
        self._config = config
        self.memory = memory
        self._log_json = log_json
        self._session: Mapping[str, Any] = {}
        """What their sessions of botocore are like; empty before there is a client."""
        self._lock = threading.Lock()
        """Held around every change of which processes there are and which lines they have free."""
        self._places: list[_Place] = [_Place() for _ in range(config.fetch_processes)]
        self._wanted_bytes = 0
        self._started = self._gets = self._in_vain = 0
        self._degraded = ""
        self._none_until_s = 0.0
        """Until when none is started, by the monotonic clock."""
        self._closed = False

    # -- what the client calls -------------------------------------------------------------------------------------

    def sign_like(self, keys: SigningKeys) -> None:
        """Take the settings that belong to keys over; the keys themselves come with the requests."""
        self._session = {"profile": keys.profile, "isolated": keys.isolated, "anonymous": keys.anonymous}

    def want(self, size_bytes: int) -> None:
        """Note that bytes are about to be fetched, and start a process where that calls for one.

        Only from a thread that lives as long as the worker: the kernel ends a process with the thread that started it.
        """
        self._wanted_bytes += size_bytes
        now_s = time.monotonic()
        too_soon = now_s < self._none_until_s
        if self._wanted_bytes < self._config.fetch_process_start_bytes or self._closed or too_soon:
            return
        for index, place in enumerate(self._places):
            if place.process is not None and not place.process.has_ended():
                continue
            if place.process is not None:
                self._bury(place)
            if now_s >= max(place.next_start_s, self._none_until_s):
                place.next_start_s = now_s + RESTART_S
                self._start(index, place)
                return  # one at a time: each costs this thread some milliseconds

    def take(self, memory: memoryview, size_bytes: int) -> Line | None:
        """Return a line to a process, to be given back with :meth:`give`; None where a thread should do the work.

        Args:
            memory: Where the first bytes would go.
            size_bytes: How many there are in all.
        """
        if size_bytes < self._config.fetch_process_least_bytes or not memory or self.memory.offset(memory) is None:
            return None
        with self._lock:
            serving = [p for place in self._places if (p := place.process) is not None and p.serves()]
            serving.sort(key=lambda one: one.busy)
            # One that can have no more lines has the fewest for ever, and must not keep the work from the others.
            line = next((line for process in serving if (line := process.take()) is not None), None)
            self._gets += line is not None
            return line

    def give(self, line: Line) -> None:
        """Take back what :meth:`take` returned."""
        with self._lock:
            if line.was_answered:
                self._in_vain, self._degraded = 0, ""
            line.process.give(line)

    def statistics(self) -> FetcherStatistics:
        """Return what there is."""
        with self._lock:
            serving = [p for place in self._places if (p := place.process) is not None and p.serves()]
            return FetcherStatistics(
                configured=len(self._places),
                ready=len(serving),
                started=self._started,
                gets=self._gets,
                in_flight=tuple(process.busy for process in serving),
                pids=tuple(process.pid for process in serving),
                degraded=self._degraded,
            )

    def close(self) -> None:
        """End them all. Blocks until they have ended."""
        self._closed = True
        with self._lock:
            processes = [place.process for place in self._places if place.process is not None]
            for place in self._places:
                place.process = None
            for process in processes:
                process.dismiss()
        for process in processes:
            process.end()

    # -- starting and burying --------------------------------------------------------------------------------------

    def _start(self, index: int, place: _Place) -> None:
        try:
            process = FetchProcess(index, self.memory, self._setup(index), self._patience)
        except OSError as exc:  # descriptors or tasks may be short for a moment only
            with self._lock:
                self._in_vain += 1
            self._give_up_in_vain(f"a fetch process cannot be started: {exc.strerror or exc}")
            return
        with self._lock:
            self._started += 1
            place.process = process
        log.debug("fetch process %d started as %d", index, process.pid)

    def _bury(self, place: _Place) -> None:
        process = place.process
        assert process is not None
        with self._lock:
            place.process = None
            self._in_vain += not process.was_useful
        process.dismiss()
        how = process.end()
        log.warning("fetch process %d %s; its GETs are sent again", process.pid, how)
        self._give_up_in_vain(f"fetch processes do not live: the last one {how}")

    def _give_up_in_vain(self, why: str) -> None:
        """Start none of them for a while where that was in vain too often."""
        if self._in_vain >= MOST_IN_VAIN:
            self._degraded, self._none_until_s = why, time.monotonic() + AGAIN_S
            log.warning("%s; going on with threads", why)

    def _setup(self, index: int) -> bytes:
        setup = {
            "version": __version__,
            "index": index,
            "config": asdict(self._config),
            **self._session,
            "memory_bytes": self.memory.size_bytes,
            "log_level": logging.getLevelName(logging.getLogger("tigrismount").getEffectiveLevel()),
            "log_json": self._log_json,
        }
        return json.dumps(setup).encode()


def open_fetchers(config: S3Config, memory_limit_bytes: int, *, log_json: bool = False) -> FetchProcesses | None:
    """Return the fetch processes that *config* asks for, none of them started; None for none.

    Args:
        config: How to reach the store, and how many there may be.
        memory_limit_bytes: Most bytes of buffers in use at once.
        log_json: Whether their log lines are JSON.
    """
    if not config.fetch_processes:
        return None
    try:
        memory = SharedMemory.create(memory_limit_bytes)
    except (OSError, OverflowError) as exc:  # the latter: four times the largest limit is no size of a file
        why = getattr(exc, "strerror", None) or exc
        log.warning("no memory to share with fetch processes (%s): going on with threads", why)
        return None
    return FetchProcesses(config, memory, log_json=log_json)


class _Place:
    """Where a process is, or will be."""

    def __init__(self) -> None:
        self.process: FetchProcess | None = None
        self.next_start_s = 0.0
