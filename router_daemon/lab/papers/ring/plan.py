"""What is run for the ring paper's report: the table, many more pools, other readings, and the two sweeps.

Rules:
- Whatever is compared meets the same seeds. The seeds of the table, of the pools and of the sweeps are disjoint, and
  none of them is among those on which the constants of `ring` were chosen (`TUNING`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from router_daemon.lab.papers.ring.bound import least_latency_ms
from router_daemon.lab.papers.ring.runs import PLAIN, Job, Outcome, Reading, Variant, run
from router_daemon.lab.papers.running import Options, Progress

Outcomes: TypeAlias = Sequence[Outcome]
Todo: TypeAlias = Sequence[tuple[Any, Job]]
"""Jobs, each with what it is for; several may be for the same."""

MESSAGES: Final = 40_000
QUICK_MESSAGES, QUICK_SHARE = 2_000, 8
"""Of a run of the table; and a quick look has so many times fewer pools."""
POOL_MESSAGES: Final = 2_500
SWEEP_MESSAGES: Final = 2_000
QUICK_SWEEP_MESSAGES: Final = 600
POOLS, READING_POOLS, SWEEP_POOLS = 40, 16, 10
OUR_POOLS: Final = 120
"""What ours gains is small beside what pools differ by."""
LEAST_POOLS: Final = 4
TUNING: Final = range(-100, 0)
"""Seeds on which constants may be tried; those of reports are not below 0."""
SHORTCUTS: Final = (0, 1, 2, 3, 4, 6, 8, 12, 16)
TAUS: Final = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.5)
LOAD: Final = 0.5
"""Of the figure with contention: the share of what all nodes together could do."""

HEADS: Final = 4
PUBLISHED: Final[Mapping[str, Any]] = {
    "temperature": 0.7,
    "performance": 0.3,
    "reliability": 0.2,
    "scaling": "unit",
    "latency": "profile",
    "path_cost": False,
}
RR: Final = Variant("rr", "round_robin")
GREEDY: Final = Variant("greedy", "ring_greedy", settings=PUBLISHED)
ATTN: Final = Variant("ring_attn", "ring", settings=PUBLISHED)
SHORT: Final = Variant("ring_attn_sw", "ring", "random", PUBLISHED)
MULTI: Final = Variant(
    "ring_attn_mh", "ring_multi", settings={**PUBLISHED, "attention_heads": HEADS, "temperature": 0.7 * HEADS**0.5}
)
"""The policy divides a head's product by the root of its own length, here d / heads; one head's divisor is sqrt d."""
OURS: Final = Variant("ring, ours", "ring", "random")
SPREAD: Final = Variant("ours, chosen chords", "ring", "spread")
VARIANTS: Final = (RR, GREEDY, ATTN, SHORT, MULTI, OURS, SPREAD)

READINGS: Final[Mapping[str, Reading]] = {
    "as in the table": PLAIN,
    "q.k not divided by sqrt d": replace(PLAIN, settings={"scaling": "raw"}),
    "vectors as drawn": replace(PLAIN, unit=False, settings={"scaling": "raw", "temperature": 0.7 * 8**0.5}),
    "vectors as drawn, not divided": replace(PLAIN, unit=False, settings={"scaling": "raw"}),
    "nodes not known at first": replace(PLAIN, known=False),
    "service varies (lognormal, sigma 0.3)": replace(PLAIN, jitter=0.3),
    "8 topics": replace(PLAIN, topics=8),
    "8 topics with noise 0.5": replace(PLAIN, topics=8, noise=0.5),
    "all messages enter at one node": replace(PLAIN, enters="one"),
    "8 topics, all at one node": replace(PLAIN, topics=8, enters="one"),
    "none enters at the failed node": replace(PLAIN, enters="living"),
    "the failed node relays nothing": replace(PLAIN, relays=False),
    "none fails": replace(PLAIN, fails=False),
}
UNFAILING: Final = READINGS["none fails"]
READ: Final = (RR, GREEDY, ATTN, SHORT, MULTI)


CURVES: Final[Mapping[str, tuple[float | None, bool]]] = {
    "arg max, no queues": (None, False),
    "arg max, queues": (LOAD, False),
    "drawn by attention, queues": (LOAD, True),
}
"""What tau is swept for: the load, and whether nodes are drawn by their attention."""


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that was run.

    Attributes:
        table, pools, ours, unfailing: by variant name; in the last, no node fails.
        readings: by (reading, variant name). shortcuts: by (variant name, their number). taus: by (curve, tau).
        bounds_ms: for each run of ours in `unfailing`, the least latency that any policy could have at its alignment.
        messages: of a run of the table.
    """

    table: Mapping[str, Outcomes]
    pools: Mapping[str, Outcomes]
    ours: Mapping[str, Outcomes]
    readings: Mapping[tuple[str, str], Outcomes]
    shortcuts: Mapping[tuple[str, int], Outcomes]
    taus: Mapping[tuple[str, float], Outcomes]
    unfailing: Mapping[str, Outcomes]
    bounds_ms: Sequence[float]
    messages: int


