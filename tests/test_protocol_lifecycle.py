"""A registration from its first REGISTER to BYE: drains, names, sessions, and who may answer what."""

from __future__ import annotations

import os

import pytest
from conftest import Room
from peers import RawBackend, Stopwatch, unique


def await_registered(backend: RawBackend, *capabilities: str, **keys: object) -> None:
    """REGISTER until the name is free; its holder is gone, so that must be soon."""
    watch = Stopwatch()
    while watch.elapsed_s < 3:
        backend.ask_register(*capabilities, **keys)
        answer = backend.recv()
        if answer.verb == "REGISTERED":
            return
        assert (answer.verb, answer.header["code"]) == ("ERROR", "name_taken")
        backend.poll(0.02)
    raise AssertionError("the name of a peer that cannot be reached stayed taken")


def not_registered(backend: RawBackend) -> None:
    """Assert that the connection is not registered (any more)."""
    backend.command("HEARTBEAT")
    backend.expect("ERROR", code="not_registered", id=None)


def test_unregister_is_answered_by_bye(room: Room) -> None:
    backend = room.backend()
    backend.command("UNREGISTER")
    backend.expect("BYE")
    not_registered(backend)
    backend.register(room.capability)
    client = room.client()
    client.send(room.capability)
    backend.ack(backend.delivery())
    client.expect("REPLY", last=True)


def test_unregister_sends_open_deliveries_to_other_heads(room: Room) -> None:
    client, backends = room.client(), room.backends(2)
    ident = client.send(room.capability, mode="single")
    ((first, delivery),) = room.sent_to(client, backends)
    first.command("UNREGISTER")
    first.expect("BYE")
    (second,) = (backend for backend in backends if backend is not first)
    repeated = second.delivery(attempt=2)
    first.ack(delivery, b"of a registration that ended")
    first.expect("ERROR", code="not_registered")
    second.ack(repeated, b"second")
    reply = client.expect("REPLY", id=ident, last=True, backend=second.name, head=2, heads=2)
    assert reply.body == [b"second"]


def test_unregister_of_the_only_backend_fails_its_open_deliveries(room: Room) -> None:
    client, backend = room.client(), room.backend()
    ident = client.send(room.capability)
    backend.delivery()
    backend.command("UNREGISTER")
    backend.expect("BYE")
    client.error("failed", ident)


def test_drain_without_open_deliveries_is_answered_at_once(room: Room) -> None:
    client, backend = room.client(), room.backend()
    backend.command("DRAIN")
    backend.expect("BYE")
    not_registered(backend)
    client.error("no_backend", client.send(room.capability))


def test_drain_waits_for_what_is_open_and_takes_nothing_new(room: Room) -> None:
    client, backend = room.client(), room.backend(slots=3)
    first, second = client.send(room.capability), client.send(room.capability)
    deliveries = [backend.delivery(), backend.delivery()]
    backend.command("DRAIN")
    assert backend.pending() == []
    client.error("no_backend", client.send(room.capability))
    backend.ack(deliveries[0], b"first")
    client.expect("REPLY", id=first, last=True)
    assert backend.pending() == []
    backend.nack(deliveries[1])
    client.error("failed", second)
    backend.expect("BYE")
    not_registered(backend)


def test_new_messages_go_to_the_backends_that_do_not_drain(room: Room) -> None:
    client, drained, other = room.client(), room.backend(slots=2), room.backend(slots=2)
    client.send(room.capability)
    open_one = drained.delivery()
    other.delivery()
    drained.command("DRAIN")
    client.send(room.capability)
    other.delivery()
    assert drained.pending() == []
    drained.ack(open_one)
    drained.expect("BYE")


def test_a_drained_backend_gets_no_waiting_message(room: Room) -> None:
    client, backend = room.client(), room.backend(slots=1)
    first = client.send(room.capability)
    waiting = client.send(room.capability, ttl_ms=400)
    delivery = backend.delivery()
    backend.command("DRAIN")
    backend.ack(delivery)
    backend.expect("BYE")
    codes = {}
    for _ in range(2):
        message = client.recv()
        assert message.header["last"] is True
        codes[message.header["id"]] = message.header.get("code")
    assert codes[first] is None
    assert codes[waiting] in {"no_backend", "expired", "overloaded"}


def test_register_again_ends_a_drain(room: Room) -> None:
    client, backend = room.client(), room.backend(slots=2)
    client.send(room.capability)
    delivery = backend.delivery()
    backend.command("DRAIN")
    backend.register(room.capability, slots=2)
    second = client.send(room.capability)
    backend.ack(delivery)
    answer = backend.delivery()
    client.expect("REPLY", last=True)
    backend.ack(answer)
    client.expect("REPLY", id=second, last=True)
    assert backend.pending() == []


