from __future__ import annotations

import json

import pytest

from tigrismount.core import loadlog
from tigrismount.core.loadlog import LoadLog, NoLog
from tigrismount.core.loadreport import MAX_RANGES, STALL_S
from tigrismount.core.loadtracker import QUIET_S, LoadTracker
from tigrismount.core.types import ObjectId

MIB = 1 << 20
EPOCH_S = 1_000_000.0


def shard(number: int = 1, directory: str = "llama", size: int = 64 * MIB) -> ObjectId:
    return ObjectId("models", f"{directory}/model-{number}.safetensors", "etag", size)


def hit(obj, start, stop, at_s):
    return (loadlog.HIT, obj, start, stop, at_s, at_s, loadlog.RAM, "")


def waited(obj, start, stop, since_s, until_s, source=loadlog.REMOTE, cause=loadlog.PLAN):
    yield (loadlog.WAIT, obj, start, stop, since_s, since_s, "", "")
    yield (loadlog.ANSWER, obj, start, stop, since_s, until_s, source, cause)


def get(obj, start, stop, since_s, until_s):
    return (loadlog.GET, obj, start, stop, since_s, until_s, "", "")


def only(loads):
    (load,) = loads
    return load.report(EPOCH_S)


@pytest.fixture
def tracker():
    return LoadTracker()


def test_a_load_begins_with_a_read_and_ends_when_reads_fall_quiet(tracker):
    tracker.fold([hit(shard(), 0, MIB, 5.0), hit(shard(), MIB, 2 * MIB, 9.0)])

    assert tracker.finish(9.0 + QUIET_S) == []
    report = only(tracker.finish(9.1 + QUIET_S))
    assert report["model"] == "s3://models/llama"
    assert report["started"] == EPOCH_S + 5.0
    assert report["seconds"] == 4.0
    assert tracker.active == []


def test_a_read_that_still_waits_keeps_its_load_open(tracker):
    events = list(waited(shard(), 0, 2 * MIB, 1.0, 200.0))
    tracker.fold(events[:1])
    assert tracker.finish(150.0) == []
    assert tracker.active[0].summary(EPOCH_S)["reads_waiting"] == 1

    tracker.fold(events[1:])
    assert only(tracker.finish(211.0))["reads"]["remote"] == {"count": 1, "bytes": 2 * MIB}


def test_a_read_that_gave_up_is_waited_for_no_more_and_needed_nothing(tracker):
    tracker.fold([hit(shard(), 0, MIB, 0.0), (loadlog.WAIT, shard(), MIB, 2 * MIB, 1.0, 1.0, "", "")])
    tracker.fold([(loadlog.GAVE_UP, shard(), MIB, 2 * MIB, 1.0, 2.0, loadlog.REMOTE, loadlog.PLAN)])

    assert only(tracker.finish(20.0))["bytes_needed"] == MIB


def test_bytes_read_twice_are_needed_once(tracker):
    tracker.fold([hit(shard(), 0, 2 * MIB, 0.0), hit(shard(), MIB, 3 * MIB, 1.0), hit(shard(), 0, MIB, 2.0)])

    report = only(tracker.finish_all())
    assert report["bytes_needed"] == report["bytes_read"] == 3 * MIB
    assert report["reads"]["ram"] == {"count": 3, "bytes": 5 * MIB}


def test_reads_that_continue_each_other_are_all_counted(tracker):
    obj = shard()
    tracker.fold(hit(obj, n * MIB, (n + 1) * MIB, n) for n in range(8))

    report = only(tracker.finish_all())
    assert report["reads"]["ram"] == {"count": 8, "bytes": 8 * MIB}
    assert report["seconds"] == 7.0


def test_what_was_fetched_ahead_of_the_first_read_belongs_to_the_load(tracker):
    tracker.fold([get(shard(2), 0, MIB, 0.0, 0.5), *waited(shard(), 0, MIB, 1.0, 1.5), get(shard(), 0, 3 * MIB, 1, 2)])

    report = only(tracker.finish_all())
    assert report["bytes_fetched"] == 4 * MIB
    assert report["amplification"] == 4.0
    assert report["gets"] == {"count": 2, "p50_s": 0.5, "p99_s": 1.0}


def test_fetching_alone_is_no_load(tracker):
    tracker.fold([get(shard(), 0, 8 * MIB, 0.0, 0.5)])
    assert tracker.finish_all() == []
    assert tracker.finish(1.0 + QUIET_S) == []

    tracker.fold([hit(shard(), 0, MIB, 20.0)])
    assert only(tracker.finish_all())["bytes_fetched"] == 0, "what nobody followed up is forgotten"


def test_a_look_at_a_small_file_leaves_no_report(tracker):
    tracker.fold([hit(ObjectId("models", "llama/README.md", "e", 900), 0, 900, 0.0)])
    assert tracker.finish(100.0) == []
    assert tracker.active == []


