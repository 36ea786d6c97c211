"""Lets workers of the Majordomo Protocol serve behind router-daemon, unchanged: they connect here, not to their broker.

    python docs/examples/python/mdp_bridge.py --workers tcp://127.0.0.1:5555

It speaks MDP/0.1 (ZeroMQ RFC 7) and MDP/0.2 (RFC 18) to workers, and CAR/1 to the daemon. Each worker becomes a backend
of its own, `SERVICE-1`, `SERVICE-2`, ..., with one slot and the capability SERVICE.

- A worker has one request at a time. MDP has no CANCEL, so where nobody wants the answer any more the worker goes on,
  and its place stays taken until it is done.
- An idle worker that is silent for three heartbeats is gone. A busy one is not: most MDP workers send none while they
  work. It is gone where it is silent for three heartbeats beyond the time that its message had.
- What a worker that goes had to do is lost for the daemon, which gives it to another one where that is allowed.
- A peer that says anything but READY first, or READY twice, gets DISCONNECT, as the RFC wants, and should begin again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import NamedTuple

import zmq
import zmq.asyncio

from router_daemon import Backend
from router_daemon.backend import Answer, Delivery

log = logging.getLogger("mdp_bridge")

ADDRESS = os.environ.get("ROUTER_DAEMON__BACKEND__BIND", "tcp://127.0.0.1:5571")
LIVENESS = 3
"""Heartbeats that may be missing."""
GONE = b"gone"
"""In place of a command: the worker will not answer any more."""


class Dialect(NamedTuple):
    """One version of MDP/Worker: its name, whether an empty frame comes first, and the bytes of its commands."""

    name: bytes
    lead: tuple[bytes, ...]
    ready: bytes
    request: bytes
    partial: bytes
    final: bytes
    heartbeat: bytes
    disconnect: bytes


NEVER = b"never"
"""In place of a command that a version does not have."""
MDP_01 = Dialect(b"MDPW01", (b"",), b"\x01", b"\x02", NEVER, b"\x03", b"\x04", b"\x05")
MDP_02 = Dialect(b"MDPW02", (), b"\x01", b"\x02", b"\x03", b"\x04", b"\x05", b"\x06")


@dataclass(eq=False)
class Worker:
    """One worker: who it is on the socket, the backend that stands for it, and what it has answered."""

    peer: bytes
    dialect: Dialect
    service: str
    number: int
    heard_at: float
    backend: Backend
    task: asyncio.Task[None] | None = None
    delivery: Delivery | None = None
    answers: asyncio.Queue[tuple[bytes, list[bytes]]] = field(default_factory=asyncio.Queue)

    def silent_since(self, now: float) -> float:
        """Return for how long it should have been heard, in seconds."""
        silent_s = now - self.heard_at
        return silent_s if self.delivery is None else min(silent_s, -self.delivery.time_left_s)


class Bridge:
    """The broker's side of MDP/Worker, with a backend of router-daemon for each worker.

    Args:
        daemon: the daemon's backend socket.
        workers: where workers connect.
        heartbeat_s: how often each side says that it lives; the workers' own should be about as long.
        most_workers: further ones get DISCONNECT.
    """

    def __init__(self, daemon: str, workers: str, heartbeat_s: float, most_workers: int) -> None:
        self._daemon = daemon
        self._heartbeat_s = heartbeat_s
        self._most_workers = most_workers
        self._workers: dict[bytes, Worker] = {}
        self._socket = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
        self._socket.linger = 500
        self._socket.bind(workers)

    async def run(self) -> None:
        """Serve until cancelled; then let workers finish what they have, and tell them to go."""
        beating = asyncio.create_task(self._beat())
        reading = asyncio.create_task(self._read())
        try:
            ended, _ = await asyncio.wait([beating, reading], return_when=asyncio.FIRST_COMPLETED)
            await ended.pop()  # neither ends by itself: it has failed
        finally:
            beating.cancel()
            await asyncio.gather(*(worker.backend.stop() for worker in self._workers.values()))
            reading.cancel()
            for worker in list(self._workers.values()):
                await self._say(worker.peer, worker.dialect, worker.dialect.disconnect)
            self._socket.close()

    async def _read(self) -> None:
        """Take in what workers say."""
        while True:
            peer, *frames = await self._socket.recv_multipart()
            dialect = MDP_01 if frames and frames[0] == b"" else MDP_02
            frames = frames[len(dialect.lead) :]
            if len(frames) < 2 or frames[0] != dialect.name:
                log.warning("dropped a message that is no MDP/Worker")
                continue
            await self._on_command(peer, dialect, frames[1], frames[2:])

    async def _on_command(self, peer: bytes, dialect: Dialect, command: bytes, rest: list[bytes]) -> None:
        worker = self._workers.get(peer)
        if worker is not None:
            worker.heard_at = time.monotonic()
        if command == dialect.disconnect:
            if worker is not None:
                self._drop(worker, "said DISCONNECT")
        elif worker is None and command == dialect.ready and len(rest) == 1 and len(self._workers) < self._most_workers:
            self._admit(peer, dialect, rest[0].decode("utf-8", "replace"))
        elif worker is not None and _is_answer(dialect, command, rest):
            self._on_answer(worker, command, rest[0], rest[2:])
        elif worker is None or command != dialect.heartbeat:
            await self._say(peer, dialect, dialect.disconnect)
            if worker is not None:
                self._drop(worker, "broke the protocol")

    def _on_answer(self, worker: Worker, command: bytes, address: bytes, body: list[bytes]) -> None:
        """Hand an answer over, where it is one to what the worker has."""
        if worker.delivery is not None and address == _address(worker.delivery):
            worker.answers.put_nowait((command, body))

    def _admit(self, peer: bytes, dialect: Dialect, service: str) -> None:
        """Make a backend for a new worker."""
        taken = {worker.number for worker in self._workers.values() if worker.service == service}
        number = next(number for number in range(1, len(taken) + 2) if number not in taken)
        backend = Backend(f"{service[:50]}-{number}", self._daemon, slots=1, prefetch=0, group="mdp")
        worker = Worker(peer, dialect, service, number, time.monotonic(), backend)

        @backend.handler(service)
        async def work(delivery: Delivery) -> AsyncIterator[list[bytes] | Answer]:
            async for item in self._work(worker, delivery):
                yield item

        self._workers[peer] = worker
        worker.task = asyncio.create_task(backend.run())
        worker.task.add_done_callback(_say_why)
        log.info("%s joined, by %s", backend.name, dialect.name.decode())

    def _drop(self, worker: Worker, why: str) -> None:
        """Leave the daemon in a worker's name: what it had is lost, and goes to others."""
        log.info("%s has gone: it %s", worker.backend.name, why)
        self._workers.pop(worker.peer, None)
        worker.answers.put_nowait((GONE, []))
        if worker.task is not None:
            worker.task.cancel()

    async def _work(self, worker: Worker, delivery: Delivery) -> AsyncIterator[list[bytes] | Answer]:
        """Have a worker do one delivery."""
        dialect, worker.delivery = worker.dialect, delivery
        try:
            await self._say(worker.peer, dialect, dialect.request, _address(delivery), b"", *(delivery.body or [b""]))
            while True:
                try:
                    command, body = await worker.answers.get()
                except asyncio.CancelledError:
                    if worker.peer not in self._workers:
                        raise
                    continue  # it cannot be stopped: wait for its answer, and keep the place
                if command == GONE:
                    raise ConnectionError(f"{worker.backend.name} has gone")
                if command == dialect.final:
                    yield Answer(body)
                    return
                yield body
        finally:
            worker.delivery = None

    async def _beat(self) -> None:
        """Say that we live, and miss who does not say so."""
        while True:
            await asyncio.sleep(self._heartbeat_s)
            now = time.monotonic()
            for worker in list(self._workers.values()):
                if worker.silent_since(now) > LIVENESS * self._heartbeat_s:
                    await self._say(worker.peer, worker.dialect, worker.dialect.disconnect)
                    self._drop(worker, "was silent")
                else:
                    await self._say(worker.peer, worker.dialect, worker.dialect.heartbeat)

    async def _say(self, peer: bytes, dialect: Dialect, command: bytes, *rest: bytes) -> None:
        """Send a command to a worker."""
        await self._socket.send_multipart([peer, *dialect.lead, dialect.name, command, *rest])


