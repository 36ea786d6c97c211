"""Frames, ids and commands: bodies pass byte for byte, ids come back unchanged, what is no message is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from conftest import Room
from contract import check_for_client, pack, parse

NAN = math.nan


def test_a_body_of_any_number_of_frames_arrives_byte_for_byte_both_ways(room: Room) -> None:
    client, backend = room.client(), room.backend()
    bodies: list[list[bytes]] = [
        [],
        [b""],
        [b"one"],
        [b"", b"", b""],
        [b"", b"CAR1.SEND", b"\x80", b""],
        [bytes(range(256)), b"", b"\x00" * 1000],
        [b"" if number % 3 else bytes([number]) * number for number in range(64)],
    ]
    for body in bodies:
        ident = client.send(room.capability, *body)
        delivery = backend.delivery()
        assert delivery.body == body
        backend.ack(delivery, *reversed(body))
        reply = client.expect("REPLY", id=ident, last=True)
        assert reply.body == body[::-1]


def test_a_message_of_megabytes_passes(room: Room) -> None:
    client, backend = room.client(), room.backend()
    body = bytes(range(256)) * 4096 * 15
    client.send(room.capability, body)
    delivery = backend.delivery()
    assert delivery.body == [body]
    backend.ack(delivery, body, b"")
    assert client.expect("REPLY", last=True).body == [body, b""]


LEGAL_IDS = [
    "a",
    "",
    "x" * 64,
    "é" * 32,
    "1",
    0,
    1,
    -1,
    2**64 - 1,
    -(2**63),
    b"1",
    b"",
    b"\x00\xff",
    bytes(64),
]


@pytest.mark.parametrize("ident", LEGAL_IDS, ids=repr)
def test_a_legal_id_comes_back_unchanged(room: Room, ident: Any) -> None:
    client, backend = room.client(), room.backend()
    client.send(room.capability, b"x", id=ident)
    backend.ack(backend.delivery())
    reply = client.expect("REPLY", last=True)
    assert (type(reply.header["id"]), reply.header["id"]) == (type(ident), ident)
    client.send(f"{room.capability}-unknown", id=ident)
    client.error("no_capability", ident)


def test_ids_of_different_types_are_different_ids(room: Room) -> None:
    client, backend = room.client(), room.backend(slots=3)
    idents: list[Any] = [1, "1", b"1"]
    for ident in idents:
        client.send(room.capability, repr(ident).encode(), id=ident)
    for _ in idents:
        delivery = backend.delivery()
        backend.ack(delivery, *delivery.body)
        reply = client.expect("REPLY", last=True)
        assert reply.body == [repr(reply.header["id"]).encode()]
    assert client.open == set()


@pytest.mark.parametrize(
    "ident",
    [True, False, 1.0, 1.5, NAN, None, [1], {"a": 1}, "x" * 65, "é" * 33, bytes(65)],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_id_is_refused_with_a_nil_id(room: Room, ident: Any) -> None:
    client = room.client()
    client.send_raw(None, {"id": ident, "capability": room.capability})
    client.error("bad_header", None, last=False)


def test_a_float_or_bool_equal_to_an_open_id_is_no_duplicate(room: Room) -> None:
    client, backend = room.client(), room.backend()
    client.send(room.capability, id=1)
    for twin in (True, 1.0):
        client.send_raw(None, {"id": twin, "capability": room.capability})
        client.error("bad_header", None, last=False)
    backend.ack(backend.delivery())
    client.expect("REPLY", id=1, last=True)


@pytest.mark.parametrize(
    "frames",
    [[b"CAR1.PING"], [b"CAR1.SEND"], [b""], [b"", b"CAR1.SEND"], [b"CAR1.NOPE"]],
    ids=repr,
)
def test_a_message_without_a_header_is_refused(room: Room, frames: list[bytes]) -> None:
    client = room.client()
    client.send_frames(*frames)
    answer = client.poll_frames(5)
    assert answer is not None
    assert (answer[0] == b"") == (frames[0] == b""), "the delimiter comes back to who sent it"
    message = parse([frame for frame in answer if frame])
    check_for_client(message)
    assert (message.verb, message.header["id"], message.header["last"]) == ("ERROR", None, False)
    assert message.header["code"] in {"bad_frames", "bad_header", "unknown_command"}


@pytest.mark.parametrize("command", [b"CAR2.SEND", b"CAR0.PING", b"CAR10.SEND"])
def test_another_version_is_unsupported(room: Room, command: bytes) -> None:
    client, backend = room.client(), room.backend()
    client.track("mine")
    client.send_frames(command, pack({"id": "mine", "capability": room.capability}), b"body")
    client.expect("ERROR", code="unsupported_version")
    assert backend.pending() == []


@pytest.mark.parametrize("verb", ["NOPE", "", "send", "REPLY", "REGISTER", "HEARTBEAT", "SEND ", "SEND\0"])
def test_an_unknown_verb_is_unknown_command(room: Room, verb: str) -> None:
    client = room.client()
    client.command(verb)
    client.error("unknown_command", None, last=False)


@pytest.mark.parametrize("command", [b"SEND", b"\xff\xfe", b"CAR1", b"CAR1SEND", b"x" * 1000])
def test_what_is_no_command_at_all_is_refused(room: Room, command: bytes) -> None:
    client = room.client()
    client.send_frames(command, b"\x80")
    message = client.expect("ERROR", id=None, last=False)
    assert message.header["code"] in {"unknown_command", "unsupported_version", "bad_frames"}
    assert client.pending() == []


def test_one_faulty_message_does_not_touch_those_around_it(room: Room) -> None:
    client, backend = room.client(), room.backend(slots=2)
    first = client.send(room.capability, b"first")
    client.send_frames(b"CAR1.SEND")
    client.send_frames(b"CAR1.SEND", b"\xc1", *[b"x"] * 70)
    second = client.send(room.capability, b"second")
    for _ in range(2):
        client.expect("ERROR", id=None)
    for ident in (first, second):
        delivery = backend.delivery()
        backend.ack(delivery, *delivery.body)
        client.expect("REPLY", id=ident, last=True)
