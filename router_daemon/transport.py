"""The ZeroMQ sockets on the event loop: events in by bounded batches, actions out, news of peers that are gone.

Rules, each measured (docs/benchmarks.md):
- Plain sockets whose file descriptors the loop watches; no future, task or timer per message. The descriptors are
  edge-triggered and any call may consume the edge, so whoever was woken calls `receive` until it returns nothing.
- Frames are received one by one, never a fixed number of them: `.more` alone says where a message ends.
- ROUTER_MANDATORY: a full pipe raises EAGAIN and a peer that left EHOSTUNREACH, both at the identity frame. What a full
  pipe refuses is parked per peer, in order, bounded in bytes, and sent when `flush` finds room.
- Which connection is which peer is read off its first message (SRCFD); when the monitor reports that connection's end,
  the peer is gone. The monitor is read before a new peer is noted, so a descriptor in use again is never mistaken.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import zmq
from zmq.backend import Socket as BackendSocket

from router_daemon.core.actions import Action, Deliver, Piece
from router_daemon.core.events import Event, Gone, Undelivered
from router_daemon.core.types import Peer, Side
from router_daemon.errors import StartError
from router_daemon.wire import Decoder, Limits, encode

if TYPE_CHECKING:
    from router_daemon.zmq_links import ZmqLinks

HEARTBEAT_IVL_MS: Final = 2_000
HEARTBEAT_TIMEOUT_MS: Final = 10_000
ZERO_COPY_BYTES: Final = 8_192
PARKED_OVERHEAD_BYTES: Final = 512
PARKED_RESERVE_BYTES: Final = 65_536
CLOCK_EVERY: Final = 16
GONE_AFTER_S: Final = 0.05
LINGER_S: Final = 1.0

_NOBLOCK: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
_ACCEPTED: Final = int(zmq.Event.ACCEPTED)
_SCHED_BATCH: Final = 3
_POLLIN: Final = int(zmq.POLLIN)
_SRCFD: Final = 2  # ZMQ_SRCFD: the descriptor of the connection that a received frame came by
_MONITOR_EVENT: Final = struct.Struct("=HI")
_recv = BackendSocket.recv
_send = BackendSocket.send


class Transport(Protocol):
    """What the daemon's loop needs of a transport: batches of events in, lists of actions out."""

    def receive(self, limit: int, budget_s: float) -> list[Event]:
        """Return what has come, at most `limit` messages a side and `budget_s` of reading; empty: nothing is left."""

    def send(self, actions: Iterable[Action]) -> list[Event]:
        """Send, never waiting; return what could not be delivered and who is gone."""

    def flush(self) -> list[Event]:
        """Try again to send what is parked; as `send`."""

    @property
    def parked(self) -> int:
        """How many actions wait for a peer to read."""


class Listener(Transport, Protocol):
    """A transport that listens on addresses."""

    async def start(self, addresses: Sequence[Sequence[str]], wake: Callable[[], None]) -> list[list[str]]:
        """Listen on the clients' and the backends' addresses; call `wake` whenever something may have come.

        Returns the addresses as they are in fact: with the port that was found where 0 was asked.
        """

    async def close(self, linger_s: float) -> None:
        """Stop; what is on its way has `linger_s` to leave."""


class _Parked:
    """Actions that a full pipe refused, for one peer, in order."""

    __slots__ = ("bytes", "queue")

    def __init__(self) -> None:
        self.queue: deque[tuple[Action, list[Any], int]] = deque()
        self.bytes = 0


