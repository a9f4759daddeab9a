"""Published read jobs: what fio is told, how they are made smaller, and what is read from its answer."""

from __future__ import annotations

import json

import pytest

from benchmarks.bench import Bench, Plan
from benchmarks.fio import FioFailedError, fio, parse, run_job
from benchmarks.jobs import GIB, KIB, MIB, Job, scaled
from benchmarks.measuring import Measurement
from benchmarks.peer import Installed, known_peers
from benchmarks.published import PUBLISHED, SCALE, jobs_for
from benchmarks.store import Store
from benchmarks.suites import published
from tigrismount.demo.model import plan_model


class Careless(Bench):
    """Leaves the machine's pages and memory as they are."""

    def settle(self, memory_bytes=0):
        """Do nothing."""


READ = {
    "io_bytes": 512 * MIB,
    "bw_bytes": 256 * MIB,
    "runtime": 2000,
    "clat_ns": {"percentile": {"50.000000": 1_500_000, "99.000000": 40_000_000}},
}


def answer(**changes):
    job = {"error": 0, "usr_cpu": 10.0, "sys_cpu": 15.0, "read": {**READ, **changes.pop("read", {})}, **changes}
    return "fio: a remark\n" + json.dumps({"fio version": "fio-3.33", "jobs": [job]})


def test_rates_percentiles_and_processor_time_are_read_behind_remarks():
    found = parse(answer())

    assert found.rate_mb_s == pytest.approx(268.4, abs=0.1)
    assert (found.size_bytes, found.seconds) == (512 * MIB, 2.0)
    assert (found.p50_ms, found.p99_ms) == (1.5, 40.0)
    assert found.cpu_s == pytest.approx(0.5)


def test_a_read_shorter_than_its_clock_is_timed_by_its_latency():
    found = parse(answer(read={"io_bytes": 1, "bw_bytes": 0, "runtime": 0, "lat_ns": {"mean": 20_000_000}}))

    assert found.seconds == 0.02


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("fio: command not understood", "no JSON"),
        ('{"jobs": [', "cannot be read"),
        (answer(error=5), "errno 5"),
        (answer(read={"io_bytes": 0}), "nothing was read"),
    ],
)
def test_what_is_no_result_is_refused(output, why):
    with pytest.raises(FioFailedError, match=why):
        parse(output)


def test_one_factor_scales_seconds_and_large_files_and_many_jobs():
    job = Job(publisher="it", name="x", block_bytes=MIB, file_bytes=100 * GIB, jobs=192, files=30, seconds=30)

    small = scaled(job, 1 / 10)

    assert (small.jobs, small.files, small.file_bytes, small.seconds) == (19, 3, 10 * GIB, 3.0)
    assert (small.block_bytes, small.engine, small.depth, small.direct) == (MIB, "sync", 1, False)


def test_nothing_is_scaled_below_what_the_job_is_about():
    few = Job(publisher="it", name="x", block_bytes=256 * KIB, file_bytes=5 * MIB, jobs=4, seconds=5)

    small = scaled(few, 1 / 100)

    assert (small.jobs, small.files, small.file_bytes, small.seconds) == (4, 1, 5 * MIB, 1.0)
    large = Job(publisher="it", name="y", block_bytes=256 * MIB, file_bytes=GIB, jobs=64)
    assert scaled(large, 1 / 100).file_bytes == 256 * MIB
    assert scaled(large, 1 / 100).jobs == 4


def test_jobs_are_called_differently_and_have_files_of_their_own():
    jobs = [job for job, _ in jobs_for(quick=False)]

    assert len({job.label for job in jobs}) == len(jobs) == len(PUBLISHED)
    names = [name for job in jobs for name in job.file_names()]
    assert len(set(names)) == len(names), "a job would find the files of another in the cache"
    assert len(names) <= 1000, "one page of the listing"
    assert {job.publisher for job in jobs} == {
        "mountpoint-s3", "tigrisfs", "gcsfuse", "blobfuse2", "juicefs", "hf-mount", "geesefs", "ours",
    }  # fmt: skip


def test_a_quick_run_has_one_job_of_each_publisher_at_least():
    everybody = {job.publisher for job, _ in jobs_for(quick=False)} - {"geesefs"}
    assert {job.publisher for job, _ in jobs_for(quick=True)} >= everybody
    assert len(jobs_for(quick=True)) < 20


