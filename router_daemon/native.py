"""The native transport: ZMTP on the event loop's own streams, without libzmq.

Why it stands beside `transport`: one read of a stream brings many messages and one write takes many, where libzmq costs
a call per frame and a wake-up between threads (docs/benchmarks.md has both). It also sees what libzmq hides: the end
of a connection the moment it comes, how much a peer leaves unread, and messages that never end.

Rules:
- Connections put whole messages into one inbox and wake the loop; `receive` takes batches from it, in order of arrival.
- A connection with more than `INBOX_MESSAGES` waiting is not read until they are handled, so a flood stays in the
  sender's own buffers and memory is bounded by connections, not by senders.
- Sending never waits: pieces are collected per connection and written once per `send`. What the peer leaves unread is
  bounded; beyond it the action is undelivered.
- We PING a silent peer and close the connection after `TIMEOUT_S` without a byte.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

import structlog

from router_daemon.core.actions import Action, Deliver, Piece
from router_daemon.core.events import Event, Gone, Undelivered
from router_daemon.core.types import Peer, Side
from router_daemon.errors import ProtocolError, StartError
from router_daemon.transport import PARKED_RESERVE_BYTES, SocketLimits, free_path
from router_daemon.wire import COMMANDS, Decoder, encode_header
from router_daemon.zmtp import GREETING, Reader, frame_head, ping

INBOX_MESSAGES: Final = 512
PING_EVERY_S: Final = 2.0
TIMEOUT_S: Final = 10.0
BACKLOG: Final = 1024
JOIN_BYTES: Final = 16_384
CLOSE_LOOK_S: Final = 0.005
OVERHEAD_BYTES: Final = 32

_FRAMED: Final = {kind: frame_head(len(name), more=True) + name for kind, name in COMMANDS.items()}
_DELIMITER: Final = frame_head(0, more=True)
_log = structlog.get_logger("router_daemon")


class _Connection(asyncio.Protocol):
    """One peer."""

    def __init__(self, side: _Side) -> None:
        self.side = side
        self.peer: Peer = side.new_name()
        self.reader = Reader(self.peer, side.limits.message)
        self.transport: asyncio.Transport = None  # type: ignore[assignment] # set before anything else is called
        self.out: list[Any] = []
        self.out_bytes = 0
        self.waiting = 0
        self.since = self.heard_at = side.loop.time()
        self.met = False
        self.reading = True
        self.backed_up = False
        self.finished = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] # a server's are transports both ways
        self.side.connections[self.peer] = self
        self.transport.write(GREETING)

    def data_received(self, data: bytes) -> None:
        if self.finished:
            return
        side, reader = self.side, self.reader
        self.heard_at = side.loop.time()
        try:
            messages = reader.feed(data)
        except ProtocolError as error:
            _log.debug("connection closed", reason=error.detail)
            self.transport.abort()
            return
        if reader.replies:
            self.transport.write(b"".join(reader.replies))
            reader.replies.clear()
        if messages:
            self.met = True
            self.waiting += len(messages)
            if self.waiting > INBOX_MESSAGES and self.reading:
                self.reading = False
                self.transport.pause_reading()
            side.inbox.append((self, messages))
            side.wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        del self.side.connections[self.peer]
        if self.met:
            self.side.inbox.append((self, []))
            self.side.wake()

    def pause_writing(self) -> None:
        self.backed_up = True

    def resume_writing(self) -> None:
        self.backed_up = False

    def resume_reading(self) -> None:
        """Read on, now that what it sent has been handled."""
        self.reading = True
        self.transport.resume_reading()

    def unread(self) -> int:
        """Return the bytes that wait for the peer to read them, where they are worth asking for."""
        return self.out_bytes + (self.transport.get_write_buffer_size() if self.backed_up else 0)

    def flush(self) -> None:
        """Write what was collected."""
        out, size = self.out, self.out_bytes
        self.out, self.out_bytes = [], 0
        if size <= JOIN_BYTES:
            self.transport.write(b"".join(out))
        else:
            self.transport.writelines(out)

    def finish(self) -> None:
        """Send what was written and then the end; go on reading, as closing on unread input would reset the stream."""
        self.finished = True
        if not self.reading:
            self.resume_reading()
        self.transport.write_eof()

    def look(self, now: float) -> None:
        """Close what has not shaken hands or said nothing for too long; ask a silent one for a sign of life."""
        silent_s = now - self.heard_at
        if silent_s > TIMEOUT_S or (not self.reader.ready and now - self.since > TIMEOUT_S):
            self.transport.abort()
        elif silent_s > PING_EVERY_S and self.reader.answers_ping:
            self.transport.write(ping(TIMEOUT_S))


class _Side:
    """All connections of one of the two sockets."""

    def __init__(self, side: Side, limits: SocketLimits) -> None:
        self.side = side
        self.limits = limits
        self.decoder = Decoder(side, limits.message)
        self.connections: dict[Peer, _Connection] = {}
        self.inbox: deque[tuple[_Connection, list[list[Any]]]] = deque()
        self.wake: Callable[[], None] = _nobody
        self.loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment] # set by `listen`
        self._servers: list[asyncio.AbstractServer] = []
        self._paths: list[Path] = []
        self._numbers = count(1)

    def new_name(self) -> Peer:
        return next(self._numbers).to_bytes(8, "big")

    async def listen(self, address: str, wake: Callable[[], None]) -> str:
        self.loop, self.wake = asyncio.get_running_loop(), wake
        kind, _, place = address.partition("://")
        try:
            if kind == "ipc":
                free_path(address)
                self._paths.append(Path(place))
                server: Any = await self.loop.create_unix_server(partial(_Connection, self), place, backlog=BACKLOG)
            else:
                host, _, port = place.rpartition(":")
                name = None if host == "*" else host.strip("[]")
                server = await self.loop.create_server(partial(_Connection, self), name, int(port), backlog=BACKLOG)
        except OSError as error:
            raise StartError(f"cannot listen on {address}: {error.strerror or error}") from None
        self._servers.append(server)
        if kind == "ipc":
            return address
        return f"tcp://{host}:{server.sockets[0].getsockname()[1]}"

    def receive(self, limit: int, into: list[Event]) -> None:
        """Append the events of the next messages of the inbox: whole reads, until there are enough."""
        inbox, decode = self.inbox, self.decoder.decode
        enough = len(into) + limit
        while inbox and len(into) < enough:
            connection, messages = inbox.popleft()
            if not messages:
                into.append(Gone(self.side, connection.peer))
                continue
            connection.waiting -= len(messages)
            if not connection.reading and connection.waiting <= INBOX_MESSAGES // 2:
                connection.resume_reading()
            into += map(decode, messages)

    def send(self, action: Action, dirty: list[_Connection], problems: list[Event]) -> None:
        connection = self.connections.get(action.peer)
        if connection is None or connection.transport.is_closing():
            problems.append(Undelivered(action, full=False))
            problems.append(Gone(self.side, action.peer))
            return
        if connection.unread() > self._allowance(action):
            problems.append(Undelivered(action, full=True))
            return
        if not connection.out:
            dirty.append(connection)
        connection.out_bytes += _frame(action, connection.out)

    def _allowance(self, action: Action) -> int:
        """Return how much may be unread already; more for the end of a message, which has no body to speak of."""
        reserve = 0 if action.body or isinstance(action, Deliver | Piece) else PARKED_RESERVE_BYTES
        return self.limits.unread_bytes + reserve

    def look(self, now: float, *, paused: bool) -> None:
        """Look after every connection; where we were paused ourselves, silence says nothing."""
        for connection in list(self.connections.values()):
            if paused:
                connection.since = connection.heard_at = now
            connection.look(now)

    async def close(self, until: float) -> None:
        """Stop listening, and end every connection once the peer has read what was written, or when the time is up."""
        for server in self._servers:
            server.close()
        for connection in list(self.connections.values()):
            connection.finish()
        self.wake = _nobody
        while self.connections and self.loop.time() < until:
            await asyncio.sleep(CLOSE_LOOK_S)
        for connection in list(self.connections.values()):
            connection.transport.abort()
        for path in self._paths:
            path.unlink(missing_ok=True)


class NativeTransport:
    """Two listening sides that speak ZMTP; see `transport.Transport` for what it promises."""

    parked = 0

    def __init__(self, clients: SocketLimits, backends: SocketLimits) -> None:
        self._sides = (_Side(Side.CLIENT, clients), _Side(Side.BACKEND, backends))
        self._sweep: asyncio.TimerHandle | None = None
        self._sweep_due = 0.0

    async def start(self, addresses: Sequence[Sequence[str]], wake: Callable[[], None]) -> list[list[str]]:
        """Listen on each side's addresses.

        Raises:
            StartError: an address cannot be listened on.
        """
        bound = [
            [await side.listen(place, wake) for place in places]
            for side, places in zip(self._sides, addresses, strict=True)
        ]
        self._schedule_sweep(asyncio.get_running_loop())
        return bound

    def receive(self, limit: int, budget_s: float) -> list[Event]:  # noqa: ARG002 - what has come has been read already
        """Return what has come; see `Transport`. Backends first, since their answers make room."""
        received: list[Event] = []
        clients, backends = self._sides
        if backends.inbox:
            backends.receive(limit, received)
        if clients.inbox:
            clients.receive(limit, received)
        return received

    def send(self, actions: Iterable[Action]) -> list[Event]:
        """Write, or say why not; see `Transport`."""
        problems: list[Event] = []
        dirty: list[_Connection] = []
        sides = self._sides
        for action in actions:
            sides[action.side].send(action, dirty, problems)
        for connection in dirty:
            connection.flush()
        return problems

    def flush(self) -> list[Event]:
        """Nothing is parked here: the connections' own buffers hold what waits."""
        return []

    async def close(self, linger_s: float) -> None:
        """Stop listening and close, leaving `linger_s` for what was written to leave."""
        if self._sweep is not None:
            self._sweep.cancel()
        until = asyncio.get_running_loop().time() + linger_s
        for side in self._sides:
            if side.loop is not None:
                await side.close(until)

    def _schedule_sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep_due = loop.time() + PING_EVERY_S
        self._sweep = loop.call_later(PING_EVERY_S, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for side in self._sides:
            side.look(now, paused=now - self._sweep_due > PING_EVERY_S)
        self._schedule_sweep(loop)


def _frame(action: Action, out: list[Any]) -> int:
    """Append the pieces of an action as ZMTP frames; return how many bytes they are."""
    header, body = encode_header(action), action.body
    if action.delimited:
        out.append(_DELIMITER)
    out += (_FRAMED[type(action)], frame_head(len(header), more=bool(body)), header)
    total = len(header) + OVERHEAD_BYTES
    last = len(body) - 1
    for index, piece in enumerate(body):
        size = len(piece)
        out += (frame_head(size, more=index < last), piece)
        total += size
    return total


def _nobody() -> None:
    """Wake nobody: nothing has been started yet."""
