"""Deliveries of other daemons to backends of ours: begun once each, and their answers kept to be said again.

Rules:
- `(origin, instance, id)` names a delivery. One that comes again while it is open is ignored; one that has ended is
  told its answer again. How many are remembered, and the answers for how long and of how many bytes, is bounded; an
  answer that is not kept any more is `failed`: it may have run.
- A daemon that cannot be reached gets what it has open here cancelled, as a client that is gone.
- A CANCEL for what has not come yet is remembered as its answer: it may have overtaken it.
- Only backends of our own: nothing is passed on twice.
- `gone` and `busy` are said of what has surely not begun, as it may then run elsewhere even where it may run only once.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

from msgspec import UNSET, Struct

from router_daemon.core.actions import Error, Piece, Reply
from router_daemon.core.events import Cancel, CancelHeader, ForeignSend, Gone, Request
from router_daemon.core.registry import Registry
from router_daemon.core.types import Body, Peer, RingPeer, Side
from router_daemon.ring.counts import MOST_HOPS, RingCounts
from router_daemon.ring.messages import Ask, Forward, ForwardHeader, Result, ResultHeader, RingCancel
from router_daemon.ring.settings import RingSettings

Key: TypeAlias = tuple[str, int, int]
Kind: TypeAlias = Literal["ack", "nack", "part"]
Code: TypeAlias = Literal["", "failed", "busy", "rejected", "cancelled", "gone", "unreachable", "unknown"]

CODES: Final[dict[str, Code]] = {
    "rejected": "rejected",
    "cancelled": "cancelled",
    "overloaded": "busy",
    "draining": "gone",
    "unknown_backend": "gone",
    "no_backend": "gone",
    "no_capability": "gone",
}
"""What an ERROR of our broker means to the origin; any other one: `failed`."""
_ANOTHER: Final = "another process has taken its place"


class Stay(Struct):
    """One delivery of a guest that is not answered: where, and how many pieces were passed back."""

    backend: str
    parts: int = 0


class Guest(Struct, eq=False):
    """Another daemon's process, a client of our broker; `open`: its deliveries here, by their ids there."""

    name: str
    instance: int
    peer: RingPeer
    open: dict[int, Stay] = {}


