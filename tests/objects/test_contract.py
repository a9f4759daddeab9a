from __future__ import annotations

from functools import partial

import pytest
import trio

from tigrismount.blocks.buffers import page_ceil
from tigrismount.core.types import ObjectId
from tigrismount.objects.credentials import Credentials
from tigrismount.objects.fetchers.memory import SharedMemory
from tigrismount.objects.fetchers.pool import FetchProcesses
from tigrismount.objects.memory import MemoryObjectClient
from tigrismount.objects.options import S3Config
from tigrismount.objects.s3 import S3Client
from tigrismount.testing.object_contract import FetchContract, ObjectClientContract, VersionContract
from tigrismount.testing.waiting import until


def ordinary_memory(size_bytes: int) -> memoryview:
    return memoryview(bytearray(size_bytes))


class MemoryStore:
    def __init__(self) -> None:
        self.client = MemoryObjectClient()
        self.bucket = self.client.bucket
        self.put = self.client.put
        self.delete = self.client.delete
        self.take_memory = ordinary_memory

    def keep_versions(self) -> None:
        self.client.versioned = True


class RealStore:
    def __init__(self, bucket, client: S3Client, take_memory=ordinary_memory) -> None:
        self._bucket = bucket
        self.take_memory = take_memory
        self.bucket = bucket.name
        self.client = client

    def put(self, key: str, data: bytes) -> ObjectId:
        return ObjectId(self.bucket, key, self._bucket.put(key, data), len(data))

    def delete(self, key: str) -> None:
        self._bucket.client.delete_object(Bucket=self.bucket, Key=key)

    def keep_versions(self) -> None:
        self._bucket.keep_versions()


class TestMemoryObjectClient(ObjectClientContract):
    @pytest.fixture
    def store(self):
        return MemoryStore()


class TestS3Client(ObjectClientContract):
    @pytest.fixture
    async def store(self, bucket):
        config = S3Config(endpoint_url=bucket.s3.endpoint_url, region=bucket.s3.region)
        key = Credentials(source="the test", access_key_id=bucket.s3.access_key, secret_access_key=bucket.s3.secret_key)
        client = await trio.to_thread.run_sync(S3Client, config, key)
        yield RealStore(bucket, client)
        await client.aclose()


@pytest.fixture(scope="module")
def fetchers(s3):
    pool = FetchProcesses(small_config(s3, fetch_processes=1), SharedMemory.create(8 << 20))
    yield pool
    pool.close()


class TestS3ClientWithFetchProcesses(FetchContract, VersionContract):
    @pytest.fixture
    async def store(self, bucket, fetchers):
        key = Credentials(source="the test", access_key_id=bucket.s3.access_key, secret_access_key=bucket.s3.secret_key)
        make = partial(S3Client, small_config(bucket.s3), key, fetchers=fetchers)
        client = await trio.to_thread.run_sync(make)
        fetchers.want(1)
        await until(lambda: fetchers.statistics().ready == 1)
        buffers = []

        def take_memory(size_bytes: int) -> memoryview:
            if not size_bytes:
                return ordinary_memory(0)
            buffers.append(fetchers.memory.take(page_ceil(size_bytes)))
            return buffers[-1][:size_bytes]

        before = fetchers.statistics().gets
        yield RealStore(bucket, client, take_memory)
        gets = client.statistics().get_requests
        await client.aclose()
        for buffer in buffers:
            fetchers.memory.give(buffer)
        assert fetchers.statistics().gets - before == gets, "no GET went another way"
        assert fetchers.statistics().in_flight == (0,)


def small_config(s3, **settings) -> S3Config:
    """Whatever the size, a fetch process does it."""
    limits = {"fetch_process_start_bytes": 1, "fetch_process_least_bytes": 1, **settings}
    return S3Config(endpoint_url=s3.endpoint_url, region=s3.region, **limits)
