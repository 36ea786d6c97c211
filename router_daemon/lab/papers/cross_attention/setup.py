"""Who is routed to and what is asked for, as the paper's set-up says, drawn from a seed.

12 systems; capability sets sampled from six names; base latency U(0.5, 4.0) ms; reliability U(0.88, 0.995); capability
by Zipf's law (1.2), priorities 1 to 4 alike (cross-attention paper, experimental set-up).

What the text leaves open, and what is assumed here:
- The size of a capability set. Here each number from 1 to 4 is as likely as another: with its mean of 2.5 of 6 names a
  router that ignores capability hits .42 of the time, and the paper's hits .434. `SIZES` has the other readings.
- Whether every capability is offered. Here a pool is drawn again until it is, or nobody could hit it.
- Which name is asked for most: here in the order in which the text lists them.
- Whether latency varies from message to message: no distribution is given, so it does not.
- How many messages come in a second; it decides how often 30 s of cache run out. Here `RATE_PER_S`, and a sweep.

Rules:
- Message k of a run fails on its j-th try where luck[k][j] is at least the system's reliability: the same luck for
  every variant, so that variants are compared message by message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import fsum
from random import Random
from typing import Final, TypeAlias

from router_daemon.core.events import Request
from router_daemon.core.settings import Settings
from router_daemon.lab.chance import chooser, zipf

CAPABILITIES: Final = (
    "data_processing",
    "anomaly_detection",
    "trend_analysis",
    "alert_generation",
    "metric_aggregation",
    "external_integration",
)
SYSTEMS: Final = 12
LATENCY_MS: Final = (0.5, 4.0)
RELIABILITY: Final = (0.88, 0.995)
ZIPF: Final = 1.2
PRIORITIES: Final = 4
MESSAGES: Final = 30_000
HEADS: Final = Settings().heads
RATE_PER_S: Final = 1_000.0

Sizes: TypeAlias = tuple[int, ...]
"""How many capabilities a system has: each of these as likely as another."""

BASE_SIZES: Final[Sizes] = (1, 2, 3, 4)
SIZES: Final[dict[str, Sizes]] = {
    "1 to 4": BASE_SIZES,
    "2": (2,),
    "2 or 3": (2, 3),
    "3": (3,),
    "2 to 4": (2, 3, 4),
    "1 to 6": (1, 2, 3, 4, 5, 6),
}


@dataclass(frozen=True, slots=True)
class System:
    """One of the heterogeneous systems, as it really is."""

    name: str
    capabilities: tuple[str, ...]
    latency_ms: float
    reliability: float


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked for: messages, and the luck of each on each of its tries."""

    requests: list[Request]
    luck: list[tuple[float, ...]]


def draw_pool(rng: Random, sizes: Sizes = BASE_SIZES) -> tuple[System, ...]:
    """Draw the systems."""
    offers = _offers(rng, sizes)
    (fastest, slowest), (worst, surest) = LATENCY_MS, RELIABILITY
    return tuple(
        System(
            f"s{number:02}",
            offered,
            fastest + (slowest - fastest) * rng.random(),
            worst + (surest - worst) * rng.random(),
        )
        for number, offered in enumerate(offers, 1)
    )


def _offers(rng: Random, sizes: Sizes) -> list[tuple[str, ...]]:
    """Draw what each system can do, again until everything is offered."""
    while True:
        offers = []
        for _ in range(SYSTEMS):
            left = list(CAPABILITIES)
            count = sizes[rng.randrange(len(sizes))]
            offers.append(tuple(left.pop(rng.randrange(len(left))) for _ in range(count)))
        if len({name for offered in offers for name in offered}) == len(CAPABILITIES):
            return offers


def draw_demand(rng: Random, messages: int) -> Demand:
    """Draw that many messages."""
    capability = chooser(zipf(CAPABILITIES, ZIPF), rng)
    return Demand(
        [Request(number, capability(), 1 + rng.randrange(PRIORITIES)) for number in range(messages)],
        [tuple(rng.random() for _ in range(HEADS)) for _ in range(messages)],
    )


def pool_of(seed: int, number: int, sizes: Sizes = BASE_SIZES) -> tuple[System, ...]:
    """Return the pool with a number; the same for every variant and reading."""
    return draw_pool(Random(f"cross-attention/{seed}/pool/{number}"), sizes)


def demand_of(seed: int, number: int, messages: int) -> Demand:
    """Return the demand of the run with a number."""
    return draw_demand(Random(f"cross-attention/{seed}/demand/{number}"), messages)


def best_ms(pool: tuple[System, ...]) -> float:
    """Return the mean latency of a router that knows who is fastest: none that sends to one system can beat it."""
    return _over_demand(pool, lambda able: min(system.latency_ms for system in able))


def best_of_copies_ms(pool: tuple[System, ...]) -> float:
    """Return the mean latency until a first success where each message goes to all that can do it at once.

    sum over the capable by latency of l_k r_k prod_(j<k) (1 - r_j), over the chance that any succeeds: nothing that
    answers as many messages can have less.
    """
    return _over_demand(pool, _first_success_ms)


def _first_success_ms(able: list[System]) -> float:
    total, left = 0.0, 1.0
    for system in sorted(able, key=lambda system: system.latency_ms):
        total += left * system.reliability * system.latency_ms
        left *= 1.0 - system.reliability
    return total / (1.0 - left)


def _over_demand(pool: tuple[System, ...], measure: Callable[[list[System]], float]) -> float:
    shares = zipf(CAPABILITIES, ZIPF)
    return fsum(
        share * measure([system for system in pool if name in system.capabilities]) for name, share in shares.items()
    ) / fsum(shares.values())
