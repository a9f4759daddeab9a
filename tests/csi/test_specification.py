"""What the specification and Kubernetes ask beyond csi-sanity: S1 to S16, on mounts that exist in memory only.

The same on real mounts is in ``test_real_mounts.py``.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import logging
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tigrismount.csi import csi_pb2 as pb
from tigrismount.csi.attributes import Policy
from tigrismount.csi.mounts import MountFailure, MountState
from tigrismount.errors import MountError
from tigrismount.testing.fake_kubelet import AccessMode, FakeKubelet, Volume, refusal

OTHER_SECRET = {"AWS_ACCESS_KEY_ID": "AKIAOTHER", "AWS_SECRET_ACCESS_KEY": "another-key"}


def only_mount(node):
    (mount,) = node.mounts.mounts.values()
    return mount


# -- S1: the same target with other arguments ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"attributes": {"bucket": "other"}}, "shows s3://models/llama already, not s3://other"),
        ({"attributes": {"bucket": "models", "prefix": "llama", "readAhead": "1MiB"}}, "with another read_ahead"),
        ({"mount_options": ["uid=7"]}, "with another uid"),
        ({"volume_id": "another-pv"}, "shows volume 'models-pv' already"),
    ],
)
def test_s1_a_target_does_not_change_what_it_shows(node, kubelet, volume, refused, change, says):
    target = kubelet.target("a")
    kubelet.publish(volume, target)

    code, message = refused(kubelet.publish, Volume(**{**vars(volume), **change}), target)

    assert code == "ALREADY_EXISTS"
    assert says in message
    assert len(node.mounts.starts) == 1


# -- S2: several targets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [AccessMode.MULTI_NODE_READER_ONLY, AccessMode.MULTI_NODE_MULTI_WRITER])
def test_s2_a_second_target_shares_the_worker(node, kubelet, volume, mode):
    volume.mode = mode
    first, second = kubelet.target("a"), kubelet.target("b")

    kubelet.publish(volume, first)
    kubelet.publish(volume, second)

    assert len(node.mounts.starts) == 1
    kubelet.unpublish(volume.volume_id, first)
    assert len(node.mounts.mounts) == 1
    assert not os.path.exists(first)
    assert not kubelet.stats(volume.volume_id, second).volume_condition.abnormal
    kubelet.unpublish(volume.volume_id, second)
    assert node.mounts.mounts == {}


def test_s2_another_key_never_shares_a_worker(node, kubelet, volume):
    kubelet.publish(volume, kubelet.target("a"))
    volume.secret = OTHER_SECRET
    kubelet.publish(volume, kubelet.target("b"))

    assert sorted(mount.secret["AWS_ACCESS_KEY_ID"] for mount in node.mounts.mounts.values()) == [
        "AKIAEXAMPLE",
        "AKIAOTHER",
    ]


def test_s2_other_options_never_share_a_worker(node, kubelet, volume):
    kubelet.publish(volume, kubelet.target("a"))
    volume.mount_options = ["metadata-ttl=5m"]
    kubelet.publish(volume, kubelet.target("b"))

    assert len(node.mounts.mounts) == 2


# -- S3: what a bucket cannot be -------------------------------------------------------------------------------------


def test_s3_a_bucket_is_no_block_device(kubelet, volume, refused):
    request = kubelet.request(volume, kubelet.target("a"))
    request.volume_capability.block.SetInParent()

    code, message = refused(kubelet.node.NodePublishVolume, request)

    assert code == "INVALID_ARGUMENT"
    assert "volumeMode must be Filesystem" in message


@pytest.mark.parametrize("mode", [AccessMode.UNKNOWN, AccessMode.MULTI_NODE_SINGLE_WRITER])
def test_s3_modes_that_promise_more_are_refused(kubelet, volume, refused, mode):
    volume.mode = mode

    assert refused(kubelet.publish, volume, kubelet.target("a"))[0] == "INVALID_ARGUMENT"


def test_s3_a_pod_that_asks_for_writing_is_told_once(node, kubelet, volume, caplog):
    volume.mode, volume.readonly = AccessMode.SINGLE_NODE_WRITER, False
    with caplog.at_level(logging.INFO, "tigrismount.csi"):
        kubelet.publish(volume, kubelet.target("a"))
        kubelet.publish(volume, kubelet.target("a"))

    assert caplog.text.count("was asked for with write access, and is read-only") == 1


# -- S4: unpublishing what is not there ------------------------------------------------------------------------------


def test_s4_unpublishing_what_never_was_published_is_done(kubelet):
    target = kubelet.target("a")
    kubelet.unpublish("never-seen", target)
    os.mkdir(target)

    kubelet.unpublish("never-seen", target)

    assert not os.path.exists(target)


def test_s4_a_dead_mount_is_unpublished(node, kubelet, volume):
    target = kubelet.target("a")
    kubelet.publish(volume, target)
    only_mount(node).state = MountState(served=False, reason="the worker is gone")

    kubelet.unpublish(volume.volume_id, target)

    assert node.mounts.mounts == {}
    assert not os.path.exists(target)


def test_s4_a_target_is_not_taken_from_another_volume(node, kubelet, volume, refused):
    target = kubelet.target("a")
    kubelet.publish(volume, target)

    assert refused(kubelet.unpublish, "another-pv", target)[0] == "NOT_FOUND"
    assert target in node.binds.shown


# -- S5: what is not implemented -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["Node/NodeStageVolume", "Node/NodeExpandVolume", "Controller/CreateVolume", "GroupController/X"]
)
def test_s5_what_is_not_implemented_says_so(kubelet, method):
    call = kubelet._channel.unary_unary(f"/csi.v1.{method}")

    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=10)
    assert refusal(caught.value)[0] == "UNIMPLEMENTED"


# -- S6: odd paths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pod", ["p" * 140, "with blanks", "mit-Umlauten-äöü-模型"])
def test_s6_long_and_odd_target_paths(node, kubelet, volume, pod):
    target = kubelet.target(pod)

    kubelet.publish(volume, target)
    assert not kubelet.stats(volume.volume_id, target).volume_condition.abnormal
    kubelet.unpublish(volume.volume_id, target)

    assert not os.path.exists(target)
    assert node.mounts.mounts == {}


def test_s6_a_directory_of_the_kubelet_may_be_a_link(node, kubelet, volume):
    target = kubelet.target("a")
    os.symlink(kubelet.directory, node.root / "link")
    other = target.replace(str(kubelet.directory), str(node.root / "link"))

    kubelet.publish(volume, other)
    kubelet.publish(volume, target)
    assert list(node.binds.shown) == [target], "as the kernel lists it"
    assert not kubelet.stats(volume.volume_id, other).volume_condition.abnormal
    kubelet.unpublish(volume.volume_id, f"/{other}/")

    assert not os.path.exists(target)


# -- S7: causes and codes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("no_bucket", "NOT_FOUND"),
        ("denied", "PERMISSION_DENIED"),
        ("bad_credentials", "UNAUTHENTICATED"),
        ("bad_option", "INVALID_ARGUMENT"),
        ("unreachable", "UNAVAILABLE"),
        ("timeout", "DEADLINE_EXCEEDED"),
        ("internal", "INTERNAL"),
    ],
)
def test_s7_each_cause_has_its_code_and_leaves_nothing(node, kubelet, volume, refused, kind, code):
    def fail(mount_id, spec):
        raise MountFailure(kind, f"{spec.source}: it is like this\nand that")

    node.mounts.before_start = fail
    target = kubelet.target("a")
    os.mkdir(target)

    found, message = refused(kubelet.publish, volume, target)

    assert found == code
    assert message.startswith("s3://models/llama: it is like this and that")
    assert node.mounts.mounts == {}
    assert node.binds.shown == {}
    assert not os.path.exists(target)
    assert json.loads(node.ledger.read_text())["mounts"] == []


def test_s7_a_refused_key_is_told_where_it_came_from(node, kubelet, volume, refused):
    def fail(mount_id, spec):
        raise MountFailure("denied", "no")

    node.mounts.before_start = fail
    assert "the Secret that nodePublishSecretRef names" in refused(kubelet.publish, volume, kubelet.target("a"))[1]
    volume.secret = {}
    assert "the driver's own key was used" in refused(kubelet.publish, volume, kubelet.target("a"))[1]


def test_s7_an_unknown_attribute_is_refused_with_the_nearest(node, kubelet, volume, refused):
    volume.attributes["readahead"] = "1G"

    code, message = refused(kubelet.publish, volume, kubelet.target("a"))

    assert code == "INVALID_ARGUMENT"
    assert "unknown key 'readahead' (did you mean readAhead?)" in message
    assert node.mounts.starts == []


@pytest.mark.parametrize("call", ["bind", "look"])
def test_s7_what_fails_after_the_mount_takes_it_down_again(node, kubelet, volume, refused, call):
    node.binds.faults[call] = "no"
    target = kubelet.target("a")

    code, _ = refused(kubelet.publish, volume, target)

    assert code == {"bind": "INTERNAL", "look": "UNAVAILABLE"}[call]
    assert node.mounts.starts != []
    assert node.mounts.mounts == {}
    assert node.binds.shown == {}
    assert not os.path.exists(target)


def test_s7_a_failure_leaves_the_other_pods_alone(node, kubelet, volume, refused):
    first = kubelet.target("a")
    kubelet.publish(volume, first)
    node.binds.faults["look"] = "no"

    refused(kubelet.publish, volume, kubelet.target("b"))

    del node.binds.faults["look"]
    assert list(node.binds.shown) == [first]
    assert not kubelet.stats(volume.volume_id, first).volume_condition.abnormal


def test_s7_a_state_that_cannot_be_kept_publishes_nothing(node, kubelet, volume, refused):
    node.ledger.with_suffix(".new").mkdir()

    code, message = refused(kubelet.publish, volume, kubelet.target("a"))

    assert code == "INTERNAL"
    assert "volumes.json: cannot be written" in message
    assert node.mounts.mounts == {}


# -- S8: at the same time --------------------------------------------------------------------------------------------


def test_s8_eight_pods_at_once_share_one_worker(node, kubelet, volume):
    targets = [kubelet.target(f"pod-{number}") for number in range(8)]
    gate = threading.Barrier(8)

    def publish(target):
        gate.wait(10)
        kubelet.publish(volume, target)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(publish, targets))

    assert len(node.mounts.starts) == 1
    assert sorted(node.binds.shown) == sorted(targets)


def test_s8_a_call_that_waits_too_long_is_to_come_again(node, kubelet, volume, refused, monkeypatch):
    monkeypatch.setattr("tigrismount.csi.volumes._TURN_S", 0.05)
    begun, go_on = threading.Event(), threading.Event()

    def wait(mount_id, spec):
        begun.set()
        go_on.wait(10)

    node.mounts.before_start = wait
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(kubelet.publish, volume, kubelet.target("a"))
        assert begun.wait(10)
        code, _ = refused(kubelet.publish, volume, kubelet.target("a"))
        go_on.set()
        first.result(10)

    assert code == "ABORTED"
    kubelet.publish(volume, kubelet.target("a"))
    assert len(node.mounts.starts) == 1


def test_s8_a_slow_volume_keeps_no_other_waiting(node, kubelet, volume):
    begun, go_on = threading.Event(), threading.Event()

    def wait(mount_id, spec):
        if spec.source == "s3://slow":
            begun.set()
            go_on.wait(10)

    node.mounts.before_start = wait
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(kubelet.publish, Volume("slow-pv", {"bucket": "slow"}), kubelet.target("slow"))
        assert begun.wait(10)
        kubelet.publish(volume, kubelet.target("a"))
        kubelet.identity.Probe(pb.ProbeRequest())
        assert not slow.done()
        go_on.set()
        slow.result(10)


def test_s8_a_node_that_boots_makes_some_mounts_first_and_then_the_others(node, kubelet):
    node.server.volumes._starts = threading.BoundedSemaphore(1)
    busy, most = [], []

    def count(mount_id, spec):
        busy.append(mount_id)
        threading.Event().wait(0.02)  # long enough for others to come in, if they could
        most.append(len(busy))
        busy.remove(mount_id)

    node.mounts.before_start = count
    volumes = [Volume(f"pv-{number}", {"bucket": f"models-{number}"}) for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda volume: kubelet.publish(volume, kubelet.target(volume.volume_id)), volumes))

    assert len(node.mounts.starts) == 8
    assert max(most) == 1


def test_s8_who_finds_no_time_among_the_others_is_to_come_again(node, kubelet, volume, refused):
    node.server.volumes._starts = threading.BoundedSemaphore(1)
    node.server.volumes._starts.acquire()
    node.server.volumes._budget_s = 0

    code, message = refused(kubelet.publish, volume, kubelet.target("a"))

    assert code == "UNAVAILABLE"
    assert "the node is busy with other volumes" in message
    assert json.loads(node.ledger.read_text())["mounts"] == []


def test_s8_pods_that_come_and_go_leave_nothing(node, kubelet, volume):
    """Four volumes, eight pods, in threads; some mounts fail. What is published at the end is what is mounted."""

    def sometimes_fail(mount_id, spec):
        if next(numbers) % 5 == 0:
            raise MountFailure("unreachable", "not now")

    numbers = itertools.count()
    node.mounts.before_start = sometimes_fail
    volumes = [Volume(f"pv-{number}", {"bucket": f"models-{number}"}) for number in range(4)]
    pods = [(volumes[number % 4], kubelet.target(f"pod-{number}")) for number in range(8)]

    def live(pod):
        volume, target = pod
        for _ in range(10):
            with contextlib.suppress(grpc.RpcError):
                kubelet.publish(volume, target)
            kubelet.unpublish(volume.volume_id, target)
        with contextlib.suppress(grpc.RpcError):
            kubelet.publish(volume, target)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(live, pods))

    recorded = json.loads(node.ledger.read_text())["mounts"]
    assert sorted(record["mount_id"] for record in recorded) == sorted(node.mounts.mounts)
    assert sorted(target for record in recorded for target in record["targets"]) == sorted(node.binds.shown)
    for volume, target in pods:
        kubelet.unpublish(volume.volume_id, target)
    assert node.mounts.mounts == {}
    assert json.loads(node.ledger.read_text())["mounts"] == []


# -- S9: the proof ---------------------------------------------------------------------------------------------------


def test_s9_publish_looks_through_the_target_itself(node, kubelet, volume):
    target = kubelet.target("a")

    kubelet.publish(volume, target)

    assert node.binds.looks == [target]


def test_s9_another_filesystem_at_the_target_is_no_success(node, kubelet, volume, refused):
    node.binds.is_bound = lambda at, target: False

    code, message = refused(kubelet.publish, volume, kubelet.target("a"))

    assert code == "UNAVAILABLE"
    assert "another filesystem is there" in message


# -- S10: secrets ----------------------------------------------------------------------------------------------------


def test_s10_no_secret_in_logs_state_or_answers(node, kubelet, volume, refused, caplog):
    key = volume.secret["AWS_SECRET_ACCESS_KEY"]

    def fail(mount_id, spec):
        raise MountFailure("bad_credentials", f"the key {key} is refused")

    with caplog.at_level(logging.DEBUG):
        kubelet.publish(volume, kubelet.target("a"))
        kubelet.publish(volume, kubelet.target("a"))
        node.mounts.before_start = fail
        volume.volume_id = "second-pv"
        _, message = refused(kubelet.publish, volume, kubelet.target("b"))
        volume.secret["AWS_SECRET_ACCESS_KY"] = key
        _, unknown = refused(kubelet.publish, volume, kubelet.target("b"))

    assert message.startswith("the key … is refused")
    assert "did you mean AWS_SECRET_ACCESS_KEY?" in unknown
    assert "models-pv" in caplog.text, "the log was looked at"
    told = caplog.text + message + unknown + node.ledger.read_text()
    assert key not in told
    assert volume.secret["AWS_ACCESS_KEY_ID"] not in told


def test_s10_an_internal_error_tells_no_secret(node, kubelet, volume, refused, caplog):
    def fail(mount_id, spec):
        raise RuntimeError(volume.secret["AWS_SECRET_ACCESS_KEY"])

    node.mounts.before_start = fail
    with caplog.at_level(logging.DEBUG):
        code, message = refused(kubelet.publish, volume, kubelet.target("a"))

    assert code == "INTERNAL"
    assert "internal RuntimeError at" in caplog.text
    assert volume.secret["AWS_SECRET_ACCESS_KEY"] not in message + caplog.text
    assert node.mounts.mounts == {}


def test_s10_the_state_is_roots_alone(node, kubelet, volume):
    kubelet.publish(volume, kubelet.target("a"))

    assert node.ledger.stat().st_mode & 0o777 == 0o600
    assert os.stat(node.endpoint).st_mode & 0o777 == 0o600


# -- S11: another key ------------------------------------------------------------------------------------------------


def test_s11_a_new_secret_reaches_the_worker_in_place(node, kubelet, volume):
    target = kubelet.target("a")
    kubelet.publish(volume, target)
    (mount_id,) = node.mounts.mounts

    volume.secret = OTHER_SECRET
    kubelet.publish(volume, target)

    assert list(node.mounts.mounts) == [mount_id]
    assert len(node.mounts.starts) == 1
    assert only_mount(node).secret == OTHER_SECRET


def test_s11_after_a_rotation_new_pods_share_by_the_new_key(node, kubelet, volume):
    old = dict(volume.secret)
    kubelet.publish(volume, kubelet.target("a"))
    volume.secret = OTHER_SECRET
    kubelet.publish(volume, kubelet.target("a"))

    kubelet.publish(volume, kubelet.target("b"))
    assert len(node.mounts.starts) == 1

    volume.secret = old
    kubelet.publish(volume, kubelet.target("c"))
    assert len(node.mounts.starts) == 2
    assert len(node.mounts.mounts) == 2


def test_s11_a_rotation_that_fails_is_tried_again(node, kubelet, volume, refused, monkeypatch):
    target = kubelet.target("a")
    kubelet.publish(volume, target)

    def fail(mount_id, secret):
        raise MountFailure("timeout", "the worker is busy")

    volume.secret = OTHER_SECRET
    with monkeypatch.context() as patch:
        patch.setattr(node.mounts, "rotate", fail)
        assert refused(kubelet.publish, volume, target)[0] == "DEADLINE_EXCEEDED"
    kubelet.publish(volume, target)

    assert only_mount(node).secret == OTHER_SECRET


def test_s11_a_secret_without_a_key_does_not_lend_the_mounters_own(node, kubelet, volume, refused):
    """Mutation: the worker goes on with the old key, and the one after it signs with the installation's."""
    target, key = kubelet.target("a"), dict(volume.secret)
    kubelet.publish(volume, target)

    volume.secret = {}
    code, message = refused(kubelet.publish, volume, target)

    assert code == "INVALID_ARGUMENT"
    assert "no key any more" in message
    assert only_mount(node).secret == key


