"""The read jobs that other mounts publish, with their parameters.

Sources: ``mountpoint-s3/scripts/fio`` of awslabs/mountpoint-s3; the article about TigrisFS of 2025-07-01;
``docs/benchmarks.md`` and ``perfmetrics/scripts/job_files`` of GoogleCloudPlatform/gcsfuse;
``perf_testing/config/benchmark/regression`` of Azure/azure-storage-fuse; JuiceFS's performance guide;
``tests/fio_bench.rs`` of huggingface/hf-mount; ``bench/bench.sh`` of yandex-cloud/geesefs. What nobody publishes, reads
through a mapping, is added.
"""

from __future__ import annotations

from benchmarks.jobs import GIB, KIB, MIB, Job, limit_s, scaled

SCALE = 1 / 15
"""Two seconds of most jobs: long enough for windows to open, and for all jobs on all mounts to take minutes."""
QUICK_SCALE = 1 / 30


def _mountpoint(name: str, *, quick: bool = False, jobs: int = 1, direct: bool = False, random: bool = False) -> Job:
    return Job(
        publisher="mountpoint-s3",
        name=name,
        random=random,
        block_bytes=256 * KIB,
        file_bytes=100 * GIB,
        jobs=jobs,
        direct=direct,
        seconds=30,
        quick=quick,
    )


def _tigrisfs(jobs: int, block_mib: int) -> Job:
    return Job(
        publisher="tigrisfs",
        name=f"{jobs} jobs, {block_mib}M",
        block_bytes=block_mib * MIB,
        file_bytes=4 * GIB,
        jobs=jobs,
        engine="libaio",
        direct=True,
        seconds=120,
        ramp_s=2,
        quick=(jobs, block_mib) == (4, 1),
    )


def _gcsfuse(name: str, size: tuple[int, int], *, jobs: int, files: int, random: bool = False) -> Job:
    return Job(
        publisher="gcsfuse",
        name=name,
        random=random,
        block_bytes=size[1],
        file_bytes=size[0],
        jobs=jobs,
        files=files,
        engine="libaio",
        depth=64,
        direct=True,
        options=("fadvise_hint=0", "openfiles=1", "create_serialize=0", "allrandrepeat=0", "file_service_type=random"),
        quick=name in ("1M files", "random 1G files"),
    )


def _blobfuse(name: str, size: tuple[int, int], **more: object) -> Job:
    return Job(publisher="blobfuse2", name=name, block_bytes=size[1], file_bytes=size[0], direct=True, **more)  # type: ignore[arg-type]


