"""Why a message went where it went: a bounded record of the last decisions, with the numbers they were made by.

Rules:
- Always kept are messages that failed, were refused, cancelled, slow, critical, or had a further head; of the others
  one in so many, by the number of the message: nothing is drawn, and nothing that is decided depends on it.
- Terms are read when the decision is made, before anything of it takes effect, or they are not told at all. Those of
  all candidates are read for messages that are sampled or critical, and for every decision after the first (a retry, a
  hedge, a turn after waiting): all known beforehand. Of the first decision of a message that only turns out to be
  worth keeping, what its deliveries were charged with is known: exact, but of the chosen backends alone.
- An entry is made of texts and numbers: it keeps no body, no backend and no message alive.
- Both entries and bytes are bounded. Where there are too many, the oldest of the kind that has most goes, so that a
  flood of one kind cannot drive the others out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Final

from msgspec import UNSET

from router_daemon.core.backends import Backend
from router_daemon.core.choosing import Chooser
from router_daemon.core.messages import Delivery, Message
from router_daemon.core.pools import NEVER
from router_daemon.core.ranking import Account, Candidate, Policy, Ranking, RankingCache
from router_daemon.core.settings import Settings
from router_daemon.core.types import ClientId, Peer, Record
from router_daemon.core.waiting import CRITICAL

KINDS: Final = ("failed", "refused", "cancelled", "critical", "slow", "retried", "sampled")
"""Why an entry was kept: the first that fits."""
MOST_ROWS: Final = 64
MOST_DECISIONS: Final = 8
MOST_DELIVERIES: Final = 16
"""Of one message, NACKs `busy` allow any number of deliveries: further ones are counted, and not told."""
TEXT_CHARS: Final = 512
SCATTER: Final = 2654435761
"""Knuth's multiplicative hash (2^32 over the golden ratio): a fixed step would fall in with a rotation of backends."""
ENTRY_BYTES: Final = 1200
DELIVERY_BYTES: Final = 500
DECISION_BYTES: Final = 700
ROW_BYTES: Final = 720
"""What each part takes at most with its numbers, names aside; a test compares them with what is really there."""


class Row(Record):
    """One backend as a decision saw it.

    Attributes:
        head: 1 for the first head, ...; 0 for who was not chosen.
        verdict: `chosen`, `ranked` (compared, and others were better), or what stood against it: `tried`, `dear`,
            `threshold`, `full`, `ejected`, `paused`, `disconnected`, `reserved`, `busy` (no hedge to who is not surely
            idle), `unseen` (not among those drawn).
        score, values: as the policy compared it, values in the order of `Decided.terms`; None for who was not compared.
        expected_s, wait_s, service_s, success, samples: what was measured, as of this backend's last comparison.
    """

    backend: str
    head: int
    verdict: str
    score: float | None
    values: tuple[float, ...]
    open: int
    free: int
    slots: int
    other: float
    cost: float | None
    expected_s: float
    wait_s: float
    service_s: float
    success: float
    samples: int


class Decided(Record):
    """One decision.

    Attributes:
        kind: `first`, `served` (its turn after waiting), `retry`, `hedge`.
        cache: `hit`, or why the ranking was made for it: `miss`, `expired`, `invalidated`.
        terms: the names of the policy's terms. live: they are compared per message, not those of the ranking.
        candidates: how many there were; `rows` may be fewer.
        free, places, reserved, busy, slots, reference_s: of the capability.
    """

    at: float
    kind: str
    cache: str
    ranked_at: float
    policy: str
    threshold: float
    terms: tuple[str, ...]
    live: bool
    candidates: int
    free: int
    places: int
    reserved: int
    busy: float
    slots: int
    reference_s: float
    rows: tuple[Row, ...]


class Sent(Record):
    """One delivery, as it stood at the end of its message.

    Attributes:
        outcome: as in the metrics; "" for one that was out still.
        settled_at: when that was known. acked_at: of one that was blamed before, when its answer came.
        work_s: service expected there when it was sent. share: of the latency expected then, what was not waiting.
        queue: what the backend had reported last by the end of the message.
    """

    id: int
    backend: str
    head: int
    sent_at: float
    first_part_at: float | None
    settled_at: float | None
    acked_at: float | None
    outcome: str
    parts: int
    cancelled: bool
    trial: bool
    answered: bool
    work_s: float
    share: float
    queue: int | None


