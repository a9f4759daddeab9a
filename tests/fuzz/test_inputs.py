"""Whatever comes from outside is understood or refused with an error of ours: answers, files, flags, records."""

from __future__ import annotations

import json
import tempfile
import zlib
from contextlib import suppress

import botocore.parsers
import botocore.session
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tigrismount.cache import kept
from tigrismount.cache.records import BlockRecord, ObjectRecord
from tigrismount.config.loading import load
from tigrismount.config.options import OPTIONS
from tigrismount.control import server
from tigrismount.core.journal import decode_records
from tigrismount.core.names import DirectoryKey
from tigrismount.errors import CacheCorruptError, ConfigError, ObjectError
from tigrismount.objects.failures import translated
from tigrismount.objects.listings import parse_listing
from tigrismount.objects.responses import ErrorAnswer, Target, error_from_answer, object_size_bytes, retry_after_s
from tigrismount.objects.rows import info_of
from tigrismount.reader.loads import unpack_reports
from tigrismount.vfs.keptcodec import decode_name, decode_page

TARGET = Target("s3://bucket", "https://store.example", "bucket", "key")
S3 = botocore.session.get_session().get_service_model("s3")
PARSER = botocore.parsers.create_parser("rest-xml")

WORDS = st.one_of(
    st.sampled_from(
        ["", "0", "1", "-5", "1e9", "99999999999999999999", "true", "false", "2024-01-01T00:00:00Z", "\u202e"]
    ),
    st.text(max_size=20),
)
NAMES = ["Key", "Size", "ETag", "LastModified", "StorageClass", "Prefix", "Contents", "CommonPrefixes", "IsTruncated"]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


ELEMENT = st.recursive(
    WORDS.map(_escaped),
    lambda inner: st.lists(
        st.tuples(st.sampled_from([*NAMES, "NextContinuationToken", "Code", "x"]), inner), max_size=4
    ).map(lambda pairs: "".join(f"<{name}>{body}</{name}>" for name, body in pairs)),
    max_leaves=12,
)
LISTING = ELEMENT.map(
    lambda body: f"<ListBucketResult><IsTruncated>false</IsTruncated>{body}</ListBucketResult>".encode()
)
ROW = st.tuples(WORDS, WORDS, WORDS, WORDS).map(
    lambda row: (
        "<ListBucketResult><IsTruncated>false</IsTruncated><Contents>"
        + "".join(f"<{name}>{_escaped(text)}</{name}>" for name, text in zip(NAMES, row, strict=False))
        + "</Contents></ListBucketResult>"
    ).encode()
)


def parse(operation: str, body: bytes, headers: dict[str, str]) -> dict:
    shape = S3.operation_model(operation).output_shape
    return PARSER.parse({"status_code": 200, "headers": headers, "body": body, "context": {}}, shape)


@given(st.one_of(ROW, LISTING, st.binary(max_size=200)))
@example(
    b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a</Key><Size>-1</Size></Contents></ListBucketResult>"
)
def test_listings(body):
    try:
        with translated(TARGET):
            page = parse_listing(body, {"Bucket": "bucket"}, TARGET).page
    except ObjectError:
        return
    for info in page.objects:
        assert info.id.size_bytes >= 0


@given(st.dictionaries(st.sampled_from(["Content-Length", "ETag", "Last-Modified", "x-amz-meta-a"]), WORDS))
@example({"Content-Length": "-1"})
def test_heads(headers):
    with suppress(ObjectError), translated(TARGET):
        answer = parse("HeadObject", b"", headers)
        info = info_of("bucket", "key", answer, size_bytes=object_size_bytes(answer, TARGET))
        assert info.id.size_bytes >= 0


@given(
    st.integers(300, 599),
    WORDS,
    st.text(max_size=300),
    st.dictionaries(st.sampled_from(["retry-after", "x-amz-request-id"]), WORDS),
)
def test_error_answers(status, code, message, headers):
    error = error_from_answer(ErrorAnswer(status, code, message, headers), TARGET)
    assert isinstance(error, ObjectError)
    assert retry_after_s(headers) >= 0


def _load(**changes) -> None:
    arguments = {"source": "s3://bucket", "mountpoint": "/mnt", "flags": {}, "mount_options": [], "config_file": None}
    with suppress(ConfigError):
        load(**{**arguments, "debug": False, "environment": {}, **changes})


OPTION = st.sampled_from([option.key for option in OPTIONS])
TOML = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.tuples(OPTION, st.one_of(WORDS.map(repr), st.sampled_from(["[]", "{}", "1", "nan", "true", "1979-05-27"])))
    ).map(lambda pairs: "\n".join(f"{name} = {value}" for name, value in pairs).encode()),
)


@given(TOML)
@example(b"a = " + b"[" * 5000)
def test_configuration_files(body):
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        _load(config_file=file.name)


@given(st.lists(st.text(max_size=30), max_size=4), st.dictionaries(OPTION, WORDS), st.text(max_size=40))
def test_flags_and_sources(options, flags, source):
    _load(mount_options=options, flags=flags)
    _load(source=source)
    _load(source=f"s3://{source}")


@given(st.binary(max_size=300))
@example(b"[" * 60_000)
@example(b'{"command": ' + b"[" * 50_000)
def test_control_requests(line):
    assert isinstance(server._parse(line), dict)


@pytest.mark.parametrize("record", [BlockRecord, ObjectRecord])
@given(data=st.binary(max_size=200))
def test_records_of_the_index(record, data):
    with suppress(CacheCorruptError):
        unpacked = record.unpack(data)
        assert record.unpack(unpacked.pack()) == unpacked


@given(st.binary(max_size=200))
def test_kept_records(data):
    assert kept._unpack("loads", data) is None, "eight bytes of checksum were guessed"


NESTED = b"[" * 50_000
"""JSON that is too deep for Python's parser, which says so with an error of another kind."""


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-1, 1 << 70), st.floats(), WORDS)
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=11), max_leaves=40)
ROWS = st.lists(st.lists(PLAIN, min_size=4, max_size=10), min_size=1, max_size=2)
PAGE = st.tuples(ROWS, st.lists(PLAIN, max_size=2), PLAIN)
NAME = st.tuples(PLAIN, ROWS.map(lambda rows: rows[0]))


def compressed(value: object) -> bytes:
    return zlib.compress(json.dumps(value).encode())


@given(st.one_of(st.binary(max_size=200), st.one_of(JSON, PAGE, NAME).map(lambda value: b"\1" + compressed(value))))
@example(b"\1" + zlib.compress(NESTED))
@example(b"\1" + compressed([1, ["key", "etag", 1, 1.0, "", 0, 7]]))
@example(b"\1" + compressed([[["key", "etag", 1, 1.0, "", 0, 7]], [], 0]))
def test_kept_names(data):
    where = DirectoryKey("bucket", "models/")
    for decode in (decode_page, decode_name):
        with suppress(ValueError):
            decode(where, data)


@given(st.binary(max_size=400))
def test_journals(data):
    assert list(decode_records(data)) == []


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=100)), max_size=3))
@example([(b"", zlib.compress(NESTED))])
def test_load_reports(records):
    assert unpack_reports(records) == []


@given(st.one_of(JSON, st.dictionaries(st.sampled_from(["started", "files"]), JSON)))
def test_load_reports_of_another_shape(value):
    is_one = isinstance(value, dict) and isinstance(value.get("started"), int | float)
    assert len(unpack_reports([(b"", compressed(value))])) == is_one
