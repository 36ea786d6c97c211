"""How much a backend does at once, and how it stops: slots, waiting, room, CANCEL; the daemon is driven by hand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from sdk_fakes import FakeDaemon, Running, serving

from router_daemon.backend import Backend, Delivery
from router_daemon.sdk.outbox import ROOM_BYTES


class Gate:
    """A handler whose deliveries the test lets through one by one."""

    def __init__(self) -> None:
        self.began: list[int] = []
        self.changed = threading.Condition()
        self.open: set[int] = set()

    def __call__(self, delivery: Delivery) -> bytes:
        with self.changed:
            self.began.append(delivery.id)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: delivery.id in self.open, 10)
        return b"%d" % delivery.id

    def let(self, *ids: int) -> None:
        with self.changed:
            self.open.update(ids)
            self.changed.notify_all()

    def wait_for(self, *ids: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.began == list(ids), 10)


def test_a_stream_goes_no_faster_than_the_daemon_takes_it_and_loses_nothing() -> None:
    count, piece = 300, bytes(131_072)
    made = []

    async def handle(_: Delivery) -> AsyncIterator[list[bytes]]:
        for number in range(count):
            made.append(number)
            yield [number.to_bytes(4), piece]

    with FakeDaemon(RCVHWM=1, RCVBUF=65536) as daemon:
        backend = Backend("b1", daemon.address)
        backend.handler("work")(handle)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("router_daemon.sdk.link.HIGH_WATER_MARK", 4)
            with Running(backend) as running:
                peer = daemon.registered(heartbeat_ms=60_000).peer
                daemon.deliver(peer, 1)
                daemon.socket.poll(10_000)
                reached = -1
                while reached != (reached := len(made)):
                    running.thread.join(0.2)  # it goes on for as long as there is room
                assert reached * len(piece) > ROOM_BYTES // 2
                assert reached < count
                assert [int.from_bytes(daemon.expect("PART").body[0]) for _ in range(count)] == list(range(count))
                assert daemon.expect("ACK").header["id"] == 1


def test_deliveries_beyond_the_slots_wait_and_run_in_order() -> None:
    gate = Gate()
    with serving(gate, slots=2, prefetch=3) as (daemon, peer, _):
        for number in range(1, 6):
            daemon.deliver(peer, number)
        assert gate.wait_for(1, 2)
        gate.let(2)
        ack = daemon.expect("ACK")
        assert (ack.header, ack.body) == ({"id": 2, "queue": 4}, [b"2"])
        assert gate.wait_for(1, 2, 3)
        gate.let(1, 3, 4, 5)
        acks = [daemon.expect("ACK") for _ in range(4)]
        assert sorted(ack.header["id"] for ack in acks) == [1, 3, 4, 5]
        assert [ack.header["queue"] for ack in acks] == [3, 2, 1, 0]
        assert sorted(gate.began) == [1, 2, 3, 4, 5]


def test_what_expired_while_it_waited_is_not_begun() -> None:
    gate = Gate()
    with serving(gate, prefetch=1) as (daemon, peer, _):
        daemon.deliver(peer, 1)
        daemon.deliver(peer, 2, ttl_ms=1)
        assert gate.wait_for(1)
        assert daemon.silent(for_s=0.05)
        gate.let(1)
        assert daemon.expect("ACK").header["id"] == 1
        assert daemon.expect("NACK").header == {"id": 2, "code": "cancelled", "reason": "expired before it was begun"}
        assert gate.began == [1]


def test_cancel_ends_an_async_handler_and_its_cleanup_runs() -> None:
    cleaned = threading.Event()
    began = threading.Event()

    async def handle(_: Delivery) -> None:
        began.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cleaned.set()

    with serving(handle) as (daemon, peer, _):
        daemon.deliver(peer, 1)
        assert began.wait(10)
        daemon.send(peer, "CANCEL", {"id": 1})
        daemon.send(peer, "CANCEL", {"id": 99})
        assert daemon.expect("NACK").header == {"id": 1, "code": "cancelled", "reason": "cancelled"}
        assert cleaned.is_set()
        daemon.send(peer, "CANCEL", {"id": 1})
        assert daemon.silent()


def test_cancel_ends_a_stream_between_its_pieces() -> None:
    async def handle(_: Delivery) -> AsyncIterator[bytes]:
        yield b"one"
        await asyncio.get_running_loop().create_future()

    with serving(handle) as (daemon, peer, _):
        daemon.deliver(peer, 1)
        daemon.expect("PART")
        daemon.send(peer, "CANCEL", {"id": 1})
        assert daemon.expect("NACK").header["code"] == "cancelled"


def test_an_async_handler_may_finish_after_a_cancel() -> None:
    began = threading.Event()

    async def handle(delivery: Delivery) -> bytes:
        began.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            assert delivery.cancelled.is_set()
        return b"done after all"

    with serving(handle) as (daemon, peer, _):
        daemon.deliver(peer, 1)
        assert began.wait(10)
        daemon.send(peer, "CANCEL", {"id": 1})
        assert daemon.expect("ACK").body == [b"done after all"]


def test_cancel_of_what_waits_settles_it_at_once_and_of_a_thread_sets_its_flag() -> None:
    seen: list[bool] = []
    began = threading.Semaphore(0)

    def handle(delivery: Delivery) -> bytes:
        began.release()
        seen.append(delivery.cancelled.wait(10))
        if delivery.attempt == 2:
            raise ValueError("stopped")
        return b"done"

    with serving(handle, prefetch=2) as (daemon, peer, _):
        daemon.deliver(peer, 1)
        daemon.deliver(peer, 2)
        daemon.deliver(peer, 3, attempt=2)
        assert began.acquire(timeout=10)
        daemon.send(peer, "CANCEL", {"id": 2})
        header = {"id": 2, "code": "cancelled", "reason": "cancelled before it was begun"}
        assert daemon.expect("NACK").header == header
        daemon.send(peer, "CANCEL", {"id": 1})
        assert daemon.expect("ACK").header["id"] == 1
        assert began.acquire(timeout=10)
        daemon.send(peer, "CANCEL", {"id": 3})
        assert daemon.expect("NACK").header == {"id": 3, "code": "cancelled", "reason": "cancelled"}
        assert seen == [True, True]


def test_a_cancel_in_the_same_breath_as_its_delivery_is_still_answered_once() -> None:
    async def handle(_: Delivery) -> bytes:
        return b"done"

    for function in (handle, lambda _: b"done"):
        with serving(function, slots=50) as (daemon, peer, _):
            for number in range(50):
                daemon.deliver(peer, number)
                daemon.send(peer, "CANCEL", {"id": number})
            answers = [daemon.receive() for _ in range(50)]
            assert sorted(answer.header["id"] for answer in answers) == list(range(50))
            assert all(each.verb == "ACK" or each.header["code"] == "cancelled" for each in answers)
            assert daemon.silent(for_s=0.05)


def test_no_more_threads_than_slots_also_after_an_update() -> None:
    barrier = threading.Barrier(2)
    names = set()

    def handle(delivery: Delivery) -> bytes:
        names.add(threading.current_thread().name)
        if delivery.attempt == 2:
            barrier.wait(10)
        return b""

    with serving(handle, cost=1.0) as (daemon, peer, running):
        for number in range(10):
            daemon.deliver(peer, number)
            daemon.expect("ACK")
        assert len(names) == 1
        updating = asyncio.run_coroutine_threadsafe(running.backend.update(slots=2, zone="z"), running.loop)
        assert daemon.expect("UPDATE").header == {"slots": 2, "zone": "z"}
        daemon.send(peer, "REGISTERED", {"name": "b1", "heartbeat_ms": 60_000})
        updating.result(10)
        assert running.backend.slots == 2
        for number in (20, 21):
            daemon.deliver(peer, number, attempt=2)
        assert {daemon.expect("ACK").header["id"] for _ in range(2)} == {20, 21}
