"""The last moments together: rates from the differences of counters, percentiles of what came between.

Rules:
- A figure is that of the last `WINDOW_S` seconds: with one second a rate of a few messages jumps about, with more a
  change is seen late. After the first reading there are none.
- Of earlier moments only counters are kept, and only of those within the window.
- A daemon that was started anew, or a counter that went back, has no rate over that moment: rates begin afresh.
- A quantile is interpolated within its bucket, as Prometheus' histogram_quantile does; of what lies above the last
  bound it is that bound.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import pairwise
from math import inf
from typing import Final, NamedTuple

from router_daemon.cli import asking
from router_daemon.cli.top.reading import Labels, Reading, Samples
from router_daemon.core.counts import quantile as counted_quantile

WINDOW_S: Final = 5.0
MOST_READINGS: Final = 64

Done = tuple[int, int]
"""Deliveries of a backend: acked, failed."""


class _Past(NamedTuple):
    at: float
    samples: Samples
    done: Mapping[str, Done]


class Figures:
    """Takes in readings; everything it returns is of the last of them and those within the window before."""

    def __init__(self) -> None:
        self._past: deque[_Past] = deque(maxlen=MOST_READINGS)
        self._started_at: float | None = None
        self.reading: Reading | None = None

    def take(self, reading: Reading) -> None:
        """Take in the latest reading."""
        if reading.started_at != self._started_at:
            self._past.clear()
        self._started_at = reading.started_at
        done = {asking.text_of(row, "name"): done_of(row) for row in asking.rows_of(reading.backends, "backends")}
        self._past.append(_Past(reading.at, reading.samples, done))
        while len(self._past) > 2 and self._past[1].at <= reading.at - WINDOW_S:
            self._past.popleft()
        self.reading = reading

    def copy(self) -> Figures:
        """Return the same, to be kept while this one takes in more."""
        twin = Figures()
        twin._past, twin._started_at, twin.reading = self._past.copy(), self._started_at, self.reading
        return twin

    def forget(self) -> None:
        """There was no daemon: what it counts next is compared with nothing that was before."""
        self._past.clear()

    @property
    def seconds(self) -> float:
        """How long the window is; 0 where there is nothing to compare with."""
        return self._past[-1].at - self._past[0].at if len(self._past) > 1 else 0.0

    def value(self, name: str, **labels: str) -> float | None:
        """Return one sample as it is now."""
        return self._past[-1].samples.get(name, {}).get(_labels(labels)) if self._past else None

    def values(self, name: str) -> Mapping[Labels, float]:
        """Return all samples of a name as they are now."""
        return self._past[-1].samples.get(name, {}) if self._past else {}

    def more(self, name: str, **labels: str) -> float | None:
        """Return by how much the counters with these labels, among others, have risen in the window."""
        if not self.seconds:
            return None
        wanted = set(labels.items())
        before, now = (moment.samples.get(name, {}) for moment in (self._past[0], self._past[-1]))
        rises = [value - before.get(key, 0.0) for key, value in now.items() if wanted <= set(key)]
        return None if any(rise < 0.0 for rise in rises) else sum(rises)

    def rate(self, name: str, **labels: str) -> float | None:
        """Return the same per second."""
        more = self.more(name, **labels)
        return None if more is None else more / self.seconds

    def backend_rates(self, name: str) -> tuple[float | None, float | None]:
        """Return how many deliveries a backend has acked, and failed, per second."""
        if not self.seconds or name not in self._past[-1].done or name not in self._past[0].done:
            return None, None
        rises = [now - was for was, now in zip(self._past[0].done[name], self._past[-1].done[name], strict=True)]
        acked, failed = (None if rise < 0 else rise / self.seconds for rise in rises)
        return acked, failed

    def quantile(self, share: float, name: str, **labels: str) -> float | None:
        """Return a quantile of what a histogram (`name` without `_bucket`) has taken in, in its unit."""
        if not self.seconds:
            return None
        wanted, sums = set(labels.items()), dict[float, float]()
        before, now = (moment.samples.get(f"{name}_bucket", {}) for moment in (self._past[0], self._past[-1]))
        for key, value in now.items():
            if wanted <= set(key):
                bound = float(dict(key)["le"])
                sums[bound] = sums.get(bound, 0.0) + value - before.get(key, 0.0)
        return quantile_of(share, sums)


def done_of(row: asking.Row) -> Done:
    """Return how many deliveries a row of /backends has acked, and failed."""
    acked = asking.table_of(row, "deliveries").get("acked", 0)
    failed = sum(count for count in asking.table_of(row, "failures").values() if isinstance(count, int))
    return acked if isinstance(acked, int) else 0, failed


def quantile_of(share: float, cumulative: Mapping[float, float]) -> float | None:
    """Return a quantile from how many values are at or below each bound; None where there are none."""
    bounds = sorted(cumulative)
    if not bounds or cumulative[bounds[-1]] <= 0.0:
        return None
    counts = [until - below for below, until in pairwise([0.0, *(cumulative[bound] for bound in bounds)])]
    return counted_quantile([bound for bound in bounds if bound < inf], counts, share)


def _labels(labels: Mapping[str, str]) -> Labels:
    return tuple(sorted(labels.items()))
