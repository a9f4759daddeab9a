"""The wheel and the sdist, as a stranger gets them: built, installed where no sources are, and run."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

import tigrismount
from tigrismount.testing.mount import require_fuse

ROOT = Path(__file__).resolve().parents[2]
NAME = f"tigrismount-{tigrismount.__version__}"
OURS = ("AWS_", "TIGRIS", "BUCKET_NAME", "MODEL_", "PYTHON")


def run(*command: object, cwd: Path, env: dict[str, str] | None = None) -> str:
    ended = subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, timeout=280, check=False
    )
    assert ended.returncode == 0, f"{command}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}"
    return ended.stdout


@pytest.fixture(scope="session")
def clean_env() -> dict[str, str]:
    """The environment without what would lead to our sources."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)}


@pytest.fixture(scope="session")
def built(tmp_path_factory, clean_env) -> Path:
    """The sdist of this tree, and the wheel of that sdist: what it lacks, the wheel lacks."""
    directory = tmp_path_factory.mktemp("dist")
    # From a directory without a `build` of its own. The backend is installed: nothing is fetched.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, ROOT, cwd=directory, env=clean_env)
    return directory


@pytest.fixture(scope="session")
def wheel(built) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return message_from_string(archive.read(f"{NAME}.dist-info/METADATA").decode())


def test_the_wheel_holds_the_package_and_the_units_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "tigrismount").rglob("*.py")}
    assert package <= names
    assert {"tigrismount/py.typed", "tigrismount/systemd/tigrismount@.service"} <= names
    # What lies beside the package is data for the prefix: the manual pages.
    assert {name.partition("/")[0] for name in names} == {"tigrismount", f"{NAME}.dist-info", f"{NAME}.data"}
    assert {name for name in names if ".data/" in name} == {
        f"{NAME}.data/data/share/man/{page}" for page in ("man1/tigrismount.1", "man8/mount.tigris.8")
    }
    assert f"{NAME}.dist-info/licenses/LICENSE" in names


def test_the_sdist_holds_what_it_takes_to_test_it(built):
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        names = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    assert {"LICENSE", "Makefile", "README.md", "pyproject.toml", "tests/conftest.py", "docs/conf.py"} <= names
    assert not [name for name in names if name.startswith((".venv", "docs/_build", "build/")) or "__pycache__" in name]


def test_the_metadata_is_what_an_index_shows(metadata):
    assert metadata["Name"] == "tigrismount"
    assert metadata["Version"] == tigrismount.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert {"csi", "demo", "plot"} <= set(metadata.get_all("Provides-Extra"))
    assert "# tigrismount" in metadata.get_payload()


def test_the_installed_wheel_runs_without_the_sources(wheel, tmp_path, clean_env):
    """Beside the libraries that the tests run on; the next test installs those too."""
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site]
    run(*pip, wheel, cwd=tmp_path, env=clean_env)
    env = clean_env | {"PYTHONPATH": str(site)}
    where = run(sys.executable, "-P", "-c", "import tigrismount; print(tigrismount.__file__)", cwd=tmp_path, env=env)
    assert Path(where.strip()).is_relative_to(site)
    for command in (site / "bin" / "tigrismount", site / "bin" / "mount.tigris"):
        assert os.access(command, os.X_OK)
    said = run(site / "bin" / "tigrismount", "--version", cwd=tmp_path, env=env)
    assert said.startswith(f"tigrismount {tigrismount.__version__}\n")
    assert "mount" in run(site / "bin" / "tigrismount", "--help", cwd=tmp_path, env=env)


@pytest.mark.slow
@pytest.mark.fuse
def test_a_fresh_environment_installs_it_and_runs_the_demo(wheel, tmp_path, clean_env):
    """pip resolves the dependencies by itself; nothing of this environment is seen."""
    require_fuse()
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path, env=clean_env)
    bin_directory = tmp_path / "venv" / "bin"
    run(bin_directory / "python", "-m", "pip", "install", "-q", f"{wheel}[demo]", cwd=tmp_path, env=clean_env)
    where = run(
        bin_directory / "python", "-c", "import tigrismount; print(tigrismount.__file__)", cwd=tmp_path, env=clean_env
    )
    assert Path(where.strip()).is_relative_to(tmp_path)

    tigrismount_command = bin_directory / "tigrismount"
    lines = run(tigrismount_command, "--version", cwd=tmp_path, env=clean_env).splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["tigrismount", "Python", "pyfuse3", "libfuse"]
    assert not any("not installed" in line for line in lines)
    run(tigrismount_command, "--help", cwd=tmp_path, env=clean_env)
    run(tigrismount_command, "demo", "--size", "64MiB", "--directory", tmp_path, cwd=tmp_path, env=clean_env)
