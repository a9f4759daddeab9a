from __future__ import annotations

import resource

import pytest

from tigrismount import descriptors


@pytest.fixture
def limits(monkeypatch, tmp_path):
    """A process whose limits are 1024 and a billion, on a kernel that gives a million."""
    (tmp_path / "nr_open").write_text("1048576\n")
    monkeypatch.setattr(descriptors, "NR_OPEN_PATH", str(tmp_path / "nr_open"))
    limits = [(1024, 10**9)]

    def setrlimit(_, wanted):
        if wanted[1] > 1048576:
            raise ValueError("not allowed to raise maximum limit")
        limits.append(wanted)

    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    return limits


def test_a_limit_that_the_kernel_gives_no_more_ends_nobody(limits):
    """The kernel's was lowered after the container had begun. Mutation: no worker starts there."""
    descriptors.raise_descriptor_limit()
    assert limits[-1] == (1048576, 1048576)


def test_a_sandbox_that_refuses_ends_nobody(limits, monkeypatch):
    def refuse(*_):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    descriptors.raise_descriptor_limit()
    assert limits == [(1024, 10**9)]


def test_the_soft_limit_becomes_the_hard_one():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 512), hard))
        descriptors.raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
