"""How long a head has before it counts as timed out, and before a second one is asked as well.

Rules (design: routing), with m and dev the mean and the mean deviation of the response:
- Attempt timeout: min(ttl left / (tries left + 1), max(floor, times (m + deviations dev))) once there are enough
  samples, else the first term; all that is left for the last candidate, for all heads at once, and for what may not run
  twice. A configured timeout, for all or for the capability, replaces it.
- `first_ms` of the message is a hard limit: it holds for the last candidate, too.
- Hedge: m + deviations dev after the delivery.
"""

from __future__ import annotations

from math import inf

from msgspec import UNSET

from router_daemon.core.messages import Delivery, Message
from router_daemon.core.ranking import Ranking
from router_daemon.core.service import Service
from router_daemon.core.settings import Settings

UNKNOWN_TIMES = 3.0
"""A backend that was never measured is hedged after so many reference latencies of the capability."""


class Patience:
    """Sets limits on deliveries."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._retry = settings.retry
        self._hedge = settings.hedge

    def set_limits(self, message: Message, ranking: Ranking, now: float) -> float:
        """Give the newest deliveries their limits, the message its hedge; return when it is to be looked at."""
        due = message.deadline
        first_ms = message.request.first_ms
        if message.fan_out:
            if first_ms is not UNSET:
                limit_at = now + first_ms / 1000.0
                for delivery in message.deliveries:
                    if delivery.sent_at == now and limit_at < delivery.limit_at:
                        delivery.limit_at, delivery.hard = limit_at, True
        else:
            delivery = message.deliveries[-1]
            candidates = len(ranking.candidates)
            nth = len(message.tried()) if len(message.deliveries) > 1 else 1
            if nth < message.heads and nth < candidates and message.reruns:
                delivery.limit_at = now + self._attempt_timeout_s(message, delivery, candidates, nth, now)
                if message.copies and message.mode in ("auto", "hedge"):
                    message.hedge_at = now + self.hedge_delay_s(delivery.service)
                    due = min(due, message.hedge_at)
            if first_ms is not UNSET and now + first_ms / 1000.0 < delivery.limit_at:
                delivery.limit_at, delivery.hard = now + first_ms / 1000.0, True
        for delivery in message.deliveries:
            if delivery.out and delivery.limit_at < due:
                due = delivery.limit_at
        return due

    def _attempt_timeout_s(self, message: Message, delivery: Delivery, candidates: int, nth: int, now: float) -> float:
        settings = self._settings
        configured_s = settings.attempt_timeouts_s.get(message.request.capability, settings.attempt_timeout_s)
        if configured_s is not None:
            return configured_s
        tries_left = min(message.heads, candidates) - nth
        timeout_s = (message.deadline - now) / (tries_left + 1)
        retry, service = self._retry, delivery.service
        if service.samples >= retry.timeout_samples:
            learnt_s = retry.timeout_times * (service.response_s + retry.timeout_deviations * service.deviation_s)
            timeout_s = min(timeout_s, max(retry.timeout_floor_s, learnt_s))
        return timeout_s

    def hedge_delay_s(self, service: Service) -> float:
        """Return after how long a second head is asked; inf while too little is known."""
        hedge = self._hedge
        if service.samples >= hedge.samples:
            return service.response_s + hedge.deviations * service.deviation_s
        if service.pool.samples >= hedge.samples:
            return UNKNOWN_TIMES * service.pool.reference_s
        return inf
