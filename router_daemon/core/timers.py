"""Timer wheels: many deadlines, one wake-up, and nothing left behind by what ended early.

Rules:
- An item has at most one place in a wheel: the earliest moment somebody must look at it. Whoever looks decides what
  is due and schedules it again.
- Nothing fires early. A coarse wheel (50 ms) holds what is far away, a fine one (1 ms) what is near, so a deadline is
  at most one tick late: a message ends by ttl + 50 ms, a hedge or an attempt timeout within a millisecond.
- What is due is yielded one by one, so that handling one item may cancel or move another that is due as well.
- Scheduling and cancelling are one dictionary operation each, because every message does both.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Any, Protocol

COARSE_S = 0.050
FINE_S = 0.001
NEAR_S = 1.0


class Timed(Protocol):
    """Something with a place in a wheel; `bucket` is None while it has none."""

    bucket: dict[Any, None] | None


class Wheel:
    """Buckets of one tick each, the ticks in a heap."""

    __slots__ = ("_buckets", "_latest", "_latest_from", "_latest_until", "_per_s", "_ticks")

    def __init__(self, tick_s: float) -> None:
        self._per_s = 1.0 / tick_s
        self._buckets: dict[int, dict[Any, None]] = {}
        self._ticks: list[int] = []
        self._latest: dict[Any, None] = {}  # the bucket last asked for: messages that come together are due together
        self._latest_from = self._latest_until = 0.0

    def bucket(self, due: float) -> dict[Any, None]:
        """Return the bucket of the first tick that ends after `due`."""
        if self._latest_from <= due < self._latest_until:
            return self._latest
        tick = int(due * self._per_s) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = {}
            heappush(self._ticks, tick)
        self._latest, self._latest_from, self._latest_until = bucket, (tick - 1) / self._per_s, tick / self._per_s
        return bucket

    def next_due(self) -> float | None:
        """Return when the first tick with something in it ends, dropping empty ones on the way."""
        ticks = self._ticks
        while ticks:
            if self._buckets[ticks[0]]:
                return ticks[0] / self._per_s
            self._pop()
        return None

    def pop_due(self, now: float) -> Iterator[Any]:
        """Yield every item whose tick has ended; one that lost its place meanwhile is left out."""
        ticks = self._ticks
        while ticks and ticks[0] / self._per_s <= now:
            bucket = self._pop()
            for item in list(bucket):
                if item.bucket is bucket:
                    item.bucket = None
                    yield item

    def _pop(self) -> dict[Any, None]:
        self._latest, self._latest_until = {}, 0.0  # it may be this one
        return self._buckets.pop(heappop(self._ticks))


class Timers:
    """Both wheels behind one front."""

    __slots__ = ("_coarse", "_fine")

    def __init__(self) -> None:
        self._coarse = Wheel(COARSE_S)
        self._fine = Wheel(FINE_S)

    def schedule(self, item: Timed, due: float, now: float) -> None:
        """Give the item its one place, instead of the one it may have."""
        if item.bucket is not None:
            del item.bucket[item]
        item.bucket = bucket = (self._fine if due - now < NEAR_S else self._coarse).bucket(due)
        bucket[item] = None

    def cancel(self, item: Timed) -> None:
        """Take the item out, where it is in."""
        if item.bucket is not None:
            del item.bucket[item]
            item.bucket = None

    def next_due(self) -> float | None:
        """Return the next moment at which `pop_due` has something to return; None where there is none."""
        coarse, fine = self._coarse.next_due(), self._fine.next_due()
        if coarse is None or fine is None:
            return fine if coarse is None else coarse
        return min(coarse, fine)

    def pop_due(self, now: float) -> Iterator[Any]:
        """Yield what is due, in the order of its ticks; see `Wheel.pop_due`."""
        yield from self._fine.pop_due(now)
        yield from self._coarse.pop_due(now)
