"""Places at backends: a delivery takes one, holds it until it is answered or lost, and gives it back once.

Rules:
- A delivery leaves its backend exactly once, in `Backend.release`. A CANCEL frees nothing: the backend still answers.
- A place that nobody can be waiting for any more is looked at again long after its message's deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import floor
from random import Random
from typing import Final

from router_daemon.core.actions import Action, CancelDelivery, CancelDeliveryHeader, Deliver, DeliverHeader
from router_daemon.core.backends import Backend
from router_daemon.core.messages import Delivery, Message
from router_daemon.core.ranking import Candidate
from router_daemon.core.service import Service
from router_daemon.core.settings import Settings
from router_daemon.core.timers import Timers

LOST_AFTER_HEARTBEATS: Final = 3


class Places:
    """Opens and closes deliveries; `emit` takes the actions."""

    def __init__(
        self, settings: Settings, timers: Timers, emit: Callable[[Action], None], rng: Random, first_delivery_id: int
    ) -> None:
        self.configure(settings)
        self._timers = timers
        self._emit = emit
        self._rng = rng
        self._next_id = first_delivery_id

    def configure(self, settings: Settings) -> None:
        """Take over other settings."""
        self._settings = settings

    def deliver(self, message: Message, chosen: Sequence[Candidate], now: float) -> None:
        """Send a message to these backends."""
        request, deliveries, emit = message.request, message.deliveries, self._emit
        ttl_ms = floor((message.deadline - now) * 1000.0) or 1  # what is left is positive: see `overdue`
        attempt, count = len(deliveries), len(chosen)
        heads = attempt + count
        if message.stamp is not None:
            attempt, heads = message.stamp
        if count > 1:
            message.fan_out = True
        for candidate in chosen:
            attempt += 1
            number = self._next_id
            self._next_id = number + 1
            backend, service = candidate.backend, candidate.service
            share = 1.0
            held, slots, elsewhere = len(backend.open), backend.info.slots, backend.other
            if held >= slots or (elsewhere and held + elsewhere + 1.0 > slots):
                share = self._share_of_work(service, now)
            delivery = Delivery(number, message, backend, attempt, now, service, service.service_s, share)
            service.used_at = now
            backend.take(delivery, now)
            if backend.ejected:
                delivery.trial = delivery.complete = True  # it is to decide something, whoever answers first
                backend.on_trial()
            elif not deliveries and count == 1 and message.notes is not None and message.notes.risked:
                delivery.complete = True  # it is to be measured
            deliveries.append(delivery)
            header = DeliverHeader(
                number,
                message.name,
                request.capability,
                request.priority,
                ttl_ms,
                attempt,
                attempt,
                heads,
                request.embedding,
                request.traceparent,
                request.tracestate,
            )
            emit(Deliver(backend.peer, backend.delimited, header, message.body))
        message.out += count
        if message.fan_out and message.mode == "auto":
            self._spare_losers(deliveries)

    def _share_of_work(self, service: Service, now: float) -> float:
        """Return how much of the latency to expect, for a delivery sent now, is not waiting."""
        service.bring_up_to_date(now, self._settings.profile, self._settings.attention)
        return service.share

    def _spare_losers(self, deliveries: list[Delivery]) -> None:
        """Let some losers of a fan-out finish: one in so many, and all of whom little is known."""
        everybody = self._rng.random() < self._settings.exploration.complete_share
        for delivery in deliveries:
            delivery.complete = delivery.trial or everybody or delivery.service.samples < self._settings.hedge.samples

    def close(self, delivery: Delivery, now: float) -> None:
        """Free the delivery's place at its backend."""
        delivery.backend.release(delivery, now)
        if delivery.bucket is not None:
            self.unwatch(delivery)

    def unwatch(self, delivery: Delivery) -> None:
        """Take back `watch_place`: the place is free."""
        self._timers.cancel(delivery)

    def cancel(self, delivery: Delivery, now: float) -> None:
        """Tell a backend that the answer is not wanted any more; its place stays taken until it answers."""
        if delivery.open and not delivery.cancelled:
            delivery.cancelled = True
            backend = delivery.backend
            self._emit(CancelDelivery(backend.peer, backend.delimited, CancelDeliveryHeader(delivery.id)))
            self.watch_place(delivery, now)

    def watch_place(self, delivery: Delivery, now: float) -> None:
        """Look at a place again when nobody can be waiting for its answer any more."""
        grace_s = LOST_AFTER_HEARTBEATS * self._settings.heartbeat_s
        self._timers.schedule(delivery, delivery.message.deadline + grace_s, now)

    def pause(self, backend: Backend, pause_s: float, now: float) -> None:
        """Send nothing to a backend for a while."""
        backend.paused_until = max(backend.paused_until, now + pause_s)
        backend.refresh(now)
        self.watch(backend, now)

    def watch(self, backend: Backend, now: float) -> None:
        """Look at a backend again when its silence would be too long, or when its pause or its ejection ends."""
        due = backend.last_seen + LOST_AFTER_HEARTBEATS * self._settings.heartbeat_s
        if backend.paused_until > now:
            due = min(due, backend.paused_until)
        if backend.ejected and backend.readmit_at > now:
            due = min(due, backend.readmit_at)
        self._timers.schedule(backend, due, now)