# -- S12: volumes in a pod -------------------------------------------------------------------------------------------


def test_s12_an_inline_volume_needs_its_own_secret(node, kubelet, volume, refused):
    volume.is_inline, volume.secret = True, {}

    code, message = refused(kubelet.publish, volume, kubelet.target("a"))

    assert code == "INVALID_ARGUMENT"
    assert "name a Secret of the pod's namespace" in message
    assert node.mounts.starts == []


def test_s12_the_kubelets_id_shows_an_inline_volume_too(kubelet, volume, refused):
    volume.volume_id, volume.secret = f"csi-{'0123456789abcdef' * 4}", {}

    assert refused(kubelet.publish, volume, kubelet.target("a"))[0] == "INVALID_ARGUMENT"


def test_s12_an_endpoint_alone_is_no_key(kubelet, volume, refused):
    volume.is_inline, volume.secret = True, {"AWS_ENDPOINT_URL": "https://t3.storage.dev"}

    assert refused(kubelet.publish, volume, kubelet.target("a"))[0] == "INVALID_ARGUMENT"


def test_s12_an_inline_volume_with_a_secret_is_published(node, kubelet, volume):
    volume.is_inline, volume.mode = True, AccessMode.SINGLE_NODE_WRITER

    kubelet.publish(volume, kubelet.target("a"))

    assert only_mount(node).secret == volume.secret


