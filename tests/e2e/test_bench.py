"""``tigrismount bench`` on a bucket: every way is measured, within the bytes that were granted, and nothing is left."""

from __future__ import annotations

import json
import os

import pytest

from tigrismount.demo.command import run_command

MIB = 1 << 20
BUDGET = 64 * MIB


@pytest.fixture
def bench(env, tmp_path):
    """Run the benchmark: ``bench(source, *flags)``."""
    return lambda source, *flags: run_command(
        "bench", source, "--size=64MiB", f"--directory={tmp_path}", "--json", *flags, env=env
    )


@pytest.mark.parametrize(
    ("sizes", "is_whole"), [((12, 6, 1), True), ((100,), False)], ids=["whole objects", "the end of one"]
)
def test_every_way_is_measured_within_the_bytes_granted(bench, s3, s3_client, noise, tmp_path, sizes, is_whole):
    bucket = f"bench-{len(sizes)}"
    s3_client.create_bucket(Bucket=bucket)
    for number, mib in enumerate(sizes):
        s3_client.put_object(Bucket=bucket, Key=f"m/{number}.bin", Body=noise(mib * MIB, number))
    s3.reset_requests()

    found = json.loads(bench(f"s3://{bucket}/m", f"--plot={tmp_path}/plot.png").check().output)

    assert [each["name"] for each in found["measured"]] == [
        "mount, cold",
        "mount, from the cache",
        "plain download",
        "cache disk, raw",
    ]
    assert {each["bytes"] for each in found["measured"][:3]} == {found["bytes"]}
    assert found["bytes"] == (sum(sizes) * MIB if is_whole else 24 * MIB)
    assert set(found["ratios"]) == {"cold", "warm"}
    assert any("small sample" in note for note in found["notes"])
    assert any("--prefetch off" in note for note in found["notes"]) is not is_whole
    assert "too little" in found["advice"]
    assert sum(get.bytes for get in s3.requests("GetObject")) <= BUDGET
    assert found["measured"][1]["fetched_bytes"] == 0
    assert os.listdir(tmp_path) == ["plot.png"]


def test_a_picture_that_cannot_be_written_is_refused_before_anything_is_read(bench):
    finished = bench("s3://bench-nowhere/m", "--plot=/nowhere/plot.png")
    assert finished.status == 1
    assert finished.errors.startswith("tigrismount: error: /nowhere/plot.png: cannot be written")


def test_a_bucket_of_nothing_to_measure_is_said_in_one_line(bench, s3_client):
    s3_client.create_bucket(Bucket="bench-none")
    s3_client.put_object(Bucket="bench-none", Key="m/a", Body=b"x")
    finished = bench("s3://bench-none/m")
    assert finished.status == 1
    assert finished.errors.startswith("tigrismount: error: there is no object of 1 MiB or more")


def test_too_small_a_size_is_bad_usage(env):
    finished = run_command("bench", "--demo", "--size=1MiB", env=env)
    assert finished.status == 2
    assert "take 64 MiB or more" in finished.errors


def test_the_demo_needs_no_bucket_and_people_get_a_table(env, tmp_path):
    finished = run_command("bench", "--demo", "--size=64MiB", f"--directory={tmp_path}", env=env).check()
    assert "cold mount / plain download" in finished.output
    assert "advice: too little to judge by" in finished.output
    assert max(map(len, finished.output.splitlines())) <= 110
    assert os.listdir(tmp_path) == []
