"""The cells in which something goes wrong, or in which the pool or the demand is of an awkward kind.

Rules:
- A fault begins when a fifth of the run is over (`BEGINS`), so that it meets a daemon that knows its backends, and hits
  the first backend of the pool, which the seed has drawn like the others.
- The load is a share of what is left: of a backend that fails, is silent, joins or returns, nothing is counted.
- Every fault is counted by the world when it strikes; a cell names under which kind (`Cell.strikes`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import inf
from random import Random
from typing import Final, TypeAlias

from router_daemon.lab.chance import Lognormal, Pareto, zipf
from router_daemon.lab.faults import Fault
from router_daemon.lab.specs import BackendSpec, Demand, Dependency
from router_daemon.lab.workloads import (
    CAPABILITIES,
    LONG_S,
    PRIORITIES,
    Cell,
    Maker,
    Scene,
    mean_s,
    rate_of,
    standard_demand,
    standard_pool,
    stretched,
)

AT: Final = (0.3, 0.7)
BEGINS: Final = 0.2
FAILS_AFTER_S: Final = 0.0001
PAUSE_S, PAUSE_EVERY_S = 0.03, 1.0
OUTAGE_S, OUTAGE_EVERY_S, OUTAGE_SHARE = 0.3, 3.0, 0.7
SURGE_LOAD, SURGE_FROM_S, SURGE_UNTIL_S = 1.5, 10.0, 11.0
DAEMONS: Final = (1, 4, 16, 64)
RARE: Final = 0.002
LENGTHS: Final = {"short": 1.0, "long": 10.0, "longest": 100.0}
LENGTH_SHARES: Final = {"short": 0.90, "long": 0.09, "longest": 0.01}

Change: TypeAlias = Callable[[BackendSpec, float], "tuple[BackendSpec, tuple[Fault, ...]]"]
"""From the backend that is hit and the length of the run to the same with its fault, or faults of the world."""
MANY_POOLS: Final = 20
MANY_MESSAGES: Final = 5


def _hit(change: Change, left: float, rng: Random, load: float, messages: int) -> Scene:
    """The standard pool, whose first backend is hit; `left` of its rate is counted."""
    pool = standard_pool(rng)
    rate = rate_of(pool, load, zipf(CAPABILITIES), {pool[0].name: left})
    first, faults = change(pool[0], messages / rate)
    return Scene((first, *pool[1:]), (standard_demand(messages, rate),), faults)


def _slow(spec: BackendSpec, seconds: float) -> tuple[BackendSpec, tuple[Fault, ...]]:
    return spec, (Fault("slow", BEGINS * seconds, 10.0 * seconds, spec.name, factor=10.0),)


def _fails_at_once(spec: BackendSpec, seconds: float) -> tuple[BackendSpec, tuple[Fault, ...]]:
    out_of_order = Dependency(((BEGINS * seconds, inf, 1.0),))
    return replace(spec, depends_on=out_of_order, fails_after_s=FAILS_AFTER_S), ()


def _silent(spec: BackendSpec, seconds: float) -> tuple[BackendSpec, tuple[Fault, ...]]:
    return spec, (Fault("mute", BEGINS * seconds, 10.0 * seconds, spec.name),)


def _answers_60(spec: BackendSpec, seconds: float) -> tuple[BackendSpec, tuple[Fault, ...]]:
    return replace(spec, depends_on=Dependency(((BEGINS * seconds, inf, 0.4),))), ()


def _joins(spec: BackendSpec, seconds: float) -> tuple[BackendSpec, tuple[Fault, ...]]:
    return replace(spec, joins_at_s=BEGINS * seconds, warm_up=(0.2 * seconds, 5.0)), ()


def _returns(spec: BackendSpec, seconds: float) -> tuple[BackendSpec, tuple[Fault, ...]]:
    """Down for a fifth of the run, then ten times slower, getting faster in nine steps over another fifth."""
    steps = tuple((seconds * (0.4 + 0.2 * (10 - factor) / 9.0), float(factor)) for factor in range(10, 0, -1))
    return replace(spec, slowness=steps), (Fault("crash", BEGINS * seconds, 0.2 * seconds, spec.name),)


def _pauses(rng: Random, load: float, messages: int) -> Scene:
    """Every backend stands still for 30 ms, once a second on average; the first one surely in mid-run."""
    pool = standard_pool(rng)
    rate = rate_of(pool, load, zipf(CAPABILITIES))
    faults = [Fault("pause", 0.5 * messages / rate, PAUSE_S, pool[0].name)]
    for spec in pool:
        at_s = rng.expovariate(1.0 / PAUSE_EVERY_S)
        while at_s < messages / rate:
            faults.append(Fault("pause", at_s, PAUSE_S, spec.name))
            at_s += PAUSE_S + rng.expovariate(1.0 / PAUSE_EVERY_S)
    return Scene(tuple(pool), (standard_demand(messages, rate),), tuple(faults))


def _pareto(rng: Random, load: float, messages: int) -> Scene:
    """Service by Pareto's law, alpha 1.5: an infinite variance, but that it is cut off at 100 times the mean."""
    pool = [replace(spec, service=Pareto(mean_s(spec), 1.5, 100.0 * mean_s(spec))) for spec in standard_pool(rng)]
    rate = rate_of(pool, load, zipf(CAPABILITIES))
    return Scene(tuple(pool), (standard_demand(messages, rate),))