def test_s12_a_claim_without_a_secret_uses_the_drivers_key(node, kubelet, volume):
    volume.secret = {}

    kubelet.publish(volume, kubelet.target("a"))

    assert only_mount(node).secret == {}


# -- S13: what tenants may not choose --------------------------------------------------------------------------------


@pytest.mark.parametrize("volume_id", ["../x", "a/../../b", "..", "new\nline", "x" * 1025])
def test_s13_a_volume_id_is_a_name(node, kubelet, volume, refused, volume_id):
    volume.volume_id = volume_id

    assert refused(kubelet.publish, volume, kubelet.target("a"))[0] == "INVALID_ARGUMENT"
    assert refused(kubelet.unpublish, volume_id, kubelet.target("a"))[0] == "INVALID_ARGUMENT"
    assert node.mounts.starts == []


def test_s13_an_id_with_slashes_names_no_path(node, kubelet, volume):
    volume.volume_id = "/etc/passwd"

    kubelet.publish(volume, kubelet.target("a"))

    assert only_mount(node).at.parent == node.root / "state" / "volumes"


@pytest.mark.parametrize("target", ["relative", "/a/../b", "/", "//", "/.", "/.."])
def test_s13_a_target_is_an_absolute_path(kubelet, volume, refused, target):
    assert refused(kubelet.publish, volume, target)[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    "attributes",
    [
        {"prefix": "../other"},
        {"prefix": "a/./b"},
        {"bucket": "models/../other"},
        {"cacheDir": "/var/lib/other"},
        {"cacheSize": "10G"},
        {"logFile": "/etc/cron.d/x"},
        {"caBundle": "/etc/shadow"},
        {"profile": "admin"},
        {"storeId": "tigris"},
        {"metricsAddr": "0.0.0.0:80"},
        {"allBuckets": "true"},
        {"endpoint": "file:///etc/shadow"},
        {"mountFlags": "cache-dir=/var/lib/other"},
    ],
)
def test_s13_attributes_choose_no_paths_and_no_driver_options(node, kubelet, volume, refused, attributes):
    volume.attributes |= attributes

    assert refused(kubelet.publish, volume, kubelet.target("a"))[0] == "INVALID_ARGUMENT"
    assert node.mounts.starts == []


