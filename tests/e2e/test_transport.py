"""A mount whose store is lost below HTTP: its name, its connections, its TLS. Readers wait, and get their bytes.

Each case begins with no connection left, so that all of it (name, connection, handshake) has to be done again while
a reader by ``read`` and one by ``mmap`` wait.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tigrismount.demo.command import wait_until
from tigrismount.testing.certificates import make_certificate
from tigrismount.testing.fault_proxy import TroubleRule
from tigrismount.testing.mount import mounted
from tigrismount.testing.troubled_store import troubled_store
from tigrismount.testing.wire_proxy import WireRule

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
SIZE = 3 * MIB + 4097
PATIENT_S = 240
"""Deadline of requests that are meant to outlive a trouble, however loaded this machine is."""
SHORT_S = 4
"""The same where they are meant not to."""
BUCKET = "lost"
MINUTE_S = 60.0
OUTAGES = ["portal", "refused", "silent", "servfail", "nxdomain"]
STALLED_S = 120.0
"""Silence that nobody waits out."""

READERS = """
import json, mmap, os, sys, threading, zlib
fd = os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(fd).st_size
mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
print("open", flush=True)
sys.stdin.readline()
sums = {}
def by_read(): sums["read"] = zlib.crc32(os.pread(fd, size, 0))
def by_mmap(): sums["mmap"] = zlib.crc32(mapped)
threads = [threading.Thread(target=how) for how in (by_read, by_mmap)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(sums))
"""
"""Reads a file in two ways once it is told to."""
AGAIN = """
import errno, os, sys, zlib
fd = os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(fd).st_size
print("open", flush=True)
for _ in sys.stdin:
    try: print(zlib.crc32(os.pread(fd, size, 0)), flush=True)
    except OSError as exc: print(errno.errorcode[exc.errno], flush=True)
"""
"""Reads the whole of a file that it has open each time that it is told to."""


@pytest.fixture(scope="module")
def store(s3, tmp_path_factory):
    with troubled_store(s3, tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture(scope="module")
def filled(s3, noise):
    """Makes a new object; gives its key and its bytes."""
    client = s3.client()
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="there", Body=b"x")
    numbers = itertools.count()

    def put():
        number = next(numbers)
        data = noise(SIZE, 5000 + number)
        client.put_object(Bucket=BUCKET, Key=f"file-{number}", Body=data)
        return f"file-{number}", data

    yield put
    client.close()


@contextlib.contextmanager
def mount_of(store, timeout_s: int):
    where = store.mounts / f"timeout-{timeout_s}"
    where.mkdir()
    flags = ["--cache-dir=off", "--block-size=1MiB", "--memory-limit=64MiB", f"--request-timeout={timeout_s}s"]
    flags += ["--metadata-ttl=0", "--negative-ttl=0"]
    with mounted(f"s3://{BUCKET}", where, store.env, *store.flags, *flags, prefix=store.prefix) as mount:
        yield mount


@pytest.fixture(scope="module")
def patient(store, filled):
    with mount_of(store, PATIENT_S) as mount:
        yield mount


@pytest.fixture(scope="module")
def short(store, filled):
    with mount_of(store, SHORT_S) as mount:
        yield mount


@pytest.fixture(autouse=True)
def healed(store):
    store.heal()
    yield
    store.heal()


class Waiting:
    """A program that has the file open and waits for a word."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        assert self.said() == "open"

    def go(self) -> None:
        self._stdin.write("go\n")
        self._stdin.flush()

    def said(self) -> str:
        return self._stdout.readline().rstrip("\n")

    def reads(self) -> str:
        self.go()
        return self.said()


