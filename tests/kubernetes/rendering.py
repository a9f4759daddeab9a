"""A small part of kustomize: as much as the examples use, so that they can be built where there is no ``kubectl``.

Known are ``resources``, ``components``, ``namespace``, ``images`` and ``patches`` of JSON patches with a target;
anything else in a kustomization is an error. ``kubectl kustomize`` is the oracle where it is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonpatch
import yaml

Document = dict[str, Any]

KNOWN = {"apiVersion", "kind", "namespace", "resources", "components", "images", "patches"}
CLUSTER_WIDE = {"Namespace", "CSIDriver", "PersistentVolume"}


def documents(path: Path) -> list[Document]:
    """Return what a file of YAML documents holds."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def render(directory: Path, before: Sequence[Document] = ()) -> list[Document]:
    """Return what ``kubectl kustomize`` makes of *directory*; a component is given what there was *before* it."""
    (kustomization,) = documents(directory / "kustomization.yaml")
    unknown = kustomization.keys() - KNOWN
    assert not unknown, f"{directory}: {unknown} is not known here"
    found = list(before)
    for name in kustomization.get("resources", ()):
        path = directory / name
        found += render(path) if path.is_dir() else documents(path)
    for name in kustomization.get("components", ()):
        found = render(directory / name, found)
    for patch in kustomization.get("patches", ()):
        found = _patched(found, patch)
    for document in found:
        _rename_images(document, kustomization.get("images", ()))
        if "namespace" in kustomization and document["kind"] not in CLUSTER_WIDE:
            document["metadata"]["namespace"] = kustomization["namespace"]
    return found


def _patched(found: list[Document], patch: Document) -> list[Document]:
    target, changes = patch["target"], yaml.safe_load(patch["patch"])
    assert target.keys() == {"kind", "name"}
    hit = [d["kind"] == target["kind"] and d["metadata"]["name"] == target["name"] for d in found]
    assert sum(hit) == 1, f"{target} is not one document"
    return [jsonpatch.apply_patch(d, changes) if is_it else d for d, is_it in zip(found, hit, strict=True)]


def containers(document: Document) -> list[Document]:
    """Return all containers of a pod, or of what makes pods."""
    spec = document.get("spec", {})
    pod = spec["template"]["spec"] if "template" in spec else spec
    return [*pod.get("initContainers", ()), *pod.get("containers", ())]


def pod_of(document: Document) -> Document:
    """Return the specification of the pods that a document makes."""
    spec = document["spec"]
    return spec["template"]["spec"] if "template" in spec else spec


def _rename_images(document: Document, images: list[Document]) -> None:
    for container in containers(document):
        for image in images:
            if container["image"].partition(":")[0] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
