"""What Python finds compiled, by what Python itself writes."""

from __future__ import annotations

import compileall
import os
import py_compile
import subprocess
import sys

import pytest

from tigrismount.doctor.bytecode import check_bytecode, is_compiled

MODES = list(py_compile.PycInvalidationMode)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Make a package whose directory nobody writes into."""
    directory = tmp_path / "slowpackage"
    directory.mkdir()
    (directory / "__init__.py").write_text("")
    (directory / "part.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return directory


@pytest.mark.parametrize("mode", MODES, ids=[mode.name for mode in MODES])
def test_what_python_has_compiled_is_found(package, mode):
    assert compileall.compile_dir(package, quiet=1, invalidation_mode=mode)
    assert check_bytecode(["slowpackage"]).verdict == "pass"


def test_what_was_changed_since_is_not(package):
    """Mutation: a file is there, so it is taken for the right one."""
    compileall.compile_dir(package, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP)
    os.utime(package / "part.py", (1, 1))
    assert not is_compiled(package / "part.py")
    assert is_compiled(package / "__init__.py")
    (package / "__pycache__" / f"part.{sys.implementation.cache_tag}.pyc").write_bytes(b"of another Python")
    finding = check_bytecode(["slowpackage", "surely_not_installed"])
    assert (finding.verdict, str(package) in finding.detail) == ("warn", True)


def test_the_remedy_mends_it(package):
    finding = check_bytecode(["slowpackage"])
    assert finding.verdict == "warn"
    subprocess.run(finding.remedy.removeprefix("as their owner: "), shell=True, check=True)
    assert check_bytecode(["slowpackage"]).verdict == "pass"


def test_what_will_be_compiled_in_passing_is_no_concern(package, monkeypatch):
    """A fresh environment that its user may write is none to warn of."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert check_bytecode(["slowpackage"]).verdict == "pass"
