from __future__ import annotations

import fcntl
import os
import sys

import pytest

from tigrismount.cli import mount as mounts
from tigrismount.errors import MountError
from tigrismount.holder import helper, notify
from tigrismount.holder.heirloom import Heirloom, write_memory_file
from tigrismount.holder.request import MountRequest
from tigrismount.holder.unit import Unit


@pytest.mark.parametrize("arguments", [[], ["s3://models"]])
def test_a_mountpoint_is_needed(fails, arguments):
    exit_code, line = fails("mount", *arguments)
    assert exit_code == 2
    assert "the MOUNTPOINT is missing" in line


def test_three_places_are_too_many(fails):
    assert "too many arguments (a b c)" in fails("mount", "a", "b", "c")[1]


def test_one_argument_is_the_mountpoint_and_needs_a_source_from_the_environment(fails, tmp_path):
    exit_code, line = fails("mount", str(tmp_path))
    assert exit_code == 2
    assert "set BUCKET_NAME or TIGRIS_STORAGE_BUCKET or MODEL_BUCKET_NAME" in line


def test_the_source_may_come_from_the_environment(fails, tmp_path, monkeypatch):
    monkeypatch.setenv("BUCKET_NAME", "Wrong")
    assert "environment variable BUCKET_NAME: source 'Wrong'" in fails("mount", str(tmp_path))[1]


def test_all_faults_come_in_one_line(fails, tmp_path):
    exit_code, line = fails("mount", "Bad", str(tmp_path), "--verify", "x", "-o", "rw", "-o", "foo")
    assert exit_code == 2
    for fault in ("source 'Bad'", "--verify 'x'", "-o rw", "-o foo: unknown option"):
        assert fault in line


def test_switches_are_flags(fails, tmp_path):
    """A value that no switch has shows that they were read."""
    line = fails("mount", "s3://models", str(tmp_path), "--no-sign-request", "--profile", "p")[1]
    assert line == "--profile 'p': contradicts --no-sign-request"


def test_a_file_of_authorities_must_be_there(fails, tmp_path):
    exit_code, line = fails("mount", "s3://models", str(tmp_path), "--ca-bundle", "/nowhere.pem")
    assert (exit_code, line) == (2, "--ca-bundle: /nowhere.pem: cannot be read")


def test_a_configuration_file_must_be_there(fails, tmp_path):
    assert fails("mount", "s3://models", str(tmp_path), "--config", "/nowhere.toml")[0] == 2


@pytest.mark.fuse
@pytest.mark.parametrize("where", [[], ["-f"]])
def test_a_mountpoint_that_is_missing_is_said_before_anything_starts(fuse, fails, tmp_path, where):
    exit_code, line = fails("mount", "s3://models", f"{tmp_path}/missing", *where)
    assert (exit_code, line) == (1, f"{tmp_path}/missing: does not exist; 'mkdir -p {tmp_path}/missing' first")


@pytest.mark.fuse
@pytest.mark.parametrize("where", [[], ["-f"]])
def test_a_log_file_that_cannot_be_opened_fails_the_mount(fuse, fails, tmp_path, where):
    exit_code, line = fails("mount", "s3://models", str(tmp_path), "--log-file", "/nowhere/x", *where)
    assert (exit_code, line) == (
        1,
        "log file /nowhere/x: cannot be opened: No such file or directory; choose another with --log-file",
    )


