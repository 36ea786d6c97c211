"""From an admitted message to its one last answer: deliver, try the next, wait, hedge, end.

Rules:
- A message ends exactly once, in `end`.
- After a head has failed, the next permitted one is tried when none is out; where all are full the message waits;
  where none is left it fails. A NACK `busy` and a DELIVER that never left are outside that count, and cost no token.
- Which backends it goes to is `choosing`'s affair; what a backend's answer or the clock does to a delivery is
  `settle`'s, which calls back here to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from random import Random

from router_daemon.core.actions import Accept, AcceptHeader, Action, Error, ErrorHeader
from router_daemon.core.choosing import Chooser
from router_daemon.core.counts import MOST_HEADS, MOST_NOTED, Counts
from router_daemon.core.decisions import Decisions
from router_daemon.core.health import Health
from router_daemon.core.holding import Holding
from router_daemon.core.messages import Message
from router_daemon.core.patience import Patience
from router_daemon.core.places import Places
from router_daemon.core.ranking import Candidate, Ranking
from router_daemon.core.refusals import NOBODY, REFUSED
from router_daemon.core.registry import Registry
from router_daemon.core.settings import Settings
from router_daemon.core.timers import Timers
from router_daemon.core.waiting import WaitingRoom, note_reserve
from router_daemon.errors import RETRY


class Dispatcher:
    """The life of open messages; `emit` takes the actions."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        chooser: Chooser,
        timers: Timers,
        counts: Counts,
        emit: Callable[[Action], None],
        rng: Random,
        first_delivery_id: int,
        decisions: Decisions,
    ) -> None:
        self._registry = registry
        self.chooser = chooser
        self.decisions = decisions
        self._patience = Patience(settings)
        self._timers = timers
        self._counts = counts
        self._sent_to = counts.heads
        self._emit = emit
        self._rng = rng
        self.places = Places(settings, timers, emit, rng, first_delivery_id)
        self.health = Health(settings, registry, rng, self.places.watch)
        self.messages: dict[Message, None] = {}
        self.waiting = WaitingRoom(settings.queue_messages, settings.queue_bytes, settings.waiting.reserve)
        self.holding = Holding(chooser, self.waiting, timers)
        self._settings = settings

    def configure(self, settings: Settings) -> None:
        """Take over other settings, here and in the rooms that the dispatcher alone has; open messages go on."""
        self._settings = settings
        self.chooser.configure(settings)
        self.decisions.configure(settings)
        self._patience.configure(settings)
        self.places.configure(settings)
        self.health.configure(settings)
        self.waiting.configure(settings.queue_messages, settings.queue_bytes, settings.waiting.reserve)

    # --- from a message to its heads ---

    def submit(self, message: Message, now: float) -> None:
        """Open an admitted message: send it, let it wait, or refuse it."""
        ranking, chosen = self.chooser.decide(message, now)
        message.counts = ranking.counts
        if ranking.pool.full and chosen and self.holding.holds(message, ranking, chosen, now):
            chosen = ()
        request, decisions = message.request, self.decisions
        if now >= decisions.sample_at or request.priority == decisions.critical:
            decisions.note(message, ranking, chosen, self.chooser, "first", now)
        ranking.pool.messages += 1
        if not chosen:
            refusal = self._nobody(message, ranking, now)
            if refusal is not None:
                self.refuse(message, *refusal)
            if refusal is not None or not self._let_in(message, ranking, now):
                ranking.pool.messages -= 1  # what is refused earns nothing: retries would rise with the overload
                return
        self.messages[message] = None
        client = message.client
        client.messages += 1
        client.body_bytes += message.size
        if request.reply == "none":
            header = AcceptHeader(request.id, message.name, last=True)
            self._emit(Accept(client.peer, message.delimited, header))
        else:
            client.open[request.id] = message
        if chosen:
            self.deliver(message, ranking, chosen, now)
        else:
            self._timers.schedule(message, message.deadline, now)

    def refuse(self, message: Message, code: str, detail: str, retry_after_s: float | None = None) -> None:
        """Answer a message that is not opened."""
        message.counts.outcomes[code] += 1
        message.reason = detail
        self.decisions.refused(message, code)
        if message.route.tally is not None:
            message.route.tally.ended(message, code, 0.0)
        header = ErrorHeader(message.request.id, code, detail, retry=RETRY[code], last=True, message=message.name)
        if retry_after_s is not None:
            header.retry_after_ms = int(retry_after_s * 1000.0) + 1
        self._emit(Error(message.client.peer, message.delimited, header))

    def try_next(self, message: Message, now: float, *, counted: bool = True) -> None:
        """No head is out any more: send to the next permitted one, let the message wait for it, or fail.

        `counted`: the head that failed had begun, so that going on is a retry and costs a token.
        """
        message.noted()
        if message.rejected:
            self.fail(message, "rejected", now)
            return
        if self.overdue(message, now):
            return
        if message.spent or len(message.tried()) >= message.heads:
            self.fail(message, "failed", now)
            return
        if message.client.trusted:  # not begun: the daemon that it comes from knows who else there is
            pause_s = message.deliveries[-1].backend.paused_until - now
            self.fail(message, "overloaded", now, max(pause_s, 0.0))
            return
        untried = self.chooser.has_untried(message, now)
        if not untried and not self._may_repeat(message):
            self.fail(message, "failed", now)
        elif counted and not self._spend_retry(message, now):
            self.overload(message, "budget", now)
        elif untried and not (message.again and counted):
            self.place(message, now)
        else:
            self._back_off(message, now)

    def place(self, message: Message, now: float) -> None:
        """Send an open message to whom it may go, or let it wait."""
        message.resume_at = inf
        ranking, chosen = self.chooser.decide(message, now)
        if ranking.pool.full and chosen and self.holding.holds(message, ranking, chosen, now):
            chosen = ()
        self.decisions.note(message, ranking, chosen, self.chooser, "retry", now)
        if chosen:
            self.deliver(message, ranking, chosen, now)
        elif not self.chooser.has_untried(message, now):  # while it backed off, who might get it has left
            self.fail(message, "failed", now)
        elif self.objects(message, ranking, now):
            return
        elif self._make_room(message, now):
            self._wait(message, now)
            self.arm(message, now)
        else:
            self.overload(message, "room", now)

    def hedge(self, message: Message, now: float) -> None:
        """The first head is late: give the message to a second one, where that is allowed."""
        message.hedge_at = inf
        if message.out != 1 or message.spent or len(message.tried()) >= message.heads:
            return
        candidate = self.chooser.hedge(message, now)
        if candidate is not None:
            message.counts.hedges += 1
            ranking = self.chooser.ranking(message, now)
            self.decisions.note(message, ranking, (candidate,), self.chooser, "hedge", now)
            self.deliver(message, ranking, (candidate,), now)
        elif message.exploring:  # whoever would do it sooner is busy: a little later, and less and less often
            notes = message.noted()
            notes.late_s *= 2.0
            message.hedge_at = now + notes.late_s

    # --- where nobody has room ---

    def _nobody(self, message: Message, ranking: Ranking, now: float) -> tuple[str, str] | None:
        """Return code and detail for a message that no backend may get, whoever has room."""
        if message.named or self.chooser.affordable(message, ranking).candidates:
            return self.chooser.objection(message, ranking, now)
        capability = message.request.capability
        code = "no_backend" if self._registry.was_offered(capability) else "no_capability"
        return code, f"{capability}: {NOBODY[code]}"

    def objects(self, message: Message, ranking: Ranking, now: float) -> bool:
        """End an open message that the policy chooses nobody for any more, and tell whether it was so."""
        objection = self.chooser.objection(message, ranking, now)
        if objection is not None:
            code, detail = objection
            message.reason = "; ".join(filter(None, (detail, message.reason)))
            self.fail(message, code, now)
        return objection is not None

    def _let_in(self, message: Message, ranking: Ranking, now: float) -> bool:
        """Let a new message wait, or refuse it: it would wait too long, or there is no room."""
        request, pool = message.request, ranking.pool
        wait_s, too_long = self.forecast(message, ranking, now)
        if too_long:
            cause = "wait"
        elif self._make_room(message, now):
            self._wait(message, now)
            return True
        else:
            cause = "room"
        message.counts.refusals[cause] += 1
        self.refuse(
            message, "overloaded", f"{request.capability}: {REFUSED[cause]}", wait_s or pool.reference_s or None
        )
        return False

    def forecast(self, message: Message, ranking: Ranking, now: float) -> tuple[float, bool]:
        """Return how long a new message would wait for a place, and whether that is too long for it."""
        ahead = self.waiting.ahead(message.request.capability, message.request.priority)
        return self.chooser.forecast(message, ranking, ahead, now)

    def _wait(self, message: Message, now: float) -> None:
        pool = self._registry.pool(message.request.capability)
        note_reserve(message, pool)
        self.waiting.add(message, self._patience.step_s(message, pool), now)

    def _make_room(self, message: Message, now: float) -> bool:
        leaving = self.waiting.displaced_by(message)
        for victim in leaving or ():
            self.overload(victim, "displaced", now)
        return leaving is not None

    def overload(self, message: Message, cause: str, now: float) -> None:
        """End an open message with `overloaded`."""
        message.counts.refusals[cause] += 1
        reason = f"{message.request.capability}: {REFUSED[cause]}"
        message.reason = "; ".join(filter(None, (reason, message.reason)))
        pool = self._registry.pool(message.request.capability)
        self.fail(message, "overloaded", now, pool.reference_s or None)

    # --- the same again ---

    def _may_repeat(self, message: Message) -> bool:
        """Tell whether a message that has been everywhere may go to the same backend again."""
        names = self._registry.by_name
        there = any(delivery.backend.info.name in names for delivery in message.deliveries)
        return (
            there and self._settings.retry.same_backend and message.reruns and message.mode in ("auto", "hedge")
        ) and message.request.reply != "all"

    def may_retry(self, message: Message, now: float) -> bool:
        """Tell whether there is a token for another head."""
        pool = self._registry.pool(message.request.capability)
        return pool.retries.look(pool.messages, now) >= 1.0

    def _spend_retry(self, message: Message, now: float) -> bool:
        if not self.may_retry(message, now):
            return False
        pool = self._registry.pool(message.request.capability)
        pool.retries.spend()
        pool.trouble(now)
        message.counts.retries += 1
        return True

    def _back_off(self, message: Message, now: float) -> None:
        """Try the same backends again after half to all of the pause, so that a pool of one has a retry, too."""
        service_s = self._settings.retry.pause_services * message.deliveries[-1].service.service_s
        message.again = True
        message.resume_at = now + service_s * (0.5 + 0.5 * self._rng.random())
        self.arm(message, now)

    def deliver(self, message: Message, ranking: Ranking, chosen: Sequence[Candidate], now: float) -> None:
        """Send a message to who was chosen, and wake up when its first head has had its time."""
        self.places.deliver(message, chosen, now)
        if message.fan_out:
            due = self._patience.limit_all(message, now)
        else:
            due = self._patience.limit(message, len(ranking.candidates), now)
        self._timers.schedule(message, due, now)

    def overdue(self, message: Message, now: float) -> bool:
        """End a message whose time is up, though its timer has not rung yet, and tell whether it was so."""
        if now < message.deadline:
            return False
        message.reason = "; ".join(filter(None, ("the time is up", message.reason)))
        self.fail(message, "expired", now)
        return True

    def arm(self, message: Message, now: float) -> None:
        """Wake up for a message when something about it is due, at its deadline at the latest."""
        due = min((delivery.limit_at for delivery in message.deliveries if delivery.out), default=inf)
        self._timers.schedule(message, min(due, message.hedge_at, message.resume_at, message.deadline), now)

    # --- ends ---

    def fail(self, message: Message, code: str, now: float, retry_after_s: float | None = None) -> None:
        """End a message with an ERROR that names the reason last noted."""
        if message.request.reply != "none":
            retry = message.retry() if code in ("failed", "expired") else RETRY[code]
            detail = message.reason or code
            header = ErrorHeader(message.request.id, code, detail, retry=retry, last=True, message=message.name)
            if retry_after_s is not None:
                header.retry_after_ms = int(retry_after_s * 1000.0) + 1
            self._emit(Error(message.client.peer, message.delimited, header))
        self.end(message, code, now)

    def end(self, message: Message, outcome: str, now: float) -> None:
        """Close a message's books: nothing of it is answered after this."""
        message.ended = True
        del self.messages[message]
        if message.bucket is not None:  # `Timers.cancel`, without the call
            del message.bucket[message]
            message.bucket = None
        if message.line is not None:
            self.waiting.remove(message)
            message.noted().waited_s += now - message.waits_since
        client = message.client
        client.messages -= 1
        client.body_bytes -= message.size
        request, deliveries = message.request, message.deliveries
        if request.reply != "none":
            del client.open[request.id]
            if outcome == "answered":
                client.answered.append(request.id)
        elif outcome != "answered":
            message.counts.lost += 1
        if message.out:
            message.out = 0
            for delivery in deliveries:
                delivery.out = False
        for delivery in deliveries:
            if delivery.open:
                message.body = ()  # such a delivery may hold the message for long
                if delivery.complete and outcome == "answered":
                    self.places.watch_place(delivery, now)
                else:
                    self.places.cancel(delivery, now)
        counts, sent, seconds = message.counts, len(deliveries), now - message.accepted_at
        counts.outcomes[outcome] += 1
        histogram = counts.message_seconds
        noted = histogram.noted  # `observe`, without the call
        noted.append(seconds)
        if len(noted) >= MOST_NOTED:
            histogram.settle()
        self._sent_to[sent if sent < MOST_HEADS else MOST_HEADS] += 1
        if message.notes is not None or outcome != "answered":
            self.decisions.close(message, outcome, now)
        if message.route.tally is not None:
            message.route.tally.ended(message, outcome, seconds)
        deliveries.clear()  # each holds its message: a cycle that only the collector would free
