from __future__ import annotations

import os
import ssl

import pytest

from tigrismount.objects.connection import make_boto_client
from tigrismount.objects.credentials import Credentials
from tigrismount.objects.keys import SigningKeys
from tigrismount.objects.options import S3Config
from tigrismount.objects.trust import remember_bundles
from tigrismount.testing.certificates import make_certificate

KEY = Credentials(source="the test", access_key_id="id", secret_access_key="secret")


class Counting(ssl.SSLContext):
    """Counts what it reads."""

    reads = 0

    def load_verify_locations(self, *args) -> None:
        self.reads += 1
        super().load_verify_locations(*args)


@pytest.fixture
def context() -> Counting:
    return remember_bundles(Counting(ssl.PROTOCOL_TLS_CLIENT))


@pytest.fixture
def bundle(tmp_path):
    make_certificate(tmp_path / "bundle.pem")
    return tmp_path / "bundle.pem"


def test_a_bundle_is_read_once(context, bundle):
    for _ in range(3):
        context.load_verify_locations(str(bundle), None, None)
    assert context.reads == 1
    assert context.cert_store_stats()["x509_ca"] == 1


def test_a_bundle_that_was_replaced_is_read_again(context, bundle, tmp_path):
    context.load_verify_locations(str(bundle), None, None)
    make_certificate(tmp_path / "new.pem", "another")
    os.replace(tmp_path / "new.pem", bundle)
    context.load_verify_locations(str(bundle), None, None)
    assert context.cert_store_stats()["x509_ca"] == 2


def test_a_bundle_that_was_written_over_is_read_again(context, bundle, tmp_path):
    context.load_verify_locations(str(bundle), None, None)
    make_certificate(tmp_path / "new.pem", "another")
    bundle.write_bytes((tmp_path / "new.pem").read_bytes())
    context.load_verify_locations(str(bundle), None, None)
    assert context.cert_store_stats()["x509_ca"] == 2


def test_a_bundle_that_could_not_be_read_is_tried_again(context, tmp_path):
    path = tmp_path / "bundle.pem"
    with pytest.raises(OSError, match="bundle"):
        context.load_verify_locations(str(path), None, None)
    path.write_text("none")
    with pytest.raises(OSError, match=r"PEM|cert"):
        context.load_verify_locations(str(path), None, None)
    make_certificate(path)
    context.load_verify_locations(str(path), None, None)
    assert context.cert_store_stats()["x509_ca"] == 1


def test_other_sources_are_read_each_time(context, bundle):
    for _ in range(2):
        context.load_verify_locations(None, None, bundle.read_text().partition("-----BEGIN PRIVATE")[0])
    assert context.reads == 2


def test_connections_of_the_client_share_what_was_read(say, certificate):
    server_context, ca_bundle = certificate
    server = say.Server(tls=server_context)
    server.answer(say.response(200, b"", ETag='"abc"', Content_Length=0))
    config = S3Config(endpoint_url=server.url, ca_bundle=ca_bundle)
    client = make_boto_client(config, SigningKeys(KEY), 2)
    context = client._endpoint.http_session._manager.connection_pool_kw["ssl_context"]
    try:
        client.head_object(Bucket="b", Key="k")
        assert context.load_verify_locations.__name__ == "load_once", "botocore has changed: see trust.py"
        assert context.cert_store_stats()["x509_ca"] == 1
    finally:
        client.close()
        server.stop()
