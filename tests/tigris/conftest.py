"""The fakes of Tigris and of TAG, and clients for them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tigrismount.demo.command import Finished, run_child, run_command
from tigrismount.objects.credentials import Credentials
from tigrismount.objects.options import S3Config
from tigrismount.objects.s3 import S3Client
from tigrismount.testing.fake_http import serving
from tigrismount.testing.fake_tag import FakeTag
from tigrismount.testing.fake_tigris import FakeTigris
from tigrismount.testing.mount import Mounted, mounted, require_fuse
from tigrismount.testing.object_contract import CollectingSink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

KEY = Credentials(source="the test", access_key_id="tid_one", secret_access_key="tsec_one")


@dataclass(frozen=True)
class Served:
    """A store and where it is."""

    tigris: FakeTigris
    url: str
    tag: FakeTag | None = None


@pytest.fixture
def tigris() -> Iterator[Served]:
    store = FakeTigris(KEY.access_key_id)
    store.create_bucket("models")
    with serving(store.answer) as url:
        yield Served(store, url)


@pytest.fixture
def tag(tigris: Served) -> Iterator[Served]:
    gateway = FakeTag(tigris.tigris.answer)
    with serving(gateway.answer) as url:
        yield Served(tigris.tigris, url, gateway)


@pytest.fixture(params=["tigris", "tag"])
def either(request: pytest.FixtureRequest) -> Served:
    """Tigris itself, and Tigris behind TAG."""
    return request.getfixturevalue(request.param)


@pytest.fixture
async def connect():
    """Make a client of a served store."""
    clients = []

    def make(served: Served, credentials: Credentials = KEY, *, find_credentials=None, **settings) -> S3Client:
        defaults = {"connect_timeout_s": 2.0, "stall_timeout_s": 2.0, "request_timeout_s": 20.0}
        config = S3Config(endpoint_url=served.url, **{**defaults, **settings})
        client = S3Client(config, credentials, find_credentials=find_credentials, draw=lambda: 0.0)
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
def read():
    """Fetch a range of a version, by default all of it."""

    async def read(client: S3Client, obj, start: int = 0, stop: int | None = None) -> bytes:
        stop = obj.size_bytes if stop is None else stop
        sink = CollectingSink(stop - start)
        await client.fetch(obj, start, stop, sink)
        return sink.data

    return read


OWN = ("AWS_", "TIGRIS_", "TIGRISMOUNT_", "BUCKET_NAME", "MODEL_BUCKET_NAME")


@dataclass(frozen=True)
class Mounter:
    """Mounts the bucket ``models``."""

    mountpoint: Path
    env: dict[str, str]
    cache_dir: str = "off"

    def __call__(self, url: str, *flags: str) -> AbstractContextManager[Mounted]:
        own = [f"--cache-dir={self.cache_dir}", "--block-size=1MiB", "--memory-limit=32MiB", "--endpoint-url", url]
        return mounted("s3://models", self.mountpoint, self.env, *own, *flags)

    def refused(self, url: str, *flags: str) -> Finished:
        """Return how a mount that must not succeed ended."""
        own = [f"--cache-dir={self.cache_dir}", "--endpoint-url", url]
        ended = run_command("mount", "s3://models", str(self.mountpoint), *own, *flags, env=self.env)
        assert ended.status != 0
        assert ended.errors.count("\n") == 1
        return ended

    def cat(self, name: str) -> str:
        """Return what a child reads from a file, or the name of its error."""
        return self._python("print(open(path, 'rb').read().decode())", name)

    def ls(self) -> str:
        """Return the names a child finds at the root, or the name of its error."""
        return self._python("print(*sorted(os.listdir(path)))", "")

    def _python(self, code: str, name: str) -> str:
        program = (
            "import errno, os, sys\npath = sys.argv[1]\n"
            f"try: {code}\nexcept OSError as exc: print(errno.errorcode[exc.errno])"
        )
        return run_child(sys.executable, "-c", program, f"{self.mountpoint}/{name}").check().output.strip()


@pytest.fixture
def mount(tmp_path: Path) -> Mounter:
    require_fuse()
    (tmp_path / "mnt").mkdir()
    (tmp_path / "home").mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
    env |= {"HOME": str(tmp_path / "home"), "AWS_ACCESS_KEY_ID": "tid_one", "AWS_SECRET_ACCESS_KEY": "s"}
    return Mounter(tmp_path / "mnt", env | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"})
