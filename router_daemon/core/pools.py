"""One capability and the backends that offer it: sums kept while they change, the reference latency, the budgets.

Rules:
- The sums (`slots`, `free`, `busy`, ...) are those of `members`, kept by `registry`: a decision reads numbers, it does
  not walk through backends. `check` compares.
- Budgets are token buckets that fill with the capability's messages. Nothing is added per message: a bucket notes at
  which message it was last looked at and takes in what has come since.
"""

from __future__ import annotations

from collections import deque
from copy import copy
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, Final

from router_daemon.core.settings import HedgeSettings, Settings

if TYPE_CHECKING:
    from router_daemon.core.backends import Backend

RATE_EVERY_S: Final = 0.1
RATE_LEAST: Final = 5
RATE_PAUSE: Final = 0.1
"""Where nobody has found the capability full for this share of the window, what was done before says how much was
asked for then, not how much can be done."""
NEVER: Final = 1 << 62
LOOK_AGAIN: Final = 10
STALE_TIMES: Final = 10


class Bucket:
    """A token bucket: `share` tokens a message and `per_s` a second, at most `most`.

    Attributes:
        tokens: as of the last look.
    """

    __slots__ = ("_at", "_messages", "_most", "_per_s", "_share", "tokens")

    def __init__(self, share: float, most: float, *, start: float = 0.0, per_s: float = 0.0) -> None:
        self.configure(share, most, per_s=per_s)
        self.tokens = start
        self._messages = 0
        self._at: float | None = None

    def configure(self, share: float, most: float, *, per_s: float = 0.0) -> None:
        """Fill in another way from now on; whoever calls has looked, so that what was earned before stays earned."""
        self._share = share
        self._most = most
        self._per_s = per_s

    def look(self, messages: int, now: float) -> float:
        """Take in what has come since the last look and return the tokens; `messages`: ever, of this capability."""
        self.tokens = self.peek(messages, now)
        self._messages, self._at = messages, now
        return self.tokens

    def peek(self, messages: int, now: float) -> float:
        """Return the tokens that a look would find, and change nothing."""
        earned = self._share * (messages - self._messages)
        if self._at is not None:
            earned = max(earned, self._per_s * (now - self._at))
        tokens = self.tokens + earned
        if tokens > self._most:
            tokens = self._most
        return tokens if tokens > self.tokens else self.tokens

    def lack(self, messages: int, now: float) -> float:
        """Return the share of the bucket that is empty; none of one that began with more than it can hold."""
        return max(0.0, 1.0 - self.peek(messages, now) / self._most) if self._most > 0.0 else 0.0

    def spend(self) -> None:
        """Take one token; whoever calls has looked."""
        self.tokens -= 1.0