class _Socket:
    """One socket, its monitor, and what is parked behind it."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        side: Side,
        limits: SocketLimits,
        kind: int = zmq.ROUTER,
        events: int = zmq.Event.DISCONNECTED | zmq.Event.ACCEPTED,
    ) -> None:
        self.side = side
        self.raw = context.socket(kind)
        self.limits = limits
        self.decoder = Decoder(side, limits.message)
        self.parked: dict[Peer, _Parked] = {}
        self._gone: list[Peer] = []
        self._news_at: float | None = None
        self._descriptors: dict[int, list[Peer]] = {}
        self._ended: set[int] = set()
        self._known: set[Peer] = set()
        self._most_frames = limits.message.body_frames + 5
        raw = self.raw
        if kind == zmq.ROUTER:
            raw.setsockopt(zmq.ROUTER_MANDATORY, 1)
        raw.setsockopt(zmq.SNDHWM, limits.high_water_mark)
        raw.setsockopt(zmq.RCVHWM, limits.high_water_mark)
        raw.setsockopt(zmq.MAXMSGSIZE, 4 * limits.message.message_bytes)
        raw.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_IVL_MS)
        raw.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        raw.setsockopt(zmq.LINGER, round(LINGER_S * 1000))
        self.monitor = raw.get_monitor_socket(events)
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(self, address: str) -> str:
        if address.startswith("ipc://"):
            free_path(address)
        self.raw.setsockopt(zmq.IPV6, int("[" in address))
        try:
            self.raw.bind(address)
        except zmq.ZMQError as error:
            raise StartError(f"cannot listen on {address}: {error.strerror}") from None
        return self.raw.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called whenever something may have come."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(int(self.raw.FD), wake)
        self._loop.add_reader(int(self.monitor.FD), partial(_news, self, wake))

    def receive(self, limit: int, until: float, into: list[Event]) -> None:
        """Append the events of at most `limit` messages, or fewer where the time is up; then who is gone.

        Who is gone is told once all that he sent has been read, or after `GONE_AFTER_S` of a flood.
        """
        drained = not int(self.raw.get(zmq.EVENTS)) & _POLLIN or self._drain(limit, until, into)
        if self._news_at is not None and (drained or time.monotonic() > self._news_at + GONE_AFTER_S):
            self._read_monitor()
            self._news_at = None
            for peer in self._gone:
                self._forget(peer, into)
            self._gone.clear()

    def news(self) -> None:
        """The monitor has something to tell."""
        if self._news_at is None:
            self._news_at = time.monotonic()

    def _drain(self, limit: int, until: float, into: list[Event]) -> bool:
        """Append events; return whether nothing is left."""
        raw, known, decode, most = self.raw, self._known, self.decoder.decode, self._most_frames
        try:
            for count in range(limit):
                if count % CLOCK_EVERY == CLOCK_EVERY - 1 and time.monotonic() > until:
                    return False
                peer = _recv(raw, _NOBLOCK)
                frame = _recv(raw, _NOBLOCK, False)
                if peer not in known:
                    self._meet(peer, frame)
                frames: list[Any] = [peer, frame.bytes]
                while frame.more:
                    frame = _recv(raw, _NOBLOCK, False)
                    if len(frames) < most:
                        frames.append(frame.bytes if len(frame) < ZERO_COPY_BYTES else frame)
                into.append(decode(frames))
        except zmq.Again:
            return True
        return False

    def _meet(self, peer: Peer, frame: zmq.Frame) -> None:
        self._read_monitor()
        self._known.add(peer)
        with contextlib.suppress(zmq.ZMQError):
            descriptor = frame.get(_SRCFD)
            if descriptor in self._ended:  # its connection has ended before its first message was read
                self._gone.append(peer)
                self.news()
            else:
                self._descriptors.setdefault(descriptor, []).append(peer)

    def _read_monitor(self) -> None:
        """Note which peers' connections have ended."""
        with contextlib.suppress(zmq.Again):
            while True:
                frames = self.monitor.recv_multipart(zmq.NOBLOCK)
                event, descriptor = _MONITOR_EVENT.unpack(frames[0])
                if event == _ACCEPTED:
                    self._ended.discard(descriptor)
                else:
                    self._gone += self._descriptors.pop(descriptor, ())
                    self._ended.add(descriptor)
        if self._gone:
            self.news()

    def _forget(self, peer: Peer, into: list[Event]) -> None:
        """Append that a peer is gone, after what cannot reach it any more."""
        self._known.discard(peer)
        parked = self.parked.pop(peer, None)
        if parked is not None:
            into.extend(Undelivered(action, full=False) for action, _, _ in parked.queue)
        into.append(Gone(self.side, peer))

    def send(self, action: Action, problems: list[Event]) -> None:
        frames = encode(action)
        if self.parked and frames[0] in self.parked:
            self._park(action, frames, problems)
            return
        error = self._try(frames)
        if error == errno.EAGAIN:
            self._park(action, frames, problems)
        elif error:
            problems.append(Undelivered(action, full=False))
            self._forget(action.peer, problems)

    def _try(self, frames: Sequence[Any]) -> int:
        """Send one message; return 0, or the error that its identity frame met."""
        raw = self.raw
        try:
            _send(raw, frames[0], _MORE)
        except zmq.ZMQError as error:
            if error.errno in (errno.EAGAIN, errno.EHOSTUNREACH):
                return error.errno
            raise
        for frame in frames[1:-1]:
            _send(raw, frame, _MORE)
        _send(raw, frames[-1], _NOBLOCK)
        return 0

    def _park(self, action: Action, frames: list[Any], problems: list[Event]) -> None:
        size = sum(map(len, frames)) + PARKED_OVERHEAD_BYTES
        allowed = self.limits.unread_bytes
        if not isinstance(action, Deliver | Piece) and not action.body:
            allowed += PARKED_RESERVE_BYTES  # so that the end of a message that is too much still gets through
        parked = self.parked.setdefault(action.peer, _Parked())
        if parked.bytes + size > allowed:
            problems.append(Undelivered(action, full=True))
            return
        parked.queue.append((action, frames, size))
        parked.bytes += size

    def flush(self, problems: list[Event]) -> None:
        """Send what is parked, as far as the pipes take it."""
        for peer, parked in list(self.parked.items()):
            while parked.queue:
                _, frames, size = parked.queue[0]
                error = self._try(frames)
                if error == errno.EAGAIN:
                    break
                if error:
                    self._forget(peer, problems)
                    break
                parked.queue.popleft()
                parked.bytes -= size
            else:
                del self.parked[peer]

    def close(self, linger_ms: int) -> None:
        if self._loop is not None:
            self._loop.remove_reader(int(self.raw.FD))
            self._loop.remove_reader(int(self.monitor.FD))
        self.raw.disable_monitor()
        self.monitor.close(0)
        self.raw.close(linger_ms)


