"""The cells of the comparison by name: pools, demand and what goes wrong, each drawn from a seed.

Rules:
- The standard pool: 12 backends of 1, 2 or 4 workers with a FIFO queue, service lognormal (sigma 0.5) with a mean of
  0.5 to 4 ms, reliability 0.88 to 0.995, 3 of 6 capabilities each; demand by Zipf's law (1.2), priorities 1 to 4 alike,
  a time to live of 100 ms; queues are reported, as the SDK does.
- A load is a share of what any router could serve (`capacity`) with the fault in place: who is silent serves nothing.
- A seed makes the same pool and the same demand in every cell that has the standard pool, whatever its load, and for
  every policy: cells are compared message by message.
- Where a fault has a length of its own (seconds), services are stretched so that the run lasts for `LONG_S`.
- The constants of `attention` are tuned on `TUNING` seeds; what is reported comes from `REPORTING` seeds: other pools.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import fsum
from random import Random
from typing import Final, TypeAlias

from router_daemon.lab.capacity import most_served
from router_daemon.lab.chance import Duration, Lognormal, zipf
from router_daemon.lab.faults import Fault
from router_daemon.lab.specs import BackendSpec, Demand

TUNING: Final = range(1_000)
REPORTING: Final = range(100_000, 101_000)
LOADS: Final = (0.02, 0.1, 0.3, 0.5, 0.7, 0.85, 0.95, 1.2, 1.5)
CAPABILITIES: Final = tuple(f"c{number}" for number in range(1, 7))
PRIORITIES: Final = dict.fromkeys((1, 2, 3, 4), 1.0)
BACKENDS: Final = 12
OFFERED: Final = 3
LEAST_OFFERS: Final = 3
"""Of each capability, so that one backend may fail without leaving nobody to choose from."""
TTL_MS: Final = 100.0
"""Some fifty services; short enough that an overload of a second or two is many times longer."""
LONG_S: Final = 30.0
OVERLOAD_MESSAGES: Final = 10_000
"""So many take a few times to live to serve: fewer would not be an overload, but a queue."""


@dataclass(frozen=True, slots=True)
class Scene:
    """All that a world needs but policy and settings.

    Attributes:
        focus: the capability that latencies are of; None: all messages. alone: success is of it, too.
        overload: (from_s, until_s) of a surge after which the run must recover; None: there is none.
    """

    backends: tuple[BackendSpec, ...]
    demands: tuple[Demand, ...]
    faults: tuple[Fault, ...] = ()
    daemons: int = 1
    focus: str | None = None
    alone: bool = False
    overload: tuple[float, float] | None = None


Maker: TypeAlias = Callable[[Random, float, int], Scene]
"""From a generator, a load and a number of messages."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the matrix.

    Attributes:
        name: as on the command line. title: for people. load: share of what any router could serve.
        strikes: kinds of faults that must have happened in a run.
        least: messages, whatever is asked for: fewer would not be the cell.
    """

    name: str
    title: str
    load: float
    make: Maker = field(repr=False)
    strikes: tuple[str, ...] = ()
    least: int = 1

    def scene(self, seed: int, messages: int) -> Scene:
        """Return the scene of a seed."""
        return self.make(Random(f"pool/{seed}"), self.load, max(messages, self.least))


# --- the standard pool ---


def standard_pool(rng: Random, *, workers: Sequence[int] = (1, 2, 4)) -> list[BackendSpec]:
    """Draw the standard pool."""
    offers = _offers(rng)
    return [
        BackendSpec(
            f"b{number:02}",
            Lognormal(0.0005 * 8.0 ** rng.random()),
            offered,
            workers=workers[rng.randrange(len(workers))],
            reliability=0.88 + 0.115 * rng.random(),
            reports_queue=True,
        )
        for number, offered in enumerate(offers, 1)
    ]


def _offers(rng: Random) -> list[tuple[str, ...]]:
    """Draw what each backend offers, again until everything is offered often enough."""
    while True:
        offers = []
        for _ in range(BACKENDS):
            left = list(CAPABILITIES)
            offers.append(tuple(left.pop(rng.randrange(len(left))) for _ in range(OFFERED)))
        if all(sum(name in offered for offered in offers) >= LEAST_OFFERS for name in CAPABILITIES):
            return offers


def rate_of(
    backends: Sequence[BackendSpec], load: float, demand: Mapping[str, float], able: Mapping[str, float] | None = None
) -> float:
    """Return the arrivals per second that are this load.

    Args:
        backends: the pool.
        load: the share of what any router could serve.
        demand: the work of each capability in a message of all, in mean services of its backend.
        able: per backend, the share of its rate that a fault leaves.
    """
    able = able or {}
    rates = [
        (able.get(spec.name, 1.0) * spec.workers * spec.reliability / mean_s(spec), spec.services())
        for spec in backends
    ]
    total = fsum(demand.values())
    return load * most_served(rates, {name: weight / total for name, weight in demand.items()})


def mean_s(spec: BackendSpec) -> float:
    """Return the mean service of the capability that a backend names first."""
    return next(iter(spec.services().values())).mean_s


def standard_demand(messages: int, rate: float, *, stretch: float = 1.0, connections: int = 1) -> Demand:
    """Return demand for the standard pool."""
    return Demand(
        messages=messages,
        rate_per_s=rate,
        capability=zipf(CAPABILITIES),
        priority=PRIORITIES,
        ttl_ms=round(TTL_MS * stretch),
        connections=connections,
    )


def stretched(backends: Sequence[BackendSpec], factor: float) -> list[BackendSpec]:
    """Return the same backends, so many times slower."""
    return [replace(spec, service=_longer(spec.service, factor), capabilities=spec.capabilities) for spec in backends]


def _longer(service: Duration | Mapping[str, Duration], factor: float) -> Duration:
    assert isinstance(service, Lognormal)
    return Lognormal(service.mean_s * factor, service.sigma)


def plain(rng: Random, load: float, messages: int) -> Scene:
    """Nothing goes wrong."""
    backends = standard_pool(rng)
    rate = rate_of(backends, load, zipf(CAPABILITIES))
    return Scene(tuple(backends), (standard_demand(messages, rate),))


def load_cells() -> list[Cell]:
    """Return the cells in which nothing but the load changes."""
    return [
        Cell(f"load-{load:g}", f"load {load:g}", load, plain, least=OVERLOAD_MESSAGES if load > 1.0 else 1)
        for load in LOADS
    ]
