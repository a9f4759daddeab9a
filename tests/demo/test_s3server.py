from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, IncompleteReadError, ResponseStreamingError

from tigrismount.demo.command import CommandError, run_child, wait_until
from tigrismount.demo.embedded import EmbeddedS3
from tigrismount.demo.faults import FaultRule

MIB = 1 << 20


def test_a_small_object_comes_back_whole(bucket):
    bucket.put("small", b"hello")

    assert bucket.client.get_object(Bucket=bucket.name, Key="small")["Body"].read() == b"hello"


def test_a_large_object_comes_back_whole_and_in_ranges(bucket):
    data = os.urandom(3 * MIB + 17)
    bucket.put("large", data)

    def get(**kw):
        return bucket.client.get_object(Bucket=bucket.name, Key="large", **kw)

    assert data == get()["Body"].read()
    middle = get(Range=f"bytes={MIB - 1}-{2 * MIB}")
    assert data[MIB - 1 : 2 * MIB + 1] == middle["Body"].read()
    assert f"bytes {MIB - 1}-{2 * MIB}/{len(data)}" == middle["ContentRange"]
    assert data[-100:] == get(Range="bytes=-100")["Body"].read()
    assert data[3 * MIB :] == get(Range=f"bytes={3 * MIB}-{9 * MIB}")["Body"].read()


def test_ranges_that_cannot_be_are_refused(bucket):
    bucket.put("large", bytes(MIB))

    with pytest.raises(ClientError, match="InvalidRange"):
        bucket.client.get_object(Bucket=bucket.name, Key="large", Range=f"bytes={MIB}-")


def test_preconditions_are_decided_on_large_objects(bucket):
    etag = bucket.put("large", bytes(MIB))

    bucket.client.get_object(Bucket=bucket.name, Key="large", IfMatch=f'"{etag}"')["Body"].read()
    with pytest.raises(ClientError, match="PreconditionFailed"):
        bucket.client.get_object(Bucket=bucket.name, Key="large", IfMatch='"0"')
    with pytest.raises(ClientError, match="304"):
        bucket.client.get_object(Bucket=bucket.name, Key="large", IfNoneMatch=f'"{etag}"')


def test_an_object_uploaded_in_parts_is_one_object(bucket):
    parts = [os.urandom(5 * MIB), os.urandom(5 * MIB + 3), b"tail"]
    upload = bucket.client.create_multipart_upload(Bucket=bucket.name, Key="model")["UploadId"]
    arguments = {"Bucket": bucket.name, "Key": "model", "UploadId": upload}
    etags = [
        {"PartNumber": n, "ETag": bucket.client.upload_part(**arguments, PartNumber=n, Body=part)["ETag"]}
        for n, part in enumerate(parts, 1)
    ]
    whole = bucket.client.complete_multipart_upload(**arguments, MultipartUpload={"Parts": etags})

    answer = bucket.client.get_object(Bucket=bucket.name, Key="model")

    assert b"".join(parts) == answer["Body"].read()
    assert whole["ETag"] == answer["ETag"]
    assert answer["ETag"].endswith('-3"')


def test_a_download_that_is_overtaken_by_an_overwrite_keeps_its_version(bucket):
    old = os.urandom(64 * MIB)
    bucket.put("large", old)
    stream = bucket.client.get_object(Bucket=bucket.name, Key="large")["Body"]
    head = stream.read(MIB)
    bucket.put("large", os.urandom(64 * MIB))

    assert old == head + stream.read()