def test_two_directories_are_two_loads(tracker):
    tracker.fold([hit(shard(directory="a"), 0, MIB, 0.0), hit(shard(directory="b"), 0, 2 * MIB, 0.0)])

    assert [load.needed_bytes for load in tracker.finish_all()] == [MIB, 2 * MIB]


def test_a_pipeline_takes_its_components_in(tracker):
    index = ObjectId("models", "sdxl/model_index.json", "e", 500)
    tracker.fold([hit(index, 0, 500, 0.0), get(shard(directory="sdxl/unet"), 0, MIB, 0.1, 0.2)])
    tracker.fold([hit(shard(directory="sdxl/unet"), 0, MIB, 1.0), hit(shard(directory="sdxl/vae"), 0, MIB, 2.0)])

    report = only(tracker.finish_all())
    assert report["model"] == "s3://models/sdxl"
    assert report["bytes_needed"] == 2 * MIB + 500
    assert report["bytes_fetched"] == MIB


def test_pushed_pages_are_needed_and_keep_the_load_open(tracker):
    push = (loadlog.PUSH, shard(), MIB, 9 * MIB, 7.0, 8.0, "", "")
    tracker.fold([hit(shard(), 0, MIB, 0.0), push, get(shard(), 0, 9 * MIB, 0.0, 1.0)])

    assert tracker.finish(8.0 + QUIET_S) == []
    report = only(tracker.finish(8.1 + QUIET_S))
    assert (report["bytes_read"], report["bytes_pushed"], report["bytes_needed"]) == (MIB, 8 * MIB, 9 * MIB)
    assert report["amplification"] == 1.0


def test_waits_say_what_for_and_are_not_counted_twice(tracker):
    tracker.fold(
        [
            *waited(shard(), 0, MIB, 0.0, 1.0, cause=loadlog.PLAN),
            *waited(shard(), MIB, 2 * MIB, 0.5, 1.5, source=loadlog.FLIGHT, cause=loadlog.STORE),
            *waited(shard(), 2 * MIB, 3 * MIB, 3.0, 3.0 + STALL_S / 2, cause=loadlog.SLOW_DOWN),
        ]
    )

    report = only(tracker.finish_all())
    assert report["waits"]["seconds"] == pytest.approx(1.5 + STALL_S / 2)
    assert report["waits"]["causes"]["plan"] == {"count": 1, "seconds": 1.0}
    assert report["waits"]["causes"]["memory"] == {"count": 0, "seconds": 0.0}
    assert report["stalls"]["count"] == 2
    first = report["stalls"]["longest"][0]
    assert (first["cause"], first["at_s"], first["file"]) == ("store", 0.5, "llama/model-1.safetensors")


def test_many_waits_take_bounded_memory_and_are_still_all_counted(tracker):
    for n in range(5000):
        tracker.fold(waited(shard(size=MIB * 5000), n * MIB, (n + 1) * MIB, n, n + 0.5))

    report = only(tracker.finish_all())
    assert report["waits"]["seconds"] == 2500.0
    assert report["stalls"]["count"] == 5000
    assert len(report["stalls"]["longest"]) == 10


def test_the_first_tensor_is_behind_the_header(tracker):
    tracker.fold([*waited(shard(), 0, 4096, 1.0, 1.2), *waited(shard(), 8192, 2 * MIB, 1.3, 2.0)])
    assert tracker.active[0].report(EPOCH_S)["first_tensor_s"] is None, "nobody knows yet where the header ends"

    tracker.fold([(loadlog.LAYOUT, shard(), 5000, 5000, 0.0, 2.1, "", "")])
    assert only(tracker.finish_all())["first_tensor_s"] == 1.0


def test_a_sequential_reader_takes_one_get_after_the_other(tracker):
    gets = [get(shard(), n * 8 * MIB, (n + 1) * 8 * MIB, 0.0, 0.25) for n in range(4)]
    tracker.fold([hit(shard(), 0, 32 * MIB, 0.3), *gets])

    assert only(tracker.finish_all())["sequential_s"] == 1.0


def test_a_load_from_the_cache_fetched_nothing(tracker):
    tracker.fold([*waited(shard(), 0, 8 * MIB, 0, 1, loadlog.NVME, loadlog.DISK_CAUSE)])
    tracker.fold([(loadlog.DISK, shard(), 0, 8 * MIB, 0.0, 1.0, "", "")])

    report = only(tracker.finish_all())
    assert (report["bytes_fetched"], report["bytes_nvme"], report["amplification"]) == (0, 8 * MIB, 0.0)
    assert report["gets"] == {"count": 0, "p50_s": None, "p99_s": None}
    assert report["sequential_s"] is None


def through(obj, since_s, until_s):
    return (loadlog.THROUGH, obj, 0, obj.size_bytes, since_s, until_s, "", "")


