"""From a volume's attributes and mount options to what is mounted.

Both are written by whoever makes the volume, who need not be the operator of the node: for an ephemeral volume it is
the author of a pod. So what may be said is a list. On it are the options that concern the volume; what names files of
the host, listens on its network, or reaches what belongs to other volumes is the driver's command line alone. Values
are checked here, all at once, by the parsers of the command line, so that a typing error is an event of the pod and
not a line in the log of a worker.

Strength: attribute or mount option > Secret (endpoint and region) > the driver's own options. An option that is said
in both of the first two places must be said alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tigrismount.config.merge import NONEMPTY, Setting, merge, suggest
from tigrismount.config.options import BY_KEY
from tigrismount.config.resolve import validate
from tigrismount.config.source import parse_source
from tigrismount.config.units import format_size
from tigrismount.csi.mounts import MountSpec
from tigrismount.csi.refusal import invalid
from tigrismount.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

VOLUME_OPTIONS = (
    *("endpoint_url", "region", "addressing", "no_sign_request", "requester_pays", "request_timeout", "max_retries"),
    *("block_size", "memory_limit", "concurrency", "bandwidth", "read_ahead", "prefetch", "push"),
    *("kernel_read_ahead", "verify", "metadata_ttl", "negative_ttl", "snapshot", "consistent", "tigris_prefetch"),
    *("uid", "gid", "file_mode", "dir_mode"),
)
"""Keys of the options that a volume may set."""

BUCKET, PREFIX, MOUNT_FLAGS = "bucket", "prefix", "mountFlags"
_INLINE, _POD_INFO, _PROVISIONER = "csi.storage.k8s.io/ephemeral", "csi.storage.k8s.io/", "storage.kubernetes.io/"

_QUANTITY = re.compile(r"\d+(\.\d+)?[KMGTP]i")  # Kubernetes leaves the B away
_INLINE_ID = re.compile(r"csi-[0-9a-f]{64}")
_SIZES = ("memory_limit", "read_ahead", "block_size", "bandwidth")


def attribute_name(key: str) -> str:
    """Return how the option *key* is called in a volume's attributes: ``cacheSize``, and ``endpoint``."""
    first, *others = key.removesuffix("_url").split("_")
    return first + "".join(map(str.capitalize, others))


ATTRIBUTES: dict[str, str] = {attribute_name(key): key for key in VOLUME_OPTIONS}
"""Option keys by the names of the attributes."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the driver's operator allows, and says where a volume does not."""

    defaults: Mapping[str, str] = field(default_factory=dict)
    """Options of all volumes, by their names for ``-o``; weaker than what a volume says."""
    most_memory_bytes: int | None = None
    """Most that a volume may take for its buffers, and what it gets where nobody says; None is no bound."""


def is_inline(volume_id: str, attributes: Mapping[str, str]) -> bool:
    """Tell whether the volume was written into a pod, by the author of the pod.

    The kubelet says so where the driver's object has ``podInfoOnMount``; its ids for such volumes show it too.
    """
    return attributes.get(_INLINE, "").lower() == "true" or bool(_INLINE_ID.fullmatch(volume_id))


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """What a volume asks for, and what is mounted for it."""

    own: MountSpec
    """What the volume and its Secret say: what makes it the same volume again."""
    full: MountSpec
    """With the operator's defaults, which may be others after a restart of the driver."""


def parse_volume(
    attributes: Mapping[str, str], mount_flags: Sequence[str], weaker: Mapping[str, str], policy: Policy
) -> VolumeSpec:
    """Return what to mount.

    Args:
        attributes: The volume's attributes, with what the kubelet adds.
        mount_flags: The volume's mount options.
        weaker: Options of the Secret, checked, which count where the volume says nothing.
        policy: The operator's word.

    Raises:
        RefusalError: Something is unknown, wrong, contradictory or not allowed; says all of it.
    """
    own = {name: value for name, value in attributes.items() if not name.startswith((_POD_INFO, _PROVISIONER))}
    source = _source(own.pop(BUCKET, ""), own.pop(PREFIX, ""))
    flags = own.pop(MOUNT_FLAGS, "")
    settings, faults = _settings(own, [*mount_flags, *([flags] if flags else [])])
    settings = {**{key: Setting(value, "Secret") for key, value in weaker.items()}, **settings}
    defaults = {key: Setting(value, "the driver's default") for key, value in policy.defaults.items()}
    if policy.most_memory_bytes is not None:
        defaults.setdefault("memory_limit", Setting(str(policy.most_memory_bytes), "the driver's limit"))
    values, wrong = validate({**defaults, **settings})
    faults += wrong or _excess(values, policy)
    if faults:
        raise invalid("; ".join(faults))
    own = {key: _text(setting.value) for key, setting in sorted(settings.items())}
    return VolumeSpec(
        MountSpec(source, own), MountSpec(source, {**{key: _text(item.value) for key, item in defaults.items()}, **own})
    )


