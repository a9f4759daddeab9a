"""The fakes of Tigris and of TAG, and clients for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tigrismount.objects.credentials import Credentials
from tigrismount.objects.options import S3Config
from tigrismount.objects.s3 import S3Client
from tigrismount.testing.fake_http import serving
from tigrismount.testing.fake_tag import FakeTag
from tigrismount.testing.fake_tigris import FakeTigris
from tigrismount.testing.object_contract import CollectingSink

if TYPE_CHECKING:
    from collections.abc import Iterator

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