def test_a_file_left_to_the_kernel_is_a_load_that_waited_for_its_proof(tracker):
    """Mutations: it begins no load; its open is not waited for; it counts twice; its close does not end it."""
    read = (loadlog.DISK, shard(), 0, 64 * MIB, 0.0, 0.5, "", "")
    closed = (loadlog.CLOSED, shard(), 0, 64 * MIB, 9.0, 9.0, "", "")
    tracker.fold([read, through(shard(), 1.0, 1.5), through(shard(), 2.0, 2.0), closed])

    assert tracker.finish(9.0 + QUIET_S) == []
    report = only(tracker.finish(9.1 + QUIET_S))
    assert (report["started"], report["seconds"]) == (EPOCH_S + 1.0, 8.0)
    assert report["bytes_needed"] == report["bytes_through"] == report["bytes_nvme"] == 64 * MIB
    assert report["bytes_read"] == report["bytes_fetched"] == 0
    assert report["waits"]["causes"][loadlog.DISK_CAUSE] == {"count": 1, "seconds": 0.5}
    (stall,) = report["stalls"]["longest"]
    assert (stall["file"], stall["seconds"]) == (shard().key, 0.5)


def test_a_close_alone_is_no_load(tracker):
    tracker.fold([(loadlog.CLOSED, shard(), 0, 64 * MIB, 9.0, 9.0, "", "")])

    assert tracker.active == []


def test_the_timeline_says_when_each_extent_was_fetched_pushed_and_read(tracker):
    tracker.fold(
        [
            *waited(shard(), 0, MIB, 10.0, 11.0),
            get(shard(), 0, 2 * MIB, 10.1, 12.0),
            (loadlog.PUSH, shard(), MIB, 2 * MIB, 12.0, 12.1, "", ""),
        ]
    )
    timeline = only(tracker.finish_all())["timeline"]

    assert timeline["files"] == ["llama/model-1.safetensors"]
    assert timeline["columns"] == ["kind", "file", "cell", "first_s", "last_s", "bytes"]
    assert timeline["cells"] == [
        ["fetched", 0, 0, 0.1, 2.0, MIB],
        ["fetched", 0, 1, 0.1, 2.0, MIB],
        ["pushed", 0, 1, 2.0, 2.1, MIB],
        ["read", 0, 0, 1.0, 1.0, MIB],
    ]


def test_the_report_of_a_huge_load_stays_small(tracker):
    size = 64 << 30
    for number in range(40):
        obj = shard(number, size=size)
        tracker.fold(hit(obj, start, start + 256 * MIB, start / 1e9) for start in range(0, size, 256 * MIB))
    report = only(tracker.finish_all())

    assert report["bytes_needed"] == 40 * size
    assert len(report["timeline"]["cells"]) <= 2048
    assert sum(cell[5] for cell in report["timeline"]["cells"]) == 40 * size
    assert all(cell[5] <= report["timeline"]["cell_bytes"] for cell in report["timeline"]["cells"])
    assert len(json.dumps(report)) < 200_000


def test_a_directory_of_very_many_files_is_counted_as_a_whole(tracker):
    for number in range(3000):
        tracker.fold([hit(shard(number, size=4096), 0, 4096, float(number) / 1e3)])
    report = only(tracker.finish_all())

    assert report["bytes_needed"] == 3000 * 4096
    assert len(report["timeline"]["cells"]) <= 2048


def test_a_log_gives_each_event_once():
    log = LoadLog(lambda: 0.0)
    log.note(hit(shard(), 0, 1, 0.0))

    assert len(log.take()) == 1
    assert log.take() == []


def test_no_log_keeps_nothing():
    log = NoLog()
    log.note(hit(shard(), 0, 1, 0.0))

    assert log.take() == []


@pytest.mark.parametrize("files", [1, 8])
def test_reads_here_and_there_for_months_keep_a_bounded_number_of_ranges(tracker, files):
    """Each random read that touches no other was a range of its own, kept as long as somebody reads on."""
    objects = [shard(number, size=1 << 40) for number in range(files)]
    reads = 3 * MAX_RANGES // files
    for number in range(reads):
        tracker.fold([hit(obj, number * 2 * MIB, number * 2 * MIB + 4096, 0.0) for obj in objects])

    (load,) = tracker.active
    kept = sum(seen._ranges.count for file in load._files.values() for seen in (file.read, file.needed))
    assert kept <= 2 * MAX_RANGES
    assert load.summary(EPOCH_S)["bytes_read"] == load.needed_bytes == files * reads * 4096


def test_a_file_read_in_too_many_ranges_to_tell_apart_is_needed_once_at_most(tracker):
    obj = shard(size=2 * (MAX_RANGES + 1) * 4096)
    for start in (0, 4096, 0):
        tracker.fold([hit(obj, place, place + 4096, 0.0) for place in range(start, obj.size_bytes, 2 * 4096)])

    assert tracker.active[0].needed_bytes == obj.size_bytes