def _outages(rng: Random, load: float, messages: int) -> Scene:
    """Something that all depend on fails 70 % for 300 ms, every 3 s of 30."""
    pool = standard_pool(rng)
    able = 1.0 - OUTAGE_SHARE * OUTAGE_S / OUTAGE_EVERY_S
    stretch = LONG_S * rate_of(pool, able * load, zipf(CAPABILITIES)) / messages
    starts = [OUTAGE_EVERY_S * (number + 0.5) for number in range(int(LONG_S / OUTAGE_EVERY_S))]
    shared = Dependency(tuple((start, start + OUTAGE_S, OUTAGE_SHARE) for start in starts))
    slower = [replace(spec, depends_on=shared) for spec in stretched(pool, stretch)]
    return Scene(tuple(slower), (standard_demand(messages, messages / LONG_S, stretch=stretch),))


def _busy(rng: Random, load: float, messages: int) -> Scene:
    """Backends say that they have three times the slots, and answer `busy` at once where all workers work."""
    pool = [replace(spec, slots=3 * spec.workers, busy_over=0) for spec in standard_pool(rng)]
    rate = rate_of(pool, load, zipf(CAPABILITIES))
    return Scene(tuple(pool), (standard_demand(messages, rate),))


def _lengths(rng: Random, load: float, messages: int) -> Scene:
    """90 % short messages beside some 10 and a few 100 times longer, of capabilities that every backend offers."""
    pool = [
        replace(spec, service={name: Lognormal(mean_s(spec) * times) for name, times in LENGTHS.items()})
        for spec in standard_pool(rng)
    ]
    rate = rate_of(pool, load, {name: LENGTH_SHARES[name] * times for name, times in LENGTHS.items()})
    rate /= sum(LENGTH_SHARES[name] * times for name, times in LENGTHS.items())
    demands = [
        Demand(
            messages=max(1, round(messages * share)),
            rate_per_s=rate * share,
            capability=name,
            priority=PRIORITIES,
            ttl_ms=2_000 if name == "short" else 20_000,
        )
        for name, share in LENGTH_SHARES.items()
    ]
    return Scene(tuple(pool), tuple(demands), focus="short")


def _rare(rng: Random, load: float, messages: int) -> Scene:
    """A capability of 0.2 % of the messages (ten at least), offered by four busy backends; numbers are of it alone."""
    pool = standard_pool(rng)
    for number in range(4):
        pool[number] = replace(pool[number], capabilities=(*pool[number].capabilities, "rare"))
    count = max(10, round(RARE * messages))
    share = count / (messages + count)
    usual = zipf(CAPABILITIES)
    total = sum(usual.values())
    asked = {name: weight * (1.0 - share) / total for name, weight in usual.items()}
    rate = rate_of(pool, load, {**asked, "rare": share})
    demand = standard_demand(messages, rate * (1.0 - share))
    rare = replace(standard_demand(count, rate * share), capability="rare")
    return Scene(tuple(pool), (demand, rare), focus="rare", alone=True)


