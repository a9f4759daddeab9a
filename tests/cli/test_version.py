"""What ``--version`` says about the kernel, from made-up machines."""

from __future__ import annotations

import gzip
from types import SimpleNamespace

import pytest

from tigrismount.cli import version
from tigrismount.cli.version import kernel_features, version_lines

BOTH = "CONFIG_FUSE_PASSTHROUGH=y\nCONFIG_FUSE_IO_URING=y\n"


@pytest.fixture
def machine(tmp_path):
    def make(*, config: str = "", packed: str = "", uring: str = "") -> str:
        for path, body in {
            "boot/config-6.18.1": config.encode(),
            "proc/config.gz": gzip.compress(packed.encode()) if packed else b"",
            "sys/module/fuse/parameters/enable_uring": uring.encode(),
        }.items():
            if body:
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_bytes(body)
        return str(tmp_path)

    return make


def test_an_old_kernel_is_told_what_it_lacks(machine):
    assert kernel_features("5.15.0-91-generic", machine()) == [
        "resend no (from Linux 6.9)",
        "passthrough no (from Linux 6.9)",
        "io_uring no (from Linux 6.14)",
    ]


@pytest.mark.parametrize("where", ["config", "packed"])
def test_the_build_configuration_and_the_switch_are_looked_at(machine, where):
    assert kernel_features("6.18.1", machine(**{where: BOTH}, uring="Y\n")) == [
        "resend yes",
        "passthrough yes",
        "io_uring yes",
    ]


def test_what_was_left_out_or_is_off_says_so(machine):
    left_out = "# CONFIG_FUSE_PASSTHROUGH is not set\nCONFIG_FUSE_IO_URING=y\n"
    assert kernel_features("6.18.1", machine(config=left_out, uring="N\n")) == [
        "resend yes",
        "passthrough no (built without CONFIG_FUSE_PASSTHROUGH)",
        "io_uring no (off in /sys/module/fuse/parameters/enable_uring)",
    ]


def test_what_cannot_be_known_is_not_claimed(machine):
    assert kernel_features("6.18.1", machine())[1] == "passthrough yes (if built with CONFIG_FUSE_PASSTHROUGH)"
    assert kernel_features("something else", machine())[0] == "resend no (from Linux 6.9)"


def test_each_component_has_a_line():
    assert [line.split()[0] for line in version_lines()[:4]] == ["tigrismount", "Python", "pyfuse3", "libfuse"]


@pytest.mark.parametrize("there", ["libfuse3.so.3", "libfuse3.so.4"])
def test_the_library_is_found_by_either_of_its_names(monkeypatch, there):
    """Mutation: Debian 13 has libfuse 3.17, and --version says that none is installed."""

    class Version:
        restype = None

        def __call__(self) -> bytes:
            return b"3.17.2"

    def load(name: str) -> SimpleNamespace:
        if name != there:
            raise OSError(name)
        return SimpleNamespace(fuse_pkgversion=Version())

    monkeypatch.setattr(version, "ctypes", SimpleNamespace(CDLL=load, c_char_p=None))
    assert version_lines()[3] == "libfuse 3.17.2"
