"""A mounter finds its driver, whoever of the two comes first, and as another user."""

from __future__ import annotations

from tigrismount.demo.command import wait_until


def test_a_mounter_of_another_user_finds_the_driver_that_comes_later(node_of_another_user):
    node = node_of_another_user
    node.mounter()
    assert wait_until(lambda: node.log.exists() and "no driver in" in node.log.read_text(), timeout_s=60)
    mounts = node.open()
    assert wait_until(lambda: mounts.ready() is None, timeout_s=60)


def test_another_mounter_takes_the_place_of_one_that_ends(node):
    mounts = node.open()
    node.mounter()
    assert wait_until(lambda: mounts.ready() is None, timeout_s=60)
    node.kill_mounter()
    assert wait_until(lambda: "no mounter has connected" in (mounts.ready() or ""))
    node.mounter()
    assert wait_until(lambda: mounts.ready() is None, timeout_s=60)
