"""Texts of several mounts as one: whoever reads it must find each sample once, and whose it is."""

from __future__ import annotations

import logging

from prometheus_client.parser import text_string_to_metric_families

from tigrismount.metrics.together import merge

TEXT = """# HELP tigrismount_reads_total Reads.
# TYPE tigrismount_reads_total counter
tigrismount_reads_total{result="hit"} 3.0
# HELP tigrismount_fuse_read_seconds Times.
# TYPE tigrismount_fuse_read_seconds histogram
tigrismount_fuse_read_seconds_bucket{le="0.1"} 1.0
tigrismount_fuse_read_seconds_bucket{le="+Inf"} 2.0
tigrismount_fuse_read_seconds_count 2.0
tigrismount_fuse_read_seconds_sum 0.25
"""


def test_each_sample_says_whose_it_is_and_each_family_is_named_once():
    text = merge({"/a": TEXT, "/b": TEXT.replace("3.0", "4.0")}).decode()
    assert text.count("# TYPE tigrismount_reads_total counter") == 1
    families = {family.name: family for family in text_string_to_metric_families(text)}
    reads = {sample.labels["mountpoint"]: sample.value for sample in families["tigrismount_reads"].samples}
    assert reads == {"/a": 3.0, "/b": 4.0}
    times = families["tigrismount_fuse_read_seconds"]
    assert times.type == "histogram"
    assert len(times.samples) == 8


def test_a_mount_that_cannot_be_read_does_not_hide_the_others(caplog):
    with caplog.at_level(logging.WARNING):
        text = merge({"/a": TEXT, "/bad": "}{", "/c": TEXT}).decode()
    assert text.count("tigrismount_reads_total{") == 2
    assert "/bad" in caplog.text


def test_mounts_that_say_nothing_are_told_from_those_that_answer():
    families = {f.name: f for f in text_string_to_metric_families(merge({"/a": TEXT}, {"/dead"}).decode())}
    assert {s.labels["mountpoint"]: s.value for s in families["tigrismount_up"].samples} == {"/a": 1.0, "/dead": 0.0}
    assert len(families["tigrismount_reads"].samples) == 1


def test_a_mountpoint_that_is_no_utf8_does_not_hide_the_others():
    assert merge({"/a": TEXT, "/m\udcff": TEXT}).count(b'mountpoint="/m\\\\udcff"') == 6


def test_without_mounts_there_is_nothing():
    assert merge({}) == b""
