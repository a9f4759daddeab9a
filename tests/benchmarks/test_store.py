"""What the benchmarks' bucket holds, and that nginx understands how it is to be served."""

from __future__ import annotations

import re
import shutil

import boto3
import pytest
from botocore.config import Config

from benchmarks.plain import list_pages
from benchmarks.store import FIO_PREFIX, MANY_PREFIX, PAGE_KEYS, nginx_store, write_bucket
from tigrismount.demo.model import plan_model

MIB = 1 << 20
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


def test_pages_name_every_key_once_and_each_names_the_next(tmp_path):
    write_bucket(plan_model(MIB), tmp_path, {}, 2 * PAGE_KEYS + 1)

    pages = [(tmp_path / f"{MANY_PREFIX}.{number}.xml").read_text() for number in range(3)]

    keys = [key for page in pages for key in re.findall("<Key>(.*?)</Key>", page)]
    assert len(set(keys)) == len(keys) == 2 * PAGE_KEYS + 1
    assert keys == sorted(keys)
    tokens = [re.findall("<NextContinuationToken>(.*?)<", page) for page in pages]
    assert tokens == [["page1"], ["page2"], []]
    assert ["<IsTruncated>true<" in page for page in pages] == [True, True, False]


def test_files_for_fio_are_holes_of_their_size(tmp_path):
    write_bucket(plan_model(MIB), tmp_path, {"a.0": 1 << 40}, 0)

    found = (tmp_path / "bench" / FIO_PREFIX / "a.0").stat()
    assert found.st_size == 1 << 40
    assert found.st_blocks == 0
    assert "<Key>fio/a.0</Key>" in (tmp_path / "fio.xml").read_text()


@needs_nginx
def test_nginx_serves_directories_files_and_pages():
    keys = PAGE_KEYS + 7
    with nginx_store(plan_model(MIB), rate_bytes_s=0, latency_s=0.0, files={"a.0": 5}, keys=keys) as store:
        config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
        secrets = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
        client = boto3.client("s3", endpoint_url=store.url, region_name="auto", config=config, **secrets)
        (only,) = client.list_objects_v2(Bucket="bench", Prefix="fio/")["Contents"]
        answer = client.get_object(Bucket="bench", Key=only["Key"], Range="bytes=1-3", IfMatch=only["ETag"])
        assert answer["Body"].read() == bytes(3)
        assert answer["ETag"] == only["ETag"]
        assert client.list_objects_v2(Bucket="bench", Prefix="absent/")["KeyCount"] == 0
        client.close()
        assert list_pages(store.url, "bench", "many/", parsed=False).size_bytes == keys


@needs_nginx
def test_boto3_pages_through_the_keys(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with nginx_store(plan_model(MIB), rate_bytes_s=0, latency_s=0.0, keys=PAGE_KEYS + 7) as store:
        assert list_pages(store.url, "bench", "many/", parsed=True).size_bytes == PAGE_KEYS + 7