def parse_defaults(mount_options: Iterable[str]) -> dict[str, str]:
    """Return the driver's own options for all volumes.

    Args:
        mount_options: Arguments of ``-o``.

    Raises:
        ConfigError: One is unknown, wrong, or makes no sense for all volumes.
    """
    merged = merge(flags={}, mount_options=mount_options, environment={}, file={}, file_name="")
    _, wrong = validate(merged.settings)
    strange = [f"-o {key}: is for the mounter's command line" for key in merged.settings if key not in VOLUME_OPTIONS]
    if faults := [*merged.faults, *wrong, *strange, *(["-o nonempty: has no meaning here"] * merged.nonempty)]:
        raise ConfigError("; ".join(faults))
    return {key: _text(setting.value) for key, setting in merged.settings.items()}


def _source(bucket: str, prefix: str) -> str:
    if not bucket:
        raise invalid("volumeAttributes: bucket is missing; example: bucket: my-models")
    if "/" in bucket or ":" in bucket:
        raise invalid("volumeAttributes: bucket is a name alone; what follows it goes into prefix")
    try:
        return parse_source(f"s3://{bucket}/{prefix}").url
    except ConfigError as exc:
        raise invalid(f"volumeAttributes: bucket and prefix: {exc}") from None


def _settings(attributes: Mapping[str, str], mount_flags: Sequence[str]) -> tuple[dict[str, Setting], list[str]]:
    """Return what the volume says by option key, and what is wrong with it."""
    settings, faults = {}, []
    known = (*ATTRIBUTES, BUCKET, PREFIX, MOUNT_FLAGS)
    for name, value in sorted(attributes.items()):
        if key := ATTRIBUTES.get(name):
            settings[key] = Setting(_quantity(key, value), f"volumeAttributes {name}")
        else:
            faults.append(f"volumeAttributes: {_refused(name, _key(name), known)}")
    merged = merge(flags={}, mount_options=mount_flags, environment={}, file={}, file_name="")
    faults += [f"mountOptions{fault.removeprefix('-o')}" for fault in merged.faults]
    faults += ["mountOptions: nonempty has no meaning in a volume"] * merged.nonempty
    for key, setting in merged.settings.items():
        written = _quantity(key, setting.value)
        if key not in VOLUME_OPTIONS:
            faults.append(f"mountOptions: {_refused(key, key, VOLUME_OPTIONS)}")
        elif key in settings and settings[key].value != written:
            faults.append(f"{settings[key].origin} and mountOptions {key} say different things; keep one")
        else:
            settings[key] = Setting(written, f"mountOptions {key}")
    return settings, faults


def _refused(name: str, key: str, known: Iterable[str]) -> str:
    if key in BY_KEY or key == NONEMPTY:
        return f"{name!r} is for the driver's operator, not for a volume"
    return f"unknown key {name!r}{suggest(name, known)}"


def _key(name: str) -> str:
    """Return the option key that an attribute in camel case would have."""
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower().replace("-", "_")


def _quantity(key: str, value: object) -> object:
    is_quantity = key in _SIZES and isinstance(value, str) and _QUANTITY.fullmatch(value.strip())
    return f"{str(value).strip()}B" if is_quantity else value


def _excess(values: Mapping[str, object], policy: Policy) -> list[str]:
    """Return which sizes are above what the operator allows."""
    memory_bytes, most_bytes = values.get("memory_limit"), policy.most_memory_bytes
    if most_bytes is None or not isinstance(memory_bytes, int) or memory_bytes <= most_bytes:
        return []
    return [f"memoryLimit: this node allows {format_size(most_bytes)} at most"]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
