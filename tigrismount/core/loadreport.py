"""One model load made out of the events of the read path: what it needed, fetched and waited for, and why.

Pages that the kernel has are never asked of us again, and pages that we push are not asked for at all; nor are those of
files that the kernel reads by itself. So *needed* is what was read from us, pushed, or left to the kernel; a load that
the page cache alone answers leaves no report.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tigrismount.core import loadlog
from tigrismount.core.intervals import Intervals
from tigrismount.core.loadtimeline import Timeline

if TYPE_CHECKING:
    from tigrismount.core.loadlog import Event
    from tigrismount.core.types import ObjectId

STALL_S = 0.05
"""A wait that counts as a stall: above the first byte of a store in the same region, and a person notices twenty."""
MAX_STALLS = 10
"""Longest stalls that a report names."""
MAX_GETS = 4000
"""Durations kept for the percentiles; beyond, every other one is dropped."""
MAX_SPANS = 1000
"""Spans of waiting that a later, longer wait may still join."""
MAX_FILES = 512
"""Files of one load that are told apart: more than the largest model has."""
MAX_RANGES = 32_768
"""Ranges of bytes told apart, shared by the files of a load, some 3 MiB of each kind. Who reads here and there for
months would have no end of them."""
MAX_EARLY_READS = 64
"""First reads of a file that are remembered until its header is understood."""
PIPELINE_INDEXES = frozenset({"model_index.json", "modules.json"})
"""Files of diffusers and sentence-transformers that announce components in directories below."""


class _Seen:
    """Bytes of a file, each counted once; what lies in too many ranges is counted anew when it is met again."""

    def __init__(self) -> None:
        self._ranges = Intervals()
        self._folded_bytes = 0

    def add(self, start: int, stop: int, max_ranges: int) -> None:
        self._ranges.add(start, stop)
        if self._ranges.count > max_ranges:
            self._folded_bytes += self._ranges.total
            self._ranges = Intervals()

    def total(self, size_bytes: int) -> int:
        return min(size_bytes, self._folded_bytes + self._ranges.total)


@dataclass(slots=True)
class _File:
    """One file's share of a load."""

    number: int
    read: _Seen = field(default_factory=_Seen)
    needed: _Seen = field(default_factory=_Seen)
    """Read, pushed or left to the kernel."""
    is_through: bool = False
    """Whether it was left to the kernel."""
    data_start: int = 0
    """Where its tensors begin, once its header was understood."""
    early: list[tuple[int, float]] = field(default_factory=list)
    """Place and time of its first reads."""


@dataclass(frozen=True, slots=True, order=True)
class _Stall:
    seconds: float
    since_s: float
    cause: str
    key: str
    start: int
    stop: int


