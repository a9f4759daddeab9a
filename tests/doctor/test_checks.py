"""Each check passes, warns or fails with what to do about it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import socket
import tempfile
import threading
import time
from email.utils import formatdate

import pytest

from tigrismount.config.host import DiskSpace
from tigrismount.doctor.disk import check_disk, check_space, measure_disk
from tigrismount.doctor.endpoint import check_clock, check_encryption, check_endpoint
from tigrismount.doctor.findings import Finding, Rates, failed, summary
from tigrismount.doctor.host import check_descriptors, check_kernel, check_memory, check_read_ahead
from tigrismount.doctor.store import StoreExam
from tigrismount.objects.client import ListPage
from tigrismount.objects.memory import MemoryObjectClient
from tigrismount.objects.options import S3Config
from tigrismount.objects.traits import StoreTraits
from tigrismount.testing.certificates import make_certificate
from tigrismount.testing.fake_http import HttpAnswer, serving

GIB = 1 << 30


@pytest.mark.parametrize(
    ("release", "verdict"),
    [("6.18.44-x", "pass"), ("6.9.0", "pass"), ("6.8.12", "warn"), ("4.4.0", "fail"), ("?", "fail")],
)
def test_the_kernel_is_judged_by_what_it_can(release, verdict):
    assert check_kernel(release).verdict == verdict


@pytest.mark.parametrize(
    ("limit", "memory", "verdict"), [(4 * GIB, 16 * GIB, "pass"), (9 * GIB, 16 * GIB, "warn"), (GIB // 8, GIB, "warn")]
)
def test_memory(limit, memory, verdict):
    assert check_memory(limit, memory).verdict == verdict


@pytest.mark.parametrize(("limit", "verdict"), [(1024, "warn"), (20_000, "pass"), (resource.RLIM_INFINITY, "pass")])
def test_open_files(limit, verdict):
    assert check_descriptors(limit).verdict == verdict


def test_read_ahead_is_left_raised_or_told_of(tmp_path):
    assert check_read_ahead(str(tmp_path), None).verdict == "pass"
    assert check_read_ahead(str(tmp_path / "missing"), 4096).verdict == "warn"
    (tmp_path / "0:1").mkdir()
    (tmp_path / "0:1" / "read_ahead_kb").write_text("128")
    assert check_read_ahead(str(tmp_path), 4096).verdict == ("pass" if os.geteuid() == 0 else "warn")


@pytest.mark.parametrize(
    ("off_s", "verdict"), [(0, "pass"), (-30, "pass"), (120, "warn"), (-120, "warn"), (3600, "fail"), (-86_400, "fail")]
)
def test_the_clock(off_s, verdict):
    now_s = time.time()
    finding = check_clock(formatdate(now_s - off_s, usegmt=True), now_s)
    assert finding.verdict == verdict
    if verdict != "pass":
        assert ("ahead of" if off_s > 0 else "behind") in finding.detail
    assert check_clock("yesterday", now_s).verdict == "skip"
    assert check_clock("Fri, 01 Jan 99999 00:00:00 GMT", now_s).verdict == "skip"


@pytest.mark.parametrize(
    ("url", "verdict"),
    [("https://t3.storage.dev", "pass"), ("http://127.0.0.1:9", "pass"), ("http://tag:8080", "warn")],
)
def test_encryption(url, verdict):
    assert check_encryption(url).verdict == verdict


@pytest.mark.parametrize("status", [200, 301, 403, 404])
def test_an_endpoint_that_answers_anything_is_there(status):
    def answer(request):
        return HttpAnswer(status, {"Date": formatdate(usegmt=True), "Content-Length": "0", "Location": "http://x/"})

    with serving(answer) as url:
        findings = {finding.check: finding.verdict for finding in check_endpoint(S3Config(endpoint_url=url))}
    assert findings == {"endpoint": "pass", "TLS": "pass", "clock": "pass"}


def test_an_endpoint_that_is_not_there_fails_with_what_to_look_at():
    with serving(lambda request: HttpAnswer(200)) as url:
        pass
    (finding,) = check_endpoint(S3Config(endpoint_url=url))
    assert (finding.check, finding.verdict) == ("endpoint", "fail")
    assert url in finding.detail
    assert "--endpoint-url" in finding.remedy


def test_an_endpoint_that_speaks_no_http_fails_with_what_to_look_at():
    """Such as the port of another service, which greets first; Python's error for that is none of the system's."""

    def greet(listener):
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
            connection.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=greet, args=[listener])
        thread.start()
        (finding,) = check_endpoint(S3Config(endpoint_url=f"http://127.0.0.1:{listener.getsockname()[1]}"))
        thread.join()
    assert (finding.check, finding.verdict) == ("endpoint", "fail")
    assert finding.detail.endswith("does not speak HTTP: SSH-2.0-OpenSSH_9.6")
    assert "--endpoint-url" in finding.remedy


def test_an_endpoint_whose_name_is_no_hosts_fails():
    (finding,) = check_endpoint(S3Config(endpoint_url=f"http://{'a' * 64}.example"))
    assert (finding.check, finding.verdict) == ("endpoint", "fail")


@pytest.mark.parametrize("address", ["http:/user:hidden@proxy:3128", "http://proxy:3128:hidden"])
def test_a_proxy_whose_address_is_none_is_not_quoted(monkeypatch, address):
    """Mutation: it ends doctor with all of it in its last line, or what Python took for the port is in the finding."""
    monkeypatch.setenv("http_proxy", address)
    monkeypatch.setenv("no_proxy", "")
    (finding,) = check_endpoint(S3Config(endpoint_url="http://store.example"))
    assert (finding.check, finding.verdict) == ("endpoint", "fail")
    assert "hidden" not in finding.detail
    assert "HTTPS_PROXY" in finding.remedy


def test_a_disk_is_measured_and_nothing_stays(tmp_path):
    rates = measure_disk(str(tmp_path), 16 << 20)
    assert rates.read > 0
    assert rates.write > 0
    assert list(tmp_path.iterdir()) == []
    space = DiskSpace(usable_bytes=GIB, free_bytes=GIB // 8)
    findings, rate = check_disk(str(tmp_path / "not" / "yet"), lambda path: space)
    assert [finding.check for finding in findings] == ["cache space", "cache disk"]
    assert rate > 0
    assert list(tmp_path.iterdir()) == []


def test_the_sample_goes_into_no_file_that_took_its_name(tmp_path, monkeypatch):
    """Root is asked about a directory of a user, who puts a link there: root wrote noise over what it leads to."""
    victim, make = tmp_path / "victim", tempfile.mkstemp
    victim.write_bytes(b"precious")

    def make_and_replace(**arguments):
        fd, path = make(**arguments)
        os.unlink(path)
        os.symlink(victim, path)
        return fd, path

    monkeypatch.setattr(tempfile, "mkstemp", make_and_replace)
    (tmp_path / "users").mkdir()
    assert measure_disk(str(tmp_path / "users"), 16 << 20).write > 0
    assert victim.read_bytes() == b"precious"
    assert os.listdir(tmp_path / "users") == []


def test_a_disk_that_refuses_direct_io_only_when_it_comes_is_measured_through_the_page_cache(tmp_path, monkeypatch):
    """The cache goes on so; a verdict that no mount would work here is wrong."""
    write, refused = os.write, []

    def write_not_direct(fd, data):
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(fd)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return write(fd, data)

    monkeypatch.setattr(os, "write", write_not_direct)
    assert measure_disk(str(tmp_path), 16 << 20).write > 0
    if not refused:
        pytest.skip("this filesystem does not take the flag in the first place")


def test_a_disk_that_cannot_be_written_to_fails():
    findings, rate = check_disk("/proc/self/cache", lambda path: DiskSpace(usable_bytes=GIB, free_bytes=GIB))
    assert (findings[-1].check, findings[-1].verdict, rate) == ("cache disk", "fail", 0.0)


@pytest.mark.parametrize(("free", "verdict"), [(GIB // 2, "pass"), (GIB // 12, "warn"), (1 << 20, "fail")])
def test_space(free, verdict):
    assert check_space("/cache", DiskSpace(usable_bytes=GIB, free_bytes=free)).verdict == verdict


FINE, ODD, BAD = (Finding("x", verdict, "y") for verdict in ("pass", "warn", "fail"))


@pytest.mark.parametrize(
    ("findings", "rates", "line"),
    [
        ([FINE], Rates(1e9, 2e9), "10 GB should load in about 10 s from the store and in about 5.0 s from the cache"),
        ([FINE, ODD], Rates(5e7), "10 GB should load in about 3 min from the store; 1 thing could be better"),
        ([ODD, ODD], Rates(), "a mount should work here; name a bucket to measure it; 2 things could be better"),
        ([FINE, BAD], Rates(1e9), "a mount would not work here: 1 check fails"),
        ([BAD, BAD], Rates(), "a mount would not work here: 2 checks fail"),
    ],
)
def test_it_all_comes_to_one_line(findings, rates, line):
    assert summary(findings, rates) == line
    assert failed(findings) is ("would not" in line)


async def test_an_empty_page_is_not_all_that_lies_in_a_bucket():
    """Some stores send such pages, with a token for the next one."""

    class Client(MemoryObjectClient):
        traits = StoreTraits("https://store.example.com")

        async def list_page(self, bucket: str, prefix: str, **given: object) -> ListPage:
            if given.get("token") is None:
                return ListPage((), (), "next")
            return await super().list_page(bucket, prefix)

    client, found = Client("bucket"), []
    client.put("a", b"x")
    await StoreExam(client, "bucket", "").run(found.append)  # type: ignore[arg-type]
    assert found[0] == Finding("list", "pass", "s3://bucket/: 1 keys")


@pytest.fixture
def tls(tmp_path):
    """A store with a certificate of its own; gives its URL, and the file of the authority."""
    bundle = tmp_path / "bundle.pem"
    context = make_certificate(bundle)

    def answer(listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(4096)
                secured.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=[listener])
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}", str(bundle)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    ("variable", "verdict"), [("SSL_CERT_FILE", "pass"), ("REQUESTS_CA_BUNDLE", "pass"), ("UNUSED", "fail")]
)
def test_a_certificate_is_judged_as_a_mount_judges_it(tls, monkeypatch, variable, verdict):
    """Mutation: what the system trusts, or botocore is told to trust, is trusted by mounts and not by doctor."""
    url, bundle = tls
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv(variable, bundle)
    findings = {finding.check: finding for finding in check_endpoint(S3Config(endpoint_url=url))}
    assert findings["endpoint"].verdict == verdict
    assert ("not trusted" in findings["endpoint"].detail) == (verdict == "fail")
    findings = {finding.check: finding for finding in check_endpoint(S3Config(endpoint_url=url, ca_bundle=bundle))}
    assert findings["TLS"].detail == "the certificate is trusted"
