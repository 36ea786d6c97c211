"""Everything that is run for the report, how much of it, and what came out.

Rules:
- A job is a function of its own fields, so it may run in any process; pools and demand have numbers, and a number
  makes the same ones for whatever is tried on them.
- Runs 0 to n - 1 are the paper's runs; the pools whose spread is shown are numbered on from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from router_daemon.lab.papers.cross_attention.finite import CONTESTANTS, LOADS, Contestant, run_finite
from router_daemon.lab.papers.cross_attention.ours import MODES, run_ours
from router_daemon.lab.papers.cross_attention.setup import (
    BASE_SIZES,
    MESSAGES,
    SIZES,
    Sizes,
    best_ms,
    best_of_copies_ms,
    demand_of,
    pool_of,
)
from router_daemon.lab.papers.cross_attention.timing import route_us
from router_daemon.lab.papers.cross_attention.trial import (
    CA_FULL,
    CA_NO_REL,
    RR,
    VARIANTS,
    Delivery,
    Outcome,
    Reading,
    Variant,
    run,
    without,
)
from router_daemon.lab.papers.running import Options, Progress

Pair: TypeAlias = tuple[Variant, Reading]
Outcomes: TypeAlias = Mapping[Pair, Sequence[Outcome]]
"""Of each pair, one per number."""
Ours: TypeAlias = Mapping[tuple[str, float], Sequence[Outcome]]
"""Of each mode and each sigma of latency, one per number."""

BASE: Final = Reading()
LEARNED: Final = Reading("learned")
REFRESHED: Final = Reading("learned", refresh="failure")
VARIED: Final = 0.5
"""Sigma of a lognormal latency: as in the simulator's standard pool."""
DELIVERIES: Final[tuple[Delivery, ...]] = ("one head", "retry", "fail-over", "three heads")
TERMS: Final = ("capability", "performance", "reliability", "priority")
TTLS_S: Final = (0.0, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0)
RATES_PER_S: Final = (10.0, 100.0, 1_000.0, 10_000.0)
STARTS_MS: Final = (0.0, 1.0, 4.0)
OUR_KEYS: Final = tuple((mode, varies) for mode in MODES for varies in (0.0, VARIED))
UNCACHED: Final = 10
"""Decisions without the cache take some 50 times longer, and one is like another: so many times fewer are timed."""
CHUNK: Final = 8
"""Pairs that one job tries on a pool: small enough that two processes end at about the same time."""
ATTENTION: Final = Variant("attention", "attention", strict=True)


def reading_pairs() -> list[Pair]:
    """Return every variant in every reading; who learns nothing is the same whatever profiles are."""
    pairs = [(variant, Reading("known", delivery)) for delivery in DELIVERIES for variant in VARIANTS]
    pairs += [(variant, Reading("begun")) for variant in (CA_NO_REL, CA_FULL)]
    pairs += [(variant, Reading("learned", delivery)) for delivery in DELIVERIES for variant in (CA_NO_REL, CA_FULL)]
    return [*pairs, (CA_FULL, REFRESHED)]


def varied_pairs() -> list[Pair]:
    """Return the full rule where latency varies from message to message."""
    known = Reading("known", varies=VARIED)
    return [(CA_FULL, known), *((CA_FULL, Reading("learned", d, varies=VARIED)) for d in DELIVERIES)]


def term_pairs() -> list[Pair]:
    """Return the full rule without one of its terms each (Figure 5)."""
    return [(without(term), BASE) for term in TERMS]


def cached(ttl_s: float, rate_per_s: float) -> Pair:
    """Return the full rule with a time to live at a rate; without a cache the rate makes no difference."""
    return CA_FULL, Reading("learned", ttl_s=ttl_s, rate_per_s=rate_per_s if ttl_s else LEARNED.rate_per_s)


