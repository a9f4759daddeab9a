"""The page shows what a mount does, and nothing that a bucket's names hold is markup."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from tigrismount.metrics.page import MOST_LOADS, page, timeline

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
HOSTILE = '</title><script src="https://evil.example/x.js"></script><img src=x onerror=alert(1)>"\'&\udce9'
STATUS = {
    "source": "s3://b/models",
    "mountpoint": "/models",
    "version": "1",
    "uptime_s": 12.0,
    "degraded": ["store: nobody answers"],
    "cache": {"bytes_cached": 1 << 30, "capacity_bytes": 4 << 30},
    "hits": {"ratio": 0.875},
    "bytes": {"remote": 3 << 20, "nvme": 0},
    "loads": [{"model": "s3://b/models/llama", "bytes_needed": 1 << 20, "bytes_total": 4 << 20}],
}
COLUMNS = ["kind", "file", "cell", "first_s", "last_s", "bytes"]
CELLS = [["fetched", 0, 0, -0.5, 0.5, 1 << 20], ["read", 0, 0, 1.0, 1.5, 1 << 20], ["read", 1, 0, 2.0, 2.0, 1 << 20]]
REPORT = {
    "model": "s3://b/models/llama",
    "state": "done",
    "started": 1763735000.0,
    "seconds": 2.0,
    "waits": {"seconds": 0.5},
    "bytes_needed": 4 << 20,
    "bytes_fetched": 5 << 20,
    "timeline": {"cell_bytes": 1 << 20, "columns": COLUMNS, "cells": CELLS},
}


class Elements(HTMLParser):
    """Every element of a document, with its attributes."""

    def __init__(self, document: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(document.decode())

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_a_person_sees_loads_the_cache_and_what_is_wrong():
    shown = Elements(page(STATUS, [REPORT]))
    for text in ("s3://b/models on /models", "1 GiB of 4 GiB", "87.5%", "degraded: store: nobody answers", "5 MiB"):
        assert text in shown.text
    assert ("progress", {"max": str(4 << 20), "value": str(1 << 20)}) in shown.found


def test_names_from_the_bucket_are_no_markup():
    load = {**STATUS["loads"][0], "model": HOSTILE}
    status = {**STATUS, "source": HOSTILE, "degraded": [HOSTILE], "snapshot": HOSTILE, "loads": [load]}
    shown = Elements(page(status, [{**REPORT, "model": HOSTILE}]))
    assert {tag for tag, _ in shown.found}.isdisjoint({"script", "img", "link", "iframe"})
    assert not any(name.startswith("on") or name in ("src", "href") for _, given in shown.found for name in given)
    assert shown.text.count("evil.example") == 6


def test_nothing_is_loaded_from_elsewhere():
    assert not re.search(rb"https?://|src=|href=|url\(|@import", page(STATUS, [REPORT]))


def test_only_the_last_loads_are_shown_newest_first():
    reports = [{**REPORT, "model": f"load-{number}-"} for number in range(MOST_LOADS + 3)]
    shown = re.findall(r"load-(\d+)-", Elements(page(STATUS, reports)).text)
    assert [int(number) for number in shown] == list(range(MOST_LOADS + 2, 2, -1))


def test_a_mount_that_has_done_nothing_has_a_page():
    text = Elements(page({"source": "s3://b", "mountpoint": "/m"}, [])).text
    assert "nothing" in text
    assert "none yet" in text


def test_every_cell_of_a_timeline_is_drawn_inside_the_picture():
    svg = timeline(REPORT["timeline"]).partition("<p>")[0]
    root = ET.fromstring(svg)
    assert len(root) == len(CELLS)
    for rect in root:
        x, y, width = (float(rect.attrib[name]) for name in ("x", "y", "width"))
        assert 0 <= x <= 720
        assert 0 <= y < 140
        assert x + width <= 722
    # The first file lies at the bottom, and what was fetched ahead of the first read at the left.
    assert float(root[0].attrib["x"]) == 0
    assert float(root[0].attrib["y"]) > float(root[2].attrib["y"])


@pytest.mark.parametrize("facts", [{}, {"cells": []}, {"cells": [["of a newer worker", 0, 0, 0, 0, 0]]}])
def test_a_timeline_of_nothing_is_not_drawn(facts):
    assert timeline(facts) == ""


def test_a_real_browser_draws_it_and_runs_nothing(tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no headless Chromium is installed")
    script = '<script>document.title="taken"</script><img src=x onerror="document.title=1">'
    document = tmp_path / "page.html"
    document.write_bytes(page({**STATUS, "degraded": [script]}, [REPORT]))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    done = subprocess.run([browser, *flags, document.as_uri()], capture_output=True, text=True, check=True, timeout=60)
    shown = Elements(done.stdout.encode())
    assert "<title>s3://b/models on /models</title>" in done.stdout
    assert script in shown.text
    assert [tag for tag, _ in shown.found].count("rect") == len(CELLS)
