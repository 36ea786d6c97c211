"""The ring's sockets of the libzmq transport: one ROUTER that listens, one DEALER for each connection that we dial.

Rules:
- A DEALER lives as long as its one connection: libzmq is told not to reconnect, since it would say neither when a new
  connection stands nor which messages came by the old one. The next try is a new socket, with a new name.
- That the handshake is done is read off the monitor before the first message is; that the connection has ended is told
  after the last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import Callable, Sequence
from itertools import count
from random import Random
from typing import Any, Final

import zmq
from zmq.backend import Socket as BackendSocket

from router_daemon.core.actions import Action
from router_daemon.core.events import Event, Undelivered
from router_daemon.core.types import Peer, Side
from router_daemon.dialling import BROKE_OFF, CONNECT_S, Dialling
from router_daemon.ring.messages import Opened
from router_daemon.transport import SocketLimits, _Parked, _Socket

_EVENTS: Final = (
    zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.DISCONNECTED
    | zmq.Event.CLOSED
)
_MONITOR_EVENT: Final = struct.Struct("=HI")
_SHAKEN: Final = int(zmq.Event.HANDSHAKE_SUCCEEDED)
_NOBLOCK: Final = int(zmq.NOBLOCK)
_recv = BackendSocket.recv


class _Dialled(_Socket):
    """One DEALER and its one connection."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], limits: SocketLimits, peer: Peer, address: str) -> None:
        super().__init__(context, Side.RING, limits, zmq.DEALER, _EVENTS)
        self.peer = peer
        self.address = address
        self.opened_at: float | None = None
        loop = asyncio.get_running_loop()
        self.shaken: asyncio.Future[bool] = loop.create_future()
        self.ended: asyncio.Future[float] = loop.create_future()
        raw = self.raw
        raw.setsockopt(zmq.RECONNECT_IVL, -1)
        raw.setsockopt(zmq.IMMEDIATE, 1)
        raw.setsockopt(zmq.IPV6, int("[" in address))
        try:
            raw.connect(address)
        except zmq.ZMQError as error:
            self.close(0)
            raise OSError(error.errno, error.strerror) from None

    def receive(self, limit: int, until: float, into: list[Any]) -> None:
        """As the base; first of all that the connection stands."""
        if self.opened_at is None:
            if not self._stands():
                return
            into.append(Opened(self.peer, self.address))
        super().receive(limit, until, into)

    def _stands(self) -> bool:
        self._read_monitor()
        return self.opened_at is not None

    def send(self, action: Action, problems: list[Event]) -> None:
        if self.ended.done():
            problems.append(Undelivered(action, full=False))
        else:
            super().send(action, problems)

    def _drain(self, limit: int, until: float, into: list[Event]) -> bool:
        raw, most = self.raw, self._most_frames
        try:
            for _ in range(limit):
                frame = _recv(raw, _NOBLOCK, False)
                frames: list[Any] = [self.peer, frame.bytes]
                while frame.more:
                    frame = _recv(raw, _NOBLOCK, False)
                    if len(frames) < most:
                        frames.append(frame.bytes)
                into.append(self.decoder.decode(frames))
                if time.monotonic() > until:
                    return False
        except zmq.Again:
            return True
        return False

    def _read_monitor(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                event, _ = _MONITOR_EVENT.unpack(self.monitor.recv_multipart(zmq.NOBLOCK)[0])
                if event == _SHAKEN:
                    self.opened_at = time.monotonic()
                    if not self.shaken.done():  # too late, where the time was up
                        self.shaken.set_result(True)
                elif self.opened_at is not None:
                    self._gone = [self.peer]
                elif not self.shaken.done():
                    self.shaken.set_result(False)
        if self._gone:
            self.news()

    def _forget(self, peer: Peer, into: list[Event]) -> None:
        if not self.ended.done():
            super()._forget(peer, into)
            self.ended.set_result(time.monotonic() - (self.opened_at or 0.0))

    def _try(self, frames: Sequence[Any]) -> int:
        return super()._try(frames[1:])  # a DEALER has one peer, and does not name it


class ZmqLinks:
    """The ring's side of a `ZmqTransport`, used as one socket: a listening one and those that were dialled.

    Args:
        context: the transport's.
        limits: as of the other sides.
        neighbours: addresses to keep a connection to.
        rng: spreads the tries.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], limits: SocketLimits, neighbours: Sequence[str], rng: Random
    ) -> None:
        self._context = context
        self._limits = limits
        self._neighbours = tuple(neighbours)
        self._listener = _Socket(context, Side.RING, limits)
        self._dialled: dict[Peer, _Dialled] = {}
        self._dialling = Dialling(self._attempt, rng)
        self._numbers = count(1)
        self._wake: Callable[[], None] | None = None

    def bind(self, address: str) -> str:
        """Listen there too; return the address with its port."""
        return self._listener.bind(address)

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called whenever something may have come, and begin to dial."""
        self._wake = wake
        self._listener.watch(wake)
        self._dialling.start(self._neighbours)

    @property
    def parked(self) -> dict[Peer, _Parked]:
        """What waits for a peer to read, by peer."""
        return {peer: parked for socket in self._sockets() for peer, parked in socket.parked.items()}

    def receive(self, limit: int, until: float, into: list[Event]) -> None:
        """Append what has come; see `_Socket`."""
        for socket in self._sockets():
            socket.receive(limit, until, into)

    def send(self, action: Action, problems: list[Event]) -> None:
        """Send by the connection of that name."""
        self._dialled.get(action.peer, self._listener).send(action, problems)

    def flush(self, problems: list[Event]) -> None:
        """Try again what is parked."""
        for socket in self._sockets():
            if socket.parked:
                socket.flush(problems)

    async def stop(self) -> None:
        """Dial no more."""
        if tasks := self._dialling.cancel():
            await asyncio.wait(tasks)

    def close(self, linger_ms: int) -> None:
        """Close everything; what libzmq still holds has so long to leave."""
        for socket in self._sockets():
            socket.close(linger_ms)

    def _sockets(self) -> list[_Socket]:
        return [self._listener, *self._dialled.values()]

    async def _attempt(self, address: str) -> float:
        assert self._wake is not None
        peer = b"\0dialled" + next(self._numbers).to_bytes(8, "big")  # no peer of libzmq's may announce a leading zero
        socket = _Dialled(self._context, self._limits, peer, address)
        self._dialled[peer] = socket
        socket.watch(self._wake)
        try:
            async with asyncio.timeout(CONNECT_S):  # libzmq says nothing of a name that cannot be looked up
                stands = await socket.shaken
            if not stands:
                raise ConnectionError(BROKE_OFF)
            stood_s = await socket.ended
        except (OSError, TimeoutError):
            self._drop(socket)
            raise
        self._drop(socket)
        return stood_s

    def _drop(self, socket: _Dialled) -> None:
        del self._dialled[socket.peer]
        socket.close(0)
