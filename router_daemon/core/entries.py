"""What is kept of a message and its decisions, and the room for it.

Rules:
- An entry is made of texts and numbers: it keeps no body, no backend and no message alive.
- Both entries and bytes are bounded. Where there are too many, the oldest of the kind that has most goes, so that a
  flood of one kind cannot drive the others out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from router_daemon.core.types import ClientId, Peer, Record

KINDS: Final = ("failed", "refused", "cancelled", "critical", "slow", "retried", "sampled")
"""Why an entry was kept: the first that fits."""
ENTRY_BYTES: Final = 1300
DELIVERY_BYTES: Final = 500
DECISION_BYTES: Final = 800
ROW_BYTES: Final = 640
"""What each part takes at most, with its numbers and without the names; a test compares them with what is there."""


class Row(Record):
    """One backend as a decision saw it. Kept as a plain tuple, which costs a fifth to make; see `Decided.seen`.

    Attributes:
        head: 1 for the first head, ...; 0 for who was not chosen.
        verdict: `chosen`, `ranked` (compared, and others were better), `slower` (the best with room, or worse, and the
            message waits for a full one), or what stood against it: `tried`, `dear`, `threshold`, `full`, `ejected`,
            `paused`, `disconnected`, `reserved`, `busy` (no hedge to who is not surely idle), `unseen` (not among those
            drawn).
        score, values: as the policy compared it, values in the order of `Decided.terms`; None and () where it did not.
        open, free: deliveries there, and how many more it could have got. other: what it had from elsewhere.
        expected_s, wait_s, service_s, success, samples: what was measured, as of when it was last compared.
    """

    backend: str
    head: int
    verdict: str
    score: float | None
    values: tuple[float, ...]
    open: int
    free: int
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
        live: the terms are compared anew for each message; else they are those of the ranking.
        terms: their names.
        candidates: how many there were; `rows` may be fewer.
        free, places, reserved, busy, slots, reference_s: of the capability.
        rows: see `Row`.
    """

    at: float
    kind: str
    cache: str
    ranked_at: float
    policy: str
    threshold: float
    live: bool
    terms: tuple[str, ...]
    candidates: int
    free: int
    places: int
    reserved: int
    busy: float
    slots: int
    reference_s: float
    rows: list[tuple[Any, ...]]

    def seen(self) -> list[Row]:
        """Return the rows, heads first, then by score, then those who were not compared."""
        rows = [Row(*row) for row in self.rows]
        rows.sort(key=lambda row: (not row.head, row.head, row.score is None, -(row.score or 0.0)))
        return rows


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
        named: the backend that the message asks for, the only one it may go to.
        route: the named policy it was assigned to; `stable` where there is no other.
        risked: it was sent to find out about a backend.
        sent: how many deliveries it had; `deliveries` may be fewer. decided: the same of `decisions`.
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
    named: str | None
    bytes: int
    accepted_at: float
    ended_at: float
    outcome: str
    reason: str
    waited_s: float
    risked: bool
    route: str
    policy: str
    sent: int
    decided: int
    deliveries: list[Sent]
    decisions: list[Decided]

    @property
    def trace_id(self) -> str | None:
        """The trace id of the W3C trace context."""
        parts = (self.traceparent or "").split("-")
        return parts[1] if len(parts) > 1 else None

    def size(self) -> int:
        """Return about how many bytes it takes, at most."""
        size = ENTRY_BYTES + DELIVERY_BYTES * len(self.deliveries)
        identity, trace = self.id, self.traceparent
        if not isinstance(identity, int):
            size += 4 * len(identity)  # a character of a text takes up to four
        if trace is not None:
            size += 4 * len(trace)
        for decided in self.decisions:
            size += DECISION_BYTES + ROW_BYTES * len(decided.rows)
        return size


class Shelf:
    """The entries by kind, bounded together.

    Args:
        most, most_bytes: of all kinds.

    Attributes:
        entries, bytes: how many there are, and what they take.
        kept: how many ever, by kind. passed_over: refusals that were not kept, since there were too many.
    """

    __slots__ = ("_by_kind", "_bytes", "_most", "_most_bytes", "bytes", "entries", "kept", "passed_over")

    def __init__(self, most: int = 0, most_bytes: int = 0) -> None:
        self._by_kind: dict[str, deque[tuple[Entry, int]]] = {kind: deque() for kind in KINDS}
        self._bytes = dict.fromkeys(KINDS, 0)
        self.entries = self.bytes = self.passed_over = 0
        self.kept = dict.fromkeys(KINDS, 0)
        self.configure(most, most_bytes)

    def configure(self, most: int, most_bytes: int) -> None:
        """Set the limits; the oldest beyond them go."""
        self._most = most
        self._most_bytes = most_bytes
        self._shrink()

    def put(self, entry: Entry) -> None:
        """Keep an entry; an older one may go for it, or itself where it is larger than all the room."""
        kind, size = entry.kept, entry.size()
        self._by_kind[kind].append((entry, size))
        self._bytes[kind] += size
        self.bytes += size
        self.entries += 1
        self.kept[kind] += 1
        self._shrink()

    def _shrink(self) -> None:
        while self.entries > self._most:
            self._drop(max(self._by_kind.values(), key=len)[0][0].kept)
        while self.bytes > self._most_bytes:
            self._drop(max(KINDS, key=self._bytes.__getitem__))

    def _drop(self, kind: str) -> None:
        _, size = self._by_kind[kind].popleft()
        self._bytes[kind] -= size
        self.bytes -= size
        self.entries -= 1

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries, the last to end first."""
        entries = [entry for shelved in self._by_kind.values() for entry, _ in shelved]
        return iter(sorted(entries, key=lambda entry: (entry.ended_at, entry.number), reverse=True))

    def check(self) -> None:
        """Assert that the bounds hold and the sums are those of the entries."""
        assert self.entries == sum(map(len, self._by_kind.values())) <= self._most
        assert self.bytes == sum(self._bytes.values()) <= self._most_bytes
        for kind, shelved in self._by_kind.items():  # each entry was asked for its size once: all of them every step
            assert bool(shelved) == (self._bytes[kind] > 0)  # would be most of the time of a long test
