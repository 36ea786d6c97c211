"""How many deliveries may wait at a backend, from how long its own work takes: pure, and time is an argument.

Rules and why:
- After each answer a slot without a prefetched delivery idles for a round trip. Of work of a few milliseconds that is a
  share of the capacity that one delivery waiting here for each slot gives back; more of them add nothing.
- A delivery that waits here is bound to this backend; in the daemon it would go to whoever is free first. Behind work
  much longer than a round trip that costs more than it saves: so one for each slot behind quick work, none behind long
  work. The last of them begins about one piece of work later, so its mean is what decides. Work is what holds a slot,
  from the start of a handler to its answer, whatever the answer is.

      mean <- mean + (seconds - mean) / min(n, 32)    after the n-th answer; nothing is decided before the 8th

  the plain average at first, then one with the weight of 32 answers. It forgets slowly what was much longer than
  usual: where every hundredth is a stream, most of the time is the stream's, and what waits mostly waits for one.
- Some below `QUICK_S`, none above `LONG_S`, and in between as it was. Of backends with one slot and a round trip of
  1 ms, simulated, work up to 15 ms gains at a load of 0.7, up to 45 ms at 0.85, up to 150 ms at 0.93, and what is
  longer loses a tenth; docs/benchmarks.md, "Prefetch", has what was measured.
- Cancelled work was cut short, so it tells a lower bound: it is no answer, and only raises the average. A `Busy` was no
  work at all.
- Work that is not over counts, too: where every slot is held by a handler that has run `STUCK` times as long as would
  be long on average, it is 0 at once. With the threshold itself, usual work just below it would do that every second.
- A change is an UPDATE for the daemon, so there is one in `REST_S` at most; what cannot be said yet is due later.
"""

from __future__ import annotations

import math
from typing import Final

QUICK_S: Final = 0.025
"""Work is shorter on average: one more is taken for each slot."""
LONG_S: Final = 0.05
"""It is longer: none is."""
STUCK: Final = 4
LEAST_ANSWERS: Final = 8
MEAN_ANSWERS: Final = 32
REST_S: Final = 1.0
"""Between two changes of the registration."""


class AdaptivePrefetch:
    """What to register as `prefetch`, while the user has not said it.

    Args:
        slots: how many handlers run at once.

    Attributes:
        slots: as above; may change.
        value: what is registered, or asked for: 0, or as many as there are slots.
        mean_s: of the work, in seconds; 0 before the first answer.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.value = 0
        self.mean_s = 0.0
        self._answers = 0
        self._began: dict[int, float] = {}  # of what runs, oldest first
        self._rests_until = -math.inf

    def begin(self, delivery_id: int, now: float) -> None:
        """A handler begins."""
        self._began[delivery_id] = now

    def end(self, delivery_id: int, now: float, *, cancelled: bool = False, busy: bool = False) -> None:
        """A handler is over: its time counts, unless it was cut short below the average, or did no work."""
        seconds = now - self._began.pop(delivery_id)
        if busy or (cancelled and seconds <= self.mean_s):
            return
        self._answers += not cancelled
        self.mean_s += (seconds - self.mean_s) / min(max(self._answers, 1), MEAN_ANSWERS)

    def change(self, now: float) -> int | None:
        """Return what to register from now on, where that is something else than before and may be said already."""
        wanted = self._wanted(now)
        if wanted == self.value or now < self._rests_until:
            return None
        self.value = wanted
        self._rests_until = now + REST_S
        return wanted

    def due(self, now: float) -> float:
        """Return when `change` is to be asked although nothing has begun or ended; infinity for never."""
        if self._wanted(now) != self.value:
            return max(now, self._rests_until)
        if self.value == 0:
            return math.inf
        return max(self._stuck_from(), self._rests_until)

    def _wanted(self, now: float) -> int:
        if self.mean_s > LONG_S or now >= self._stuck_from():
            return 0
        if self.mean_s < QUICK_S and self._answers >= LEAST_ANSWERS:
            return self.slots
        return self.slots if self.value else 0

    def _stuck_from(self) -> float:
        """Return when every slot is held by long work, if nothing ends before; infinity where a slot is free."""
        if len(self._began) < self.slots:
            return math.inf
        return next(reversed(self._began.values())) + STUCK * LONG_S
