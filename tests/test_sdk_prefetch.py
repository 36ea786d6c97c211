"""How many deliveries wait at a backend: by exact numbers, against a daemon driven by hand, and on a live one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
from conftest import Daemon
from peers import unique
from sdk_fakes import FakeDaemon, Message, Running, registered, until

from router_daemon.backend import Backend, Busy, Delivery
from router_daemon.client import Client
from router_daemon.sdk import prefetch as prefetch_module
from router_daemon.sdk.prefetch import LONG_S, MEAN_ANSWERS, QUICK_S, REST_S, STUCK, AdaptivePrefetch

STUCK_S = STUCK * LONG_S


class Worker:
    """An `AdaptivePrefetch` and the time that it sees."""

    def __init__(self, slots: int = 1) -> None:
        self.adaptive = AdaptivePrefetch(slots)
        self.now = 1000.0
        self.registered: list[int] = []
        self._id = 0

    def begin(self) -> int:
        self._id += 1
        self.adaptive.begin(self._id, self.now)
        self.ask()
        return self._id

    def end(self, delivery_id: int, *, cancelled: bool = False, busy: bool = False) -> None:
        self.adaptive.end(delivery_id, self.now, cancelled=cancelled, busy=busy)
        self.ask()

    def work(self, *seconds: float, cancelled: bool = False, busy: bool = False) -> None:
        """Do one thing after the other."""
        for each in seconds:
            delivery_id = self.begin()
            self.now += each
            self.end(delivery_id, cancelled=cancelled, busy=busy)

    def rest(self, seconds: float = REST_S) -> None:
        self.now += seconds
        self.ask()

    def ask(self) -> None:
        if (prefetch := self.adaptive.change(self.now)) is not None:
            self.registered.append(prefetch)

    def due_in_s(self) -> float:
        return self.adaptive.due(self.now) - self.now


# --- by exact numbers ---


def test_it_starts_with_none_and_takes_some_after_eight_quick_answers() -> None:
    worker = Worker()
    worker.work(*[0.001] * 7)
    assert (worker.adaptive.value, worker.registered, worker.due_in_s()) == (0, [], math.inf)
    worker.work(0.001)
    assert (worker.adaptive.value, worker.registered) == (1, [1])


def test_the_average_is_plain_at_first_and_then_has_the_weight_of_the_last_answers() -> None:
    worker = Worker()
    worker.work(0.25, 0.5, 0.75)
    assert worker.adaptive.mean_s == pytest.approx(0.5)
    worker.work(*[0.5] * (MEAN_ANSWERS - 3))
    assert worker.adaptive.mean_s == pytest.approx(0.5)
    worker.work(0.5 + 0.32)
    assert worker.adaptive.mean_s == pytest.approx(0.51)


@pytest.mark.parametrize(
    ("seconds", "slots", "wanted"),
    [
        (QUICK_S * 0.99, 1, 1),
        (QUICK_S * 1.01, 1, 0),
        (QUICK_S * 0.99, 4, 4),
        (QUICK_S * 1.01, 4, 0),
        (30.0, 1, 0),
    ],
)
def test_quick_work_takes_one_for_each_slot_and_other_work_none(seconds: float, slots: int, wanted: int) -> None:
    worker = Worker(slots)
    worker.work(*[seconds] * 100)
    assert worker.adaptive.value == wanted
    assert worker.registered == [wanted] * bool(wanted)


def test_between_the_thresholds_it_stays_as_it_was() -> None:
    between = (QUICK_S + LONG_S) / 2
    worker = Worker()
    worker.work(*[between] * 200)
    assert worker.registered == []
    worker.work(*[QUICK_S / 2] * 100)
    assert worker.registered == [1]
    worker.work(*[between] * 200)
    assert worker.registered == [1]
    worker.work(*[LONG_S * 1.01] * 200)
    assert worker.registered == [1, 0]
    worker.work(*[between] * 200)
    assert worker.registered == [1, 0]
    worker.work(*[QUICK_S / 2] * 100)
    assert worker.registered == [1, 0, 1]


def test_one_long_stream_after_many_quick_answers_takes_the_place_back_before_it_ends() -> None:
    worker = Worker()
    worker.work(*[0.001] * 1100)
    assert worker.registered == [1]
    stream = worker.begin()
    assert worker.due_in_s() == pytest.approx(STUCK_S)
    worker.rest(STUCK_S - 0.001)
    assert worker.registered == [1]
    worker.rest(0.002)
    assert worker.registered == [1, 0]
    assert worker.due_in_s() == math.inf
    worker.rest(30.0 - STUCK_S - 0.001)
    worker.end(stream)
    assert worker.adaptive.mean_s == pytest.approx(0.001 + 29.999 / MEAN_ANSWERS)
    worker.work(*[0.001] * 100)
    assert worker.registered == [1, 0]
    worker.work(*[0.001] * 100)
    assert worker.registered == [1, 0, 1]


def test_a_long_stream_in_one_of_several_slots_is_nothing_to_wait_for() -> None:
    worker = Worker(slots=2)
    worker.work(*[0.001] * 8)
    worker.rest()
    worker.begin()
    worker.rest(30.0)
    assert worker.registered == [2]
    assert worker.due_in_s() == math.inf
    worker.work(*[0.001] * 8)
    assert worker.registered == [2]
    worker.begin()
    assert worker.due_in_s() == pytest.approx(STUCK_S)
    worker.rest(STUCK_S + 0.001)
    assert worker.registered == [2, 0]


def test_changes_are_a_rest_apart_and_what_was_held_back_is_due_then() -> None:
    worker = Worker()
    worker.work(*[0.001] * 8)
    stream = worker.begin()
    worker.rest(REST_S / 2)
    assert worker.registered == [1]
    assert worker.due_in_s() == pytest.approx(REST_S / 2)
    worker.end(stream)
    assert worker.registered == [1]
    assert worker.due_in_s() == pytest.approx(REST_S / 2)
    worker.rest(REST_S / 2)
    assert worker.registered == [1, 0]
    worker.work(*[0.0] * 200)
    assert worker.registered == [1, 0]
    assert worker.due_in_s() == pytest.approx(REST_S)
    worker.rest()
    assert worker.registered == [1, 0, 1]


def test_work_cut_short_is_no_answer_and_only_raises_the_average() -> None:
    worker = Worker()
    worker.work(*[0.001] * 100, cancelled=True)
    assert worker.registered == []
    worker.work(*[0.02] * 7)
    worker.work(*[0.001] * 100, cancelled=True)
    assert worker.adaptive.mean_s == pytest.approx(0.02)
    assert worker.registered == []
    worker.work(30.0, cancelled=True)
    assert worker.adaptive.mean_s > 1.0


def test_busy_is_no_work() -> None:
    worker = Worker()
    worker.work(*[0.001] * 100, busy=True)
    assert worker.registered == []
    assert worker.adaptive.mean_s == 0.0


def test_it_follows_the_slots() -> None:
    worker = Worker()
    worker.adaptive.slots = 2
    worker.work(*[0.001] * 8)
    assert worker.registered == [2]
    worker.adaptive.slots = 3
    worker.ask()
    assert worker.registered == [2]
    worker.rest()
    assert worker.registered == [2, 3]
    worker.work(*[LONG_S * 2] * 100)
    worker.adaptive.slots = 4
    worker.rest()
    assert worker.registered == [2, 3, 0]


def test_the_thresholds_are_in_order() -> None:
    assert 0 < QUICK_S < LONG_S < STUCK_S


# --- against a daemon driven by hand ---


class Gate:
    """A handler that answers at once, or when the test says so."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def __call__(self, delivery: Delivery) -> bytes:
        if delivery.data == b"wait":
            await self.opened.wait()
        if delivery.data == b"busy":
            raise Busy
        return b""


