"""A transport with its ring's side on real sockets in this process, of either engine; nothing sleeps."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from random import Random
from typing import Any, Final

from native_kit import LOOK_S, WAIT_S

from router_daemon.core.events import Gone
from router_daemon.core.types import Peer, Side
from router_daemon.links import Links
from router_daemon.native import NativeTransport
from router_daemon.ring.messages import Opened
from router_daemon.transport import SocketLimits, ZmqTransport
from router_daemon.wire import Limits
from router_daemon.zmq_links import ZmqLinks

ANY: Final = "tcp://127.0.0.1:0"
ENGINES: Final = ("native", "libzmq")


def transport_of(engine: str, neighbours: Sequence[str], unread_bytes: int = 1 << 20) -> NativeTransport | ZmqTransport:
    """Return a transport of that engine that dials these."""
    holds, rng = SocketLimits(Limits(), 32, unread_bytes), Random(1)
    if engine == "native":
        return NativeTransport(holds, holds, Links(holds, neighbours, rng))
    return ZmqTransport(holds, holds, partial(ZmqLinks, limits=holds, neighbours=neighbours, rng=rng))


class Node:
    """A started transport, and the events of its ring's side in order."""

    def __init__(self, engine: str, neighbours: Sequence[str], unread_bytes: int = 1 << 20) -> None:
        self.transport = transport_of(engine, neighbours, unread_bytes)
        self.events: list[Any] = []
        self.woken = asyncio.Event()
        self.address = ""

    async def start(self, listen: str) -> None:
        bound = await self.transport.start([[ANY], [ANY], [listen] if listen else []], self.woken.set)
        self.address = bound[2][0] if listen else ""

    async def until(self, done: Callable[[], Any], *others: Node) -> None:
        """Return once something is so; what comes meanwhile, here and to the others, is received."""
        deadline_s = time.monotonic() + WAIT_S
        while True:
            self.woken.clear()
            for each in (self, *others):
                while batch := each.transport.receive(256, 0.005):
                    each.events += batch
            if done():
                return
            assert time.monotonic() < deadline_s, f"it did not come true; events: {self.events[-5:]!r:.2000}"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.woken.wait(), LOOK_S)

    async def next(self, *others: Node) -> Any:
        """Return the next event."""
        await self.until(lambda: self.events, *others)
        return self.events.pop(0)

    async def opened(self, address: str, *others: Node) -> Peer:
        """Return what the next connection is called, which must be to this address."""
        event = await self.next(*others)
        assert isinstance(event, Opened), event
        assert event.address == address
        return event.peer

    def send(self, *out: Any) -> list[Any]:
        return self.transport.send(out)


@contextlib.asynccontextmanager
async def node(engine: str, *neighbours: str, listen: str = ANY, unread_bytes: int = 1 << 20) -> AsyncIterator[Node]:
    """Start one; in the end it is closed."""
    started = Node(engine, neighbours, unread_bytes)
    try:
        await started.start(listen)
        yield started
    finally:
        await started.transport.close(0.0)


def gone(peer: Peer) -> Gone:
    """Return the event that this neighbour's connection has ended."""
    return Gone(Side.RING, peer)
