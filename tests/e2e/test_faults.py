"""A mount whose store misbehaves: right bytes or an errno, and all is well afterwards.

In every way that a header can tell, and below HTTP: its name is not found, nobody listens, TLS breaks midway. The
cases are drawn with fixed seeds; ``TIGRISMOUNT_FAULT_CASES`` sets how many, and how many were tried is printed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from typing import get_args

import pytest

from tigrismount.demo.command import run_command, wait_until
from tigrismount.testing.fault_proxy import SILENT
from tigrismount.testing.mount import mounted
from tigrismount.testing.name_server import Mood
from tigrismount.testing.spoiling import Trouble, TroubleRule
from tigrismount.testing.troubled_store import troubled_store
from tigrismount.testing.wire_proxy import WireRule, WireTrouble

MIB = 1 << 20
SIZE = 3 * MIB + 4097
CASES = int(os.environ.get("TIGRISMOUNT_FAULT_CASES", "60")) // 12
TIMEOUT_S = 2
TROUBLES = [trouble for trouble in get_args(Trouble) if trouble not in SILENT]

PROLOGUE = "import hashlib, json, mmap, os, sys\npath = sys.argv[1]\n"

READERS = """
import concurrent.futures, random
seed = int(sys.argv[2])

def whole(_):
    with open(path, "rb", buffering=0) as file:
        parts = []
        while part := file.read(1 << 18): parts.append(part)
        return 0, b"".join(parts)

def some(number):
    draw = random.Random(seed * 10 + number)
    start, length = draw.randrange(size), draw.randrange(1, 1 << 20)
    fd = os.open(path, os.O_RDONLY)
    try:
        return start, os.pread(fd, length, start)
    finally:
        os.close(fd)

def attempt(number):
    try:
        start, data = (whole if number == 0 else some)(number)
    except OSError as exc:
        return [errno.errorcode[exc.errno], 0, 0, ""]
    return ["", start, len(data), hashlib.sha256(data).hexdigest()]

