"""What the ring paper printed, and how the numbers of many runs are held against it.

Rules:
- A printed cell is inside where it lies within two standard deviations of what single runs of its own description come
  to, each with nodes, messages and chords of its own. The text does not say whether its five runs share their nodes; if
  they do not, the mean of five spreads less than half as much, so this is the kinder test.
- Two variants met the same nodes and messages, so they are compared seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

METRICS: Final = ("latency_ms", "hops", "throughput", "alignment", "delta_p95_ms")
TITLES: Final = ("latency, ms", "hops", "messages/s", "alignment", "delta p95, ms")
PRINTED: Final[Mapping[str, tuple[float, ...]]] = {
    "rr": (2.20, 5.80, 456.356, -0.004, -0.00),
    "greedy": (1.91, 0.87, 526.205, 0.331, -0.02),
    "ring_attn": (1.42, 5.80, 715.550, 0.476, 0.18),
    "ring_attn_sw": (1.29, 3.71, 795.180, 0.476, 0.18),
    "ring_attn_mh": (1.46, 5.20, 696.903, 0.443, 0.14),
}
"""Table I, in the order of `METRICS`."""
DIGITS: Final = (2, 2, 3, 3, 2)
"""As printed: a cell that rounds to it is inside, however little runs differ."""
INSIDE: Final = 2.0


def mean(values: Sequence[float]) -> float:
    """Return the mean; nan of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of the sample; 0 of fewer than two."""
    middle, count = mean(values), len(values)
    return math.sqrt(math.fsum((x - middle) ** 2 for x in values) / (count - 1)) if count > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Spread:
    """What many runs of one description came to."""

    mean: float
    deviation: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return mean and standard deviation of the values."""
        return cls(mean(values), deviation(values), len(values))

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return self.deviation / math.sqrt(self.runs) if self.runs else math.nan

    def distance(self, printed: float) -> float:
        """Return how many standard deviations the printed number is from the mean."""
        off = printed - self.mean
        return off / self.deviation if self.deviation else math.copysign(math.inf, off) if off else 0.0

    def holds(self, printed: float, digits: int) -> bool:
        """Tell whether the printed number, of so many digits after the point, is inside."""
        return abs(printed - self.mean) <= INSIDE * self.deviation + 0.5 * 10.0**-digits

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.deviation:.3f}"
