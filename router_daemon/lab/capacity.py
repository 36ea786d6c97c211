"""What any router could serve: the scale by which loads are named.

Backend b does rate_b units of work per second, for any capability it offers; a message of capability c is work_c
units, and a share d_c of messages is of c. lambda messages per second can be served if and only if for no set S of
capabilities the work asked exceeds what the backends that offer any of them can do (max-flow min-cut; with divisible
work this is Hall's condition): lambda* = min over S of (sum of rate_b, b offering any of S) / (sum of d_c work_c, c in
S). All 2^n - 1 sets are looked at, so n, the number of capabilities, is small.

A backend's rate is workers * reliability / mean service: what failed was work for nothing. Queues, retries on time and
the time to live are left out, so a load of 1 is out of reach of any real router.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from math import fsum, inf
from typing import Final

MOST_CAPABILITIES: Final = 10


def most_served(rates: Iterable[tuple[float, Iterable[str]]], demand: Mapping[str, float]) -> float:
    """Return lambda*, in messages per second.

    Args:
        rates: of each backend: work per second, and the capabilities it offers.
        demand: work per message of all, by capability: d_c work_c.
    """
    if len(demand) > MOST_CAPABILITIES:
        raise ValueError(f"{len(demand)} capabilities, at most {MOST_CAPABILITIES}")
    offers = [(rate, frozenset(capabilities)) for rate, capabilities in rates]
    least = inf
    for size in range(1, len(demand) + 1):
        for chosen in combinations(demand, size):
            asked = fsum(demand[capability] for capability in chosen)
            able = fsum(rate for rate, capabilities in offers if not capabilities.isdisjoint(chosen))
            least = min(least, able / asked)
    return least