@pytest.mark.fuse
def test_a_store_that_is_away_fails_the_mount_and_leaves_nothing(fuse, fails, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tid_x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tsec_x")
    where = ("s3://models", str(tmp_path), "--cache-dir", "off")
    exit_code, line = fails("mount", *where, "--endpoint-url", "http://127.0.0.1:1", "--request-timeout", "1s")
    assert exit_code == 1
    assert "127.0.0.1:1" in line
    assert "tsec_x" not in line
    assert os.stat(tmp_path).st_dev == os.stat(tmp_path.parent).st_dev


@pytest.mark.parametrize(("where", "grace_s"), [([], 10.0), (["-f"], 1.0)])
def test_in_the_foreground_readers_are_given_less_time_than_a_container_has_to_end(
    tigrismount, tmp_path, where, grace_s
):
    printed = tigrismount("mount", "s3://models", str(tmp_path), *where, "--print-request").out
    assert MountRequest.from_json(printed.encode()).deadlines.unmount_grace_s == grace_s


@pytest.mark.parametrize("flag", ["--cache-dir", "--log-file"])
def test_what_the_mount_would_cover_is_refused(fails, tmp_path, flag):
    exit_code, line = fails("mount", "s3://my-bucket", str(tmp_path), flag, str(tmp_path / "below"))
    assert exit_code == 2
    assert line.startswith(f"{flag}: {tmp_path}/below: lies under the mountpoint")
    assert list(tmp_path.iterdir()) == []


def test_an_interpreter_that_this_user_may_not_run_is_said_in_one_line(fails, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    exit_code, line = fails("mount", "s3://my-bucket", str(tmp_path), "--cache-dir", "off")
    assert exit_code == 1
    assert line.startswith("/nowhere/python3: cannot be started: No such file or directory; install")


@pytest.mark.parametrize(("stored", "status"), [("fuse:init", 2), ("fuse:init:state:journal0", 69)])
def test_a_units_mount_that_has_served_is_left_to_the_next_start(fails, tmp_path, monkeypatch, stored, status):
    """Mutation: where a file cannot be read as the unit is started again, the helper unmounts what waits for it."""

    def read(*_: object, **__: object) -> None:
        raise MountError(f"{tmp_path}/models.toml: cannot be read: Too many open files in system")

    monkeypatch.setattr("tigrismount.cli.mount.read_unit", read)
    monkeypatch.setenv("LISTEN_FDNAMES", stored)
    exit_code, line = fails("mount", "--foreground", "--unit", "models")
    assert exit_code == status
    assert "Too many open files in system" in line


@pytest.fixture
def held(tmp_path, monkeypatch):
    """A mount that systemd holds, as the second of two descriptors; gives its request, and what was started since."""
    started = []

    def run(request: MountRequest, _: object, *, is_held: bool) -> int:
        started.append((request, is_held))
        return 0

    monkeypatch.setattr(mounts, "run_in_foreground", run)
    config = dict.fromkeys(("nonempty", "kernel_read_ahead_kib", "log_file", "log_format", "log_level"))
    before = MountRequest(config={**config, "mountpoint": str(tmp_path), "fsname": "s3://models", "allow_other": True})
    state_fd = write_memory_file(Heirloom(request=before.to_values(), init_request="", init_reply="").to_bytes())
    first_fd = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 500)
    os.dup2(state_fd, first_fd + 1, inheritable=False)
    monkeypatch.setattr(notify, "_FIRST_FD", first_fd)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "2")
    yield before, started
    for fd in (state_fd, first_fd, first_fd + 1):
        os.close(fd)


@pytest.mark.parametrize("wrong", ["a key", "all of it"])
def test_a_unit_whose_file_is_wrong_by_now_goes_on_as_it_was(tigrismount, tmp_path, monkeypatch, held, wrong):
    """Mutation: a typing error, which a reload refuses, unmounts what is read once the unit's processes are killed."""

    def unit_of(*_: object, **__: object) -> Unit:
        if wrong == "all of it":
            raise MountError("models.toml: is not TOML")
        return Unit("models", "s3://models", str(tmp_path), str(tmp_path / "models.toml"), {})

    (tmp_path / "models.toml").write_text("no-such-option = 1\n")
    before, started = held
    monkeypatch.setattr(mounts, "read_unit", unit_of)
    monkeypatch.setenv("LISTEN_FDNAMES", "fuse:state")
    ended = tigrismount("mount", "-f", "--unit", "models")
    assert (ended.exit_code, started) == (0, [(before, True)])
    assert "models.toml: " in ended.err
    assert "goes on as it was until the unit is restarted" in ended.err
    monkeypatch.setenv("LISTEN_FDNAMES", "fuse:init")
    assert tigrismount("mount", "-f", "--unit", "models").exit_code == 2, "it has never served"


