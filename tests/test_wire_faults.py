"""Every way in which a message can be wrong, the bounds on its right side, and the id that is read all the same."""

from __future__ import annotations

import math
import struct
from typing import Any

import msgpack
import pytest
import zmq
from msgspec import UNSET

from router_daemon.core import events
from router_daemon.core.events import EmptyHeader, Malformed
from router_daemon.core.types import Side
from router_daemon.errors import RETRY
from router_daemon.wire import Decoder, Limits

PEER = b"\x00peer"
CLIENTS = Decoder(Side.CLIENT, Limits())
BACKENDS = Decoder(Side.BACKEND, Limits())
SEND = b"\x82\xa2id\x01\xaacapability\xa1c"
NAN, INFINITY = math.nan, math.inf
OK = {"id": 1, "capability": "c"}
BACKEND = {"name": "a", "capabilities": ["c"]}


def changed(base: dict[str, Any], *gone: str, **keys: Any) -> dict[str, Any]:
    return {key: value for key, value in (base | keys).items() if key not in gone}


NO_KEYS: dict[str, Any] = {}
NO_EMBEDDINGS: list[Any] = ["abcd", b"abc", [1, "x"], [True], [NAN], [INFINITY], 1.0]

BAD: list[tuple[str, Any]] = [
    ("SEND", {}),
    ("SEND", changed(OK, "capability")),
    ("SEND", changed(OK, "id")),
    *(("SEND", changed(OK, id=value)) for value in (None, 1.0, True, [1], NO_KEYS, "x" * 65, b"x" * 65, "é" * 33)),
    *(("SEND", changed(OK, capability=value)) for value in ("", "x" * 129, b"c", 1, None)),
    *(("SEND", changed(OK, priority=value)) for value in (0, 5, 2.0, True, "2", None)),
    *(("SEND", changed(OK, ttl_ms=value)) for value in (0, -1, 1.5, True, NAN, None)),
    *(("SEND", changed(OK, heads=value)) for value in (0, 4, 1.0, True)),
    *(("SEND", changed(OK, mode=value)) for value in ("hegde", "", 1, "Single")),
    *(("SEND", changed(OK, reply=value)) for value in ("last", "", None)),
    *(("SEND", changed(OK, idempotent=value)) for value in (1, 0, "true", None)),
    *(("SEND", changed(OK, embedding=value)) for value in NO_EMBEDDINGS),
    *(("SEND", changed(OK, embedding=struct.pack("<2f", 1.0, value))) for value in (NAN, INFINITY, -INFINITY)),
    *(("SEND", changed(OK, resources=value)) for value in (NO_KEYS, [1], [{"id": "r"}], [{"id": 1, "bytes": 1}])),
    *(("SEND", changed(OK, resources=[{"id": "r", "bytes": value}])) for value in (-1, 1.5, True)),
    *(
        ("SEND", changed(OK, **{key: value}))
        for key in ("key", "policy", "backend", "traceparent", "tracestate")
        for value in (1, b"")
    ),
    *(
        ("SEND", changed(OK, **{key: value}))
        for key in ("budget", "max_cost")
        for value in (-0.1, NAN, INFINITY, True, "1")
    ),
    *(("SEND", changed(OK, **{key: value})) for key in ("first_ms", "idle_ms") for value in (0, -5, 1.0)),
    *(("SEND", changed(OK, durable=value)) for value in (1, None)),
    ("CANCEL", {}),
    *(("CANCEL", {"id": value}) for value in (None, 1.5, True, "x" * 65)),
    ("FEEDBACK", {"id": 1}),
    *(("FEEDBACK", {"id": 1, "score": value}) for value in (-0.1, 1.1, NAN, True)),
    ("FEEDBACK", {"id": None, "score": 1}),
    ("REGISTER", changed(BACKEND, "name")),
    ("REGISTER", changed(BACKEND, "capabilities")),
    *(("REGISTER", changed(BACKEND, name=value)) for value in ("", "x" * 65, b"a", 1)),
    *(("REGISTER", changed(BACKEND, capabilities=value)) for value in ([], ["c"] * 65, [""], ["x" * 129], [1], "c")),
    *(("REGISTER", changed(BACKEND, slots=value)) for value in (0, -1, 1.0, True)),
    *(("REGISTER", changed(BACKEND, prefetch=value)) for value in (-1, 0.0, False)),
    *(("REGISTER", changed(BACKEND, cost=value)) for value in (-1, NAN, INFINITY, True)),
    *(("REGISTER", changed(BACKEND, session=value)) for value in (b"x" * 7, b"x" * 33, "x" * 8)),
    *(("REGISTER", changed(BACKEND, **{key: 1})) for key in ("zone", "group", "version", "resources", "embedding")),
    ("REGISTER", changed(BACKEND, embedding=b"abc")),
    ("REGISTER", changed(BACKEND, embedding=struct.pack("<f", NAN))),
    *(("UPDATE", {"slots": value}) for value in (0, None)),
    ("UPDATE", {"capabilities": []}),
    ("UPDATE", {"embedding": b"abc"}),
    *(("HEARTBEAT", {"queue": value}) for value in (-1, 1.0, None, True)),
    ("ACK", {}),
    *(("ACK", {"id": value}) for value in (None, 1.0, "1", b"1", True)),
    *(("ACK", {"id": 1, "quality": value}) for value in (-0.1, 1.1, NAN)),
    *(("ACK", {"id": 1, "cost": value}) for value in (-1, NAN)),
    *(("ACK", {"id": 1, "timing_us": value}) for value in (1, [1], {"queue": -1}, {"compute": NAN}, {"splice": True})),
    *(("NACK", {"id": 1, "code": value}) for value in ("late", "", None)),
    *(("NACK", {"id": 1, "retry_after_ms": value}) for value in (-1, 1.0)),
    ("NACK", {"id": 1, "reason": b"x"}),
    ("PART", {}),
]
CLIENT_VERBS = {"SEND", "CANCEL", "FEEDBACK", "PING"}


