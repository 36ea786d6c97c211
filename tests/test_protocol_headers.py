"""Headers: every known key with legal and illegal values, unknown keys, and what is not one whole map."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from conftest import Room
from contract import pack

NAN = math.nan
INF = math.inf


WRONG_VALUES: list[tuple[str, Any]] = [
    ("capability", ""),
    ("capability", "x" * 129),
    ("capability", 7),
    ("capability", b"work"),
    ("capability", None),
    ("priority", 0),
    ("priority", 5),
    ("priority", -1),
    ("priority", "2"),
    ("priority", 2.0),
    ("priority", True),
    ("priority", None),
    ("ttl_ms", 0),
    ("ttl_ms", -1),
    ("ttl_ms", 1.5),
    ("ttl_ms", "1000"),
    ("ttl_ms", True),
    ("heads", 0),
    ("heads", 4),
    ("heads", True),
    ("heads", "1"),
    ("mode", "sometimes"),
    ("mode", ""),
    ("mode", 1),
    ("reply", "some"),
    ("reply", 1),
    ("idempotent", 1),
    ("idempotent", "true"),
    ("embedding", [1.0, NAN]),
    ("embedding", [INF]),
    ("embedding", [-INF, 0.0]),
    ("embedding", ["a"]),
    ("embedding", [True]),
    ("embedding", "vector"),
    ("embedding", b"12345"),
    ("embedding", struct.pack("<2f", 1.0, NAN)),
    ("embedding", struct.pack("<f", INF)),
    ("resources", "a"),
    ("resources", {"id": "a", "bytes": 1}),
    ("resources", ["a"]),
    ("resources", [{"id": "a"}]),
    ("resources", [{"bytes": 1}]),
    ("resources", [{"id": 1, "bytes": 1}]),
    ("resources", [{"id": "a", "bytes": 1.5}]),
    ("resources", [{"id": "a", "bytes": True}]),
    ("key", 1),
    ("key", b"sticky"),
    ("policy", 1),
    ("backend", 1),
    ("budget", -0.5),
    ("budget", NAN),
    ("budget", INF),
    ("budget", "1"),
    ("budget", True),
    ("max_cost", -1),
    ("max_cost", NAN),
    ("max_cost", True),
    ("first_ms", 0),
    ("first_ms", -5),
    ("first_ms", 1.5),
    ("first_ms", True),
    ("idle_ms", 0),
    ("idle_ms", "10"),
    ("traceparent", 1),
    ("tracestate", 1),
    ("durable", 1),
    ("durable", "yes"),
]


@pytest.mark.parametrize(("key", "value"), WRONG_VALUES, ids=lambda value: repr(value)[:24])
def test_a_wrong_value_of_a_known_key_is_bad_header(room: Room, key: str, value: Any) -> None:
    client = room.client()
    header = {"id": "mine", "capability": room.capability, key: value}
    client.send_raw("mine", header, b"body")
    client.error("bad_header", "mine")
    assert client.pending() == []


@pytest.mark.parametrize("more", [{"mode": "single"}, {"idempotent": False}], ids=repr)
def test_reply_all_and_one_head_at_a_time_exclude_each_other(room: Room, more: dict[str, Any]) -> None:
    client, backend = room.client(), room.backend()
    ident = client.send(room.capability, reply="all", **more)
    client.error("bad_header", ident)
    assert backend.pending() == []


def test_a_missing_required_key_is_bad_header(room: Room) -> None:
    client = room.client()
    client.send_raw("mine", {"id": "mine"})
    client.error("bad_header", "mine")
    client.send_raw(None, {"capability": room.capability})
    client.error("bad_header", None, last=False)


RIGHT_VALUES: list[tuple[str, Any]] = [
    ("capability", "x"),
    ("capability", "é" * 128),
    ("priority", 1),
    ("priority", 4),
    ("ttl_ms", 1_000),
    ("ttl_ms", 2**63),
    ("heads", 1),
    ("heads", 3),
    ("mode", "auto"),
    ("mode", "fanout"),
    ("mode", "hedge"),
    ("mode", "single"),
    ("reply", "first"),
    ("reply", "all"),
    ("idempotent", True),
    ("idempotent", False),
    ("embedding", [1, 0.5]),
    ("embedding", struct.pack("<3f", 1.0, -2.0, 0.0)),
    ("resources", []),
    ("resources", [{"id": "a", "bytes": 1}, {"id": "b", "bytes": 2**40}]),
    ("key", "user-7"),
    ("budget", 0),
    ("budget", 1.5),
    ("max_cost", 3),
    ("first_ms", 1_000),
    ("idle_ms", 1_000),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("tracestate", "vendor=1"),
]


@pytest.mark.parametrize(("key", "value"), RIGHT_VALUES, ids=lambda value: repr(value)[:24])
def test_every_legal_value_of_a_known_key_is_taken(room: Room, key: str, value: Any) -> None:
    client = room.client()
    capability = value if key == "capability" else room.capability
    backend = room.backend(capabilities=[capability])
    client.send(**{"capability": capability, key: value})
    delivery = backend.delivery(capability=capability)
    backend.ack(delivery, b"done")
    assert client.expect("REPLY", last=True).body == [b"done"]
    backend.command("UNREGISTER")
    backend.expect("BYE")


def nested(depth: int) -> bytes:
    """Return a value of that many lists, one in the other."""
    return b"\x91" * (depth - 1) + b"\x90"


def raw_map(*items: tuple[bytes, bytes]) -> bytes:
    """Return a map of already packed keys and values."""
    return bytes([0x80 + len(items)]) + b"".join(key + value for key, value in items)


@pytest.mark.parametrize(
    "value",
    [
        pack(NAN),
        pack(INF),
        struct.pack(">Bf", 0xCA, NAN),
        nested(60),
        pack({"id": True, "capability": 5}),
        b"\xc7\x03\x05abc",  # an extension type nobody knows
        b"\xd6\xff\x00\x00\x00\x01",  # a timestamp
        pack(2**64 - 1),
        pack(bytes(1000)),
    ],
    ids=["nan", "inf", "nan32", "deep", "map", "ext", "timestamp", "uint64", "bin"],
)
def test_an_unknown_key_is_skipped_unseen(room: Room, value: bytes) -> None:
    client, backend = room.client(), room.backend()
    header = raw_map(
        (pack("shade"), value),
        (pack("id"), pack("mine")),
        (pack("capability"), pack(room.capability)),
        (pack("tint"), value),
    )
    client.send_raw("mine", header, b"body")
    delivery = backend.delivery()
    assert delivery.body == [b"body"]
    backend.ack(delivery)
    client.expect("REPLY", id="mine", last=True)


@pytest.mark.parametrize("depth", [70, 5_000, 60_000])
def test_nesting_deeper_than_64_is_bad_header_and_the_id_is_still_read(room: Room, depth: int) -> None:
    client = room.client()
    identity = (pack("id"), pack("mine"))
    capability = (pack("capability"), pack(room.capability))
    for header in (
        raw_map(identity, capability, (pack("shade"), nested(depth))),
        raw_map((pack("shade"), nested(depth)), capability, identity),
    ):
        client.send_raw("mine", header)
        client.error("bad_header", "mine")


def test_invalid_utf8_in_a_known_key_is_bad_header_with_the_id(room: Room) -> None:
    client = room.client()
    for broken in (b"\xa2\xff\xfe", b"\xa3\xed\xa0\x80", b"\xa1\xc3"):
        header = raw_map((pack("id"), pack("mine")), (pack("capability"), broken))
        client.send_raw("mine", header)
        client.error("bad_header", "mine")


def test_invalid_utf8_in_the_id_leaves_no_id(room: Room) -> None:
    client = room.client()
    header = raw_map((pack("id"), b"\xa2\xff\xfe"), (pack("capability"), pack(room.capability)))
    client.send_raw(None, header)
    client.error("bad_header", None, last=False)


def test_invalid_utf8_in_an_unknown_key_leaves_the_id_readable(room: Room) -> None:
    client = room.client()
    for key, value in ((pack("shade"), b"\xa2\xff\xfe"), (b"\xa2\xff\xfe", pack(1))):
        capability = (pack("capability"), pack(f"{room.capability}-unknown"))
        client.send_raw("mine", raw_map((pack("id"), pack("mine")), capability, (key, value)))
        message = client.expect("ERROR", id="mine", last=True)
        assert message.header["code"] in {"bad_header", "no_capability"}


def test_a_key_that_is_no_string_leaves_the_id_readable(room: Room) -> None:
    client = room.client()
    header = pack({"id": "mine", "capability": f"{room.capability}-unknown", 5: 6})
    client.send_raw("mine", header)
    message = client.expect("ERROR", id="mine", last=True)
    assert message.header["code"] in {"bad_header", "no_capability"}


@pytest.mark.parametrize(
    "make",
    [
        lambda whole: whole + b"\x00",
        lambda whole: whole + whole,
        lambda whole: whole[:-1],
        lambda whole: whole[:1],
        lambda whole: b"",
        lambda whole: b"\x90",
        lambda whole: b"\xc0",
        lambda whole: b"\xc1",
        lambda whole: b"\x01",
        lambda whole: b"\xa1x",
        lambda whole: b"\xdf\xff\xff\xff\xff",
        lambda whole: b'{"id": 1}',
        lambda whole: b"\x91" + whole,
    ],
    ids=["trailing", "twice", "cut", "first", "empty", "list", "nil", "c1", "int", "str", "huge", "json", "inlist"],
)
def test_a_header_that_is_not_one_whole_map_is_bad_header_with_a_nil_id(room: Room, make: Any) -> None:
    client = room.client()
    whole = pack({"id": "mine", "capability": room.capability})
    client.send_raw(None, make(whole))
    client.error("bad_header", None, last=False)
    client.command("PING", make(whole))
    client.error("bad_header", None, last=False)
