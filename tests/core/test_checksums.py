"""Checksums as people write them down."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.core.checksums import parse_manifest, parse_sidecar, sum_in_name

A, B = (hashlib.sha256(text).hexdigest() for text in (b"a", b"b"))


def test_a_manifest_is_read_in_the_forms_that_tools_write() -> None:
    manifest = (
        f"{A}  model.safetensors\r\n{B.upper()} *./sub/other.bin\nSHA256 (bsd.gguf) = {A}\n# {A} comment\nnoise\n"
    )
    assert parse_manifest(manifest.encode()) == {"model.safetensors": A, "sub/other.bin": B, "bsd.gguf": A}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (A, A),
        (A.upper() + "\n", A),
        (f"{A}  model.gguf\n", A),
        (f"{A}  ./weights/model.gguf\n", A),
        (f"{A}  another.gguf\n", ""),
        (f"version https://git-lfs.github.com/spec/v1\noid sha256:{A}\nsize 12\n", A),
        (f"oid sha256:{A}\n", ""),
        ("", ""),
        (A[:-1], ""),
        (f"{A}  a/model.gguf\n{B}  b/model.gguf\n", ""),  # one of them, and nobody says which
    ],
)
def test_a_file_beside_another_names_its_sum(text: str, expected: str) -> None:
    assert parse_sidecar(text.encode(), "model.gguf") == expected


def test_a_file_with_two_different_sums_has_none() -> None:
    """Mutation: where the last line counts, a stale line refuses a good model."""
    manifest = f"{A}  model\n{B}  model\n{A}  model\n{A}  other\n{A} *./other\n"
    assert parse_manifest(manifest.encode()) == {"other": A}


@pytest.mark.timeout(20)
def test_a_hostile_pointer_costs_no_more_than_a_manifest() -> None:
    """4 MiB of the first line of a pointer. Mutation: a search of the whole text takes minutes, in the event loop."""
    assert parse_sidecar(b"version https://git-lfs.github.com/spec/v1\n" * 100_000, "model") == ""


def test_the_blobs_of_a_hub_cache_are_named_by_their_sums() -> None:
    assert sum_in_name(f"hub/models--x/blobs/{A}") == A
    assert sum_in_name(f"blobs/{A}") == A
    assert sum_in_name(f"hub/blobs/{A[:40]}") == ""  # git's own sum of a small file
    assert sum_in_name(A) == ""


@given(st.binary(max_size=300))
def test_no_bytes_make_it_fail(data: bytes) -> None:
    parse_manifest(data)
    parse_sidecar(data, "x")
