"""The dashboard and the alert rules ask for metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tigrismount.metrics.exposition import PREFIX
from tigrismount.metrics.table import ERRORS, INFO, METRICS, PARTS, TIMINGS, UP

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "observability"
SERIES = (
    {f"{PREFIX}{metric.name}{'_total' if metric.kind == 'counter' else ''}" for metric in (*METRICS, ERRORS, INFO, UP)}
    | {f"{PREFIX}{timing.name}_{part}" for timing in TIMINGS.values() for part in ("bucket", "sum", "count")}
    | {"up", "process_resident_memory_bytes"}
)
LABELS = {metric.label for metric in (*METRICS, ERRORS, UP)} | {"instance", "job", "le"}


def expressions() -> list[str]:
    dashboard = json.loads((EXAMPLE / "dashboard.json").read_text())
    rules = yaml.safe_load((EXAMPLE / "alerts.yml").read_text())["groups"][0]["rules"]
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return shown + [rule["expr"] for rule in rules]


@pytest.mark.parametrize("expression", expressions())
def test_every_series_and_label_that_is_asked_for_is_there(expression):
    asked = set(re.findall(rf"\b(?:{PREFIX}|process_)\w+|\bup\b", expression))
    assert asked
    assert asked <= SERIES
    groups = re.findall(r"by \(([^)]*)\)", expression) + re.findall(r"[{,] *(\w+)(?==|!=|=~)", expression)
    assert {label.strip() for group in groups for label in group.split(",")} <= LABELS
    assert set(re.findall(r'part="(\w+)"', expression)) <= set(PARTS)


def test_no_metric_is_left_out_of_the_dashboard_but_gauges_of_little_interest():
    shown = " ".join(expressions())
    missing = {name for name in SERIES if name.startswith(PREFIX) and name not in shown}
    quiet = ("nodes", "open_files", "hidden_keys", "uptime_seconds", "cache_objects", "flights", "info")
    assert {name for name in missing if not name.endswith(("_sum", "_count"))} == {f"{PREFIX}{name}" for name in quiet}


def test_panels_do_not_overlap():
    places = set()
    for panel in json.loads((EXAMPLE / "dashboard.json").read_text())["panels"]:
        grid = panel["gridPos"]
        cells = {(grid["x"] + dx, grid["y"] + dy) for dx in range(grid["w"]) for dy in range(grid["h"])}
        assert not cells & places, panel["title"]
        assert all(x < 24 for x, _ in cells)
        places |= cells


def test_promtool_accepts_the_alert_rules():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian has it in prometheus)")
    done = subprocess.run(
        [promtool, "check", "rules", "--lint-fatal", str(EXAMPLE / "alerts.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_collector_asks_as_prometheus_does_and_its_pipeline_is_whole():
    collector = yaml.safe_load((EXAMPLE / "otel-collector.yml").read_text())
    [asked] = collector["receivers"]["prometheus"]["config"]["scrape_configs"]
    [scraped] = yaml.safe_load((EXAMPLE / "prometheus.yml").read_text())["scrape_configs"]
    assert {name: asked[name] for name in scraped} == scraped
    [pipeline] = collector["service"]["pipelines"].values()
    assert set(pipeline["receivers"]) == set(collector["receivers"])
    assert set(pipeline["exporters"]) == set(collector["exporters"])
