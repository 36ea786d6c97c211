"""A TCP proxy that fails on command: it stands between peers and the daemon and knows nothing of what they say.

Rules:
- The fault is the proxy's, not a connection's: `set` changes it for all connections there are and all to come.
- `pass` relays; `delay` relays everything later, in order; `drip` relays a few bytes at a time; `hole` accepts and
  swallows, and the connection stays open; `cut` resets what is there and whatever comes.
- A connection that has lost bytes in a hole can never be whole again: it is reset when the hole ends.
- Memory is bounded: a direction that is behind by `BEHIND_BYTES` is not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from typing import Final

CHUNK_BYTES: Final = 65_536
BEHIND_BYTES: Final = 1_048_576
TICK_S: Final = 0.01
FAULTS: Final = ("pass", "delay", "drip", "hole", "cut")
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset


class Proxy:
    """Listens on a port of loopback and connects to another one for each connection it gets.

    Attributes:
        fault: what it does now, one of `FAULTS`.
        connections, swallowed_bytes, passed_bytes, resets: counted since the start.
    """

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.fault = "pass"
        self.delay_s = 0.0
        self.bytes_per_tick = 64
        self.connections = self.swallowed_bytes = self.passed_bytes = self.resets = 0
        self._target = target
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=CHUNK_BYTES)

    async def stop(self) -> None:
        """Stop listening and reset what is there."""
        if self._server is not None:
            self._server.close()
        for pair in list(self._pairs):
            pair.reset()
        while self._pairs:
            await asyncio.wait([pair.task for pair in self._pairs], timeout=1.0)
        if self._server is not None:
            await self._server.wait_closed()

    def set(self, fault: str, *, delay_s: float = 0.0, bytes_per_tick: int = 64) -> None:
        """Fail like this from now on.

        Args:
            fault: one of `FAULTS`.
            delay_s: of `delay`: how much later everything comes.
            bytes_per_tick: of `drip`: so many bytes every `TICK_S`, in each direction of each connection.
        """
        assert fault in FAULTS, fault
        self.fault, self.delay_s, self.bytes_per_tick = fault, delay_s, bytes_per_tick
        for pair in list(self._pairs):
            if fault == "cut" or (pair.holed and fault != "hole"):
                pair.reset()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        pair = _Pair(self, reader, writer, task)
        self._pairs.add(pair)
        try:
            await pair.run(self._target)
        finally:
            self._pairs.discard(pair)


class _Pair:
    """One connection and its continuation."""

    def __init__(
        self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: asyncio.Task[None]
    ) -> None:
        self.proxy = proxy
        self.task = task
        self.holed = False
        self._near = (reader, writer)
        self._writers = [writer]
        self._done = asyncio.Event()

    async def run(self, target: int) -> None:
        """Relay until one end closes or the pair is reset."""
        if self.proxy.fault == "cut":
            self.reset()
            return
        try:
            far = await asyncio.open_connection("127.0.0.1", target, limit=CHUNK_BYTES)
        except OSError:
            self._close()
            return
        self._writers.append(far[1])
        ways = [self._relay(self._near[0], far[1]), self._relay(far[0], self._near[1])]
        tasks = [asyncio.create_task(way) for way in (*ways, self._done.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._close()

    def reset(self) -> None:
        """End both connections as if a cable had been cut: with a reset."""
        self.proxy.resets += 1
        for writer in self._writers:
            link = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        self._done.set()

    def _close(self) -> None:
        for writer in self._writers:
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one direction: what is read waits in a queue until its time has come."""
        way = _Way(self.proxy, writer)
        sending = asyncio.create_task(way.send())
        try:
            while data := await reader.read(CHUNK_BYTES):
                if self.proxy.fault == "hole":
                    self.holed = True
                    self.proxy.swallowed_bytes += len(data)
                else:
                    await way.put(data)
            await way.put(b"")
            await sending
        except OSError:
            return
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


class _Way:
    """One direction of one connection, between reading and writing."""

    def __init__(self, proxy: Proxy, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._writer = writer
        self._queue: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._changed = asyncio.Event()

    async def put(self, data: bytes) -> None:
        """Take a piece (b"": the end), once there is room for it."""
        while self._held_bytes > BEHIND_BYTES:
            await self._turn()
        delay_s = self._proxy.delay_s if self._proxy.fault == "delay" else 0.0
        self._queue.append((asyncio.get_running_loop().time() + delay_s, data))
        self._held_bytes += len(data)
        self._changed.set()

    async def send(self) -> None:
        """Write the pieces when they are due, in order."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._queue:
                await self._turn()
            due, data = self._queue[0]
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not data:
                return
            if self._proxy.fault == "drip":
                await asyncio.sleep(TICK_S)
                piece = data[: self._proxy.bytes_per_tick]
            else:
                piece = data
            self._queue[0] = (due, data[len(piece) :])
            if len(piece) == len(data):
                self._queue.popleft()
            self._held_bytes -= len(piece)
            self._proxy.passed_bytes += len(piece)
            self._writer.write(piece)
            await self._writer.drain()
            self._changed.set()

    async def _turn(self) -> None:
        self._changed.clear()
        await self._changed.wait()