@pytest.mark.parametrize(
    "option",
    ["cache-dir=/x", "log_file=/x", "ca-bundle=/x", "profile=x", "store-id=x", "allow_other", "nonempty", "rw"],
)
def test_s13_mount_options_choose_no_paths_either(node, kubelet, volume, refused, option):
    volume.mount_options = [option]

    assert refused(kubelet.publish, volume, kubelet.target("a"))[0] == "INVALID_ARGUMENT"
    assert node.mounts.starts == []


# -- S14: honest health ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (MountState(served=False, reason="no worker answers; reads wait"), "no worker answers; reads wait"),
        (MountState(served=True, degraded="the store is away"), "the store is away"),
    ],
)
def test_s14_stats_say_what_is_wrong(node, kubelet, volume, state, says):
    target = kubelet.target("a")
    kubelet.publish(volume, target)
    only_mount(node).state = state

    condition = kubelet.stats(volume.volume_id, target).volume_condition

    assert (condition.abnormal, condition.message) == (True, says)


def test_s14_a_mount_that_does_not_answer_is_abnormal(node, kubelet, volume):
    target = kubelet.target("a")
    kubelet.publish(volume, target)
    node.binds.faults["look"] = "no answer within 3 s"

    answer = kubelet.stats(volume.volume_id, target)

    assert answer.volume_condition.abnormal
    assert answer.volume_condition.message == "no answer within 3 s"
    assert answer.usage, "the kubelet takes an answer without figures for an error"