class Load:
    """One load, as far as it has come.

    Args:
        model: Bucket and directory.
        started_s: When its first read began.
    """

    def __init__(self, model: tuple[str, str], started_s: float) -> None:
        self.model = model
        self.started_s = started_s
        self.last_s = started_s
        """When the last read or push was."""
        self.is_pipeline = False
        self.waiting = 0
        """Reads that wait now."""
        self._files: dict[ObjectId, _File] = {}
        self._uncounted_bytes = 0
        """Read in files beyond those that are told apart."""
        self._fetched_bytes = self._pushed_bytes = self._disk_bytes = self._through_bytes = 0
        self._reads = {source: [0, 0] for source in loadlog.SOURCES}
        self._waits = {cause: [0, 0.0] for cause in loadlog.CAUSES}
        self._waited = _Covered()
        self._stalls: list[_Stall] = []
        self._stall_count = 0
        self._gets: list[tuple[float, int]] = []
        self._get_count = 0
        self._timeline = Timeline()

    @property
    def needed_bytes(self) -> int:
        """Bytes that were read, pushed or left to the kernel, each counted once."""
        return self._uncounted_bytes + sum(file.needed.total(obj.size_bytes) for obj, file in self._files.items())

    def read(self, event: Event, count: int) -> None:
        """A read was answered, or *count* of them that continue each other."""
        kind, obj, start, stop, since_s, until_s, source, cause = event
        self.last_s = max(self.last_s, until_s)
        if obj.key.rpartition("/")[2] in PIPELINE_INDEXES:
            self.is_pipeline = True
        counts = self._reads[source]
        counts[0] += count
        counts[1] += stop - start
        if kind == loadlog.ANSWER:
            self._count_wait(_Stall(until_s - since_s, since_s, cause, obj.key, start, stop))
            since_s = until_s
        file = self._file(obj)
        if file is None:
            self._uncounted_bytes += stop - start
            return
        file.read.add(start, stop, self._max_ranges)
        file.needed.add(start, stop, self._max_ranges)
        if len(file.early) < MAX_EARLY_READS:
            file.early.append((start, until_s))
        self._timeline.add("read", file.number, start, stop, since_s, until_s)

    def fetched(self, event: Event) -> None:
        """A GET ended."""
        _, obj, start, stop, since_s, until_s, _, _ = event
        self._fetched_bytes += stop - start
        self._get_count += 1
        self._gets.append((until_s - since_s, stop - start))
        if len(self._gets) > MAX_GETS:
            del self._gets[::2]
        file = self._file(obj)
        if file is not None:
            self._timeline.add("fetched", file.number, start, stop, since_s, until_s)

    def from_disk(self, event: Event) -> None:
        """A block came from the disk cache."""
        self._disk_bytes += event[3] - event[2]

    def pushed(self, event: Event) -> None:
        """Pages went to the kernel unasked."""
        _, obj, start, stop, since_s, until_s, _, _ = event
        self.last_s = max(self.last_s, until_s)
        self._pushed_bytes += stop - start
        file = self._file(obj)
        if file is not None:
            file.needed.add(start, stop, self._max_ranges)
            self._timeline.add("pushed", file.number, start, stop, since_s, until_s)

    def opened_through(self, event: Event) -> None:
        """A file was left to the kernel, all of it; its open may have waited for the disk."""
        _, obj, start, stop, since_s, until_s, _, _ = event
        self.last_s = max(self.last_s, until_s)
        if until_s > since_s:
            self._count_wait(_Stall(until_s - since_s, since_s, loadlog.DISK_CAUSE, obj.key, start, stop))
        file = self._file(obj)
        if file is not None and not file.is_through:
            file.is_through = True
            file.needed.add(start, stop, self._max_ranges)
            self._through_bytes += stop - start

    def learned(self, obj: ObjectId, data_start: int) -> None:
        """The header of a file was understood."""
        file = self._file(obj)
        if file is not None:
            file.data_start = data_start

    def summary(self, epoch_s: float) -> dict[str, Any]:
        """Return what ``status`` shows of it.

        Args:
            epoch_s: Seconds since 1970 at the clock's zero.
        """
        bucket, directory = self.model
        return {
            "model": f"s3://{bucket}/{directory}" if directory else f"s3://{bucket}",
            "state": "loading",
            "started": round(epoch_s + self.started_s, 3),
            "seconds": round(self.last_s - self.started_s, 3),
            "files": len(self._files),
            "bytes_total": sum(obj.size_bytes for obj in self._files),
            "bytes_needed": self.needed_bytes,
            "bytes_read": sum(file.read.total(obj.size_bytes) for obj, file in self._files.items()),
            "bytes_fetched": self._fetched_bytes,
            "bytes_pushed": self._pushed_bytes,
            "bytes_nvme": self._disk_bytes,
            "bytes_through": self._through_bytes,
            "reads_waiting": self.waiting,
        }

    def report(self, epoch_s: float) -> dict[str, Any]:
        """Return all of it as plain data (docs/reference/load-report.md).

        Args:
            epoch_s: Seconds since 1970 at the clock's zero.
        """
        summary = self.summary(epoch_s)
        needed = summary["bytes_needed"]
        seconds = sorted(seconds for seconds, _ in self._gets)
        return {
            **summary,
            "amplification": round(self._fetched_bytes / needed, 4) if needed else None,
            "first_tensor_s": self._first_tensor_s(),
            "sequential_s": self._sequential_s(needed),
            "reads": {source: {"count": n, "bytes": size} for source, (n, size) in self._reads.items()},
            "gets": {
                "count": self._get_count,
                "p50_s": _percentile(seconds, 50),
                "p99_s": _percentile(seconds, 99),
            },
            "waits": {
                "seconds": round(self._waited.total_s, 3),
                "causes": {cause: {"count": n, "seconds": round(s, 3)} for cause, (n, s) in self._waits.items()},
            },
            "stalls": {"count": self._stall_count, "longest": [self._stall_json(stall) for stall in self._stalls]},
            "timeline": {"files": [obj.key for obj in self._files], **self._timeline.to_json(self.started_s)},
        }

    def _file(self, obj: ObjectId) -> _File | None:
        """Return a file's share, None where there are too many to tell apart."""
        file = self._files.get(obj)
        if file is None:
            if len(self._files) >= MAX_FILES:
                return None
            file = self._files[obj] = _File(len(self._files))
        return file

    @property
    def _max_ranges(self) -> int:
        return MAX_RANGES // len(self._files)

    def _count_wait(self, wait: _Stall) -> None:
        counts = self._waits[wait.cause]
        counts[0] += 1
        counts[1] += wait.seconds
        self._waited.add(wait.since_s, wait.since_s + wait.seconds)
        if wait.seconds >= STALL_S:
            self._stall_count += 1
            self._stalls.append(wait)
            self._stalls.sort(reverse=True)
            del self._stalls[MAX_STALLS:]

    def _stall_json(self, stall: _Stall) -> dict[str, Any]:
        return {
            "at_s": round(stall.since_s - self.started_s, 3),
            "seconds": round(stall.seconds, 3),
            "cause": stall.cause,
            "file": stall.key,
            "start": stall.start,
            "stop": stall.stop,
        }

    def _first_tensor_s(self) -> float | None:
        """Return after how long the first read of tensor data was answered, headers not counted."""
        times = [at_s for file in self._files.values() for start, at_s in file.early if start >= file.data_start > 0]
        return round(min(times) - self.started_s, 3) if times else None

    def _sequential_s(self, needed_bytes: int) -> float | None:
        """Return what one GET after the other would have taken: needed bytes / median GET's bytes * its seconds."""
        if not self._gets:
            return None
        seconds = _percentile(sorted(seconds for seconds, _ in self._gets), 50)
        size_bytes = _percentile(sorted(size for _, size in self._gets), 50)
        return round(needed_bytes / max(size_bytes or 0, 1) * (seconds or 0.0), 3)


class _Covered:
    """The time that at least one of many spans covers; spans come in the order they end, more or less."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []
        self._folded_s = 0.0

    def add(self, since_s: float, until_s: float) -> None:
        while self._spans and self._spans[-1][1] >= since_s:
            last_since_s, last_until_s = self._spans.pop()
            since_s, until_s = min(since_s, last_since_s), max(until_s, last_until_s)
        self._spans.append((since_s, until_s))
        if len(self._spans) > MAX_SPANS:
            self._folded_s += sum(until_s - since_s for since_s, until_s in self._spans[: MAX_SPANS // 2])
            del self._spans[: MAX_SPANS // 2]

    @property
    def total_s(self) -> float:
        return self._folded_s + sum(until_s - since_s for since_s, until_s in self._spans)


def _percentile(ordered: list[Any], percent: int) -> Any:
    """Return the nearest-rank percentile of sorted values, None where there are none."""
    if not ordered:
        return None
    value = ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
    return round(value, 4) if isinstance(value, float) else value
