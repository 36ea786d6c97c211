"""The native transport: ZMTP on the event loop's own streams, without libzmq.

Why it stands beside `transport`: one read of a stream brings many messages and one write takes many, where libzmq costs
a call per frame and a wake-up between threads (docs/benchmarks.md has both). It also sees what libzmq hides: the end
of a connection the moment it comes, how much a peer leaves unread, and messages that never end.

Rules:
- A connection keeps its whole messages, in order, and wakes the loop; `receive` goes round the connections that have
  some, at most `TURN_MESSAGES` of each, so nobody waits behind one that sends thousands. That a peer is gone comes
  after its last message.
- A connection with more than `INBOX_MESSAGES` or `INBOX_BYTES` waiting is not read until they are handled, so a flood
  stays in the sender's own buffers and memory is bounded by connections, not by senders.
- A peer is left alone for `HOLD_S` for each ERROR or PONG to it, and for what it left no room for: one that floods
  beyond its quota, or breaks the protocol, costs a bounded share of our time, and the others hardly wait longer.
- Sending never waits: pieces are collected per connection and written once per `send`. What the peer leaves unread is
  bounded; beyond it the action is undelivered, and already at the first sign of it a PING is not answered.
- We PING a silent peer and close the connection after `TIMEOUT_S` without a byte. The PING names no time to live: with
  one, libzmq cuts a peer that sends but gets no answer. A peer of ZMTP 3.0 need not know PING and may be silent; the
  kernel's keep-alive finds out when it is dead.
- We accept by ourselves: at some errors of accept(2) uvloop stops listening for good, and asyncio logs a thousand
  tracebacks when it runs out of descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

import structlog

from router_daemon.core.actions import Action, Deliver, Error, Piece, Pong
from router_daemon.core.events import Event, Gone, Undelivered
from router_daemon.core.types import Peer, Side
from router_daemon.errors import ProtocolError
from router_daemon.listening import open_listener
from router_daemon.transport import PARKED_RESERVE_BYTES, SocketLimits
from router_daemon.wire import COMMANDS, Decoder, encode_header
from router_daemon.zmtp import GREETING, LAST_HEADS, PING, SHORT, Reader, append_frames, frame_head, heads_after

READ_BYTES: Final = 262_144
INBOX_MESSAGES: Final = 512
INBOX_BYTES: Final = 1_048_576
TURN_MESSAGES: Final = 64
HOLD_S: Final = 0.0001
HOLD_FROM: Final = 16
MOST_HOLD_S: Final = 0.025
PING_EVERY_S: Final = 2.0
TIMEOUT_S: Final = 10.0
ACCEPT_AT_ONCE: Final = 64
ACCEPT_AGAIN_S: Final = 1.0
JOIN_PIECE_BYTES: Final = 1_024
CLOSE_LOOK_S: Final = 0.005
CLOSE_ROUNDS: Final = 5
OVERHEAD_BYTES: Final = 32

_HEADS: Final = {kind: heads_after(name) for kind, name in COMMANDS.items()}
_DELIMITER: Final = frame_head(0, more=True)
_CHEAP: Final = frozenset({Error, Pong})
_log = structlog.get_logger("router_daemon")


class _Connection(asyncio.BufferedProtocol):
    """One peer."""

    kind = b"ROUTER"

    def __init__(self, side: _Side) -> None:
        self.side = side
        self.peer: Peer = side.new_name()
        self.reader = Reader(self.peer, side.limits.message, self.kind)
        self.transport: asyncio.Transport = None  # type: ignore[assignment] # set before anything else is called
        self.inbox: list[list[Any]] = []
        self.out: list[Any] = []
        self.inbox_bytes = self.out_bytes = self.cheap = 0
        self.since = self.heard_at = side.loop.time()
        self.reading = True
        self.met = self.backed_up = self.held = self.finished = self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] # a server's are transports both ways
        self.side.connections[self.peer] = self
        self.transport.write(GREETING)
        if self.side.closing:
            self.transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return self.side.landing

    def buffer_updated(self, nbytes: int) -> None:
        came = self.side.landing[:nbytes]
        self.received(came if self.reader.large else bytes(came))

    def received(self, data: bytes | memoryview) -> None:
        """Take in what has come; a view is of what the next read overwrites."""
        if self.finished:
            return
        side, reader, inbox = self.side, self.reader, self.inbox
        self.heard_at = side.loop.time()
        queued = bool(inbox)
        try:
            reader.feed(data, inbox)
        except ProtocolError as error:
            _log.debug("connection closed", reason=error.detail)
            self.transport.abort()
        if reader.replies:
            if not self.backed_up:
                self.transport.write(b"".join(reader.replies))
            reader.replies.clear()
        self.inbox_bytes += len(data)
        if inbox:
            self.met = True
            if not queued and not self.held:
                side.ready.append(self)
                side.wake()
            if self.reading and (len(inbox) > INBOX_MESSAGES or self.inbox_bytes > INBOX_BYTES):
                self.reading = False
                self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        del self.side.connections[self.peer]
        self.lost = True
        if self.met and not self.inbox and not self.held:
            self.side.ready.append(self)
            self.side.wake()

    def take(self, most: int) -> list[list[Any]]:
        """Return at most so many of the messages that wait, and read on once none does."""
        inbox = self.inbox
        if len(inbox) > most:
            taken = inbox[:most]
            del inbox[:most]
            return taken
        self.inbox = []
        self.inbox_bytes = 0
        if not self.reading:
            self.resume_reading()
        return inbox

    def pause_writing(self) -> None:
        self.backed_up = True

    def resume_writing(self) -> None:
        self.backed_up = False

    def resume_reading(self) -> None:
        """Read on, now that what it sent has been handled."""
        self.reading = True
        self.heard_at = self.side.loop.time()
        self.transport.resume_reading()

    def unread(self) -> int:
        """Return the bytes that wait for the peer to read them, where they are worth asking for."""
        return self.out_bytes + (self.transport.get_write_buffer_size() if self.backed_up else 0)

    def flush(self) -> None:
        """Write what was collected: pieces that are small on average cost less to copy than to hand over each."""
        out, size, self.out, self.out_bytes = self.out, self.out_bytes, [], 0
        if self.cheap >= HOLD_FROM:
            self.hold()
        if size <= JOIN_PIECE_BYTES * len(out):
            self.transport.write(b"".join(out))
        else:
            self.transport.writelines(out)

    def hold(self) -> None:
        """Hear nothing from who got cheap answers, for as long as they weigh; what it sends waits meanwhile."""
        if not self.held:
            self.held = True
            with contextlib.suppress(ValueError):
                self.side.ready.remove(self)
            self.side.loop.call_later(min(self.cheap * HOLD_S, MOST_HOLD_S), self._release)
            self.cheap = 0

    def _release(self) -> None:
        self.held = False
        if self.cheap >= HOLD_FROM:
            self.hold()
        elif self.inbox or self.lost:
            self.side.ready.append(self)
            self.side.wake()

    def finish(self) -> None:
        """Send what was written and then the end; go on reading, as closing on unread input would reset the stream."""
        self.finished = True
        if self.transport.is_closing():
            return
        if not self.reading:
            self.resume_reading()
        with contextlib.suppress(OSError):  # the peer has just gone
            self.transport.write_eof()

    def look(self, now: float) -> None:
        """Close what has not shaken hands or said nothing for too long; ask a silent one for a sign of life."""
        silent_s = now - self.heard_at if self.reading else 0.0
        must_speak = self.reader.answers_ping or self.transport.is_closing()
        if (must_speak and silent_s > TIMEOUT_S) or (not self.reader.ready and now - self.since > TIMEOUT_S):
            self.transport.abort()
        elif self.reader.answers_ping and silent_s > PING_EVERY_S:
            self.transport.write(PING)


class _Side:
    """All connections of one of the sockets."""

    def __init__(self, side: Side, limits: SocketLimits) -> None:
        self.side = side
        self.limits = limits
        self.decoder = Decoder(side, limits.message)
        self.connections: dict[Peer, _Connection] = {}
        self.ready: deque[_Connection] = deque()
        self.wake: Callable[[], None] = lambda: None
        self.loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment] # set by `listen`
        self.closing = False
        self.unread_bytes = limits.unread_bytes
        self.landing = memoryview(bytearray(READ_BYTES))  # of all connections: what is read is taken in at once
        self._listeners: list[socket.socket] = []
        self._paths: list[Path] = []
        self.adopting: set[asyncio.Task[Any]] = set()
        self._numbers = count(1)

    def new_name(self) -> Peer:
        return next(self._numbers).to_bytes(8, "big")

    async def open(self, places: Sequence[str], wake: Callable[[], None]) -> list[str]:
        return [await self.listen(place, wake) for place in places]

    async def listen(self, address: str, wake: Callable[[], None]) -> str:
        self.loop, self.wake = asyncio.get_running_loop(), wake
        listener, bound = await open_listener(address, self._paths)
        self._listeners.append(listener)
        self._accept_from(listener)
        return bound

    def _accept_from(self, listener: socket.socket) -> None:
        if not self.closing:
            self.loop.add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            for _ in range(ACCEPT_AT_ONCE):
                adopt = self.loop.connect_accepted_socket(partial(_Connection, self), listener.accept()[0])
                task = self.loop.create_task(adopt)
                self.adopting.add(task)
                task.add_done_callback(self.adopting.discard)
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            _log.warning("cannot accept a connection", reason=error.strerror, again_s=ACCEPT_AGAIN_S)
            self.loop.remove_reader(listener)
            self.loop.call_later(ACCEPT_AGAIN_S, self._accept_from, listener)

    def receive(self, limit: int, into: list[Event]) -> None:
        """Append the events of at most so many messages, going round the connections that have some."""
        ready, decode_all = self.ready, self.decoder.decode_all
        enough = len(into) + limit
        while ready and (room := enough - len(into)) > 0:
            connection = ready.popleft()
            decode_all(connection.take(min(TURN_MESSAGES, room)), into)
            if connection.inbox:
                ready.append(connection)
            elif connection.lost:
                into.append(Gone(self.side, connection.peer))

    def refuses(self, connection: _Connection, action: Action) -> bool:
        """Tell whether a peer leaves too much unread; more is allowed for the end of a message, which has no body."""
        reserve = 0 if action.body or isinstance(action, Deliver | Piece) else PARKED_RESERVE_BYTES
        if connection.unread() <= self.unread_bytes + reserve:
            return False
        connection.cheap += 1  # what is dropped weighs, too
        if connection.cheap >= HOLD_FROM:
            connection.hold()
        return True

    def look(self, now: float, *, paused: bool) -> None:
        """Look after every connection; where we were paused ourselves, silence says nothing."""
        for connection in list(self.connections.values()):
            if paused:
                connection.since = connection.heard_at = now
            connection.look(now)

    def finish(self) -> None:
        """Stop listening, and end every connection once the peer has read what was written."""
        self.closing = True
        while self._listeners:
            listener = self._listeners.pop()
            self.loop.remove_reader(listener)
            listener.close()
        for path in self._paths:
            path.unlink(missing_ok=True)
        for connection in list(self.connections.values()):
            connection.finish()
        self.wake = lambda: None


class NativeTransport:
    """The sides of a daemon, speaking ZMTP; see `transport.Transport` for what it promises."""

    parked = 0

    def __init__(self, clients: SocketLimits, backends: SocketLimits, *ring: _Side) -> None:
        self._sides = (_Side(Side.CLIENT, clients), _Side(Side.BACKEND, backends), *ring)
        self._by_urgency = self._sides[::-1]
        sides = {side.side: side for side in self._sides}
        self._ways = {kind: (sides[kind.side], _HEADS[kind], kind in _CHEAP) for kind in COMMANDS if kind.side in sides}
        self._sweep: asyncio.TimerHandle | None = None
        self._sweep_due = 0.0

    async def start(self, addresses: Sequence[Sequence[str]], wake: Callable[[], None]) -> list[list[str]]:
        """Listen on each side's addresses.

        Raises:
            StartError: an address cannot be listened on.
        """
        bound = [await side.open(places, wake) for side, places in zip(self._sides, addresses, strict=True)]
        self._schedule_sweep(asyncio.get_running_loop())
        return bound

    def receive(self, limit: int, budget_s: float) -> list[Event]:  # noqa: ARG002 - what has come has been read already
        """Return what has come; see `Transport`. Clients last, since the others' answers make room."""
        received: list[Event] = []
        for side in self._by_urgency:
            if side.ready:
                side.receive(limit, received)
        return received

    def send(self, actions: Iterable[Action]) -> list[Event]:
        """Write, or say why not; see `Transport`."""
        problems: list[Event] = []
        dirty: list[_Connection] = []
        ways = self._ways
        for action in actions:
            side, heads, is_cheap = ways[type(action)]
            connection = side.connections.get(action.peer)
            # Nothing closes or is written between two actions of a batch: a connection is asked about its end once, and
            # what it leaves unread matters only where something is left or this batch alone is too much.
            if connection is None or (not connection.out and connection.transport.is_closing()):
                problems.append(Undelivered(action, full=False))  # that it is gone will come after its last message
                continue
            if (connection.backed_up or connection.out_bytes > side.unread_bytes) and side.refuses(connection, action):
                problems.append(Undelivered(action, full=True))
                continue
            out = connection.out
            if not out:
                dirty.append(connection)
            if action.delimited:
                out.append(_DELIMITER)
            header, body = encode_header(action.header), action.body
            size = len(header)
            if size < SHORT and len(body) == 1:  # the common shape, without a call or a loop
                piece = body[0]
                length = len(piece)
                last = LAST_HEADS[length] if length < len(LAST_HEADS) else frame_head(length, more=False)
                out += (heads[size], header, last, piece)
                size += length
            else:
                size = append_frames(out, COMMANDS[type(action)], (header, *body))
            connection.out_bytes += size + OVERHEAD_BYTES
            if is_cheap:
                connection.cheap += 1
        for connection in dirty:
            connection.flush()
        return problems

    def flush(self) -> list[Event]:
        """Nothing is parked here: the connections' own buffers hold what waits."""
        return []

    async def close(self, linger_s: float) -> None:
        """Stop listening and close, leaving `linger_s` for what was written to leave; no connection outlives this."""
        if self._sweep is not None:
            self._sweep.cancel()
        loop = asyncio.get_running_loop()
        until = loop.time() + linger_s
        for side in self._sides:
            side.finish()
        if adopting := {task for side in self._sides for task in side.adopting}:
            await asyncio.wait(adopting)  # what has just been accepted would otherwise end with the loop, unclosed
        while any(side.connections for side in self._sides) and loop.time() < until:  # noqa: ASYNC110 - it has an end
            await asyncio.sleep(CLOSE_LOOK_S)
        for connection in [each for side in self._sides for each in side.connections.values()]:
            connection.transport.abort()
        for _ in range(CLOSE_ROUNDS):  # what was aborted is closed in one of the loop's next rounds
            await asyncio.sleep(0)

    def _schedule_sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep_due = loop.time() + PING_EVERY_S
        self._sweep = loop.call_later(PING_EVERY_S, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for side in self._sides:
            side.look(now, paused=now - self._sweep_due > PING_EVERY_S)
        self._schedule_sweep(loop)
