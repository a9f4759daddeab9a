from __future__ import annotations

import math
import os

import pytest

from tigrismount.config.host import (
    cgroup_cores,
    cgroup_memory_limit_bytes,
    fuse_patience_s,
    read_disk_space,
    read_host_facts,
)
from tigrismount.errors import ConfigError


@pytest.fixture
def cgroups(tmp_path):
    """Write limit files under a fake hierarchy and return its mountinfo."""

    def make(kind: str, limits: dict[str, str]) -> str:
        name = "memory.max" if kind == "cgroup2" else "memory.limit_in_bytes"
        for group, limit in limits.items():
            directory = tmp_path / group
            directory.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(limit + "\n")
        options = "rw" if kind == "cgroup2" else "rw,memory"
        return f"36 25 0:29 / {tmp_path} rw,relatime shared:9 - {kind} {kind} {options}\n"

    return make


def test_version_2_takes_the_tightest_limit_on_the_way_up(cgroups):
    mounts = cgroups("cgroup2", {"a/b": "max", "a": "1000", ".": "5000"})
    assert cgroup_memory_limit_bytes("0::/a/b\n", mounts) == 1000


def test_version_1_takes_the_tightest_limit_on_the_way_up(cgroups):
    mounts = cgroups("cgroup", {"a/b": "9223372036854771712", "a": "3000"})
    assert cgroup_memory_limit_bytes("4:cpu,memory:/a/b\n0::/\n", mounts) == 3000


def test_a_container_that_sees_its_group_as_the_root_finds_the_limit(cgroups):
    """The path in /proc/self/cgroup is then the host's, and not there."""
    mounts = cgroups("cgroup2", {".": "2000"})
    assert cgroup_memory_limit_bytes("0::/kubepods/pod1/c1\n", mounts) == 2000


@pytest.mark.parametrize("membership", ["", "0::/\n", "garbage\n", "4:cpu:/a\n"])
def test_no_limit_is_none(cgroups, membership):
    assert cgroup_memory_limit_bytes(membership, cgroups("cgroup2", {".": "max"})) is None
    assert cgroup_memory_limit_bytes(membership, "nonsense\n36 25 0:29\n") is None


def test_this_host_has_facts():
    facts = read_host_facts({"HOME": "/h"})
    assert 1 << 20 < facts.memory_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert (facts.uid, facts.gid, facts.cwd) == (os.geteuid(), os.getegid(), os.getcwd())
    assert facts.cache_home == "/h/.cache"


@pytest.mark.parametrize(("value", "cache_home"), [("/x", "/x"), ("relative", "/h/.cache"), ("", "/h/.cache")])
def test_cache_home_follows_the_xdg_rules(value, cache_home):
    assert read_host_facts({"HOME": "/h", "XDG_CACHE_HOME": value}).cache_home == cache_home


def test_space_of_a_directory_that_is_not_there_yet_is_its_filesystems(tmp_path):
    there, missing = read_disk_space(str(tmp_path)), read_disk_space(str(tmp_path / "a" / "b"))
    assert there.usable_bytes == missing.usable_bytes > there.free_bytes > 0


def test_a_working_directory_that_was_removed_is_one_line(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="the working directory was removed; run this in another one"):
        read_host_facts({"HOME": "/h"})


def test_the_smallest_share_of_processor_time_counts(tmp_path):
    mount = f"36 25 0:29 / {tmp_path} rw - cgroup2 cgroup2 rw"
    (tmp_path / "a" / "b").mkdir(parents=True)
    for place, text in ((".", "max 100000"), ("a", "250000 100000"), ("a/b", "800000 100000")):
        (tmp_path / place / "cpu.max").write_text(text)
    assert cgroup_cores("0::/a/b\n", mount) == 2.5
    assert cgroup_cores("0::/\n", mount) is None
    assert cgroup_cores("nonsense\n", mount) is None


def test_version_1_says_it_in_two_files(tmp_path):
    (tmp_path / "cpu.cfs_quota_us").write_text("150000")
    (tmp_path / "cpu.cfs_period_us").write_text("100000")
    assert cgroup_cores("3:cpu,cpuacct:/\n", f"36 25 0:29 / {tmp_path} rw - cgroup cgroup rw,cpu,cpuacct") == 1.5
    (tmp_path / "cpu.cfs_quota_us").write_text("-1")
    assert cgroup_cores("3:cpu,cpuacct:/\n", f"36 25 0:29 / {tmp_path} rw - cgroup cgroup rw,cpu,cpuacct") is None


@pytest.mark.parametrize(
    ("default", "most", "patience_s"),
    [("0", "0", math.inf), ("120", "0", 120.0), ("0", "60", 60.0), ("120", "60", 60.0), ("3", "0", 15.0)],
)
def test_the_kernel_waits_for_an_answer_as_long_as_somebody_has_set(tmp_path, default, most, patience_s):
    (tmp_path / "default_request_timeout").write_text(f"{default}\n")
    (tmp_path / "max_request_timeout").write_text(f"{most}\n")
    assert fuse_patience_s(str(tmp_path)) == patience_s


def test_a_kernel_without_such_a_setting_waits_for_ever(tmp_path):
    assert fuse_patience_s(str(tmp_path)) == math.inf
