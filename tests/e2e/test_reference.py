"""Random buckets and random changes through a real mount, compared with the reference after each change.

One mount of all buckets serves every example, each of which has a bucket of its own. Names are trusted for no time at
all, so that each walk must show exactly what the bucket holds now; or they are trusted for long, and each walk must
show what the bucket held when it was last refreshed.
"""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tigrismount.demo.command import run_command
from tigrismount.testing.mount import mounted
from tigrismount.testing.reference import Link, tree_of

WALK = """
def content(entry):
    if entry.is_symlink(): return ["link", os.readlink(entry.path).hex()]
    with open(entry.path, "rb", buffering=0) as file:
        size, parts = os.fstat(file.fileno()).st_size, []
        while part := file.read(5): parts.append(part)
        data = b"".join(parts)
        assert len(data) == size == entry.stat().st_size and os.pread(file.fileno(), 4, 2) == data[2:6]
        return ["file", data.hex()]

def walk(directory, path):
    found = []
    for entry in os.scandir(directory):
        here = [*path, entry.name.hex()]
        assert os.lstat(entry.path).st_ino == entry.inode()
        is_dir = entry.is_dir(follow_symlinks=False)
        found.append([here, ["dir", ""] if is_dir else content(entry)])
        if is_dir: found += walk(entry.path, here)
    return found

print(json.dumps(walk(os.fsencode(path), [])))
"""

components = st.sampled_from(["a", "b", "a!", "a.b", "a0", "..", ".", "", "é", "x" * 256, "\x01", " "])
keys = st.lists(components, min_size=1, max_size=3).map("/".join).filter(lambda key: key.strip("/"))
bodies = st.binary(max_size=9) | st.sampled_from([b"a", b"../b", b"nowhere"]).map(Link)
changes = st.lists(
    st.tuples(st.just("put"), keys, bodies)
    | st.tuples(st.just("overwrite"), st.integers(0, 20), bodies)
    | st.tuples(st.just("delete"), st.integers(0, 20), st.none()),
    max_size=3,
)


def mount_all(s3, directory, ttl):
    (directory / "mnt").mkdir()
    flags = [f"--cache-dir={directory / 'cache'}", "--block-size=1MiB", "--memory-limit=64MiB"]
    flags += ["--all-buckets", f"--metadata-ttl={ttl}", f"--negative-ttl={ttl}"]
    return mounted("s3://", directory / "mnt", s3.env(), *flags)


@pytest.fixture(scope="module")
def all_buckets(s3, tmp_path_factory):
    s3.client().create_bucket(Bucket="reference")
    with mount_all(s3, tmp_path_factory.mktemp("reference"), "0") as mount:
        yield mount


@pytest.fixture(scope="module")
def trusting(s3, tmp_path_factory):
    """A mount that asks for no name twice unless it is told to."""
    s3.client().create_bucket(Bucket="trusting")
    with mount_all(s3, tmp_path_factory.mktemp("trusting"), "inf") as mount:
        yield mount


class Example:
    """A bucket of its own, and what it should look like."""

    numbers = itertools.count(1)

    def __init__(self, client):
        self.client = client
        self.name = f"reference-{next(self.numbers)}"
        self.bucket = {}
        client.create_bucket(Bucket=self.name)

    def put(self, key, body):
        self.bucket[key] = body
        if isinstance(body, Link):
            metadata = {"--symlink-target": body.target.decode()}
            self.client.put_object(Bucket=self.name, Key=key, Body=b"", Metadata=metadata)
        else:
            self.client.put_object(Bucket=self.name, Key=key, Body=body)

    def change(self, what, key, body):
        if what == "put":
            self.put(key, body)
        elif self.bucket:
            picked = sorted(self.bucket)[key % len(self.bucket)]
            if what == "overwrite":
                self.put(picked, body)
            else:
                del self.bucket[picked]
                self.client.delete_object(Bucket=self.name, Key=picked)

    def expected(self):
        del (tree := tree_of(self.bucket))[()]
        return sorted([[name.hex() for name in path], said(content)] for path, content in tree.items())


def said(content):
    if content is None:
        return ["dir", ""]
    return ["link", content.target.hex()] if isinstance(content, Link) else ["file", content.hex()]


def check(all_buckets, python, client, bucket, steps):
    example = Example(client)
    for key, body in bucket.items():
        example.put(key, body)
    for step in [None, *steps]:
        if step is not None:
            example.change(*step)
        assert sorted(json.loads(python(WALK, f"{all_buckets.path}/{example.name}"))) == example.expected()


def check_refreshed(mount, python, client, bucket, steps):
    example = Example(client)
    path = f"{mount.path}/{example.name}"
    for key, body in bucket.items():
        example.put(key, body)
    before = None
    for step in [None, *steps]:
        if step is not None:
            example.change(*step)
        if before is not None:
            assert sorted(json.loads(python(WALK, path))) == before, "nothing changes until it is refreshed"
        run_command("refresh", path, env=mount.env).check()
        before = example.expected()
        assert sorted(json.loads(python(WALK, path))) == before


buckets = st.dictionaries(keys, bodies, min_size=1, max_size=8)
quick = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@settings(max_examples=8, **quick)
@given(bucket=buckets, steps=changes)
def test_a_mount_shows_what_the_bucket_holds(all_buckets, python, s3_client, bucket, steps):
    check(all_buckets, python, s3_client, bucket, steps)


@settings(max_examples=4, **quick)
@given(bucket=buckets, steps=changes)
def test_a_mount_that_trusts_names_shows_what_was_there_when_it_was_refreshed(
    trusting, python, s3_client, bucket, steps
):
    check_refreshed(trusting, python, s3_client, bucket, steps)


@pytest.mark.slow
@settings(max_examples=60, **quick)
@given(bucket=buckets, steps=changes)
def test_the_same_for_many_buckets(all_buckets, python, s3_client, bucket, steps):
    check(all_buckets, python, s3_client, bucket, steps)
