"""A `NativeTransport` on a loop of its own, for tests to meet on real sockets.

Rules:
- `run` is a fixture of each test file: it runs a coroutine on asyncio's loop or uvloop's, with a deadline.
- Nothing sleeps: `Shell.until` waits for the transport's own wake-ups, looking again at least every `LOOK_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final, TypeAlias

import pytest
import uvloop
import zmq
import zmq.asyncio
from zmtp_bytes import handshake

from router_daemon import zmtp
from router_daemon.core import actions
from router_daemon.core.actions import Action
from router_daemon.core.events import Event, Gone, Heartbeat, Ping, Send, Undelivered
from router_daemon.native import NativeTransport, _Connection, _Side
from router_daemon.transport import SocketLimits
from router_daemon.wire import Limits

WAIT_S: Final = 10.0  # for what must come: long, because only a failing test waits it out
LOOK_S: Final = 0.02
ANY: Final = "tcp://127.0.0.1:0"
EMPTY: Final = b"\x80"
HEAD_BYTES: Final = 64 + len(zmtp.ready())
LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop] | None]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

Run: TypeAlias = Callable[[Coroutine[Any, Any, None]], None]
on_both_loops = pytest.mark.parametrize("run", LOOPS, indirect=True)


def run_on(loop: str) -> Run:
    """Return what runs a coroutine on a new loop of that kind, and fails for whatever a callback raised."""

    def run(coroutine: Coroutine[Any, Any, None]) -> None:
        faults: list[dict[str, Any]] = []

        async def bounded() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
            await asyncio.wait_for(coroutine, 2 * WAIT_S)

        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(bounded())
        assert faults == [], faults

    return run


class Shell:
    """A transport with what it has brought so far, in order."""

    def __init__(self, transport: NativeTransport) -> None:
        self.transport = transport
        self.clients, self.backends = transport._sides
        self.events: list[Event] = []
        self.bound: list[list[str]] = []
        self.woken = asyncio.Event()

    async def start(self, clients: list[str], backends: list[str]) -> None:
        self.bound = await self.transport.start([clients, backends], self.woken.set)

    @property
    def address(self) -> str:
        """Where clients connect to first."""
        return self.bound[0][0]

    def receive(self, limit: int = 256) -> list[Event]:
        """Return what the transport has, and remember it."""
        events = self.transport.receive(limit, 0.005)
        self.events += events
        return events

    async def until(self, done: Callable[[], Any], *, receive: bool = True) -> None:
        """Return once `done` is true; what comes meanwhile is received unless said otherwise."""
        deadline_s = time.monotonic() + WAIT_S
        while True:
            self.woken.clear()
            while receive and self.receive():
                pass
            if done():
                return
            assert time.monotonic() < deadline_s, f"it did not come true; events: {self.events[-5:]!r:.2000}"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.woken.wait(), LOOK_S)

    async def next(self, count: int = 1) -> list[Event]:
        """Return the next events, so many, in order."""
        await self.until(lambda: len(self.events) >= count)
        taken, self.events = self.events[:count], self.events[count:]
        return taken

    async def peer(self) -> bytes:
        """Return who sent the next message."""
        [event] = await self.next()
        assert isinstance(event, Ping | Send | Heartbeat), event
        return event.peer

    def send(self, *sent: Action) -> list[Event]:
        """Send, and return what could not be."""
        return self.transport.send(sent)

    def connection(self, peer: bytes | None = None, side: _Side | None = None) -> _Connection:
        """Return the connection of that peer, or the only one."""
        connections = (side or self.clients).connections
        if peer is not None:
            return connections[peer]
        [only] = connections.values()
        return only


def limits(unread_bytes: int = 1 << 20, **message: int) -> SocketLimits:
    """Return what a socket may hold."""
    return SocketLimits(Limits(**message), 32, unread_bytes)


@contextlib.asynccontextmanager
async def shell(
    clients: str | list[str] = ANY, backends: str | list[str] = ANY, holds: SocketLimits | None = None
) -> AsyncIterator[Shell]:
    """Start a transport on these addresses; in the end it is closed and must have let go of every connection."""
    holds = holds or limits()
    started = Shell(NativeTransport(holds, holds))
    try:
        await started.start(*([place] if isinstance(place, str) else place for place in (clients, backends)))
        yield started
    finally:
        await started.transport.close(0.0)
    await started.until(lambda: not started.clients.connections | started.backends.connections, receive=False)


@contextlib.contextmanager
def dealing(address: str, kind: int = zmq.DEALER, **options: Any) -> Any:
    """Open a real libzmq socket, connected there."""
    with zmq.asyncio.Context() as context, context.socket(kind) as peer:
        peer.setsockopt(zmq.LINGER, 0)
        for name, value in options.items():
            peer.setsockopt(getattr(zmq, name), value)
        peer.connect(address)
        yield peer


async def frames_of(peer: zmq.asyncio.Socket) -> list[bytes]:
    """Return the next message of a libzmq socket."""
    return await asyncio.wait_for(peer.recv_multipart(), WAIT_S)


class Raw:
    """A peer that speaks ZMTP by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def exactly(self, size: int) -> bytes:
        """Return the next bytes, so many."""
        return await asyncio.wait_for(self.reader.readexactly(size), WAIT_S)

    async def rest(self) -> bytes:
        """Return all that comes until the end of the stream."""
        return await asyncio.wait_for(self.reader.read(), WAIT_S)

    async def closed(self) -> bool:
        """Tell whether nothing but the end comes, or a reset."""
        try:
            return await self.rest() == b""
        except ConnectionError:
            return True

    def write(self, data: bytes) -> None:
        self.writer.write(data)


@contextlib.asynccontextmanager
async def raw(address: str, opening: bytes = handshake(), **options: int) -> AsyncIterator[Raw]:
    """Connect, and say `opening`; where that is more than a greeting, read what answers it."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    link = socket.socket()
    for name, value in options.items():
        link.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    link.setblocking(False)
    await asyncio.get_running_loop().sock_connect(link, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=link)
    peer = Raw(reader, writer)
    try:
        peer.write(opening)
        if len(opening) > 64:
            assert await peer.exactly(HEAD_BYTES) == zmtp.GREETING + zmtp.ready()
        yield peer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):  # how the connection ended is the test's affair, that it did is ours
            await writer.wait_closed()


def reply(peer: bytes, *body: Any, ident: Any = 1, delimited: bool = False) -> actions.Reply:
    """REPLY with such a body."""
    return actions.Reply(peer, delimited, actions.ReplyHeader(ident, "m1", "b", 1, 1, 0.5), body)


def refusal(peer: bytes) -> actions.Error:
    """ERROR, the end of a message."""
    return actions.Error(peer, False, actions.ErrorHeader(1, "overloaded", "no room", True, True))


def undelivered(problems: list[Event], *, full: bool) -> bool:
    """Tell whether the one problem is that an action was not delivered, for this reason."""
    return [type(each) for each in problems] == [Undelivered] and getattr(problems[0], "full", None) is full


def gone(events: list[Event]) -> list[bytes]:
    """Return the peers that are gone, in order."""
    return [event.peer for event in events if isinstance(event, Gone)]
