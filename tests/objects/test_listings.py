"""Our parser of listings: what botocore would have said, without what it would have cost."""

from __future__ import annotations

import botocore.parsers
import botocore.session
import pytest
from botocore.compat import unquote_str
from hypothesis import example, given
from hypothesis import strategies as st

from tigrismount.errors import ObjectProtocolError
from tigrismount.objects.listings import parse_listing
from tigrismount.objects.responses import Target, bare_etag

TARGET = Target("https://store.example", "the test", "bucket")
QUERY = {"Bucket": "bucket"}
SHAPE = botocore.session.get_session().get_service_model("s3").operation_model("ListObjectsV2").output_shape
PARSER = botocore.parsers.create_parser("rest-xml")


def escaped(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def document(rows=(), prefixes=(), namespace=' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"', **about):
    """Return a page; *rows* and *about* by the names of their elements."""
    texts = {"IsTruncated": "false", **about}
    body = "".join(f"<{name}>{escaped(text)}</{name}>" for name, text in texts.items())
    for row in rows:
        fields = "".join(f"<{name}>{escaped(text)}</{name}>" for name, text in row.items())
        body += f"<Contents>{fields}<Owner><ID>o</ID></Owner></Contents>"
    body += "".join(f"<CommonPrefixes><Prefix>{escaped(prefix)}</Prefix></CommonPrefixes>" for prefix in prefixes)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult{namespace}>{body}</ListBucketResult>'.encode()


def row(key, **fields):
    usual = {"LastModified": "2026-11-21T10:00:00.125Z", "ETag": '"e"', "Size": "5", "StorageClass": "STANDARD"}
    return {"Key": key, **usual, **fields}


def by_botocore(body):
    """Return what was made of a page before: botocore's rows, and then ours."""
    answer = PARSER.parse({"status_code": 200, "headers": {}, "body": body, "context": {}}, SHAPE)
    decode = unquote_str if answer.get("EncodingType") == "url" else str
    objects = [
        (
            decode(found["Key"]),
            bare_etag(found.get("ETag")),
            found["Size"],
            found["LastModified"].timestamp() if "LastModified" in found else 0.0,
            found.get("StorageClass") or "STANDARD",
        )
        for found in answer.get("Contents", ())
    ]
    token = answer.get("NextContinuationToken") if answer["IsTruncated"] else None
    return objects, [decode(found["Prefix"]) for found in answer.get("CommonPrefixes", ())], token


def by_us(body):
    page = parse_listing(body, QUERY, TARGET).page
    objects = [
        (info.id.key, info.id.etag, info.id.size_bytes, info.mtime_s, info.storage_class) for info in page.objects
    ]
    return objects, list(page.prefixes), page.next_token


# What XML 1.0 can carry; \r would come out as \n, which is why S3 encodes names in URLs.
TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12)
KEYS = st.one_of(TEXT, st.sampled_from(["a%20b", "a+b", "%25", "%C3%BC", "a/b", "100%", "%zz", " lead", "trail "]))
DATES = st.sampled_from(
    [
        "2026-11-21T10:00:00.125Z",
        "2026-11-21T10:00:00Z",
        "2026-11-21T10:00:00.123456Z",
        "2026-11-21T10:00:00+02:00",
        "Sat, 21 Nov 2026 10:00:00 GMT",
        "1795255200",
        "1795255200.5",
    ]
)
ROWS = st.builds(
    row,
    KEYS,
    LastModified=DATES,
    ETag=st.sampled_from(['"abc"', "abc", 'W/"abc"', '"abc-17"', ""]),
    Size=st.integers(0, 1 << 63).map(str),
    StorageClass=st.sampled_from(["STANDARD", "GLACIER", ""]),
)