def cache_pairs() -> list[Pair]:
    """Return the full rule for every time to live at every rate (Figure 6), and for other cold starts."""
    pairs = [cached(ttl_s, rate_per_s) for rate_per_s in RATES_PER_S for ttl_s in TTLS_S]
    pairs += [(CA_FULL, Reading("learned", ttl_s=ttl, initial_ms=ms)) for ms in STARTS_MS for ttl in (0.0, 30.0)]
    return list(dict.fromkeys(pairs))


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run: counts and messages of each kind of run."""

    runs: int
    messages: int
    pools: int
    pool_messages: int
    ours: int
    ours_messages: int
    loads: Sequence[str]
    finite: int
    finite_messages: int
    timed: int


def size_of(options: Options) -> Size:
    """Return the sizes: the paper's runs, and at least 100 pools of 3,000 messages; a fraction of it where `quick`."""
    messages = options.size(MESSAGES, 2_000)
    if options.quick:
        few = min(500, messages)
        return Size(options.runs, messages, 40, few, 12, few, LOADS[::2], 2, 1_000, 10_000)
    many = min(3_000, messages)
    return Size(options.runs, messages, 100, many, 100, many, LOADS, 5, 3_000, MESSAGES)


# --- jobs ---


@dataclass(frozen=True, slots=True)
class TrialJob:
    """Some pairs, tried on one pool."""

    seed: int
    number: int
    messages: int
    pairs: tuple[Pair, ...]
    sizes: Sizes


def try_pairs(job: TrialJob) -> list[Outcome]:
    """Return the outcome of each pair."""
    pool = pool_of(job.seed, job.number, job.sizes)
    demand = demand_of(job.seed, job.number, job.messages)
    return [run(variant, reading, pool, demand, f"{job.seed}/{job.number}") for variant, reading in job.pairs]


def tried(
    options: Options,
    progress: Progress,
    what: str,
    numbers: range,
    messages: int,
    pairs: Sequence[Pair],
    sizes: Sizes = BASE_SIZES,
) -> Outcomes:
    """Return the outcomes of pairs on the pools with these numbers."""
    chunks = [tuple(pairs[at : at + CHUNK]) for at in range(0, len(pairs), CHUNK)]
    jobs = [TrialJob(options.seed, number, messages, chunk, sizes) for number in numbers for chunk in chunks]
    found: dict[Pair, list[Outcome]] = {pair: [] for pair in pairs}
    for job, outcomes in zip(jobs, options.each(progress, what, try_pairs, jobs), strict=True):
        for pair, outcome in zip(job.pairs, outcomes, strict=True):
            found[pair].append(outcome)
    return found


@dataclass(frozen=True, slots=True)
class OursJob:
    """The daemon's default on one pool."""

    seed: int
    number: int
    messages: int
    mode: str
    varies: float


def try_ours(job: OursJob) -> Outcome:
    """Return its outcome."""
    seed = 1_000_000 * job.seed + job.number
    return run_ours(job.mode, pool_of(job.seed, job.number), job.messages, seed, job.varies)


@dataclass(frozen=True, slots=True)
class FiniteJob:
    """One contestant on one pool of systems that can be busy."""

    contestant: Contestant
    cell: str
    number: int
    messages: int


def try_finite(job: FiniteJob) -> dict[str, float]:
    """Return its metrics."""
    return run_finite(job.contestant, job.cell, job.number, job.messages)


# --- all of it ---


@dataclass(frozen=True, slots=True)
class Found:
    """What came out.

    Attributes:
        runs, pools: outcomes per run of the paper, and per pool. sizes: per pool, by the reading of set sizes.
        best_ms, copies_ms: per pool, the least latency of any router that sends to one system, and to all at once.
        our_runs, our_pools: the daemon's default, by mode and by how latency varies.
        finite: metrics per seed, by contestant and cell.
        route_us: the time of a decision with the cache and without it, by variant.
        cache_us: with the full rule, by time to live and rate.
    """

    size: Size
    runs: Outcomes
    pools: Outcomes
    sizes: Mapping[str, Outcomes]
    best_ms: Sequence[float]
    copies_ms: Sequence[float]
    our_runs: Ours
    our_pools: Ours
    finite: Mapping[tuple[str, str], Sequence[Mapping[str, float]]]
    route_us: Mapping[str, tuple[float, float]]
    cache_us: Mapping[tuple[float, float], float]


