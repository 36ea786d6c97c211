"""The ring's side of the native transport: it listens as the other two do, and dials the neighbours that it was given.

Rules:
- A connection that we dialled is told as `Opened` when ZMTP's handshake is done, before its first message, and as
  `Gone` after its last one; what never shook hands is never heard of. Each has a new name, so nothing that was meant
  for the one before it goes out by the next.
- Who dials says DEALER, as a ROUTER may not dial a ROUTER of libzmq without knowing its routing id.
- The kernel connects a port to itself, when nobody listens there and it happens to pick that very port for the caller.
  That would keep the neighbour from ever listening: such a connection is cut at once.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

from router_daemon.core.events import Event
from router_daemon.core.types import Side
from router_daemon.dialling import BROKE_OFF, CONNECT_S, Dialling
from router_daemon.native import _Connection, _Side
from router_daemon.ring.messages import Opened
from router_daemon.transport import SocketLimits
from router_daemon.wire import Decoder


class _Dialled(_Connection):
    """A connection that began here."""

    kind = b"DEALER"

    def __init__(self, side: Links, address: str) -> None:
        super().__init__(side)
        self.address = address
        self.opened_at: float | None = None
        self.shaken: asyncio.Future[bool] = side.loop.create_future()
        self.ended: asyncio.Future[float] = side.loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        here, there = (transport.get_extra_info(name) for name in ("sockname", "peername"))
        if here and here == there:
            self.transport.abort()

    def received(self, data: bytes | memoryview) -> None:
        super().received(data)
        if self.opened_at is None and self.reader.ready:
            self.opened_at = self.side.loop.time()
            self.met = True
            if not self.shaken.done():
                self.shaken.set_result(True)
            queued = bool(self.inbox)
            self.inbox.insert(0, Opened(self.peer, self.address))  # type: ignore[arg-type] # `_Decoder` passes it on
            if not queued:
                self.side.ready.append(self)
                self.side.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self.shaken.done():
            self.shaken.set_result(False)
        elif not self.ended.done():  # it is where we do not dial any more
            self.ended.set_result(self.side.loop.time() - (self.opened_at or 0.0))


class _Decoder(Decoder):
    """Passes on what is an event already: that a connection is open waits in line with what it has sent."""

    def decode_all(self, messages: Iterable[Sequence[Any] | Opened], into: list[Event]) -> None:
        for message in messages:
            if isinstance(message, Opened):
                into.append(message)  # type: ignore[arg-type] # the ring's own event: `Loop` hands it to the node
            else:
                super().decode_all((message,), into)


class Links(_Side):
    """All connections to other daemons, whoever dialled.

    Args:
        limits: as of the other sides.
        neighbours: addresses to keep a connection to.
        rng: spreads the tries.
    """

    def __init__(self, limits: SocketLimits, neighbours: Sequence[str], rng: Random) -> None:
        super().__init__(Side.RING, limits)
        self.decoder = _Decoder(Side.RING, limits.message)
        self._neighbours = tuple(neighbours)
        self._dialling = Dialling(self._attempt, rng)

    async def open(self, places: Sequence[str], wake: Callable[[], None]) -> list[str]:
        """Listen, and begin to dial."""
        bound = await super().open(places, wake)
        self.loop, self.wake = asyncio.get_running_loop(), wake
        self._dialling.start(self._neighbours)
        return bound

    def finish(self) -> None:
        """As of any side, and dial no more."""
        self.adopting |= self._dialling.cancel()
        super().finish()

    async def _attempt(self, address: str) -> float:
        connection = _Dialled(self, address)
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._connect(connection)
                stands = await connection.shaken
        except TimeoutError:
            if connection.peer in self.connections:
                connection.transport.abort()
            raise
        if not stands:
            raise ConnectionError(BROKE_OFF)
        return await connection.ended

    async def _connect(self, connection: _Dialled) -> None:
        address = connection.address
        if address.startswith("ipc://"):
            await self._connect_path(connection, address.removeprefix("ipc://"))
            return
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        place = host.strip("[]"), int(port)
        transport, _ = await self.loop.create_connection(lambda: connection, *place, family=family)
        link = transport.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def _connect_path(self, connection: _Dialled, path: str) -> None:
        link = socket.socket(socket.AF_UNIX)
        link.setblocking(False)
        try:  # by ourselves, as uvloop takes no path outside the file system
            await self.loop.sock_connect(link, "\0" + path[1:] if path.startswith("@") else path)
            await self.loop.create_unix_connection(lambda: connection, sock=link)
        except BaseException:
            link.close()
            raise
