"""The decision cache: (capability, priority) -> Ranking, with a time to live and an epoch.

Rules:
- A `Ranking` holds every backend that the policy scored, best first, and those of them that are candidates (over the
  policy's threshold). Which candidate gets a message is the policy's `pick`, per message.
- An entry is served while it is younger than the time to live and no backend has joined, left, drained or changed
  its capabilities since (`Registry.epoch`). A time to live of 0 caches nothing.
- Attention weights are the scores of the candidates over their sum, so they read as shares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from random import Random
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec import Struct

from router_daemon.core.backends import Backend
from router_daemon.core.counts import CapabilityCounts, Counts
from router_daemon.core.events import Request
from router_daemon.core.pools import Pool
from router_daemon.core.registry import Registry, Watcher
from router_daemon.core.service import Service

if TYPE_CHECKING:
    from router_daemon.core.messages import Delivery

MAX_ENTRIES: Final = 4096
PRIORITIES: Final = 4
MOST_SURCHARGE: Final = 1e9
"""Finite, whatever costs backends declare: a score must not become NaN."""


class Candidate(Struct, eq=False):
    """One backend as a policy sees it for one kind of message.

    Attributes:
        score, terms: as of the ranking; the terms add up to the score, or to `logit` where a policy has one.
        weight: its share of the candidates' scores.
        surcharge: max(0, cost / least cost - 1) among the candidates; 0 where it or nobody says a cost.
        fixed: the terms that do not change with the backend's load, for a policy that weighs the others itself.
        logit: z of a policy whose scores are softmax(z).
        service: what was measured of it for the capability; set when the ranking is made.
        rank: its place among the candidates, from 0.
    """

    backend: Backend
    score: float
    terms: dict[str, float]
    weight: float = 0.0
    surcharge: float = 0.0
    fixed: float = 0.0
    logit: float | None = None
    service: Service = None  # type: ignore[assignment] # never None once in a ranking
    rank: int = -1


class Ranking(Struct, eq=False):
    """One cached decision.

    Attributes:
        scored: all that were scored, best first.
        candidates: those over the threshold, best first, with their attention weights.
        counts: the series of the capability. pool: its budgets and sums.
        expires_at: when its time to live is over.
        policy: who made it, and picks from it.
        own: whatever the policy keeps here, of this one and of those made of it by `only`; None until it does.
        whole: of one made by `only`, the one it was made of, where `own` is kept.
    """

    capability: str
    priority: int
    scored: list[Candidate]
    candidates: list[Candidate]
    counts: CapabilityCounts
    pool: Pool
    epoch: int
    made_at: float
    expires_at: float
    policy: Policy
    own: Any = None
    whole: Ranking | None = None

    def detached(self) -> Ranking:
        """Return a copy, down to what was measured and to the budgets, that may be looked at in any way, for people."""
        twins: dict[Candidate, Candidate] = {}
        for candidate in self.scored:
            twins[candidate] = twin = copy(candidate)
            twin.service = copy(candidate.service)
            twin.service.own = {policy: copy(kept) for policy, kept in candidate.service.own.items()}
        ranking = copy(self)
        ranking.scored = list(twins.values())
        ranking.candidates = [twins[candidate] for candidate in self.candidates]
        ranking.pool = self.pool.detached()
        ranking.own = ranking.whole = None
        return ranking

    def only(self, keep: Callable[[Candidate], bool]) -> Ranking:
        """Return the same with some candidates left out, for one message that may not go to all."""
        return Ranking(
            self.capability,
            self.priority,
            self.scored,
            [candidate for candidate in self.candidates if keep(candidate)],
            self.counts,
            self.pool,
            self.epoch,
            self.made_at,
            self.expires_at,
            self.policy,
            whole=self.whole or self,
        )


Account = tuple[tuple[str, ...], list[tuple[Candidate, float, tuple[float, ...]]]]
"""What a policy compared: the names of the terms, and (candidate, score, value of each term) of whom it looked at."""
NOBODY: Final[Account] = (), []
Observer = Callable[["Delivery", float, bool, float], None]
"""Told of a settled delivery: latency in seconds (of a timeout its full length), whether it succeeded, the time."""
Objector = Callable[["Ranking", Request], tuple[str, str] | None]
"""Returns code and detail of the ERROR for a message that the policy chooses nobody for, whoever has room, else None.

