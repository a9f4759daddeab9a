from __future__ import annotations

import pytest

from tigrismount.demo.faults import FaultBook, FaultRule
from tigrismount.demo.recorder import operation_of


@pytest.mark.parametrize(
    ("method", "bucket", "key", "query", "operation"),
    [
        ("GET", "", "", "", "ListBuckets"),
        ("GET", "b", "", "list-type=2&prefix=a", "ListObjectsV2"),
        ("GET", "b", "", "prefix=a&delimiter=/", "ListObjects"),
        ("GET", "b", "", "versioning", "GET?versioning"),
        ("HEAD", "b", "", "", "HeadBucket"),
        ("PUT", "b", "", "", "CreateBucket"),
        ("GET", "b", "k", "", "GetObject"),
        ("GET", "b", "k", "versionId=1&x-id=GetObject", "GetObject"),
        ("GET", "b", "k", "X-Amz-Signature=1", "GetObject"),
        ("GET", "b", "k", "tagging", "GET?tagging"),
        ("HEAD", "b", "k", "", "HeadObject"),
        ("PUT", "b", "k", "", "PutObject"),
        ("PUT", "b", "k", "partNumber=1&uploadId=u", "UploadPart"),
        ("POST", "b", "k", "uploads", "CreateMultipartUpload"),
        ("POST", "b", "k", "uploadId=u", "CompleteMultipartUpload"),
        ("DELETE", "b", "k", "", "DeleteObject"),
    ],
)
def test_requests_are_called_as_in_the_s3_api(method, bucket, key, query, operation):
    assert operation_of(method, bucket, key, query) == operation


def test_a_rule_passes_some_hits_some_and_passes_the_rest():
    book = FaultBook()
    rule = FaultRule(match="GET /b/k", action="reset", skip=2, count=2)
    book.replace([rule])

    assert [book.hit("GET /b/k") for _ in range(6)] == [None, None, rule, rule, None, None]
    assert book.hit("PUT /b/k") is None


def test_a_rule_without_an_end_hits_all_and_the_first_that_hits_wins():
    book = FaultBook()
    first, second = FaultRule(match="GET", action="reset"), FaultRule(match="GET", action="stall", count=-1)
    book.replace([first, second])

    assert [book.hit("GET /") for _ in range(3)] == [first, second, second]
