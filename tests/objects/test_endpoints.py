from __future__ import annotations

import pytest

from tigrismount.objects.endpoints import addressing_style, is_tigris, is_unprotected, store_id
from tigrismount.objects.options import S3Config


@pytest.mark.parametrize(
    ("url", "tigris", "style"),
    [
        ("https://t3.storage.dev", True, "virtual"),
        ("https://fly.storage.tigris.dev", True, "virtual"),
        ("https://T3.STORAGE.DEV.", True, "virtual"),
        ("https://t3.tigrisfiles.io", True, "virtual"),
        ("https://s3.eu-central-1.amazonaws.com", False, "virtual"),
        ("https://s3.cn-north-1.amazonaws.com.cn", False, "virtual"),
        ("http://localhost:9000", False, "path"),
        ("http://tag.tag.svc.cluster.local:8080", False, "path"),
        ("https://notstorage.dev", False, "path"),
        ("https://storage.dev.example.org", False, "path"),
    ],
)
def test_the_host_decides_whose_store_it_is_and_where_the_bucket_goes(url, tigris, style):
    assert (is_tigris(url), addressing_style(S3Config(endpoint_url=url))) == (tigris, style)


def test_an_explicit_addressing_style_wins():
    config = S3Config(endpoint_url="http://localhost:9000", addressing="virtual")
    assert addressing_style(config) == "virtual"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://t3.storage.dev", "tigris"),
        ("https://T3.Storage.dev./", "tigris"),
        ("https://fly.storage.tigris.dev", "tigris"),
        ("https://t3.tigrisfiles.io", "tigris"),
        ("https://Minio.Example.org:443/", "https://minio.example.org"),
        ("http://minio.example.org:80", "http://minio.example.org"),
        ("http://t3.storage.dev", "http://t3.storage.dev"),
        ("http://minio.example.org:9000/s3/", "http://minio.example.org:9000/s3"),
    ],
)
def test_spellings_of_one_endpoint_give_one_store_id(url, expected):
    assert store_id(url) == expected


@pytest.mark.parametrize("url", ["https://mine.t3.storage.dev", "https://t3.storage.dev/mine"])
def test_one_bucket_of_the_store_is_not_the_store(url):
    """With path-style addresses s3://theirs/key is the object theirs/key of the bucket mine there.

    A volume with such an endpoint and a copy of a public model could have their file refused on the whole node, by a
    checksum that is wrong; and who has made two files with one entity tag could leave the other one in the cache.
    """
    assert store_id(url) == url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://tag.internal:8080", True),
        ("http://10.0.0.7", True),
        ("http://[fe80::1]:80", True),
        ("http://127.0.0.1.nip.io", True),
        ("http://127.8.8.8:9000", False),
        ("http://[::1]:9000", False),
        ("http://LOCALHOST:9000", False),
        ("https://t3.storage.dev", False),
    ],
)
def test_plain_http_is_unprotected_anywhere_but_on_this_machine(url, expected):
    assert is_unprotected(url) is expected
