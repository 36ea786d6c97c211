"""Virtual time: one heap of what is going to happen, and a clock that jumps from one thing to the next.

Rules:
- The clock never runs backwards: nothing can be put before now.
- What is due at the same moment happens in the order in which it was put, so a run has one order and no other.
- An entry is a plain tuple of (when, number, what to call, its argument): no closure and no object per entry. An entry
  cannot be taken out; whoever is called looks whether it still matters.
- Durations are whole ticks of 2**-20 s (about a microsecond): sums of them are exact, and the last bit in which the
  logarithms of two platforms differ does not reach the digest.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any, Final, TypeAlias

TICKS_PER_S: Final = float(1 << 20)
START_S: Final = 1000.0
"""When every world begins: well after 0, which a clock that counts from boot never shows either."""

Act: TypeAlias = Callable[[Any], None]


class BrokenError(AssertionError):
    """A promise of the broker was not kept, or the simulation contradicts itself."""


def whole(seconds: float) -> float:
    """Return a duration in whole ticks, in seconds."""
    return int(seconds * TICKS_PER_S + 0.5) / TICKS_PER_S


class Timeline:
    """The clock and what is to come.

    Attributes:
        now: seconds.
        halted: set to have `run` return after the present step.
    """

    __slots__ = ("_heap", "_number", "halted", "now")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Act, Any]] = []
        self._number = count().__next__
        self.now = START_S
        self.halted = False

    def at(self, when: float, act: Act, argument: Any = None) -> None:
        """Have something happen at that time."""
        if when < self.now:
            raise BrokenError(f"{when} is before now, {self.now}")
        heappush(self._heap, (when, self._number(), act, argument))

    def after(self, seconds: float, act: Act, argument: Any = None) -> None:
        """Have something happen after that many seconds."""
        heappush(self._heap, (self.now + seconds, self._number(), act, argument))

    def run(self, until: float) -> None:
        """Let everything up to a time happen, or until `halted`."""
        heap = self._heap
        self.halted = False
        while heap and heap[0][0] <= until:
            self.now, _, act, argument = heappop(heap)
            act(argument)
            if self.halted:
                return
        self.now = max(self.now, until)