def find(options: Options, progress: Progress) -> Found:
    """Run all of it."""
    size = size_of(options)
    at_runs = list(dict.fromkeys(reading_pairs() + term_pairs() + cache_pairs()))
    at_pools = reading_pairs() + varied_pairs()
    numbers = range(size.runs, size.runs + size.pools)
    progress.start(_steps(size, len(at_runs), len(at_pools)))
    # measured first: the other processes have not begun then
    route, cache = _route(options, progress, size), _cache(options, progress, size)
    return Found(
        size,
        tried(options, progress, "the paper's runs", range(size.runs), size.messages, at_runs),
        tried(options, progress, "other pools", numbers, size.pool_messages, at_pools),
        {
            name: tried(options, progress, "other set sizes", numbers, size.pool_messages // 3, SIZE_PAIRS, sizes)
            for name, sizes in SIZES.items()
        },
        [best_ms(pool_of(options.seed, number)) for number in numbers],
        [best_of_copies_ms(pool_of(options.seed, number)) for number in numbers],
        _ours(options, progress, range(size.runs), size.messages),
        _ours(options, progress, numbers[: size.ours], size.ours_messages),
        _finite(options, progress, size),
        route,
        cache,
    )


SIZE_PAIRS: Final[tuple[Pair, ...]] = ((RR, BASE), (CA_FULL, BASE))


def _steps(size: Size, at_runs: int, at_pools: int) -> int:
    chunks = size.runs * -(-at_runs // CHUNK) + size.pools * (-(-at_pools // CHUNK) + len(SIZES))
    ours = len(OUR_KEYS) * (size.runs + size.ours)
    return len(TIMED) + len(RATES_PER_S) + chunks + ours + len(CONTESTANTS) * len(size.loads) * size.finite


TIMED: Final = (*VARIANTS, ATTENTION)


def _route(options: Options, progress: Progress, size: Size) -> dict[str, tuple[float, float]]:
    pool, requests = pool_of(options.seed, 0), demand_of(options.seed, 0, size.timed).requests
    few = requests[: size.timed // UNCACHED]
    found = {}
    for variant in TIMED:
        uncached = route_us(variant, Reading(ttl_s=0.0), pool, few, options.timer)
        found[variant.name] = (route_us(variant, BASE, pool, requests, options.timer), uncached)
        progress.advance("decision times")
    return found


def _cache(options: Options, progress: Progress, size: Size) -> dict[tuple[float, float], float]:
    pool, requests = pool_of(options.seed, 0), demand_of(options.seed, 0, size.timed).requests
    few = requests[: size.timed // UNCACHED]
    found = {}
    for rate in RATES_PER_S:
        for ttl_s in TTLS_S:
            reading = Reading(ttl_s=ttl_s, rate_per_s=rate)
            found[ttl_s, rate] = route_us(CA_FULL, reading, pool, requests if ttl_s else few, options.timer)
        progress.advance("decision times")
    return found


def _ours(options: Options, progress: Progress, numbers: range, messages: int) -> Ours:
    jobs = [OursJob(options.seed, number, messages, mode, varies) for mode, varies in OUR_KEYS for number in numbers]
    outcomes = options.each(progress, "the daemon's default", try_ours, jobs)
    count = len(numbers)
    return {key: outcomes[at * count : (at + 1) * count] for at, key in enumerate(OUR_KEYS)}


def _finite(options: Options, progress: Progress, size: Size) -> dict[tuple[str, str], Sequence[Mapping[str, float]]]:
    keys = [(contestant, cell) for contestant in CONTESTANTS for cell in size.loads]
    jobs = [FiniteJob(who, cell, number, size.finite_messages) for who, cell in keys for number in range(size.finite)]
    metrics = options.each(progress, "systems that can be busy", try_finite, jobs)
    count = size.finite
    return {(who.name, cell): metrics[at * count : (at + 1) * count] for at, (who, cell) in enumerate(keys)}