@given(
    st.lists(ROWS, max_size=4),
    st.lists(KEYS, max_size=3),
    st.sampled_from(["", ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"', ' xmlns="urn:other"']),
    st.sampled_from([{}, {"EncodingType": "url"}]),
    st.sampled_from([{}, {"IsTruncated": "true", "NextContinuationToken": "t%20&<"}]),
)
@example([row("a+b"), row("a%2Bb")], ["a+b/"], "", {"EncodingType": "url"}, {})
@example([row("a+b"), row("a%2Bb")], ["a+b/"], "", {}, {})
@example([row("a", StorageClass="")], [], "", {}, {})
@example([{"Key": "least", "Size": "0"}], ["p/"], "", {"EncodingType": "url"}, {})
def test_a_page_says_what_botocore_would_have_made_of_it(rows, prefixes, namespace, encoding, more):
    body = document(rows, prefixes, namespace, **encoding, **more)
    assert by_us(body) == by_botocore(body)


def test_a_key_whose_bytes_are_no_text_does_not_take_the_page_with_it():
    keys = [
        info.id.key
        for info in parse_listing(document([row("a%FFb"), row("c")], EncodingType="url"), QUERY, TARGET).page.objects
    ]
    assert keys == ["a\udcffb", "c"]


@pytest.mark.parametrize("declared", ["ISO-8859-1", "utf8", "no-such-encoding"])
def test_a_page_is_utf8_whatever_it_says_it_is_as_for_botocore(declared):
    body = document([row("\u00e9\u4e2d")]).replace(b"UTF-8", declared.encode())
    assert by_us(body) == by_botocore(body)
    assert by_us(body)[0][0][0] == "\u00e9\u4e2d"


@pytest.mark.parametrize(("said", "is_last"), [("True", False), ("1", False), ("False", True), ("0", True)])
def test_whether_there_is_more_may_be_said_in_any_way_that_xml_knows(said, is_last):
    page = parse_listing(document([row("a")], IsTruncated=said, NextContinuationToken="t"), QUERY, TARGET).page
    assert page.next_token == (None if is_last else "t")


def test_versions_without_a_strong_tag_are_told_apart_by_their_second():
    (info,) = parse_listing(document([row("a", ETag='W/"x"')]), QUERY, TARGET).page.objects
    assert (info.id.etag, info.id.modified_s) == ("W/x", 1795255200)


def test_dates_without_a_zone_are_of_greenwich():
    (info,) = parse_listing(document([row("a", LastModified="2026-11-21T10:00:00")]), QUERY, TARGET).page.objects
    assert info.mtime_s == 1795255200.0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "is it an S3 endpoint"),
        (b"<html><p>not XML", "is it an S3 endpoint"),
        (b"<html><body/></html>", "is it an S3 endpoint"),
        (document([row("a", Size="-1")]), "says that it has -1 bytes"),
        (document(IsTruncated="true"), "where to go on"),
        (document([row("a")], IsTruncated="perhaps"), "whether there is more"),
    ],
)
def test_what_is_no_page_is_refused(body, reason):
    with pytest.raises(ObjectProtocolError, match=reason):
        parse_listing(body, QUERY, TARGET)


@pytest.mark.parametrize("page", [document([row("mx")]), document(prefixes=["n/"]), document([row("m/a"), row("m")])])
def test_rows_that_were_not_asked_for_are_refused(page):
    """A file would pass for a directory where a store says that something lies below it, and warm what nobody named."""
    with pytest.raises(ObjectProtocolError, match="was not asked for"):
        parse_listing(page, {**QUERY, "Prefix": "m/"}, TARGET)
    assert parse_listing(page, {**QUERY, "Prefix": ""}, TARGET)


def test_a_page_that_leads_to_itself_is_refused():
    body = document(IsTruncated="true", NextContinuationToken="t")
    with pytest.raises(ObjectProtocolError, match="where to go on"):
        parse_listing(body, {**QUERY, "ContinuationToken": "t"}, TARGET)


def test_what_nobody_sent_is_not_looked_for_and_what_came_is_of_its_row():
    bare = parse_listing(document([row("a")]), QUERY, TARGET)
    assert (bare.contents, bare.metadata) == ((), ())
    rows = b"<Contents><Key>a</Key><Size>1</Size><Data>eA==</Data></Contents><Contents><Key>b</Key><Size>0</Size>"
    rows += b"<Metadata><Name>n</Name><Value>v</Value></Metadata></Contents>"
    full = parse_listing(document().replace(b"</ListB", rows + b"</ListB"), QUERY, TARGET)
    assert (full.contents, full.metadata) == ((b"x", None), ({}, {"n": "v"}))


@pytest.mark.parametrize("field", ["ETag", "StorageClass"])
def test_a_row_with_a_word_that_is_longer_than_any_is_refused(field):
    """Mutation: names are bounded by their number, and each of a volume's own store may take megabytes."""
    assert by_us(document([row("a", **{field: "x" * 512})]))
    with pytest.raises(ObjectProtocolError, match="longer than any"):
        by_us(document([row("a", **{field: "x" * 513})]))


def test_a_token_that_no_request_holds_is_refused():
    """Mutation: each directory that is read in part keeps the megabytes of a volume's own store."""
    more = {"IsTruncated": "true"}
    assert by_us(document(**more, NextContinuationToken="t" * (16 << 10)))
    with pytest.raises(ObjectProtocolError, match="where to go on"):
        by_us(document(**more, NextContinuationToken="t" * (16 << 10) + "t"))
