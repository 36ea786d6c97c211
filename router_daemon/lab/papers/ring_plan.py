"""What is run for the ring paper's report: the table, many more pools, other readings, and the two sweeps.

Rules:
- Whatever is compared meets the same seeds. The seeds of the table, of the pools and of the sweeps are disjoint, and
  none of them is among those on which the constants of `ring` were chosen (`TUNING`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from router_daemon.lab.papers.ring_bound import Bound, bound
from router_daemon.lab.papers.ring_runs import Job, Outcome, Reading, Variant, run
from router_daemon.lab.papers.running import Options, Progress

Found: TypeAlias = Mapping[Any, Sequence[Outcome]]

MESSAGES: Final = 40_000
QUICK_MESSAGES: Final = 3_000
POOL_MESSAGES: Final = 4_000
SWEEP_MESSAGES: Final = 2_500
POOLS, READING_POOLS, SWEEP_POOLS = 40, 20, 12
TUNING: Final = range(1_000_000, 1_000_100)
"""Seeds on which constants may be tried; a report's begin at `1000 * seed` and are fewer than a thousand."""
SHORTCUTS: Final = (0, 1, 2, 3, 4, 6, 8, 12, 16)
TAUS: Final = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.5)
LOAD: Final = 0.5
"""Of the figure with contention: the share of what all nodes together could do."""

PUBLISHED: Final[Mapping[str, Any]] = {"path_cost": False, "tau": 0.7}
RR: Final = Variant("rr", "round_robin")
GREEDY: Final = Variant("greedy", "ring_greedy", settings=PUBLISHED)
ATTN: Final = Variant("ring_attn", "ring", settings=PUBLISHED)
SHORT: Final = Variant("ring_attn_sw", "ring", "random", PUBLISHED)
MULTI: Final = Variant("ring_attn_mh", "ring_multi", settings=PUBLISHED)
OURS: Final = Variant("ring, ours", "ring", "random")
SPREAD: Final = Variant("ring, ours, chosen chords", "ring", "spread")
VARIANTS: Final = (RR, GREEDY, ATTN, SHORT, MULTI, OURS, SPREAD)
