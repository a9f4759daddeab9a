"""What the demo found, as a table for people and as data for scripts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the demo."""

    name: str
    """What was done."""
    seconds: float
    """How long it took."""
    size_bytes: int | None = None
    """Bytes moved for the user: stored, downloaded or loaded; None where nothing was."""
    store_bytes: int | None = None
    """Object bytes the server sent meanwhile, as the server counted them."""
    store_requests: int | None = None
    """GETs the server answered meanwhile."""
    nvme_bytes: int | None = None
    """Bytes the daemon read from the disk cache meanwhile."""
    kernel_bytes: int | None = None
    """Bytes the kernel asked the daemon for meanwhile; what it did not ask for was in the page cache."""

    @property
    def rate(self) -> float | None:
        """MB (10^6 bytes) per second."""
        return None if self.size_bytes is None else self.size_bytes / 1e6 / max(self.seconds, 1e-9)

    @property
    def hit_ratio(self) -> float | None:
        """Share of the loaded bytes that did not have to be fetched from the store."""
        if self.size_bytes is None or self.store_bytes is None:
            return None
        return max(0.0, 1.0 - self.store_bytes / self.size_bytes)


@dataclass(slots=True)
class Report:
    """The whole demo."""

    model: dict[str, int] = field(default_factory=dict)
    """``bytes``, ``tensors`` and ``shards`` of the model."""
    steps: list[Step] = field(default_factory=list)
    """In the order they ran."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the numbers must know."""
    problems: list[str] = field(default_factory=list)
    """What went wrong; the demo passes when there is none."""
    tensors_compared: int = 0
    """Tensors compared with what was generated, over all loads."""

    def step(self, name: str) -> Step:
        """Return the step called *name*."""
        return next(step for step in self.steps if step.name == name)

    def judge_fetched(self, name: str, again_bytes: int, *, lost_bytes: int, raced_bytes: int) -> None:
        """Note what a step fetched that should have been there; it is a problem where the disk does not explain it.

        Args:
            name: The step.
            again_bytes: Bytes that it fetched.
            lost_bytes: Bytes that the disk did not have, since it was too busy for them when they came.
            raced_bytes: Bytes that it had and did not give in time.
        """
        if again_bytes > lost_bytes + raced_bytes:
            self.problems.append(f"{name}: {size(again_bytes)} were fetched again")
            return
        if again_bytes > raced_bytes:
            late_bytes = again_bytes - raced_bytes
            self.notes.append(f"{name}: {size(late_bytes)} came too fast for the disk before, and were fetched again")
        if raced_bytes:
            self.notes.append(
                f"{name}: the disk did not answer in time for {size(raced_bytes)}, which were fetched again"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "ok": not self.problems,
            "problems": self.problems,
            "model": self.model,
            "tensors_compared": self.tensors_compared,
            "steps": [
                {**asdict(step), "mb_per_s": _rounded(step.rate), "hit_ratio": _rounded(step.hit_ratio, 4)}
                for step in self.steps
            ],
            "cold_over_download": _rounded(self.cold_over_download, 3),
            "cold_over_download_and_load": _rounded(self.cold_over_download_and_load, 3),
            "notes": self.notes,
        }

    @property
    def cold_over_download(self) -> float | None:
        """Rate of the cold load divided by the rate of the download to files; None before both ran."""
        return self._cold_over(DOWNLOAD)

    @property
    def cold_over_download_and_load(self) -> float | None:
        """The same, where the files are loaded after they were downloaded; None before all ran."""
        return self._cold_over(DOWNLOAD, LOAD_FILES)

    def _cold_over(self, *names: str) -> float | None:
        seconds = {step.name: step.seconds for step in self.steps}
        if not seconds.keys() >= {COLD, *names}:
            return None
        return sum(seconds[name] for name in names) / max(seconds[COLD], 1e-9)

    def print_table(self, console: Console) -> None:
        """Print the steps as a table, then what it proves."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        model = f"{self.model['tensors']} tensors in {self.model['shards']} shards, {size(self.model['bytes'])}"
        table = Table(title=f"tigrismount demo: {model}", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("step", no_wrap=True)
        for title in ("time", "MB/s", "from store", "from NVMe", "by FUSE", "hits"):
            table.add_column(title, justify="right", no_wrap=True)
        for step in self.steps:
            table.add_row(*_cells(step))
        console.print(table)
        if self.cold_over_download is not None and self.cold_over_download_and_load is not None:
            console.print(
                f"· {COLD} ÷ {DOWNLOAD}: {self.cold_over_download:.2f} of the rate; "
                f"÷ download and load: {self.cold_over_download_and_load:.2f}",
                highlight=False,
            )
        for note in self.notes:
            console.print(f"· {note}", highlight=False)
        if not self.problems:
            console.print(f"All {self.tensors_compared} comparisons of tensors equal.", highlight=False)


UPLOAD = "generate and upload"
DOWNLOAD = "download to files"
LOAD_FILES = "load those files"
MOUNT = "mount"
COLD = "load cold"
WARM_PAGES = "load from page cache"
DROP = "drop page cache"
WARM_NVME = "load from NVMe"
REMOUNT = "unmount and mount"
AFTER_REMOUNT = "load after remount"
UNMOUNT = "unmount"


def size(size_bytes: int) -> str:
    """Return *size_bytes* for people: ``1.00 GiB``, ``12.5 MiB``, ``0``."""
    if size_bytes == 0:
        return "0"
    value = float(size_bytes)
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1000 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.3g} {units[0]}"


def _cells(step: Step) -> list[str]:
    def of_bytes(size_bytes: int | None) -> str:
        return "" if size_bytes is None else size(size_bytes)

    rate, ratio = step.rate, step.hit_ratio
    return [
        step.name,
        f"{step.seconds:.2f} s",
        "" if rate is None else f"{rate:,.0f}",
        of_bytes(step.store_bytes),
        of_bytes(step.nvme_bytes),
        of_bytes(step.kernel_bytes),
        "" if ratio is None else f"{ratio:.0%}",
    ]


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)