def test_s14_a_target_that_shows_something_else_is_abnormal(node, kubelet, volume):
    target = kubelet.target("a")
    kubelet.publish(volume, target)
    node.binds.shown[target] = [object()]

    assert kubelet.stats(volume.volume_id, target).volume_condition.abnormal


def test_s14_publishing_again_heals_what_has_died_for_all_pods(node, kubelet, volume):
    targets = [kubelet.target("a"), kubelet.target("b")]
    for target in targets:
        kubelet.publish(volume, target)
    only_mount(node).state = MountState(served=False, reason="the mount is lost")

    kubelet.publish(volume, targets[0])

    for target in targets:
        assert not kubelet.stats(volume.volume_id, target).volume_condition.abnormal
        assert len(node.binds.shown[target]) == 2, "the new one lies on the dead one: nobody sees the directory"


def test_s14_publishing_again_what_is_served_asks_no_store(node, kubelet, volume):
    def fail(mount_id, spec):
        raise MountFailure("unreachable", "the store is away")

    kubelet.publish(volume, kubelet.target("a"))
    node.mounts.before_start = fail

    kubelet.publish(volume, kubelet.target("a"))
    kubelet.publish(volume, kubelet.target("b"))


def test_s14_a_mount_that_was_made_anew_is_shown_to_all_pods(node, kubelet, volume):
    target = kubelet.target("a")
    kubelet.publish(volume, target)
    ((mount_id, mount),) = node.mounts.mounts.items()
    mount.state = MountState(served=False)
    node.mounts.start(mount_id, mount.at, mount.spec, mount.secret, 1)
    assert kubelet.stats(volume.volume_id, target).volume_condition.abnormal

    node.server.volumes.show_again(mount_id)
    node.server.volumes.show_again("nobody's")

    assert not kubelet.stats(volume.volume_id, target).volume_condition.abnormal


