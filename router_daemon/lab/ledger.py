"""What was asked and what came of it, as the clients saw it: one record per SEND, and the promises checked on them.

Rules:
- Every SEND ends in exactly one answer with `last: true`, by its time to live + 100 ms after the daemon has read it;
  nothing is said of it after that, and what comes back is what was sent.
- What may not run twice is delivered again only after a delivery that was not begun.
- A record is found by connection and id, as a client would; a delivery's by the number in its body, which is the
  simulation's own mark. The broker's names and tables are not asked.
- At the end nothing is open, and the broker has counted what the clients saw.
- In a ring a delivery is seen where the backend is: no delivery of a message is ever begun twice, whatever happens to
  links and daemons; it may still begin when the message has just ended elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from msgspec import UNSET
from msgspec.structs import asdict

from router_daemon.core.actions import Accept, Deliver, Error, Piece, Reply
from router_daemon.core.broker import Broker
from router_daemon.core.events import Request
from router_daemon.core.types import Peer
from router_daemon.lab.timeline import BrokenError

GRACE_S: Final = 0.1


class Record:
    """One SEND.

    Attributes:
        number: in the world. daemon: which one was asked.
        sent_at, deadline: seconds; the deadline counts from when the daemon read it.
        ended_at: of the last answer; None while there is none.
        first_at: of the first PART or answer.
        outcome: "answered", "accepted" (the last word of `reply: none`), "client_gone", "daemon_gone" (it has crashed),
            or an error code.
        deliveries: how often it was sent to a backend. replies: REPLYs.
        once: it may not run twice. begun: it may have run.
    """

    __slots__ = (
        "begun",
        "body",
        "connection",
        "daemon",
        "deadline",
        "deliveries",
        "ended_at",
        "first_at",
        "number",
        "once",
        "outcome",
        "pieces",
        "replies",
        "request",
        "sent_at",
    )

    def __init__(self, number: int, connection: Peer, daemon: int, request: Request, body: tuple[bytes, ...]) -> None:
        self.number = number
        self.connection = connection
        self.daemon = daemon
        self.request = request
        self.body = body
        self.sent_at = 0.0
        self.deadline = 0.0
        self.ended_at: float | None = None
        self.first_at: float | None = None
        self.outcome = ""
        self.deliveries = 0
        self.once = self.begun = False
        self.replies = 0
        self.pieces: dict[int, int] | None = None

    @property
    def latency_s(self) -> float:
        """From the SEND to the last answer."""
        assert self.ended_at is not None
        return self.ended_at - self.sent_at

    def __repr__(self) -> str:
        said = {key: value for key, value in asdict(self.request).items() if value is not UNSET}
        return f"<SEND {self.number} at {self.sent_at:.6f} by {self.connection!r}: {said}>"


class Ledger:
    """The records of all SENDs, of all daemons.

    Attributes:
        records: in the order in which they were sent; the number of each is its index.
        open: those without a last answer, per connection and id.
        moved_at: per daemon, when it last went on after having stood still; what was due before comes then.
        ring: the daemons are a ring.
    """

    def __init__(self, *, ring: bool = False) -> None:
        self.ring = ring
        self._attempts: set[tuple[int, int]] = set()
        self.records: list[Record] = []
        self.open: dict[tuple[Peer, Any], Record] = {}
        self.moved_at: dict[int, float] = {}
        self.on_empty: Callable[[], None] | None = None
        self._refusals: Counter[tuple[Peer, Any]] = Counter()
        self._once: dict[tuple[int, int], Record] = {}
        self._garbled: dict[tuple[Peer, Any], None] = {}

    # --- what goes in ---

    def sent(self, record: Record, now: float, ttl_ms: int) -> None:
        """The daemon is about to read a SEND."""
        record.sent_at = now
        record.deadline = now + ttl_ms / 1000.0
        self.open[record.connection, record.request.id] = record

    def repeated(self, record: Record) -> None:
        """The daemon is about to read a SEND with an id that is taken."""
        self._refusals[record.connection, record.request.id] += 1

    def not_begun(self, daemon: int, delivery_id: int) -> None:
        """The daemon is about to hear that a delivery was not begun: NACK `busy`, or it never left."""
        record = self._once.pop((daemon, delivery_id), None)
        if record is not None:
            record.begun = False

    def garbled(self, connection: Peer, client_id: str) -> None:
        """The daemon is about to read a SEND that says nothing but its id."""
        self._garbled[connection, client_id] = None

    def gone(self, connection: Peer, now: float) -> None:
        """The daemon is about to hear that a client is gone: nothing more may be said to it."""
        for record in [record for record in self.open.values() if record.connection == connection]:
            self._end(record, "client_gone", now)

    def crashed(self, daemon: int, now: float) -> None:
        """A daemon is no more: its clients will hear nothing of what they have sent it."""
        for record in [record for record in self.open.values() if record.daemon == daemon]:
            self._end(record, "daemon_gone", now)

    # --- what comes out ---

    def delivered(self, daemon: int, action: Deliver, now: float) -> None:
        """A daemon sends a message to a backend."""
        header = action.header
        record = self.records[int.from_bytes(action.body[0], "big")]
        if self.ring:
            self._delivered_in_ring(daemon, record, action)
            return
        if record.ended_at is not None and record.outcome != "accepted":
            raise BrokenError(f"{record} has ended, and is delivered: {header}")
        record.deliveries += 1
        if header.attempt != record.deliveries or header.head != record.deliveries:
            raise BrokenError(f"delivery {record.deliveries} of {record} says {header}")
        if not 1 <= header.ttl_ms <= (record.deadline - now) * 1000.0 + 1.0:
            raise BrokenError(f"{record} has {record.deadline - now} s left, and is delivered with {header.ttl_ms} ms")
        self._begin_once(daemon, record, action)

    def _delivered_in_ring(self, daemon: int, record: Record, action: Deliver) -> None:
        header = action.header
        record.deliveries += 1
        if daemon == record.daemon and record.ended_at is not None and record.outcome != "accepted":
            raise BrokenError(f"{record} has ended, and is delivered: {header}")
        if (record.number, header.attempt) in self._attempts:
            raise BrokenError(f"delivery {header.attempt} of {record} is begun twice")
        self._attempts.add((record.number, header.attempt))
        if header.head != header.attempt or header.heads < header.head:
            raise BrokenError(f"a delivery of {record} says {header}")
        self._begin_once(daemon, record, action)

    def _begin_once(self, daemon: int, record: Record, action: Deliver) -> None:
        if record.once:
            if record.begun:
                raise BrokenError(f"{record} may not run twice, and is sent again: {action.header}")
            record.begun = True
            self._once[daemon, action.header.id] = record

    def replied(self, action: Reply, now: float) -> None:
        """REPLY to a client."""
        header = action.header
        record = self._record(action)
        record.replies += 1
        if tuple(action.body) != record.body:
            raise BrokenError(f"another body than that of {record}: {action}")
        if header.heads != record.deliveries and not self.ring:
            raise BrokenError(f"{record} was delivered {record.deliveries} times: {header}")
        if record.first_at is None:
            record.first_at = now
        if header.last:
            self._last(record, "answered", now)
        elif record.request.reply != "all":
            raise BrokenError(f"a REPLY that is not the last to {record}")

    def piece(self, action: Piece, now: float) -> None:
        """PART to a client."""
        header, record = action.header, self._record(action)
        if record.pieces is None:
            record.pieces = {}
        if action.delimited:
            raise BrokenError(f"a PART to a peer that gets one message for each of its own: {action}")
        if header.seq != record.pieces.get(header.head, 0):
            raise BrokenError(f"the stream to {record} has a gap: {header}")
        record.pieces[header.head] = header.seq + 1
        if record.request.reply == "none" or (record.request.reply == "first" and len(record.pieces) > 1):
            raise BrokenError(f"a second stream to {record}: {header}")
        if record.first_at is None:
            record.first_at = now

    def accepted(self, action: Accept, now: float) -> None:
        """ACCEPT to a client."""
        if action.header.last:
            self._last(self._record(action), "accepted", now)

    def refused(self, action: Error, now: float) -> None:
        """ERROR to a client."""
        header = action.header
        if header.code == "duplicate_id":
            key = (action.peer, header.id)
            if not self._refusals[key] or header.last is not False:
                raise BrokenError(f"nothing of that id was sent twice: {header}")
            self._refusals[key] -= 1
        elif (action.peer, header.id) in self._garbled and header.last is True:
            del self._garbled[action.peer, header.id]
        elif header.last is True:
            record = self._record(action)
            self._last(record, "answered" if record.replies else header.code, now)
        elif header.id is not None and (header.head is UNSET or self._record(action).request.reply != "all"):
            raise BrokenError(f"an ERROR of a SEND that is not the last: {header}")

    def _record(self, action: Reply | Piece | Accept | Error) -> Record:
        record = self.open.get((action.peer, action.header.id))
        if record is None:
            raise BrokenError(f"nothing of that id is open at {action.peer!r}: {action}")
        return record

    def _last(self, record: Record, outcome: str, now: float) -> None:
        if now > record.deadline + GRACE_S and now > self.moved_at.get(record.daemon, 0.0) + GRACE_S:
            raise BrokenError(f"{record} was due at {record.deadline}, and is answered at {now}")
        self._end(record, outcome, now)

    def _end(self, record: Record, outcome: str, now: float) -> None:
        record.ended_at = now
        record.outcome = outcome
        del self.open[record.connection, record.request.id]
        if not self.open and self.on_empty is not None:
            self.on_empty()

    # --- the end ---

    def overdue(self, now: float) -> list[Record]:
        """Return those whose time is up without a last answer."""
        return [record for record in self.open.values() if now > record.deadline + GRACE_S]

    def compare(self, daemon: int, broker: Broker, delivered: int, *, foreign: int = 0) -> None:
        """Assert that a stopped broker has nothing open, and has counted what its clients and backends have seen.

        `foreign`: of what it has counted, the messages of other daemons; `delivered`: those to other daemons, too.
        """
        if broker.open_messages:
            raise BrokenError(f"daemon {daemon} has stopped, and has {broker.open_messages} open messages")
        if left := [key for key, count in self._refusals.items() if count]:
            raise BrokenError(f"no duplicate_id for {left}")
        if self._garbled:
            raise BrokenError(f"no last answer to {list(self._garbled)}")
        counted: Counter[str] = Counter()
        for series in broker.counts.capabilities.values():
            counted.update(series.outcomes)
        mine = [record for record in self.records if record.daemon == daemon]
        if counted.total() != len(mine) + foreign:
            sent = len(mine) + foreign
            raise BrokenError(f"daemon {daemon} was sent {sent} messages, and has counted {counted.total()}")
        seen = Counter(record.outcome for record in mine if record.request.reply == "first")
        for outcome, count in seen.items():
            if count > counted[outcome]:
                told = f"{count} messages have ended in {outcome}"
                raise BrokenError(f"daemon {daemon}: {told}, and it has counted {counted[outcome]}")
        ended = sum(sum(series.outcomes.values()) for series in broker.counts.backends.values())
        if ended != delivered:
            raise BrokenError(f"daemon {daemon} has delivered {delivered} times, and counted {ended} ends of that")
