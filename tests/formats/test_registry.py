from __future__ import annotations

import pytest

from tigrismount.errors import ForeignFormatError
from tigrismount.formats.registry import format_of, format_of_bytes
from tigrismount.testing.gguf_writer import header
from tigrismount.testing.parsing import parse_all

DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("a.safetensors", "safetensors"),
        ("models/x/Model-00001-of-00002.SafeTensors", "safetensors"),
        ("llama-Q4_K_M.gguf", "GGUF"),
        ("x/pytorch_model-00001-of-00003.bin", "PyTorch"),
        ("diffusion_pytorch_model.fp16.bin", "PyTorch"),
        ("best.PT", "PyTorch"),
        ("last.ckpt", "PyTorch"),
        ("a.pth", "PyTorch"),
        (f"models--x/blobs/{DIGEST}", "tensor"),
        (f"blobs/sha256-{DIGEST}", "tensor"),
        (DIGEST, "tensor"),
    ],
)
def test_the_name_promises_the_format_whatever_its_case(key, name):
    assert format_of(key).name == name


@pytest.mark.parametrize(
    "key",
    ["", "safetensors", "a.safetensors.index.json", "a.safetensors/", "a.bin", "a.gguf\n", "models/a.bin", DIGEST[1:]],
)
def test_other_names_have_no_format(key):
    assert format_of(key) is None


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"GGUF\3\0\0\0\0", "GGUF"),
        (b"PK\3\4     ", "PyTorch"),
        (bytes([2, 0, 0, 0, 0, 0, 0, 0]) + b"{}", "safetensors"),
    ],
)
def test_the_first_bytes_tell_the_format(head, name):
    assert format_of_bytes(head).name == name


@pytest.mark.parametrize("head", [b"", b"{", b"\x80\2", b"\xff" * 8 + b"{", bytes(9)])
def test_other_bytes_tell_none(head):
    assert format_of_bytes(head) is None


def test_a_file_named_by_its_digest_is_parsed_as_what_it_begins_like():
    content = header()
    assert parse_all(format_of(DIGEST).begin(len(content)), content)[0].tensors == ()
    with pytest.raises(ForeignFormatError):
        parse_all(format_of(DIGEST).begin(4), b"text")
