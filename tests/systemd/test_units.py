"""The unit files as systemd's own checks see them."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import tigrismount
from tigrismount.errors import MountError
from tigrismount.holder import helper
from tigrismount.holder import unit as unit_files
from tigrismount.holder.mountinfo import MountEntry, parse_mounts
from tigrismount.holder.probe import Finding, Health
from tigrismount.holder.unit import Unit
from tigrismount.objects.credentials import find_credentials
from tigrismount.objects.options import S3Config

REPOSITORY = Path(__file__).resolve().parents[2]
UNITS = REPOSITORY / "systemd"

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The system unit, with an interpreter that is there."""
    path = tmp_path / "tigrismount@.service"
    path.write_text((UNITS / path.name).read_text().replace("/usr/bin/python3", sys.executable))
    return path


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@needs_analyze
@pytest.mark.parametrize("scope", ["system", "user"])
def test_systemd_has_nothing_to_say_about_a_unit(unit, scope):
    if scope == "user":
        unit.write_text((UNITS / "user" / unit.name).read_text().replace("/usr/bin/python3", sys.executable))
    done = analyze("verify", "--man=no", unit)
    assert (done.returncode, done.stderr) == (0, "")


@needs_analyze
def test_a_misspelt_line_would_be_seen(unit):
    unit.write_text(unit.read_text() + "\n[Service]\nNoSuchThing=1\n")
    assert "NoSuchThing" in analyze("verify", "--man=no", unit).stderr


@needs_analyze
def test_the_exposure_is_at_most_two(unit):
    done = analyze("security", "--offline=true", "--threshold=20", unit)
    assert done.returncode == 0, done.stdout
    assert float(re.search(r"exposure level .*: ([\d.]+)", done.stdout)[1]) <= 2.0


def test_all_privilege_is_in_the_helpers_lines():
    lines = (UNITS / "tigrismount@.service").read_text().splitlines()
    privileged = [line for line in lines if line.startswith("Exec") and "=+" in line]
    assert len(privileged) == 2
    assert all("-I -m tigrismount.holder.helper" in line for line in privileged)


def test_the_key_that_the_guide_puts_beside_a_unit_is_found_on_tigris():
    """The tests that boot systemd have another store, for which boto3 finds it."""
    unit = (UNITS / "tigrismount@.service").read_text()
    [name] = re.findall(r"^Environment=AWS_SHARED_CREDENTIALS_FILE=(\S+)$", unit, re.MULTILINE)
    guide = (REPOSITORY / "docs" / "howto" / "systemd.md").read_text()
    [keys] = re.findall(r"<<'END'\n(.*?)^END$", guide, re.MULTILINE | re.DOTALL)
    [home] = re.findall(r"^Environment=.*\bHOME=(\S+)$", unit, re.MULTILINE)
    path = name.replace("%d", "/run/credentials/tigrismount@my-bucket.service")
    found = find_credentials(
        S3Config(),
        {"AWS_SHARED_CREDENTIALS_FILE": path, "HOME": home},
        Path(home),
        lambda asked: keys if str(asked) == path else None,
    )
    assert found is not None
    assert (found.access_key_id, found.secret_access_key) == ("tid_...", "tsec_...")


@pytest.mark.parametrize(
    ("settings", "kib"),
    [
        ({}, 4096),
        ({"kernel-read-ahead": "auto"}, 4096),
        ({"kernel_read_ahead": "512"}, 512),
        ({"kernel-read-ahead": 0}, 0),
    ],
)
def test_the_helper_understands_a_read_ahead_however_it_is_written(settings, kib):
    assert helper._read_ahead_kib(Unit("b", "s3://b", "/mnt/b", "/etc/tigrismount/b.toml", settings)) == kib


@pytest.mark.parametrize(("owner", "left"), [(0, 1), (990, 0)], ids=["somebody's own", "a unit's"])
def test_the_helper_takes_no_mount_away_that_somebody_made_by_hand(monkeypatch, owner, left):
    """Mutation: a unit that is started, or that does not start, unmounts what others read at the same place."""
    line = f"90 27 0:50 / /mnt/b ro - fuse.tigrismount s3://b ro,user_id={owner}".encode()
    mounts = parse_mounts(line)
    monkeypatch.setattr(helper, "mount_at", lambda _: mounts[-1] if mounts else None)
    monkeypatch.setattr(helper, "unmount", lambda _, lazy=False: mounts.pop())
    monkeypatch.setattr(helper, "probe", lambda _, timeout_s: Finding(Health.OK))
    monkeypatch.setattr(helper.pwd, "getpwnam", lambda _: SimpleNamespace(pw_uid=990, pw_gid=990))
    monkeypatch.setattr(helper, "_make_directory", lambda _: pytest.fail("goes on") if left else sys.exit())
    unit = Unit("b", "s3://b", "/mnt/b", "/etc/tigrismount/b.toml", {})
    with pytest.raises(MountError if left else SystemExit, match="is mounted there already" if left else None):
        helper._mount(unit)
    assert len(mounts) == left
    mounts[:] = parse_mounts(line)
    monkeypatch.setenv("SERVICE_RESULT", "exit-code")
    monkeypatch.setenv("EXIT_STATUS", "1")
    helper._unmount(unit)
    assert len(mounts) == left


