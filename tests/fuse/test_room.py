"""How much room memory has, in both versions of control groups, and when it is short."""

from __future__ import annotations

import pytest

from tigrismount.fuse.room import LEAST_BYTES, LOOK_EVERY_S, MARGIN_BYTES, MemoryRoom

MIB = 1 << 20
V2 = {
    "/proc/self/cgroup": "0::/pod/box\n",
    "/proc/self/mountinfo": "30 20 0:26 / /cg rw - cgroup2 cgroup2 rw\n",
    "/cg/pod/box/memory.max": f"{1024 * MIB}\n",
    "/cg/pod/box/memory.current": f"{900 * MIB}\n",
    "/cg/pod/box/memory.stat": f"anon 1\ninactive_file {300 * MIB}\nactive_file {200 * MIB}\n",
    "/cg/pod/box/memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "/cg/pod/memory.max": "max\n",
}
V1 = {
    "/proc/self/cgroup": "4:memory:/box\n",
    "/proc/self/mountinfo": "30 20 0:26 / /cg rw - cgroup cgroup rw,memory\n",
    "/cg/box/memory.limit_in_bytes": f"{1024 * MIB}\n",
    "/cg/box/memory.usage_in_bytes": f"{900 * MIB}\n",
    "/cg/box/memory.stat": f"inactive_file 0\ntotal_inactive_file {300 * MIB}\ntotal_active_file {200 * MIB}\n",
}
PLENTY = {"/proc/meminfo": f"MemTotal: 1 kB\nMemAvailable:   {8 << 20} kB\n"}
CALM = {"/proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull total=0\n"}


def room_of(files: dict[str, str], now_s: list[float] | None = None) -> MemoryRoom:
    clock = now_s if now_s is not None else [0.0]
    return MemoryRoom(lambda: clock[0], lambda path: files.get(path, ""))


@pytest.mark.parametrize("files", [V1, V2], ids=["v1", "v2"])
def test_page_cache_of_the_group_is_room(files):
    assert room_of(files | PLENTY).available_bytes() == 624 * MIB


def test_without_a_limit_the_machine_counts():
    unlimited = V2 | {"/cg/pod/box/memory.max": "max\n"}
    assert room_of(unlimited | PLENTY).available_bytes() == 8 << 30


def test_the_tightest_group_counts():
    above = {"/cg/pod/memory.max": f"{100 * MIB}", "/cg/pod/memory.current": f"{90 * MIB}"}
    assert room_of(V2 | PLENTY | above).available_bytes() == 10 * MIB


def test_a_file_needs_its_size_and_a_margin():
    room = room_of(V2 | PLENTY)
    assert room.holds(624 * MIB - MARGIN_BYTES)
    assert not room.holds(624 * MIB - MARGIN_BYTES + 1)


def test_where_nothing_says_how_much_there_is_nothing_fits():
    room = room_of({})
    assert not room.holds(1)
    assert not room.is_pressed(), "but who insists is not kept from it"


def test_time_spent_waiting_for_memory_is_pressure():
    now_s, files = [100.0], V1 | PLENTY | CALM
    room = room_of(files, now_s)
    assert not room.is_pressed()
    files["/proc/pressure/memory"] = "some avg10=0.00 total=200000\nfull total=0\n"
    assert not room.is_pressed(), "looked a moment ago"
    now_s[0] += 1.0
    assert room.is_pressed(), "0.2 s of the last second"
    now_s[0] += LOOK_EVERY_S
    assert not room.is_pressed(), "none since"


def test_the_groups_own_pressure_counts_where_there_is_one():
    now_s, files = [100.0], V2 | PLENTY | CALM
    room = room_of(files, now_s)
    assert not room.is_pressed()
    files["/cg/pod/box/memory.pressure"] = "some avg10=0.00 total=200000\n"
    now_s[0] += 1.0
    assert room.is_pressed()


def test_hardly_any_room_is_pressure():
    files = V2 | PLENTY | CALM | {"/cg/pod/box/memory.stat": "anon 1"}
    assert not room_of(files).is_pressed()
    assert room_of(files | {"/cg/pod/box/memory.current": f"{1024 * MIB - LEAST_BYTES + 1}"}).is_pressed()