def decode(verb: str, header: Any, *body: bytes, delimited: bool = False) -> Any:
    decoder = CLIENTS if verb in CLIENT_VERBS else BACKENDS
    packed = header if isinstance(header, bytes) else msgpack.packb(header)
    return decoder.decode([PEER, *[b""] * delimited, b"CAR1." + verb.encode(), packed, *body])


@pytest.mark.parametrize(("verb", "header"), BAD, ids=lambda value: repr(value)[:60])
@pytest.mark.parametrize("body", [(), (b"body",)], ids=["no body", "a body"])
def test_bad_header(verb: str, header: Any, body: tuple[bytes, ...]) -> None:
    wrong = decode(verb, header, *body)
    assert isinstance(wrong, Malformed), wrong
    assert (wrong.code, wrong.verb, wrong.peer, wrong.delimited) == ("bad_header", verb, PEER, False)
    assert 0 < len(wrong.detail) <= 256


@pytest.mark.parametrize("verb", ["SEND", "CANCEL", "PING", "REGISTER", "HEARTBEAT", "ACK", "DRAIN"])
@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        b"\x90",
        b"\xc0",
        b"\x05",
        b"\x81",
        b"\x80\x80",
        b"\x81\xa2id",
        b"\x81\x01\x01",
        b"\xdf\xff\xff\xff\xff",
    ],
    ids=repr,
)
def test_a_header_that_is_no_map_with_string_keys(verb: str, header: bytes) -> None:
    wrong = decode(verb, header)
    assert isinstance(wrong, Malformed)
    assert (wrong.code, wrong.id) == ("bad_header", None)


@pytest.mark.parametrize("header", [b"\x82\xa2id\x01\xaacapability\xa1\xff", b"\x82\xaacapability\xa1\xff\xa2id\x01"])
def test_invalid_utf_8(header: bytes) -> None:
    wrong = decode("SEND", header)
    assert (wrong.code, wrong.id) == ("bad_header", 1)
    wrong = decode("SEND", b"\x82\xa2id\xa1\xff\xaacapability\xa1c")
    assert (wrong.code, wrong.id) == ("bad_header", None)


GOOD: list[tuple[str, Any]] = [
    *(("SEND", changed(OK, id=value)) for value in ("", "x" * 64, b"", b"x" * 64, "é" * 32, 2**64 - 1, -(2**63))),
    *(("SEND", changed(OK, capability=value)) for value in ("x" * 128, "é" * 128)),
    ("SEND", changed(OK, ttl_ms=2**64 - 1)),
    ("SEND", changed(OK, budget=3, max_cost=0)),
    ("SEND", changed(OK, embedding=[])),
    ("SEND", changed(OK, embedding=b"")),
    ("SEND", changed(OK, unknown=NAN, another={"deep": [None, {"x": b"\xff"}]})),
    ("SEND", changed(OK, resources=[{"id": "", "bytes": 0, "unknown": 1}])),
    ("REGISTER", changed(BACKEND, name="x" * 64, capabilities=["x" * 128] * 64)),
    *(("REGISTER", changed(BACKEND, session=value)) for value in (b"x" * 8, b"x" * 32)),
    ("ACK", {"id": 0, "quality": 0, "cost": 1, "timing_us": {}}),
    ("NACK", {"id": 1, "reason": "", "retry_after_ms": 0}),
    ("UPDATE", {}),
    ("UPDATE", {"name": "ignored"}),
]