@pytest.mark.parametrize("owner", [0, 990], ids=["somebody's own", "a unit's"])
def test_the_helper_takes_no_mount_away_that_it_could_not_look_at(monkeypatch, owner):
    """As where the child that looked was killed, for the same want of memory that has ended the supervisor.

    Mutation: a mount that waits for its next worker is replaced, and files that are open fail.
    """
    entry = parse_mounts(f"90 27 0:50 / /mnt/b ro - fuse.tigrismount s3://b ro,user_id={owner}".encode())[0]
    monkeypatch.setattr(helper, "mount_at", lambda _: entry)
    monkeypatch.setattr(helper, "unmount", lambda *_, **__: pytest.fail("takes it away"))
    monkeypatch.setattr(helper, "probe", lambda _, timeout_s: Finding(Health.FAILED))
    monkeypatch.setattr(helper.pwd, "getpwnam", lambda _: SimpleNamespace(pw_uid=990, pw_gid=990))
    unit = Unit("b", "s3://b", "/mnt/b", "/etc/tigrismount/b.toml", {})
    with contextlib.nullcontext() if owner else pytest.raises(MountError, match="is mounted there already"):
        helper._mount(unit)


def test_the_helper_leaves_a_units_mount_that_is_covered_and_what_covers_it(monkeypatch, capsys):
    """It waits for its next worker below what an administrator has mounted on top, as its supervisor is started anew.

    Mutation: systemd forgets it, so that its open files fail, and the one made in its place hides what covered it.
    """
    mounts = parse_mounts(
        b"90 27 0:50 / /mnt/b ro - fuse.tigrismount s3://b ro,user_id=990\n"
        b"91 90 0:51 / /mnt/b rw - nfs4 server:/models rw\n"
    )
    monkeypatch.setattr(helper, "mount_at", lambda _: mounts[-1])
    monkeypatch.setattr(helper, "read_mounts", lambda: mounts)
    monkeypatch.setattr(helper.pwd, "getpwnam", lambda _: SimpleNamespace(pw_uid=990, pw_gid=990))
    monkeypatch.setattr(helper, "_make_directory", lambda _: sys.exit("goes on"))
    unit = Unit("b", "s3://b", "/mnt/b", "/etc/tigrismount/b.toml", {})
    helper._mount(unit)
    assert "server:/models" in capsys.readouterr().err
    del mounts[0]
    with pytest.raises(SystemExit, match="goes on"):  # as where the mountpoint is another filesystem's root
        helper._mount(unit)