@dataclass(slots=True, eq=False)
class Pool:
    """A capability.

    Attributes:
        members: the backends that offer it and are not draining, in the order they came.
        slots, places: sums of the members' slots, and of slots + prefetch.
        reserved: of `places`, what only critical messages may take.
        free: how many deliveries could be opened now.
        full: members that may have deliveries, and have as many as that.
        passed_over: somebody who may not go to all waits, perhaps only because of what is kept for critical messages.
        busy: open deliveries, and what members reported to have from elsewhere.
        warm: slots of members past their slow start.
        costly: members that declare a cost.
        trials: ejected members whose trial is due.
        stale: members that came with a new version and are not known yet; they are explored `STALE_TIMES` as often.
        messages: taken in, ever.
        reference_s, samples: mean latency of its successes (ref_c), and how many there were.
        stream_s: mean time for which they held their slot after that: of a stream, from its first piece to its end.
        explore_from: from that many messages on the next one looks for somebody who has been unused for long.
        bucket: its place in a timer wheel, while somebody waits for a faster member than has room; held_until: when the
            first of them has waited for long enough.
    """

    capability: str
    retries: Bucket
    hedges: Bucket
    hedge: HedgeSettings
    members: dict[str, Backend]
    slots: int = 0
    places: int = 0
    reserved: int = 0
    free: int = 0
    passed_over: bool = False
    busy: float = 0.0
    warm: int = 0
    costly: int = 0
    ejected: int = 0
    full: dict[Backend, None] = field(default_factory=dict)
    trials: dict[Backend, None] = field(default_factory=dict)
    stale: dict[Backend, None] = field(default_factory=dict)
    messages: int = 0
    reference_s: float = 0.0
    stream_s: float = 0.0
    samples: int = 0
    explore_from: int = 0
    trouble_at: float = -inf
    troubles: float = 0.0
    troubles_from: float = 0.0
    rate_notes: deque[tuple[float, int]] = field(default_factory=deque)
    bucket: dict[Any, None] | None = None
    held_until: float = inf

    def detached(self) -> Pool:
        """Return a copy that may be looked at in any way, for people, without changing this one."""
        twin = copy(self)
        twin.retries, twin.hedges = copy(self.retries), copy(self.hedges)
        twin.rate_notes = self.rate_notes.copy()
        twin.stale = self.stale.copy()
        return twin

    def check(self) -> None:
        """Assert that the sums are those of the members."""
        slots = places = free = warm = costly = ejected = 0
        busy = 0.0
        for backend in self.members.values():  # once for all: tests do this after every step
            assert self in backend.pools
            slots += backend.info.slots
            places += backend.places
            free += backend.free
            busy += len(backend.open) + backend.other
            warm += backend.info.slots if backend.warm else 0
            costly += backend.cost is not None
            ejected += backend.ejected
        assert (self.slots, self.places, self.free) == (slots, places, free)
        assert set(self.full) == {backend for backend in self.members.values() if backend.full}
        assert (self.warm, self.costly, self.ejected) == (warm, costly, ejected)
        assert abs(self.busy - busy) < 1e-6 * (1 + self.busy)
        assert all(backend.ejected and self.members.get(backend.name) is backend for backend in self.trials)

    def configure(self, settings: Settings, before: Settings, now: float) -> None:
        """Take over other settings; what the budgets hold is theirs, up to what they may hold now."""
        retry, hedge = settings.retry, settings.hedge
        for bucket in (self.retries, self.hedges):
            bucket.look(self.messages, now)
        self.retries.configure(retry.share, retry.most, per_s=retry.per_s)
        self.hedges.configure(hedge.share, hedge.most)
        self.retries.tokens = min(self.retries.tokens, retry.most)
        self.hedges.tokens = min(self.hedges.tokens, hedge.most)
        self.hedge = hedge
        if settings.exploration.share != before.exploration.share:
            self.explore_from = self.messages + _explore_every(settings)

    def explored(self, settings: Settings, *, found: bool) -> None:
        """Note that a message has explored: the bucket, which holds one, is empty; or that it found nobody to try."""
        every = _explore_every(settings)
        if self.stale:
            every = every // STALE_TIMES + 1
        self.explore_from = self.messages + (every if found else every // LOOK_AGAIN + 1)

    def trouble(self, now: float) -> None:
        """Count a retry or a timeout."""
        self.troubles += 1.0
        self.trouble_at = now

    def trouble_share(self, now: float) -> float:
        """Return retries and timeouts per message, over the last messages; none where the last one is long ago."""
        span, window = self.messages - self.troubles_from, float(self.hedge.trouble_window)
        if now - self.trouble_at > self.hedge.trouble_s:
            self.troubles, self.troubles_from, span = 0.0, float(self.messages), 0.0
        elif span > window:
            self.troubles_from = self.messages - window / 2
            self.troubles *= window / 2 / span
            span = window / 2
        return self.troubles / max(1.0, span)

    def rate(self, now: float, window_s: float) -> float:
        """Return completions per second over the window; before enough are known, what the slots should do; or 0."""
        notes = self.rate_notes
        if notes and now - notes[-1][0] > RATE_PAUSE * window_s:
            notes.clear()
        while notes and now - notes[0][0] > window_s:
            notes.popleft()
        if not notes or now - notes[-1][0] >= RATE_EVERY_S:
            notes.append((now, self.samples))
        since, before = notes[0]
        done = self.samples - before
        if done >= RATE_LEAST and now > since:
            return done / (now - since)
        held_s = self.reference_s + self.stream_s
        return self.slots / held_s if held_s > 0.0 else 0.0


def _explore_every(settings: Settings) -> int:
    share = settings.exploration.share
    return int(1.0 / share) if share else NEVER


def make_pool(capability: str, settings: Settings) -> Pool:
    """Return a capability without members, its buckets as they are at first."""
    retry, hedge = settings.retry, settings.hedge
    return Pool(
        capability,
        retries=Bucket(retry.share, retry.most, start=retry.start, per_s=retry.per_s),
        hedges=Bucket(hedge.share, hedge.most),
        hedge=hedge,
        members={},
        explore_from=_explore_every(settings),
    )