def test_an_etag_is_that_of_the_bytes_however_often_they_are_overwritten_meanwhile(bucket):
    """Mutations: where the ETag is found by several threads at once, many are the one of no bytes; where files are
    closed as soon as they are overwritten, answers fail or are another version's."""
    stop = threading.Event()
    line = os.urandom(MIB // 2)

    def overwrite():
        for version in range(150):
            bucket.put("key", version.to_bytes(8, "big") + line)
        stop.set()

    def read():
        count = 0
        while not stop.is_set():
            answer = bucket.client.get_object(Bucket=bucket.name, Key="key")
            assert hashlib.md5(answer["Body"].read()).hexdigest() == answer["ETag"].strip('"')
            count += 1
        return count

    bucket.put("key", bytes(8) + line)
    with ThreadPoolExecutor(9) as pool:
        writing = pool.submit(overwrite)
        reading = [pool.submit(read) for _ in range(8)]
        try:
            assert all(reader.result() for reader in reading)
        finally:
            stop.set()
        writing.result()


def test_wrong_and_missing_keys_are_refused(s3, bucket):
    bucket.put("small", b"1")
    client = s3.client()
    for secret in ("wrong", s3.secret_key[::-1]):
        impostor = type(s3)()
        impostor.endpoint_url, impostor.access_key, impostor.secret_key = s3.endpoint_url, s3.access_key, secret
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            impostor.client().get_object(Bucket=bucket.name, Key="small")
    client.close()
    assert _plain_status(s3, f"/{bucket.name}/small") == 403
    assert _plain_status(s3, f"/{bucket.name}?list-type=2") == 403


def test_requests_are_recorded_with_what_they_moved(s3, bucket):
    etag = bucket.put("model/large", bytes(MIB))
    s3.reset_requests()

    bucket.client.get_object(Bucket=bucket.name, Key="model/large", Range="bytes=10-109", IfMatch=etag)["Body"].read()
    bucket.client.head_object(Bucket=bucket.name, Key="model/large")
    bucket.client.list_objects_v2(Bucket=bucket.name, Prefix="model/")

    seen = s3.requests()
    assert [r.operation for r in seen] == ["GetObject", "HeadObject", "ListObjectsV2"]
    get = seen[0]
    assert (bucket.name, "model/large", 206, 100, "bytes=10-109", etag) == (
        get.bucket,
        get.key,
        get.status,
        get.bytes,
        get.range,
        get.if_match,
    )
    assert s3.data_bytes() == 100


def test_one_connection_serves_many_requests(s3, bucket):
    bucket.put("large", bytes(MIB))
    url = bucket.client.generate_presigned_url("head_object", Params={"Bucket": bucket.name, "Key": "large"})
    path = url.removeprefix(s3.endpoint_url)
    address = ("127.0.0.1", int(s3.endpoint_url.rpartition(":")[2]))

    with socket.create_connection(address, timeout=10) as connection:
        for _ in range(3):
            connection.sendall(f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            header = b""
            while not header.endswith(b"\r\n\r\n"):
                header += (received := connection.recv(4096))
                assert received, "the server closed the connection"
            assert header.startswith(b"HTTP/1.1 ")
            assert b"connection: close" not in header.lower()


def test_32_connections_are_served_at_once(s3, bucket):
    bucket.put("large", bytes(MIB))
    client = s3.client(connections=32)
    together = threading.Barrier(32, timeout=60)

    def read(_):
        body = client.get_object(Bucket=bucket.name, Key="large")["Body"]
        together.wait()  # passes only once all 32 have their header
        return len(body.read())

    with ThreadPoolExecutor(32) as threads:
        assert list(threads.map(read, range(32))) == [MIB] * 32
    client.close()


def test_a_fault_hits_the_requests_its_rule_names(s3, bucket):
    bucket.put("large", bytes(MIB))

    def get():
        return bucket.client.get_object(Bucket=bucket.name, Key="large")["Body"].read()

    s3.inject(FaultRule(match="GET .*/large", action="status", status=400, code="Odd", skip=1, count=1))

    assert len(get()) == MIB
    with pytest.raises(ClientError, match="Odd"):
        get()
    assert len(get()) == MIB


@pytest.mark.parametrize("action", ["truncate", "reset", "stall"])
def test_a_cut_body_is_an_error_for_the_client(s3, bucket, action):
    bucket.put("large", bytes(MIB))
    s3.inject(FaultRule(match="GET .*/large", action=action, after_bytes=1000, delay_s=0.01))

    body = bucket.client.get_object(Bucket=bucket.name, Key="large")["Body"]

    with pytest.raises((IncompleteReadError, ResponseStreamingError, ConnectionClosedError)):
        body.read()


def test_an_unknown_fault_is_refused():
    with pytest.raises(ValueError, match="no such fault"):
        FaultRule(match="GET", action="explode")


def _plain_status(s3, path):
    address = ("127.0.0.1", int(s3.endpoint_url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return int(connection.makefile("rb").readline().split()[1])


def test_the_server_and_its_files_go_with_a_parent_that_is_killed(tmp_path):
    code = f"""
import os, signal
from tigrismount.demo.embedded import EmbeddedS3
server = EmbeddedS3(directory={str(tmp_path)!r})
server.start()
print(server.pid, len(os.listdir({str(tmp_path)!r})), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    finished = run_child(sys.executable, "-c", code)
    pid, directories = map(int, finished.output.split())

    assert directories == 1
    assert wait_until(lambda: os.listdir(tmp_path) == [] and not os.path.exists(f"/proc/{pid}/fd/0"))


def test_a_server_that_cannot_start_is_an_error(tmp_path, capfd):
    with pytest.raises(CommandError, match="did not start"):
        EmbeddedS3(directory=str(tmp_path / "nowhere")).start()

    assert "nowhere" in capfd.readouterr().err


def test_children_get_an_environment_that_leads_nowhere_else(s3):
    env = s3.env({"PATH": "/bin", "AWS_PROFILE": "other", "TIGRISMOUNT_CACHE_DIR": "/x", "BUCKET_NAME": "y"})

    assert env["PATH"] == "/bin"
    assert env["AWS_ENDPOINT_URL_S3"] == s3.endpoint_url
    assert not {"AWS_PROFILE", "TIGRISMOUNT_CACHE_DIR", "BUCKET_NAME"} & env.keys()


def test_a_server_starts_where_python_keeps_no_docstrings():
    """PYTHONOPTIMIZE=2. Mutation: neither the demo nor 'bench --demo' begins."""
    assert "--ready-fd" in run_child(sys.executable, "-OO", "-m", "tigrismount.demo.s3server", "--help").check().output