def test_the_helper_is_small_and_needs_the_standard_library_only():
    package = Path(tigrismount.__file__).parent
    code = (
        "import sys, tigrismount.holder.helper;"
        "print(sorted({name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = [{str(package.parent)!r}]; {code}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "['__main__', 'tigrismount']\n"
    lines = (package / "holder" / "helper.py").read_text().splitlines()
    assert len(lines) <= 175


@pytest.mark.parametrize(("number", "left"), [(90, 0), (91, 1)], ids=["the unit's", "one that came after it"])
def test_the_helper_takes_a_mount_away_where_it_was_made(monkeypatch, tmp_path, number, left):
    """Mutation: who changes a unit's mountpoint and restarts it leaves a dead mount at the old one."""
    mounts = parse_mounts(f"{number} 27 0:50 / /mnt/old ro - fuse.tigrismount s3://b ro,user_id=990".encode())
    made = parse_mounts(b"90 27 0:50 / /mnt/old ro - fuse.tigrismount s3://b ro,user_id=990")[0]

    def mount_at(place: str) -> MountEntry | None:
        return next((entry for entry in mounts if entry.mountpoint == place), None)

    monkeypatch.setattr(unit_files, "PLACES", str(tmp_path / "places"))
    monkeypatch.setattr(unit_files, "read_mounts", lambda: mounts)
    monkeypatch.setattr(helper, "mount_at", mount_at)
    monkeypatch.setattr(helper, "unmount", lambda place, lazy=False: mounts.remove(mount_at(place)))
    monkeypatch.setattr(helper.pwd, "getpwnam", lambda _: SimpleNamespace(pw_uid=990, pw_gid=990))
    monkeypatch.setenv("SERVICE_RESULT", "success")
    unit_files.note_place(Unit("b", "s3://b", "/mnt/old", "/etc/tigrismount/b.toml", {}), made)
    now = Unit("b", "s3://b", "/mnt/new", "/etc/tigrismount/b.toml", {})
    with monkeypatch.context() as killed:
        killed.setenv("SERVICE_RESULT", "signal")
        killed.setattr(helper, "probe", lambda _, timeout_s: Finding(Health.HUNG))
        killed.setattr(helper, "_make_directory", lambda _: sys.exit())
        helper._unmount(now)
        with pytest.raises(SystemExit) if left else contextlib.nullcontext():
            helper._mount(now)
        assert len(mounts) == 1, "after a kill it waits for the process that comes"
    helper._unmount(now)
    assert len(mounts) == left
    assert not list((tmp_path / "places").iterdir())


def test_the_helper_finds_a_mount_to_which_a_symbolic_link_leads(monkeypatch, tmp_path):
    """The kernel lists it where it is.

    Mutation: a start after a kill drops the connection that waits for it, and a stop leaves a dead mount.
    """
    here = tmp_path.resolve()
    (here / "disk").mkdir()
    (here / "models").symlink_to("disk")
    meant: list[str] = []
    monkeypatch.setattr(helper, "_enter_host_namespace", lambda: None)
    monkeypatch.setattr(helper, "read_unit", lambda name, **_: Unit(name, "s3://b", f"{here}/models/b", None, {}))
    for name in ("_mount", "_unmount"):
        monkeypatch.setattr(helper, name, lambda unit: meant.append(unit.mountpoint))
    assert [helper.main([what, "b"]) for what in ("mount", "unmount")] == [0, 0]
    assert meant == [f"{here}/disk/b"] * 2


@pytest.mark.parametrize(("result", "left"), [("success", 0), ("signal", 1)], ids=["stopped", "killed"])
def test_the_helper_takes_a_mount_away_also_where_its_file_is_wrong_by_now(monkeypatch, tmp_path, result, left):
    """Mutation: 'systemctl stop' leaves a dead mount, and 'restart' a unit that serves what nobody can see."""
    mounts = parse_mounts(b"90 27 0:50 / /mnt/b ro - fuse.tigrismount s3://b ro,user_id=990")
    forgotten: list[str] = []

    def fail(*_: object, **__: object) -> Unit:
        raise MountError("b.toml: is not TOML")

    def mount_at(place: str) -> MountEntry | None:
        return next((entry for entry in mounts if entry.mountpoint == place), None)

    def remove(*names: str) -> bool:
        forgotten.extend(names)
        return True

    monkeypatch.setattr(unit_files, "PLACES", str(tmp_path / "places"))
    monkeypatch.setattr(unit_files, "read_mounts", lambda: mounts)
    monkeypatch.setattr(helper, "mount_at", mount_at)
    monkeypatch.setattr(helper, "unmount", lambda place, lazy=False: mounts.remove(mount_at(place)))
    monkeypatch.setattr(helper, "_enter_host_namespace", lambda: None)
    monkeypatch.setattr(helper, "read_unit", fail)
    monkeypatch.setattr(helper.pwd, "getpwnam", lambda _: SimpleNamespace(pw_uid=990, pw_gid=990))
    notify = SimpleNamespace(remove=remove, wait_until_heard=lambda: None)
    monkeypatch.setattr(helper, "Notifier", lambda _: notify)
    monkeypatch.setenv("SERVICE_RESULT", result)
    unit_files.note_place(Unit("b", "s3://b", "/mnt/b", "/etc/tigrismount/b.toml", {}), mounts[0])
    assert helper.main(["unmount", "b"]) == 1, "the file is still to be mended"
    assert len(mounts) == left
    assert ("fuse" in forgotten) is not bool(left)


def test_a_unit_that_is_to_go_where_another_one_is_takes_no_mount_but_its_own_away(monkeypatch, tmp_path):
    """Mutation: where two units change places, to stop the first ends what is read of the second."""
    mounts = parse_mounts(
        b"90 27 0:50 / /mnt/old ro - fuse.tigrismount s3://b ro,user_id=990\n"
        b"91 27 0:51 / /mnt/new ro - fuse.tigrismount s3://c ro,user_id=990"
    )

    def mount_at(place: str) -> MountEntry | None:
        return next((entry for entry in mounts if entry.mountpoint == place), None)

    monkeypatch.setattr(unit_files, "PLACES", str(tmp_path / "places"))
    monkeypatch.setattr(unit_files, "read_mounts", lambda: mounts)
    monkeypatch.setattr(helper, "mount_at", mount_at)
    monkeypatch.setattr(helper, "unmount", lambda place, lazy=False: mounts.remove(mount_at(place)))
    monkeypatch.setattr(helper.pwd, "getpwnam", lambda _: SimpleNamespace(pw_uid=990, pw_gid=990))
    monkeypatch.setenv("SERVICE_RESULT", "success")
    unit_files.note_place(Unit("b", "s3://b", "/mnt/old", "/etc/tigrismount/b.toml", {}), mounts[0])
    helper._unmount(Unit("b", "s3://b", "/mnt/new", "/etc/tigrismount/b.toml", {}))
    assert [entry.source for entry in mounts] == ["s3://c"]


def test_the_helper_leaves_a_mount_that_is_covered_where_it_was_made(monkeypatch, tmp_path):
    """Mutation: after a kill the one that waits for its process is dropped, as nobody sees it, for one elsewhere."""
    mounts = parse_mounts(
        b"90 27 0:50 / /mnt/old ro - fuse.tigrismount s3://b ro,user_id=990\n"
        b"91 90 0:51 / /mnt/old rw - nfs4 server:/models rw\n"
    )
    monkeypatch.setattr(unit_files, "PLACES", str(tmp_path / "places"))
    monkeypatch.setattr(unit_files, "read_mounts", lambda: mounts)
    monkeypatch.setattr(helper, "mount_at", lambda place: mounts[-1] if place == "/mnt/old" else None)
    monkeypatch.setattr(helper, "_make_directory", lambda _: pytest.fail("goes on"))
    monkeypatch.setattr(helper.pwd, "getpwnam", lambda _: SimpleNamespace(pw_uid=990, pw_gid=990))
    unit_files.note_place(Unit("b", "s3://b", "/mnt/old", "/etc/tigrismount/b.toml", {}), mounts[0])
    helper._mount(Unit("b", "s3://b", "/mnt/new", "/etc/tigrismount/b.toml", {}))


def test_a_unit_with_the_mountpoint_of_another_one_takes_no_mount_but_its_own_away(monkeypatch, tmp_path):
    """As one whose file was copied from the other's.

    Mutation: to start it ends what is read of the other one, which then ends this one's as it stops.
    """
    mounts = parse_mounts(b"90 27 0:50 / /mnt/b ro - fuse.tigrismount s3://b ro,user_id=990")
    monkeypatch.setattr(unit_files, "PLACES", str(tmp_path / "places"))
    monkeypatch.setattr(helper, "mount_at", lambda _: mounts[-1] if mounts else None)
    monkeypatch.setattr(helper, "unmount", lambda _, lazy=False: mounts.pop())
    monkeypatch.setattr(helper, "probe", lambda _, timeout_s: Finding(Health.OK))
    monkeypatch.setattr(helper, "_make_directory", lambda _: pytest.fail("goes on"))
    monkeypatch.setattr(helper.pwd, "getpwnam", lambda _: SimpleNamespace(pw_uid=990, pw_gid=990))
    first, second = (Unit(name, f"s3://{name}", "/mnt/b", f"/etc/tigrismount/{name}.toml", {}) for name in "bc")
    unit_files.note_place(first, mounts[0])
    with pytest.raises(MountError, match="s3://b is mounted there already"):
        helper._mount(second)
    for result, status in (("exit-code", "1"), ("success", "0")):
        monkeypatch.setenv("SERVICE_RESULT", result)
        monkeypatch.setenv("EXIT_STATUS", status)
        helper._unmount(second)
        assert len(mounts) == 1
    helper._unmount(first)
    assert not mounts


def test_a_mount_that_was_given_the_numbers_of_one_that_is_gone_is_the_new_units(monkeypatch, tmp_path):
    """The kernel gives them to the next one, also where nobody has taken note of the end of the first.

    Mutation: the first unit, whose mountpoint was changed, does not start, and ends the mount of the second one.
    """
    [made] = parse_mounts(b"90 27 0:50 / /mnt/b ro - fuse.tigrismount s3://c ro,user_id=990")
    monkeypatch.setattr(unit_files, "PLACES", str(tmp_path / "places"))
    monkeypatch.setattr(unit_files, "read_mounts", lambda: [made])
    first, second = (Unit(name, f"s3://{name}", "/mnt/b", f"/etc/tigrismount/{name}.toml", {}) for name in "bc")
    unit_files.note_place(first, made)
    unit_files.note_place(second, made)
    moved = Unit("b", "s3://b", "/mnt/new", "/etc/tigrismount/b.toml", {})
    assert unit_files.made_elsewhere(moved) is None
    assert unit_files.is_anothers(first, made)
    assert not unit_files.is_anothers(second, made)
