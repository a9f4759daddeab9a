"""How many GETs in flight are worth having: the knee of the curve of goodput over them.

Below the knee each further GET adds what it can carry; above it they only share, and all that grows is how long each
takes, and with it how long a reader waits that needs one now. Where the knee lies nobody says: it is the network's
bandwidth by what one connection gives, and both change. So it is searched for, by trying.

**Start.** From a usual number, doubled as long as that brings more: a load of a few seconds must not wait for a search.

**Then** the width is held, and now and then another one is tried for as long as it takes as many GETs to come and go
(a *cohort*): wider, and kept where goodput rises by a quarter of what the GETs did; narrower, and kept where hardly
anything is lost. Between the two is a range where nothing is changed, so that noise moves nothing, and a try that
scatters too much to tell is prolonged, then dropped. Steps begin coarse, become finer where none is kept, and coarser
where one is; the time between tries doubles while none is kept. When GETs become a third slower or faster by
themselves, the search begins anew at once.

**No evidence** is what was sent while fewer GETs were out than allowed: idle times, a loader that is the slow one,
memory that is short. Short GETs say nothing either. A try without evidence ends where it began.

**Others** may share the bottleneck, and then more GETs bring a larger share for ever. So nothing wider is tried once
GETs take four times as long as in the best time lately: more in the queue would harm everybody, readers here first.
Up to the number at the start that does not hold: bytes may come from further away now, and who comes anew begins there.

Pure; told of GETs, and never looks at a clock.

Source: Dong et al., "PCC: Re-architecting Congestion Control for Consistent High Performance", 2015 (moves by measured
goodput); Cardwell et al., "BBR: Congestion-Based Congestion Control", 2016 (start, and probing up and down in turns).
"""

from __future__ import annotations

import math
from enum import Enum, auto

from tigrismount.core.cohort import Cohort, elasticity

START = 32
"""GETs to begin with: enough for 2 GB/s at 20 ms and 80 MB/s each, and 1 GiB of memory holds them four times."""
_COHORT_MIN = 16
"""Least GETs that say something together."""
_COHORTS_MAX = 4
"""How often a try that cannot be told from noise is as long as the first."""
_START_GAIN = 0.3
"""Elasticity that has the start go on: it is better to stop early and go on in finer steps."""
_WIDER = 0.25
"""Elasticity that makes wider worth it: a third more GETs bring 7 % more."""
_NARROWER = 0.1
"""Elasticity that makes narrower cost too little to matter: of a third fewer GETs, 4 %."""
_DOUBT_MAX = 0.5
"""Most by which noise raises what is asked of wider."""
_SHARP = 0.7
"""Elasticity that says that the knee is not below: finer steps down need not be tried at once."""
_LOSS_MAX = 0.06
"""Most that tries in a row may lose together."""
_STEPS = (2.0, 1.5, 1.25)
_DIFFERENCE = 1.05
"""Two widths of which more was not had are the same."""
_FULL = 0.8
"""A GET is evidence where at least this share of what is allowed was out meanwhile."""
_SHORT = 0.5
"""GETs below this share of the usual size are not compared: the first byte weighs more in them."""
_INTERVAL_S = 1.0
"""First wait between tries that lead nowhere."""
_INTERVAL_MAX_S = 20.0
"""Longest: a change that does not show in the pace of GETs is found within that."""
_CHANGED = 0.3
"""Where GETs became slower or faster by more than this, the network is another one."""
_QUEUE_MAX = 4.0
"""Nothing wider than at the start is tried where GETs take this many times as long as in the best time."""
_BEST_FOR_S = 300.0
"""How long a best time counts."""


class Mode(Enum):
    """What the present width is for."""

    START = auto()
    HOLD = auto()
    TRY = auto()


