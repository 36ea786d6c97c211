"""What may run twice: `idempotent` said and unsaid, in every mode, after every kind of failure."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Room
from contract import Message
from peers import LATE_S, RawBackend, RawClient, Stopwatch, recv_while_beating

ONCE: list[tuple[str, dict[str, Any]]] = [
    ("room", {"idempotent": False}),
    ("room", {"idempotent": False, "mode": "single"}),
    ("careful", {}),
    ("careful", {"mode": "single"}),
]


@pytest.fixture(params=ONCE, ids=repr)
def once(request: pytest.FixtureRequest) -> tuple[Room, dict[str, Any]]:
    """Return a room and the keys that make a message run once at most there."""
    name, keys = request.param
    return request.getfixturevalue(name), keys


def only_delivery(
    room: Room, client: RawClient, backends: list[RawBackend], **keys: Any
) -> tuple[Any, RawBackend, Message, list[RawBackend]]:
    """SEND what goes to one backend at first; returns the id, that backend, the delivery, the others."""
    ident = client.send(room.capability, **keys)
    ((first, delivery),) = room.sent_to(client, backends)
    return ident, first, delivery, [backend for backend in backends if backend is not first]


def test_a_failure_is_the_end(once: tuple[Room, dict[str, Any]]) -> None:
    room, keys = once
    client, backends = room.client(), room.backends(3)
    ident, first, delivery, others = only_delivery(room, client, backends, **keys)
    first.nack(delivery, code="failed")
    assert client.error("failed", ident).header["retry"] is False
    assert room.deliveries(others) == []


def test_a_loss_is_the_end(once: tuple[Room, dict[str, Any]]) -> None:
    room, keys = once
    client, backends = room.client(), room.backends(2)
    ident, first, _, others = only_delivery(room, client, backends, **keys)
    first.command("UNREGISTER")
    first.expect("BYE")
    assert client.error("failed", ident).header["retry"] is False
    assert room.deliveries(others) == []


def test_busy_passes_it_on(once: tuple[Room, dict[str, Any]]) -> None:
    room, keys = once
    client, backends = room.client(), room.backends(2)
    ident, first, delivery, (second,) = only_delivery(room, client, backends, **keys)
    first.nack(delivery, code="busy", retry_after_ms=5_000)
    repeated = second.delivery(attempt=2)
    assert repeated.header["message"] == delivery.header["message"]
    second.ack(repeated)
    client.expect("REPLY", id=ident, last=True, backend=second.name)


def test_a_timeout_is_the_end(once: tuple[Room, dict[str, Any]]) -> None:
    room, keys = once
    client, backends = room.client(), room.backends(2)
    watch = Stopwatch()
    ident, first, delivery, others = only_delivery(room, client, backends, ttl_ms=450, **keys)
    message = client.error("expired", ident, timeout_s=0.45 + LATE_S)
    assert watch.elapsed_s >= 0.44, "what may not run twice has all its time in its only delivery"
    assert message.header["retry"] is False
    assert room.deliveries(others) == []
    first.cancelled(delivery)


def test_a_head_silent_for_first_ms_is_the_end(once: tuple[Room, dict[str, Any]]) -> None:
    room, keys = once
    client, backends = room.client(), room.backends(2)
    ident, _, _, others = only_delivery(room, client, backends, first_ms=150, ttl_ms=20_000, **keys)
    assert client.error("failed", ident, timeout_s=0.15 + LATE_S).header["retry"] is False
    assert room.deliveries(others) == []


def test_idempotent_said_wins_over_the_configuration(careful: Room) -> None:
    client, backends = careful.client(), careful.backends(2)
    client.send(careful.capability, idempotent=True)
    assert len(careful.sent_to(client, backends)) == 2


def test_unsaid_retries_sends_one_at_a_time_and_repeats_after_a_nack(nimble: Room) -> None:
    client, backends = nimble.client(), nimble.backends(3)
    ident, first, delivery, others = only_delivery(nimble, client, backends)
    first.nack(delivery)
    assert first.pending() == []
    ((second, repeated),) = nimble.sent_to(client, others)
    assert repeated.header["attempt"] == 2
    second.ack(repeated)
    client.expect("REPLY", id=ident, last=True, backend=second.name)


def test_unsaid_retries_repeats_after_a_loss(nimble: Room) -> None:
    client, backends = nimble.client(), nimble.backends(2)
    ident, first, _, (second,) = only_delivery(nimble, client, backends)
    first.command("UNREGISTER")
    first.expect("BYE")
    second.ack(second.delivery(attempt=2))
    client.expect("REPLY", id=ident, last=True, backend=second.name)


def test_unsaid_retries_repeats_after_a_timeout(nimble: Room) -> None:
    client, backends = nimble.client(), nimble.backends(2)
    ident, first, _, (second,) = only_delivery(nimble, client, backends, mode="single", ttl_ms=2_000)
    repeated = recv_while_beating(second, [first, second])
    assert (repeated.verb, repeated.header["attempt"]) == ("DELIVER", 2)
    second.ack(repeated)
    client.expect("REPLY", id=ident, last=True, backend=second.name)


def test_unsaid_retries_with_idempotent_true_goes_to_all_heads(nimble: Room) -> None:
    client, backends = nimble.client(), nimble.backends(3)
    client.send(nimble.capability, idempotent=True)
    assert len(nimble.sent_to(client, backends)) == 3


def test_a_failure_of_a_message_that_never_left_is_worth_a_retry(room: Room) -> None:
    client = room.client()
    message = client.error("no_capability", client.send(room.capability, idempotent=False))
    assert message.header["retry"] is True
