"""From an admitted message to its one last answer: choose heads, deliver, try the next, wait, end.

Rules:
- A message ends exactly once, in `end`; a delivery leaves its backend exactly once, in `close`.
- After a head has failed, the next permitted one is tried when none is out; where all are full the message waits;
  where none is left it fails. A NACK `busy` and a DELIVER that never left are outside that count.
- What a backend's answer or the clock does to a delivery is `settle`'s affair; it calls back here to go on.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from msgspec import UNSET

from router_daemon.core.actions import (
    Accept,
    AcceptHeader,
    Action,
    CancelDelivery,
    CancelDeliveryHeader,
    Deliver,
    DeliverHeader,
    Error,
    ErrorHeader,
)
from router_daemon.core.counts import MOST_HEADS, Counts
from router_daemon.core.messages import Delivery, Message
from router_daemon.core.ranking import Policy, Ranking, RankingCache
from router_daemon.core.registry import Backend, Registry
from router_daemon.core.settings import Settings
from router_daemon.core.timers import Timers
from router_daemon.core.waiting import WaitingRoom
from router_daemon.errors import RETRY

LOST_AFTER_HEARTBEATS: Final = 3

_REFUSALS: Final = {
    "no_capability": "no backend has ever offered it",
    "no_backend": "no backend offers it now",
    "overloaded": "every backend is full and the waiting room too",
}


class Dispatcher:
    """The life of open messages; `emit` takes the actions, `timer` (seconds) measures decisions."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        rankings: RankingCache,
        policy: Policy,
        timers: Timers,
        counts: Counts,
        emit: Callable[[Action], None],
        timer: Callable[[], float],
        first_delivery_id: int,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._rankings = rankings
        self._policy = policy
        self._timers = timers
        self._counts = counts
        self._emit = emit
        self._timer = timer
        self._next_id = first_delivery_id
        self.messages: dict[Message, None] = {}
        self.waiting = WaitingRoom(settings.queue_messages, settings.queue_bytes)

    # --- from a message to its heads ---

    def submit(self, message: Message, now: float) -> None:
        """Open an admitted message: send it, let it wait, or refuse it."""
        ranking, chosen = self._decide(message, now)
        message.counts = ranking.counts
        if not chosen and (code := self._wait(message, ranking)) is not None:
            self.refuse(message, code, f"{message.request.capability}: {_REFUSALS[code]}")
            return
        self.messages[message] = None
        request = message.request
        if request.reply == "none":
            header = AcceptHeader(request.id, message.name, last=True)
            self._emit(Accept(message.client.peer, message.delimited, header))
        else:
            message.client.open[request.id] = message
        if chosen:
            self._deliver(message, ranking, chosen, now)
        else:
            self._timers.schedule(message, message.deadline, now)

    def refuse(self, message: Message, code: str, detail: str) -> None:
        """Answer a message that is not opened."""
        message.counts.outcomes[code] += 1
        header = ErrorHeader(message.request.id, code, detail, retry=RETRY[code], last=True, message=message.name)
        self._emit(Error(message.client.peer, message.delimited, header))

    def try_next(self, message: Message, now: float) -> None:
        """No head is out any more: send to the next permitted one, let the message wait for it, or fail."""
        if message.rejected:
            self.fail(message, "rejected", now)
            return
        if self.overdue(message, now):
            return
        if message.spent or len(message.tried()) >= message.heads:
            self.fail(message, "failed", now)
            return
        ranking, chosen = self._decide(message, now)
        if chosen:
            self._deliver(message, ranking, chosen, now)
        elif (code := self._wait(message, ranking)) is not None:
            self.fail(message, code, now)
        else:
            self.arm(message, now)

    def has_alternative(self, message: Message, now: float) -> bool:
        """Tell whether there is a candidate that the message has not been sent to."""
        ranking = self._rankings.get(message.request.capability, message.request.priority, now)
        tried = message.tried()
        return any(candidate.backend.name not in tried for candidate in ranking.candidates)

    def _decide(self, message: Message, now: float) -> tuple[Ranking, list[Backend]]:
        """Return the ranking in force and the heads to send to now, timed as one decision."""
        started = self._timer()
        cache = self._rankings
        hits = cache.hits
        ranking = cache.get(message.request.capability, message.request.priority, now)
        chosen = self._choose(message, ranking)
        histogram = self._counts.decision_miss if cache.hits == hits else self._counts.decision_hit
        histogram.observe(self._timer() - started)
        return ranking, chosen

    def _choose(self, message: Message, ranking: Ranking) -> list[Backend]:
        """Return untried candidates with room, as many as may get the message at once."""
        if not message.fan_out and not message.deliveries:  # the common case: one head, the first with room
            for candidate in self._policy.order(ranking):
                if len(candidate.backend.open) < candidate.backend.limit:
                    return [candidate.backend]
            return []
        tried = message.tried()
        count = message.heads - len(tried) if message.fan_out else 1
        chosen: list[Backend] = []
        for candidate in self._policy.order(ranking):
            backend = candidate.backend
            if len(backend.open) < backend.limit and backend.info.name not in tried:
                chosen.append(backend)
                if len(chosen) == count:
                    break
        return chosen

    def _wait(self, message: Message, ranking: Ranking) -> str | None:
        """Nobody has room: let the message wait and return None, or return the code of why it cannot."""
        tried = message.tried()
        if all(candidate.backend.name in tried for candidate in ranking.candidates):
            if message.deliveries:
                return "failed"
            return "no_backend" if self._registry.was_offered(message.request.capability) else "no_capability"
        return None if self.waiting.add(message) else "overloaded"

    def _deliver(self, message: Message, ranking: Ranking, backends: list[Backend], now: float) -> None:
        request, deliveries = message.request, message.deliveries
        ttl_ms = int((message.deadline - now) * 1000.0) or 1  # what is left is positive: see `overdue`
        heads = len(deliveries) + len(backends)
        due = message.deadline
        patient = message.fan_out and request.first_ms is UNSET
        for backend in backends:
            attempt = len(deliveries) + 1
            delivery = Delivery(self._next_id, message, backend, attempt, now)
            self._next_id += 1
            if not patient:
                self._limit(delivery, len(ranking.candidates), now)
                if delivery.limit_at < due:
                    due = delivery.limit_at
            deliveries.append(delivery)
            backend.open[delivery.id] = delivery
            header = DeliverHeader(
                delivery.id,
                message.name,
                request.capability,
                request.priority,
                ttl_ms,
                attempt,
                attempt,
                heads,
                request.embedding,
                request.traceparent,
            )
            self._emit(Deliver(backend.peer, backend.delimited, header, message.body))
        message.out += len(backends)
        self._timers.schedule(message, due, now)

    def _limit(self, delivery: Delivery, candidates: int, now: float) -> None:
        """Set when this head counts as timed out: all that is left for the last one that may be tried."""
        message = delivery.message
        nth = len(message.tried()) + 1 if message.deliveries else 1
        if nth < message.heads and nth < candidates and message.reruns and not message.fan_out:
            timeout_s = self._settings.attempt_timeout_s
            delivery.limit_at = now + (0.5 * (message.deadline - now) if timeout_s is None else timeout_s)
        first_ms = message.request.first_ms
        if first_ms is not UNSET and now + first_ms / 1000.0 < delivery.limit_at:
            delivery.limit_at = now + first_ms / 1000.0
            delivery.hard = True

    def overdue(self, message: Message, now: float) -> bool:
        """End a message whose time is up, though its timer has not rung yet, and tell whether it was so."""
        if now < message.deadline:
            return False
        message.reason = "; ".join(filter(None, ("the time is up", message.reason)))
        self.fail(message, "expired", now)
        return True

    def arm(self, message: Message, now: float) -> None:
        """Wake up for a message when its next head counts as timed out, or at its deadline."""
        due = min((delivery.limit_at for delivery in message.deliveries if delivery.out), default=inf)
        self._timers.schedule(message, min(due, message.deadline), now)

    # --- places ---

    def close(self, delivery: Delivery) -> None:
        """Free the delivery's place at its backend."""
        delivery.open = False
        del delivery.backend.open[delivery.id]
        if delivery.bucket is not None:
            self._timers.cancel(delivery)

    def cancel(self, delivery: Delivery, now: float) -> None:
        """Tell a backend that the answer is not wanted any more; its place stays taken until it answers."""
        if delivery.open and not delivery.cancelled:
            delivery.cancelled = True
            backend = delivery.backend
            self._emit(CancelDelivery(backend.peer, backend.delimited, CancelDeliveryHeader(delivery.id)))
            grace_s = LOST_AFTER_HEARTBEATS * self._settings.heartbeat_s
            self._timers.schedule(delivery, delivery.message.deadline + grace_s, now)

    def serve(self, backend: Backend, now: float) -> None:
        """Give the room that a backend has to those who wait, oldest first."""
        capabilities = backend.info.capabilities if self._settings.require_capability else None
        placed = True
        while placed and self.waiting.size and len(backend.open) < backend.limit:
            placed = False
            for message in self.waiting.next_for(capabilities):
                if self.overdue(message, now):
                    placed = True
                    break
                ranking, chosen = self._decide(message, now)
                if chosen:
                    self.waiting.remove(message)
                    self._deliver(message, ranking, chosen, now)
                    placed = True
                    break

    def pause(self, backend: Backend, pause_s: float, now: float) -> None:
        """Send nothing to a backend for a while."""
        backend.paused_until = max(backend.paused_until, now + pause_s)
        backend.refresh(now)
        self.watch(backend, now)

    def watch(self, backend: Backend, now: float) -> None:
        """Look at a backend again when its silence would be too long, or when its pause ends."""
        due = backend.last_seen + LOST_AFTER_HEARTBEATS * self._settings.heartbeat_s
        if backend.paused_until > now:
            due = min(due, backend.paused_until)
        self._timers.schedule(backend, due, now)

    def give_up_hopeless(self, now: float) -> None:
        """Fail those who wait for backends that are not there any more."""
        if not self.waiting.size:
            return
        for (capability, priority, fresh), messages in self.waiting.lines():
            ranking = self._rankings.get(capability, priority, now)
            if fresh and ranking.candidates:
                continue
            names = {candidate.backend.name for candidate in ranking.candidates}
            for message in messages:
                if names.issubset(message.tried()):
                    message.reason = message.reason or f"{capability}: {_REFUSALS['no_backend']}"
                    self.fail(message, "failed" if message.deliveries else "no_backend", now)

    # --- ends ---

    def fail(self, message: Message, code: str, now: float) -> None:
        """End a message with an ERROR that names the reason last noted."""
        if message.request.reply != "none":
            retry = message.retry() if code in ("failed", "expired") else RETRY[code]
            detail = message.reason or code
            header = ErrorHeader(message.request.id, code, detail, retry=retry, last=True, message=message.name)
            self._emit(Error(message.client.peer, message.delimited, header))
        self.end(message, code, now)

    def end(self, message: Message, outcome: str, now: float) -> None:
        """Close a message's books: nothing of it is answered after this."""
        message.ended = True
        del self.messages[message]
        self._timers.cancel(message)
        if message.line is not None:
            self.waiting.remove(message)
        message.body = ()
        message.out = 0
        if message.request.reply != "none":
            del message.client.open[message.request.id]
        for delivery in message.deliveries:
            delivery.out = False
            if delivery.open:
                self.cancel(delivery, now)
        message.counts.outcomes[outcome] += 1
        message.counts.message_seconds.observe(now - message.accepted_at)
        self._counts.heads[min(len(message.deliveries), MOST_HEADS)] += 1
        message.deliveries.clear()  # each holds its message: a cycle that only the collector would free
