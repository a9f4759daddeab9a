"""A mount's figures as Prometheus text."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from tigrismount.metrics.table import ERRNOS, ERRORS, INFO, INFO_LABELS, METRICS, TIMINGS, Metric, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tigrismount.core.histogram import HistogramSnapshot

PREFIX = "tigrismount_"
"""In front of every name of ours."""

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


@dataclass(frozen=True, slots=True)
class Figures:
    """What a mount says of itself at one moment."""

    status: Status
    """As ``tigrismount status --json`` shows it."""
    timings: Mapping[str, HistogramSnapshot]
    """How long things took, by the names of ``table.TIMINGS``."""
    errors: Mapping[str, int]
    """Requests refused, by the name of the error number."""


class Exposition:
    """Turns figures into text.

    Args:
        figures: Gives the figures to show; called in the thread that asks for the text.
    """

    def __init__(self, figures: Callable[[], Figures]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Ours(figures))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self._registry)


class _Ours(Collector):
    def __init__(self, figures: Callable[[], Figures]) -> None:
        self._figures = figures

    def describe(self) -> list[Family]:
        """Name nothing: the registry need not ask for figures before there are any."""
        return []

    def collect(self) -> Iterator[Family]:
        """Give every metric."""
        figures = self._figures()
        yield _info(figures.status)
        for metric in METRICS:
            yield _family(metric, dict(metric.values(figures.status).items()))
        errors = {**dict.fromkeys(ERRNOS, 0), **figures.errors}
        yield _family(ERRORS, {name: float(count) for name, count in errors.items()})
        for name, snapshot in figures.timings.items():
            yield _histogram(name, snapshot)


def label_text(value: object) -> str:
    """Return *value* as a label has it: what is no UTF-8 in a path or a prefix, with escapes."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def _family(metric: Metric, values: Mapping[str, float]) -> Family:
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    labels = [metric.label] if metric.label else []
    family = make(PREFIX + metric.name, metric.help, labels=labels)
    for label, value in values.items():
        family.add_metric([label] if labels else [], value)
    return family


def _info(status: Status) -> Family:
    labels = {name: label_text(status[name] or "") for name in INFO_LABELS}
    family = GaugeMetricFamily(PREFIX + INFO.name, INFO.help, labels=list(labels))
    family.add_metric(list(labels.values()), 1.0)
    return family


def _histogram(name: str, snapshot: HistogramSnapshot) -> Family:
    timing = TIMINGS[name]
    family = HistogramMetricFamily(PREFIX + timing.name, timing.help)
    bounds = [*map(str, snapshot.bounds), "+Inf"]
    family.add_metric([], list(zip(bounds, accumulate(snapshot.counts), strict=True)), snapshot.total)
    return family
