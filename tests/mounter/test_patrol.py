"""When the driver has a worker killed, and when it gives a mount up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tigrismount.csi import patrol
from tigrismount.csi.patrol import Patrol
from tigrismount.holder.probe import Finding, Health

HANG_S, TAKEOVER_S, EVERY_S = 20.0, 60.0, 10.0


class FakeLook:
    def __init__(self, at: Path) -> None:
        self.at = at
        self.health = Health.HUNG
        self.is_closed = False

    def finding(self) -> Finding:
        return Finding(self.health)

    def close(self) -> None:
        self.is_closed = True


class Scene:
    def __init__(self) -> None:
        self.mounts = {"one": Path("/one")}
        self.alone_s = 0.0
        self.looks: list[FakeLook] = []
        self.hangs: list[str] = []
        self.outages: list[str] = []
        self.patrol = Patrol(
            lambda: self.mounts,
            lambda: self.alone_s,
            self.hangs.append,
            lambda mount_id, _: self.outages.append(mount_id),
            hang_s=HANG_S,
            takeover_s=TAKEOVER_S,
            every_s=EVERY_S,
            start_look=self.look,
        )

    def look(self, at: Path) -> FakeLook:
        self.looks.append(FakeLook(at))
        return self.looks[-1]

    def until(self, stop_s: int, start_s: int = 0) -> None:
        for now_s in range(start_s, stop_s):
            self.patrol.turn(float(now_s))


@pytest.fixture
def scene():
    return Scene()


def test_a_mount_that_answers_is_looked_at_now_and_then(scene):
    scene.until(11)
    scene.looks[0].health = Health.OK
    scene.until(22, 11)
    assert len(scene.looks) == 2
    assert scene.looks[0].is_closed
    assert scene.hangs == scene.outages == []


def test_one_that_does_not_answer_has_its_worker_killed_once_and_is_given_up_at_last(scene):
    scene.until(30)
    assert scene.hangs == []
    scene.until(70, 30)
    assert scene.hangs == ["one"]
    assert scene.outages == []
    scene.until(72, 70)
    assert scene.outages == ["one"]
    assert scene.looks[0].is_closed


def test_without_a_mounter_nobody_looks_and_mounts_are_given_up_in_time(scene):
    scene.alone_s = TAKEOVER_S - 1
    scene.until(50)
    assert scene.looks == scene.outages == []
    scene.alone_s = TAKEOVER_S
    scene.until(51, 50)
    assert scene.outages == ["one"]


def test_a_mount_that_is_gone_is_not_looked_at(scene):
    scene.until(11)
    scene.mounts = {}
    scene.until(100, 11)
    assert scene.looks[0].is_closed
    assert len(scene.looks) == 1
    assert scene.hangs == scene.outages == []


def test_few_mounts_are_looked_at_together(scene):
    scene.mounts = {str(number): Path(f"/{number}") for number in range(20)}
    scene.until(15)
    assert len(scene.looks) == 4
    for look in scene.looks[:]:
        look.health = Health.OK
    scene.until(16, 15)
    assert len(scene.looks) == 8


def test_nobody_is_given_up_for_what_was_not_said_while_the_driver_was_paused_too(scene, monkeypatch):
    """As in a container that was frozen, or a machine restored. Mutation: a mount that serves is ended."""
    clock = SimpleNamespace(now_s=0.0, waits=0)

    def wait(tick_s: float) -> bool:
        clock.waits += 1
        clock.now_s += tick_s + (300.0 if clock.waits == 30 else 0.0)  # a look is under way then
        if clock.waits == 32:
            scene.looks[0].health = Health.OK
        return clock.waits > 60

    monkeypatch.setattr(patrol.time, "monotonic", lambda: clock.now_s)
    monkeypatch.setattr(scene.patrol, "_ended", SimpleNamespace(wait=wait))
    scene.patrol._run()
    assert scene.looks[0].is_closed
    assert scene.hangs == scene.outages == []


@pytest.mark.parametrize(("comes", "given_up"), [(True, []), (False, ["one"])], ids=["comes back", "stays away"])
def test_no_mounter_is_missed_for_as_long_as_the_driver_was_paused_too(scene, monkeypatch, comes, given_up):
    """As where it is replaced at that moment. Mutation: all mounts end a second before the next one is there."""
    clock = SimpleNamespace(now_s=0.0, waits=0)

    def wait(tick_s: float) -> bool:
        clock.waits += 1
        clock.now_s += tick_s + (300.0 if clock.waits == 6 else 0.0)
        scene.alone_s = 0.0 if comes and clock.waits > 8 else clock.now_s
        for look in scene.looks:
            look.health = Health.OK
        return clock.waits > 200 or bool(scene.outages)

    monkeypatch.setattr(patrol.time, "monotonic", lambda: clock.now_s)
    monkeypatch.setattr(scene.patrol, "_ended", SimpleNamespace(wait=wait))
    scene.patrol._run()
    assert scene.outages == given_up
    assert clock.now_s - 300.0 >= TAKEOVER_S, "it has had its time"


def test_a_mounter_that_has_gone_as_a_pause_ended_is_not_waited_for_as_long_as_that_was(scene, monkeypatch):
    """Mutation: behind an hour in which a node was frozen, readers wait another hour for a mounter that never comes."""
    clock = SimpleNamespace(now_s=0.0, waits=0)

    def wait(tick_s: float) -> bool:
        clock.waits += 1
        clock.now_s += tick_s + (300.0 if clock.waits == 6 else 0.0)
        scene.alone_s = 0.1 + clock.now_s - 303.0 if clock.waits >= 6 else 0.0
        return clock.waits > 1000 or bool(scene.outages)

    monkeypatch.setattr(patrol.time, "monotonic", lambda: clock.now_s)
    monkeypatch.setattr(scene.patrol, "_ended", SimpleNamespace(wait=wait))
    scene.patrol._run()
    assert scene.outages == ["one"]
    assert TAKEOVER_S <= clock.now_s - 303.0 <= TAKEOVER_S + 2


def test_nothing_is_remembered_of_mounts_that_are_gone(scene):
    """Each volume of a node has a name of its own. Mutation: the driver grows with each pod that there ever was."""
    for number in range(100):
        scene.mounts = {f"volume-{number}": Path("/one")}
        scene.patrol.turn(float(number))
    scene.mounts = {}
    scene.patrol.turn(100.0)
    assert not scene.patrol._next_s


def test_none_of_many_mounts_waits_for_ever_behind_others(scene):
    """As 200 volumes, or fewer where the driver has little CPU and each look takes long.

    Mutation: those that come first are due again before the last have been looked at, whose hung workers stay.
    """
    scene.mounts = {str(number): Path(f"/{number}") for number in range(100)}
    for now_s in range(60):
        scene.patrol.turn(float(now_s))
        for look in scene.looks:
            look.health = Health.OK
    assert len({look.at for look in scene.looks}) == 100