class SocketLimits:
    """What one socket may hold: per message, in libzmq's queues (messages per peer), and parked per peer (bytes)."""

    __slots__ = ("high_water_mark", "message", "unread_bytes")

    def __init__(self, message: Limits, high_water_mark: int, unread_bytes: int) -> None:
        self.message = message
        self.high_water_mark = high_water_mark
        self.unread_bytes = unread_bytes


class ZmqTransport:
    """The sockets of a daemon by libzmq; its memory is bounded by peers x high-water mark x message size."""

    def __init__(
        self,
        clients: SocketLimits,
        backends: SocketLimits,
        ring: Callable[[zmq.Context[zmq.Socket[bytes]]], ZmqLinks] | None = None,
    ) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        if sys.platform == "linux":
            # libzmq's thread would interrupt ours at every message where both share a core; a batch thread does not.
            self._context.set(zmq.THREAD_SCHED_POLICY, _SCHED_BATCH)
            self._context.set(zmq.THREAD_PRIORITY, 0)
        self._links = ring and ring(self._context)
        sides = (_Socket(self._context, Side.CLIENT, clients), _Socket(self._context, Side.BACKEND, backends))
        self._sockets: tuple[_Socket | ZmqLinks, ...] = sides if self._links is None else (*sides, self._links)

    async def start(self, addresses: Sequence[Sequence[str]], wake: Callable[[], None]) -> list[list[str]]:
        """Listen on each side's addresses, and have `wake` called whenever something may have come.

        Raises:
            StartError: an address cannot be listened on.
        """
        bound = [[s.bind(place) for place in places] for s, places in zip(self._sockets, addresses, strict=True)]
        for socket in self._sockets:
            socket.watch(wake)
        return bound

    def receive(self, limit: int, budget_s: float) -> list[Event]:
        """Return what has come; see `Transport`. Clients last, since the others' answers make room."""
        until = time.monotonic() + budget_s
        received: list[Event] = []
        for socket in reversed(self._sockets):
            socket.receive(limit, until, received)
        return received

    def send(self, actions: Iterable[Action]) -> list[Event]:
        """Send, or park, or say why not; see `Transport`."""
        problems: list[Event] = []
        sockets = self._sockets
        for action in actions:
            sockets[action.side].send(action, problems)
        return problems

    def flush(self) -> list[Event]:
        """Try again what is parked; see `Transport`."""
        problems: list[Event] = []
        for socket in self._sockets:
            if socket.parked:
                socket.flush(problems)
        return problems

    @property
    def parked(self) -> int:
        """How many actions wait for a peer to read."""
        return sum(len(parked.queue) for socket in self._sockets for parked in socket.parked.values())

    async def close(self, linger_s: float) -> None:
        """Close the sockets; what libzmq still holds has `linger_s` to leave."""
        if self._links is not None:
            await self._links.stop()
        for socket in self._sockets:
            socket.close(round(linger_s * 1000))
        self._context.term()


def _news(socket: _Socket, wake: Callable[[], None]) -> None:
    socket.news()
    wake()


def free_path(address: str) -> None:
    """Remove the socket file of a process that is gone; libzmq would take over that of a living one, too."""
    path = Path(address.removeprefix("ipc://"))
    if not path.is_socket():
        if path.exists():
            raise StartError(f"cannot listen on {address}: there is a file of that name, and it is no socket")
        return
    import socket  # noqa: PLC0415 - only for ipc

    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except OSError as error:
            raise StartError(f"cannot listen on {address}: {error.strerror}") from None
        else:
            raise StartError(f"cannot listen on {address}: Address already in use")