@contextlib.contextmanager
def waiting(code: str, mount, key: str):
    command = [sys.executable, "-c", code, os.path.join(mount.path, key)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Waiting(process)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0


def outlive(mount, file, begin, is_felt, end, *, timeout_s: float = 60) -> None:
    """Let readers wait through a trouble: they see nothing of it but the time it takes."""
    key, data = file
    with waiting(READERS, mount, key) as readers:
        begin()
        readers.go()
        try:
            assert wait_until(is_felt, timeout_s=timeout_s)
        finally:
            end()
        assert json.loads(readers.said()) == {"read": zlib.crc32(data), "mmap": zlib.crc32(data)}


def retries(mount) -> int:
    return mount.status()["requests"]["retries"]


@dataclass
class Outage:
    """One way in which the store is away."""

    begin: Callable[[], None]
    end: Callable[[], None]


@pytest.fixture
def outage(request, store, tmp_path):
    """Nobody listens; somebody else does; nobody knows the name, in three ways."""
    if request.param == "refused":
        yield Outage(store.wire.refuse, store.wire.accept)
        return
    if request.param == "portal":
        # Whoever cannot prove to be the store is sent nothing; what he would say is wrong.
        proper, other = store.proxy.tls, make_certificate(tmp_path / "portal.pem", "portal.test")

        def stand_in() -> None:
            store.proxy.tls = other
            store.wire.inject()
            store.proxy.inject(TroubleRule(match="", trouble="html", count=-1))

        def step_aside() -> None:
            assert store.proxy.hits == 0, "somebody asked"
            store.proxy.inject()
            store.proxy.tls = proper

        yield Outage(stand_in, step_aside)
        store.proxy.tls = proper
        return
    if store.names is None:
        pytest.skip("names of our own need root and mount namespaces")
    before = store.names.questions

    def lose() -> None:
        store.names.mood = request.param
        store.wire.inject()

    def find() -> None:
        assert store.names.questions > before, "nobody asked"
        store.names.mood = "answer"

    yield Outage(lose, find)


@pytest.mark.parametrize("outage", OUTAGES, indirect=True)
def test_an_outage_shorter_than_the_deadline_is_waited_out(patient, filled, outage):
    before = retries(patient)
    outlive(patient, filled(), outage.begin, lambda: retries(patient) > before + 1, outage.end)


@pytest.mark.parametrize(
    "outage", ["portal", *(pytest.param(name, marks=pytest.mark.slow) for name in OUTAGES[1:])], indirect=True
)
def test_an_outage_longer_than_the_deadline_is_an_errno_and_no_more(short, filled, outage):
    """The same open file is read again when the store is back: nothing is mounted or opened anew."""
    key, data = filled()
    with waiting(AGAIN, short, key) as reader:
        outage.begin()
        try:
            assert reader.reads() == "EIO"
        finally:
            outage.end()
        assert wait_until(lambda: reader.reads() == str(zlib.crc32(data)))


@pytest.mark.slow
def test_connections_refused_for_a_minute_are_waited_out(store, patient, filled):
    back_s = time.monotonic() + MINUTE_S
    before = retries(patient)

    def is_felt() -> bool:
        return time.monotonic() > back_s and retries(patient) > before + 1

    outlive(patient, filled(), store.wire.refuse, is_felt, store.wire.accept, timeout_s=MINUTE_S + 30)


HANDSHAKE = (60, 500)
"""Bytes into the server's side of a connection that lie before its first answer."""
RECORDS = (2_000, 300_000)
"""Bytes that lie in its answers."""


@pytest.mark.parametrize("after_bytes", HANDSHAKE + RECORDS)
@pytest.mark.parametrize("trouble", ["flip", "cut", "reset", pytest.param("stall", marks=pytest.mark.slow)])
def test_tls_that_breaks_midway_is_begun_again(store, patient, filled, trouble, after_bytes):
    """A flipped bit among them: TLS finds it, and nobody gets the byte."""
    rule = WireRule(trouble=trouble, after_bytes=after_bytes, count=2, delay_s=STALLED_S)
    outlive(patient, filled(), lambda: store.wire.inject(rule), lambda: store.wire.hits > 0, lambda: None)


CROWD = """
import concurrent.futures, json, os, sys, zlib
names = [name for name in sorted(os.listdir(sys.argv[1])) if name.startswith("full-")]
fds = [os.open(os.path.join(sys.argv[1], name), os.O_RDONLY) for name in names]
print("open", flush=True)
sys.stdin.readline()
def read(fd):
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)  # waits where the background is full
    return zlib.crc32(os.pread(fd, 1 << 24, 0))
with concurrent.futures.ThreadPoolExecutor(4 * len(fds)) as pool:
    sums = [pool.submit(read, fd) for fd in fds for _ in range(4)]
    print("asked", flush=True)
    print(json.dumps(sorted({sum.result() for sum in sums})))
"""
"""Asks the kernel for far more than it may have under way in the background, in many threads."""
LOOK = """
os.statvfs(path)
names = os.listdir(path)
print(len(names), os.stat(os.path.join(path, names[0])).st_size > 0)
"""


def test_reads_that_wait_keep_nobody_waiting_who_only_looks(store, patient, filled, s3, noise, python):
    """Every request that the kernel may have in the background is one that the store does not answer."""
    client, files = s3.client(), {f"full-{number:02}": noise(SIZE, 9000 + number) for number in range(24)}
    for key, data in files.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=data)
    client.close()
    store.proxy.inject(TroubleRule(match="GET .*/full-", trouble="stall", count=-1, delay_s=STALLED_S))
    with waiting(CROWD, patient, "") as crowd:
        crowd.go()
        assert crowd.said() == "asked"
        # The kernel lets only so many requests through, and a few files may have taken all of them.
        assert wait_until(lambda: patient.status()["flights"]["remote"] > 2), patient.status()["flights"]
        count, has_size = python(LOOK, patient.path).split()
        assert (int(count) > len(files), has_size) == (True, "True")
        store.heal()
        assert json.loads(crowd.said()) == sorted(zlib.crc32(data) for data in files.values())
