"""The manifests among the examples, without a cluster: built, held against Kubernetes' schemas, and against ourselves.

What only Kubernetes can tell is not seen here: whether an image exists, a quota allows it, a CRD is installed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from ipaddress import ip_network
from pathlib import Path

import click
import kubernetes_validate
import pytest
import yaml

from tigrismount.cli.main import cli
from tigrismount.config.options import BY_KEY
from tigrismount.config.units import parse_size_bytes
from tigrismount.csi.attributes import Policy, is_inline, parse_defaults, parse_volume
from tigrismount.csi.refusal import RefusalError

from .rendering import containers, documents, pod_of, render

ROOT = Path(__file__).resolve().parents[2] / "examples" / "kubernetes"
KUSTOMIZATIONS = [ROOT / "base", *sorted(path.parent for path in ROOT.glob("overlays/*/kustomization.yaml"))]
FILES = sorted(path for kind in ("volumes", "workloads", "sidecar") for path in (ROOT / kind).glob("*.yaml"))
VERSIONS = ("1.30", "1.34")
FOREIGN = {"monitoring.coreos.com/v1": {"PodMonitor"}}
"""Kinds of other projects, which Kubernetes has no schema of."""
DRIVER = "csi.tigrismount.io"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(params=[*KUSTOMIZATIONS, *FILES], ids=name_of)
def found(request):
    """All documents of a kustomization, or of a file."""
    return render(request.param) if request.param.is_dir() else documents(request.param)


@pytest.fixture
def pods(found):
    """What makes pods among them."""
    return [document for document in found if document["kind"] in ("Pod", "Deployment", "DaemonSet", "StatefulSet")]


@pytest.fixture
def base():
    """The documents of the base, by kind and name."""
    return {(document["kind"], document["metadata"]["name"]): document for document in render(ROOT / "base")}


def test_the_examples_are_all_here():
    assert {path.name for path in KUSTOMIZATIONS} == {"base", "nvme-cache", "prometheus", "tag", "everything"}
    every = {path for path in ROOT.rglob("*.yaml") if path.name != "kustomization.yaml"}
    built = {path.parent / name for path in ROOT.rglob("kustomization.yaml") for name in _resources(path)}
    assert every == set(FILES) | {path for path in built if path.suffix == ".yaml"}


def _resources(path: Path) -> list[str]:
    (kustomization,) = documents(path)
    return kustomization.get("resources", [])


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(found, version):
    for document in found:
        if document["kind"] not in FOREIGN.get(document["apiVersion"], ()):
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("DaemonSet", ("spec", "template", "spec", "containers", 0, "imagee"), "x"),
        ("DaemonSet", ("spec", "template", "spec", "containers", 0, "ports"), 9102),
        ("CSIDriver", ("spec", "attachRequired"), "no"),
    ],
)
def test_a_slip_is_seen(kind, path, value):
    document = next(d for d in render(ROOT / "base") if d["kind"] == kind)
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSIONS[0], strict=True)


@pytest.mark.parametrize("directory", KUSTOMIZATIONS, ids=name_of)
def test_kubectl_builds_the_same(directory):
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl here: what it would build is built by these tests alone")
    done = subprocess.run(["kubectl", "kustomize", directory], capture_output=True, text=True, timeout=60, check=False)
    if "unknown field" in done.stderr or "invalid Kustomization" in done.stderr:
        pytest.skip("this kubectl is too old for patches with a target")
    assert done.returncode == 0, done.stderr
    assert _sorted(yaml.safe_load_all(done.stdout)) == _sorted(render(directory))


def _sorted(found) -> list[str]:
    return sorted(json.dumps(document, sort_keys=True) for document in found)


# ------------------------------------------------------------------ what we ask of all of them


@pytest.mark.parametrize("overlay", ["tag", "everything"])
def test_tag_has_the_settings_without_which_it_is_in_the_way(overlay):
    every = {(found["kind"], found["metadata"]["name"]): found for found in render(ROOT / "overlays" / overlay)}
    config = yaml.safe_load(every["ConfigMap", "tag"]["data"]["config.yaml"])
    assert config["cache"]["size_threshold"] > 10 << 30, "larger shards are never cached"
    (tag,) = pod_of(every["StatefulSet", "tag"])["containers"]
    variables = {one["name"]: one.get("value") for one in tag["env"]}
    assert int(variables["TAG_CACHE_MAX_DISK_USAGE"]) > config["cache"]["size_threshold"], "else nothing is evicted"
    assert "/etc/tag/config.yaml" in tag["args"]
    mounter = pod_of(every["DaemonSet", "tigrismount-mounter"])["containers"][0]
    ours = {one["name"]: one.get("value") for one in mounter["env"]}
    port = every["Service", "tag"]["spec"]["ports"][0]["port"]
    assert ours["TIGRISMOUNT_ENDPOINT_URL"].endswith(f"//tag.tigrismount.svc.cluster.local:{port}")
    assert (ours["TIGRISMOUNT_ADDRESSING"], ours["TIGRISMOUNT_STORE_ID"]) == ("path", "tigris")


def test_a_snapshot_is_read_past_tag():
    (pod,) = documents(ROOT / "volumes" / "snapshot.yaml")
    (volume,) = pod_of(pod)["volumes"]
    assert volume["csi"]["volumeAttributes"]["endpoint"] == "https://t3.storage.dev"


def test_every_image_has_a_version_and_a_registry(pods):
    for pod in pods:
        for container in containers(pod):
            name, _, tag = container["image"].rpartition(":")
            assert "." in name.partition("/")[0], container["image"]
            assert tag
            assert tag != "latest"


def test_every_container_says_what_it_needs(pods):
    """And has no limit of CPU, which would only make a load slower."""
    for pod in pods:
        for container in containers(pod):
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys(), container["name"]
            assert "memory" in resources["limits"]
            assert "cpu" not in resources["limits"]


def test_only_what_mounts_is_privileged(pods):
    privileged = {
        (pod["metadata"]["name"], container["name"])
        for pod in pods
        for container in containers(pod)
        if container.get("securityContext", {}).get("privileged")
    }
    assert privileged <= {("tigrismount-csi", "csi"), ("llama-sidecar", "mount")}


def test_what_is_mounted_is_declared_and_used(pods):
    for pod in pods:
        declared = {volume["name"] for volume in pod_of(pod).get("volumes", ())}
        declared |= {claim["metadata"]["name"] for claim in pod["spec"].get("volumeClaimTemplates", ())}
        used = {mount["name"] for container in containers(pod) for mount in container.get("volumeMounts", ())}
        assert used == declared, pod["metadata"]["name"]


def test_readers_see_a_mount_that_is_made_anew(pods):
    """HostToContainer, or the pod reads from a dead mount where the driver had to mount again."""
    for pod in pods:
        kinds = ("csi", "persistentVolumeClaim")
        models = {volume["name"] for volume in pod_of(pod).get("volumes", ()) if any(kind in volume for kind in kinds)}
        for container in containers(pod):
            for mount in container.get("volumeMounts", ()):
                if mount["name"] in models:
                    assert (mount["mountPropagation"], mount["readOnly"]) == ("HostToContainer", True)


def test_selectors_find_the_pods_that_they_make(found):
    labels = [
        document["spec"]["template"]["metadata"]["labels"]
        for document in found
        if "template" in document.get("spec", {})
    ]
    for document in found:
        selector = document.get("spec", {}).get("selector", {})
        wanted = selector.get("matchLabels", selector)
        assert not wanted or any(wanted.items() <= have.items() for have in labels), document["metadata"]["name"]


# ------------------------------------------------------------------ held against our own code


def ours(document) -> list[tuple[dict, list[str]]]:
    """Our containers among those of a document, and their command lines."""
    mine = [container for container in containers(document) if "/tigrismount:" in container["image"]]
    lines = [
        (container, [*container.get("command", ["tigrismount"]), *container.get("args", [])]) for container in mine
    ]
    return [(container, line[1:]) for container, line in lines if line[0] == "tigrismount"]


def parse(words: list[str]) -> click.Context:
    """Have the command line take *words* apart; it complains about what it does not know."""
    command = cli.get_command(click.Context(cli), words[0])
    assert command is not None, words[0]
    return command.make_context(words[0], list(words[1:]), obj={"debug": False, "arguments": ()})


def test_command_lines_are_known(pods):
    for pod in pods:
        for _, words in ours(pod):
            parse(words)
    with pytest.raises(click.UsageError):
        parse(["mount", "--cache-sice=1", "s3://b", "/m"])


def test_probes_call_commands_that_there_are(pods):
    for pod in pods:
        for container, _ in ours(pod):
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                if "exec" in container.get(kind, {}):
                    words = container[kind]["exec"]["command"]
                    assert words[0] == "tigrismount"
                    parse(words[1:])


def test_variables_are_options(pods):
    for pod in pods:
        for container, _ in ours(pod):
            names = [entry["name"] for entry in container.get("env", ()) if entry["name"].startswith("TIGRISMOUNT_")]
            assert {name.removeprefix("TIGRISMOUNT_").lower() for name in names} <= BY_KEY.keys()


def test_the_driver_takes_the_attributes(found):
    for volume_id, volume, mount_options in _volumes(found):
        assert volume["driver"] == DRIVER
        assert volume["readOnly"] is True
        attributes = dict(volume["volumeAttributes"])
        assert all(isinstance(value, str) for value in attributes.values())
        spec = parse_volume(attributes, mount_options, {}, Policy())
        assert spec.full.source == "s3://my-bucket/models/llama"
        assert not is_inline(volume_id, attributes) or volume["nodePublishSecretRef"]


def _volumes(found):
    """Volumes of the driver: how they would be called, what they say, and their mount options."""
    for document in found:
        if document["kind"] == "PersistentVolume":
            spec = document["spec"]
            yield spec["csi"]["volumeHandle"], spec["csi"], spec.get("mountOptions", [])
        elif document["kind"] in ("Pod", "Deployment", "DaemonSet", "StatefulSet"):
            for volume in pod_of(document).get("volumes", ()):
                if "csi" in volume:
                    yield "csi-" + 64 * "0", volume["csi"], []


def test_an_attribute_that_there_is_not_is_refused():
    with pytest.raises(RefusalError):
        parse_volume({"bucket": "my-bucket", "prefx": "x"}, [], {}, Policy())


def test_a_cache_stays_below_the_limit_of_its_volume(pods):
    """The kubelet evicts a pod that goes beyond."""
    for pod in pods:
        limits = {
            volume["name"]: volume["emptyDir"]["sizeLimit"]
            for volume in pod_of(pod).get("volumes", ())
            if "sizeLimit" in volume.get("emptyDir", {})
        }
        for container, words in ours(pod):
            told = {word.partition("=")[0]: word.partition("=")[2] for word in words}
            places = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", ())}
            limit = limits.get(places.get("/cache", ""))
            if limit and "--cache-size" in told:
                assert parse_size_bytes(told["--cache-size"]) <= 0.95 * parse_size_bytes(f"{limit}B")


# ------------------------------------------------------------------ the driver


def test_no_volume_reaches_the_clouds_metadata_service_by_its_endpoint(base):
    """A volume names its endpoint; the node's credentials must not be what it finds there."""
    policy = base["NetworkPolicy", "tigrismount-mounter"]["spec"]
    labels = base["DaemonSet", "tigrismount-mounter"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    (rule,) = policy["egress"]
    blocks = [to["ipBlock"] for to in rule["to"] if "ipBlock" in to]
    assert blocks
    for block in blocks:
        network, metadata = ip_network(block["cidr"]), [ip_network("169.254.169.254"), ip_network("fd00:ec2::254")]
        inside = {str(address) for address in metadata if address.version == network.version}
        assert inside == set(block["except"])


def test_the_base_asks_nothing_of_the_api_server(base):
    """No roles, no tokens: whoever takes a node over finds nothing in these pods that reaches further."""
    assert {kind for kind, _ in base} == {"Namespace", "CSIDriver", "ServiceAccount", "DaemonSet", "NetworkPolicy"}
    for (kind, _), document in base.items():
        if kind in ("ServiceAccount", "DaemonSet"):
            place = pod_of(document) if kind == "DaemonSet" else document
            assert place["automountServiceAccountToken"] is False


def test_the_mounter_can_do_nothing(base):
    pod = pod_of(base["DaemonSet", "tigrismount-mounter"])
    assert {key: pod["securityContext"][key] for key in ("runAsNonRoot", "runAsUser")} == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
    }
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not [mount for mount in container["volumeMounts"] if "mountPropagation" in mount]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