PUBLISHED = (
    _mountpoint("seq", quick=True),
    _mountpoint("seq, direct", direct=True),
    _mountpoint("seq, 4 jobs", jobs=4, quick=True),
    _mountpoint("seq, 4 jobs, direct", jobs=4, direct=True),
    _mountpoint("rand", random=True, quick=True),
    _mountpoint("rand, direct", random=True, direct=True),
    _mountpoint("rand, 4 jobs", random=True, jobs=4),
    _mountpoint("rand, 4 jobs, direct", random=True, jobs=4, direct=True),
    Job(publisher="mountpoint-s3", name="seq, small", block_bytes=256 * KIB, file_bytes=5 * MIB, seconds=30),
    Job(
        publisher="mountpoint-s3",
        name="seq, skipping 17M",
        block_bytes=256 * MIB,
        file_bytes=100 * GIB,
        seconds=30,
        skip_bytes=17 * MIB,
    ),
    Job(
        publisher="mountpoint-s3",
        name="first byte",
        block_bytes=1,
        file_bytes=1 * GIB,
        direct=True,
        options=("io_limit=1", "loops=10"),
        quick=True,
    ),
    _tigrisfs(4, 1),
    _tigrisfs(8, 1),
    _tigrisfs(4, 4),
    _tigrisfs(8, 4),
    _gcsfuse("128K files", (128 * KIB, 128 * KIB), jobs=192, files=30),
    _gcsfuse("1M files", (1 * MIB, 1 * MIB), jobs=192, files=30),
    _gcsfuse("10M files", (10 * MIB, 1 * MIB), jobs=192, files=20),
    _gcsfuse("100M files", (100 * MIB, 1 * MIB), jobs=144, files=10),
    _gcsfuse("1G files", (1 * GIB, 1 * MIB), jobs=144, files=10),
    _gcsfuse("random 5M files", (5 * MIB, 1 * MIB), jobs=192, files=20, random=True),
    _gcsfuse("random 1G files", (1 * GIB, 1 * MIB), jobs=192, files=10, random=True),
    _blobfuse("seq, one file", (320 * GIB, 10 * MIB), quick=True),
    _blobfuse("seq, 4 files", (80 * GIB, 10 * MIB), jobs=4),
    _blobfuse("4 streams", (8 * GIB, 1 * MIB), jobs=4),
    _blobfuse("rand 4K", (8 * GIB, 4 * KIB), jobs=16, random=True, seconds=30.0, ramp_s=5.0, quick=True),
    _blobfuse("rand 64K", (8 * GIB, 64 * KIB), jobs=16, random=True, seconds=30.0, ramp_s=5.0),
    _blobfuse(
        "64 streams on 16 files",
        (8 * GIB, 1 * MIB),
        jobs=64,
        files=16,
        shared=True,
        random=True,
        seconds=30.0,
        ramp_s=5.0,
    ),
    _blobfuse("seq, again", (8 * GIB, 10 * MIB), again=True),
    Job(publisher="juicefs", name="seq", block_bytes=4 * MIB, file_bytes=4 * GIB, quick=True),
    Job(publisher="juicefs", name="seq, 16 jobs", block_bytes=4 * MIB, file_bytes=4 * GIB, jobs=16),
    Job(
        publisher="juicefs",
        name="seq, 4 jobs, direct",
        block_bytes=MIB,
        file_bytes=GIB,
        jobs=4,
        engine="libaio",
        direct=True,
    ),
    Job(
        publisher="juicefs",
        name="rand, 4 jobs, direct",
        random=True,
        block_bytes=MIB,
        file_bytes=GIB,
        jobs=4,
        engine="libaio",
        direct=True,
    ),
    Job(publisher="hf-mount", name="seq", block_bytes=128 * KIB, file_bytes=100 * MIB),
    Job(publisher="hf-mount", name="seq, again", block_bytes=128 * KIB, file_bytes=100 * MIB, again=True, quick=True),
    Job(
        publisher="hf-mount",
        name="rand 4K",
        random=True,
        block_bytes=4 * KIB,
        file_bytes=100 * MIB,
        seconds=5,
        quick=True,
    ),
    Job(publisher="hf-mount", name="5 files of 10M", block_bytes=128 * KIB, file_bytes=10 * MIB, files=5),
    Job(publisher="geesefs", name="seq, direct", block_bytes=1_000_000, file_bytes=GIB, direct=True),
    Job(
        publisher="ours",
        name="mmap",
        block_bytes=256 * KIB,
        file_bytes=100 * GIB,
        engine="mmap",
        seconds=30,
        quick=True,
    ),
    Job(
        publisher="ours",
        name="mmap, 4 jobs",
        block_bytes=256 * KIB,
        file_bytes=100 * GIB,
        engine="mmap",
        jobs=4,
        seconds=30,
    ),
    Job(
        publisher="ours",
        name="mmap, rand 4K",
        random=True,
        block_bytes=4 * KIB,
        file_bytes=100 * GIB,
        engine="mmap",
        seconds=30,
        quick=True,
    ),
)
"""In the order in which they are run."""


def jobs_for(*, quick: bool) -> list[tuple[Job, float]]:
    """Return the scaled jobs of a run, each with its most seconds.

    Args:
        quick: Some of them, smaller.
    """
    factor = QUICK_SCALE if quick else SCALE
    return [
        (small, limit_s(small, factor))
        for job in PUBLISHED
        if job.quick or not quick
        for small in [scaled(job, factor)]
    ]
