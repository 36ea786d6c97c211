"""RING1 on the wire: every verb both ways, two codecs that agree, what is refused, and bytes that were changed."""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec
import pytest
from fuzzing import PATIENCE_S, look
from hypothesis import given
from hypothesis import strategies as st
from ring_samples import FORWARD, LISTED, PEER, SAMPLES

from router_daemon.core.events import Malformed
from router_daemon.core.types import Side
from router_daemon.ring import messages as ring
from router_daemon.ring.messages import MESSAGES
from router_daemon.wire import Decoder, Limits, encode

pytestmark = pytest.mark.timeout(PATIENCE_S)
DECODE = Decoder(Side.RING, Limits()).decode
NOT_FINITE = [float("nan")], b"\x00\x00\xc0\x7f", b"123"


def bare(value: Any) -> Any:
    """Return a header as msgpack reads it: maps, without what was not sent."""
    return msgspec.to_builtins(value)


def changed(header: msgspec.Struct, **keys: Any) -> bytes:
    return bytes(msgpack.packb(bare(header) | keys))


def refused(verb: bytes, header: bytes, *body: bytes) -> Malformed:
    event = DECODE([PEER, b"RING1." + verb, header, *body])
    assert isinstance(event, Malformed), event
    assert (event.side, event.peer, event.delimited) == (Side.RING, PEER, False)
    return event


def test_there_is_a_sample_of_every_message() -> None:
    assert [type(sample) for sample in SAMPLES] == list(MESSAGES)


@pytest.mark.parametrize("sent", SAMPLES, ids=lambda sample: sample.verb.decode())
def test_what_is_written_is_read_as_the_same_by_the_daemon_and_by_msgpack(sent: Any) -> None:
    peer, command, header, *body = encode(sent)
    assert (peer, command, body) == (PEER, b"RING1." + sent.verb, list(sent.body))
    assert msgpack.unpackb(header) == bare(sent.header)
    read: Any = DECODE([peer, command, header, *body])
    assert (type(read), read.header, list(read.body)) == (type(sent), sent.header, body)


def test_golden_bytes() -> None:
    hello = b"\x83\xa4name\xa1a\xa4ring\xa4ring\xa8instance\x01"
    read: Any = DECODE([PEER, b"RING1.HELLO", hello])
    assert read == ring.Hello(PEER, ring.HelloHeader("a", "ring", 1))
    assert encode(ring.Echo(PEER, ring.EchoHeader(9))) == [PEER, b"RING1.ECHO", b"\x81\xa3seq\x09"]
    assert encode(ring.RingBye(PEER, ring.ByeHeader())) == [PEER, b"RING1.BYE", b"\x80"]


def test_unknown_keys_are_skipped_and_a_body_where_none_belongs_is_dropped() -> None:
    event: Any = DECODE([PEER, b"RING1.ECHO", msgpack.packb({"seq": 1, "new": [1, {"x": 2}]}), b"body"])
    assert event == ring.Echo(PEER, ring.EchoHeader(1))


@pytest.mark.parametrize(
    ("header", "keys"),
    [
        (FORWARD, {"to": "a/b"}),
        (FORWARD, {"to": ""}),
        (FORWARD, {"ttl_ms": 0}),
        (FORWARD, {"priority": 5}),
        (FORWARD, {"path": ["a"] * 257}),
        (FORWARD, {"id": -1}),
        *((FORWARD, {"embedding": value}) for value in NOT_FINITE),
    ],
    ids=str,
)
def test_a_forward_that_breaks_a_rule_is_malformed(header: msgspec.Struct, keys: dict[str, Any]) -> None:
    assert refused(b"FORWARD", changed(header, **keys)).code == "bad_header"


@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
def test_an_embedding_in_a_roster_holds_finite_numbers(value: Any) -> None:
    roster = ring.RosterHeader("a", 1, 3, 0, 1, [ring.Listed("first", ["c"])])
    listed = [*bare(roster)["backends"], bare(LISTED) | {"embedding": value}]
    assert refused(b"ROSTER", changed(roster, backends=listed)).code == "bad_header"


def test_limits_hold_between_daemons_too() -> None:
    decode = Decoder(Side.RING, Limits(body_frames=1, header_bytes=500, message_bytes=1_000)).decode
    head = encode(ring.Forward(PEER, FORWARD))[2]
    events = [decode([PEER, b"RING1.FORWARD", head, *body]) for body in ([b"", b""], [bytes(1_000)])]
    assert [getattr(event, "code", None) for event in events] == ["too_large", "too_large"]
    assert isinstance(decode([PEER, b"RING1.FORWARD", head, bytes(100)]), ring.Forward)


@pytest.mark.parametrize("side", [Side.CLIENT, Side.BACKEND])
def test_who_is_no_daemon_cannot_speak_as_one_nor_a_daemon_as_another(side: Side) -> None:
    for sample in SAMPLES:
        event = Decoder(side, Limits()).decode(encode(sample))
        assert isinstance(event, Malformed)
        assert event.code == "unknown_command"
    assert isinstance(DECODE([PEER, b"CAR1.PING", b"\x80"]), Malformed)


def test_the_empty_delimiter_is_not_for_daemons() -> None:
    event = DECODE([PEER, b"", b"RING1.ECHO", b"\x81\xa3seq\x01"])
    assert isinstance(event, Malformed)
    assert (event.code, event.delimited) == ("bad_frames", True)


@st.composite
def mutated(draw: st.DrawFn) -> list[bytes]:
    """Draw a message whose header has been changed, cut or extended."""
    sample = draw(st.sampled_from(SAMPLES))
    header = bytearray(encode(sample)[2])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(header)))
        header[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return [PEER, b"RING1." + sample.verb, bytes(header), *draw(st.lists(st.binary(max_size=9), max_size=3))]


@look(200)
@given(mutated())
def test_changed_bytes_never_raise(frames: list[bytes]) -> None:
    event: Any = DECODE(frames)
    assert type(event) in (Malformed, *MESSAGES)
    assert event.peer == PEER
    if type(event) is not Malformed:
        encode(event)
