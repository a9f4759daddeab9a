from __future__ import annotations

import sys

import pytest

from tigrismount.cli.main import main


@pytest.fixture
def tree(tmp_path):
    return tmp_path / "tree"


def files(tree) -> set[str]:
    return {str(path.relative_to(tree)) for path in tree.rglob("*") if not path.is_dir() or path.is_symlink()}


UNITS = {
    "etc/systemd/system/tigrismount@.service",
    "etc/systemd/user/tigrismount@.service",
    "etc/sysusers.d/tigrismount.conf",
    "etc/tmpfiles.d/tigrismount.conf",
}


def test_the_files_go_where_systemd_looks_and_away_again(tree, capsys):
    assert main(["install-systemd", "--root", str(tree)]) == 0
    assert files(tree) - {"usr/sbin/mount.tigris"} == UNITS
    assert f"installed {tree}/etc/systemd/system/tigrismount@.service" in capsys.readouterr().out
    assert main(["install-systemd", "--root", str(tree)]) == 0, "installing twice is an upgrade"
    assert main(["install-systemd", "--root", str(tree), "--remove"]) == 0
    assert files(tree) == set()
    assert main(["install-systemd", "--root", str(tree), "--remove"]) == 0


def test_units_run_the_interpreter_that_tigrismount_is_installed_for(tree):
    assert main(["install-systemd", "--root", str(tree)]) == 0
    unit = (tree / "etc/systemd/system/tigrismount@.service").read_text()
    assert f"\nExecStart={sys.executable} -P -m tigrismount mount" in unit
    assert "/usr/bin/python3" not in unit.replace(sys.executable, "")


def test_a_file_of_somebody_else_is_not_touched(tree, capsys):
    theirs = tree / "etc/systemd/system/tigrismount@.service"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("[Unit]\n")
    assert main(["install-systemd", "--root", str(tree)]) == 1
    assert "is there already and not ours" in capsys.readouterr().err
    assert main(["install-systemd", "--root", str(tree), "--remove"]) == 0
    assert theirs.read_text() == "[Unit]\n"


def test_what_may_not_be_written_is_said_in_one_line(tmp_path, capsys):
    (tmp_path / "etc").write_text("a file")
    assert main(["install-systemd", "--root", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") <= 2


def helper_link(tree, target):
    link = tree / "usr/sbin/mount.tigris"
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    return link


@pytest.mark.parametrize("name", ["geesefs", "mount.tigris"])
def test_a_link_to_somebody_elses_helper_is_not_touched(tree, capsys, tmp_path, name):
    (tmp_path / name).write_text("#!/bin/sh\nexec geesefs\n")
    link = helper_link(tree, tmp_path / name)
    assert main(["install-systemd", "--root", str(tree)]) == 1
    assert f"not ours (it leads to {tmp_path / name}); move it away first" in capsys.readouterr().err
    assert files(tree) == {"usr/sbin/mount.tigris"}, "nothing else is installed then"
    assert main(["install-systemd", "--root", str(tree), "--remove"]) == 0
    assert link.readlink() == tmp_path / name


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_link_to_an_older_installation_of_ours_is_replaced_or_removed(tree, tmp_path, monkeypatch, is_gone):
    script = "#!/opt/venv/bin/python\nfrom tigrismount.cli.mount_tigris import run\n"
    older, newer = tmp_path / "older" / "mount.tigris", tmp_path / "newer" / "mount.tigris"
    for helper in (newer,) if is_gone else (older, newer):
        helper.parent.mkdir()
        helper.write_text(script)
        helper.chmod(0o755)
    # Beside this interpreter there is none where the checkout was not installed.
    monkeypatch.setattr(sys, "executable", str(newer.parent / "python"))
    link = helper_link(tree, older)
    assert main(["install-systemd", "--root", str(tree)]) == 0
    assert link.readlink() == newer
    assert main(["install-systemd", "--root", str(tree), "--remove"]) == 0
    assert files(tree) == set()
