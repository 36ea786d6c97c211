"""How many deliveries may wait at a backend, from how long its own work takes: pure, and time is an argument.

Rules and why:
- After each answer a backend without a prefetched delivery idles for a round trip. Of work of a few milliseconds that
  is a share of its capacity that one delivery waiting here gives back; a second one adds nothing that can be measured.
- A delivery that waits here is bound to this backend; in the daemon it would go to whoever is free first. Behind work
  much longer than a round trip that costs more than it saves: so one behind quick work, none behind long work.
- Work is measured as what holds a slot: from the start of a handler to its answer, whatever the answer is.

      mean <- mean + (seconds - mean) / min(n, 16)    after the n-th answer; nothing is decided before the 8th

  the plain average at first, then one with the weight of 16 answers. It forgets slowly what was much longer than
  usual: quick work with a stream among every hundred stays at 0, for most of the time is the stream's.
- Cancelled work was cut short, so it tells a lower bound: it is no answer, and only raises the average. A `Busy` was no
  work at all.
- 1 below `QUICK_S`, 0 above `LONG_S`, and in between what it was.
- Work that is not over counts as soon as nothing can come of waiting: where every slot is held by a handler that runs
  for longer than `LONG_S` already, it is 0 at once, and the average hears of them when they end.
- A change costs the daemon its rankings, so there is one in `REST_S` at most; what cannot be said yet is due later.
"""

from __future__ import annotations

import math
from typing import Final

QUICK_S: Final = 0.05
"""Work shorter than this on average: one more is taken."""
LONG_S: Final = 0.1
"""Work longer than this on average, or in every slot already: none is."""
LEAST_ANSWERS: Final = 8
MEAN_ANSWERS: Final = 16
REST_S: Final = 1.0
"""Between two changes of the registration."""


class AdaptivePrefetch:
    """What to register as `prefetch`, while the user has not said it.

    Args:
        slots: how many handlers run at once.

    Attributes:
        slots: as above; may change.
        value: what is registered, or asked for: 0 or 1.
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
        if now >= self._stuck_from() or self.mean_s > LONG_S:
            return 0
        if self._answers >= LEAST_ANSWERS and self.mean_s < QUICK_S:
            return 1
        return self.value

    def _stuck_from(self) -> float:
        """Return when every slot is held by long work, if nothing ends before; infinity where a slot is free."""
        if len(self._began) < self.slots:
            return math.inf
        return next(reversed(self._began.values())) + LONG_S
