"""The wire by Hypothesis: arbitrary bytes never raise, and two independent codecs agree."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import msgspec
import pytest
import zmq
from fuzzing import PATIENCE_S, look
from hypothesis import example, given
from hypothesis import strategies as st

from router_daemon.core import actions, events
from router_daemon.core.events import Malformed, Undelivered
from router_daemon.core.types import Side
from router_daemon.errors import RETRY
from router_daemon.wire import MAX_NESTING, Decoder, Limits, _depth, _nests_too_deep, encode

pytestmark = pytest.mark.timeout(PATIENCE_S)

PEER = b"\x00peer"
DECODERS = {side: Decoder(side, Limits(body_frames=4, header_bytes=2_000, message_bytes=4_000)) for side in Side}
ROOMY = {side: Decoder(side, Limits()) for side in Side}
VERBS = {
    Side.CLIENT: ("SEND", "CANCEL", "FEEDBACK", "PING"),
    Side.BACKEND: ("REGISTER", "UPDATE", "HEARTBEAT", "ACK", "NACK", "PART", "DRAIN", "UNREGISTER"),
}

IDS = st.integers(-(2**63), 2**64 - 1) | st.text(max_size=16) | st.binary(max_size=64)
CAPABILITIES = st.text(min_size=1, max_size=20)
MILLISECONDS = st.integers(1, 2**63)
AMOUNTS = st.floats(0, 1e300) | st.integers(0, 2**40)
RATIOS = st.floats(0, 1) | st.sampled_from((0, 1))
EMBEDDINGS = st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), max_size=8) | st.builds(
    lambda values: b"".join(msgspec.msgpack.encode(0)[:0] + value.to_bytes(4, "little") for value in values),
    st.lists(st.integers(0, 0x7F00_0000), max_size=8),
)
RESOURCES = st.lists(st.fixed_dictionaries({"id": st.text(max_size=5), "bytes": st.integers(0, 2**40)}), max_size=3)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=40)
    | st.binary(max_size=40)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=5), inner, max_size=20),
    max_leaves=40,
)

HEADERS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "SEND": st.fixed_dictionaries(
        {"id": IDS, "capability": CAPABILITIES},
        optional={
            "priority": st.integers(1, 4),
            "ttl_ms": MILLISECONDS,
            "heads": st.integers(1, 3),
            "mode": st.sampled_from(("fanout", "single")),
            "reply": st.sampled_from(("first", "all", "none")),
            "idempotent": st.booleans(),
            "embedding": EMBEDDINGS,
            "resources": RESOURCES,
            "key": st.text(max_size=8),
            "policy": st.text(max_size=8),
            "backend": st.text(max_size=8),
            "budget": AMOUNTS,
            "max_cost": AMOUNTS,
            "first_ms": MILLISECONDS,
            "idle_ms": MILLISECONDS,
            "traceparent": st.text(max_size=8),
            "tracestate": st.text(max_size=8),
            "durable": st.booleans(),
        },
    ),
    "CANCEL": st.fixed_dictionaries({"id": IDS}),
    "FEEDBACK": st.fixed_dictionaries({"id": IDS, "score": RATIOS}),
    "PING": st.just({}),
    "REGISTER": st.fixed_dictionaries(
        {"name": st.text(min_size=1, max_size=64), "capabilities": st.lists(CAPABILITIES, min_size=1, max_size=5)},
        optional={
            "slots": st.integers(1, 2**63),
            "prefetch": st.integers(0, 2**63),
            "embedding": EMBEDDINGS,
            "cost": AMOUNTS,
            "zone": st.text(max_size=8),
            "group": st.text(max_size=8),
            "session": st.binary(min_size=8, max_size=32),
            "resources": RESOURCES,
            "version": st.text(max_size=8),
        },
    ),
    "UPDATE": st.fixed_dictionaries({}, optional={"slots": st.integers(1, 9), "zone": st.text(max_size=8)}),
    "HEARTBEAT": st.fixed_dictionaries({}, optional={"queue": st.integers(0, 2**63)}),
    "ACK": st.fixed_dictionaries(
        {"id": st.integers(0, 2**53)},
        optional={
            "queue": st.integers(0, 9),
            "quality": RATIOS,
            "cost": AMOUNTS,
            "timing_us": st.fixed_dictionaries({}, optional={"queue": AMOUNTS, "compute": AMOUNTS, "splice": AMOUNTS}),
        },
    ),
    "NACK": st.fixed_dictionaries(
        {"id": st.integers(0, 2**53)},
        optional={
            "reason": st.text(max_size=20),
            "code": st.sampled_from(("failed", "busy", "rejected", "cancelled")),
            "retry_after_ms": st.integers(0, 2**63),
        },
    ),
    "PART": st.fixed_dictionaries({"id": st.integers(0, 2**53)}),
    "DRAIN": st.just({}),
    "UNREGISTER": st.just({}),
}

COMMANDS = {side: st.sampled_from([b"CAR1." + verb.encode() for verb in verbs]) for side, verbs in VERBS.items()}
BODIES = st.lists(st.binary(max_size=30), max_size=6)


@st.composite
def mutated(draw: st.DrawFn, side: Side) -> list[Any]:
    """Draw a valid message whose header has then been cut, extended or changed, byte by byte."""
    verb = draw(st.sampled_from(VERBS[side]))
    header = bytearray(msgpack.packb(draw(HEADERS[verb]) | draw(st.just({}) | st.fixed_dictionaries({"x": VALUES}))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(header)))
        how = draw(st.sampled_from(("cut", "insert", "change", "end")))
        if how == "cut":
            del header[at : at + draw(st.integers(1, 4))]
        elif how == "insert":
            header[at:at] = draw(st.binary(min_size=1, max_size=4))
        elif how == "change":
            header[at : at + 1] = bytes([draw(st.integers(0, 255))])
        else:
            del header[at:]
    delimiter = [b""] if draw(st.booleans()) else []
    frames: list[Any] = [*delimiter, b"CAR1." + verb.encode(), bytes(header), *draw(BODIES)]
    wrap = draw(st.sampled_from((bytes, memoryview, zmq.Frame)))
    return [PEER, *frames[:-1], wrap(frames[-1])]


def arbitrary(side: Side) -> st.SearchStrategy[list[Any]]:
    """Return frames of any kind, at least one behind the peer."""
    frame = st.binary(max_size=60) | COMMANDS[side] | st.just(b"") | VALUES.map(msgpack.packb)
    return st.lists(frame, min_size=1, max_size=8).map(lambda frames: [PEER, *frames])


def check(side: Side, frames: list[Any]) -> None:
    event = DECODERS[side].decode(frames)
    assert not isinstance(event, Undelivered)
    assert event.peer == PEER
    if isinstance(event, Malformed):
        assert event.code in RETRY
        assert event.side is side
        assert event.detail.isprintable()
        assert len(event.detail) <= 300
        assert event.id is None or type(event.id) in (int, str, bytes)
    else:
        assert isinstance(event, events.Event.__args__)
        assert event.delimited == (bytes(frames[1]) == b"")


@look(100)
@given(mutated(Side.CLIENT))
def test_mutated_messages_of_clients_never_raise(frames: list[Any]) -> None:
    check(Side.CLIENT, frames)


@look(100)
@given(mutated(Side.BACKEND))
def test_mutated_messages_of_backends_never_raise(frames: list[Any]) -> None:
    check(Side.BACKEND, frames)


@look(100)
@given(arbitrary(Side.CLIENT))
@example([PEER, b"", b"", b""])
@example([PEER, b"CAR1.SEND", b"\x91" * 2_000])
@example([PEER, b"CAR1.SEND", b"\xdf\xff\xff\xff\xff" * 20])
@example([PEER, b"CAR1.SEND", b"\x81\xa2id" * 500])
def test_arbitrary_frames_of_clients_never_raise(frames: list[Any]) -> None:
    check(Side.CLIENT, frames)


@look(100)
@given(arbitrary(Side.BACKEND))
def test_arbitrary_frames_of_backends_never_raise(frames: list[Any]) -> None:
    check(Side.BACKEND, frames)


def plain(value: Any) -> Any:
    """Return a header as the map it stands for, without what was not sent."""
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        return {name: plain(field) for name, field in fields.items() if field is not msgspec.UNSET}
    return [plain(item) for item in value] if isinstance(value, list) else value


@look(100)
@given(st.data())
def test_what_msgpack_wrote_is_read_alike(data: st.DataObject) -> None:
    side = data.draw(st.sampled_from(list(VERBS)))
    verb = data.draw(st.sampled_from(VERBS[side]))
    header = data.draw(HEADERS[verb])
    unknown = {
        f"unknown {key}": value
        for key, value in data.draw(st.dictionaries(st.text(max_size=3), VALUES, max_size=2)).items()
    }
    body = data.draw(BODIES)
    event = ROOMY[side].decode([PEER, b"CAR1." + verb.encode(), msgpack.packb(unknown | header), *body])
    assert not isinstance(event, Malformed), event
    read = plain(event.header)  # type: ignore[union-attr]
    assert header.items() <= read.items()
    if verb in {"SEND", "ACK", "PART"}:
        assert event.body == body  # type: ignore[union-attr]


MESSAGES = st.text(max_size=32)
OUT = st.one_of(
    st.builds(
        actions.Reply,
        st.just(PEER),
        st.booleans(),
        st.builds(
            actions.ReplyHeader,
            IDS,
            MESSAGES,
            st.text(max_size=64),
            st.integers(1, 99),
            st.integers(1, 99),
            st.floats(0, 1e9),
            st.booleans(),
        ),
        BODIES,
    ),
    st.builds(
        actions.Deliver,
        st.just(PEER),
        st.booleans(),
        st.builds(
            actions.DeliverHeader,
            st.integers(1, 2**53 - 1),
            MESSAGES,
            CAPABILITIES,
            st.integers(1, 4),
            st.integers(1, 2**40),
            st.integers(1, 99),
            st.integers(1, 99),
            st.integers(1, 99),
            EMBEDDINGS | st.just(msgspec.UNSET),
            st.text(max_size=60) | st.just(msgspec.UNSET),
        ),
        BODIES,
    ),
    st.builds(
        actions.Error,
        st.just(PEER),
        st.booleans(),
        st.builds(
            actions.ErrorHeader,
            IDS | st.none(),
            st.sampled_from(list(RETRY)),
            st.text(max_size=300),
            retry=st.booleans(),
            last=st.booleans(),
            message=MESSAGES | st.just(msgspec.UNSET),
            head=st.integers(1, 99) | st.just(msgspec.UNSET),
        ),
    ),
)


@look(100)
@given(OUT)
def test_what_is_written_msgpack_reads_alike(action: Any) -> None:
    frames = encode(action)
    delimiter = [b""] if action.delimited else []
    assert frames[: 1 + len(delimiter)] == [PEER, *delimiter]
    command, header, *body = frames[1 + len(delimiter) :]
    assert command.startswith(b"CAR1.")
    assert msgpack.unpackb(header) == plain(action.header)
    assert body == list(action.body)


def depth(value: Any) -> int:
    """Return how deep a value nests, by the definition: a scalar 0, a container one more than what it holds."""
    if isinstance(value, dict):
        return 1 + max((depth(inner) for pair in value.items() for inner in pair), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@st.composite
def deep_values(draw: st.DrawFn) -> Any:
    """Draw a value that is wrapped in up to 80 containers, with company in each."""
    value = draw(VALUES)
    for wrapper in draw(st.lists(st.sampled_from("lmLM"), max_size=80)):
        company = [None, "x" * 40, b"y" * 300, math.pi, -1] if wrapper.isupper() else []
        if wrapper in "lL":
            value = [*company, value, *company]
        else:
            value = {**{str(key): item for key, item in enumerate(company)}, "v": value}
    return value


@look(100)
@given(deep_values())
def test_the_walker_agrees_with_a_recursive_definition(value: Any) -> None:
    agree(value)


SIZES: list[Any] = [
    ["x" * 70_000, b"y" * 70_000, {"z": msgpack.ExtType(1, b"e" * 70_000)}],
    [[0] * 70_000, {str(key): None for key in range(70_000)}],
    [msgpack.ExtType(1, b"e" * size) for size in (0, 1, 2, 3, 4, 8, 16, 17, 255, 256)],
    [2**exponent - offset for exponent in (7, 8, 16, 32, 64) for offset in (1, 0) if 2**exponent - offset < 2**64],
    [-(2**exponent) - offset for exponent in (5, 7, 15, 31) for offset in (0, 1)] + [-(2**63)],
    ["x" * size for size in (0, 31, 32, 255, 256, 65_535, 65_536)],
]


@pytest.mark.parametrize("value", SIZES, ids=range(len(SIZES)))
def test_the_walker_knows_every_size_of_every_type(value: Any) -> None:
    agree(value)


def agree(value: Any) -> None:
    packed = msgpack.packb(value)
    assert _depth(memoryview(packed)) == depth(value)
    assert _nests_too_deep(packed) == (depth(value) > MAX_NESTING)
    assert _nests_too_deep(zmq.Frame(packed)) == (depth(value) > MAX_NESTING)


@look(100)
@given(st.floats(width=32), st.integers(0, 3))
def test_float32_counts_as_one_scalar(value: float, extra: int) -> None:
    packed = msgpack.packb([value] * extra, use_single_float=True)
    assert _depth(memoryview(packed)) == 1