size = int(sys.argv[3])
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(json.dumps(list(pool.map(attempt, range(4)))))
"""


def draw_rules(draw: random.Random, key: str) -> list[TroubleRule]:
    return [
        TroubleRule(
            match=draw.choice([f"GET .*/{key}", f"GET .*/{key}", "HEAD", "list-type"]),
            trouble=draw.choice(TROUBLES),
            skip=draw.randrange(3),
            count=draw.choice([1, 2, 3, -1]),
            status=draw.choice([500, 503, 429, 403, 404, 412]),
            code=draw.choice(["InternalError", "SlowDown", "AccessDenied", "NoSuchKey", "PreconditionFailed"]),
            retry_after=draw.choice(["", "0", "1"]),
            delay_s=draw.choice([0.0, 0.3]),
            after_bytes=draw.choice([0, 1, 4096, MIB // 2]),
        )
        for _ in range(draw.randint(1, 3))
    ]


def draw_wire_rules(draw: random.Random) -> list[WireRule]:
    return [
        WireRule(
            trouble=draw.choice(get_args(WireTrouble)),
            after_bytes=draw.choice([0, 60, 500, 1_500, 20_000, MIB // 2]),
            skip=draw.randrange(3),
            count=draw.choice([1, 2, 5, -1]),
            delay_s=draw.choice([0.3, 5.0]),
        )
        for _ in range(draw.choice([0, 0, 1, 2]))
    ]


def draw_mood(draw: random.Random) -> Mood:
    """Mostly an answer, or no case would come to anything else."""
    return draw.choice(["answer"] * 7 + ["silent", "servfail", "nxdomain"])


def check(answers, data: bytes, allowed: set[str]) -> int:
    """Compare what the readers got; return how many got an errno."""
    for error, start, length, digest in answers:
        if error:
            assert error in allowed
            continue
        assert hashlib.sha256(data[start : start + length]).hexdigest() == digest, (start, length)
    whole_error, _, whole_bytes, _ = answers[0]
    assert whole_error or whole_bytes == len(data), "a silently short file"
    return sum(bool(error) for error, *_ in answers)


@dataclass
class Score:
    """What came of the cases, to be printed."""

    cases: int = 0
    spoiled: int = 0
    broken: int = 0
    nameless: int = 0
    refused: int = 0


@pytest.fixture(scope="module")
def score():
    score = Score()
    yield score
    print(
        f"\nfaults under a mount: {score.cases} cases, {score.spoiled} answers spoiled, {score.broken} connections "
        f"broken, {score.nameless} without a name; {score.refused} of {4 * score.cases} readers got an errno"
    )
    assert score.spoiled or score.cases < CASES, "a trouble that meets no request proves nothing"


@pytest.fixture(scope="module")
def flaky(s3, tmp_path_factory):
    """A mount of a store with troubles."""
    directory = tmp_path_factory.mktemp("faults")
    client = s3.client()
    client.create_bucket(Bucket="flaky")
    client.put_object(Bucket="flaky", Key="there", Body=b"x")
    with troubled_store(s3, directory) as store:
        (store.mounts / "mnt").mkdir()
        flags = [f"--cache-dir={directory / 'cache'}", "--block-size=1MiB", "--memory-limit=64MiB", *store.flags]
        flags += [f"--request-timeout={TIMEOUT_S}s", "--metadata-ttl=0", "--negative-ttl=0"]
        with mounted("s3://flaky", store.mounts / "mnt", store.env, *flags, prefix=store.prefix) as mount:
            yield mount, store, client
    client.close()


@pytest.mark.parametrize("seed", range(CASES))
def test_a_read_is_right_or_an_errno_and_the_mount_recovers(flaky, python, noise, seed, score):
    mount, store, client = flaky
    draw = random.Random(seed)
    key, data = f"file-{seed}", noise(SIZE, seed)
    client.put_object(Bucket="flaky", Key=key, Body=data)
    store.proxy.inject(*draw_rules(draw, key))
    store.wire.inject(*draw_wire_rules(draw))
    mood = draw_mood(draw)
    if store.names is not None:
        store.names.mood = mood
        score.nameless += mood != "answer"
    readers = (READERS, os.path.join(mount.path, key), seed, SIZE)
    # Refused keys and lost objects are what a rule may say; ESTALE is another version, EIO everything else.
    score.refused += check(json.loads(python(*readers)), data, {"EIO", "EACCES", "ENOENT", "ESTALE"})
    score.spoiled += store.proxy.hits
    score.broken += store.wire.hits
    store.heal()
    assert wait_until(lambda: not any(mount.status()["flights"].values())), "read-ahead shares the end of its readers"
    # A machine that is busy may take longer than the short deadline of these cases: then it is asked again.
    assert wait_until(lambda: check(json.loads(python(*readers)), data, {"EIO"}) == 0)
    score.cases += 1


def health(mount) -> tuple[int, str]:
    done = run_command("health", mount.path, env=mount.env)
    return done.status, done.output + done.errors


def test_what_is_cached_stays_readable_while_the_store_is_away_and_health_says_so(flaky, python, noise):
    mount, store, client = flaky
    data = noise(SIZE, 1001)
    client.put_object(Bucket="flaky", Key="cached", Body=data)
    store.heal()
    path = os.path.join(mount.path, "cached")
    # Open before the store goes: names are trusted for no time at all here, so that a look-up would ask.
    code = """
with open(path, "rb", buffering=0) as file:
    print(hashlib.sha256(file.readall()).hexdigest(), flush=True)
    sys.stdin.readline()
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    print(hashlib.sha256(os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)).hexdigest(), flush=True)
"""
    digest = hashlib.sha256(data).hexdigest()
    command = [sys.executable, "-c", PROLOGUE + code, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline().strip() == digest
        assert wait_until(lambda: health(mount)[0] == 0), health(mount)
        store.wire.refuse()
        try:
            # Nobody looks whether the store is there until somebody needs it.
            python("try: os.stat(path + '-not')\nexcept OSError as exc: print(exc)", path)
            assert wait_until(lambda: health(mount)[0] == 4), health(mount)
            assert "store: " in health(mount)[1]
            reader.stdin.write("go\n")
            reader.stdin.flush()
            assert reader.stdout.readline().strip() == digest
            assert health(mount)[0] == 4
        finally:
            store.wire.accept()
        assert wait_until(lambda: health(mount)[0] == 0, timeout_s=40), health(mount)
