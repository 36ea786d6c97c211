"""One run of the paper's experiment: no queues, no time but the rate of messages, and the daemon's own decisions.

The registry, the profiles, the decision cache and the policies are those of the daemon; what stands here is only what
the paper puts around them. What the text leaves open is a `Reading`:

- `profiles`: "known" (every latency and reliability is known from the start and stays), "begun" (known, then moved by
  the update rule), "learned" (the daemon's cold start, then the update rule).
- `delivery`: "one head"; "retry" (a failure is sent once more to the same system); "fail-over" (to the next in rank, up
  to three in all); "three heads" (the three best over the threshold at once, and the first success counts).
- `refresh`: "ttl" (an entry lasts for its time to live), "failure" ("cache entries are invalidated and refreshed as
  needed": a failure ends them all).

Rules:
- A message's latency is the time until its first success, else until its last failure; tries one after the other add
  up.
- A hit is a delivery to a system that has the capability. Success is what the text makes of reliability: it asks
  nothing about capability.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import fsum
from random import Random
from typing import Final, Literal, NamedTuple, TypeAlias

from router_daemon.core.backends import Backend
from router_daemon.core.counts import Counts
from router_daemon.core.events import Registration, Request
from router_daemon.core.ranking import Candidate, Policy, Ranking, RankingCache
from router_daemon.core.registry import Registry
from router_daemon.core.settings import ProfileSettings, Settings, Weights
from router_daemon.lab.papers.cross_attention.setup import HEADS, RATE_PER_S, Demand, System
from router_daemon.policies.base import make_policy

Profiles: TypeAlias = Literal["known", "begun", "learned"]
Delivery: TypeAlias = Literal["one head", "retry", "fail-over", "three heads"]
Refresh: TypeAlias = Literal["ttl", "failure"]

START_S: Final = 1000.0


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of Table I.

    Attributes:
        name: as printed. policy: the daemon's.
        strict: only the capable are ranked, as the daemon does by default.
    """

    name: str
    policy: str
    strict: bool = False
    weights: Weights = field(default_factory=Weights)


RR: Final = Variant("rr", "round_robin")
CAP_ONLY: Final = Variant("cap-only", "capability_only", strict=True)
CA_NO_REL: Final = Variant("ca-no-rel", "paper_no_reliability")
CA_FULL: Final = Variant("ca-full", "paper")
VARIANTS: Final = (RR, CAP_ONLY, CA_NO_REL, CA_FULL)


def without(term: str) -> Variant:
    """Return the full rule without one of its terms (Figure 5)."""
    return replace(CA_FULL, name=f"without {term}", weights=replace(Weights(), **{term: 0.0}))


@dataclass(frozen=True, slots=True)
class Reading:
    """What is assumed where the text is open; see the module.

    Attributes:
        varies: a latency is lognormal around its base with this sigma; 0: it is the base.
        initial_ms: the latency that a profile starts with where it is learned; None: the daemon's.
    """

    profiles: Profiles = "known"
    delivery: Delivery = "one head"
    refresh: Refresh = "ttl"
    ttl_s: float = Settings().cache_ttl_s
    rate_per_s: float = RATE_PER_S
    varies: float = 0.0
    initial_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run in numbers.

    Attributes:
        hit: deliveries to a system that has the capability, as a share of all.
        success: of the messages. latency_ms: mean over all messages that were sent.
        deliveries: per message. cached: look-ups that found an entry in force, as a share.
    """

    hit: float
    success: float
    latency_ms: float
    deliveries: float
    cached: float = 0.0


class Attempt(NamedTuple):
    """One delivery, settled."""

    candidate: Candidate
    system: System
    ok: bool
    latency_ms: float


class Stage:
    """A pool, registered with the daemon's core, and the policy that chooses from it."""

    def __init__(self, variant: Variant, reading: Reading, pool: tuple[System, ...], seed: str) -> None:
        settings = settings_of(variant, reading)
        rng = Random(seed)
        counts = Counts(settings.label_values)
        self.policy: Policy = make_policy(variant.policy, settings, rng)
        self.registry = Registry(settings, counts)
        self.cache = RankingCache(self.registry, self.policy, counts, rng, ttl_s=settings.cache_ttl_s)
        self._reading = reading
        self._durations = Random(f"{seed}/durations")
        self._truth: dict[Backend, System] = {}
        for system in pool:
            info = Registration(system.name, list(system.capabilities))
            backend = self.registry.add(system.name.encode(), False, info, START_S)
            self._truth[backend] = system
            if reading.profiles != "learned":
                backend.profile.latency_s = system.latency_ms / 1000.0
                backend.profile.success = system.reliability

    def decide(self, request: Request, now: float) -> tuple[Ranking, Candidate | None]:
        """Return the ranking in force and whom a message goes to first, as the daemon decides it."""
        ranking = self.cache.get(request.capability, request.priority, now)
        return ranking, self.policy.pick(ranking, request, (), now)

    def others(self, ranking: Ranking, request: Request, first: Candidate, now: float) -> Iterator[Candidate]:
        """Yield the candidates after the first, best first, until there are three heads."""
        tried = [first.backend]
        while len(tried) < HEADS and (found := self.policy.pick(ranking, request, tried, now)) is not None:
            yield found
            tried.append(found.backend)

    def attempt(self, candidate: Candidate, luck: float) -> Attempt:
        """Deliver, and learn from it as far as the reading says."""
        reading, backend = self._reading, candidate.backend
        system = self._truth[backend]
        ok, latency_ms = luck < system.reliability, system.latency_ms
        if reading.varies:
            latency_ms *= self._durations.lognormvariate(-0.5 * reading.varies**2, reading.varies)
        if reading.profiles != "known":
            if ok:
                backend.profile.observe_success(latency_ms / 1000.0)
            else:
                backend.profile.observe_failure("failed")
        if not ok and reading.refresh == "failure":
            self.registry.epoch += 1
        return Attempt(candidate, system, ok, latency_ms)

    def cached(self) -> float:
        """Return the share of look-ups that found an entry in force."""
        cache = self.cache
        return cache.hits / max(1, cache.hits + cache.misses + cache.expired + cache.invalidated)