def test_the_helper_leaves_a_file_that_is_wrong_to_the_process_that_comes(monkeypatch, tmp_path):
    """It cannot know what systemd holds, and where it ends with an error nothing else of the unit is started."""

    def fail(*_: object, **__: object) -> Unit:
        raise MountError("models.toml: is not TOML")

    monkeypatch.setattr(helper, "_enter_host_namespace", lambda: None)
    monkeypatch.setattr(helper, "read_unit", fail)
    assert helper.main(["mount", "models"]) == 0
    assert helper.main(["unmount", "models"]) == 1


@pytest.mark.parametrize("options", [["--no-such-option"], ["--cache-size"], ["s3://others"]])
def test_a_unit_whose_options_are_wrong_by_now_goes_on_as_it_was(tigrismount, monkeypatch, held, options):
    """They come from a file of the environment, which each start reads anew: OPTS.

    Mutation: it ends with 2, and the helper unmounts what is read once the unit's processes are killed.
    """
    before, started = held
    monkeypatch.setenv("LISTEN_FDNAMES", "fuse:state")
    ended = tigrismount("mount", "--foreground", "--unit", "models", *options)
    assert (ended.exit_code, started) == (0, [(before, True)])
    assert "goes on as it was until the unit is restarted" in ended.err
    monkeypatch.setenv("LISTEN_FDNAMES", "fuse:init")
    ended = tigrismount("mount", "--foreground", "--unit", "models", *options)
    assert (ended.exit_code, len(started)) == (2, 1), "it has never served"


def test_a_unit_whose_log_file_cannot_be_opened_by_now_goes_on(tigrismount, tmp_path, monkeypatch, held):
    """As where its directory is gone, or was named by mistake, which a reload refuses.

    Mutation: each of ten starts ends before the mount that waits is looked at, and then its open files fail.
    """
    _, started = held
    (tmp_path / "models.toml").write_text('log-file = "/nowhere/x.log"\ncache-dir = "off"\n')
    unit = Unit("models", "s3://models", str(tmp_path / "at"), str(tmp_path / "models.toml"), {})
    monkeypatch.setattr(mounts, "read_unit", lambda *_, **__: unit)
    for stored, used in (("fuse:state", None), ("fuse:init", "/nowhere/x.log")):
        monkeypatch.setenv("LISTEN_FDNAMES", stored)
        ended = tigrismount("mount", "--foreground", "--unit", "models")
        assert ended.exit_code == 0
        request, is_held = started.pop()
        assert (request.config["log_file"], is_held) == (used, True), "what has never served is refused"
        assert ("the mount goes on" in ended.err) is (used is None)


@pytest.fixture
def users_unit(tmp_path, monkeypatch):
    """Where a plain user's unit 'models' mounts; gives the place, and what was started."""
    started: list[str] = []

    def run(request: MountRequest, *_: object, **__: object) -> int:
        started.append(request.config["mountpoint"])
        return 0

    monkeypatch.setattr(mounts, "run_in_foreground", run)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "mnt" / "tigris" / "models", started


def test_the_directory_of_a_users_unit_is_made_or_the_reason_said(tigrismount, fails, users_unit, tmp_path):
    """Mutation: an internal error that asks to be reported, of a directory that is root's."""
    where, started = users_unit
    assert tigrismount("mount", "--foreground", "--unit", "models", "--cache-dir", "off").exit_code == 0
    assert where.is_dir()
    (tmp_path / "mnt").rename(tmp_path / "away")
    (tmp_path / "mnt").write_bytes(b"")
    exit_code, line = fails("mount", "--foreground", "--unit", "models", "--cache-dir", "off")
    assert (exit_code, line, len(started)) == (1, f"{where}: cannot be made: Not a directory", 1)