class Entry(Record):
    """One message.

    Attributes:
        kept: of `KINDS`; `open` for one that has not ended.
        asked: the mode that the client asked for. mode: that it was treated as. done: what came of it.
        route: the named policy it was assigned to; None where there are no routes.
        risked: it was sent to find out about a backend.
    """

    kept: str
    number: int
    name: str
    client: Peer
    id: ClientId
    traceparent: str | None
    capability: str
    priority: int
    asked: str | None
    mode: str
    done: str
    reply: str
    heads: int
    ttl_s: float
    max_cost: float | None
    bytes: int
    accepted_at: float
    ended_at: float
    outcome: str
    reason: str
    waited_s: float
    risked: bool
    route: str | None
    policy: str
    deliveries: tuple[Sent, ...]
    deliveries_in_all: int
    decisions: tuple[Decided, ...]

    @property
    def trace_id(self) -> str | None:
        """The trace id of the W3C trace context."""
        parts = (self.traceparent or "").split("-")
        return parts[1] if len(parts) > 1 else None

    def size(self) -> int:
        """Return about how many bytes it takes."""
        identity = self.id if isinstance(self.id, str | bytes) else ""
        size = ENTRY_BYTES + 4 * (len(identity) + len(self.traceparent or ""))  # a text takes up to 4 a character
        size += DELIVERY_BYTES * len(self.deliveries) + DECISION_BYTES * len(self.decisions)
        return size + ROW_BYTES * sum(len(decided.rows) for decided in self.decisions)


