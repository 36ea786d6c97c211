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
- A message's latency is the time until its first success, else until its last failure; tries one after the other add up.
- A hit is a delivery to a system that has the capability. Success is what the text makes of reliability: it asks nothing
  about capability.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import fsum
from random import Random
from typing import Final, Literal, NamedTuple, TypeAlias

from router_daemon.core.backends import Backend
from router_daemon.core.counts import Counts
from router_daemon.core.events import Registration
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
    weights: Weights = Weights()


RR: Final = Variant("rr", "round_robin")
CAP_ONLY: Final = Variant("cap-only", "capability_only", strict=True)
CA_NO_REL: Final = Variant("ca-no-rel", "paper_no_reliability")
CA_FULL: Final = Variant("ca-full", "paper")
VARIANTS: Final = (RR, CAP_ONLY, CA_NO_REL, CA_FULL)


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
    cached: float


class Attempt(NamedTuple):
    """One delivery, settled."""

    system: System
    ok: bool
    latency_ms: float


class Durations:
    """How many times its base a delivery takes: lognormal with mean 1, mu = -sigma^2 / 2."""

    def __init__(self, sigma: float, seed: str) -> None:
        self._rng = Random(f"{seed}/durations") if sigma else None
        self._sigma = sigma

    def __call__(self) -> float:
        """Draw one."""
        sigma = self._sigma
        return 1.0 if self._rng is None else self._rng.lognormvariate(-0.5 * sigma * sigma, sigma)


class Stage:
    """A pool, registered with the daemon's core, and the policy that chooses from it."""

    def __init__(self, variant: Variant, reading: Reading, pool: tuple[System, ...], rng: Random) -> None:
        settings = settings_of(variant, reading)
        self.reading = reading
        self.policy: Policy = make_policy(variant.policy, settings, rng)
        counts = Counts(settings.label_values)
        self.registry = Registry(settings, counts)
        self.cache = RankingCache(self.registry, self.policy, counts, rng, ttl_s=settings.cache_ttl_s)
        self.truth: dict[Backend, System] = {}
        for system in pool:
            info = Registration(system.name, list(system.capabilities))
            backend = self.registry.add(system.name.encode(), False, info, START_S)
            self.truth[backend] = system
            if reading.profiles != "learned":
                backend.profile.latency_s = system.latency_ms / 1000.0
                backend.profile.success = system.reliability

    def decide(self, capability: str, priority: int, now: float) -> tuple[Ranking, Candidate | None]:
        """Return the ranking in force and whom a message goes to first, as the daemon decides it."""
        ranking = self.cache.get(capability, priority, now)
        return ranking, self.policy.pick(ranking, (), now)

    def attempt(self, candidate: Candidate, luck: float, durations: Durations) -> Attempt:
        """Deliver, and learn from it as far as the reading says."""
        backend = candidate.backend
        system = self.truth[backend]
        latency_ms = system.latency_ms * durations()
        ok = luck < system.reliability
        if self.reading.profiles != "known":
            if ok:
                backend.profile.observe_success(latency_ms / 1000.0)
            else:
                backend.profile.observe_failure("failed")
        if not ok and self.reading.refresh == "failure":
            self.registry.epoch += 1
        return Attempt(system, ok, latency_ms)


Sender: TypeAlias = Callable[
    [Stage, Ranking, Candidate, tuple[float, ...], Durations, float, list[Attempt]],
    None,
]
"""Adds to a message's first try the ones that follow it or go with it."""


def _one(*_: object) -> None:
    """Leave it at that."""


def _again(
    stage: Stage,
    _ranking: Ranking,
    first: Candidate,
    luck: tuple[float, ...],
    durations: Durations,
    _now: float,
    tries: list[Attempt],
) -> None:
    """After a failure, once more the same."""
    if not tries[0].ok:
        tries.append(stage.attempt(first, luck[1], durations))


def _next(
    stage: Stage,
    ranking: Ranking,
    first: Candidate,
    luck: tuple[float, ...],
    durations: Durations,
    now: float,
    tries: list[Attempt],
) -> None:
    """After each failure, the next in rank."""
    heads = _others(stage.policy, ranking, first, now)
    while not tries[-1].ok and (head := next(heads, None)) is not None:
        tries.append(stage.attempt(head, luck[len(tries)], durations))


def _all(
    stage: Stage,
    ranking: Ranking,
    first: Candidate,
    luck: tuple[float, ...],
    durations: Durations,
    now: float,
    tries: list[Attempt],
) -> None:
    """The next two in rank, too."""
    for head in _others(stage.policy, ranking, first, now):
        tries.append(stage.attempt(head, luck[len(tries)], durations))


_SENDERS: Final[dict[Delivery, Sender]] = {
    "one head": _one,
    "retry": _again,
    "fail-over": _next,
    "three heads": _all,
}


def _others(policy: Policy, ranking: Ranking, first: Candidate, now: float) -> Iterator[Candidate]:
    """Yield the candidates after the first, best first, until there are three heads."""
    tried = [first.backend]
    while len(tried) < HEADS and (candidate := policy.pick(ranking, tried, now)) is not None:
        yield candidate
        tried.append(candidate.backend)


def _latency_ms(tries: list[Attempt], *, at_once: bool) -> float:
    """Return the time until the first success, else until the last failure."""
    if not at_once:
        return fsum(attempt.latency_ms for attempt in tries)
    return min((attempt.latency_ms for attempt in tries if attempt.ok), default=max(a.latency_ms for a in tries))


def settings_of(variant: Variant, reading: Reading) -> Settings:
    """Return the daemon's settings for a variant."""
    initial_ms = reading.initial_ms
    profile = ProfileSettings() if initial_ms is None else ProfileSettings(initial_latency_s=initial_ms / 1000.0)
    return Settings(
        require_capability=variant.strict, cache_ttl_s=reading.ttl_s, weights=variant.weights, profile=profile
    )


def run(variant: Variant, reading: Reading, pool: tuple[System, ...], demand: Demand, seed: str) -> Outcome:
    """Send every message and return what became of them.

    Args:
        variant, reading: what is tried.
        pool, demand: who is there and what is asked.
        seed: of ties, of uniform choices, and of what varies.
    """
    stage = Stage(variant, reading, pool, Random(seed))
    durations = Durations(reading.varies, seed)
    send = _SENDERS[reading.delivery]
    hits = deliveries = successes = 0
    latencies: list[float] = []
    step_s, now = 1.0 / reading.rate_per_s, START_S
    for capability, priority, luck in zip(demand.capabilities, demand.priorities, demand.luck, strict=True):
        now += step_s
        ranking, first = stage.decide(capability, priority, now)
        if first is None:
            continue
        tries = [stage.attempt(first, luck[0], durations)]
        send(stage, ranking, first, luck, durations, now, tries)
        for attempt in tries:
            deliveries += 1
            hits += capability in attempt.system.capabilities
        successes += any(attempt.ok for attempt in tries)
        latencies.append(_latency_ms(tries, at_once=reading.delivery == "three heads"))
    cache, count = stage.cache, len(demand.capabilities)
    looked = cache.hits + cache.misses + cache.expired + cache.invalidated
    return Outcome(
        hits / max(1, deliveries),
        successes / count,
        fsum(latencies) / max(1, len(latencies)),
        deliveries / count,
        cache.hits / looked,
    )


def without(term: str) -> Variant:
    """Return the full rule without one of its terms (Figure 5)."""
    return replace(CA_FULL, name=f"without {term}", weights=replace(Weights(), **{term: 0.0}))
