"""One registered backend: its places, its load, and the state that decides whether it may get anything.

Rules:
- The deliveries open at a backend are the entries of `Backend.open`; in-flight is their number and cannot drift.
- `Backend.limit` is how many may be open there now, or 0 while nothing may be sent to it; `free` is what is left of
  that. Whoever changes a reason calls `refresh`. The sums in `pools` follow in the same call.
- What is made seldom and written to with every message (here, `Pool`, `Service`, `Client`) is a plain slotted class: it
  costs more to make than a struct, but CPython has a fast path for a store to a slot, five times as fast as msgspec's.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from router_daemon.core.events import Registration
from router_daemon.core.pools import Pool
from router_daemon.core.profile import Profile
from router_daemon.core.service import Service
from router_daemon.core.types import Peer

if TYPE_CHECKING:
    from router_daemon.core.messages import Delivery

MOST_ELSEWHERE: Final = 1_000_000
"""More load from elsewhere is not believed: beside it, the sums of `pools` would not notice one delivery."""


@dataclass(slots=True, eq=False)
class Backend:
    """One registered backend.

    Attributes:
        limit, free: deliveries that may be open at once now, and how many more; see the module's rules.
        full: it may have deliveries, and has as many as that.
        draining: nothing new is sent to it, since it is `leaving` (it said DRAIN) or `drained` (a person said so).
        paused_until: after a NACK `busy`, nothing is sent before this time.
        connected: False once its connection is known to be gone while its session may still come back.
        queue: what it last reported as waiting or running there, None before it did.
        queue_alpha: weight of a new report in `other`.
        other: load from elsewhere: other += 0.5 (max(0, queue - open) - other) (design: routing).
        said_busy: it has answered `busy`.
        work_s: sum of the expected services of what is open.
        progress_at: when it last answered, or became busy.
        version: rises with all that may change what is to be expected of it.
        warm: it has answered a round of its slots since it began. rounds: answers towards that.
        window: places while it starts slowly, doubled per round of answers; None where all may be taken.
        failed: its last outcomes as bits, 1 a failure, the newest lowest; settled: how many there were.
        failures_at: when the last failures were.
        ejected, ejections, readmit_at: it gets nothing; how often in a row; and until when. correlated: not alone.
        group_label: its group, bounded, as the metrics name it.
        path_s, hops: of a backend of another daemon: the way there and back (s), in every estimate, and its links.
        bucket: its place in a timer wheel (silence, end of a pause or of an ejection).
    """

    peer: Peer
    delimited: bool
    info: Registration
    profile: Profile
    group_label: str
    registered_at: float
    last_seen: float
    open: dict[int, Delivery]
    services: dict[str, Service]
    failures_at: deque[float]
    pools: tuple[Pool, ...] = ()
    limit: int = 0
    free: int = 0
    full: bool = False
    draining: bool = False
    leaving: bool = False
    drained: bool = False
    connected: bool = True
    paused_until: float = 0.0
    queue: int | None = None
    queue_alpha: float = 0.5
    other: float = 0.0
    said_busy: bool = False
    work_s: float = 0.0
    progress_at: float = 0.0
    version: int = 0
    warm: bool = False
    rounds: int = 0
    window: int | None = None
    failed: int = 0
    settled: int = 0
    ejected: bool = False
    ejections: int = 0
    readmit_at: float = 0.0
    correlated: bool = False
    path_s: float = 0.0
    hops: int = 0
    bucket: dict[Any, None] | None = None

    def __repr__(self) -> str:
        return f"<Backend {self.name!r}: {len(self.open)} open>"

    @property
    def name(self) -> str:
        """The name it registered under."""
        return self.info.name

    @property
    def places(self) -> int:
        """How many deliveries it takes at once: slots + prefetch."""
        return self.info.slots + self.info.prefetch

    @property
    def cost(self) -> float | None:
        """What a delivery costs there, as observed, else as declared; None where it said nothing."""
        if self.profile.cost is not None:
            return self.profile.cost
        return None if self.info.cost is UNSET else self.info.cost

    def refresh(self, now: float) -> None:
        """Recompute `limit` after anything that it depends on has changed."""
        if self.draining or self.ejected or not self.connected or now < self.paused_until:
            self.limit = 0
        else:
            self.limit = self.places if self.window is None else min(self.window, self.places)
        self._recount()

    def take(self, delivery: Delivery, now: float) -> None:
        """Give a place to a delivery."""
        if not self.open:
            self.progress_at = now
        self.open[delivery.id] = delivery
        self.work_s += delivery.work_s
        self.version += 1
        if self.free:
            self.free -= 1
            for pool in self.pools:
                pool.busy += 1.0
                pool.free -= 1
            if not self.free:
                self._note_full(full=True)
        else:  # a trial: an ejected backend has no place that others could take
            for pool in self.pools:
                pool.busy += 1.0

    def release(self, delivery: Delivery, now: float) -> None:
        """Take the place back; that it answers at all is progress."""
        delivery.open = False
        held = self.open
        del held[delivery.id]
        self.work_s = self.work_s - delivery.work_s if held else 0.0
        self.progress_at = now
        self.version += 1
        if self.limit > len(held):
            self.free += 1
            for pool in self.pools:
                pool.busy -= 1.0
                pool.free += 1
            if self.full:
                self._note_full(full=False)
        else:  # it holds more than it may now
            for pool in self.pools:
                pool.busy -= 1.0

    def may_try(self, now: float) -> bool:
        """Tell whether, but for its ejection, it could get a delivery."""
        return self.connected and now >= self.paused_until and len(self.open) < self.places

    @property
    def trial_due(self) -> bool:
        """It is ejected, and the next message may try whether it works again."""
        return self.ejected and any(self in pool.trials for pool in self.pools)

    def on_trial(self) -> None:
        """Note that the one message that is to show whether it works again is out."""
        for pool in self.pools:
            pool.trials.pop(self, None)

    def report(self, queue: int, *, besides: int = 0) -> None:
        """Take in what it says that it has to do, from whoever it got it, `besides` so many that are open here."""
        self.queue = queue
        elsewhere = min(queue + besides - len(self.open), MOST_ELSEWHERE)
        self._expect_elsewhere(elsewhere if elsewhere > 0 else 0.0)

    def say_nothing(self) -> None:
        """Take in that it says nothing of what it has to do: what it once said of work from elsewhere grows old.

        Who got nothing more for what it told with an answer would never answer, and so never tell anything else.
        """
        if self.other:
            self._expect_elsewhere(0.0)

    def _expect_elsewhere(self, elsewhere: float) -> None:
        change = self.queue_alpha * (elsewhere - self.other)
        if change:
            self.other += change
            self.version += 1
            for pool in self.pools:
                pool.busy += change

    @property
    def state(self) -> str:
        """`up`, `draining` (by itself), `drained` (by a person), `disconnected`, `ejected` or `paused`, for people."""
        if self.draining:
            return "draining" if self.leaving else "drained"
        if not self.connected:
            return "disconnected"
        if self.ejected:
            return "ejected"
        return "paused" if self.limit == 0 else "up"

    def join_pools(self, pools: tuple[Pool, ...]) -> None:
        """Become a member of these capabilities, and add to their sums."""
        self.pools = pools
        for pool in pools:
            pool.members[self.name] = self
            if self.full:
                pool.full[self] = None
        self._add(1)

    def leave_pools(self) -> None:
        """Be a member nowhere, and take what it added out of the sums."""
        self._add(-1)
        for pool in self.pools:
            del pool.members[self.name]
            for some in (pool.trials, pool.stale, pool.full):
                some.pop(self, None)
        self.pools = ()

    def check(self) -> None:
        """Assert what must hold between its fields, and that it is a member of its pools."""
        assert self.draining == (self.leaving or self.drained)
        assert bool(self.pools) != self.draining
        assert all(pool.members.get(self.name) is self for pool in self.pools)
        assert 0 <= self.limit <= self.places
        assert self.free == max(0, self.limit - len(self.open))
        assert self.full == (self.limit > 0 and not self.free)
        assert not (self.ejected and self.limit)

    def _add(self, sign: int) -> None:
        info = self.info
        for pool in self.pools:
            pool.slots += sign * info.slots
            pool.places += sign * self.places
            pool.free += sign * self.free
            pool.busy += sign * (len(self.open) + self.other)
            pool.warm += sign * info.slots * self.warm
            pool.costly += sign * (self.cost is not None)
            pool.ejected += sign * self.ejected

    def _recount(self) -> None:
        free = self.limit - len(self.open)
        free = max(free, 0)
        change = free - self.free
        if change:
            self.free = free
            for pool in self.pools:
                pool.free += change
        full = self.limit > 0 and not free
        if full != self.full:
            self._note_full(full=full)

    def _note_full(self, *, full: bool) -> None:
        self.full = full
        for pool in self.pools:
            if full:
                pool.full[self] = None
            else:
                del pool.full[self]
