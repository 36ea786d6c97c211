"""How long a head has before it counts as timed out, and before a second one is asked; a step of who waits.

Rules (design: routing), with late = m + deviations dev, the mean and the mean deviation of the response:
- Attempt timeout: min(ttl left / (tries left + 1), max(floor, times late)) once there are enough
  samples, else the first term; all that is left for the last candidate, for all heads at once, and for what may not run
  twice. A configured timeout, for all or for the capability, replaces it.
- `first_ms` of the message is a hard limit: it holds for the last candidate, too.
- Hedge: `late` after the delivery; `service` says what stands in for it where too little is known. Of a message that is
  to find out about a backend: when the one that it would have gone to else would be late, if that is sooner.
"""

from __future__ import annotations

from typing import Final

from msgspec import UNSET

from router_daemon.core.messages import Delivery, Message
from router_daemon.core.pools import Pool
from router_daemon.core.settings import Settings

MAY_HEDGE: Final = ("auto", "hedge")


class Patience:
    """Sets limits on deliveries."""

    def __init__(self, settings: Settings) -> None:
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take over other settings; limits that were set stay."""
        self._waiting = settings.waiting
        self._samples = settings.retry.timeout_samples
        self._times = settings.retry.timeout_times
        self._floor_s = settings.retry.timeout_floor_s
        self._configured_s = settings.attempt_timeout_s
        self._by_capability_s = settings.attempt_timeouts_s
        self._configured = settings.attempt_timeout_s is not None or bool(settings.attempt_timeouts_s)

    def limit(self, message: Message, candidates: int, now: float) -> float:
        """Give the newest head its limit, the message its hedge; return when the message is to be looked at.

        Args:
            message: with one delivery just made.
            candidates: how many there are for it, tried or not.
            now: seconds.
        """
        deliveries, due = message.deliveries, message.deadline
        delivery, alone = deliveries[-1], len(deliveries) == 1
        nth = 1 if alone else len(message.tried())
        most = message.heads
        if candidates < most:
            most = candidates
        if nth < most and message.reruns:
            service = delivery.service
            timeout_s = self._configured_for(message) if self._configured else None
            if timeout_s is None:
                timeout_s = (due - now) / (most - nth + 1)
                if service.samples >= self._samples:
                    learnt_s = self._times * service.late_s
                    if learnt_s < self._floor_s:
                        learnt_s = self._floor_s
                    if learnt_s < timeout_s:
                        timeout_s = learnt_s
            limit_at = delivery.limit_at = now + timeout_s
            if limit_at < due:
                due = limit_at
            if message.copies and message.mode in MAY_HEDGE:
                late_s, notes = service.late_s, message.notes
                if notes is not None and alone and notes.late_s < late_s:
                    late_s = notes.late_s
                hedge_at = message.hedge_at = now + late_s
                if hedge_at < due:
                    due = hedge_at
        if message.request.first_ms is not UNSET:
            self._limit_first(message, delivery, now)
            due = min(due, delivery.limit_at)
        if not alone:
            due = min(due, *(other.limit_at for other in deliveries if other.out))
        return due

    def limit_all(self, message: Message, now: float) -> float:
        """Give heads that got a message at once the limit that the message itself sets; return when to look at it."""
        for delivery in message.deliveries:
            if delivery.sent_at == now:
                self._limit_first(message, delivery, now)
        return min(message.deadline, *(delivery.limit_at for delivery in message.deliveries if delivery.out))

    def step_s(self, message: Message, pool: Pool) -> float:
        """Return for how long a message waits until its standing rises; see `waiting`."""
        waiting = self._waiting
        share_s = waiting.step_share * (message.deadline - message.accepted_at)
        services_s = waiting.step_services * pool.reference_s
        return min(share_s, services_s) if services_s else share_s

    def _limit_first(self, message: Message, delivery: Delivery, now: float) -> None:
        first_ms = message.request.first_ms
        if first_ms is not UNSET and now + first_ms / 1000.0 < delivery.limit_at:
            delivery.limit_at, delivery.hard = now + first_ms / 1000.0, True

    def _configured_for(self, message: Message) -> float | None:
        return self._by_capability_s.get(message.request.capability, self._configured_s)
