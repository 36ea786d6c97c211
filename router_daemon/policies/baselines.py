"""What the published rule is compared with: round robin and a uniform choice (cross-attention paper, Table I).

Both take only what `require_capability` lets through. The paper's `rr` ignores capability: switch
`require_capability` off for that. `cap-only` is uniform among the capable, whatever the switch says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from random import Random

from router_daemon.core.backends import Backend
from router_daemon.core.events import Request
from router_daemon.core.ranking import MAX_ENTRIES, Candidate, Ranking, first_free

DRAWS = 3


class RoundRobin:
    """Each message of a capability starts one further along the list of candidates."""

    name = "round_robin"
    threshold = 0.0
    random_ties = False
    observe = None
    watch = None
    objection = None

    def __init__(self) -> None:
        self._turns: dict[str, int] = {}

    def score(self, capability: str, priority: int, backends: Sequence[Backend]) -> list[Candidate]:
        """Return every backend with an equal score."""
        share = 1.0 / max(1, len(backends))
        return [Candidate(backend, share, {"turn": share}) for backend in backends]

    def pick(self, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float) -> Candidate | None:
        """Try them from the next one on; further heads of the same message go on from there."""
        if len(self._turns) >= MAX_ENTRIES:
            self._turns.clear()
        turn = self._turns.get(ranking.capability, 0)
        if not tried:
            self._turns[ranking.capability] = turn + 1
        return first_free(_from(turn, ranking.candidates), tried)

    def peek(self, ranking: Ranking, request: Request, now: float) -> Iterable[Candidate]:
        """Return them from the one whose turn it is."""
        return _from(self._turns.get(ranking.capability, 0), ranking.candidates)


def _from(turn: int, candidates: list[Candidate]) -> Iterable[Candidate]:
    start = turn % max(1, len(candidates))
    return chain(islice(candidates, start, None), islice(candidates, start))


class CapabilityOnly:
    """Uniform among the capable."""

    name = "capability_only"
    threshold = 0.0
    random_ties = False
    observe = None
    watch = None
    objection = None

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def score(self, capability: str, priority: int, backends: Sequence[Backend]) -> list[Candidate]:
        """Return the capable with 1, the others with 0."""
        able = [capability in backend.info.capabilities for backend in backends]
        scored = [
            Candidate(backend, float(yes), {"capability": float(yes)})
            for backend, yes in zip(backends, able, strict=True)
        ]
        scored.sort(key=lambda candidate: candidate.score, reverse=True)
        return scored

    def pick(self, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float) -> Candidate | None:
        """Return any with room: a few are drawn, and where they are full, one of those that are not."""
        candidates = ranking.candidates
        for _ in range(DRAWS if candidates else 0):
            candidate = candidates[self._rng.randrange(len(candidates))]
            if candidate.backend.free > 0 and candidate.backend not in tried:
                return candidate
        open_ones = [c for c in candidates if c.backend.free > 0 and c.backend not in tried]
        return open_ones[self._rng.randrange(len(open_ones))] if open_ones else None

    def peek(self, ranking: Ranking, request: Request, now: float) -> Iterable[Candidate]:
        """Return all that are capable: which of them is left to chance."""
        return ranking.candidates
