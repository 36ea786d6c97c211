"""The decision cache: (capability, priority) -> Ranking, with a time to live and an epoch.

Rules:
- A `Ranking` holds every backend that the policy scored, best first, and those of them that are candidates (over the
  policy's threshold). Which candidate gets a message is the policy's `order`, per message, and who has room.
- An entry is served while it is younger than the time to live and no backend has joined, left, drained or changed
  its capabilities since (`Registry.epoch`). A time to live of 0 caches nothing.
- Attention weights are the scores of the candidates over their sum, so they read as shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import Protocol

from msgspec import Struct

from router_daemon.core.counts import CapabilityCounts, Counts
from router_daemon.core.registry import Backend, Registry

MAX_ENTRIES = 4096


class Candidate(Struct, eq=False):
    """One backend as a policy sees it for one kind of message; `terms` add up to the score."""

    backend: Backend
    score: float
    terms: dict[str, float]
    weight: float = 0.0


class Policy(Protocol):
    """A way of scoring and choosing.

    Attributes:
        name: as in the configuration.
        threshold: who scores this or less is no candidate.
        random_ties: backends that score the same are ranked at random, or one of them would get everything.
    """

    name: str
    threshold: float
    random_ties: bool

    def score(self, capability: str, priority: int, backends: Sequence[Backend]) -> list[Candidate]:
        """Return every given backend with its score, best first, equal ones in the given order; pure."""

    def order(self, ranking: Ranking) -> Iterable[Candidate]:
        """Yield a ranking's candidates in the order in which this one message should try them."""

    def peek(self, ranking: Ranking) -> Iterable[Candidate]:
        """Yield them as the next message would meet them, as far as that is settled, and change nothing."""


class Ranking(Struct, eq=False):
    """One cached decision.

    Attributes:
        scored: all that were scored, best first.
        candidates: those over the threshold, best first, with their attention weights.
        counts: the series of the capability.
    """

    capability: str
    priority: int
    scored: list[Candidate]
    candidates: list[Candidate]
    counts: CapabilityCounts
    epoch: int
    made_at: float


class RankingCache:
    """Rankings by (capability, priority).

    Attributes:
        hits, misses: look-ups that found an entry in force; that found none.
        expired, invalidated: look-ups that found one too old; one made before the registry changed.
    """

    def __init__(
        self,
        registry: Registry,
        policy: Policy,
        counts: Counts,
        rng: Random,
        *,
        ttl_s: float,
        require_capability: bool,
    ) -> None:
        self._rng = rng
        self._registry = registry
        self._policy = policy
        self._counts = counts
        self.ttl_s = ttl_s
        self._require_capability = require_capability
        self._entries: dict[tuple[str, int], Ranking] = {}
        self.hits = self.misses = self.expired = self.invalidated = 0

    def get(self, capability: str, priority: int, now: float) -> Ranking:
        """Return the ranking in force, made anew where there is none."""
        ranking = self._entries.get((capability, priority))
        if ranking is None:
            self.misses += 1
        elif ranking.epoch != self._registry.epoch:
            self.invalidated += 1
        elif now - ranking.made_at >= self.ttl_s:
            self.expired += 1
        else:
            self.hits += 1
            return ranking
        backends = self._eligible(capability)
        if self._policy.random_ties:
            self._rng.shuffle(backends)
        ranking = self._rank(capability, priority, backends, now)
        self._keep(ranking)
        return ranking

    def peek(self, capability: str, priority: int, now: float) -> tuple[str, Ranking | None]:
        """Return the entry and its state (`hit`, `expired`, `invalidated`, `absent`) without counting a look-up."""
        ranking = self._entries.get((capability, priority))
        if ranking is None:
            return "absent", None
        if ranking.epoch != self._registry.epoch:
            return "invalidated", ranking
        return ("expired" if now - ranking.made_at >= self.ttl_s else "hit"), ranking

    def preview(self, capability: str, priority: int, now: float) -> Ranking:
        """Score the backends now, for people: nothing is kept, counted or drawn."""
        return self._rank(capability, priority, self._eligible(capability), now)

    def _eligible(self, capability: str) -> list[Backend]:
        registry = self._registry
        return list(registry.able(capability) if self._require_capability else registry.everyone())

    def _rank(self, capability: str, priority: int, backends: list[Backend], now: float) -> Ranking:
        registry = self._registry
        scored = self._policy.score(capability, priority, backends)
        candidates = [candidate for candidate in scored if candidate.score > self._policy.threshold]
        total = sum(candidate.score for candidate in candidates)
        for candidate in candidates:
            candidate.weight = candidate.score / total if total else 1.0 / len(candidates)
        counts = self._counts.capability(capability, offered=registry.was_offered(capability))
        return Ranking(capability, priority, scored, candidates, counts, registry.epoch, now)

    def _keep(self, ranking: Ranking) -> None:
        if len(self._entries) >= MAX_ENTRIES:
            self._entries.clear()
        self._entries[ranking.capability, ranking.priority] = ranking
