"""A transport on real sockets in this process, with raw ZeroMQ peers around it; nothing sleeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import count
from typing import Any, Final

import psutil
import zmq

from router_daemon.core import actions
from router_daemon.core.actions import Action
from router_daemon.core.events import Ack, Cancel, Event, Gone
from router_daemon.core.types import Peer, Side
from router_daemon.native import NativeTransport
from router_daemon.transport import SocketLimits, ZmqTransport
from router_daemon.wire import Limits

PATIENCE_S: Final = 5.0
LOOK_AGAIN_S: Final = 0.002
SEND: Final = b"\x82\xa2id\x01\xaacapability\xa1c"
MIB: Final = 1_048_576

Kind = type[ZmqTransport] | type[NativeTransport]
Context = zmq.Context[zmq.Socket[bytes]]


def socket_limits(
    message: Limits | None = None, *, high_water_mark: int = 8, unread_bytes: int = 64 * MIB
) -> SocketLimits:
    return SocketLimits(message or Limits(), high_water_mark, unread_bytes)


class Bench:
    """A started transport, what it has received, and its peers."""

    def __init__(self, kind: Kind, context: Context, limits: SocketLimits) -> None:
        self.transport = kind(limits, limits)
        self.context = context
        self.addresses: list[str] = []
        self.received: list[Event] = []
        self.problems: list[Event] = []
        self.sockets: list[zmq.Socket[bytes]] = []
        self._numbers = count(10_000)
        self._woken = asyncio.Event()

    async def start(self, addresses: Sequence[str]) -> None:
        self.addresses = list(addresses)
        await self.transport.start([[address] for address in addresses], self._woken.set)

    async def stop(self) -> None:
        for socket in self.sockets:
            socket.close(0)
        await self.transport.close(0.0)

    def peer(self, side: Side = Side.CLIENT, kind: int = zmq.DEALER, **options: int) -> zmq.Socket[bytes]:
        """Return a new peer of that side."""
        socket = self.context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        for name, value in options.items():
            socket.setsockopt(getattr(zmq, name), value)
        socket.connect(self.addresses[side])
        self.sockets.append(socket)
        return socket

    def close(self, *sockets: zmq.Socket[bytes], linger_ms: int = 1_000) -> None:
        for socket in sockets:
            self.sockets.remove(socket)
            socket.close(linger_ms)

    def look(self, limit: int = 256) -> list[Event]:
        """Receive one batch."""
        batch = self.transport.receive(limit, 1.0)
        self.received += batch
        return batch

    async def until(self, done: Callable[[], Any]) -> None:
        """Receive, and send what is parked, until something is so."""
        give_up_at = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < give_up_at, f"never so; received {len(self.received)}: {self.received[-3:]}"
            while self.look():
                pass
            if self.transport.parked:
                self.problems += self.transport.flush()
            await self.turn()

    async def turn(self) -> None:
        """Let the event loop look at its sockets; sooner where the transport wakes us."""
        self._woken.clear()
        try:
            await asyncio.wait_for(self._woken.wait(), LOOK_AGAIN_S)
        except TimeoutError:
            return

    async def until_closed(self, side: Side = Side.CLIENT) -> None:
        """Without looking at what has come, wait until the system knows of no connection to a side any more."""
        port = int(self.addresses[side].rpartition(":")[2])
        give_up_at = time.monotonic() + PATIENCE_S
        while any(
            connection.status != psutil.CONN_LISTEN and connection.laddr.port == port
            for connection in psutil.Process().net_connections("tcp")
        ):
            assert time.monotonic() < give_up_at
            await self.turn()

    async def read(self, socket: zmq.Socket[bytes], count: int = 1) -> list[list[bytes]]:
        """Return so many messages that come for a peer."""
        got: list[list[bytes]] = []

        def drain() -> bool:
            while len(got) < count and socket.poll(0):
                got.append(socket.recv_multipart())
            return len(got) == count

        await self.until(drain)
        return got

    async def meet(self, socket: zmq.Socket[bytes], side: Side = Side.CLIENT) -> Peer:
        """Let a peer say something of its own; return what it is called."""
        number = next(self._numbers)
        command = b"CAR1.CANCEL" if side is Side.CLIENT else b"CAR1.ACK"
        socket.send_multipart([command, b"\x81\xa2id\xcd" + number.to_bytes(2, "big")])
        found: list[Peer] = []

        def heard() -> bool:
            found[:] = [
                event.peer for event in self.received if isinstance(event, Cancel | Ack) and event.header.id == number
            ]
            return bool(found)

        await self.until(heard)
        return found[0]

    def gone(self) -> list[Peer]:
        """Return who was reported gone, in that order."""
        return [event.peer for event in [*self.received, *self.problems] if isinstance(event, Gone)]

    def send(self, *out: Action) -> list[Event]:
        problems = self.transport.send(out)
        self.problems += problems
        return problems


def run(
    kind: Kind,
    context: Context,
    test: Callable[[Bench], Coroutine[Any, Any, None]],
    *,
    limits: SocketLimits | None = None,
    addresses: Sequence[str] = ("tcp://127.0.0.1:0", "tcp://127.0.0.1:0"),
) -> None:
    """Run a test against a started transport."""
    from conftest import free_port

    async def main() -> None:
        bench = Bench(kind, context, limits or socket_limits())
        places = [place.replace(":0", f":{free_port()}") if place.endswith(":0") else place for place in addresses]
        try:
            await bench.start(places)
            await test(bench)
        finally:
            await bench.stop()

    asyncio.run(main())


def piece(peer: Peer, *body: Any, seq: int = 0) -> actions.Piece:
    """Return a PART for a client."""
    return actions.Piece(peer, False, actions.PieceHeader(1, "m1", "a", 1, seq), body)


def reply(peer: Peer, *body: Any, delimited: bool = False) -> actions.Reply:
    return actions.Reply(peer, delimited, actions.ReplyHeader(1, "m1", "a", 1, 1, 0.5, True), body)


def deliver(peer: Peer, number: int, *body: Any) -> actions.Deliver:
    return actions.Deliver(peer, False, actions.DeliverHeader(number, "m1", "c", 2, 5, 1, 1, 1), body)


def ended(peer: Peer) -> actions.Error:
    """Return an ERROR: a few bytes that end a message."""
    return actions.Error(peer, False, actions.ErrorHeader(1, "expired", "the time is up", retry=True, last=True))


def bodies(messages: Iterable[list[bytes]]) -> list[list[bytes]]:
    """Return what stands behind command and header."""
    return [message[2:] for message in messages]