class Home:
    """See the module; `send` routes a message, `feed` takes what the broker is to hear."""

    def __init__(
        self,
        settings: RingSettings,
        instance: int,
        registry: Registry,
        prefix: bytes,
        counts: RingCounts,
        send: Callable[[Any], None],
        feed: Callable[[Any], None],
    ) -> None:
        self._settings = settings
        self._instance = instance
        self._registry = registry
        self._prefix = prefix
        self._counts = counts
        self._send = send
        self._feed = feed
        self.guests: dict[Peer, Guest] = {}
        self._stays: Counter[str] = Counter()
        self._waiting: dict[str, int] = {}
        self._closed = False
        self._done: OrderedDict[Key, Result | None] = OrderedDict()
        self._kept: deque[tuple[float, Key, int]] = deque()
        self._kept_bytes = 0

    # --- what other daemons say ---

    def forward(self, message: Forward, now: float) -> None:
        """FORWARD: begin it, unless it has come before."""
        header = message.header
        self._counts.hops[min(header.hops, MOST_HOPS)] += 1
        guest = self._guest(header.origin, header.instance)
        if header.id in guest.open or (header.origin, header.instance, header.id) in self._done:
            self._counts.duplicates += 1
            self._again(guest, header.id)
            return
        if header.at != self._instance:  # the process that was asked before may have begun it
            self._send(self._nack(guest, header.id, "failed", _ANOTHER))
            return
        backend = self._registry.by_name.get(header.backend)
        if backend is None or type(backend.peer) is RingPeer:
            self._finish(guest, header.id, self._nack(guest, header.id, "gone", f"no {header.backend!r} here"), now)
            return
        self._counts.taken += 1
        guest.open[header.id] = Stay(header.backend)
        self._stays[header.backend] += 1
        self._feed(_foreign(guest.peer, header, message.body))

    def cancel(self, message: RingCancel, now: float) -> None:
        """CANCEL."""
        header = message.header
        guest = self._guest(header.origin, header.instance)
        if header.id in guest.open:
            self._feed(Cancel(guest.peer, False, CancelHeader(header.id)))
        elif header.at == self._instance and (header.origin, header.instance, header.id) not in self._done:
            self._finish(guest, header.id, self._nack(guest, header.id, "cancelled"), now)

    def ask(self, message: Ask) -> None:
        """ASK: say again what has ended, and what never came."""
        header = message.header
        guest = self._guest(header.origin, header.instance)
        for number in header.ids:
            if header.at != self._instance:
                self._send(self._nack(guest, number, "failed", _ANOTHER))
            elif (header.origin, header.instance, number) in self._done:
                self._again(guest, number)
            elif number not in guest.open:
                self._send(self._nack(guest, number, "unknown"))

    def close(self) -> None:
        """The daemon exits: what is open ends now, whether it has begun or not."""
        self._closed = True

    def leave(self, origin: str, now: float) -> None:
        """A daemon cannot be reached, or is another process now: end what it has open here."""
        for guest in [guest for guest in self.guests.values() if guest.name == origin]:
            self._dismiss(guest, now)

    def _dismiss(self, guest: Guest, now: float) -> None:
        del self.guests[guest.peer]
        self._feed(Gone(Side.CLIENT, guest.peer))
        for number in list(guest.open):
            self._end(guest, number)
            self._keep(guest, number, self._nack(guest, number, "failed", "its origin was out of reach"), now)

    def _guest(self, name: str, instance: int) -> Guest:
        peer = RingPeer(self._prefix + f"{name}/{instance}/".encode())
        guest = self.guests.get(peer)
        if guest is None:
            if len(self.guests) >= 2 * self._settings.max_daemons:
                idle = next((guest for guest in self.guests.values() if not guest.open), None)
                if idle is not None:
                    self._dismiss(idle, 0.0)
            guest = self.guests[peer] = Guest(name, instance, peer)
        return guest

    # --- what our broker answers ---

    def answer(self, action: Reply | Piece | Error, now: float) -> None:
        """Send what the broker says to a guest to its origin."""
        guest = self.guests.get(action.peer)
        stay = None if guest is None else guest.open.get(action.header.id)
        if guest is None or stay is None:
            return
        number = action.header.id
        if isinstance(action, Piece):
            self._send(self._result(guest, number, "part", action.body, seq=action.header.seq))
            stay.parts += 1
            return
        queue = self.queue(stay.backend) if isinstance(action, Reply) else UNSET
        if isinstance(action, Reply):
            result = self._result(guest, number, "ack", action.body, seq=stay.parts)
            result.header.elapsed_ms = action.header.elapsed_ms
        else:
            code = "failed" if self._closed else CODES.get(action.header.code, "failed")
            result = self._nack(guest, number, code, action.header.detail)
            result.header.seq = stay.parts
            if action.header.code == "overloaded":
                result.header.retry_after_ms = action.header.retry_after_ms
        result.header.queue = queue
        self._finish(guest, number, result, now)

    def queue(self, name: str) -> int:
        """Return how many deliveries are open or wait at a backend of ours; those that wait as last counted."""
        backend = self._registry.by_name.get(name)
        return 0 if backend is None else len(backend.open) + round(backend.other) + self._waiting.get(name, 0)

    def count_waiting(self) -> None:
        """Count the deliveries of other daemons that wait for each backend; seldom, as all open ones are looked at."""
        self._waiting.clear()
        for name, stays in self._stays.items():
            backend = self._registry.by_name.get(name)
            held = () if backend is None else backend.open.values()
            placed = sum(d.message.client.trusted and not d.message.ended for d in held)
            if stays > placed:
                self._waiting[name] = stays - placed

    # --- answers ---

    def _result(self, guest: Guest, number: int, kind: Kind, body: Body = (), *, seq: int = 0) -> Result:
        return Result(
            b"", ResultHeader(guest.name, guest.instance, number, self._settings.name, kind, 0, [], seq), body
        )

    def _nack(self, guest: Guest, number: int, code: Code, reason: str = "") -> Result:
        result = self._result(guest, number, "nack")
        result.header.code, result.header.reason = code, reason
        return result

    def _again(self, guest: Guest, number: int) -> None:
        """Say an answer again; nothing of what is still open."""
        key = (guest.name, guest.instance, number)
        if key in self._done:
            result = self._done[key]
            self._send(result or self._nack(guest, number, "failed", "its answer is not kept any more"))

    def _finish(self, guest: Guest, number: int, result: Result, now: float) -> None:
        self._end(guest, number)
        self._keep(guest, number, result, now)
        self._send(result)

    def _end(self, guest: Guest, number: int) -> None:
        stay = guest.open.pop(number, None)
        if stay is not None:
            self._stays[stay.backend] -= 1
            if not self._stays[stay.backend]:
                del self._stays[stay.backend]

    def _keep(self, guest: Guest, number: int, result: Result, now: float) -> None:
        key, size = (guest.name, guest.instance, number), sum(map(len, result.body))
        self._done[key] = result
        self._kept.append((now, key, size))
        self._kept_bytes += size
        self.forget_old(now)

    def forget_old(self, now: float) -> None:
        """Let go of answers that are old, or too many; and of the oldest deliveries where too many are remembered."""
        settings = self._settings
        while self._kept and (
            now - self._kept[0][0] > settings.keep_s
            or len(self._kept) > settings.keep_results
            or self._kept_bytes > settings.keep_bytes
        ):
            _, key, size = self._kept.popleft()
            self._kept_bytes -= size
            if key in self._done:
                self._done[key] = None
        while len(self._done) > settings.remember:
            self._done.popitem(last=False)

    def check(self, taken: Callable[[Peer, int], bool]) -> None:
        """Assert that what is open here is open at the broker (`taken`), and the sums."""
        for guest in self.guests.values():
            for number in guest.open:
                assert taken(guest.peer, number), f"{number} of {guest.name} is open here alone"
        stays = Counter(stay.backend for guest in self.guests.values() for stay in guest.open.values())
        assert stays == self._stays
        assert self._kept_bytes == sum(size for *_, size in self._kept)
        assert len(self._kept) <= self._settings.keep_results


def _foreign(peer: RingPeer, header: ForwardHeader, body: Body) -> ForeignSend:
    """Return the SEND that a FORWARD is to our broker: to that backend, streamed, whatever its client asked for."""
    request = Request(
        header.id,
        header.capability,
        header.priority,
        header.ttl_ms,
        embedding=header.embedding,
        policy=header.route,
        backend=header.backend,
        traceparent=header.traceparent,
        tracestate=header.tracestate,
    )
    return ForeignSend(peer, False, request, body, header.message, header.attempt - 1, header.heads)
