"""Fixtures for tests of any layer: the embedded S3 server with a fresh bucket on it, and the clock that jumps."""

from __future__ import annotations

import itertools
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tigrismount.demo.embedded import EmbeddedS3
from tigrismount.testing.waiting import counted_threads, patient_clock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio.testing import MockClock

_bucket_numbers = itertools.count(1)

# A fifth of a second for each example is nothing that a busy machine can promise.
settings.register_profile("without a clock", settings(), deadline=None)
settings.load_profile("without a clock")


_BESIDE = {
    *("blocks", "cache", "config", "control", "core", "doctor", "faults", "formats", "fuse", "fuzz", "integrity"),
    *("metrics", "objects", "reader", "testing", "vfs", "warm"),
}
"""Directories of tests that mount nothing and start no command that looks at the host's mounts."""


def pytest_configure() -> None:
    """Have Ctrl-C end what tests start, also where a shell that runs the tests in its background has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where tests run in several processes, have one of them do all that mounts, and each file stay in one.

    Not by marks: pytest-xdist 3.8 looks for those of pytest before 9.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return path if Path(path).parts[1] in _BESIDE else "mounts"

    return Scheduling(config, log)


@dataclass(frozen=True)
class Bucket:
    """A bucket on the embedded server, with a boto3 client to fill it."""

    name: str
    s3: EmbeddedS3
    client: Any

    def put(self, key: str, body: bytes, **arguments: Any) -> str:
        """Store *body* under *key* and return its ETag without quotes."""
        return self.client.put_object(Bucket=self.name, Key=key, Body=body, **arguments)["ETag"].strip('"')

    def keep_versions(self) -> None:
        """Keep what is overwritten or deleted from now on."""
        self.client.put_bucket_versioning(Bucket=self.name, VersioningConfiguration={"Status": "Enabled"})


@pytest.fixture(scope="session", autouse=True)
def _counted_threads() -> Iterator[None]:
    """For ``settled`` and the clock."""
    with counted_threads():
        yield


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    """pytest-trio's, but standing still while a task waits for a thread."""
    with patient_clock() as clock:
        yield clock


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory for sockets, whose paths may have a hundred bytes only, wherever temporary files are kept."""
    with tempfile.TemporaryDirectory(prefix="tt-", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedS3]:
    with EmbeddedS3(directory=str(tmp_path_factory.mktemp("s3"))) as server:
        yield server


@pytest.fixture(scope="session")
def s3_client(s3: EmbeddedS3) -> Iterator[Any]:
    client = s3.client()
    yield client
    client.close()


@pytest.fixture
def bucket(s3: EmbeddedS3, s3_client: Any) -> Iterator[Bucket]:
    """A new empty bucket; requests are counted from zero, and faults a test leaves behind are cleared."""
    name = f"bucket-{next(_bucket_numbers)}"
    s3_client.create_bucket(Bucket=name)
    s3.reset_requests()
    yield Bucket(name, s3, s3_client)
    s3.inject()