class Decisions:
    """The recorder.

    Attributes:
        sample_from: messages from this number on are due to be sampled.
        critical: messages of this priority are always recorded.
        slow_s, slow_times: an answer is slow after so long, or after so many reference latencies of its capability.
    """

    __slots__ = (
        "_bytes",
        "_cache",
        "_every",
        "_kinds",
        "_most",
        "_most_bytes",
        "_policy",
        "critical",
        "dropped",
        "kept",
        "sample_from",
        "slow_s",
        "slow_times",
    )

    def __init__(self, settings: Settings, policy: Policy, cache: RankingCache) -> None:
        why = settings.why
        on = why.entries > 0
        self._policy = policy
        self._cache = cache
        self._most, self._most_bytes = why.entries, why.bytes
        self._every = round(1.0 / why.sample) if why.sample else NEVER
        self._kinds: dict[str, deque[tuple[Entry, int]]] = {kind: deque() for kind in KINDS}
        self._bytes = dict.fromkeys(KINDS, 0)
        self.sample_from = self._every if on else NEVER
        self.critical = CRITICAL if on else CRITICAL + 1
        self.slow_s = inf if why.slow_s is None or not on else why.slow_s
        self.slow_times = why.slow_times if why.slow_times and on else inf
        self.kept = dict.fromkeys(KINDS, 0)
        self.dropped = 0

    # --- while a message is open ---

    def note(
        self, message: Message, ranking: Ranking, chosen: Sequence[Candidate], chooser: Chooser, kind: str, now: float
    ) -> None:
        """Record a decision that was just made and has had no effect yet."""
        if not self._most:
            return
        noted = message.decisions
        if message.number >= self.sample_from:
            self.sample_from = message.number + self._step(message.number)
        if noted is None:
            noted = message.decisions = []
        if len(noted) < MOST_DECISIONS:
            noted.append(self._decided(message, ranking, chosen, chooser, kind, now))

    def _step(self, number: int) -> int:
        """Return after how many messages the next is sampled: 1 / share on average, never in step with anything."""
        return 1 + (number * SCATTER >> 16) % (2 * self._every - 1)

    def _decided(
        self, message: Message, ranking: Ranking, chosen: Sequence[Candidate], chooser: Chooser, kind: str, now: float
    ) -> Decided:
        pool, policy = ranking.pool, self._policy
        tried = chooser.tried(message)
        able = chooser.among(message, ranking, hedge=kind == "hedge")
        critical = message.request.priority == CRITICAL
        reserved = 0 < pool.free <= pool.reserved and not critical
        compared: Account = ((), [])
        account: Callable[[Ranking, Sequence[Backend], float], Account] | None = getattr(policy, "account", None)
        if pool.free and not reserved:  # else nobody was compared, and what stands there is of some other moment
            compared = _as_ranked(able, tried) if account is None else account(able, tried, now)
        rows = _Rows(ranking, able, tried, chosen, reserved=reserved, hedge=kind == "hedge").of(compared)
        if account is not None and len(chosen) > 1 and pool.free and not reserved:
            _rescore(rows, chosen, lambda seen: account(able, [*tried, *seen], now))
        return Decided(
            now,
            kind,
            self._cache.state_of(ranking),
            ranking.made_at,
            policy.name,
            policy.threshold,
            compared[0],
            account is not None,
            len(ranking.candidates),
            pool.free,
            pool.places,
            pool.reserved,
            pool.busy,
            pool.slots,
            pool.reference_s,
            tuple(rows),
        )

    # --- when it ends ---

    def close(self, message: Message, outcome: str, now: float, *, refused: bool = False) -> None:
        """Keep a message that has ended, while its deliveries are there still, where it is one to be kept."""
        if not self._most:
            return
        kind = "refused" if refused else self._kind(message, outcome, now)
        if kind is not None:
            self._keep(self._entry(message, kind, outcome, now))

    def _kind(self, message: Message, outcome: str, now: float) -> str | None:
        if outcome in ("cancelled", "client_gone"):
            return "cancelled"
        if outcome != "answered":
            return "failed"
        if message.request.priority == self.critical:
            return "critical"
        if self._slow(message, now):
            return "slow"
        if message.decisions is None:
            return None
        return "retried" if any(d.kind in ("retry", "hedge") for d in message.decisions) else "sampled"

    def _slow(self, message: Message, now: float) -> bool:
        """Tell whether an answer was slow; of a stream, the time its kind takes to its end is allowed for."""
        seconds = now - message.accepted_at
        pool = message.deliveries[0].service.pool
        return seconds > self.slow_s or seconds > self.slow_times * (pool.reference_s + pool.stream_s)

    def _entry(self, message: Message, kind: str, outcome: str, now: float) -> Entry:
        request, deliveries, noted = message.request, message.deliveries, message.decisions or ()
        answered = _answered_by(message, outcome)
        trace = None if request.traceparent is UNSET else request.traceparent[:TEXT_CHARS]
        identity = request.id
        waiting_s = now - message.waits_since if message.line is not None else 0.0
        return Entry(
            kind,
            message.number,
            message.name,
            message.client.peer,
            identity if isinstance(identity, int) else identity[:TEXT_CHARS],
            trace,
            request.capability,
            request.priority,
            None if request.mode is UNSET else request.mode,
            message.mode,
            _done(message),
            request.reply,
            message.heads,
            message.deadline - message.accepted_at,
            None if request.max_cost is UNSET else request.max_cost,
            message.size,
            message.accepted_at,
            now,
            outcome,
            message.reason[:TEXT_CHARS],
            message.waited_s + waiting_s,
            message.risked,
            None,  # the route that the message was assigned to, once there are routes
            self._policy.name,
            tuple(_sent(delivery, now, answered) for delivery in deliveries[:MOST_DELIVERIES]),
            len(deliveries),
            tuple(noted),
        )

    def _keep(self, entry: Entry) -> None:
        kind, size = entry.kept, entry.size()
        self._kinds[kind].append((entry, size))
        self._bytes[kind] += size
        self.kept[kind] += 1
        while len(self) > self._most:
            self._drop(max(self._kinds, key=lambda each: len(self._kinds[each])))
        while self.bytes > self._most_bytes:
            self._drop(max(self._bytes, key=self._bytes.__getitem__))

    def _drop(self, kind: str) -> None:
        _, size = self._kinds[kind].popleft()
        self._bytes[kind] -= size
        self.dropped += 1

    # --- looking ---

    def __len__(self) -> int:
        """Return how many entries there are."""
        return sum(map(len, self._kinds.values()))

    @property
    def bytes(self) -> int:
        """About how many bytes they take."""
        return sum(self._bytes.values())

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries, the newest first."""
        entries = [entry for kept in self._kinds.values() for entry, _ in kept]
        return iter(sorted(entries, key=lambda entry: (entry.ended_at, entry.number), reverse=True))

    def of_open(self, message: Message, now: float) -> Entry:
        """Return what would be kept of a message that is open."""
        return self._entry(message, "open", "open", now)

    def check(self) -> None:
        """Assert that the bounds hold and the sums are those of the entries."""
        assert len(self) <= self._most
        assert self.bytes <= self._most_bytes
        for kind, kept in self._kinds.items():
            assert self._bytes[kind] == sum(size for _, size in kept)
            assert all(entry.kept == kind for entry, _ in kept)


class _Rows:
    """Makes the rows of one decision: of the chosen, the compared, then whoever there is room for."""

    def __init__(
        self,
        ranking: Ranking,
        able: Ranking,
        tried: Sequence[Backend],
        chosen: Sequence[Candidate],
        *,
        reserved: bool,
        hedge: bool,
    ) -> None:
        self._ranking = ranking
        self._able = {id(candidate) for candidate in able.candidates}
        self._candidates = {id(candidate) for candidate in ranking.candidates}
        self._tried = tried
        self._heads = {id(candidate): head for head, candidate in enumerate(chosen, 1)}
        self._chosen = chosen
        self._reserved = reserved
        self._hedge = hedge

    def of(self, compared: Account) -> list[Row]:
        """Return them; `compared`: names of terms, and (candidate, score, values) of whom the policy looked at."""
        known = {id(candidate): (score, values) for candidate, score, values in compared[1]}
        order = dict.fromkeys([*self._chosen, *(each[0] for each in compared[1])])
        if len(order) < MOST_ROWS:
            for candidate in self._ranking.scored:
                order[candidate] = None
                if len(order) >= MOST_ROWS:
                    break
        return [self._row(candidate, known.get(id(candidate))) for candidate in list(order)[:MOST_ROWS]]

    def _row(self, candidate: Candidate, known: tuple[float, tuple[float, ...]] | None) -> Row:
        backend, service, head = candidate.backend, candidate.service, self._heads.get(id(candidate), 0)
        score, values = (None, ()) if known is None else known
        verdict = "chosen" if head else "ranked" if known is not None else self._obstacle(candidate)
        info = backend.info
        return Row(
            info.name,
            head,
            verdict,
            score,
            values,
            len(backend.open),
            backend.free,
            info.slots,
            backend.other,
            backend.cost,
            service.expected_s,
            service.wait_s,
            service.service_s,
            service.success,
            service.samples,
        )

    def _obstacle(self, candidate: Candidate) -> str:
        """Return what stood against somebody who was not compared."""
        backend = candidate.backend
        if id(candidate) not in self._candidates:
            return "threshold"
        if backend in self._tried:
            return "tried"
        if not backend.connected:
            return "disconnected"
        if backend.ejected:
            return "ejected"
        if backend.limit == 0:
            return "paused"
        if backend.free <= 0:
            return "full"
        if id(candidate) not in self._able:
            return "busy" if self._hedge else "dear"
        return "reserved" if self._reserved else "unseen"


def _as_ranked(ranking: Ranking, tried: Sequence[Backend]) -> Account:
    """Return the terms of the ranking, of those with room: what they are chosen by, or all that is known of it."""
    looked = [c for c in ranking.candidates if c.backend.free > 0 and c.backend not in tried]
    names = tuple(looked[0].terms) if looked else ()
    return names, [(c, c.score, tuple(c.terms.values())) for c in looked]


def _rescore(rows: list[Row], chosen: Sequence[Candidate], account: Callable[[list[Backend]], Account]) -> None:
    """Give each further head the score it was chosen by: the earlier ones were not compared with it any more."""
    for place in range(1, len(chosen)):
        seen = [candidate.backend for candidate in chosen[:place]]
        for candidate, score, values in account(seen)[1]:
            if candidate is chosen[place]:
                rows[place].score, rows[place].values = score, values


def _answered_by(message: Message, outcome: str) -> Delivery | None:
    """Return the delivery whose answer the client got, with `reply: first`."""
    if outcome != "answered" or message.request.reply == "all":
        return None
    good = [d for d in message.deliveries if d.acked_at is not None or (d.counted and not d.outcome)]
    return good[0] if good else None


def _sent(delivery: Delivery, now: float, answered: Delivery | None) -> Sent:
    backend = delivery.backend
    acked = delivery.counted and not delivery.outcome
    settled_at = delivery.settled_at
    if settled_at is None and acked:
        settled_at = now  # the last answer is the end of the message
    return Sent(
        delivery.id,
        backend.info.name,
        delivery.head,
        delivery.sent_at,
        delivery.first_part_at,
        settled_at,
        delivery.acked_at,
        "acked" if acked else delivery.outcome,
        delivery.parts,
        delivery.cancelled,
        delivery.trial,
        delivery is answered,
        delivery.work_s,
        delivery.share,
        backend.queue,
    )


def _done(message: Message) -> str:
    """Return what came of the mode: `none`, `single`, `fanout`, or `hedge` where a second head was asked."""
    if not message.deliveries:
        return "none"
    if message.fan_out:
        return "fanout"
    return "hedge" if any(decided.kind == "hedge" for decided in message.decisions or ()) else "single"
