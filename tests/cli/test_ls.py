"""``ls`` lists what a mount would show, and with --hidden what it would not."""

from __future__ import annotations

import json

import pytest

from tigrismount.cli.table import visible


@pytest.fixture
def ls(tigrismount, bucket, monkeypatch):
    """List the test's bucket."""
    for name, value in bucket.s3.env().items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, prefix: str = ""):
        return tigrismount("ls", f"s3://{bucket.name}{prefix}", *arguments)

    return run


def test_a_directory_is_listed_as_a_mount_shows_it(ls, bucket):
    bucket.put("models/a.safetensors", b"x" * 2048, StorageClass="STANDARD_IA")
    bucket.put("models/sub/b", b"")
    bucket.put("models/latest", b"", Metadata={"--symlink-target": "sub"})
    bucket.put("models/sub", b"shadowed")
    listed = ls(prefix="/models")
    assert listed.exit_code == 0
    lines = [line.split() for line in listed.out.splitlines()]
    assert [line[-1] for line in lines] == ["a.safetensors", "sub", "sub/"]
    assert lines[0][:2] == ["2", "KiB"] or lines[0][0] == "2KiB"
    assert lines[1][-3:] == ["latest", "->", "sub"]

    rows = json.loads(ls("--json", prefix="/models").out)
    kinds = {row["name"]: row["type"] for row in rows}
    assert kinds == {"a.safetensors": "file", "latest": "symlink", "sub": "directory"}
    assert rows[0]["size"] == 2048
    assert rows[0]["storage_class"] == "STANDARD_IA"
    assert rows[1]["target"] == "sub"


HIDDEN = {
    "a//b": "it has an empty component",
    "a/../c": "it has the component '..'",
    "both": "a directory has its name",
    "x" * 256: "a component is above 255 bytes",
    "esc\x1b[31m//back\\slash": "it has an empty component",
}


def test_hidden_and_shadowed_keys_are_listed_with_their_reasons_and_nothing_else_is(ls, bucket):
    for key in (*HIDDEN, "both/inside", "both-x", "fine"):
        bucket.put(key, b"1")
    rows = json.loads(ls("--hidden", "--json").out)
    assert {row["key"]: row["reason"] for row in rows} == HIDDEN

    out = ls("--hidden").out
    assert len(out.splitlines()) == len(HIDDEN)
    assert "\x1b" not in out
    assert "esc\\x1b[31m//back\\\\slash  (it has an empty component)" in out


def test_nothing_hidden_is_an_empty_list(ls, bucket):
    bucket.put("a", b"1")
    assert json.loads(ls("--hidden", "--json").out) == []
    assert ls("--hidden").out == ""


def test_what_is_not_there_is_not_found_and_bad_usage_is_bad_usage(fails, ls, bucket):
    exit_code, line = fails("ls", f"s3://{bucket.name}/nowhere")
    assert exit_code == 3
    assert "nothing lies under the prefix" in line
    bucket.put("notes.txt", b"1")
    line = fails("ls", f"s3://{bucket.name}/notes.txt")[1]
    assert line.endswith("'notes.txt' is a file: name the directory that it lies in")
    assert fails("ls", "s3://no-such-bucket-here")[0] == 3
    assert fails("ls", "s3://UPPER")[0] == 2
    assert fails("ls", f"s3://{bucket.name}", "--addressing", "diagonal")[0] == 2


def test_all_buckets_are_directories(tigrismount, fails, ls, bucket):
    rows = json.loads(tigrismount("ls", "--all-buckets", "--json").out)
    assert {"name": bucket.name, "type": "directory"} in rows
    assert fails("ls", "--all-buckets", "--hidden")[0] == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain é", "plain é"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("back\\x1b", "back\\\\x1b"),
        ("\udcff", "\\xff"),
        ("\u202e", "\\u202e"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_nothing_in_a_key_reaches_the_terminal_unseen(text, expected):
    assert visible(text) == expected
