"""The figures of several mounts as one text: each sample gets the mountpoint as a label.

Workers are processes of their own, so each knows its own figures alone, and an address can be listened on by one of
them. Whoever scrapes a node wants one address; their texts are put together here.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.samples import Sample

log = logging.getLogger(__name__)

LABEL = "mountpoint"
"""The label that tells mounts apart; the info metric of each mount has its source beside it."""


def merge(texts: Mapping[str, str]) -> bytes:
    """Return the metrics of all mounts in the text format.

    Args:
        texts: What each mount says, by mountpoint; one that cannot be read is left out.
    """
    found: dict[str, Metric] = {}
    for mountpoint, text in sorted(texts.items()):
        try:
            families = list(text_string_to_metric_families(text))
        except ValueError as exc:
            log.warning("the metrics of %s cannot be read: %s", mountpoint, exc)
            continue
        for family in families:
            whole = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            whole.samples += [_labelled(sample, mountpoint) for sample in family.samples]
    registry = CollectorRegistry()
    registry.register(_Found(found.values()))
    return generate_latest(registry)


def _labelled(sample: Sample, mountpoint: str) -> Sample:
    return sample._replace(labels={**sample.labels, LABEL: mountpoint})


class _Found(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families
