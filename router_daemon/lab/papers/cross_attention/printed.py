"""What the paper prints, digit by digit (Table I, Figure 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Row:
    """One row of Table I; latency in milliseconds, route time in microseconds."""

    hit: float
    success: float
    latency_ms: float
    route_us: float


TABLE_1: Final = {
    "rr": Row(0.434, 0.949, 2.29, 0.0),
    "cap-only": Row(1.000, 0.939, 2.42, 0.0),
    "ca-no-rel": Row(1.000, 0.944, 1.08, 0.5),
    "ca-full": Row(1.000, 0.995, 1.08, 0.5),
}
FIGURE_4_US: Final = {"ca-no-rel": 0.495, "ca-full": 0.522}
"""Per decision, with the cache."""
METRICS: Final = ("hit", "success", "latency_ms")
"""Those that a pool decides."""