# -- S15: another driver ---------------------------------------------------------------------------------------------


def test_s15_a_restarted_driver_knows_what_is_published(node, kubelet, volume):
    first, second = kubelet.target("a"), kubelet.target("b")
    kubelet.publish(volume, first)

    node.stop()
    node.start()
    with FakeKubelet(kubelet.directory, node.endpoint) as again:
        again.publish(volume, second)
        again.publish(volume, first)
        assert len(node.mounts.starts) == 1, "the fingerprint of the key outlives the driver"
        assert not again.stats(volume.volume_id, first).volume_condition.abnormal
        again.unpublish(volume.volume_id, first)
        again.unpublish(volume.volume_id, second)

    assert node.mounts.mounts == {}


def test_s15_a_driver_with_other_defaults_knows_the_volumes_all_the_same(node, kubelet, volume):
    """Else a new option on the driver's command line would refuse every pod that runs, and its new keys."""
    target = kubelet.target("a")
    kubelet.publish(volume, target)
    node.stop()
    node.policy = Policy(defaults={"metadata_ttl": "5m"}, most_memory_bytes=1 << 30)

    node.start()

    with FakeKubelet(kubelet.directory, node.endpoint) as again:
        again.publish(volume, target)
        assert len(node.mounts.starts) == 1
        only_mount(node).state = MountState(served=False)
        again.publish(volume, target)
        assert only_mount(node).spec.options["metadata_ttl"] == "5m", "a mount that is made anew has them"


