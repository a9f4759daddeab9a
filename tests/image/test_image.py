"""What the image is made of: layers without a compiler, a cache or anybody's secret, and how it says to be run."""

from __future__ import annotations

import io
import json
import re
import tarfile
from typing import TYPE_CHECKING

import pytest

from .conftest import BASE, DECOYS, IMAGE, LIMIT_BYTES, MARK, MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.image, pytest.mark.slow]

NOT_IN_IT = re.compile(
    r"(^|/)(gcc|cc|g\+\+|cc1|ld|as|make|pip3?|cython|Python\.h|fuse\.h|build-essential)$"  # what built it
    r"|^(root/\.cache|build|source|wheels)(/|$)"  # where it was built
    r"|^var/(cache/apt|lib/apt/lists)/.|site-packages/(pip|setuptools|Cython|hatchling)(/|$)"
    r"|\.(deb|whl|c|h|pyx)$"
)


@pytest.fixture(scope="module")
def layers(image, tmp_path_factory) -> list[dict[str, tuple[int, bytes]]]:
    """What each layer above the base holds, also what a later one hides: sizes, and the text of small files."""
    path = tmp_path_factory.mktemp("image") / "image.tar"
    image("podman", "save", "--format=docker-archive", f"--output={path}", IMAGE, timeout_s=300)
    below = len(image.inspect(BASE)["RootFS"]["Layers"])
    with tarfile.open(path) as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json"))
        found = [dict(_members(archive.extractfile(name).read())) for name in manifest["Layers"][below:]]
    path.unlink()
    return [{name: held for name, held in layer.items() if "/.wh." not in name} for layer in found]


def _members(layer: bytes) -> Iterator[tuple[str, tuple[int, bytes]]]:
    with tarfile.open(fileobj=io.BytesIO(layer)) as files:
        for member in files:
            if member.isfile():
                yield member.name, (member.size, files.extractfile(member).read())


def test_no_layer_holds_what_it_was_built_with(layers):
    assert [name for layer in layers for name in layer if NOT_IN_IT.search(name)] == []


def test_no_layer_holds_what_lies_beside_the_dockerfile(layers):
    assert len(DECOYS) > 5
    assert [name for layer in layers for name, (_, body) in layer.items() if MARK.encode() in body] == []


def test_no_layer_says_how_the_build_machine_reaches_the_network(layers):
    """Certificates and indexes of whoever builds it are not anybody else's."""
    told = [
        name for layer in layers for name in layer if re.search(r"(^|/)(pip\.conf|\.netrc|\.npmrc|proxy\.conf)$", name)
    ]
    assert told == []
    assert [name for layer in layers for name in layer if name == "etc/ssl/certs/ca-certificates.crt"] == []


def test_it_adds_little_to_its_base(image, layers):
    added = sum(size for layer in layers for size, _ in layer.values())
    print(f"base {image.inspect(BASE)['Size'] / 1e6:.0f} MB, added {added / 1e6:.1f} MB in {len(layers)} layers")
    assert added < LIMIT_BYTES


def test_python_packages_are_those_of_the_constraints(image, repository):
    wanted = {line.strip() for line in (repository / "constraints.txt").read_text().splitlines() if "==" in line}
    code = (
        "import importlib.metadata as m, re\n"
        "print(*sorted(re.sub('[-_.]+', '-', d.name).lower() + '==' + d.version for d in m.distributions()))"
    )
    have = set(image("podman", "run", "--rm", "--no-healthcheck", "--entrypoint=python", IMAGE, "-c", code).split())
    assert {name for name in have if not name.startswith("tigrismount==")} == wanted


def test_it_says_how_it_is_run(image):
    found = image.inspect(IMAGE)
    config = found["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["/usr/bin/tini", "--", "tigrismount"]
    assert found["Healthcheck"]["Test"] == ["CMD", "tigrismount", "health", MODELS, "--degraded-ok"]
    assert not [name for name in config["Env"] if re.search("KEY|SECRET|TOKEN|PROXY|CERT", name, re.IGNORECASE)]


@pytest.fixture
def repository(request) -> Path:
    return request.config.rootpath