@contextmanager
def adapting(gate: Gate) -> Iterator[tuple[FakeDaemon, bytes, Running]]:
    """Yield a daemon and a backend that chooses its prefetch."""
    with FakeDaemon() as daemon:
        backend = Backend("b1", daemon.address)
        backend.handler("work")(gate)
        with Running(backend) as running:
            register = daemon.registered(heartbeat_ms=60_000)
            assert register.header["prefetch"] == 0
            yield daemon, register.peer, running


def deliver(daemon: FakeDaemon, peer: bytes, *numbers: int, body: bytes = b"") -> list[Message]:
    """Let a backend work on these, one by one; return what else it says."""
    others = []
    for number in numbers:
        daemon.deliver(peer, number, body)
        while (message := daemon.receive()).verb not in ("ACK", "NACK"):
            others.append(message)
    return others


def confirm(daemon: FakeDaemon, peer: bytes) -> None:
    daemon.send(peer, "REGISTERED", {"name": "b1", "heartbeat_ms": 60_000})


def to_one(daemon: FakeDaemon, peer: bytes) -> None:
    """Give a backend quick work until it takes one more."""
    others = deliver(daemon, peer, *range(8))
    (update,) = others or [daemon.receive()]
    assert (update.verb, update.header) == ("UPDATE", {"prefetch": 1})
    confirm(daemon, peer)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be calm on a machine that is busy with something else."""
    monkeypatch.setattr(prefetch_module, "QUICK_S", 5.0)
    monkeypatch.setattr(prefetch_module, "LONG_S", 10.0)


@pytest.mark.usefixtures("patient")
def test_quick_work_registers_one_by_update_and_in_later_registers() -> None:
    with adapting(Gate()) as (daemon, peer, running):
        to_one(daemon, peer)
        assert deliver(daemon, peer, *range(20, 40)) == []
        assert running.backend.prefetch == 1
        daemon.vanish()
        daemon.bind()
        assert daemon.registered().header["prefetch"] == 1


@pytest.mark.usefixtures("patient")
def test_a_stream_that_runs_takes_the_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch_module, "REST_S", 0.0)
    gate = Gate()
    with adapting(gate) as (daemon, peer, running):
        to_one(daemon, peer)
        monkeypatch.setattr(prefetch_module, "LONG_S", 0.005)
        daemon.deliver(peer, 100, b"wait")
        assert daemon.expect("UPDATE").header == {"prefetch": 0}
        confirm(daemon, peer)
        running.loop.call_soon_threadsafe(gate.opened.set)
        assert daemon.expect("ACK", "UPDATE").header["id"] == 100


@pytest.mark.usefixtures("patient")
def test_a_number_given_is_registered_as_it_is() -> None:
    with FakeDaemon() as daemon:
        backend = Backend("b1", daemon.address, prefetch=0)
        backend.handler("work")(Gate())
        with Running(backend):
            register = daemon.registered(heartbeat_ms=60_000)
            assert deliver(daemon, register.peer, *range(20)) == []
            assert daemon.silent(for_s=0.05)


@pytest.mark.usefixtures("patient")
def test_a_prefetch_by_update_is_kept() -> None:
    with adapting(Gate()) as (daemon, peer, running):
        updating = asyncio.run_coroutine_threadsafe(running.backend.update(prefetch=3), running.loop)
        assert daemon.expect("UPDATE").header == {"prefetch": 3}
        confirm(daemon, peer)
        updating.result(10)
        assert deliver(daemon, peer, *range(20)) == []
        assert running.backend.prefetch == 3


@pytest.mark.usefixtures("patient")
def test_busy_answers_are_no_quick_work() -> None:
    with adapting(Gate()) as (daemon, peer, _):
        assert deliver(daemon, peer, *range(20), body=b"busy") == []
        to_one(daemon, peer)


@pytest.mark.parametrize("prefetch", [-1, True, 1.5])
def test_an_update_with_a_prefetch_that_is_no_count_is_refused_here(prefetch: float) -> None:
    with pytest.raises(ValueError, match="prefetch must be an int from 0 on"):
        asyncio.run(Backend("b1").update(prefetch=prefetch))


# --- on a live daemon ---


@pytest.mark.usefixtures("patient")
def test_a_live_daemon_lets_one_wait_behind_quick_work(plain_daemon: Daemon) -> None:
    capability = unique("prefetch")
    gate = asyncio.Event()
    began = asyncio.Event()

    async def handle(delivery: Delivery) -> AsyncIterator[bytes]:
        if delivery.data == b"wait":
            began.set()
            await gate.wait()
        yield b"piece"

    async def main() -> None:
        backend = Backend(unique("backend"), plain_daemon.backend)
        backend.handler(capability)(handle)
        async with asyncio.timeout(30), registered(backend), Client(plain_daemon.frontend) as client:
            for _ in range(8):
                await client.send(capability, b"")
            await until(lambda: backend.prefetch == 1)
            long = asyncio.create_task(client.send(capability, b"wait"))
            await began.wait()
            short = asyncio.create_task(client.send(capability, b""))
            await until(lambda: backend._runner is not None and len(backend._runner._waiting) == 1)
            gate.set()
            await asyncio.gather(long, short)

    asyncio.run(main())
