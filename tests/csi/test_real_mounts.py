"""The conformance list on real mounts: driver and mounter as processes, a kubelet over the real socket, pods."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tigrismount.csi import csi_pb2 as pb
from tigrismount.demo.command import run_child, wait_until
from tigrismount.demo.faults import FaultRule
from tigrismount.holder.mountinfo import mount_at
from tigrismount.testing.csi_node import CsiNode
from tigrismount.testing.fake_kubelet import AccessMode, Volume
from tigrismount.testing.mount import marked_processes, require_fuse

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.fuse

SMALL = {"blockSize": "1Mi", "memoryLimit": "64Mi"}
BODY = b"weights" * 1000


@pytest.fixture(scope="module")
def env(s3) -> dict[str, str]:
    """The environment of driver and mounter: the way to the store, and no key."""
    require_fuse()
    if os.geteuid() != 0:
        pytest.skip("the driver mounts with the node's privilege")
    return {name: value for name, value in s3.env().items() if not name.endswith(("_KEY_ID", "_ACCESS_KEY"))}


@pytest.fixture(scope="module")
def shared_node(env) -> Iterator[CsiNode]:
    with CsiNode(env) as node:
        yield node


@pytest.fixture
def node(shared_node) -> Iterator[CsiNode]:
    """A node that each test leaves as it found it: nothing mounted, nobody serving."""
    yield shared_node
    assert shared_node.mounts() == [], "left mounted"
    assert wait_until(lambda: shared_node.workers() == [], timeout_s=60), "left running"
    assert list((shared_node.root / "state" / "volumes").iterdir()) == [], "left directories"
    assert json.loads((shared_node.root / "state" / "volumes.json").read_text())["mounts"] == [], "left records"


@pytest.fixture
def own_node(env) -> Iterator[CsiNode]:
    """A node whose processes a test may end."""
    with CsiNode(env) as node:
        yield node


@pytest.fixture
def volume(s3, bucket) -> Volume:
    bucket.put("model/weights", BODY)
    secret = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    attributes = {"bucket": bucket.name, "prefix": "model", "endpoint": s3.endpoint_url, **SMALL}
    return Volume(f"pv-{bucket.name}", attributes, secret)


def read(path: str) -> bytes:
    return run_child("cat", path, timeout_s=60).check().output.encode()


def test_the_story_of_a_volume(node, volume, bucket, s3):
    """Register, publish, a reader in a pod, publish again, stats, unpublish."""
    kubelet = node.kubelet
    pod, target = node.pod(), kubelet.target("story")

    kubelet.publish(volume, target)
    assert node.in_pod(pod, "cat", f"{target}/weights").check().output.encode() == BODY
    kubelet.publish(volume, target)
    stats = kubelet.stats(volume.volume_id, target)
    kubelet.unpublish(volume.volume_id, target)

    assert node.registrar.registered == [(True, "")]
    assert not stats.volume_condition.abnormal, stats.volume_condition.message
    assert [usage.unit for usage in stats.usage] == [pb.VolumeUsage.BYTES, pb.VolumeUsage.INODES]
    assert not os.path.exists(target)
    assert "No such file" in node.in_pod(pod, "cat", f"{target}/weights").errors, "it has left the pod too"


def test_n14_s1_s6_s12_calls_are_repeated_paths_are_odd_and_a_target_does_not_change(node, volume, refused):
    """One mount for four claims, as each takes a second: an inline volume, at a long path with blanks and umlauts."""
    kubelet = node.kubelet
    volume.is_inline, volume.mode = True, AccessMode.SINGLE_NODE_WRITER
    target = kubelet.target(f"pöd with blanks {'x' * 120}")
    assert refused(kubelet.publish, replace(volume, secret={}), target)[0] == "INVALID_ARGUMENT"

    for _ in range(10):
        kubelet.publish(volume, target)
    assert len(node.mounts()) == 2, "the mount, and its bind at the target"
    assert read(f"{target}/weights") == BODY
    changed = replace(volume, attributes={**volume.attributes, "prefix": "other"})
    assert refused(kubelet.publish, changed, target)[0] == "ALREADY_EXISTS"
    for _ in range(10):
        assert not kubelet.stats(volume.volume_id, target).volume_condition.abnormal
    for _ in range(10):
        kubelet.unpublish(volume.volume_id, target)
    assert not os.path.exists(target)


def test_s2_two_pods_share_a_worker(node, volume):
    kubelet = node.kubelet
    first, second = kubelet.target("first"), kubelet.target("second")
    kubelet.publish(volume, first)
    kubelet.publish(volume, second)
    assert len(node.workers()) == 1
    assert mount_at(first).device == mount_at(second).device

    kubelet.unpublish(volume.volume_id, first)
    assert read(f"{second}/weights") == BODY
    kubelet.unpublish(volume.volume_id, second)
    assert not os.path.exists(second)


def test_s4_a_mount_that_has_lost_its_worker_and_mounter_is_taken_down(own_node, volume):
    node, target = own_node, own_node.kubelet.target("dead")
    node.kubelet.publish(volume, target)

    node.kill_mounter()
    node.kubelet.unpublish(volume.volume_id, target)
    node.kubelet.unpublish(volume.volume_id, target)

    assert node.mounts() == []
    assert not os.path.exists(target)


@pytest.mark.slow  # ten seconds are what a worker is given to end; the test above is the short one
def test_s4_a_mount_whose_worker_hangs_is_taken_down(node, volume):
    target = node.kubelet.target("hangs")
    node.kubelet.publish(volume, target)

    os.kill(node.workers()[0], signal.SIGSTOP)
    node.kubelet.unpublish(volume.volume_id, target)

    assert not os.path.exists(target)


def test_s7_no_such_bucket(node, volume, refused):
    volume.attributes["bucket"] = "nobody-has-this"
    check_refusal(node, volume, refused, "NOT_FOUND", "nobody-has-this")


def test_s7_nothing_under_the_prefix(node, volume, refused):
    volume.attributes["prefix"] = "nothing/here"
    check_refusal(node, volume, refused, "NOT_FOUND", "nothing/here")


def test_s7_the_store_refuses(node, volume, refused, bucket, s3):
    s3.inject(FaultRule(match=f"/{bucket.name}", action="status", status=403, code="AccessDenied", count=-1))
    check_refusal(node, volume, refused, "PERMISSION_DENIED", bucket.name)


def test_s7_the_key_is_wrong(node, volume, refused, bucket):
    volume.secret["AWS_SECRET_ACCESS_KEY"] = "not-the-right-one"
    check_refusal(node, volume, refused, "UNAUTHENTICATED", "nodePublishSecretRef")


def test_s7_there_is_no_key(node, volume, refused):
    volume.secret = {}
    check_refusal(node, volume, refused, "UNAUTHENTICATED", "the driver's own key was used")


def test_s7_an_option_is_wrong(node, volume, refused):
    volume.attributes["readAhead"] = "much"
    check_refusal(node, volume, refused, "INVALID_ARGUMENT", "expected a size")


def test_s7_the_store_is_away(node, volume, refused):
    """Within the budget of a call, not after the minutes that a read may wait."""
    volume.attributes["endpoint"] = "http://127.0.0.1:9"  # the discard port: nobody listens
    check_refusal(node, volume, refused, "UNAVAILABLE", "127.0.0.1:9")


@pytest.mark.slow  # it waits for the whole budget of a call
def test_s7_the_store_accepts_and_says_nothing(node, volume, refused):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        volume.attributes["endpoint"] = f"http://127.0.0.1:{mute.getsockname()[1]}"
        check_refusal(node, volume, refused, ("UNAVAILABLE", "DEADLINE_EXCEEDED"), "s3://")


def check_refusal(node: CsiNode, volume: Volume, refused, codes: str | tuple[str, ...], says: str) -> None:
    target = node.kubelet.target("refused")
    began_s = time.monotonic()

    found, message = refused(node.kubelet.publish, volume, target)

    assert found in codes, message
    assert says in message
    assert "\n" not in message
    assert not os.path.exists(target)
    assert mount_at(target) is None
    assert time.monotonic() - began_s < 55, "the budget is 28 s; the rest is for a machine that is busy"


def test_s8_eight_pods_at_once_share_one_worker(node, volume):
    targets = [node.kubelet.target(f"at-once-{number}") for number in range(8)]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda target: node.kubelet.publish(volume, target), targets))

    assert len(node.workers()) == 1
    assert [read(f"{target}/weights") for target in (targets[0], targets[7])] == [BODY, BODY]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda target: node.kubelet.unpublish(volume.volume_id, target), targets))


def test_s9_what_is_published_answers_and_is_ours(node, volume, bucket):
    target = node.kubelet.target("proof")

    node.kubelet.publish(volume, target)

    entry = mount_at(target)
    assert (entry.type, entry.source) == ("fuse.tigrismount", f"s3://{bucket.name}/model")
    node.kubelet.unpublish(volume.volume_id, target)


def test_s10_the_secret_is_nowhere(node, volume):
    """Neither in arguments nor environments of any process, nor in logs, nor in any file of the driver's."""
    target = node.kubelet.target("secret")
    node.kubelet.publish(volume, target)
    node.kubelet.publish(volume, target)
    key = volume.secret["AWS_SECRET_ACCESS_KEY"].encode()
    status = run_child(
        sys.executable,
        "-m",
        "tigrismount",
        "status",
        "--json",
        env={**os.environ, "XDG_RUNTIME_DIR": f"{node.root}/comm"},
    )

    pids = marked_processes(node.mark)
    assert len(pids) >= 3, "driver, mounter and worker were looked at"
    for pid in pids:
        for name in ("cmdline", "environ"):
            assert key not in Path(f"/proc/{pid}/{name}").read_bytes()
    places = [node.root / name for name in ("driver.log", "mounter.log", "state/volumes.json")]
    for path in (*places, *(node.root / "state" / "mounts").rglob("*.json"), *(node.root / "comm").rglob("*")):
        if path.is_file():
            assert key not in path.read_bytes(), path
    assert volume.volume_id.encode() in places[2].read_bytes()
    assert key.decode() not in status.output + status.errors
    node.kubelet.unpublish(volume.volume_id, target)


