"""REGISTER, UPDATE, HEARTBEAT and the answers of a backend: what is taken, what is refused, what a fault costs."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from conftest import Room
from contract import pack
from peers import RawBackend, unique

NAN = math.nan


def refused(backend: RawBackend, code: str) -> None:
    """Assert that the next message is an ERROR that is about no delivery."""
    backend.expect("ERROR", code=code, id=None)


def test_registered_says_the_name_and_the_heartbeat(room: Room, nimble: Room) -> None:
    for where, heartbeat_ms in ((room, 10_000), (nimble, 250)):
        backend = where.stranger()
        assert backend.register("x").header["heartbeat_ms"] == heartbeat_ms


WRONG_VALUES: list[tuple[str, Any]] = [
    ("name", ""),
    ("name", "x" * 65),
    ("name", 5),
    ("name", b"name"),
    ("name", None),
    ("capabilities", []),
    ("capabilities", [f"c{number}" for number in range(65)]),
    ("capabilities", "work"),
    ("capabilities", [1]),
    ("capabilities", {"a": 1}),
    ("slots", 0),
    ("slots", -1),
    ("slots", 1.0),
    ("slots", True),
    ("slots", "1"),
    ("prefetch", -1),
    ("prefetch", False),
    ("prefetch", 0.5),
    ("embedding", [NAN]),
    ("embedding", "x"),
    ("embedding", b"123"),
    ("embedding", struct.pack("<f", math.inf)),
    ("cost", -0.1),
    ("cost", NAN),
    ("cost", math.inf),
    ("cost", True),
    ("zone", 1),
    ("group", ["a"]),
    ("session", bytes(7)),
    ("session", bytes(33)),
    ("session", "12345678"),
    ("resources", [{"id": "a"}]),
    ("resources", "a"),
    ("version", 1),
]


@pytest.mark.parametrize(
    ("key", "value"), WRONG_VALUES, ids=lambda value: value.__name__ if callable(value) else repr(value)[:24]
)
def test_a_wrong_value_in_register_is_bad_header_and_registers_nothing(room: Room, key: str, value: Any) -> None:
    backend = room.stranger()
    header = {"name": backend.name, "capabilities": [room.capability], key: value}
    backend.command("REGISTER", header)
    refused(backend, "bad_header")
    backend.command("HEARTBEAT")
    refused(backend, "not_registered")


@pytest.mark.parametrize("missing", ["name", "capabilities"])
def test_a_missing_key_in_register_is_bad_header(room: Room, missing: str) -> None:
    backend = room.stranger()
    header: dict[str, Any] = {"name": backend.name, "capabilities": [room.capability]}
    del header[missing]
    for packed in (pack(header), pack(header) + b"\x00", b"\xc1", b""):
        backend.command("REGISTER", packed)
        refused(backend, "bad_header")


RIGHT_VALUES: list[dict[str, Any]] = [
    {"capabilities": [f"c{number}" for number in range(64)]},
    {"slots": 1_000, "prefetch": 1_000},
    {"embedding": [1, 0.5]},
    {"embedding": struct.pack("<2f", 1.0, 0.5)},
    {"cost": 0},
    {"cost": 2.5, "zone": "a", "group": "blue", "version": "1.2.3"},
    {"session": bytes(8)},
    {"session": bytes(32)},
    {"resources": [{"id": "a", "bytes": 5}]},
    {"shade": NAN, "tint": [[[]]]},
]


@pytest.mark.parametrize("keys", RIGHT_VALUES, ids=lambda value: repr(value)[:30])
def test_every_legal_value_in_register_is_taken(room: Room, keys: dict[str, Any]) -> None:
    client = room.client()
    backend = room.backend(**({"name": unique("n").ljust(64, "é")} | keys))
    capability = keys.get("capabilities", [room.capability])[-1]
    client.send(capability)
    backend.ack(backend.delivery(capability=capability))
    client.expect("REPLY", backend=backend.name, last=True)
    backend.command("UNREGISTER")
    backend.expect("BYE")


@pytest.mark.parametrize("verb", ["UPDATE", "HEARTBEAT", "ACK", "NACK", "PART", "DRAIN", "UNREGISTER", "NOPE", "SEND"])
def test_from_a_stranger_everything_is_not_registered_and_has_no_effect(room: Room, verb: str) -> None:
    client, backend, stranger = room.client(), room.backend(), room.stranger()
    ident = client.send(room.capability)
    delivery = backend.delivery()
    stranger.command(verb, {"id": delivery.header["id"], "capabilities": [room.capability]}, b"forged")
    stranger.expect("ERROR", code="not_registered")
    assert client.pending() == []
    assert backend.pending() == []
    backend.ack(delivery, b"true")
    assert client.expect("REPLY", id=ident, last=True).body == [b"true"]


@pytest.mark.parametrize("command", [b"CAR1.NOPE", b"CAR1.SEND", b"CAR1.PING", b"CAR1.DELIVER"])
def test_a_registered_backend_hears_of_unknown_commands_and_stays(room: Room, command: bytes) -> None:
    client, backend = room.client(), room.backend()
    backend.send_frames(command, pack({"id": 1, "capability": room.capability}))
    refused(backend, "unknown_command")
    backend.send_frames(b"CAR2.HEARTBEAT", b"\x80")
    refused(backend, "unsupported_version")
    client.send(room.capability)
    backend.ack(backend.delivery())
    client.expect("REPLY", last=True)


def test_heartbeat_is_answered_and_its_queue_is_checked(room: Room) -> None:
    backend = room.backend()
    backend.beat()
    backend.beat(queue=3)
    backend.beat(shade=NAN)
    assert backend.pending() == []
    for queue in ("3", 1.5, True):
        backend.command("HEARTBEAT", {"queue": queue})
        refused(backend, "bad_header")
    assert backend.pending() == []


def test_update_replaces_capabilities(room: Room) -> None:
    client, backend = room.client(), room.backend()
    fresh = unique("fresh")
    client.send(room.capability)
    backend.ack(backend.delivery())
    client.expect("REPLY", last=True)
    backend.command("UPDATE", {"capabilities": [fresh]})
    backend.expect("REGISTERED", name=backend.name, heartbeat_ms=10_000)
    client.error("no_backend", client.send(room.capability))
    client.send(fresh)
    backend.ack(backend.delivery(capability=fresh))
    client.expect("REPLY", last=True)


def test_open_deliveries_go_on_after_update(room: Room) -> None:
    client, backend = room.client(), room.backend()
    ident = client.send(room.capability)
    delivery = backend.delivery()
    backend.command("UPDATE", {"capabilities": [unique("fresh")], "slots": 5})
    backend.expect("REGISTERED")
    backend.ack(delivery, b"done")
    client.expect("REPLY", id=ident, last=True)


def test_waiting_messages_see_updated_slots(room: Room) -> None:
    client, backend = room.client(), room.backend(slots=1)
    for _ in range(3):
        client.send(room.capability)
    assert len(room.sent_to(client, [backend])) == 1
    backend.command("UPDATE", {"slots": 2, "prefetch": 1})
    backend.expect("REGISTERED")
    backend.delivery()
    backend.delivery()


def test_a_waiting_message_goes_to_a_backend_that_comes_to_offer_it(room: Room) -> None:
    client, full, other = room.client(), room.backend(), room.backend(capabilities=[unique("other")])
    for _ in range(2):
        client.send(room.capability)
    assert len(room.sent_to(client, [full])) == 1
    other.command("UPDATE", {"capabilities": [room.capability]})
    other.expect("REGISTERED")
    other.delivery()


@pytest.mark.parametrize(
    "bad", [{"slots": 0}, {"capabilities": []}, {"cost": NAN}, {"session": b"x"}, {"zone": 1}], ids=repr
)
def test_a_bad_update_changes_nothing(room: Room, bad: dict[str, Any]) -> None:
    client, backend = room.client(), room.backend(slots=1)
    backend.command("UPDATE", {"capabilities": [unique("fresh")], "slots": 9} | bad)
    refused(backend, "bad_header")
    for _ in range(2):
        client.send(room.capability)
    assert len(room.sent_to(client, [backend])) == 1


def test_update_cannot_change_the_name(room: Room) -> None:
    client, backend = room.client(), room.backend()
    backend.command("UPDATE", {"name": unique("other")})
    answer = backend.recv()
    if answer.verb == "ERROR":
        assert answer.header["code"] == "bad_header"
    else:
        assert (answer.verb, answer.header["name"]) == ("REGISTERED", backend.name)
    client.send(room.capability)
    backend.ack(backend.delivery())
    client.expect("REPLY", backend=backend.name, last=True)


ACK_KEYS: list[dict[str, Any]] = [
    {"queue": 4},
    {"quality": 0},
    {"quality": 0.5},
    {"quality": 1},
    {"cost": 2.5},
    {"timing_us": {"queue": 5, "compute": 100, "splice": 3}},
    {"queue": 0, "quality": 1.0, "cost": 0, "timing_us": {}},
    {"shade": NAN},
]


@pytest.mark.parametrize("keys", ACK_KEYS, ids=repr)
def test_an_ack_with_its_optional_keys_is_a_success(room: Room, keys: dict[str, Any]) -> None:
    client, backend = room.client(), room.backend()
    ident = client.send(room.capability)
    backend.ack(backend.delivery(), b"done", **keys)
    assert client.expect("REPLY", id=ident, last=True).body == [b"done"]


def deep(identity: int) -> bytes:
    """Return a header nested too deep whose id can be read."""
    return b"\x82" + pack("id") + pack(identity) + pack("shade") + b"\x91" * 99 + b"\x90"


FAULTS: list[tuple[str, Any, int, str]] = [
    ("ACK", {"quality": 1.5}, 0, "bad_header"),
    ("ACK", {"quality": NAN}, 0, "bad_header"),
    ("ACK", {"quality": True}, 0, "bad_header"),
    ("ACK", {"queue": "many"}, 0, "bad_header"),
    ("ACK", {"timing_us": "soon"}, 0, "bad_header"),
    ("ACK", {"cost": "dear"}, 0, "bad_header"),
    ("ACK", deep, 0, "bad_header"),
    ("ACK", {}, 65, "too_large"),
    ("ACK", {"pad": bytes(70_000)}, 0, "too_large"),
    ("NACK", {"code": "tired"}, 0, "bad_header"),
    ("NACK", {"code": 7}, 0, "bad_header"),
    ("NACK", {"reason": 7}, 0, "bad_header"),
    ("NACK", {"retry_after_ms": "soon"}, 0, "bad_header"),
    ("NACK", {}, 65, "too_large"),
    ("PART", deep, 0, "bad_header"),
    ("PART", {}, 65, "too_large"),
]


@pytest.mark.parametrize(
    ("verb", "keys", "frames", "code"),
    FAULTS,
    ids=lambda value: value.__name__ if callable(value) else repr(value)[:24],
)
def test_a_malformed_answer_to_an_open_delivery_fails_it(
    room: Room, verb: str, keys: Any, frames: int, code: str
) -> None:
    client, backends = room.client(), room.backends(2)
    ident = client.send(room.capability, mode="single", heads=2)
    ((first, delivery),) = room.sent_to(client, backends)
    identity = delivery.header["id"]
    header = keys(identity) if callable(keys) else {"id": identity, **keys}
    first.command(verb, header, *[b"x"] * frames)
    told = first.expect("ERROR", code=code)
    assert told.header["id"] in {None, identity}
    (second,) = (backend for backend in backends if backend is not first)
    repeated = second.delivery(attempt=2)
    assert repeated.header["message"] == delivery.header["message"]
    first.ack(delivery, b"the first answer counted")
    assert [told for told in first.pending() if told.verb != "CANCEL"] == []
    second.ack(repeated, b"second")
    reply = client.expect("REPLY", id=ident, last=True, backend=second.name)
    assert reply.body == [b"second"]


@pytest.mark.parametrize("verb", ["ACK", "NACK", "PART"])
def test_a_malformed_answer_about_someone_elses_delivery_does_it_no_harm(room: Room, verb: str) -> None:
    client, backend, other = room.client(), room.backend(), room.backend(capabilities=[unique("other")])
    ident = client.send(room.capability)
    delivery = backend.delivery()
    other.command(verb, {"id": delivery.header["id"]}, *[b"x"] * 65)
    other.expect("ERROR", code="too_large")
    for header in ({}, {"id": "x"}, {"id": 1.5}, {"id": True}, {"id": -1}, {"id": None}):
        backend.command(verb, header)
        assert all(told.verb == "ERROR" for told in backend.pending())
    assert client.pending() == []
    backend.ack(delivery)
    client.expect("REPLY", id=ident, last=True)
