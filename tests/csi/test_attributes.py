"""What a volume's attributes and mount options come to."""

from __future__ import annotations

import pytest

from tigrismount.config.options import BY_KEY
from tigrismount.csi.attributes import ATTRIBUTES, Policy, is_inline, parse_defaults, parse_volume
from tigrismount.csi.mounts import MountSpec
from tigrismount.csi.refusal import RefusalError
from tigrismount.errors import ConfigError


def parse(attributes=None, flags=(), weaker=None, policy=None):
    return parse_volume({"bucket": "models", **(attributes or {})}, flags, weaker or {}, policy or Policy()).full


def refused(*arguments, **keywords):
    with pytest.raises(RefusalError) as caught:
        parse(*arguments, **keywords)
    return caught.value.message


def test_bucket_and_prefix_are_the_source():
    assert parse() == MountSpec("s3://models", {})
    assert parse({"prefix": "llama/8b/"}).source == "s3://models/llama/8b"


def test_attributes_become_options():
    spec = parse({"endpoint": "https://t3.storage.dev", "readAhead": "64Mi", "noSignRequest": "True", "uid": "7"})

    assert spec.options == {
        "endpoint_url": "https://t3.storage.dev",
        "no_sign_request": "True",
        "read_ahead": "64MiB",
        "uid": "7",
    }


def test_mount_options_become_options_too():
    assert parse({}, ["ro", "metadata-ttl=5m,requester_pays", "no-consistent"]).options == {
        "consistent": "false",
        "metadata_ttl": "5m",
        "requester_pays": "true",
    }


def test_inline_volumes_have_their_mount_options_in_an_attribute():
    assert parse({"mountFlags": "gid=8,noatime"}).options == {"gid": "8"}


def test_what_the_kubelet_adds_is_no_attribute():
    assert (
        parse({"csi.storage.k8s.io/pod.name": "p", "storage.kubernetes.io/csiProvisionerIdentity": "x"}).options == {}
    )


def test_an_option_may_be_said_twice_but_not_in_two_ways():
    assert parse({"uid": "7"}, ["uid=7"]).options == {"uid": "7"}
    assert "volumeAttributes uid and mountOptions uid say different things" in refused({"uid": "7"}, ["uid=8"])


def test_the_volume_is_stronger_than_the_secret_and_the_secret_than_the_driver():
    policy = Policy(defaults={"region": "driver", "metadata_ttl": "1m", "endpoint_url": "http://tag"})
    spec = parse({"region": "volume"}, (), {"region": "secret", "endpoint_url": "http://secret"}, policy)

    assert spec.options == {"endpoint_url": "http://secret", "metadata_ttl": "1m", "region": "volume"}


def test_defaults_are_no_part_of_what_makes_a_volume_the_same():
    policy = Policy(defaults={"metadata_ttl": "1m"}, most_memory_bytes=1 << 30)

    spec = parse_volume({"bucket": "models", "uid": "7"}, [], {"region": "secret"}, policy)

    assert spec.own.options == {"region": "secret", "uid": "7"}
    assert spec.full.options == {"memory_limit": str(1 << 30), "metadata_ttl": "1m", "region": "secret", "uid": "7"}


def test_all_faults_are_told_at_once():
    message = refused({"uid": "-1", "snapshots": "latest"}, ["blok-size=1"])

    assert "volumeAttributes uid = '-1': expected a whole number" in message
    assert "unknown key 'snapshots' (did you mean snapshot?)" in message
    assert "mountOptions blok-size=1: unknown option (did you mean block_size?)" in message


def test_a_missing_bucket_is_told_with_an_example():
    with pytest.raises(RefusalError, match="bucket is missing; example: bucket: my-models"):
        parse_volume({"buket": "models"}, [], {}, Policy())


def test_an_operators_option_is_told_from_a_typing_error():
    assert "'cacheDir' is for the driver's operator, not for a volume" in refused({"cacheDir": "/x"})
    assert "'cache_dir' is for the driver's operator, not for a volume" in refused({}, ["cache-dir=/x"])


def test_memory_has_the_operators_bound():
    policy = Policy(most_memory_bytes=1 << 30)

    assert parse({"memoryLimit": "512Mi"}, policy=policy).options == {"memory_limit": "512MiB"}
    assert parse(policy=policy).options == {"memory_limit": str(1 << 30)}
    assert refused({"memoryLimit": "2Gi"}, policy=policy) == "memoryLimit: this node allows 1 GiB at most"


def test_options_that_contradict_each_other_are_told():
    assert "is more than --memory-limit" in refused({"memoryLimit": "64Mi", "readAhead": "1Gi"})


def test_every_attribute_is_an_option_and_written_as_kubernetes_writes():
    assert set(ATTRIBUTES.values()) <= set(BY_KEY)
    assert all(name[0].islower() and name.isalnum() for name in ATTRIBUTES)
    assert ATTRIBUTES["metadataTtl"] == "metadata_ttl"


@pytest.mark.parametrize(
    ("volume_id", "attributes", "expected"),
    [
        ("pv", {}, False),
        ("pv", {"csi.storage.k8s.io/ephemeral": "false"}, False),
        ("pv", {"csi.storage.k8s.io/ephemeral": "true"}, True),
        ("csi-" + 64 * "0", {}, True),
        ("csi-models", {}, False),
    ],
)
def test_inline_volumes_are_known(volume_id, attributes, expected):
    assert is_inline(volume_id, attributes) is expected


def test_the_drivers_defaults_are_checked_when_it_starts():
    assert parse_defaults(["metadata-ttl=5m,requester_pays", "region=auto"]) == {
        "metadata_ttl": "5m",
        "requester_pays": "true",
        "region": "auto",
    }
    with pytest.raises(ConfigError, match="-o cache_dir: is for the mounter's command line") as caught:
        parse_defaults(["cache-dir=/x,uid=-1,nonempty,regoin=x"])
    assert "uid" in str(caught.value)
    assert "did you mean region?" in str(caught.value)
    assert "nonempty" in str(caught.value)
