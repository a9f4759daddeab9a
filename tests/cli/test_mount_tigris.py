from __future__ import annotations

import pytest

from tigrismount.cli.mount_tigris import main


@pytest.fixture
def calls(monkeypatch):
    """Collects the command lines that would be run; each ends with the status in ``calls.status``."""

    class Calls(list):
        status = 0

    found = Calls()

    def run(command):
        found.append(list(command))
        return found.status

    monkeypatch.setattr("tigrismount.cli.mount_tigris.tigrismount", run)
    return found


def test_mount_is_called_with_source_directory_and_options(calls):
    assert main(["s3://b/p", "/models", "-v", "-n", "-o", "ro,_netdev,cache_size=1G"]) == 0
    assert calls == [["mount", "s3://b/p", "/models", "-o", "ro,_netdev,cache_size=1G"]]


def test_options_may_come_first_and_more_than_once(calls):
    assert main(["-o", "ro", "-t", "tigris", "s3://b", "/m", "-o", "allow_other"]) == 0
    assert calls == [["mount", "s3://b", "/m", "-o", "ro,allow_other"]]


def test_fake_does_all_but_the_mount(calls):
    assert main(["s3://b", "/m", "-f"]) == 0
    assert calls == [["mount", "s3://b", "/m", "--print-request"]]


def test_sloppy_drops_what_nobody_knows(calls):
    assert main(["s3://b", "/m", "-s", "-o", "ro,port=7,x-systemd.automount,no_prefetch_at_all,metadata_ttl=5s"]) == 0
    assert calls == [["mount", "s3://b", "/m", "-o", "ro,x-systemd.automount,metadata_ttl=5s"]]


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (1, 32), (2, 1), (3, 32), (130, 8)])
def test_the_exit_status_is_that_of_mount(calls, status, expected):
    calls.status = status
    assert main(["s3://b", "/m"]) == expected


@pytest.mark.parametrize("arguments", [[], ["s3://b"], ["a", "b", "c"], ["s3://b", "/m", "-q"], ["-o"]], ids=str)
def test_bad_usage_is_1(calls, arguments, capsys):
    assert main(arguments) == 1
    assert calls == []
    assert "usage: mount.tigris SPEC DIR" in capsys.readouterr().err


def test_help_is_no_mistake(calls, capsys):
    assert main(["--help"]) == 0
    assert "usage: mount.tigris" in capsys.readouterr().out


def test_what_mount_adds_by_itself_is_no_mistake(calls):
    """Mutation: ``mount -t tigris s3://b /m`` is refused: mount(8) calls its helpers with ``-o rw``."""
    assert main(["s3://b", "/m", "-o", "rw"]) == 0
    assert main(["s3://b", "/m", "-s", "-o", "rw,noexec,cache_size=1G"]) == 0
    assert calls == [["mount", "s3://b", "/m"], ["mount", "s3://b", "/m", "-o", "noexec,cache_size=1G"]]


@pytest.mark.parametrize("option", ["no_such_option", "cache_size"])
def test_options_are_checked_as_on_the_command_line(option, capsys, tmp_path):
    assert main(["s3://bucket", str(tmp_path), "-f", "-o", option]) == 1
    assert f"-o {option}" in capsys.readouterr().err


def test_a_fake_mount_prints_nothing(tmp_path, capsys):
    assert main(["s3://bucket", str(tmp_path), "-f", "-o", "ro,_netdev,nofail,x-systemd.mount-timeout=60s"]) == 0
    assert capsys.readouterr().out == ""
