"""Latencies: all of them while there are not too many, then a uniform sample; percentiles, and a histogram. PURE.

Why not a library of histograms: HdrHistogram answers within 0.1 % from a fixed memory, but its Python package is a
compiled dependency for what a sorted array of doubles does exactly. `MOST` samples take 16 MB; a client in Python needs
minutes for so many. Beyond, each value has the same chance to be among those kept (Vitter's algorithm R), so that
percentiles go on to be of the whole run; the largest value is always kept.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from random import Random
from typing import Final, NamedTuple

MOST: Final = 2_000_000
SHARES: Final = (0.5, 0.9, 0.99, 0.999)
STEPS: Final = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
BINS: Final = 16


class Samples:
    """Values in seconds, in the order they came, or a uniform sample of them.

    Attributes:
        values: those kept.
        count: of all that were added. total, most: their sum, and the largest.
    """

    def __init__(self, seed: int = 1, limit: int = MOST) -> None:
        self.values = array("d")
        self._limit = limit
        self._rng = Random(seed)
        self.count = 0
        self.total = 0.0
        self.most = 0.0

    def add(self, value: float) -> None:
        """Take in one value."""
        self.count += 1
        self.total += value
        if value > self.most:
            self.most = value
        if len(self.values) < self._limit:
            self.values.append(value)
        elif (place := self._rng.randrange(self.count)) < self._limit:
            self.values[place] = value

    def sorted(self) -> Sequence[float]:
        """Return what is kept, the smallest first."""
        return sorted(self.values)

    @property
    def sampled(self) -> bool:
        """Not all values are kept."""
        return self.count > len(self.values)


class Summary(NamedTuple):
    """What is told of samples: how many (`n`), and times in milliseconds."""

    n: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


def merged(several: Iterable[Samples], limit: int = MOST) -> Samples:
    """Return one for several; of those that kept a part only, each part counts by what it stands for."""
    parts = list(several)
    whole, rng = Samples(limit=limit), Random(len(parts))
    count = sum(part.count for part in parts)
    for part in parts:
        quota = len(part.values) if count <= limit else min(len(part.values), limit * part.count // count)
        kept = part.values if quota == len(part.values) else rng.sample(part.values, quota)
        whole.values.extend(kept)
    whole.count, whole.total = count, math.fsum(part.total for part in parts)
    whole.most = max((part.most for part in parts), default=0.0)
    return whole


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest of sorted values that at least this share is at or below (the nearest rank)."""
    return values[min(len(values) - 1, max(0, math.ceil(share * len(values)) - 1))]


def summary(samples: Samples) -> Summary | None:
    """Return what is told of them; None where there are none."""
    values = samples.sorted()
    if not values:
        return None
    p50, p90, p99, p999 = (1000.0 * quantile(values, share) for share in SHARES)
    mean = 1000.0 * samples.total / samples.count
    return Summary(samples.count, mean, p50, p90, p99, p999, 1000.0 * samples.most)


class Bin(NamedTuple):
    """How many values (`n`) lie above `low_ms` and up to `high_ms`."""

    low_ms: float
    high_ms: float
    n: int


def histogram(samples: Samples) -> list[Bin]:
    """Return at most `BINS` bins with bounds 1, 1.5, 2, 3, 5, 7, 10, ... from the least value on."""
    values = samples.sorted()
    if not values:
        return []
    bounds = _bounds(1000.0 * values[0], 1000.0 * max(values[-1], samples.most))
    counts = [0] * (len(bounds) - 1)
    place = 0
    for value in values:
        while place < len(counts) - 1 and 1000.0 * value > bounds[place + 1]:
            place += 1
        counts[place] += 1
    whole = samples.count / len(values)
    return [
        Bin(low, high, round(count * whole)) for low, high, count in zip(bounds[:-1], bounds[1:], counts, strict=True)
    ]


def _bounds(least_ms: float, most_ms: float) -> list[float]:
    """Return steps from at or below the least to at or above the most; where these are too many, the widest last."""
    decade = math.floor(math.log10(max(least_ms, 1e-3)))
    steps = [step * 10.0**power for power in range(decade, decade + 12) for step in STEPS]
    first = max((index for index, step in enumerate(steps) if step < least_ms), default=0)
    last = next((index for index, step in enumerate(steps) if step >= most_ms and index > first), len(steps) - 1)
    if last - first <= BINS:
        return steps[first : last + 1]
    return [*steps[first : first + BINS], steps[last]]
