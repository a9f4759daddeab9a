"""A read job as fio runs it, and how a published one is made smaller for this machine.

Parameters are as published. What a large machine did for half a minute on hundreds of gigabytes is scaled by one
factor: seconds, files above 100 MiB, the number of files, and the number of jobs where there are more than four.
Nothing is scaled below what the job is about: one block per file, four jobs, one file each.
A job that ends with its data rather than by the clock is cut off after as long as Mountpoint's would run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
LEAST_SECONDS = 1.0
"""Below a second the first byte decides."""
LARGE_BYTES = 100 * MIB
"""Files up to here keep their size: how many there are is what is scaled."""
KEPT_JOBS = 4
"""Jobs at a time that are never scaled: one and many are different questions."""
PUBLISHED_SECONDS = 30.0
"""How long Mountpoint's jobs run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One read job."""

    publisher: str
    """Whose it is."""
    name: str
    """What it is called here."""
    random: bool = False
    """Blocks in random order."""
    block_bytes: int
    """Bytes of one read."""
    file_bytes: int
    """Size of each file."""
    jobs: int = 1
    """Readers at a time."""
    files: int = 1
    """Files of each reader, or of all together where they are shared."""
    shared: bool = False
    """All readers read the same files."""
    engine: str = "sync"
    """fio's ioengine."""
    depth: int = 1
    """Reads in flight of each reader, where the engine has more than one."""
    direct: bool = False
    """``O_DIRECT``."""
    skip_bytes: int = 0
    """Bytes left out after each read."""
    seconds: float = 0.0
    """How long it reads, again and again; 0 reads each file once."""
    ramp_s: float = 0.0
    """Seconds at the start that do not count."""
    again: bool = False
    """Counts the second time."""
    options: tuple[str, ...] = ()
    """Further options of fio."""
    quick: bool = False
    """Is run with --quick, too."""

    @property
    def label(self) -> str:
        """Whose and which."""
        return f"{self.publisher} {self.name}"

    def file_names(self) -> list[str]:
        """Return the names of all its files."""
        stem = self._stem()
        readers = [""] if self.shared else [f".{reader}" for reader in range(self.jobs)]
        return [f"{stem}{reader}.{number}" for reader in readers for number in range(self.files)]

    def arguments(self, directory: str, limit_s: float) -> list[str]:
        """Return fio's arguments for it.

        Args:
            directory: Where its files are.
            limit_s: Most seconds it may run.
        """
        own = f"--filename_format={self._stem()}.$jobnum.$filenum"
        names = f"--filename={':'.join(self.file_names())}" if self.shared else own
        skip = f":{self.skip_bytes}" if self.skip_bytes else ""
        found = [
            "--name=read",
            f"--directory={directory}",
            names,
            f"--size={self.files * self.file_bytes}",
            f"--nrfiles={self.files}",
            f"--rw={'randread' if self.random else 'read'}{skip}",
            f"--bs={self.block_bytes}",
            f"--ioengine={self.engine}",
            f"--iodepth={self.depth}",
            f"--direct={int(self.direct)}",
            f"--numjobs={self.jobs}",
            f"--runtime={limit_s:.3f}",
            *(["--time_based"] if self.seconds else []),
            *([f"--ramp_time={self.ramp_s:.3f}"] if self.ramp_s else []),
            *(f"--{option}" for option in self.options),
        ]
        return [*found, *ALWAYS]

    def _stem(self) -> str:
        return f"{self.publisher}-{self.name}".replace(" ", "_").replace(",", "").replace("/", "_")


ALWAYS = (
    "--readonly",
    "--thread",
    "--allow_file_create=0",
    "--invalidate=1",
    "--group_reporting",
    "--eta=never",
    "--output-format=json",
)


def scaled(job: Job, factor: float) -> Job:
    """Return *job* as it fits a machine that is *factor* times as large as its publisher's."""
    jobs = job.jobs if job.jobs <= KEPT_JOBS else max(KEPT_JOBS, round(job.jobs * factor))
    size_bytes = job.file_bytes
    if size_bytes > LARGE_BYTES:
        size_bytes = max(LARGE_BYTES, job.block_bytes, int(size_bytes * factor) // MIB * MIB)
    return replace(
        job,
        jobs=jobs,
        files=max(1, round(job.files * factor)),
        file_bytes=size_bytes,
        seconds=max(LEAST_SECONDS, job.seconds * factor) if job.seconds else 0.0,
        ramp_s=job.ramp_s * factor,
    )


def limit_s(job: Job, factor: float) -> float:
    """Return how long the scaled *job* may run."""
    return job.seconds or max(LEAST_SECONDS, PUBLISHED_SECONDS * factor)
