"""What outcomes do to a backend beyond its averages: ejection, the trial that ends it, the slow start of a new one.

Rules:
- Ejected is who fails most of its last deliveries, unless others of the capability fail as well (a shared cause), or
  too few places would be left, or it is the last one somewhere. It gets nothing for a while, then one message on trial.
- In no capability are all members ejected: when the last one that is not leaves, the others are let in at once.
- Who was ejected alone comes back as new; who was ejected with others comes back as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from random import Random
from typing import Final

from router_daemon.core.backends import Backend
from router_daemon.core.messages import Delivery
from router_daemon.core.pools import Pool
from router_daemon.core.registry import Registry
from router_daemon.core.settings import Settings

LOOK_AT: Final = 200
"""Of larger capabilities so many members are asked whether they fail, too."""


class Health:
    """Keeps the outcome windows; `watch` is told of a backend whose next moment may have come nearer."""

    def __init__(
        self, settings: Settings, registry: Registry, rng: Random, watch: Callable[[Backend, float], None]
    ) -> None:
        self._registry = registry
        self._rng = rng
        self._watch = watch
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take over other settings; who is ejected stays so for as long as was set."""
        self._settings = settings.ejection
        self._mask = (1 << settings.ejection.window) - 1

    def succeeded(self, delivery: Delivery, now: float) -> None:
        """Take in a success, already `settled`, of a backend that is not simply warm and without a failure."""
        backend = delivery.backend
        backend.failed = (backend.failed << 1) & self._mask
        if delivery.trial and backend.ejected:
            self._readmit(backend, now)
        if not backend.warm:
            self._warm_up(backend, now)
        if backend.ejections and not backend.failed and backend.settled >= self._settings.window:
            backend.ejections = 0

    def failed(self, delivery: Delivery, now: float) -> None:
        """Take in a failure that is the backend's fault."""
        backend = delivery.backend
        backend.failed = (backend.failed << 1 | 1) & self._mask
        backend.settled += 1
        backend.failures_at.append(now)
        if not backend.pools:  # it drains or has left: there is nothing to keep from it, nor anybody to watch
            return
        on_trial = delivery.trial and backend.ejected
        fails_alone = (
            not backend.ejected and self._fails(backend, now) and self._can_spare(backend, delivery.service.pool)
        )
        if on_trial or fails_alone:
            self._eject(backend, now)

    def inconclusive(self, delivery: Delivery, now: float) -> None:
        """A trial has ended without telling anything: the next message may be one."""
        if delivery.trial and delivery.backend.ejected:
            self.due(delivery.backend, now)

    def due(self, backend: Backend, now: float) -> None:
        """Let the next message try a backend whose ejection is over, unless one does so just now.

        Where none was free to risk that for long, as with one head for each message, it is let in without a trial.
        """
        if not backend.ejected or now < backend.readmit_at or any(_is_trying(d) for d in backend.open.values()):
            return
        if now >= backend.readmit_at + self._settings.most_s:
            self._readmit(backend, now)
        else:
            for pool in backend.pools:
                pool.trials[backend] = None

    def let_in_where_needed(self, now: float) -> list[Pool]:
        """Readmit everybody of a capability that has nobody else left, and return where these are members.

        Called when members have changed.
        """
        changed: list[Pool] = []
        for pool in self._registry.pools():
            if pool.ejected and pool.ejected == len(pool.members):
                for backend in list(pool.members.values()):
                    self._readmit(backend, now)
                    changed += backend.pools
        return changed

    def _fails(self, backend: Backend, now: float) -> bool:
        settings = self._settings
        failures, recent = backend.failed.bit_count(), backend.failures_at
        return (
            0 < settings.failures <= failures
            and failures > settings.share * min(backend.settled, settings.window)
            and len(recent) == recent.maxlen
            and now - recent[0] <= settings.window_s
        )

    def _can_spare(self, backend: Backend, pool: Pool) -> bool:
        """Tell whether the backend's capabilities can do without it, and its failing is its own."""
        if any(pool.ejected + 1 >= len(pool.members) for pool in backend.pools):
            return False
        live = [
            other
            for other in islice(pool.members.values(), LOOK_AT)
            if other is not backend and other.connected and not other.ejected
        ]
        failures = sum(other.failed.bit_count() for other in live)
        outcomes = sum(min(other.settled, self._settings.window) for other in live)
        if outcomes and failures > self._settings.elsewhere * outcomes:
            return False
        slots = sum(other.info.slots for other in live)
        busy = sum(len(other.open) for other in live)
        return bool(live) and slots - busy >= len(backend.open)

    def _eject(self, backend: Backend, now: float) -> None:
        settings = self._settings
        length_s = min(settings.most_s, settings.first_s * 2.0 ** min(backend.ejections, 30))
        length_s *= 1.0 + settings.jitter * (2.0 * self._rng.random() - 1.0)
        again = backend.ejected
        backend.ejections += 1
        backend.readmit_at = now + length_s
        self._registry.set_ejected(backend, ejected=True, now=now)
        if not again:
            backend.correlated = any(pool.ejected > 1 for pool in backend.pools)
            backend.profile.counts.ejections += 1
            failures, answers = backend.failed.bit_count(), min(backend.settled, settings.window)
            news = f"backend ejected for {length_s:.1f} s: {failures} of its last {answers} deliveries failed"
            self._registry.news.append((news, backend.name))
        self._watch(backend, now)

    def _readmit(self, backend: Backend, now: float) -> None:
        self._registry.news.append(("backend let in again", backend.name))
        self._registry.set_ejected(backend, ejected=False, now=now)
        backend.failed = backend.settled = 0
        backend.failures_at.clear()
        if not backend.correlated:
            self._registry.begin_anew(backend, now)

    def _warm_up(self, backend: Backend, now: float) -> None:
        """Count an answer of a backend that has just begun: a round doubles its places, or shows that it is warm."""
        backend.rounds += 1
        window = backend.window
        if backend.rounds >= (backend.info.slots if window is None else window):
            backend.rounds = 0
            warm = window is None or 2 * window > backend.places
            self._registry.set_warm(backend, warm, None if warm else 2 * (window or 0), now)


def _is_trying(delivery: Delivery) -> bool:
    return delivery.trial and not delivery.counted
