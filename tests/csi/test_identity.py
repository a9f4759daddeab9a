"""The identity service: I1 to I3 of csi-sanity."""

from __future__ import annotations

import re

from tigrismount import __version__
from tigrismount.csi import csi_pb2 as pb


def test_i1_capabilities_are_of_known_types(kubelet):
    known = pb.PluginCapability.Service.Type.values()

    answer = kubelet.identity.GetPluginCapabilities(pb.GetPluginCapabilitiesRequest())

    assert [each for each in answer.capabilities if each.service.type not in known] == []
    assert not [each for each in answer.capabilities if each.service.type], "no controller is claimed"


def test_i2_probe_says_ready(kubelet):
    assert kubelet.identity.Probe(pb.ProbeRequest()).ready.value is True


def test_i2_probe_says_why_it_is_not_ready(node, kubelet, refused):
    node.mounts.not_ready = "no mounter has connected: is 'tigrismount mounter' running on this node?"

    assert refused(kubelet.identity.Probe, pb.ProbeRequest()) == ("FAILED_PRECONDITION", node.mounts.not_ready)


def test_i3_the_name_is_one_that_kubernetes_takes(kubelet):
    answer = kubelet.identity.GetPluginInfo(pb.GetPluginInfoRequest())

    assert re.fullmatch(r"[a-zA-Z][A-Za-z0-9-._]{0,61}[a-zA-Z]", answer.name)
    assert answer.name == "csi.tigrismount.io"
    assert answer.vendor_version == __version__
