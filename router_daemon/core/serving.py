"""Who waits gets what has become free: a place, a trial, a backend that has come; or hears that nobody is left.

Rules:
- Asked whenever a backend has room or may have it: after an answer, a registration, the end of a pause.
- What a message then gets is decided as for a new one (`choosing`), and sent or ended as any other (`dispatch`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from router_daemon.core.backends import Backend
from router_daemon.core.choosing import began_at, suits
from router_daemon.core.counts import Counts
from router_daemon.core.dispatch import Dispatcher
from router_daemon.core.messages import Message
from router_daemon.core.pools import Pool
from router_daemon.core.refusals import NOBODY
from router_daemon.core.registry import Registry
from router_daemon.core.waiting import CRITICAL, note_reserve


class Serving:
    """Serves the dispatcher's waiting room."""

    def __init__(self, registry: Registry, dispatcher: Dispatcher, counts: Counts) -> None:
        self._registry = registry
        self._dispatcher = dispatcher
        self._chooser = dispatcher.chooser
        self._decisions = dispatcher.decisions
        self._counts = counts
        self._waiting = dispatcher.waiting

    def serve(self, backend: Backend, now: float) -> None:
        """Give the room that a backend has, or its trial, to those who wait, the most important first."""
        capabilities = self._registry.offers(backend)
        while self._waiting.size and (backend.free > 0 or backend.trial_due or self._may_be_named(backend, now)):
            first = self._waiting.next_for(capabilities, now, partial(suits, backend))
            if not any(self._serve_one(message, now) for message in first):
                break
        for pool in backend.pools:  # whom it does not suit may wait for no more than one place beyond the reserve
            if pool.passed_over and pool.free > pool.reserved:
                pool.passed_over = False
                self.serve_others((pool,), now)

    def _may_be_named(self, backend: Backend, now: float) -> bool:
        """Tell whether an ejected backend could get a message that names it."""
        return self._waiting.named > 0 and backend.ejected and backend.may_try(now)

    def serve_others(self, pools: Iterable[Pool], now: float) -> None:
        """Look again for those who wait after members of their capabilities have changed.

        What is kept for critical messages shrinks with the members, and who was ejected may have been let in.
        """
        for pool in pools if self._waiting.size else ():
            for backend in list(pool.members.values()):
                if pool.free <= pool.reserved and not self._waiting.by_priority[CRITICAL]:
                    pool.passed_over = True
                    break  # of ten thousand members each would be asked
                self.serve(backend, now)

    def serve_held(self, pool: Pool, now: float) -> None:
        """Look again for those who wait for somebody faster than who has room: it may hang, or have too much to do."""
        capabilities = (pool.capability,) if pool.capability else None  # "": the pool of all
        while any(self._serve_one(m, now) for m in self._waiting.next_for(capabilities, now, _may_be_held)):
            pass

    def serve_dearer(self, backend: Backend, now: float) -> None:
        """Look again for those whose first head was at a backend that costs more now: so may their further ones."""
        capabilities, began = self._registry.offers(backend), partial(began_at, backend)
        while any(self._serve_one(m, now) for m in self._waiting.next_for(capabilities, now, began) if began(m)):
            pass

    def _serve_one(self, message: Message, now: float) -> bool:
        """Take a message out of the waiting room: to a head, or to its end; False where it has to go on waiting."""
        if self._dispatcher.overdue(message, now):
            return True
        ranking, chosen = self._chooser.decide(message, now)
        if chosen and ranking.pool.full and self._dispatcher.holding.holds(message, ranking, chosen, now):
            return False
        if not chosen:
            note_reserve(message, ranking.pool)
            return self._dispatcher.objects(message, ranking, now)
        if message.deadline - now < self._chooser.shortest_s(message, ranking, now):
            self._dispatcher.overload(message, "late", now)
            return True
        if message.notes is not None and message.notes.decisions:
            self._decisions.note(message, ranking, chosen, self._chooser, "served", now)
        self._waiting.remove(message)
        message.noted().waited_s += now - message.waits_since
        self._counts.waiting_seconds[message.request.priority].observe(now - message.waits_since)
        self._dispatcher.deliver(message, ranking, chosen, now)
        return True

    def give_up_hopeless(self, now: float) -> None:
        """Fail those who wait for backends that are not there any more."""
        if not self._waiting.size:
            return
        for capability, _, plain, messages in self._waiting.groups():
            one_of_each = {message.route: message for message in messages}.values()
            rankings = [self._chooser.ranking(message, now) for message in one_of_each]
            if plain and all(ranking.candidates for ranking in rankings):
                continue
            for message in messages:
                if not message.ended and not self._chooser.has_untried(message, now):
                    message.reason = message.reason or f"{capability}: {NOBODY['no_backend']}"
                    self._dispatcher.fail(message, "failed" if message.deliveries else "no_backend", now)


def _may_be_held(message: Message) -> bool:
    return not message.named
