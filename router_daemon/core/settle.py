"""What a backend's answer, its loss, or the clock does to a delivery and to the message behind it.

Rules:
- A delivery's outcome is counted exactly once: `blame` where the backend is at fault, `count` where it is not.
- Latency ends at the ACK, of a stream at its first PART. A timed-out head was blamed and got a CANCEL, but keeps its
  place and may still answer first.
- With `reply` other than `all` the first head to send a PART is the answering one: the others are cancelled, and its
  failure is the message's.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from msgspec import UNSET

from router_daemon.core.actions import Action, Error, ErrorHeader, Piece, PieceHeader, Reply, ReplyHeader
from router_daemon.core.backends import Backend
from router_daemon.core.counts import MOST_NOTED, Counts
from router_daemon.core.dispatch import Dispatcher
from router_daemon.core.events import NackHeader
from router_daemon.core.messages import Delivery, Fate, Message
from router_daemon.core.ranking import Observer
from router_daemon.core.service import Learning
from router_daemon.core.serving import Serving
from router_daemon.core.types import Body

FULL_PIPE_PAUSE_S: Final = 0.1
REASON_CHARS: Final = 256


class Settler:
    """Settles deliveries and hands their messages back to the dispatcher."""

    def __init__(
        self,
        learning: Learning,
        dispatcher: Dispatcher,
        serving: Serving,
        observe: Observer | None,
        counts: Counts,
        emit: Callable[[Action], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._serving = serving
        self._places = dispatcher.places
        self._health = dispatcher.health
        self._counts = counts
        self._emit = emit
        self._learning = learning
        self.configure(observe)

    def configure(self, observe: Observer | None) -> None:
        """Take over who is told of outcomes, and what the recorder of decisions calls slow."""
        self._observe = observe
        self._slow_s = self._dispatcher.decisions.slow_s
        self._slow_times = self._dispatcher.decisions.slow_times

    # --- what backends answer ---

    def acked(self, delivery: Delivery, body: Body, now: float) -> None:
        """Settle a delivery that succeeded; the first success answers."""
        backend, message = delivery.backend, delivery.message
        began = delivery.first_part_at
        latency_s = (now if began is None else began) - delivery.sent_at
        backend.release(delivery, now)  # `Places.close`, without the call
        if delivery.bucket is not None:
            self._places.unwatch(delivery)
        if not delivery.counted:
            delivery.counted = True
            backend.profile.observe_success(latency_s)
            delivery.service.observe(latency_s, delivery.share, self._learning, now)
            pool = delivery.service.pool
            if latency_s > self._slow_times * pool.reference_s or latency_s > self._slow_s:
                message.noted()
            if began is not None or pool.stream_s:
                self._note_stream(delivery, latency_s, now)
            backend.settled += 1
            if backend.failed or backend.ejections or not backend.warm:
                self._health.succeeded(delivery, now)
            if self._observe is not None:
                self._observe(delivery, latency_s, True, now)
            histogram = message.counts.delivery_seconds.get(backend.group_label)
            if histogram is None:
                histogram = message.counts.delivery_histogram(backend.group_label)
            noted = histogram.noted  # `observe`, without the call
            noted.append(latency_s)
            if len(noted) >= MOST_NOTED:
                histogram.settle()
        elif delivery.fate is not None:
            delivery.fate.acked_at = now
        if (delivery.out and message.answering is None) or _may_answer(delivery):
            self._answer(delivery, body, latency_s, now)
        else:
            self._counts.stray_answers["late"] += 1
        if self._dispatcher.waiting.size:
            self._serving.serve(backend, now)

    def nacked(self, delivery: Delivery, header: NackHeader, now: float) -> None:
        """Settle a delivery that was refused or failed."""
        backend, message, code = delivery.backend, delivery.message, header.code
        self._places.close(delivery, now)
        if code == "busy":
            backend.said_busy = True
            mean_s = delivery.service.service_s
            pause_s = mean_s if header.retry_after_ms is UNSET else header.retry_after_ms / 1000.0
            self._places.pause(backend, pause_s, now)
        if message.ended and not (delivery.complete and not delivery.cancelled):
            self._count(delivery, "cancelled", now)
        elif code == "failed":
            self._blame(delivery, "failed", now)
        else:
            self._count(delivery, code, now)
        message.rejected = message.rejected or code == "rejected"
        reason = f"{code}: {header.reason[:REASON_CHARS]}" if header.reason else code
        error = "rejected" if code == "rejected" else "failed"
        self._head_failed(delivery, reason, now, code=error, begun=code != "busy")
        self._serving.serve(backend, now)

    def part(self, delivery: Delivery, body: Body, now: float) -> None:
        """Pass on a piece of a stream."""
        first = delivery.first_part_at is None
        delivery.backend.progress_at = now
        if first:
            delivery.first_part_at = now
        if not _may_answer(delivery):
            self._counts.stray_answers["late_part"] += 1
            return
        message, request = delivery.message, delivery.message.request
        if first:
            self._begin_stream(delivery, now)
        seq = delivery.parts
        delivery.parts += 1
        if request.idle_ms is not UNSET:
            delivery.limit_at, delivery.hard = now + request.idle_ms / 1000.0, True
            self._dispatcher.arm(message, now)
        if request.reply != "none" and not message.delimited:
            header = PieceHeader(request.id, message.name, delivery.backend.info.name, delivery.head, seq)
            self._emit(Piece(message.client.peer, message.delimited, header, body))

    def malformed(self, delivery: Delivery, code: str, now: float) -> None:
        """Settle a delivery whose answer breaks the protocol."""
        self._places.close(delivery, now)
        self._blame(delivery, "malformed", now)
        self._head_failed(delivery, f"malformed answer: {code}", now)
        self._serving.serve(delivery.backend, now)

    def lose(self, backend: Backend, now: float) -> None:
        """Settle every delivery open at a backend that has just left the registry."""
        lost = list(backend.open.values())
        for delivery in lost:
            self._places.close(delivery, now)
            if delivery.message.ended:
                self._count(delivery, "cancelled", now)
            else:
                self._blame(delivery, "lost", now)
        for delivery in lost:
            self._head_failed(delivery, "lost", now)
        self._serving.give_up_hopeless(now)

    def undelivered(self, delivery: Delivery, now: float, *, full: bool) -> None:
        """Take back a delivery that never left the daemon; it counts for nothing."""
        self._places.close(delivery, now)
        self._count(delivery, "undelivered", now)
        if full:
            self._places.pause(delivery.backend, FULL_PIPE_PAUSE_S, now)
        delivery.unsent = True
        self._head_failed(delivery, "could not be reached", now, begun=False)
        self._serving.serve(delivery.backend, now)  # it has room where it has moved to another connection

    # --- time ---

    def message_due(self, message: Message, now: float) -> None:
        """Look at a message whose moment has come: expire it, time heads out, hedge, try again, or wait on."""
        if now >= message.deadline:
            self._expire(message, now)
            return
        if message.resume_at <= now:
            self._dispatcher.place(message, now)
            return
        for delivery in message.deliveries.copy():
            if delivery.out and delivery.limit_at <= now:
                self._head_due(delivery, now)
        if message.hedge_at <= now and not message.ended:
            self._dispatcher.hedge(message, now)
        if not message.ended:
            self._dispatcher.arm(message, now)

    def delivery_due(self, delivery: Delivery, now: float) -> None:
        """Free the place of a delivery that was not answered long after its message's deadline."""
        self._places.close(delivery, now)
        if delivery.complete and not delivery.cancelled:  # it was to finish, and did not: it hangs
            self._blame(delivery, "timeout", now, now - delivery.sent_at if delivery.first_part_at is None else None)
        self._count(delivery, "unanswered", now)
        self._serving.serve(delivery.backend, now)

    def _head_due(self, delivery: Delivery, now: float) -> None:
        message = delivery.message
        dispatcher = self._dispatcher
        may_go_on = len(message.tried()) < message.heads and dispatcher.chooser.has_untried(message, now)
        if not delivery.hard and not (may_go_on and dispatcher.may_retry(message, now)):
            delivery.limit_at = inf
            return
        self._time_out(delivery, now)
        self._places.cancel(delivery, now)
        self._head_failed(delivery, "timed out", now)

    def _expire(self, message: Message, now: float) -> None:
        for delivery in message.deliveries:
            if delivery.out:
                self._time_out(delivery, now)
        if message.request.reply != "all" or not message.out:
            self._dispatcher.overdue(message, now)
            return
        for delivery in message.deliveries:
            if delivery.out:
                delivery.out = False
                message.out -= 1
                self._head_error(delivery, "expired", "the time is up")
        self._dispatcher.end(message, "answered" if message.answered else "expired", now)

    # --- what it says of the backend ---

    def _note_stream(self, delivery: Delivery, latency_s: float, now: float) -> None:
        """Take in for how long a success held its slot after its first piece, of whoever may stream."""
        pool = delivery.service.pool
        weight = max(self._learning.reference_alpha, 1.0 / pool.samples)
        pool.stream_s += weight * (now - delivery.sent_at - latency_s - pool.stream_s)

    def _blame(self, delivery: Delivery, cause: str, now: float, full_length_s: float | None = None) -> None:
        if delivery.counted:
            return
        delivery.counted = True
        delivery.fate = Fate(cause, now)
        delivery.backend.profile.observe_failure(cause, full_length_s)
        delivery.backend.version += 1
        if full_length_s is not None:
            delivery.service.observe_at_least(full_length_s, self._learning.alpha, now)
        self._health.failed(delivery, now)
        if self._observe is not None:
            self._observe(delivery, now - delivery.sent_at, False, now)

    def _time_out(self, delivery: Delivery, now: float) -> None:
        """Blame a head for its silence; how long it took is known where its stream has begun."""
        if not delivery.counted:
            delivery.service.pool.trouble(now)
        full_length_s = now - delivery.sent_at if delivery.first_part_at is None else None
        self._blame(delivery, "timeout", now, full_length_s)

    def _count(self, delivery: Delivery, outcome: str, now: float) -> None:
        """Count an end that says nothing about success; what was cancelled late took at least so long."""
        if delivery.counted:
            return
        delivery.counted = True
        delivery.fate = Fate(outcome, now)
        delivery.backend.profile.count(outcome)
        if outcome == "cancelled" and delivery.first_part_at is None:
            delivery.service.observe_at_least((now - delivery.sent_at) * delivery.share, self._learning.alpha, now)
        self._health.inconclusive(delivery, now)

    # --- what it means for the message ---

    def _begin_stream(self, delivery: Delivery, now: float) -> None:
        message, dispatcher = delivery.message, self._dispatcher
        delivery.limit_at = inf
        if message.request.reply == "all":
            return
        message.hedge_at = message.resume_at = inf
        message.answering = delivery
        dispatcher.waiting.remove(message)
        for other in message.deliveries:
            if other is not delivery:
                other.out = False
                self._places.cancel(other, now)
        delivery.out = True
        message.out = 1

    def _answer(self, delivery: Delivery, body: Body, latency_s: float, now: float) -> None:
        message = delivery.message
        request = message.request
        reply = request.reply
        if delivery.out:
            delivery.out = False
            message.out -= 1
        last = reply != "all" or not message.out
        if reply != "none":
            header = ReplyHeader(
                request.id,
                message.name,
                delivery.backend.info.name,
                delivery.head,
                len(message.deliveries),
                latency_s * 1000.0,
                last,
            )
            self._emit(Reply(message.client.peer, message.delimited, header, body))
        if last:
            self._dispatcher.end(message, "answered", now)
        else:
            message.answered = True
            delivery.fate = Fate("acked", now)

    def _head_failed(
        self, delivery: Delivery, reason: str, now: float, *, code: str = "failed", begun: bool = True
    ) -> None:
        """Go on after a head has failed; one that had not begun counts for nothing."""
        message = delivery.message
        was_out, delivery.out = delivery.out, False
        if message.ended:
            return
        if not was_out:
            if message.rejected and not message.out:
                self._dispatcher.fail(message, "rejected", now)
            return
        message.out -= 1
        message.reason = f"{delivery.backend.name}: {reason}"
        if begun:
            message.spent = message.spent or not message.reruns
        else:
            delivery.excused = True
            message.excused += 1
        if message.request.reply == "all":
            self._head_error(delivery, code, message.reason)
            if message.out == 0:
                self._dispatcher.end(message, "answered" if message.answered else "failed", now)
        elif message.answering is delivery:
            self._dispatcher.fail(message, "failed", now)
        elif message.out == 0:
            self._dispatcher.try_next(message, now, counted=begun)

    def _head_error(self, delivery: Delivery, code: str, detail: str) -> None:
        message = delivery.message
        header = ErrorHeader(
            message.request.id,
            code,
            detail,
            retry=code != "rejected" and message.retry(),
            last=message.out == 0,
            message=message.name,
            backend=delivery.backend.name,
            head=delivery.head,
        )
        self._emit(Error(message.client.peer, message.delimited, header))


def _may_answer(delivery: Delivery) -> bool:
    message = delivery.message
    if message.ended or (message.answering is not None and message.answering is not delivery):
        return False
    return delivery.out or message.request.reply != "all"
