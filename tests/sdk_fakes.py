"""What the SDK's tests share: a daemon driven by hand, and ways to wait without sleeping."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgpack
import zmq

from router_daemon.backend import Backend, Delivery
from router_daemon.client import Client

PATIENCE_S = 10.0

Function = Callable[[Delivery], Any]
Work = Callable[[Client, "FakeDaemon"], Coroutine[Any, Any, None]]


class Message(NamedTuple):
    """What a peer sent."""

    peer: bytes
    verb: str
    header: dict[str, Any]
    body: list[bytes]


class FakeDaemon:
    """A ROUTER socket: nothing happens but what the test says."""

    def __init__(self, address: str = "tcp://127.0.0.1:*", **options: int) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.options = options
        self.address = address
        self.bind()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.context.destroy(0)

    def bind(self) -> None:
        """Be there, at the same address as before."""
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        for option, value in self.options.items():
            self.socket.setsockopt(getattr(zmq, option), value)
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.socket.bind(self.address)
                break
            except zmq.ZMQError as error:  # the closed socket may hold the port for a moment
                if error.errno != zmq.EADDRINUSE or time.monotonic() > give_up_at:
                    raise
        self.address = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def vanish(self) -> None:
        """Be gone without a word, the listening socket too (libzmq closes it at its leisure)."""
        self.socket.close(0)
        host, _, port = self.address.removeprefix("tcp://").rpartition(":")
        give_up_at = time.monotonic() + PATIENCE_S
        with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):
            while True:
                assert time.monotonic() < give_up_at, "the listening socket stays open"
                socket.create_connection((host, int(port))).close()

    def receive(self, *skip: str, timeout_s: float = PATIENCE_S) -> Message:
        """Return the next message, without those of the verbs to skip."""
        give_up_at = time.monotonic() + timeout_s
        while True:
            left_ms = max(0, int((give_up_at - time.monotonic()) * 1000))
            assert self.socket.poll(left_ms), f"nothing came within {timeout_s} s"
            peer, command, packed, *body = self.socket.recv_multipart()
            assert command.startswith(b"CAR1."), command
            message = Message(peer, command[5:].decode(), msgpack.unpackb(packed), body)
            if message.verb not in skip:
                return message

    def silent(self, *skip: str, for_s: float = 0.15) -> bool:
        """Return whether nothing but messages of these verbs comes for a while."""
        give_up_at = time.monotonic() + for_s
        while (left_s := give_up_at - time.monotonic()) > 0:
            if self.socket.poll(int(left_s * 1000) + 1) and self.receive().verb not in skip:
                return False
        return True

    def expect(self, verb: str, *skip: str) -> Message:
        """Return the next message, which must be of this verb."""
        message = self.receive(*skip)
        assert message.verb == verb, message
        return message

    async def soon(self, verb: str, *skip: str) -> Message:
        """As `expect`, beside a running event loop."""
        return await asyncio.to_thread(self.expect, verb, *skip)

    async def quiet(self, *skip: str) -> bool:
        """As `silent`, beside a running event loop."""
        return await asyncio.to_thread(self.silent, *skip)

    def send(self, peer: bytes, verb: str, header: dict[str, Any], *body: bytes) -> None:
        """Send a message to a peer."""
        self.socket.send_multipart([peer, b"CAR1." + verb.encode(), msgpack.packb(header), *body])

    def reply(self, to: Message, *body: bytes, **keys: Any) -> None:
        """Send the REPLY to a SEND."""
        header = {"id": to.header["id"], "message": "m1", "backend": "b1", "head": 1, "heads": 1}
        self.send(to.peer, "REPLY", {**header, "elapsed_ms": 1.5, "last": True, **keys}, *body)

    def error(self, to: Message, code: str, **keys: Any) -> None:
        """Send an ERROR to a SEND."""
        header = {"id": to.header["id"], "code": code, "detail": f"because {code}", "retry": False, "last": True}
        self.send(to.peer, "ERROR", {**header, **keys})

    def registered(self, heartbeat_ms: int = 1000) -> Message:
        """Take a REGISTER and confirm it."""
        register = self.expect("REGISTER")
        header = {"name": register.header["name"], "heartbeat_ms": heartbeat_ms}
        self.send(register.peer, "REGISTERED", header)
        return register

    def deliver(self, peer: bytes, delivery_id: int, *body: bytes, **keys: Any) -> None:
        """Send a DELIVER."""
        header = {"id": delivery_id, "message": f"m{delivery_id}", "capability": "work", "priority": 2}
        header |= {"ttl_ms": 10_000, "attempt": 1, "head": 1, "heads": 1}
        self.send(peer, "DELIVER", {**header, **keys}, *body)


class Running:
    """A backend that runs on an event loop in a thread of its own, so that a test may stop that loop."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.error: BaseException | None = None
        self.loop = asyncio.new_event_loop()
        self.task = self.loop.create_task(backend.run())
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.loop.run_until_complete(self.task)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the test asks for it
            self.error = error

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.call_soon_threadsafe(self.task.cancel)
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def call(self, work: Any) -> Any:
        """Run a coroutine over there."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE_S)

    def ended(self) -> bool:
        """Return whether `run()` came to its end."""
        self.thread.join(PATIENCE_S)
        return not self.thread.is_alive()


async def until(condition: Callable[[], Any]) -> None:
    """Let the event loop turn until something holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - no wait: one turn of the loop
            await asyncio.sleep(0)


def with_client(work: Work, **options: Any) -> None:
    """Run a test's coroutine with a client and the daemon it talks to."""

    async def main() -> None:
        with FakeDaemon() as daemon:
            async with asyncio.timeout(30), Client(daemon.address, **options) as client:
                await until(lambda: client._link is not None and client._link.connected)
                await work(client, daemon)

    asyncio.run(main())


@asynccontextmanager
async def task_of(work: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """Run a coroutine beside the test and leave nothing of it behind."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()


@contextmanager
def serving(function: Function, **options: Any) -> Iterator[tuple[FakeDaemon, bytes, Running]]:
    """Register a backend with one handler; yield the daemon, its name for the backend, and the backend."""
    with FakeDaemon() as daemon:
        backend = Backend("b1", daemon.address, **{"prefetch": 0, **options})  # no UPDATE among what is counted
        backend.handler("work")(function)
        with Running(backend) as running:
            register = daemon.registered(heartbeat_ms=60_000)
            yield daemon, register.peer, running


def answers(function: Function, **keys: Any) -> Message:
    """Return what a backend sends for one delivery to a handler."""
    with serving(function) as (daemon, peer, _):
        daemon.deliver(peer, 5, b"in", **keys)
        return daemon.receive()


@asynccontextmanager
async def registered(backend: Backend) -> AsyncIterator[Backend]:
    """Run a backend on this loop."""
    running = asyncio.create_task(backend.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            await backend.wait_registered()
        yield backend
    finally:
        await backend.stop()
        await running


async def echo(delivery: Delivery) -> list[bytes]:
    return delivery.body
