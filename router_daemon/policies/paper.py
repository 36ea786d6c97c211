"""The cross-attention router's rule as published, and the same without its reliability term.

score(m, s) = w_c [capability in s] + w_p / (1 + latency_ms) + w_r success_ratio + w_m priority / 4
with (w_c, w_p, w_r, w_m) = (0.4, 0.3, 0.2, 0.1); rank, take the best `heads` over the threshold 0.3
(B. J. Gilbert, "Cross-attention routing between heterogeneous systems"). The paper leaves the form of the priority term
open; priority / 4 is ours. Latency and success are the profile's moving averages; before the first measurement its
cold-start values. Ties are broken at random when a
ranking is made, or equal backends would never share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from router_daemon.core.backends import Backend
from router_daemon.core.events import Request
from router_daemon.core.ranking import PRIORITIES, Candidate, Ranking, first_free
from router_daemon.core.settings import Weights


class Paper:
    """The published rule: one ranking for all messages of a capability and priority."""

    random_ties = True
    observe = None
    watch = None
    objection = None

    def __init__(self, name: str, weights: Weights, threshold: float) -> None:
        self.name = name
        self.threshold = threshold
        self._weights = weights

    def score(self, capability: str, priority: int, backends: Sequence[Backend]) -> list[Candidate]:
        """Return every backend with its score, best first."""
        scored = [self._candidate(capability, priority, backend) for backend in backends]
        scored.sort(key=lambda candidate: candidate.score, reverse=True)
        return scored

    def pick(self, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float) -> Candidate | None:
        """Return the first in rank with room."""
        if tried:
            return first_free(ranking.candidates, tried)
        for candidate in ranking.candidates:
            if candidate.backend.free > 0:
                return candidate
        return None

    def peek(self, ranking: Ranking, request: Request, now: float) -> Iterable[Candidate]:
        """Return them as ranked."""
        return ranking.candidates

    def _candidate(self, capability: str, priority: int, backend: Backend) -> Candidate:
        weights, profile = self._weights, backend.profile
        terms = {
            "capability": weights.capability * (capability in backend.info.capabilities),
            "performance": weights.performance / (1.0 + profile.latency_s * 1000.0),
            "reliability": weights.reliability * profile.success,
            "priority": weights.priority * priority / PRIORITIES,
        }
        return Candidate(backend, math.fsum(terms.values()), terms)