@pytest.mark.parametrize(("verb", "header"), GOOD, ids=lambda value: repr(value)[:60])
@pytest.mark.parametrize("body", [(), (b"body",)], ids=["no body", "a body"])
def test_good_header_at_the_bounds(verb: str, header: Any, body: tuple[bytes, ...]) -> None:
    event = decode(verb, header, *body)
    assert not isinstance(event, Malformed), event
    if "id" in header:
        assert event.header.id == header["id"]


def test_what_was_not_sent_is_unset() -> None:
    request = decode("SEND", OK).header
    assert request.ttl_ms is request.heads is request.mode is request.idempotent is request.embedding is UNSET
    assert (request.priority, request.reply, request.durable) == (2, "first", False)


FRAMES: list[tuple[list[bytes], str]] = [
    ([b""], "bad_frames"),
    ([b"", b""], "bad_frames"),
    ([b"CAR1.SEND"], "bad_frames"),
    ([b"", b"CAR1.SEND"], "bad_frames"),
    ([b"x"], "bad_frames"),
    ([b"\xff\xfe", b"\x80"], "bad_frames"),
    ([b"CAR2.SEND", SEND], "unsupported_version"),
    ([b"CAR0.SEND", SEND], "unsupported_version"),
    ([b"CAR11.SEND", SEND], "unsupported_version"),
    ([b"", b"CAR2.SEND", SEND], "unsupported_version"),
    ([b"CAR1.SENT", SEND], "unknown_command"),
    ([b"CAR1.", SEND], "unknown_command"),
    ([b"car1.SEND", SEND], "unknown_command"),
    ([b"SEND", SEND], "unknown_command"),
    ([b"CAR1.SEND ", SEND], "unknown_command"),
    ([b"CAR1.REGISTER", SEND], "unknown_command"),
    ([b"", b"", b"CAR1.PING", b"\x80"], "unknown_command"),
    ([b"x" * 1_000_000, b"\x80"], "unknown_command"),
]


@pytest.mark.parametrize(("frames", "code"), FRAMES, ids=lambda value: repr(value)[:40])
def test_frames_that_hold_no_command(frames: list[bytes], code: str) -> None:
    wrong = CLIENTS.decode([PEER, *frames])
    assert isinstance(wrong, Malformed)
    assert (wrong.code, wrong.verb, wrong.id, wrong.delimited) == (code, "", None, frames[0] == b"")
    assert len(wrong.detail) < 300


def test_a_side_knows_its_own_commands_alone() -> None:
    assert isinstance(BACKENDS.decode([PEER, b"CAR1.SEND", SEND]), Malformed)
    assert isinstance(CLIENTS.decode([PEER, b"CAR1.ACK", b"\x81\xa2id\x01"]), Malformed)


@pytest.mark.parametrize("verb", ["CANCEL", "FEEDBACK"])
def test_a_req_peer_may_not_send_what_has_no_answer(verb: str) -> None:
    wrong = decode(verb, {"id": 1, "score": 1}, delimited=True)
    assert (wrong.code, wrong.delimited) == ("bad_frames", True)
    assert decode("PING", {}, delimited=True) == events.Ping(PEER, True, EmptyHeader())


@pytest.mark.parametrize(
    ("verb", "header", "found"),
    [
        ("SEND", changed(OK, priority=9), 1),
        ("SEND", {"id": b"\xff"}, b"\xff"),
        ("SEND", {"priority": 9, "id": "late"}, "late"),
        ("SEND", {"id": "x" * 65, "capability": "c"}, None),
        ("SEND", {"id": True}, None),
        ("SEND", b"\x81\xa2id\x01!", None),
        ("CANCEL", {"id": True}, None),
        ("FEEDBACK", {"id": 1, "score": 9}, None),
        ("REGISTER", {"id": 1}, None),
        ("HEARTBEAT", {"id": 1, "queue": -1}, None),
        ("ACK", {"id": 5, "quality": 9}, 5),
        ("ACK", {"id": "5"}, None),
        ("NACK", {"id": 5, "code": "x"}, 5),
        ("PART", {"id": b"5"}, None),
    ],
    ids=repr,
)
def test_the_id_is_read_of_what_is_wrong_otherwise(verb: str, header: Any, found: Any) -> None:
    wrong = decode(verb, header)
    assert isinstance(wrong, Malformed)
    assert wrong.id == found
    assert type(wrong.id) is type(found)


def test_the_id_is_read_of_a_map_with_other_keys_than_strings() -> None:
    """One whole map whose id is legal: the client is told by that id."""
    wrong = decode("SEND", {1: 2, "id": 7, "capability": "c"})
    assert (wrong.code, wrong.id) == ("bad_header", 7)


