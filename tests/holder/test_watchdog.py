"""When the watchdog looks at the mountpoint itself."""

from __future__ import annotations

import pytest

from tigrismount.holder.probe import Probe
from tigrismount.holder.watchdog import Watchdog


class FakeWorker:
    """Answers at once, or never."""

    def __init__(self, *, answers: bool) -> None:
        self.unanswered = 0
        self._answers = answers

    def ping(self) -> None:
        self.unanswered += not self._answers


@pytest.mark.parametrize(("answers", "turns"), [(True, 5), (False, 2)], ids=["answers", "silent"])
def test_a_loop_that_does_not_answer_is_probed_at_once(tmp_path, answers, turns):
    """Its library may wait for a request that was taken back; the probe is one."""
    probed = []

    def start_probe(path: str) -> Probe:
        probed.append(path)
        return Probe(path)

    dog = Watchdog(str(tmp_path), hang_s=0.0, start_probe=start_probe)
    worker = FakeWorker(answers=answers)
    for turn in range(1, turns + 1):
        assert probed == [], turn
        assert dog.turn(worker) == ""
    assert probed == [str(tmp_path)]
    dog.reset()
