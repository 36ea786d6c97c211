"""What numbers over pools come to: mean, spread, and whether a printed value lies inside.

Rules:
- A printed value is *inside* for one pool where it lies within the middle 95 % of the pools (nearest rank), and inside
  for a mean of n runs where it lies within 1.96 standard errors of the mean: the paper does not say whether its 5 runs
  share a pool.
- What is printed with three digits may be half a unit of the last one off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from router_daemon.lab.compare import mean, spread
from router_daemon.lab.result import percentile

NORMAL_95: Final = 1.96
ROUNDING: Final = {"hit": 0.0005, "success": 0.0005, "latency_ms": 0.005}


@dataclass(frozen=True, slots=True)
class Spread:
    """Numbers, one per pool, in a few numbers."""

    mean: float
    deviation: float
    low: float
    high: float

    def holds(self, value: float, rounding: float = 0.0) -> bool:
        """Tell whether a value lies within the middle 95 % of the pools."""
        return self.low - rounding <= value <= self.high + rounding

    def holds_mean(self, value: float, runs: int, rounding: float = 0.0) -> bool:
        """Tell whether a value lies within 95 % of the means of so many pools."""
        return abs(value - self.mean) <= self.within(runs) + rounding

    def within(self, runs: int) -> float:
        """Return how far from the mean 95 % of the means of so many pools are at most."""
        deviation = 0.0 if math.isnan(self.deviation) else self.deviation
        return NORMAL_95 * deviation / math.sqrt(runs)


def spread_of(values: Sequence[float]) -> Spread:
    """Return the spread of some numbers; the deviation is nan for fewer than two."""
    ordered = sorted(values)
    return Spread(mean(ordered), spread(ordered), percentile(ordered, 0.025), percentile(ordered, 0.975))