def test_register_again_replaces_everything_and_open_deliveries_stay(room: Room) -> None:
    client, backend = room.client(), room.backend(slots=2)
    fresh = unique("fresh")
    ident = client.send(room.capability, id="old")
    delivery = backend.delivery()
    backend.register(fresh)
    client.error("no_backend", client.send(room.capability))
    client.send(fresh, id="new")
    assert backend.pending() == [], "slots are one again, and the open delivery holds that place"
    backend.ack(delivery, b"done")
    client.expect("REPLY", id=ident, last=True)
    backend.ack(backend.delivery(capability=fresh))
    client.expect("REPLY", id="new", last=True)


def test_register_again_with_another_name_is_bad_header(room: Room) -> None:
    client, backend = room.client(), room.backend()
    backend.command("REGISTER", {"name": unique("other"), "capabilities": [unique("fresh")]})
    backend.expect("ERROR", code="bad_header", id=None)
    client.send(room.capability)
    backend.ack(backend.delivery())
    client.expect("REPLY", backend=backend.name, last=True)


@pytest.mark.parametrize("sessions", [(None, None), (b"a" * 8, None), (None, b"b" * 8), (b"a" * 8, b"b" * 8)])
def test_a_second_backend_of_a_taken_name_is_refused_and_the_first_keeps_working(
    room: Room, sessions: tuple[bytes | None, bytes | None]
) -> None:
    keys = [{"session": session} if session else {} for session in sessions]
    client, backend = room.client(), room.backend(**keys[0])
    ident = client.send(room.capability)
    delivery = backend.delivery()
    rival = room.stranger(backend.name)
    for _ in range(2):
        rival.ask_register(room.capability, **keys[1])
        rival.expect("ERROR", code="name_taken", id=None)
    not_registered(rival)
    backend.ack(delivery, b"first")
    client.expect("REPLY", id=ident, last=True)
    assert backend.pending() == []
    client.send(room.capability)
    backend.ack(backend.delivery())
    client.expect("REPLY", last=True)
    assert rival.poll(0.05) is None


def test_a_name_is_free_once_it_was_unregistered(room: Room) -> None:
    backend = room.backend()
    backend.command("UNREGISTER")
    backend.expect("BYE")
    room.stranger(backend.name).register(room.capability)


def test_a_name_is_free_at_once_when_its_holder_cannot_be_reached(room: Room) -> None:
    client, holder = room.client(), room.backend(session=b"a" * 8)
    holder.close()
    heir = room.stranger(holder.name)
    await_registered(heir, room.capability, session=b"b" * 8)
    client.send(room.capability)
    heir.ack(heir.delivery())
    client.expect("REPLY", last=True, backend=holder.name)


def test_a_new_connection_without_the_session_does_not_inherit_deliveries(room: Room) -> None:
    client, holder = room.client(), room.backend()
    ident = client.send(room.capability, ttl_ms=3_000, idempotent=False)
    delivery = holder.delivery()
    holder.close()
    heir = room.stranger(holder.name)
    await_registered(heir, room.capability)
    heir.ack(delivery, b"of a registration that is gone")
    assert heir.pending() == []
    message = client.error("failed", ident)
    assert message.header["retry"] is False
    assert client.pending() == []


def test_the_same_session_moves_the_registration_and_its_open_deliveries(room: Room) -> None:
    session = os.urandom(16)
    client, old = room.client(), room.backend(session=session, slots=2)
    first, second = (client.send(room.capability, mode="single") for _ in range(2))
    deliveries = [old.delivery(), old.delivery()]
    new = room.stranger(old.name)
    new.register(room.capability, session=session, slots=2)
    old.ack(deliveries[0], b"from the old connection")
    old.expect("ERROR", code="not_registered")
    assert client.pending() == []
    new.ack(deliveries[0], b"from the new connection")
    assert client.expect("REPLY", id=first, last=True).body == [b"from the new connection"]
    third = client.send(room.capability)
    fresh = new.delivery()
    new.nack(deliveries[1])
    client.error("failed", second)
    new.ack(fresh)
    client.expect("REPLY", id=third, last=True)
    not_registered(old)


def test_moved_deliveries_still_hold_their_places(room: Room) -> None:
    session = os.urandom(16)
    client, old = room.client(), room.backend(session=session)
    first = client.send(room.capability)
    delivery = old.delivery()
    new = room.stranger(old.name)
    new.register(room.capability, session=session)
    second = client.send(room.capability)
    assert room.sent_to(client, [new]) == []
    new.part(delivery, b"streamed")
    client.expect("PART", id=first, seq=0)
    new.ack(delivery)
    client.expect("REPLY", id=first, last=True)
    new.ack(new.delivery())
    client.expect("REPLY", id=second, last=True)


def test_a_cancel_follows_the_session_to_its_new_connection(room: Room) -> None:
    session = os.urandom(16)
    client, old = room.client(), room.backend(session=session)
    ident = client.send(room.capability)
    delivery = old.delivery()
    old.close()
    new = room.stranger(old.name)
    new.register(room.capability, session=session)
    client.command("CANCEL", {"id": ident})
    client.error("cancelled", ident)
    new.cancelled(delivery)
    new.nack(delivery, code="cancelled")
    client.send(room.capability)
    new.ack(new.delivery())
    client.expect("REPLY", last=True)
