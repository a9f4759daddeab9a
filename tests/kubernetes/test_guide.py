"""The guide to Kubernetes: what it says of codes and files is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tigrismount.csi.attributes import Policy, parse_volume
from tigrismount.csi.refusal import Code

from .rendering import pod_of, render

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "howto" / "kubernetes.md").read_text()


def test_every_code_of_the_driver_has_a_remedy():
    rows = re.findall(r"^\| (\w+) \| [^|]+ \| [^|]+ \|$", GUIDE, re.MULTILINE)
    assert {"".join(word.capitalize() for word in code.value.split("_")) for code in Code} <= set(rows)


def test_the_volume_has_eight_lines_that_the_driver_takes():
    """As in the file among the examples."""
    (block,) = re.findall(r"^```yaml\nvolumes:\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    assert len(block.splitlines()) == 8
    (volume,) = yaml.safe_load(block)
    assert (
        parse_volume(volume["csi"]["volumeAttributes"], [], {}, Policy()).full.source == "s3://my-bucket/models/llama"
    )
    inline = yaml.safe_load((ROOT / "examples" / "kubernetes" / "volumes" / "inline.yaml").read_text())
    assert inline["spec"]["volumes"] == [volume]


@pytest.mark.parametrize("name", ["csi", "mounter"])
def test_requests_and_limits_are_those_of_the_manifests(name):
    documents = render(ROOT / "examples" / "kubernetes" / "base")
    pods = {d["metadata"]["name"]: pod_of(d) for d in documents if d["kind"] == "DaemonSet"}
    resources = pods[f"tigrismount-{name}"]["containers"][0]["resources"]
    row = re.search(rf"^\| {name} \| (\d+) (MiB|GiB) \| (\d+) (MiB|GiB) \|", GUIDE, re.MULTILINE)
    told = [f"{row[at]}{row[at + 1].removesuffix('B')}" for at in (1, 3)]
    assert told == [resources["requests"]["memory"], resources["limits"]["memory"]]