def find(options: Options, progress: Progress) -> Findings:
    """Run everything."""
    messages = options.size(MESSAGES, QUICK_MESSAGES)
    many, short = min(POOL_MESSAGES, messages), min(SWEEP_MESSAGES, messages)
    seeds = _Seeds(10_000 * options.seed, QUICK_SHARE if options.quick else 1)
    if options.quick:
        short = min(QUICK_SWEEP_MESSAGES, short)
    ours = [Job(OURS, seed, short, UNFAILING) for seed in seeds.some(5_000, READING_POOLS)]
    plan: dict[str, Todo] = {
        "the table": _rows(VARIANTS, range(seeds.first, seeds.first + options.runs), messages),
        "many pools": _rows((RR, GREEDY, ATTN, SHORT, MULTI), seeds.some(1_000, POOLS), many),
        "ours": _rows((SHORT, OURS, SPREAD), seeds.some(6_000, OUR_POOLS), many),
        "other readings": _readings(seeds.some(2_000, READING_POOLS), short),
        "shortcuts": _shortcuts(seeds.some(3_000, SWEEP_POOLS), short),
        "temperature": _taus(seeds.some(4_000, SWEEP_POOLS), short),
        "no failure": [(job.variant.name, job) for job in _short_too(ours)],
    }
    progress.start(sum(map(len, plan.values())) + len(ours))
    found = {what: _made(options, progress, what, todo) for what, todo in plan.items()}
    unfailing = found["no failure"]
    asked = [(job, outcome.alignment) for job, outcome in zip(ours, unfailing[OURS.name], strict=True)]
    return Findings(
        table=found["the table"],
        pools=found["many pools"],
        ours=found["ours"],
        readings=found["other readings"],
        shortcuts=found["shortcuts"],
        taus=found["temperature"],
        unfailing=unfailing,
        bounds_ms=options.each(progress, "bounds", _bound, asked),
        messages=messages,
    )


@dataclass(frozen=True, slots=True)
class _Seeds:
    first: int
    few: int

    def some(self, offset: int, pools: int) -> range:
        """Return the seeds of a stage: so many, or the so manieth part of them for a quick look."""
        return range(self.first + offset, self.first + offset + max(LEAST_POOLS, pools // self.few))


def _made(options: Options, progress: Progress, what: str, todo: Todo) -> dict[Any, list[Outcome]]:
    """Run the jobs of a stage, and return what came of them by what they are for."""
    by_key = defaultdict(list)
    outcomes = options.each(progress, what, run, [job for _, job in todo])
    for (key, _), outcome in zip(todo, outcomes, strict=True):
        by_key[key].append(outcome)
    return dict(by_key)


def _bound(asked: tuple[Job, float]) -> float:
    return least_latency_ms(*asked)


def _rows(variants: Iterable[Variant], seeds: Iterable[int], messages: int) -> Todo:
    return [(variant.name, Job(variant, seed, messages)) for variant in variants for seed in seeds]


def _short_too(ours: Sequence[Job]) -> Sequence[Job]:
    return [*ours, *(replace(job, variant=SHORT) for job in ours)]


def _readings(seeds: Iterable[int], messages: int) -> Todo:
    return [
        ((name, variant.name), Job(variant, seed, messages, reading))
        for name, reading in READINGS.items()
        for variant in READ
        for seed in seeds
    ]


def _shortcuts(seeds: Iterable[int], messages: int) -> Todo:
    return [
        ((variant.name, count), Job(variant, seed, messages, shortcuts=count))
        for variant in (SHORT, OURS, SPREAD)
        for count in SHORTCUTS
        for seed in seeds
    ]


def _taus(seeds: Iterable[int], messages: int) -> Todo:
    return [
        ((curve, tau), Job(_at(SHORT, tau), seed, messages, load=load, sampled=sampled))
        for curve, (load, sampled) in CURVES.items()
        for tau in TAUS
        for seed in seeds
    ]


def _at(variant: Variant, tau: float) -> Variant:
    return replace(variant, settings={**variant.settings, "temperature": tau})