def test_the_two_halves_and_the_kubelet_meet(base):
    """Names and paths that must be the same in several places."""
    csi, mounter = (pod_of(base["DaemonSet", f"tigrismount-{part}"]) for part in ("csi", "mounter"))
    host = {volume["name"]: volume["hostPath"]["path"] for volume in csi["volumes"] if "hostPath" in volume}
    by_name = {container["name"]: container for container in csi["containers"]}
    told = parse(by_name["csi"]["args"]).params
    registrar = dict(argument.split("=", 1) for argument in by_name["node-driver-registrar"]["args"])
    assert base["CSIDriver", DRIVER]["spec"]["podInfoOnMount"] is True
    assert told["driver_name"] == DRIVER
    assert told["endpoint"] == f"unix://{host['plugin']}/csi.sock"
    assert host["plugin"] == f"/var/lib/kubelet/plugins/{DRIVER}"
    assert registrar["--kubelet-registration-path"] == f"{host['plugin']}/csi.sock"
    mounts = {mount["mountPath"]: mount for mount in by_name["csi"]["volumeMounts"]}
    assert mounts[host["kubelet"]]["mountPropagation"] == "Bidirectional"
    views = [path for path in mounts if host.get(mounts[path]["name"], "").startswith(host["kubelet"])]
    assert views == [host["kubelet"]], "another one would hold copies of the mounts after a restart"
    assert str(told["state_dir"]).startswith(f"{host['plugin']}/")
    assert parse_defaults(told["mount_options"]) == {"memory_limit": "1GiB"}
    theirs = {volume["name"]: volume["hostPath"]["path"] for volume in mounter["volumes"] if "hostPath" in volume}
    assert theirs["comm"] == host["comm"]
    assert told["mounter_uid"] == mounter["securityContext"]["runAsUser"]


