"""Routes: named policies, each with its own decision cache; and who decides where a policy cannot.

Rules:
- A message takes one route from its admission to its end. A daemon without a rollout has one route.
- A policy is never trusted with a message: where it raises, or names somebody who cannot get the message, the
  fallback decides this one message. Where it took longer than its budget, what it said is used, and the next
  `PAUSE_MESSAGES` decisions of the route are the fallback's.
- Three such faults in a row open the route's breaker: the fallback decides for `BREAKER_S`, then the policy gets one
  decision to show that it works again. A candidate's open breaker also ends its rollout (`rollout`).
- That a policy is well costs nothing per message: on probation (after a fault) its budget is below zero, so the very
  comparison that finds a slow decision brings it here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from copy import copy
from math import inf
from typing import Final

from router_daemon.core.backends import Backend
from router_daemon.core.events import Request
from router_daemon.core.ranking import Candidate, NonsenseError, Policy, Ranking, RankingCache
from router_daemon.core.tally import Tally

PAUSE_MESSAGES: Final = 100
FAULTS_IN_A_ROW: Final = 3
BREAKER_S: Final = 30.0
PROBATION: Final = -1.0
FOR_GOOD: Final = 1 << 62
FALLBACK: Final = "fallback"
"""The name of the route that stands in for others."""
REASONS: Final = ("raised", "nonsense", "paused", "breaker")
"""Why the fallback decided: the policy raised; chose whom it may not; had been slow; its breaker is open."""


class FewestOpen:
    """The fallback where none is configured: the candidate with the fewest deliveries open, the first of several.

    Here and not among the policies, since a broker is never without it.
    """

    name = "fewest_open"
    threshold = 0.0
    random_ties = False
    observe = None
    watch = None
    objection = None

    def score(self, capability: str, priority: int, backends: Sequence[Backend]) -> list[Candidate]:  # noqa: ARG002
        """Return every backend with an equal score."""
        share = 1.0 / max(1, len(backends))
        return [Candidate(backend, share, {"share": share}) for backend in backends]

    def pick(
        self,
        ranking: Ranking,
        request: Request,  # noqa: ARG002
        tried: Sequence[Backend],
        now: float,  # noqa: ARG002
    ) -> Candidate | None:
        """Return the one with the fewest open, of those with room that were not tried."""
        able = [c for c in ranking.candidates if c.backend.free > 0 and c.backend not in tried]
        return min(able, key=lambda candidate: len(candidate.backend.open), default=None)

    def peek(self, ranking: Ranking, request: Request, now: float) -> Iterable[Candidate]:  # noqa: ARG002
        """Return them by how many are open."""
        return sorted(ranking.candidates, key=lambda candidate: len(candidate.backend.open))


class Route:
    """A named policy at work.

    Attributes:
        rankings: its decision cache.
        acting: who decides: the route itself, or the one that stands in for it.
        budget_s: a decision that took longer is looked at; see the module's rules.
        tally: what came of its messages; None where there is one route only.
        faults: how often its policy raised, said nonsense, was slow; raised when told of something, or for its account.
        fallbacks: decisions of the fallback, by `REASONS`.
        quality, rated: sum of the scores of FEEDBACK and ACKs, and how many there were.
        opened_at: since when its breaker is open; None while it is not.
        news: for the shell to log and to clear: (what, route, detail).
    """

    __slots__ = (
        "_budget_s",
        "_faults_in_a_row",
        "_left",
        "_stand_in",
        "acting",
        "budget_s",
        "fallbacks",
        "faults",
        "name",
        "news",
        "opened_at",
        "policy",
        "quality",
        "rankings",
        "rated",
        "tally",
    )

    def __init__(
        self,
        name: str,
        policy: Policy,
        rankings: RankingCache,
        news: list[tuple[str, str, str]],
        *,
        budget_s: float = inf,
        stand_in: Route | None = None,
    ) -> None:
        self.name = name
        self.policy = policy
        self.rankings = rankings
        self.acting = self
        self.budget_s = self._budget_s = budget_s
        self.tally: Tally | None = None
        self.faults: Counter[str] = Counter()
        self.fallbacks = dict.fromkeys(REASONS, 0)
        self.quality = 0.0
        self.rated = 0
        self.opened_at: float | None = None
        self.news = news
        self._stand_in = stand_in
        self._faults_in_a_row = 0
        self._left = 0

    def __repr__(self) -> str:
        return f"<Route {self.name!r}: {self.policy.name}>"

    def detached(self) -> Route:
        """Return a copy whose faults count for nobody, for people to look at."""
        route = copy(self)
        route.faults, route.fallbacks, route.news = Counter(), dict.fromkeys(REASONS, 0), []
        route.tally = None
        return route

    def rate(self, score: float) -> None:
        """Take in how good an answer was, 0 to 1."""
        self.quality += score
        self.rated += 1

    def stumbled(self, fault: Exception, now: float) -> Route:
        """Note that the policy could not decide, and return the route that does.

        Raises:
            Exception: `fault`, where nobody stands in for this one.
        """
        if self._stand_in is None:
            raise fault
        reason = "nonsense" if isinstance(fault, NonsenseError) else "raised"
        self._fault(reason, f"{type(fault).__name__}: {fault}", now)
        return self._stand_in

    def fell_back(self, fault: Exception) -> None:
        """Count the message that the fallback has decided after `stumbled`."""
        self.fallbacks["nonsense" if isinstance(fault, NonsenseError) else "raised"] += 1

    def maker_of(self, ranking: Ranking) -> Route:
        """Return who made a ranking for a message of this route: the route itself, or who stands in for it."""
        if self._stand_in is None or ranking.policy is self.policy:
            return self
        return self._stand_in

    def failed_aside(self, kind: str, fault: Exception) -> None:
        """Note that the policy raised where it had nothing to decide: when told of something, or for its account."""
        self.faults[kind] += 1
        if self.faults[kind] == 1:
            self.news.append((f"route's policy {_SAID[kind]}", self.name, repr(fault)))

    def judge(self, acted: Route, seconds: float, now: float) -> None:
        """Look at a decision that was slow, on probation, or made by who stands in."""
        if acted is not self:
            self._stood_in(now)
        elif seconds > self._budget_s:
            self._left = PAUSE_MESSAGES
            self._fault("slow", f"a decision took {seconds * 1000.0:.1f} ms", now)
            if self._stand_in is not None:
                self.acting = self._stand_in
        else:
            self._faults_in_a_row = 0
            self.budget_s = self._budget_s
            if self.opened_at is not None:
                self.opened_at = None
                self.news.append(("route's breaker has closed", self.name, "its policy decides again"))

    def configure(self, policy: Policy, ttl_s: float, budget_s: float) -> None:
        """Take another policy, which is trusted anew, or go on with the same one; what was counted stays."""
        if policy is not self.policy:
            self.policy = policy
            self.close()
        self.rankings.configure(policy, ttl_s)
        self.budget_s = PROBATION if self._faults_in_a_row else budget_s
        self._budget_s = budget_s

    def retire(self) -> None:
        """Leave to who stands in what of this route's messages is still to be decided; its policy is asked no more."""
        if self._stand_in is not None:
            self.acting = self._stand_in
        self.opened_at, self._left = None, FOR_GOOD

    def close(self) -> None:
        """Trust the policy again, at a person's word."""
        self.opened_at, self._left, self._faults_in_a_row = None, 0, 0
        self.acting, self.budget_s = self, self._budget_s

    def _stood_in(self, now: float) -> None:
        """Count a decision of who stands in, and give the policy its chance when its time has come."""
        if self.opened_at is not None:
            self.fallbacks["breaker"] += 1
            if now >= self.opened_at + BREAKER_S:
                self.acting = self
        else:
            self.fallbacks["paused"] += 1
            self._left -= 1
            if self._left <= 0:
                self.acting = self

    def _fault(self, reason: str, detail: str, now: float) -> None:
        self.faults[reason] += 1
        self._faults_in_a_row += 1
        self.budget_s = PROBATION
        if self._faults_in_a_row == 1 and self.opened_at is None:
            self.news.append((f"route's policy {_SAID[reason]}", self.name, detail))
        if self._stand_in is None or self._faults_in_a_row < FAULTS_IN_A_ROW:
            return
        if self.opened_at is None:
            self.news.append(("route's breaker has opened", self.name, detail))
        self.opened_at, self.acting = now, self._stand_in


_SAID: Final = {
    "raised": "raised",
    "nonsense": "chose whom it may not",
    "slow": "was slower than its budget",
    "told": "raised when told of something",
    "account": "raised when asked what it compared",
}