def settings_of(variant: Variant, reading: Reading) -> Settings:
    """Return the daemon's settings for a variant."""
    initial_ms = reading.initial_ms
    profile = ProfileSettings() if initial_ms is None else ProfileSettings(initial_latency_s=initial_ms / 1000.0)
    return Settings(
        require_capability=variant.strict, cache_ttl_s=reading.ttl_s, weights=variant.weights, profile=profile
    )


def run(variant: Variant, reading: Reading, pool: tuple[System, ...], demand: Demand, seed: str) -> Outcome:
    """Send every message and return what became of them; `seed` is of ties, uniform choices and what varies."""
    stage = Stage(variant, reading, pool, seed)
    go_on, at_once = _DELIVERIES[reading.delivery], reading.delivery == "three heads"
    hits = deliveries = successes = 0
    latencies: list[float] = []
    step_s, now = 1.0 / reading.rate_per_s, START_S
    for request, luck in zip(demand.requests, demand.luck, strict=True):
        now += step_s
        ranking, first = stage.decide(request, now)
        if first is None:
            continue
        tries = [stage.attempt(first, luck[0])]
        if at_once or not tries[0].ok:
            go_on(stage, stage.others(ranking, request, first, now), luck, tries)
        deliveries += len(tries)
        for attempt in tries:
            hits += request.capability in attempt.system.capabilities
        successes += any(attempt.ok for attempt in tries)
        latencies.append(_latency_ms(tries, at_once=at_once))
    count = len(demand.requests)
    mean_ms = fsum(latencies) / max(1, len(latencies))
    return Outcome(hits / max(1, deliveries), successes / count, mean_ms, deliveries / count, stage.cached())


GoOn: TypeAlias = Callable[[Stage, Iterator[Candidate], tuple[float, ...], list[Attempt]], None]
"""Adds to a message's first try the ones that follow it or go with it."""


def _leave_it(_stage: Stage, _others: Iterator[Candidate], _luck: tuple[float, ...], _tries: list[Attempt]) -> None:
    """One head and no more."""


def _same_again(stage: Stage, _others: Iterator[Candidate], luck: tuple[float, ...], tries: list[Attempt]) -> None:
    tries.append(stage.attempt(tries[0].candidate, luck[1]))


def _next_ones(stage: Stage, others: Iterator[Candidate], luck: tuple[float, ...], tries: list[Attempt]) -> None:
    while not tries[-1].ok and (candidate := next(others, None)) is not None:
        tries.append(stage.attempt(candidate, luck[len(tries)]))


def _all_of_them(stage: Stage, others: Iterator[Candidate], luck: tuple[float, ...], tries: list[Attempt]) -> None:
    for candidate in list(others):
        tries.append(stage.attempt(candidate, luck[len(tries)]))


_DELIVERIES: Final[dict[Delivery, GoOn]] = {
    "one head": _leave_it,
    "retry": _same_again,
    "fail-over": _next_ones,
    "three heads": _all_of_them,
}


def _first_success(tries: list[Attempt]) -> Attempt:
    return min((attempt for attempt in tries if attempt.ok), key=lambda attempt: attempt.latency_ms)


def _latency_ms(tries: list[Attempt], *, at_once: bool) -> float:
    """Return the time until the first success, else until the last failure."""
    if not at_once:
        return fsum(attempt.latency_ms for attempt in tries)
    if any(attempt.ok for attempt in tries):
        return _first_success(tries).latency_ms
    return max(attempt.latency_ms for attempt in tries)