def _a_minute(rng: Random, load: float, messages: int) -> Scene:  # noqa: ARG001 - one shape for all
    """One message a minute for four backends; a hundredth of the messages."""
    pool = [replace(spec, capabilities=("rare",)) for spec in standard_pool(rng)[:4]]
    moments = [60.0 * (number + 1) for number in range(max(20, messages // 100))]
    return Scene(tuple(pool), (Demand(arrivals=moments, capability="rare", priority=PRIORITIES, ttl_ms=100),))


def _speeds(means_s: Mapping[float, int], rng: Random, load: float, messages: int) -> Scene:
    """Two backends of each speed, for one capability; `means_s` gives the workers of each."""
    pool = [
        BackendSpec(
            f"b{mean:g}-{number}",
            Lognormal(mean),
            ("chat",),
            workers=workers,
            reliability=0.88 + 0.115 * rng.random(),
            reports_queue=True,
        )
        for mean, workers in means_s.items()
        for number in (1, 2)
    ]
    rate = rate_of(pool, load, {"chat": 1.0})
    slowest_ms = 1000.0 * max(means_s)
    demand = Demand(
        messages=messages,
        rate_per_s=rate,
        capability="chat",
        priority=PRIORITIES,
        ttl_ms=round(6.0 * slowest_ms),
    )
    return Scene(tuple(pool), (demand,))


def _big(rng: Random, load: float, messages: int) -> Scene:
    """One backend of 64 slots beside small ones."""
    pool = standard_pool(rng, workers=(1, 2))
    pool[0] = replace(pool[0], workers=64)
    rate = rate_of(pool, load, zipf(CAPABILITIES))
    return Scene(tuple(pool), (standard_demand(messages, rate),))


def _many(rng: Random, load: float, messages: int) -> Scene:
    """Twenty standard pools as one; more messages, so that each backend is met as often."""
    pools = [standard_pool(rng) for _ in range(MANY_POOLS)]
    pool = [replace(spec, name=f"{spec.name}.{number}") for number, pool in enumerate(pools) for spec in pool]
    rate = rate_of(pool, load, zipf(CAPABILITIES))
    return Scene(tuple(pool), (standard_demand(MANY_MESSAGES * messages, rate),))


def _many_daemons(daemons: int, reported: bool, rng: Random, load: float, messages: int) -> Scene:
    """Daemons that do not see each other share the pool for 30 s, with a surge of a second."""
    pool = [replace(spec, reports_queue=reported) for spec in standard_pool(rng)]
    usual_s = LONG_S - (SURGE_UNTIL_S - SURGE_FROM_S)
    rate = messages / (usual_s + (SURGE_UNTIL_S - SURGE_FROM_S) * SURGE_LOAD / load)
    stretch = rate_of(pool, load, zipf(CAPABILITIES)) / rate
    steps = ((0.0, rate), (SURGE_FROM_S, rate * SURGE_LOAD / load), (SURGE_UNTIL_S, rate))
    demand = standard_demand(messages, rate, stretch=stretch, connections=daemons)
    return Scene(
        tuple(stretched(pool, stretch)),
        (replace(demand, rate_per_s=steps),),
        daemons=daemons,
        overload=(SURGE_FROM_S, SURGE_UNTIL_S),
    )


_AT_BOTH: Final[tuple[tuple[str, str, Maker, tuple[str, ...]], ...]] = (
    ("slow", "one backend becomes ten times slower", partial(_hit, _slow, 0.1), ("slow",)),
    (
        "fails-at-once",
        "one backend fails everything within 0.1 ms",
        partial(_hit, _fails_at_once, 0.0),
        ("dependency",),
    ),
    ("silent", "one backend takes deliveries and answers none", partial(_hit, _silent, 0.0), ("mute",)),
    ("answers-60", "one backend answers 60 %", partial(_hit, _answers_60, 0.6), ("dependency",)),
    ("joins", "a cold backend joins", partial(_hit, _joins, 0.0), ("late",)),
    ("returns", "a backend was down and comes back ten times slower", partial(_hit, _returns, 0.0), ("crash",)),
    ("pauses", "every backend pauses for 30 ms now and then", _pauses, ("pause",)),
    ("pareto", "heavy-tailed service", _pareto, ()),
    ("outages", "a shared dependency fails 70 % for 300 ms every 3 s", _outages, ("dependency",)),
    ("busy", "full backends answer `busy` at once", _busy, ("busy",)),
    ("lengths", "short messages beside 10 and 100 times longer ones (latency: the short)", _lengths, ()),
    ("rare", "a capability of 0.2 % of the messages (all numbers: of it)", _rare, ()),
    ("speeds", "backends of 20 ms beside 2, 8 and 30 s", partial(_speeds, {0.02: 1, 2.0: 4, 8.0: 4, 30.0: 4}), ()),
    ("chat", "backends of 2, 8 and 30 s", partial(_speeds, {2.0: 4, 8.0: 4, 30.0: 4}), ()),
    ("big", "a backend of 64 slots beside small ones", _big, ()),
    ("many", "240 backends", _many, ()),
)


def hardship_cells() -> list[Cell]:
    """Return the cells of this file."""
    found = [
        Cell(f"{name}-{load:g}", f"{title}; load {load:g}", load, make, strikes)
        for name, title, make, strikes in _AT_BOTH
        for load in AT
    ]
    found.append(Cell("a-minute", "one message a minute", 0.0, _a_minute))
    return found + [_daemons_cell(count, reported) for count in DAEMONS for reported in (True, False)]


def _daemons_cell(count: int, reported: bool) -> Cell:
    who = "one daemon" if count == 1 else f"{count} daemons that do not see each other"
    return Cell(
        f"daemons-{count}{'' if reported else '-unseen'}",
        f"{who}, queues {'' if reported else 'not '}reported; load 0.7, {SURGE_LOAD:g} for a second",
        0.7,
        partial(_many_daemons, count, reported),
    )
