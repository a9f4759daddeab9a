"""The node service: N1 to N14, the applicable cases of csi-sanity."""

from __future__ import annotations

import os

from tigrismount.csi import csi_pb2 as pb


def test_n1_capabilities_are_of_known_types(kubelet):
    answer = kubelet.node.NodeGetCapabilities(pb.NodeGetCapabilitiesRequest())

    types = [each.rpc.type for each in answer.capabilities]
    assert set(types) <= set(pb.NodeServiceCapability.RPC.Type.values())
    assert 0 not in types
    assert types == [pb.NodeServiceCapability.RPC.GET_VOLUME_STATS, pb.NodeServiceCapability.RPC.VOLUME_CONDITION]


def test_n2_info_names_the_node_and_its_limit(kubelet):
    answer = kubelet.node.NodeGetInfo(pb.NodeGetInfoRequest())

    assert (answer.node_id, answer.max_volumes_per_node) == ("node-1", 7)


def test_n3_publish_needs_a_volume_id(kubelet, volume, refused):
    volume.volume_id = ""

    assert refused(kubelet.publish, volume, kubelet.target("a")) == ("INVALID_ARGUMENT", "volume_id is missing")


def test_n4_publish_needs_a_target(kubelet, volume, refused):
    assert refused(kubelet.publish, volume, "") == ("INVALID_ARGUMENT", "target_path is missing")


def test_n5_publish_needs_a_capability(kubelet, volume, refused):
    request = kubelet.request(volume, kubelet.target("a"))
    request.ClearField("volume_capability")

    code, message = refused(kubelet.node.NodePublishVolume, request)

    assert (code, message) == ("INVALID_ARGUMENT", "volume_capability is missing")


def test_n6_unpublish_needs_a_volume_id(kubelet, refused):
    assert refused(kubelet.unpublish, "", kubelet.target("a"))[0] == "INVALID_ARGUMENT"


def test_n7_unpublish_needs_a_target(kubelet, refused):
    assert refused(kubelet.unpublish, "v", "")[0] == "INVALID_ARGUMENT"


def test_n8_unpublish_removes_the_target(node, kubelet, volume):
    target = kubelet.target("a")
    kubelet.publish(volume, target)
    assert os.path.isdir(target)

    kubelet.unpublish(volume.volume_id, target)

    assert not os.path.exists(target)
    assert node.mounts.mounts == {}


def test_n9_stats_need_a_volume_id(kubelet, refused):
    assert refused(kubelet.stats, "", "/somewhere")[0] == "INVALID_ARGUMENT"


def test_n10_stats_need_a_path(kubelet, refused):
    assert refused(kubelet.stats, "v", "")[0] == "INVALID_ARGUMENT"


def test_n11_stats_of_an_unknown_volume_are_not_found(kubelet, refused):
    code, message = refused(kubelet.stats, "nobody", "/somewhere")

    assert (code, message) == ("NOT_FOUND", "volume 'nobody': it is not published on this node")


def test_n12_stats_at_another_path_are_not_found(kubelet, volume, refused):
    kubelet.publish(volume, kubelet.target("a"))

    assert refused(kubelet.stats, volume.volume_id, kubelet.target("b"))[0] == "NOT_FOUND"


def test_n13_the_life_of_a_volume(node, kubelet, volume):
    target = kubelet.target("a")

    kubelet.publish(volume, target)
    stats = kubelet.stats(volume.volume_id, target)
    kubelet.unpublish(volume.volume_id, target)

    assert [usage.unit for usage in stats.usage] == [pb.VolumeUsage.BYTES, pb.VolumeUsage.INODES]
    assert not stats.volume_condition.abnormal
    assert node.mounts.mounts == {}


def test_n14_every_call_may_come_ten_times(node, kubelet, volume):
    target = kubelet.target("a")

    for _ in range(10):
        kubelet.publish(volume, target)
    assert len(node.mounts.starts) == 1
    assert len(node.binds.shown[target]) == 1
    for _ in range(10):
        assert not kubelet.stats(volume.volume_id, target).volume_condition.abnormal
    for _ in range(10):
        kubelet.unpublish(volume.volume_id, target)

    assert node.mounts.mounts == {}
    assert not os.path.exists(target)
