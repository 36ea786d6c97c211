"""Deliveries to backends of other daemons, from here: sent as FORWARDs, and what comes back told to the broker.

Rules:
- A delivery is open here until its RESULT has come, or until its backend is not registered any more; its id is the
  broker's own.
- What may have been lost with a link is asked for (ASK), at once and then every `ask_s`; what never came is sent again.
  The home begins nothing twice, so asking is always safe.
- A stream has no gap: pieces have numbers, and the last word says how many there were. One that lost a piece fails.
- What had not begun (`gone`, or `unreachable` at the first try) is excused like a DELIVER that never left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import UNSET, Struct, UnsetType

from router_daemon.core.actions import Deliver
from router_daemon.core.events import Ack, AckHeader, Nack, NackHeader, Part, PartHeader, Undelivered
from router_daemon.ring.abroad import Abroad, Remote
from router_daemon.ring.counts import RingCounts
from router_daemon.ring.messages import Ask, AskHeader, Forward, ForwardHeader, Result, RingCancel, RingCancelHeader
from router_daemon.ring.settings import RingSettings

ASK_FOR: Final = 1000
"""Ids in one ASK: some 10 KB."""


class Sent(Struct, eq=False):
    """A delivery that is not answered.

    Attributes:
        action: the broker's. remote: where to. at: the instance of its daemon.
        deadline: of the message (s). route: of several, that it takes. tries: how often it was sent. parts: that came.
    """

    action: Deliver
    remote: Remote
    at: int
    sent_at: float
    deadline: float
    route: str | UnsetType = UNSET
    tries: int = 0
    parts: int = 0


class Outbound:
    """The open deliveries; `send` routes a message, `feed` takes what the broker is to hear."""

    def __init__(
        self,
        settings: RingSettings,
        instance: int,
        abroad: Abroad,
        counts: RingCounts,
        send: Callable[[Any], None],
        feed: Callable[[Any], None],
    ) -> None:
        self._settings = settings
        self._me = settings.name
        self._instance = instance
        self._abroad = abroad
        self._counts = counts
        self._send = send
        self._feed = feed
        self.open: dict[int, Sent] = {}

    # --- out ---

    def deliver(self, action: Deliver, at: int, one_way_s: float, now: float) -> None:
        """Send a delivery of the broker to the daemon that has the backend, which is its process `at`."""
        remote = self._abroad.by_peer[action.peer]
        header = action.header
        deadline, route = now + header.ttl_ms / 1000.0, self._route_of(remote, header.id)
        sent = self.open[header.id] = Sent(action, remote, at, now, deadline, route)
        self._counts.forwarded += 1
        self._forward(sent, one_way_s, now)

    def _route_of(self, remote: Remote, number: int) -> str | UnsetType:
        """Return the route of a delivery's message, where the broker has more than one."""
        backend = self._abroad.backend(remote)
        delivery = None if backend is None else backend.open.get(number)
        return UNSET if delivery is None or delivery.message.route.tally is None else delivery.message.route.name

    def _forward(self, sent: Sent, one_way_s: float, now: float) -> None:
        sent.tries += 1
        header = sent.action.header
        left_ms = int((sent.deadline - now - one_way_s) * 1000.0)
        self._send(
            Forward(
                b"",
                ForwardHeader(
                    sent.remote.daemon,
                    sent.at,
                    sent.remote.name,
                    self._me,
                    self._instance,
                    header.id,
                    header.message,
                    header.capability,
                    header.priority,
                    max(1, left_ms),
                    header.attempt,
                    header.head,
                    header.heads,
                    0,
                    [],
                    header.embedding,
                    header.traceparent,
                    header.tracestate,
                    sent.route,
                ),
                sent.action.body,
            )
        )

    def cancel(self, delivery_id: int) -> None:
        """The answer is not wanted any more."""
        sent = self.open.get(delivery_id)
        if sent is not None:
            header = RingCancelHeader(sent.remote.daemon, sent.at, self._me, self._instance, delivery_id, 0, [])
            self._send(RingCancel(b"", header))

    def ask(self, older_than_s: float, now: float, only: Callable[[str], bool] | None = None) -> None:
        """Ask what became of what has been open for so long; forget what the broker does not wait for any more."""
        by_home: dict[tuple[str, int], list[int]] = {}
        for number, sent in list(self.open.items()):
            backend = self._abroad.backend(sent.remote)
            if backend is None or number not in backend.open:
                del self.open[number]
            elif now - sent.sent_at >= older_than_s and (only is None or only(sent.remote.daemon)):
                by_home.setdefault((sent.remote.daemon, sent.at), []).append(number)
        for (home, at), ids in by_home.items():
            for first in range(0, len(ids), ASK_FOR):
                self._counts.asked += 1
                some = ids[first : first + ASK_FOR]
                self._send(Ask(b"", AskHeader(home, at, self._me, self._instance, some, 0, [])))

    def lose(self, daemon: str) -> None:
        """A daemon cannot be reached, or is another process: the broker is about to hear that its backends are gone."""
        for number, sent in list(self.open.items()):
            if sent.remote.daemon == daemon:
                self._counts.results["lost"] += 1
                del self.open[number]

    # --- back ---

    def undelivered(self, message: Forward, *, full: bool) -> None:
        """A FORWARD of ours did not leave: no way, or a neighbour that reads too slowly."""
        sent = self.open.get(message.header.id)
        if sent is not None and sent.tries == 1:
            self._excuse(sent, "unreachable", full=full)

    def withdraw(self, message: Forward) -> Sent | None:
        """Take a FORWARD of ours back that has not left and is the first of its delivery; None where it is not."""
        sent = self.open.get(message.header.id) if message.header.origin == self._me else None
        return self.open.pop(message.header.id) if sent is not None and sent.tries == 1 else None

    def resume(self, sent: Sent) -> bool:
        """Go on with what was withdrawn where its backend can still be reached, else excuse it; tell which."""
        self.open[sent.action.header.id] = sent
        if sent.remote.peer in self._abroad.by_peer:
            return True
        self._excuse(sent, "unreachable", full=False)
        return False

    def _excuse(self, sent: Sent, why: str, *, full: bool = True) -> None:
        del self.open[sent.action.header.id]
        self._counts.results[why] += 1
        self._feed(Undelivered(sent.action, full=full))

    def result(self, message: Result, one_way_s: float, now: float) -> None:
        """RESULT: a piece, or what became of a delivery."""
        header = message.header
        sent = self.open.get(header.id)
        if sent is None or header.instance != self._instance:
            self._counts.strays += 1
        elif header.kind == "part":
            self._part(sent, message)
        elif header.kind == "nack":
            self._nack(sent, message, one_way_s, now)
        elif header.seq != sent.parts:
            self._gap(sent)
        else:
            del self.open[header.id]
            self._counts.results["ack"] += 1
            sent.remote.queue = sent.remote.queue if header.queue is UNSET else header.queue
            answer = AckHeader(header.id, header.queue)
            self._feed(Ack(sent.remote.peer, False, answer, message.body))

    def _part(self, sent: Sent, message: Result) -> None:
        seq = message.header.seq
        if seq == sent.parts:
            sent.parts += 1
            self._feed(Part(sent.remote.peer, False, PartHeader(message.header.id), message.body))
        elif seq > sent.parts:
            self._gap(sent)

    def _gap(self, sent: Sent) -> None:
        self._counts.gaps += 1
        self.cancel(sent.action.header.id)
        self._fail(sent, "failed", "a piece of the stream was lost on its way")

    def _fail(self, sent: Sent, code: Any, reason: str, retry_after_ms: Any = UNSET) -> None:
        number = sent.action.header.id
        del self.open[number]
        self._counts.results[code] += 1
        self._feed(Nack(sent.remote.peer, False, NackHeader(number, reason, code, retry_after_ms)))

    def _nack(self, sent: Sent, message: Result, one_way_s: float, now: float) -> None:
        header = message.header
        if header.code == "unknown":
            if now < sent.deadline:
                self._counts.resent += 1
                self._forward(sent, one_way_s, now)
        elif header.code == "unreachable":
            if sent.tries == 1:
                self._excuse(sent, "unreachable")
        elif header.code == "gone":
            self._excuse(sent, "gone")
        else:
            self._fail(sent, header.code or "failed", header.reason, header.retry_after_ms)

    def check(self) -> None:
        """Assert that whatever the broker waits for from abroad is known here, so that it is asked for."""
        for remote in self._abroad.by_peer.values():
            backend = self._abroad.backend(remote)
            for number in () if backend is None else backend.open:
                assert number in self.open, f"delivery {number} to {remote.daemon}/{remote.name} is forgotten"
