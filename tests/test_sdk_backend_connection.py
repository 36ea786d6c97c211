"""The backend and its connection: heartbeats, coming back, draining, signals; the daemon is driven by hand."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import zmq
from sdk_fakes import PATIENCE_S, FakeDaemon, Running, until

from router_daemon import errors
from router_daemon.backend import Backend, Delivery


@contextmanager
def running(daemon: FakeDaemon, **options: Any) -> Iterator[Running]:
    """Start a backend that echoes."""
    backend = Backend("b1", daemon.address, **options)

    @backend.handler("work")
    async def echo(delivery: Delivery) -> list[bytes]:
        return delivery.body

    with Running(backend) as started:
        yield started


class Held:
    """An async handler that works until it is let go."""

    def __init__(self, backend: Backend) -> None:
        self.began = threading.Event()
        self.ended = threading.Event()
        self._go: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        backend.handler("work")(self)

    async def __call__(self, delivery: Delivery) -> list[bytes]:
        self._loop, self._go = asyncio.get_running_loop(), asyncio.Event()
        self.began.set()
        try:
            await self._go.wait()
        finally:
            self.ended.set()
        return delivery.body

    def let_go(self) -> None:
        assert self._loop is not None
        assert self._go is not None
        self._loop.call_soon_threadsafe(self._go.set)


def test_heartbeats_go_on_while_a_handler_blocks_the_event_loop() -> None:
    go_on = threading.Event()
    with FakeDaemon() as daemon:
        backend = Backend("b1", daemon.address)

        @backend.handler("work")
        async def block(_: Delivery) -> None:
            assert go_on.wait(PATIENCE_S)

        with Running(backend):
            peer = daemon.registered(heartbeat_ms=60).peer
            daemon.deliver(peer, 1)
            beats = [daemon.expect("HEARTBEAT") for _ in range(5)]
            for beat in beats[1:]:
                assert beat.header == {"queue": 1}
                daemon.send(peer, "HEARTBEAT", {})
            go_on.set()
            assert daemon.expect("ACK", "HEARTBEAT").header == {"id": 1, "queue": 0}


def test_heartbeats_go_on_while_python_computes() -> None:
    stop = threading.Event()
    with FakeDaemon() as daemon:
        backend = Backend("b1", daemon.address)

        @backend.handler("work")
        def compute(_: Delivery) -> None:
            while not stop.is_set():
                sum(range(1000))

        with Running(backend):
            peer = daemon.registered(heartbeat_ms=200).peer
            daemon.deliver(peer, 1)
            began = time.monotonic()
            for _ in range(4):
                daemon.expect("HEARTBEAT")
                daemon.send(peer, "HEARTBEAT", {})
            assert time.monotonic() - began < 2 * 4 * 0.2
            stop.set()
            daemon.expect("ACK", "HEARTBEAT")


def test_a_daemon_that_comes_back_finds_the_backend_again_with_its_session() -> None:
    with FakeDaemon() as daemon, running(daemon):
        first = daemon.registered()
        daemon.vanish()
        daemon.bind()
        again = daemon.registered()
        assert again.header == first.header
        daemon.deliver(again.peer, 1, b"x")
        assert daemon.expect("ACK", "HEARTBEAT").body == [b"x"]


def test_a_result_made_while_the_daemon_was_away_follows_the_new_registration() -> None:
    with FakeDaemon() as daemon:
        backend = Backend("b1", daemon.address)
        held = Held(backend)
        with Running(backend):
            daemon.deliver(daemon.registered().peer, 1, b"kept")
            assert held.began.wait(PATIENCE_S)
            daemon.vanish()
            held.let_go()
            assert held.ended.wait(PATIENCE_S)
            daemon.bind()
            register = daemon.expect("REGISTER")
            assert daemon.silent()
            daemon.send(register.peer, "REGISTERED", {"name": "b1", "heartbeat_ms": 1000})
            ack = daemon.expect("ACK", "HEARTBEAT")
            assert (ack.header["id"], ack.body) == (1, [b"kept"])


def test_a_result_that_may_be_lost_with_its_connection_is_sent_again() -> None:
    with FakeDaemon() as daemon, running(daemon):
        for number in (1, 2):
            daemon.deliver(daemon.registered().peer, number, b"x")
            if number == 2:
                assert daemon.expect("ACK", "HEARTBEAT").header["id"] == 1
            assert daemon.expect("ACK", "HEARTBEAT").header["id"] == number
            daemon.vanish()
            daemon.bind()
        register = daemon.registered()
        assert [daemon.expect("ACK", "HEARTBEAT").header["id"] for _ in range(2)] == [1, 2]
        assert daemon.receive().verb == "HEARTBEAT"
        daemon.send(register.peer, "HEARTBEAT", {})
        daemon.expect("HEARTBEAT")  # by then the answer to the one before was read
        daemon.vanish()
        daemon.bind()
        daemon.registered()
        assert daemon.silent("HEARTBEAT")


def test_a_stream_cut_by_a_lost_connection_fails_rather_than_have_a_gap() -> None:
    ended = threading.Event()
    with FakeDaemon() as daemon:
        backend = Backend("b1", daemon.address)

        @backend.handler("work")
        async def stream(_: Delivery) -> AsyncIterator[bytes]:
            try:
                yield b"one"
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()

        with Running(backend):
            daemon.deliver(daemon.registered().peer, 1)
            daemon.expect("PART", "HEARTBEAT")
            daemon.vanish()
            assert ended.wait(PATIENCE_S)
            daemon.bind()
            daemon.registered()
            nack = daemon.expect("NACK", "HEARTBEAT")
            assert (nack.header["id"], nack.header["code"]) == (1, "failed")
            assert daemon.silent("HEARTBEAT")


def test_a_daemon_that_forgot_the_backend_gets_it_again() -> None:
    with FakeDaemon() as daemon, running(daemon):
        register = daemon.registered(heartbeat_ms=40)
        daemon.expect("HEARTBEAT")
        error = {"id": None, "code": "not_registered", "detail": "", "retry": False, "last": False}
        daemon.send(register.peer, "ERROR", error)
        assert daemon.receive("HEARTBEAT").header == register.header


def test_work_for_a_daemon_that_forgot_the_backend_is_dropped() -> None:
    """docs/protocol.md, error codes: "REGISTER, and drop unfinished work". `conform` found it unkept."""
    with FakeDaemon() as daemon:
        backend = Backend("b1", daemon.address)
        held = Held(backend)
        with Running(backend):
            peer = daemon.registered().peer
            daemon.deliver(peer, 1, b"old")
            assert held.began.wait(PATIENCE_S)
            daemon.send(peer, "ERROR", {"id": None, "code": "not_registered", "detail": "", "retry": False})
            daemon.registered()
            assert held.ended.wait(PATIENCE_S)
            assert daemon.silent("HEARTBEAT")


def test_unanswered_heartbeats_lead_to_a_new_connection_with_the_same_session() -> None:
    with FakeDaemon() as daemon, running(daemon):
        first = daemon.registered(heartbeat_ms=40)
        again = daemon.receive("HEARTBEAT")
        assert again.verb == "REGISTER"
        assert again.peer != first.peer
        assert again.header == first.header


def test_a_register_without_an_answer_is_tried_on_a_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router_daemon.sdk.registration.REGISTER_TIMEOUT_S", 0.1)
    with FakeDaemon() as daemon, running(daemon):
        first = daemon.expect("REGISTER")
        again = daemon.expect("REGISTER")
        assert again.peer != first.peer
        assert again.header == first.header


def test_a_taken_name_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router_daemon.sdk.registration.RETRY_S", 0.05)
    with FakeDaemon() as daemon, running(daemon) as started:
        error = {"id": None, "code": "name_taken", "detail": "", "retry": True, "last": False}
        for _ in range(3):
            daemon.send(daemon.expect("REGISTER").peer, "ERROR", error)
        assert not started.backend._registered.is_set()
        daemon.registered()
        started.call(started.backend.wait_registered())


def test_a_registration_refused_for_good_ends_run_with_that_error() -> None:
    with FakeDaemon() as daemon, running(daemon) as started:
        error = {"id": None, "code": "bad_header", "detail": "slots", "retry": False, "last": False}
        daemon.send(daemon.expect("REGISTER").peer, "ERROR", error)
        assert started.ended()
        assert isinstance(started.error, errors.RequestRefused)
        assert (started.error.code, started.error.detail) == ("bad_header", "slots")


def test_a_daemon_that_leaves_with_bye_gets_no_results_and_its_work_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("router_daemon.sdk.registration.RETRY_S", 0.05)
    with FakeDaemon() as daemon:
        backend = Backend("b1", daemon.address, slots=2, prefetch=1)
        held = Held(backend)
        began, finish, flagged = threading.Event(), threading.Event(), threading.Event()

        @backend.handler("slow")
        def slow(delivery: Delivery) -> bytes:
            began.set()
            assert delivery.cancelled.wait(PATIENCE_S)
            flagged.set()
            assert finish.wait(PATIENCE_S)
            return b"too late"

        with Running(backend):
            peer = daemon.registered().peer
            for number, capability in ((1, "work"), (2, "slow"), (3, "work")):
                daemon.deliver(peer, number, capability=capability)
            assert held.began.wait(PATIENCE_S)
            assert began.wait(PATIENCE_S)
            daemon.send(peer, "BYE", {})
            assert held.ended.wait(PATIENCE_S)
            assert flagged.wait(PATIENCE_S)
            daemon.registered()
            finish.set()
            assert daemon.silent("HEARTBEAT")


def test_stop_drains_and_waits_for_bye() -> None:
    with FakeDaemon() as daemon:
        backend = Backend("b1", daemon.address)
        held = Held(backend)
        with Running(backend) as started:
            peer = daemon.registered().peer
            daemon.deliver(peer, 1, b"last")
            assert held.began.wait(PATIENCE_S)
            stopping = asyncio.run_coroutine_threadsafe(backend.stop(), started.loop)
            assert daemon.receive("HEARTBEAT").verb == "DRAIN"
            held.let_go()
            assert daemon.expect("ACK", "HEARTBEAT").body == [b"last"]
            assert not stopping.done()
            daemon.send(peer, "BYE", {})
            assert started.ended()
            assert started.error is None
            assert daemon.silent("HEARTBEAT")


def test_a_drain_that_takes_too_long_unregisters_and_cancels() -> None:
    with FakeDaemon() as daemon:
        backend = Backend("b1", daemon.address, drain_timeout_s=0.1)
        held = Held(backend)
        with Running(backend) as started:
            peer = daemon.registered().peer
            daemon.deliver(peer, 1)
            assert held.began.wait(PATIENCE_S)
            backend.request_stop()
            daemon.expect("DRAIN", "HEARTBEAT")
            daemon.expect("UNREGISTER", "HEARTBEAT")
            assert started.ended()
            assert held.ended.is_set()
            assert started.error is None


def test_stop_without_a_daemon_ends_at_once() -> None:
    async def main(address: str) -> None:
        backend = Backend("b1", address, capabilities=["work"])
        await backend.stop()
        running = asyncio.create_task(backend.run())
        waiting = asyncio.create_task(backend.wait_registered())
        await until(lambda: backend._link is not None)
        async with asyncio.timeout(1):
            await backend.stop()
            await running
            with pytest.raises(errors.ConnectionLost, match="not running"):
                await waiting
        with pytest.raises(errors.ConnectionLost, match="not running"):
            await backend.update(cost=1.0)

    with FakeDaemon() as daemon:
        daemon.vanish()
        asyncio.run(main(daemon.address))


def test_cancelling_run_leaves_at_once_and_it_may_run_again() -> None:
    async def main(daemon: FakeDaemon) -> None:
        backend = Backend("b1", daemon.address)
        backend.handler("work")(lambda _: b"")
        for _ in range(2):
            task = asyncio.create_task(backend.run())
            register = await asyncio.to_thread(daemon.registered)
            assert register.header["session"] == backend.session
            await backend.wait_registered()
            with pytest.raises(RuntimeError, match="running already"):
                await backend.run()
            task.cancel()
            await daemon.soon("UNREGISTER", "HEARTBEAT")
            with pytest.raises(asyncio.CancelledError):
                await task

    with FakeDaemon() as daemon:
        asyncio.run(main(daemon))


def test_an_update_refused_by_the_daemon_changes_nothing() -> None:
    with FakeDaemon() as daemon, running(daemon) as started:
        peer = daemon.registered().peer
        updating = asyncio.run_coroutine_threadsafe(started.backend.update(slots=5, cost=-1), started.loop)
        assert daemon.expect("UPDATE", "HEARTBEAT").header == {"slots": 5, "cost": -1}
        error = {"id": None, "code": "bad_header", "detail": "cost", "retry": False, "last": False}
        daemon.send(peer, "ERROR", error)
        with pytest.raises(errors.RequestRefused, match="cost"):
            updating.result(PATIENCE_S)
        assert started.backend.slots == 1


def test_an_address_that_cannot_be_read_is_said_at_once() -> None:
    backend = Backend("b1", "nonsense", capabilities=["x"])
    with pytest.raises(zmq.ZMQError):
        asyncio.run(backend.run())