def test_s15_what_was_begun_and_never_answered_is_taken_down(node, kubelet, volume):
    node.stop()
    left = node.root / "state" / "volumes" / "orphan"
    node.mounts.start("orphan", left, None, {}, 1)
    (left.parent / "empty").mkdir()

    node.start()

    assert node.mounts.mounts == {}
    assert list(left.parent.iterdir()) == []


def test_s15_what_a_later_driver_has_added_to_the_state_is_in_nobodys_way(node, kubelet, volume):
    kubelet.publish(volume, kubelet.target("a"))
    node.stop()
    state = json.loads(node.ledger.read_text())
    state["mounts"][0]["colour"] = "blue"
    node.ledger.write_text(json.dumps(state))

    node.start()

    assert len(node.mounts.mounts) == 1


def test_s15_a_publication_that_was_cut_short_is_taken_down(node, kubelet, volume):
    kubelet.publish(volume, kubelet.target("a"))
    node.stop()
    state = json.loads(node.ledger.read_text())
    state["mounts"][0]["targets"] = []  # the last thing that publish writes
    node.ledger.write_text(json.dumps(state))

    node.start()

    assert node.mounts.mounts == {}
    assert json.loads(node.ledger.read_text())["mounts"] == []


def test_s15_a_disk_that_does_not_give_the_state_takes_no_volume_down(node, kubelet, volume, monkeypatch):
    """Mutation: it counts as a state that makes no sense, and every mount of the node goes, under the pods' feet."""
    kubelet.publish(volume, kubelet.target("a"))
    node.stop()

    def fail(_: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as trouble:
        trouble.setattr(Path, "read_bytes", fail)
        with pytest.raises(MountError, match=r"cannot be read: Input/output error"):
            node.start()
    node.start()

    assert len(node.mounts.mounts) == 1
    assert json.loads(node.ledger.read_text())["mounts"][0]["targets"] == [kubelet.target("a")]


def test_s15_a_state_that_cannot_be_read_is_set_aside(node, kubelet, volume):
    kubelet.publish(volume, kubelet.target("a"))
    node.stop()
    node.ledger.write_text("{")

    node.start()

    assert node.mounts.mounts == {}
    assert node.ledger.with_suffix(".unreadable").read_text() == "{"
    with FakeKubelet(kubelet.directory, node.endpoint) as again:
        again.publish(volume, kubelet.target("a"))
    assert len(node.mounts.mounts) == 1


def test_s15_the_socket_of_a_killed_driver_is_in_nobodys_way(node, kubelet):
    node.stop()
    left = socket.socket(socket.AF_UNIX)
    left.bind(node.endpoint)
    left.close()

    node.start()

    with FakeKubelet(kubelet.directory, node.endpoint) as again:
        assert again.identity.Probe(pb.ProbeRequest(), timeout=30).ready.value


def test_s15_a_mount_that_could_not_be_ended_is_ended_by_the_next_call(node, kubelet, volume, refused, monkeypatch):
    target = kubelet.target("a")
    kubelet.publish(volume, target)

    def fail(mount_id):
        raise MountFailure("internal", "it is busy")

    with monkeypatch.context() as patch:
        patch.setattr(node.mounts, "stop", fail)
        assert refused(kubelet.unpublish, volume.volume_id, target) == ("INTERNAL", "it is busy")
    assert len(node.mounts.mounts) == 1
    kubelet.unpublish(volume.volume_id, target)

    assert node.mounts.mounts == {}


# -- S16: another boot -----------------------------------------------------------------------------------------------


def test_s16_after_a_reboot_the_state_is_cleaned_and_publishing_goes_on(node, kubelet, volume, refused):
    target = kubelet.target("a")
    kubelet.publish(volume, target)

    node.reboot()
    node.start()

    assert json.loads(node.ledger.read_text())["mounts"] == []
    with FakeKubelet(kubelet.directory, node.endpoint) as again:
        assert refused(again.stats, volume.volume_id, target)[0] == "NOT_FOUND"
        again.publish(volume, target)
        again.unpublish(volume.volume_id, target)
        again.unpublish(volume.volume_id, target)
    assert not os.path.exists(target)


def test_a_driver_that_is_told_to_end_leaves_the_mounts(node, kubelet, volume):
    kubelet.publish(volume, kubelet.target("a"))
    node.stop()

    assert len(node.mounts.mounts) == 1
    assert not os.path.exists(node.endpoint)


# -- what the author of a pod may write, in lengths -------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"attributes": {"bucket": "models", "region": "x" * 20_000}},
        {"secret": {**OTHER_SECRET, "AWS_SESSION_TOKEN": "t" * 20_000}},
        {"mount_options": ["region=" + "y" * 20_000]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_more_than_driver_and_mounter_can_tell_each_other_is_refused(node, kubelet, volume, refused, change):
    for name, value in change.items():
        setattr(volume, name, value)
    code, message = refused(kubelet.publish, volume, kubelet.target("long"))
    assert (code, "longer than 16 KiB" in message) == ("INVALID_ARGUMENT", True)
    assert not node.mounts.mounts


def test_a_refusal_fits_into_an_event(kubelet, volume, refused):
    volume.attributes["prefix"] = "ü" * 2_000
    code, message = refused(kubelet.publish, volume, kubelet.target("wordy"))
    assert code == "INVALID_ARGUMENT"
    assert message.startswith("volumeAttributes: bucket and prefix")
    assert message.endswith("example: s3://my-bucket/models/llama")
    assert len(message) < 1024