def nested(levels: int, key: bytes = b"\xa1x") -> bytes:
    """Return a SEND header whose deepest list lies that many containers deep, the header's map included."""
    return b"\x83\xa2id\x01\xaacapability\xa1c" + key + b"\x91" * (levels - 2) + b"\x90"


@pytest.mark.parametrize("body", [(), (b"body",)], ids=["no body", "a body"])
def test_nesting_up_to_64_is_allowed_also_in_unknown_keys(body: tuple[bytes, ...]) -> None:
    for levels in (2, 63, 64):
        assert isinstance(decode("SEND", nested(levels), *body), events.Send), levels
    for levels in (65, 66, 200):
        wrong = decode("SEND", nested(levels), *body)
        assert isinstance(wrong, Malformed), levels
        assert (wrong.code, wrong.id) == ("bad_header", 1)


def test_nesting_in_maps_counts_alike() -> None:
    def mapped(levels: int) -> bytes:
        return b"\x83\xa2id\x01\xaacapability\xa1c\xa1x" + b"\x81\xa1k" * (levels - 2) + b"\x80"

    assert isinstance(decode("SEND", mapped(64)), events.Send)
    assert decode("SEND", mapped(65)).code == "bad_header"


@pytest.mark.parametrize("levels", [1_500, 60_000])
def test_nesting_beyond_all_measure_is_no_exception_and_the_id_is_read(levels: int) -> None:
    wrong = decode("SEND", nested(levels))
    assert (wrong.code, wrong.id) == ("bad_header", 1)


def test_many_containers_side_by_side_are_not_deep() -> None:
    assert isinstance(decode("SEND", changed(OK, x=[[[]] * 500] * 20)), events.Send)
    assert isinstance(decode("SEND", changed(OK, x="\x91" * 5_000, y=b"\x91" * 5_000)), events.Send)


def test_too_many_body_frames() -> None:
    limits = Limits(body_frames=3)
    decoder = Decoder(Side.CLIENT, limits)
    for delimiter in ([], [b""]):
        start = [PEER, *delimiter, b"CAR1.SEND", SEND]
        assert isinstance(decoder.decode([*start, *[b"x"] * 3]), events.Send)
        wrong = decoder.decode([*start, *[b"x"] * 4])
        assert isinstance(wrong, Malformed)
        assert (wrong.code, wrong.id) == ("too_large", 1)


def test_too_many_bytes() -> None:
    limits = Limits(message_bytes=1_000, header_bytes=100)
    decoder = Decoder(Side.CLIENT, limits)
    left = 1_000 - len(b"CAR1.SEND") - len(SEND)
    for body in ([b"x" * left], [b"x" * (left - 1), b"x"], [b"x" * (left // 2)] * 2):
        assert isinstance(decoder.decode([PEER, b"CAR1.SEND", SEND, *body]), events.Send)
    too_much: tuple[list[Any], ...] = ([b"x" * (left + 1)], [b"x" * left, b"x"], [zmq.Frame(b"x" * (left + 1))])
    for frames in too_much:
        wrong = decoder.decode([PEER, b"CAR1.SEND", SEND, *frames])
        assert isinstance(wrong, Malformed)
        assert (wrong.code, wrong.id) == ("too_large", 1)


def padded(size: int) -> bytes:
    packed: bytes = msgpack.packb(changed(OK, x="x" * (size - 30)))
    packed = msgpack.packb(changed(OK, x="x" * (size - 30 + size - len(packed))))
    assert len(packed) == size
    return packed


@pytest.mark.parametrize("limit", [256, 257, 1_000, 65_536])
@pytest.mark.parametrize("body", [(), (b"body",), (b"b", b"c")], ids=["no body", "one", "two"])
def test_too_large_a_header(limit: int, body: tuple[bytes, ...]) -> None:
    decoder = Decoder(Side.CLIENT, Limits(header_bytes=limit))
    assert isinstance(decoder.decode([PEER, b"CAR1.SEND", padded(limit), *body]), events.Send)
    wrong = decoder.decode([PEER, b"CAR1.SEND", padded(limit + 1), *body])
    assert isinstance(wrong, Malformed)
    assert (wrong.code, wrong.id) == ("too_large", 1)


def test_a_too_large_answer_names_its_delivery() -> None:
    decoder = Decoder(Side.BACKEND, Limits(message_bytes=100, header_bytes=50))
    wrong = decoder.decode([PEER, b"CAR1.ACK", b"\x81\xa2id\x07", b"x" * 100])
    assert isinstance(wrong, Malformed)
    assert (wrong.code, wrong.id, wrong.verb) == ("too_large", 7, "ACK")


def test_every_code_is_in_the_table() -> None:
    codes = {"bad_frames", "unsupported_version", "unknown_command", "bad_header", "too_large"}
    assert codes <= set(RETRY)
    assert not any(RETRY[code] for code in codes)
