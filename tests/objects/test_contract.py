from __future__ import annotations

import pytest
import trio

from tigrismount.core.types import ObjectId
from tigrismount.objects.credentials import Credentials
from tigrismount.objects.memory import MemoryObjectClient
from tigrismount.objects.options import S3Config
from tigrismount.objects.s3 import S3Client
from tigrismount.testing.object_contract import ObjectClientContract


class MemoryStore:
    def __init__(self) -> None:
        self.client = MemoryObjectClient()
        self.bucket = self.client.bucket
        self.put = self.client.put
        self.delete = self.client.delete

    def keep_versions(self) -> None:
        self.client.versioned = True


class RealStore:
    def __init__(self, bucket, client: S3Client) -> None:
        self._bucket = bucket
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