def test_the_monitor_gives_mounters_the_job_that_the_alert_rules_name():
    """Without a label the operator names the job after itself, and no alert that asks for one is ever raised."""
    found = {(d["kind"], d["metadata"]["name"]): d for d in render(ROOT / "overlays" / "prometheus")}
    labels = found["DaemonSet", "tigrismount-mounter"]["spec"]["template"]["metadata"]["labels"]
    monitor = found["PodMonitor", "tigrismount"]["spec"]
    rules = (ROOT.parent / "observability" / "alerts.yml").read_text()
    assert set(re.findall(r'job="([^"]+)"', rules)) == {labels[monitor["jobLabel"]]}


def test_the_cache_of_an_nvme_becomes_the_mounters():
    found = render(ROOT / "overlays" / "nvme-cache")
    (mounter,) = [
        document
        for document in found
        if document["metadata"]["name"] == "tigrismount-mounter" and document["kind"] == "DaemonSet"
    ]
    pod = pod_of(mounter)
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "cache"]
    assert volume["hostPath"]["path"] == "/mnt/nvme/tigrismount"
    assert pod["containers"][0]["args"][-1] == "--cache-size=85%"
    (init,) = pod["initContainers"]
    assert init["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN"]}
    assert init["image"] == pod["containers"][0]["image"]