class KneeSearch:
    """The search, for one store.

    Args:
        ceiling: Most GETs in flight, at least 1.
        start: GETs to begin with.
    """

    def __init__(self, ceiling: int, start: int = START) -> None:
        self._ceiling = ceiling
        self.bound = float(ceiling)
        """What the store bears now: nothing wider need be tried."""
        self.width = max(1, min(start, ceiling))
        """GETs to have in flight now."""
        self._first = self.width
        self.mode = Mode.START
        self.epoch = 0
        """Number of the present cohort; a GET takes it along when it is sent."""
        self._cohort = Cohort(max(_COHORT_MIN, self.width))
        self._base: Cohort | None = None
        """What is known of the width that is held."""
        self._held = self.width
        self._wider = True
        """Whether the next try is wider."""
        self._step = 0
        self._rejected = 0
        """Tries in a row that were not kept."""
        self._interval_s = _INTERVAL_S
        self._next_try_s = 0.0
        self._reference_bytes_s = 0.0
        """Goodput before the tries in a row."""
        self._usual_bytes = 0.0
        self._best: tuple[float, float] | None = None
        """Most bytes a second of one GET lately, and when."""

    # -- told of GETs ------------------------------------------------------------------------------------------

    def sent(self) -> int:
        """Note a GET that is sent now; return the epoch it belongs to, -1 where it will not be looked at."""
        return self.epoch if self._cohort.admit() else -1

    def ended(self, epoch: int, now_s: float, count_bytes: int, seconds: float, in_flight: float) -> None:
        """Note a GET that ended well.

        Args:
            epoch: What :meth:`sent` returned.
            now_s: The time.
            count_bytes: What it brought.
            seconds: How long it was out.
            in_flight: How many were out meanwhile, in the mean.
        """
        self._usual_bytes = max(count_bytes, 0.99 * self._usual_bytes)
        if epoch != self.epoch:
            return
        full, whole = in_flight >= _FULL * self.width, count_bytes >= max(1.0, _SHORT * self._usual_bytes)
        if full and whole and seconds > 0:
            self._cohort.add(count_bytes, seconds, in_flight)
        else:
            self._cohort.skip()
        if self._cohort.complete:
            self._judge(now_s)

    def dropped(self, epoch: int, now_s: float) -> None:
        """Note a GET that ended in another way."""
        if epoch == self.epoch:
            self._cohort.skip()
            if self._cohort.complete:
                self._judge(now_s)

    def refused(self, level: float, now_s: float) -> None:
        """Note that the store refused *level* GETs: what is wanted is no more than that."""
        width = self._held if self.mode is Mode.TRY else self.width
        self._held = max(1, min(width, int(level)))
        self._hold(now_s + self._interval_s)

    def encourage(self, now_s: float) -> None:
        """Note that the store bears more than it did: wider is tried at once."""
        self._wider, self._step, self._rejected = True, 0, 0
        self._interval_s, self._next_try_s = _INTERVAL_S, now_s

    # -- judging -----------------------------------------------------------------------------------------------

    def _judge(self, now_s: float) -> None:
        """Go on, with a cohort complete."""
        cohort = self._cohort
        if not cohort.valid:
            self._go_without(now_s)
            return
        if self._best is None or cohort.rate_bytes_s > self._best[0] or now_s > self._best[1] + _BEST_FOR_S:
            self._best = cohort.rate_bytes_s, now_s
        if self.mode is Mode.START:
            self._go_on_starting(cohort, now_s)
        elif self.mode is Mode.HOLD:
            self._look(cohort, now_s)
        else:
            self._weigh(cohort, now_s)

    def _go_on_starting(self, cohort: Cohort, now_s: float) -> None:
        before = self._base
        if before is not None and not (_differ(before, cohort) and elasticity(before, cohort)[0] >= _START_GAIN):
            self._wider = self._held > self._first  # where not even the first one helped, fewer may do as well
            self._hold(now_s)
            return
        self._base, self._held = cohort, self.width
        if self.width < self._ceiling:
            self._go(min(self._ceiling, 2 * self.width), Mode.START)
        else:
            self._wider = False
            self._hold(now_s)

    def _look(self, cohort: Cohort, now_s: float) -> None:
        """Compare what is held with what it was, and try another width when it is time."""
        before, self._base = self._base, cohort
        if before is not None and abs(before.in_flight / cohort.in_flight - 1) < _CHANGED / 2:
            change = cohort.rate_bytes_s / before.rate_bytes_s - 1
            if abs(change) > _CHANGED + 3 * math.hypot(cohort.error, before.error):
                self._wider, self._step, self._rejected = change > 0, 0, 0
                self._interval_s, self._next_try_s = _INTERVAL_S, now_s
        if now_s < self._next_try_s or not self._try(cohort.goodput_bytes_s):
            self._go(self.width, Mode.HOLD)

    def _weigh(self, cohort: Cohort, now_s: float) -> None:
        """Keep the width that was tried, or go back."""
        assert self._base is not None
        fewer, more = (self._base, cohort) if self._wider else (cohort, self._base)
        if not _differ(fewer, more):
            self._give_up(now_s)
            return
        found, error = elasticity(fewer, more)
        threshold = _WIDER if self._wider else _NARROWER
        if abs(found - threshold) < error and cohort.cohorts < _COHORTS_MAX:
            cohort.extend()
            return
        # What cannot be told from noise does not make it wider.
        kept = (
            found >= threshold + min(error, _DOUBT_MAX)
            if self._wider
            else found <= threshold and self._loses_little(cohort)
        )
        if kept:
            self._base, self._held = cohort, self.width
            self._rejected, self._interval_s = 0, _INTERVAL_S
            self._step = max(0, self._step - 1)
            if not self._try():
                self._hold(now_s)
        else:
            if not self._wider and found > _SHARP:
                self._step = len(_STEPS) - 1
            self._reject(now_s)
            self._hold(self._next_try_s)

    def _loses_little(self, cohort: Cohort) -> bool:
        return cohort.goodput_bytes_s >= (1 - _LOSS_MAX) * self._reference_bytes_s

    def _go_without(self, now_s: float) -> None:
        """Go on after a cohort that is no evidence."""
        if self.mode is Mode.TRY:
            self._give_up(now_s)
        elif self.mode is Mode.START and self._base is not None:
            self._hold(now_s)
        else:
            self._go(self.width, self.mode)

    def _give_up(self, now_s: float) -> None:
        """End a try that brought no evidence."""
        self._interval_s = min(_INTERVAL_MAX_S, 2 * self._interval_s)
        self._wider = not self._wider
        self._hold(now_s + self._interval_s)

    def _reject(self, now_s: float) -> None:
        """Turn round; after both ways were tried in vain, take smaller steps, later."""
        self._wider = not self._wider
        self._rejected += 1
        self._next_try_s = now_s
        if self._rejected % 2 == 0 or self._next_width() == self._held:
            self._rejected = 0
            if self._step == len(_STEPS) - 1:
                self._interval_s = min(_INTERVAL_MAX_S, 2 * self._interval_s)
            self._step = min(self._step + 1, len(_STEPS) - 1)
            self._next_try_s = now_s + self._interval_s

    # -- moving ------------------------------------------------------------------------------------------------

    def _try(self, reference_bytes_s: float | None = None) -> bool:
        """Begin with the next try; return False where there is nothing to try.

        Args:
            reference_bytes_s: What is brought now, for the first of several tries in a row.
        """
        assert self._base is not None
        if reference_bytes_s is not None:
            self._reference_bytes_s = reference_bytes_s
        for _ in range(2):
            width = self._next_width()
            if width != self._held:
                self._go(width, Mode.TRY)
                return True
            self._wider = not self._wider
        return False

    def _next_width(self) -> int:
        assert self._base is not None
        step = _STEPS[self._step]
        if not self._wider:
            return max(1, min(self._held - 1, int(self._held / step)))
        width = max(self._held + 1, math.ceil(self._held * step))
        if self._best is not None and self._base.rate_bytes_s * _QUEUE_MAX < self._best[0]:
            width = min(width, self._first)
        return max(self._held, min(self._ceiling, int(self.bound), width))

    def _hold(self, next_try_s: float) -> None:
        self._next_try_s = next_try_s
        self._go(self._held, Mode.HOLD)

    def _go(self, width: int, mode: Mode) -> None:
        self.width, self.mode = width, mode
        self.epoch += 1
        # At the start half of them are sent at once, and the other half's places are taken until those end.
        count = width // 2 if mode is Mode.START else width
        self._cohort = Cohort(max(_COHORT_MIN, count))

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` unless one to ceiling GETs are wanted."""
        assert 1 <= self.width <= self._ceiling, (self.width, self._ceiling)
        assert 1 <= self._held <= self._ceiling, (self._held, self._ceiling)
        assert _INTERVAL_S <= self._interval_s <= _INTERVAL_MAX_S, self._interval_s


def _differ(fewer: Cohort, more: Cohort) -> bool:
    """Tell whether the widths were really tried, and nothing else bounded what was out."""
    return fewer.in_flight * _DIFFERENCE < more.in_flight
