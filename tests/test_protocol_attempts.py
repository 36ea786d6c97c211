"""The clocks of a delivery: attempt timeouts, first_ms, and how long an unanswered one holds its place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Room
from peers import LATE_S, RawBackend, RawClient, Stopwatch, recv_while_beating


def single(room: Room, client: RawClient, backends: list[RawBackend], **keys: Any) -> tuple[Any, ...]:
    """SEND one head at a time; returns the id, the first backend, its delivery, and the other backends."""
    ident = client.send(room.capability, mode="single", **keys)
    ((first, delivery),) = room.sent_to(client, backends)
    return ident, first, delivery, [backend for backend in backends if backend is not first]


def test_an_attempt_that_takes_half_of_the_time_is_followed_by_another_head(room: Room) -> None:
    client, backends = room.client(), room.backends(2)
    watch = Stopwatch()
    ident, _, _, (second,) = single(room, client, backends, ttl_ms=2_000)
    repeated = second.delivery(attempt=2, head=2)
    assert watch.elapsed_s >= 0.99
    second.ack(repeated, b"second")
    client.expect("REPLY", id=ident, last=True, backend=second.name, heads=2)


def test_attempt_timeout_is_configured(careful: Room) -> None:
    client, backends = careful.client(), careful.backends(3)
    watch = Stopwatch()
    ident, first, delivery, others = single(careful, client, backends, ttl_ms=1_200, idempotent=True)
    while not (sent := careful.deliveries(others)):
        assert watch.elapsed_s < 1.2
        first.poll(0.02)
    assert watch.elapsed_s >= 0.19
    ((second, repeated),) = sent
    assert repeated.header["attempt"] == 2
    message = client.error("expired", ident, timeout_s=1.2 + LATE_S)
    assert watch.elapsed_s >= 1.19, "the last permitted head has all the time that is left"
    assert message.header["retry"] is True
    second.ack(repeated, b"late")
    first.ack(delivery, b"later")
    assert room_is_quiet(client, backends)


def room_is_quiet(client: RawClient, backends: list[RawBackend]) -> bool:
    """Tell whether nobody is told anything but that answers are not wanted any more."""
    told = [message for backend in backends for message in backend.pending()]
    return client.pending() == [] and all(message.verb == "CANCEL" for message in told)


def test_the_only_head_has_all_the_time(careful: Room) -> None:
    client, backends = careful.client(), careful.backends(2)
    watch = Stopwatch()
    ident, first, delivery, others = single(careful, client, backends, heads=1, idempotent=True)
    assert first.poll(0.15) is None
    while watch.elapsed_s < 0.4:
        assert careful.deliveries([*others, first]) == []
        assert client.poll(0.05) is None
    first.ack(delivery, b"at last")
    client.expect("REPLY", id=ident, last=True)


def test_first_ms_is_how_long_a_head_may_be_silent(room: Room) -> None:
    client, backends = room.client(), room.backends(2)
    watch = Stopwatch()
    ident, _, _, (second,) = single(room, client, backends, ttl_ms=20_000, first_ms=200)
    repeated = second.delivery(attempt=2, timeout_s=0.2 + LATE_S)
    assert watch.elapsed_s >= 0.19
    second.ack(repeated)
    client.expect("REPLY", id=ident, last=True)


def test_all_heads_silent_for_first_ms_is_failed(room: Room) -> None:
    client, backends = room.client(), room.backends(2)
    watch = Stopwatch()
    ident = client.send(room.capability, mode="fanout", ttl_ms=20_000, first_ms=200)
    assert len(room.sent_to(client, backends)) == 2
    assert client.error("failed", ident, timeout_s=0.2 + LATE_S).header["retry"] is True
    assert watch.elapsed_s >= 0.19


def test_a_part_in_time_is_enough_for_first_ms(room: Room) -> None:
    client, backend = room.client(), room.backend()
    ident = client.send(room.capability, ttl_ms=20_000, first_ms=200)
    delivery = backend.delivery()
    backend.part(delivery, b"piece")
    client.expect("PART", id=ident)
    watch = Stopwatch()
    while watch.elapsed_s < 0.4:
        assert client.poll(0.1) is None
    backend.ack(delivery)
    client.expect("REPLY", id=ident, last=True)


def test_a_place_nobody_answers_for_is_free_after_ttl_and_three_heartbeats(nimble: Room) -> None:
    client, backend = nimble.client(), nimble.backend()
    watch = Stopwatch()
    ident = client.send(nimble.capability, ttl_ms=200)
    delivery = backend.delivery()
    client.error("expired", ident, timeout_s=0.2 + LATE_S)
    backend.cancelled(delivery)
    second = client.send(nimble.capability, ttl_ms=10_000)
    repeated = recv_while_beating(backend, [backend], timeout_s=0.75 + LATE_S)
    assert repeated.verb == "DELIVER"
    assert 0.9 <= watch.elapsed_s < 0.95 + LATE_S
    backend.ack(delivery, b"much too late")
    assert client.pending() == []
    backend.ack(repeated)
    client.expect("REPLY", id=second, last=True)


@pytest.fixture
def busy_machine() -> Iterator[None]:
    """Keep every core busy twice over, so that a process is interrupted between any two steps."""
    code = "import time\nend = time.monotonic() + 20\nwhile time.monotonic() < end: pass"
    count = 2 * min(4, os.cpu_count() or 1)
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    yield
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("busy_machine")
def test_what_comes_while_a_deadline_passes_is_heard(room: Room) -> None:
    client, backend, idle = room.client(), room.backend(slots=100), room.backend(capabilities=["idle"])
    for _ in range(50):
        client.until_last(client.send(room.capability, ttl_ms=15))
        watch = Stopwatch()
        assert idle.pending() == []
        assert watch.elapsed_s < 2, "it was heard only when something else came"
    assert len(backend.pending()) == 100


def test_nothing_is_delivered_when_its_time_is_up(room: Room) -> None:
    client, backend = room.client(), room.backend()
    for number in range(60):
        client.send(room.capability)
        client.send(room.capability, ttl_ms=20)
        delivery = backend.delivery()
        client.poll(0.015 + number % 6 * 0.001)  # until shortly before or after the second one's end
        backend.ack(delivery)
        for told in backend.pending():
            if told.verb == "DELIVER":
                assert told.header["ttl_ms"] >= 0
                backend.ack(told)
                assert [late.verb for late in backend.pending()] in ([], ["CANCEL"])
        while client.open:
            client.recv()
