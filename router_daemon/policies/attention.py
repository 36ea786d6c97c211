"""Load-aware cross-attention: the published score, with what changes within a second weighed for each message.

a_i = w_c [capability] + w_p / (1 + E_i / min E) + w_r S_i + w_m priority / 4 over the candidates with room, arg max
(design: routing; weights as published). E_i is the latency to expect at backend i now, with a penalty for failures, as
`core.service` computes it, plus cost_weight * surcharge_i * ref: the query's terms are the message's capability and
priority, keys and values are what was measured of the backends.

Rules:
- Cached are the candidates and the terms that do not change within a second, never the winner.
- Latency enters relative to the best, so that the rule discriminates for services of 2 ms and of 2 s alike.
- Of more than `scan_most` candidates, `sample` are drawn at random for each message: looking at all of 10,000 would
  cost more than it finds. Where none of those has room, all are looked at, from a random one on, until one has.
- The score is worked out only for those who are fast enough that it could be the best.
- Ties are broken at random.
- A message waits for a full backend that is better by far, rather than take the best with room: where the score would
  choose the full one at `hold_times` the latency that waiting for it comes to (`holds`): so many times, since what is
  expected of who is not free yet is less sure than a place that is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from math import fsum, inf
from random import Random

from router_daemon.core.backends import Backend
from router_daemon.core.events import Request
from router_daemon.core.ranking import PRIORITIES, Account, Candidate, Ranking, first_free
from router_daemon.core.service import LEAST_S
from router_daemon.core.settings import Settings

AT_BEST = 0.5
"""1 / (1 + E / min E) of the best candidate."""
ROUNDING = 1.0 + 1e-9


class Attention:
    """The default policy."""

    name = "attention"
    random_ties = False
    observe = None
    watch = None
    objection = None

    def __init__(self, settings: Settings, rng: Random) -> None:
        self.threshold = settings.threshold
        self._weights = weights = settings.weights
        self._performance, self._reliability = weights.performance, weights.reliability
        self._most_fixed = [
            weights.capability + weights.priority * priority / PRIORITIES for priority in range(PRIORITIES + 1)
        ]
        self._profile = settings.profile
        self._settings = settings.attention
        self._rng = rng
        self._drawn: tuple[int, Sequence[Candidate]] = 0, ()
        self._sampled: tuple[Sequence[Candidate], Sequence[Candidate]] = (), ()

    def score(self, capability: str, priority: int, backends: Sequence[Backend]) -> list[Candidate]:
        """Return every backend with its score as if it were the fastest, best first."""
        weights = self._weights
        scored = [
            self._candidate(backend, capability, priority, weights.performance * AT_BEST, backend.profile.success)
            for backend in backends
        ]
        scored.sort(key=lambda candidate: candidate.score, reverse=True)
        return scored

    def pick(self, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float) -> Candidate | None:
        """Return the best candidate with room that was not tried."""
        candidates = ranking.candidates
        if len(candidates) > self._settings.scan_most:
            candidates = self._sample(candidates, tried)
        if tried:
            candidates = [candidate for candidate in candidates if candidate.backend not in tried]
        cost = self._settings.cost_weight * ranking.pool.reference_s
        fastest, least, next_s = None, inf, inf
        for candidate in candidates:
            backend = candidate.backend
            if backend.free:
                service = candidate.service
                if service.version != backend.version or now >= service.fresh_until:  # `bring_up_to_date`, in place
                    service.refresh(now, self._profile, self._settings)
                expected_s = service.expected_s
                if cost:
                    expected_s += cost * candidate.surcharge
                if expected_s < least:
                    next_s, fastest, least = least, candidate, expected_s
                elif expected_s < next_s:
                    next_s = expected_s
        if fastest is None:
            return None
        slowest_s = inf
        if not cost:
            # Beyond that nobody can beat the fastest, not even by never failing: with score(e, S) = fixed + w_p least /
            # (least + e) + w_r S, from score(e, 1) = score(least, S of the fastest).
            success = fastest.service.success
            ahead = self._reliability * (1.0 - success) + self._most_fixed[ranking.priority] - fastest.fixed
            needed = self._performance * AT_BEST - ahead
            if needed > 0.0:
                slowest_s = least * (self._performance / needed - 1.0) * ROUNDING
            if slowest_s < next_s:  # nobody else can win
                score = fastest.fixed + self._performance * least / (least + least) + self._reliability * success
                return fastest if score > self.threshold else None
        return self._best(candidates, least, slowest_s, cost)

    def may_hold(self, ranking: Ranking, choice: Candidate) -> bool:
        """Tell, quickly, whether there may be a full backend that `holds` says yes for; of many full ones there may."""
        times, choice_s, capability = self._settings.hold_times, choice.service.expected_s, ranking.capability
        full = ranking.pool.full
        if times >= 1.0:
            if len(full) > self._settings.scan_most:
                return True
            for backend in full:
                service = backend.services.get(capability)
                if service is not None and times * service.service_s < choice_s:
                    return True
        return False

    def holds(
        self, ranking: Ranking, choice: Candidate, tried: Sequence[Backend], ahead: int, now: float
    ) -> float | None:
        """Return for how long (s) a message may wait in all for a full backend, not go to who was chosen; None: not.

        With E_f the latency to expect at a full backend f, were it sent there now, and `ahead` messages that wait for
        any of them: E = min E_f + ahead / sum(slots_f / service_f). It waits where f scores more than the choice with
        hold_times E for its latency, and for the choice's latency over hold_times in all: after that it has waited for
        as long as was hoped to be enough, whatever happens at f.
        """
        settings, candidates = self._settings, ranking.candidates
        times = settings.hold_times
        if len(candidates) > settings.scan_most:
            of, drawn = self._sampled
            candidates = list(dict.fromkeys(drawn)) if of is candidates else []
        choice_s = choice.service.expected_s
        best, least, rate = None, inf, 0.0
        for candidate in candidates:
            service, backend = candidate.service, candidate.backend
            if backend.full and service.samples and times * service.service_s < choice_s:
                service.bring_up_to_date(now, self._profile, settings)
                if times * service.expected_s < choice_s and backend not in tried:
                    rate += min(backend.info.slots, backend.limit) / max(service.service_s, LEAST_S)
                    if service.expected_s < least:
                        best, least = candidate, service.expected_s
        if best is None:
            return None
        cost = settings.cost_weight * ranking.pool.reference_s
        waiting_s = times * (least + ahead / rate) + cost * best.surcharge
        going_s = choice_s + cost * choice.surcharge
        fastest_s = min(waiting_s, going_s)
        gain = self._performance * (fastest_s / (fastest_s + waiting_s) - fastest_s / (fastest_s + going_s))
        gain += best.fixed - choice.fixed + self._reliability * (best.service.success - choice.service.success)
        return choice_s / times if gain > 0.0 else None

    def account(self, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float) -> Account:
        """Return score and terms of those whom `pick` has just looked at; nobody where it drew others since."""
        weights, candidates = self._weights, ranking.candidates
        if len(candidates) > self._settings.scan_most:
            had_tried, drawn = self._drawn
            candidates = list(dict.fromkeys(drawn)) if had_tried == len(tried) else []
        looked = [c for c in candidates if c.backend.free > 0 and c.backend not in tried]
        cost = self._settings.cost_weight * ranking.pool.reference_s
        expected_s = [c.service.expected_s + cost * c.surcharge for c in looked]
        least = min(expected_s, default=0.0)
        rows: list[tuple[Candidate, float, tuple[float, ...]]] = []
        for candidate, its_s in zip(looked, expected_s, strict=True):
            reliability = weights.reliability * candidate.service.success
            performance = weights.performance * least / (least + its_s)
            capability = weights.capability * (ranking.capability in candidate.backend.info.capabilities)
            values = capability, performance, reliability, weights.priority * ranking.priority / PRIORITIES
            rows.append((candidate, candidate.fixed + performance + reliability, values))
        return ("capability", "performance", "reliability", "priority"), rows

    def _best(self, candidates: Sequence[Candidate], least: float, slowest_s: float, cost: float) -> Candidate | None:
        """Return the arg max of the score over those with room; `least` is their shortest expected latency."""
        performance, reliability = self._performance * least, self._reliability
        best, best_score, ties = None, self.threshold, 1
        for candidate in candidates:
            service = candidate.service
            expected_s = service.expected_s
            if expected_s > slowest_s or not candidate.backend.free:
                continue
            if cost:
                expected_s += cost * candidate.surcharge
            score = candidate.fixed + performance / (least + expected_s) + reliability * service.success
            if score > best_score:
                best, best_score, ties = candidate, score, 1
            elif score == best_score and best is not None:
                ties += 1
                if self._rng.random() * ties < 1.0:
                    best = candidate
        return best

    def peek(self, ranking: Ranking, request: Request, now: float) -> Iterable[Candidate]:
        """Return copies with their live terms, best first."""
        least = inf
        cost = self._settings.cost_weight * ranking.pool.reference_s
        for candidate in ranking.candidates:
            service = candidate.service
            service.bring_up_to_date(now, self._profile, self._settings)
            if candidate.backend.free > 0:
                least = min(least, service.expected_s + cost * candidate.surcharge)
        live = []
        for candidate in ranking.candidates:
            expected_s = candidate.service.expected_s + cost * candidate.surcharge
            share = 1.0 / (1.0 + expected_s / least) if least < inf else AT_BEST
            performance = self._weights.performance * share
            success = candidate.service.success
            copy = self._candidate(candidate.backend, ranking.capability, ranking.priority, performance, success)
            copy.service, copy.surcharge = candidate.service, candidate.surcharge
            live.append(copy)
        live.sort(key=lambda candidate: candidate.score, reverse=True)
        return live

    def _candidate(
        self, backend: Backend, capability: str, priority: int, performance: float, success: float
    ) -> Candidate:
        weights = self._weights
        terms = {
            "capability": weights.capability * (capability in backend.info.capabilities),
            "performance": performance,
            "reliability": weights.reliability * success,
            "priority": weights.priority * priority / PRIORITIES,
        }
        fixed = terms["capability"] + terms["priority"]
        return Candidate(backend, fsum(terms.values()), terms, fixed=fixed)

    def _sample(self, candidates: list[Candidate], tried: Sequence[Backend]) -> list[Candidate]:
        """Return some at random; where none of them has room, the first that has from a random one on."""
        draw, count = self._rng.random, len(candidates)
        some = [candidates[int(draw() * count)] for _ in range(self._settings.sample)]
        self._drawn, self._sampled = (len(tried), some), (candidates, some)
        if any(candidate.backend.free > 0 and candidate.backend not in tried for candidate in some):
            return some
        start = int(draw() * count)
        found = first_free(chain(islice(candidates, start, None), islice(candidates, start)), tried)
        some = [] if found is None else [found]
        self._drawn = len(tried), some
        return some