Asked only where `pick` has chosen nobody, or there was no room to choose from."""


class Policy(Protocol):
    """A way of scoring and choosing.

    Attributes:
        name: as in the configuration.
        threshold: who scores this or less is no candidate.
        random_ties: backends that score the same are ranked at random, or one of them would get everything.
        observe: told of what became of deliveries; None where the policy learns nothing of its own.
        watch: told of who is there; None where the policy keeps nothing of backends.
        objection: why a message goes nowhere; None where the policy chooses for every message.
    """

    name: str
    threshold: float
    random_ties: bool

    @property
    def observe(self) -> Observer | None:
        """What is to be told of the outcomes of deliveries."""

    @property
    def watch(self) -> Watcher | None:
        """What is to be told of who is there."""

    @property
    def objection(self) -> Objector | None:
        """What is to be asked why a message goes nowhere."""

    def score(self, capability: str, priority: int, backends: Sequence[Backend]) -> list[Candidate]:
        """Return every given backend with its score, best first, equal ones in the given order; pure."""

    def pick(self, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float) -> Candidate | None:
        """Return the candidate that this one message should go to: with room and not tried; None without any."""

    def peek(self, ranking: Ranking, request: Request, now: float) -> Iterable[Candidate]:
        """Yield them in the order the next message would prefer, as far as that is settled, and change nothing.

        What it recomputes of the ranking is the caller's own: see `Ranking.detached`.
        """


def first_free(candidates: Iterable[Candidate], tried: Sequence[Backend]) -> Candidate | None:
    """Return the first candidate with room that was not tried; None without any."""
    for candidate in candidates:
        if candidate.backend.free > 0 and candidate.backend not in tried:
            return candidate
    return None


class NonsenseError(Exception):
    """A policy has chosen somebody who cannot get the message, or ranked by what is no number."""


def check_scores(scored: Sequence[Candidate], backends: Sequence[Backend]) -> None:
    """See that a policy has scored whom it was given, with numbers.

    Raises:
        NonsenseError: it has not.
    """
    if len(scored) != len(backends) or {c.backend for c in scored} != set(backends):
        raise NonsenseError("not every backend was scored, or one that was not asked for")
    total = sum(candidate.score for candidate in scored)
    if total - total != 0.0:
        raise NonsenseError("a score is no number")


def check_choice(candidate: Candidate, ranking: Ranking, tried: Sequence[Backend]) -> None:
    """See that a policy has chosen somebody who can get the message.

    Raises:
        NonsenseError: it has not.
    """
    if candidate not in ranking.candidates:
        raise NonsenseError("the choice is none of the candidates")
    if candidate.backend.free <= 0:
        raise NonsenseError(f"{candidate.backend.name!r} was chosen and has no room")
    if candidate.backend in tried:
        raise NonsenseError(f"{candidate.backend.name!r} was chosen and has been tried")


class RankingCache:
    """Rankings by (capability, priority).

    Attributes:
        hits, misses: look-ups that found an entry in force; that found none.
        expired, invalidated: look-ups that found one too old; one made before the registry changed.
    """

    def __init__(self, registry: Registry, policy: Policy, counts: Counts, rng: Random, *, ttl_s: float) -> None:
        self._rng = rng
        self._registry = registry
        self._counts = counts
        self.hits = self.misses = self.expired = self.invalidated = 0
        self.configure(policy, ttl_s)

    def configure(self, policy: Policy, ttl_s: float) -> None:
        """Rank by this policy from now on, for so long; nothing cached stays."""
        self._policy = policy
        self.ttl_s = ttl_s
        self._rows: dict[str, list[Ranking | None]] = {}  # a look-up by text alone costs half of one by a pair
        self._last_made: tuple[Ranking | None, str, int] = None, "", 0

    def get(self, capability: str, priority: int, now: float) -> Ranking:
        """Return the ranking in force, made anew where there is none."""
        row = self._rows.get(capability)
        if row is None:
            capability = self._registry.key(capability)
            row = self._rows.get(capability)
        ranking = None if row is None else row[priority]
        if ranking is None:
            self.misses += 1
            found = "miss"
        elif ranking.epoch != self._registry.epoch:
            self.invalidated += 1
            found = "invalidated"
        elif now >= ranking.expires_at:
            self.expired += 1
            found = "expired"
        else:
            self.hits += 1
            return ranking
        backends = list(self._registry.able(capability))
        if self._policy.random_ties:
            self._rng.shuffle(backends)
        counts = self._counts.capability(capability, offered=self._registry.was_offered(capability))
        ranking = self._rank(capability, priority, backends, now, self._registry.service, counts)
        self._keep(ranking)
        self._last_made = ranking, found, self.hits
        return ranking

    def state_of(self, ranking: Ranking) -> str:
        """Return what the last look-up found, which returned this ranking: `hit`, or why it had to be made."""
        made, found, hits = self._last_made
        return found if made is ranking and hits == self.hits else "hit"

    def look(self, capability: str, priority: int, now: float) -> Ranking:
        """Return the ranking in force like `get`, without counting where there is one."""
        state, ranking = self.peek(capability, priority, now)
        return ranking if ranking is not None and state == "hit" else self.get(capability, priority, now)

    def peek(self, capability: str, priority: int, now: float) -> tuple[str, Ranking | None]:
        """Return the entry and its state (`hit`, `expired`, `invalidated`, `absent`) without counting a look-up."""
        row = self._rows.get(capability) or self._rows.get(self._registry.key(capability))
        ranking = None if row is None else row[priority]
        if ranking is None:
            return "absent", None
        if ranking.epoch != self._registry.epoch:
            return "invalidated", ranking
        return ("expired" if now >= ranking.expires_at else "hit"), ranking

    def preview(self, capability: str, priority: int, now: float) -> Ranking:
        """Score the backends now, for people: nothing is kept, counted or drawn."""
        registry = self._registry
        backends = list(registry.able(capability))
        return self._rank(capability, priority, backends, now, registry.peek_service, CapabilityCounts(capability))

    def _rank(
        self,
        capability: str,
        priority: int,
        backends: list[Backend],
        now: float,
        service_of: Callable[[Backend, str, float], Service],
        counts: CapabilityCounts,
    ) -> Ranking:
        registry = self._registry
        policy = self._policy
        scored = policy.score(capability, priority, backends)
        check_scores(scored, backends)
        for candidate in scored:
            candidate.service = service_of(candidate.backend, capability, now)
        candidates = [candidate for candidate in scored if candidate.score > policy.threshold]
        total = sum(candidate.score for candidate in candidates)
        for rank, candidate in enumerate(candidates):
            candidate.rank = rank
            candidate.weight = candidate.score / total if total else 1.0 / len(candidates)
        _add_surcharges(candidates)
        pool = registry.pool(capability)
        until = now + self.ttl_s
        return Ranking(capability, priority, scored, candidates, counts, pool, registry.epoch, now, until, policy)

    def _keep(self, ranking: Ranking) -> None:
        row = self._rows.get(ranking.capability)
        if row is None:
            if len(self._rows) >= MAX_ENTRIES:
                self._rows.clear()
            row = self._rows[ranking.capability] = [None] * (PRIORITIES + 1)
        row[ranking.priority] = ranking


def _add_surcharges(candidates: list[Candidate]) -> None:
    """Set how much dearer than the cheapest each candidate is, in multiples of the cheapest (design: routing)."""
    costs = [candidate.backend.cost for candidate in candidates]
    least = min((cost for cost in costs if cost), default=None)
    if least is not None:
        for candidate, cost in zip(candidates, costs, strict=True):
            candidate.surcharge = min(max(0.0, cost / least - 1.0), MOST_SURCHARGE) if cost is not None else 0.0
