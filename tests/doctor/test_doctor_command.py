"""``tigrismount doctor`` on a store that is there, refuses, or is not named at all."""

from __future__ import annotations

import json
import os

import pytest

from tigrismount.demo.command import run_command
from tigrismount.testing.fake_http import serving
from tigrismount.testing.fake_tigris import FakeTigris

OWN = ("AWS_", "TIGRIS", "BUCKET_NAME", "MODEL_BUCKET_NAME")


@pytest.fixture
def tigris():
    store = FakeTigris("tid_one")
    store.create_bucket("models")
    store.put("models", "llm/weights", os.urandom(3 << 20))
    store.put("models", "llm/config.json", b"{}")
    with serving(store.answer) as url:
        store.url = url
        yield store


@pytest.fixture
def doctor(tigris, tmp_path):
    def run(*arguments: str, **changes: str):
        env = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
        env |= {"AWS_ACCESS_KEY_ID": "tid_one", "AWS_SECRET_ACCESS_KEY": "s", "NO_PROXY": "127.0.0.1"}
        env = {name: value for name, value in {**env, "HOME": str(tmp_path), **changes}.items() if value}
        own = ["--cache-dir=off", "--memory-limit=256MiB", f"--endpoint-url={tigris.url}"]
        return run_command("doctor", *arguments, *own, env=env)

    return run


def verdicts(ended) -> dict[str, str]:
    return {found["check"]: found["verdict"] for found in json.loads(ended.output)["checks"]}


def test_a_bucket_is_examined_and_measured(doctor, tigris):
    ended = doctor("s3://models/llm", "--json")
    found = verdicts(ended)
    names = ("endpoint", "TLS", "clock", "credentials", "list", "snapshots", "latency", "read")
    assert {name: found[name] for name in names} == dict.fromkeys(names, "pass")
    report = json.loads(ended.output)
    assert report["bytes_per_second"]["store"] > 0
    assert "from the store" in report["summary"] or found["FUSE"] == "fail"
    assert {request.key for request in tigris.operations("GetObject")} == {"llm/weights"}
    assert sum(len(range(*_range(request))) for request in tigris.operations("GetObject")) == 6 << 20


def _range(request) -> tuple[int, int]:
    first, last = request.headers["range"].removeprefix("bytes=").split("-")
    return int(first), int(last) + 1


def test_without_a_bucket_the_host_and_the_endpoint_are_examined(doctor, tigris):
    ended = doctor("--json")
    found = verdicts(ended)
    assert (found["endpoint"], found["credentials"], found["bucket"]) == ("pass", "pass", "skip")
    assert not tigris.operations("ListObjectsV2")


def test_a_key_that_nobody_has_looked_for_is_not_said_to_be_found(doctor):
    """Mutation: "pass  credentials  from boto3's own chain" where there are none at all."""
    text = doctor("--json", AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="").output
    (found,) = (found for found in json.loads(text)["checks"] if found["check"] == "credentials")
    assert (found["verdict"], found["detail"]) == ("pass", "left to boto3's own chain")


def test_a_bucket_in_the_environment_counts(doctor):
    assert verdicts(doctor("--json", BUCKET_NAME="models"))["list"] == "pass"


def test_what_fails_is_said_with_what_to_do_and_exit_status_1(doctor, tigris):
    tigris.keys.clear()
    ended = doctor("s3://models")
    assert ended.status == 1
    assert "fail  list" in ended.output
    assert "the store does not know the access key from AWS_ACCESS_KEY_ID: check it" in ended.output
    assert ended.output.rstrip().splitlines()[-1].startswith("a mount would not work here: ")
    assert "\x1b" not in ended.output


def test_half_a_key_is_found(doctor):
    ended = doctor("s3://models", AWS_ACCESS_KEY_ID="")
    assert ended.status == 1
    assert "AWS_SECRET_ACCESS_KEY is set but AWS_ACCESS_KEY_ID is not" in ended.output


def test_a_wrong_flag_is_bad_usage(doctor):
    assert doctor("s3://models", "--metadata-ttl=0").status == 2
    assert doctor("s3:/models").status == 2


def test_a_public_bucket_that_refuses_listings_can_be_mounted(doctor, tigris):
    """Mutation: "a mount would not work here", where it does, as with the command on the page of Tigris."""
    tigris.create_bucket("public", public=True)
    tigris.put("public", "model.safetensors", b"x")
    unsigned = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    assert verdicts(doctor("s3://public", "--json", "--no-sign-request", **unsigned))["list"] == "warn"
    assert verdicts(doctor("s3://public", "--json", AWS_ACCESS_KEY_ID="tid_two"))["list"] == "fail"