def _is_answer(dialect: Dialect, command: bytes, rest: list[bytes]) -> bool:
    """Tell whether this is a PARTIAL, a FINAL or a REPLY: an address, an empty frame, the body."""
    return command in (dialect.partial, dialect.final) and command != NEVER and len(rest) >= 2 and rest[1] == b""


def _address(delivery: Delivery) -> bytes:
    """Return what MDP calls the client's address: the worker gives it back, and nobody else looks at it."""
    return b"%d" % delivery.id


def _say_why(task: asyncio.Task[None]) -> None:
    """Put into the log why a backend has ended by itself."""
    if not task.cancelled() and task.exception() is not None:
        log.error("a backend has ended: %s", task.exception())


async def main() -> None:
    """Run until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description="Workers of the Majordomo Protocol behind router-daemon.")
    parser.add_argument("--daemon", default=ADDRESS, help="the daemon's backend socket")
    parser.add_argument("--workers", default="tcp://127.0.0.1:5555", help="where workers connect")
    parser.add_argument("--heartbeat-ms", type=int, default=2500, help="as the workers are set")
    parser.add_argument("--most-workers", type=int, default=100, help="further ones are sent away")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    bridge = Bridge(options.daemon, options.workers, options.heartbeat_ms / 1000, options.most_workers)
    running = asyncio.create_task(bridge.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running


if __name__ == "__main__":
    asyncio.run(main())
