"""The figures of several mounts as one text: each sample gets the mountpoint as a label.

Workers are processes of their own, so each knows its own figures alone, and an address can be listened on by one of
them. Whoever scrapes a node wants one address; their texts are put together here.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from tigrismount.metrics.exposition import PREFIX, label_text
from tigrismount.metrics.table import UP

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from prometheus_client.samples import Sample

log = logging.getLogger(__name__)

LABEL = UP.label
"""The label that tells mounts apart; the info metric of each mount has its source beside it."""


def merge(texts: Mapping[str, str], silent: Collection[str] = ()) -> bytes:
    """Return the metrics of all mounts in the text format.

    Args:
        texts: What each mount says, by mountpoint; one that cannot be read is left out.
        silent: Mountpoints of those that say nothing.
    """
    found: dict[str, Metric] = {}
    if texts or silent:
        found[UP.name] = up = GaugeMetricFamily(PREFIX + UP.name, UP.help, labels=[LABEL])
        for mountpoint in sorted({*texts, *silent}):
            up.add_metric([label_text(mountpoint)], float(mountpoint in texts))
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
    return sample._replace(labels={**sample.labels, LABEL: label_text(mountpoint)})


class _Found(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families