def test_what_is_named_direct_is_direct():
    assert all(job.direct for job in PUBLISHED if "direct" in job.name)


@pytest.mark.skipif(fio() is None, reason="fio is not installed")
def test_fio_reads_the_files_that_the_jobs_name(tmp_path):
    jobs = [
        Job(publisher="it", name="own files", block_bytes=64 * KIB, file_bytes=MIB, jobs=2, files=2),
        Job(
            publisher="it",
            name="shared",
            block_bytes=4 * KIB,
            file_bytes=MIB,
            jobs=2,
            files=2,
            shared=True,
            random=True,
        ),
        Job(publisher="it", name="mapped", block_bytes=64 * KIB, file_bytes=MIB, engine="mmap"),
        Job(publisher="it", name="first", block_bytes=1, file_bytes=MIB, options=("io_limit=1", "loops=2")),
        Job(publisher="it", name="skipping", block_bytes=64 * KIB, file_bytes=MIB, skip_bytes=64 * KIB),
    ]
    found = {}
    for job in jobs:
        for name in job.file_names():
            (tmp_path / name).write_bytes(bytes(job.file_bytes))
        found[job.name] = run_job(fio(), job, tmp_path, 5.0).size_bytes

    assert found["own files"] == 4 * MIB
    assert found["shared"] == 4 * MIB
    assert found["mapped"] == MIB
    assert found["first"] == 2
    assert found["skipping"] <= MIB


@pytest.mark.skipif(fio() is None, reason="fio is not installed")
def test_a_missing_file_is_an_error_and_not_made(tmp_path):
    job = Job(publisher="it", name="absent", block_bytes=64 * KIB, file_bytes=MIB)
    with pytest.raises(FioFailedError):
        run_job(fio(), job, tmp_path, 1.0)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def bench(tmp_path):
    jobs = [(scaled(job, SCALE), 1.0) for job in PUBLISHED[:1]]
    plan = Plan(fio_jobs=jobs, peers=[Installed(known_peers()["rclone"], "/bin/rclone")])
    return Bench(Store("http://127.0.0.1"), plan_model(MIB), tmp_path, 4, [], plan=plan)


def book(bench, label, rate_mb_s, amplification=0.0):
    bench.rounds.setdefault(f"fio mountpoint-s3 seq | {label}", []).append(Measurement(1.0, int(rate_mb_s * 1e6), 0.1))
    if amplification:
        bench.values.setdefault("amplification, mountpoint-s3 seq", []).append(amplification)
        for which in ("p50", "p99"):
            bench.values.setdefault(f"{which} ms, fio mountpoint-s3 seq | {label}", []).append(2.0)


def test_ours_is_compared_with_the_fastest_way_of_a_peer_round_by_round(bench):
    for ours, full, off in ((300, 100, 200), (300, 600, 200)):
        book(bench, "ours", ours, amplification=1.1)
        book(bench, "rclone, cache full", full)
        book(bench, "rclone, cache off", off)

    ratio, amplification = published.rows(bench)

    assert ratio.values == (1.5, 0.5)
    assert (amplification.name, amplification.value) == ("fetched / read, fio mountpoint-s3 seq", 1.1)


def test_a_job_that_no_peer_ran_is_shown_without_a_ratio(bench):
    book(bench, "ours", 300, amplification=1.0)

    assert [row.name for row in published.rows(bench)] == ["fetched / read, fio mountpoint-s3 seq"]


@pytest.mark.skipif(fio() is None, reason="fio is not installed")
def test_a_job_that_cannot_be_read_is_noted_and_the_others_run(tmp_path, capsys):
    bench = Careless(Store("http://127.0.0.1"), plan_model(MIB), tmp_path, 4, [])
    good = Job(publisher="it", name="there", block_bytes=64 * KIB, file_bytes=MIB)
    (tmp_path / good.file_names()[0]).write_bytes(bytes(MIB))
    absent = Job(publisher="it", name="absent", block_bytes=64 * KIB, file_bytes=MIB)

    published._run_jobs(bench, fio(), [(absent, 1.0), (good, 1.0)], "rclone", tmp_path)

    assert list(bench.rounds) == ["fio it there | rclone"]
    assert bench.notes[0].startswith("rclone: fio fails at it absent")