def test_s11_a_new_key_is_used_without_a_new_mount(node, volume, bucket, s3):
    target = node.kubelet.target("rotation")
    node.kubelet.publish(volume, target)
    before = mount_at(target), node.workers()
    old = volume.secret["AWS_ACCESS_KEY_ID"]
    key_id, key = s3.add_key(f"rotated-{bucket.name}")
    s3.inject(FaultRule(match=".", action="status", status=403, code="InvalidAccessKeyId", count=-1, access_key=old))

    volume.secret = {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": key}
    node.kubelet.publish(volume, target)

    assert read(f"{target}/weights") == BODY
    assert (mount_at(target), node.workers()) == before
    node.kubelet.unpublish(volume.volume_id, target)


def test_s14_a_worker_that_hangs_is_told_of_and_never_waited_for(node, volume):
    target = node.kubelet.target("hung")
    node.kubelet.publish(volume, target)
    (worker,) = node.workers()

    os.kill(worker, signal.SIGSTOP)
    condition = node.kubelet.stats(volume.volume_id, target).volume_condition
    os.kill(worker, signal.SIGCONT)

    assert condition.abnormal
    assert condition.message
    assert wait_until(lambda: not node.kubelet.stats(volume.volume_id, target).volume_condition.abnormal, timeout_s=60)
    node.kubelet.unpublish(volume.volume_id, target)


def test_s15_readers_outlive_the_driver_and_the_next_one_knows_all(own_node, volume):
    node, kubelet = own_node, own_node.kubelet
    pod, target = node.pod(), kubelet.target("restart")
    kubelet.publish(volume, target)

    node.kill_driver()
    assert node.in_pod(pod, "cat", f"{target}/weights").check().output.encode() == BODY
    node.start_driver()

    kubelet.publish(volume, target)
    assert not kubelet.stats(volume.volume_id, target).volume_condition.abnormal
    assert len(node.workers()) == 1
    kubelet.unpublish(volume.volume_id, target)
    assert node.mounts() == []
    assert not os.path.exists(target)


def test_s15_readers_outlive_the_mounter(own_node, volume, bucket):
    node, kubelet = own_node, own_node.kubelet
    target = kubelet.target("mounter")
    kubelet.publish(volume, target)
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"f=open({target + '/weights'!r},'rb');print(1,flush=True);input();print(len(f.read()))",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as reader:
        assert reader.stdout.readline() == b"1\n"
        node.kill_mounter()
        node.start_mounter()
        output, _ = reader.communicate(b"\n", timeout=120)

    assert int(output) == len(BODY)
    kubelet.publish(volume, target)
    kubelet.unpublish(volume.volume_id, target)
    assert node.mounts() == []


def test_s15_when_both_have_ended_publishing_again_heals_running_pods(own_node, volume):
    node, kubelet = own_node, own_node.kubelet
    pods = {kubelet.target(name): node.pod() for name in ("first", "second")}
    for target in pods:
        kubelet.publish(volume, target)
    node.kill_driver()
    node.kill_mounter()

    node.start_mounter()
    node.start_driver()
    first = next(iter(pods))
    assert kubelet.stats(volume.volume_id, first).volume_condition.abnormal
    kubelet.publish(volume, first)

    for target, pod in pods.items():
        assert node.in_pod(pod, "cat", f"{target}/weights").check().output.encode() == BODY
        kubelet.unpublish(volume.volume_id, target)
    assert node.mounts() == []
    assert not any(os.path.exists(target) for target in pods)


def test_s16_after_a_reboot_all_is_clean_and_pods_start_again(own_node, volume, refused):
    node, kubelet = own_node, own_node.kubelet
    target = kubelet.target("reboot")
    kubelet.publish(volume, target)
    node.kill_driver()
    node.kill_mounter()
    for mountpoint in reversed(node.mounts()):
        run_child("umount", "-l", mountpoint).check()

    node.start_mounter()
    node.start_driver()

    assert refused(kubelet.stats, volume.volume_id, target)[0] == "NOT_FOUND"
    assert json.loads((node.root / "state" / "volumes.json").read_text())["mounts"] == []
    assert list((node.root / "state" / "volumes").iterdir()) == []
    kubelet.publish(volume, target)
    assert read(f"{target}/weights") == BODY
    kubelet.unpublish(volume.volume_id, target)
    assert not os.path.exists(target)
