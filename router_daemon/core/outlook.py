"""What one kind of message would meet now: who would get it, in which mode, and why others would not.

Rules:
- Asked are the rooms that decide (`choosing`, `dispatch`), with a message that nobody sent and a ranking
  that nobody else holds: what is said here is what would be done. Nothing is counted, drawn or changed.
- Reasons are sentences with their numbers in them, for whoever asks "why not that one?".
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from router_daemon.core.backends import Backend
from router_daemon.core.choosing import may_spread, surely_idle
from router_daemon.core.events import Request
from router_daemon.core.pools import Pool
from router_daemon.core.ranking import Candidate, Ranking
from router_daemon.core.routes import Route
from router_daemon.core.waiting import CRITICAL

if TYPE_CHECKING:
    from router_daemon.core.broker import Broker


SLOWER: Final = "a full backend is faster by far: messages wait for that (attention.hold_times)"
WAITS: Final = "a full backend is faster by far than those with room"


class Outlook:
    """One look at one kind of message.

    Args:
        broker: asked, not changed.
        request: what a client would ask for.
        route: that the message would take.
        ranking: detached, the one in force or what would be.
        now: seconds.

    Attributes:
        rows: every backend that was scored, in the order in which the next message prefers them.
        heads: name -> place, of those that would be sent to or tried next as things stand.
        total: sum of the scores of the candidates.
    """

    def __init__(self, broker: Broker, request: Request, route: Route, ranking: Ranking, now: float) -> None:
        self._broker = broker
        self._request = request
        self._ranking = ranking
        self._now = now
        self._chooser = broker.dispatcher.chooser
        self._message, self._refusal = broker.probe(request, now)
        self._message.route = route.detached()
        live = list(ranking.policy.peek(ranking, request, now))
        self._candidates = {candidate.backend.name for candidate in live}
        self.total = sum(candidate.score for candidate in live)
        self.rows = live + [c for c in ranking.scored if c.backend.name not in self._candidates]
        able = self._chooser.affordable(self._message, ranking).candidates
        self._affordable = {candidate.backend.name for candidate in able}
        pool = ranking.pool
        self._reserved_left = request.priority != CRITICAL and 0 < pool.free <= pool.reserved
        with_room = [c for c in live if c.backend.free > 0 and c.backend.name in self._affordable]
        self._objection = self._chooser.objection(self._message, ranking, now)
        self._preferred = [] if self._reserved_left or self._objection is not None else with_room
        self._explore_due = pool.messages >= pool.explore_from
        self._risked = self._risk()
        self._limit = inf
        self._held = self._is_held()
        self.heads = {} if self._held else self._choose()

    def _risk(self) -> Candidate | None:
        """Return who would get the message to be found out about, before anybody is chosen by rank."""
        if not self._preferred or not self._chooser.may_risk(self._message):
            return None
        return self._chooser.risk(self._ranking, self._preferred[0], self._now)

    def _is_held(self) -> bool:
        if not self._preferred or self._risked is not None or not self._ranking.pool.full:
            return False
        holding = self._broker.dispatcher.holding
        return holding.left_s(self._message, self._ranking, self._preferred[0], self._now) is not None

    def _choose(self) -> dict[str, int]:
        chosen = list(self._preferred)
        if self._risked is not None:
            name = self._risked.backend.name
            chosen = [self._risked, *(c for c in chosen if c.backend.name != name)]
        if chosen and self._ranking.pool.costly:
            self._limit = self._chooser.most_for_more(chosen[0].backend)
        chosen = [c for n, c in enumerate(chosen) if n == 0 or (c.backend.cost or 0.0) <= self._limit]
        return {c.backend.name: place for place, c in enumerate(chosen[: self._message.heads], 1)}

    # --- of one backend ---

    def reason(self, candidate: Candidate) -> str:
        """Return why a backend would get the message, or why it is passed over."""
        backend = candidate.backend
        place = self.heads.get(backend.name)
        if place is not None:
            return f"head {place} {self._merit(candidate)}"
        if backend.name not in self._candidates:
            return f"score not over the threshold of {self._ranking.policy.threshold:g}"
        if self._objection is not None:
            return f"the policy refuses the message: {self._objection[1]}"
        return self._obstacle(backend) or (SLOWER if self._held else "others rank higher")

    def _merit(self, candidate: Candidate) -> str:
        if self._risked is None or candidate.backend is not self._risked.backend:
            settings = self._broker.settings.attention
            sampled = self._ranking.policy.name == "attention" and len(self._candidates) > settings.scan_most
            return f"by rank, where it is among {settings.sample} drawn at random" if sampled else "by rank"
        if candidate.backend.ejected:
            return "on trial: its ejection is over"
        return f"to explore: unused for {self._now - candidate.service.used_at:.1f} s"

    def _obstacle(self, backend: Backend) -> str | None:
        now = self._now
        if not backend.connected:
            return "disconnected: its session may come back"
        if backend.ejected:
            times = f"{backend.ejections} in a row" if backend.ejections > 1 else "the first"
            if backend.readmit_at > now:
                return f"ejected for another {backend.readmit_at - now:.2f} s ({times})"
            return f"ejected ({times}): a message on trial decides"
        if now < backend.paused_until:
            return f"paused for another {backend.paused_until - now:.2f} s: it was busy"
        if backend.name not in self._affordable:
            return f"costs {backend.cost:g}, more than max_cost"
        if backend.free <= 0:
            if backend.window is not None and backend.window < backend.places:
                return f"slow start: {backend.window} of its {backend.places} places for now"
            return "all its places are taken"
        if self._reserved_left:
            return "the places left are for critical messages"
        if backend.cost is not None and backend.cost > self._limit:
            return f"dearer than {self._broker.settings.extra_cost_ratio:g} times the first"
        return None

    # --- of all together ---

    def error(self) -> dict[str, str] | None:
        """Return what a message would be answered because nobody may get it."""
        if self._affordable:
            return None if self._objection is None else dict(zip(("code", "detail"), self._objection, strict=True))
        if not self._broker.registry.was_offered(self._request.capability):
            return {"code": "no_capability", "detail": "no backend has offered it since the start"}
        if self._candidates:
            return {"code": "no_backend", "detail": "every backend that offers it costs more than max_cost"}
        if self.rows:
            return {"code": "no_backend", "detail": "no backend that offers it scores over the threshold"}
        return {"code": "no_backend", "detail": "no registered backend that is not draining offers it"}

    def admission(self) -> dict[str, Any]:
        """Return whether a message would be sent at once, wait or be refused, and how long the wait would be."""
        wait_s, too_long = self._broker.dispatcher.forecast(self._message, self._ranking, self._now)
        would, why = self._admission(too_long)
        ttl_ms = (self._message.deadline - self._now) * 1000.0
        wait_ms = 0.0 if self.heads else wait_s * 1000.0
        return {"would": would, "why": why, "predicted_wait_ms": wait_ms, "ttl_ms": ttl_ms}

    def _admission(self, too_long: bool) -> tuple[str, str]:
        error = self.error()
        if self._refusal is not None:
            return "refuse", self._refusal[1]
        if error is not None:
            return "refuse", error["detail"]
        if self.heads:
            return "send", "there is room"
        if too_long:
            return "refuse", "every backend is full, and the wait would be too long"
        if self._broker.dispatcher.waiting.displaced_by(self._message) is None:
            return "refuse", "every backend is full and the waiting room too"
        return "wait", WAITS if self._held else "every backend is full"

    def auto(self) -> dict[str, Any]:
        """Return what mode auto would do with it now, why, and after how long a hedge would leave."""
        if not self._affordable or self._objection is not None:
            return {"would": None, "why": "nobody may get it", "hedge_delay_ms": None}
        pool, message = self._ranking.pool, self._message
        alone = self._why_alone()
        if alone is not None:
            return {"would": "single", "why": alone, "hedge_delay_ms": None}
        busy = f"{pool.busy:.3g} of {pool.slots} slots busy"
        idle = f"{self._broker.settings.auto_idle:.0%}"
        if not self.heads:
            why = WAITS if self._held else "no place is free"
            return {"would": "single", "why": f"{busy}, and {why}", "hedge_delay_ms": None}
        if self._chooser.is_idle(pool) and may_spread(message, pool) and self._risked is None and len(self.heads) > 1:
            return {"would": "fanout", "why": f"{busy}, under {idle}: all heads at once", "hedge_delay_ms": None}
        why = f"{busy}, not under {idle}"
        if self._chooser.is_idle(pool):
            why = f"{busy}, but {self._why_not_all(pool)}"
        delay_ms, no_hedge = self._hedge()
        if no_hedge is not None:
            return {"would": "single", "why": f"{why}; no hedge: {no_hedge}", "hedge_delay_ms": delay_ms}
        return {"would": "hedge", "why": f"{why}; a second head after {delay_ms:.3g} ms", "hedge_delay_ms": delay_ms}

    def _why_not_all(self, pool: Pool) -> str:
        if pool.costly:
            return "backends say what they cost"
        return "only one has room" if self._risked is None else "one backend is to be found out about"

    def _why_alone(self) -> str | None:
        """Return why there is one head at most, whatever the load."""
        settings, message = self._broker.settings, self._message
        if message.heads < 2:
            return "one head: routing.heads is 1"
        if len(self._affordable) < 2:
            return "only one backend may get it"
        if not message.copies:
            return f'not idempotent unless it says so (unsaid_idempotent = "{settings.unsaid_idempotent}")'
        return None

    def _hedge(self) -> tuple[float | None, str | None]:
        """Return after how many milliseconds a hedge would leave, and what stands against it."""
        pool, settings = self._ranking.pool, self._broker.settings.hedge
        first = next((c for c in self.rows if self.heads.get(c.backend.name) == 1), self.rows[0])
        delay_s = first.service.late_s
        obstacle = self._chooser.hedge_obstacle(pool, self._now)
        if self._risked is not None:  # as it would be late where the message would have gone else, and in any case
            delay_s = min(delay_s, self._preferred[0].service.late_s)
            obstacle = obstacle if obstacle == "off" else None
        if delay_s == inf:
            return None, f"fewer than {settings.samples} answers are known"
        words = {
            "off": "hedge.share is 0",
            "load": f"{pool.busy:.3g} of {pool.slots} slots busy, not under {settings.load_below:.0%}",
            "budget": f"{pool.hedges.tokens:.2f} in the budget, and one takes 1",
            "trouble": f"{pool.trouble_share(self._now):.0%} of messages had a retry or a timeout",
        }
        if obstacle is None and not any(self._may_be_second(c, first) for c in self.rows):
            return delay_s * 1000.0, "no second backend is idle"
        return delay_s * 1000.0, words.get(obstacle or "")

    def _may_be_second(self, candidate: Candidate, first: Candidate) -> bool:
        backend = candidate.backend
        return (
            backend is not first.backend
            and backend.free > 0
            and backend.name in self._affordable
            and not ((backend.cost or 0.0) > self._limit)
            and surely_idle(candidate)
        )

    def pool(self) -> dict[str, Any]:
        """Return the sums, the budgets and the reference of the capability."""
        pool, now, request = self._ranking.pool, self._now, self._request
        retry, hedge = self._broker.settings.retry, self._broker.settings.hedge
        waiting = self._broker.dispatcher.waiting
        ahead = [waiting.ahead(request.capability, priority) for priority in range(1, CRITICAL + 2)]
        return {
            "reference_ms": pool.reference_s * 1000.0 if pool.samples else None,
            "samples": pool.samples,
            "members": len(pool.members),
            "slots": pool.slots,
            "places": pool.places,
            "busy": max(0.0, pool.busy),
            "load": max(0.0, pool.busy) / pool.slots if pool.slots else None,
            "free": pool.free,
            "reserved": pool.reserved,
            "warm_slots": pool.warm,
            "say_cost": pool.costly,
            "ejected": pool.ejected,
            "budgets": {
                "retry": {"tokens": pool.retries.peek(pool.messages, now), "most": retry.most},
                "hedge": {"tokens": pool.hedges.peek(pool.messages, now), "most": hedge.most},
            },
            "trouble_share": pool.trouble_share(self._now),
            "explore_due": self._explore_due,
            "trials": [backend.name for backend in pool.trials],
            "waiting": {str(p): ahead[p - 1] - ahead[p] for p in range(1, CRITICAL + 1)},
            "completions_per_s": pool.rate(now, self._broker.settings.waiting.rate_window_s),
            "max_cost": None if request.max_cost is UNSET else request.max_cost,
        }
