from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.config.source import Source, parse_source, source_from_environment
from tigrismount.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "bucket", "prefix"),
    [
        ("s3://models", "models", ""),
        ("s3://models/", "models", ""),
        ("s3://models/llama", "models", "llama/"),
        ("S3://models/llama/7b/", "models", "llama/7b/"),
        ("t3://models/llama", "models", "llama/"),
        ("models", "models", ""),
        ("models/llama", "models", "llama/"),
        ("models:llama", "models", "llama/"),
        ("models:/llama", "models", "llama/"),
        ("models:", "models", ""),
        ("models/with:colon", "models", "with:colon/"),
        ("s3://models/a b/ü", "models", "a b/ü/"),
        ("my.bucket-1/x@y", "my.bucket-1", "x@y/"),
        ("s3://my_bucket/x", "my_bucket", "x/"),  # on Google's, Ceph, and of the first years of Amazon's
    ],
)
def test_all_forms_name_a_bucket_and_a_prefix(text, bucket, prefix):
    assert parse_source(text) == Source(bucket, prefix)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "bucket name is missing"),
        ("s3://", "bucket name is missing"),
        ("/models", "bucket name is missing"),
        ("http://t3.storage.dev/models", "scheme http:// is neither"),
        ("tigris://models", "scheme tigris:// is neither"),
        ("s3://Models", "no upper-case letters"),
        ("s3://my bucket", "not ' '"),
        ("s3://ab", "3 to 63 characters"),
        ("s3:/models", "two slashes belong behind the scheme s3:"),
        ("t3:models/llama", "two slashes belong behind the scheme t3:"),
        ("s3://" + "a" * 64, "3 to 63 characters"),
        ("s3://-models", "begin and end"),
        ("s3://models.", "begin and end"),
        ("s3://mod..els", "two dots"),
        ("s3://192.168.0.1", "IP address"),
        ("s3://models:llama", "not ':'"),
        ("s3://models//x", "empty"),
        ("s3://models/a/../b", "'..'"),
        ("s3://models/./b", "'.'"),
        ("s3://models/a\0b", "NUL"),
        ("s3://models/" + "x" * 1024, "longer than a key"),
    ],
)
def test_a_malformed_source_says_what_is_wrong_and_shows_an_example(text, reason):
    with pytest.raises(ConfigError) as caught:
        parse_source(text)
    assert reason in caught.value.detail
    assert "example: s3://my-bucket/models/llama" in caught.value.detail


@pytest.mark.parametrize("text", ["s3://tid_key:tsec_secret@models", "tid_key:tsec_secret@models/x"])
def test_credentials_in_a_source_are_refused_and_not_repeated(text):
    with pytest.raises(ConfigError) as caught:
        parse_source(text)
    assert "tsec_secret" not in str(caught.value)
    assert "AWS_SECRET_ACCESS_KEY" in str(caught.value)


@given(st.text())
def test_any_text_is_a_source_or_a_config_error(text):
    with contextlib.suppress(ConfigError):
        source = parse_source(text)
        assert parse_source(source.url) == source
        assert source.prefix == "" or source.prefix.endswith("/")


def test_the_environment_names_a_source_in_a_fixed_order():
    both = {"MODEL_BUCKET_NAME": "third", "TIGRIS_STORAGE_BUCKET": "second", "BUCKET_NAME": ""}
    assert source_from_environment(both) == (Source("second"), "TIGRIS_STORAGE_BUCKET")
    assert source_from_environment({**both, "BUCKET_NAME": "first/p"}) == (Source("first", "p/"), "BUCKET_NAME")


def test_no_source_anywhere_says_where_one_may_come_from():
    with pytest.raises(ConfigError, match="BUCKET_NAME or TIGRIS_STORAGE_BUCKET or MODEL_BUCKET_NAME"):
        source_from_environment({})


def test_a_bad_source_in_the_environment_names_the_variable():
    with pytest.raises(ConfigError, match="environment variable BUCKET_NAME: source 'Bad'"):
        source_from_environment({"BUCKET_NAME": "Bad"})
