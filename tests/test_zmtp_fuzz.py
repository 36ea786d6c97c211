"""ZMTP by Hypothesis: however a stream is cut it reads the same, and no bytes raise anything but `ProtocolError`."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from fuzzing import look
from hypothesis import example, given
from hypothesis import strategies as st
from zmtp_bytes import command, frame, greeting, handshake, message, metadata, ping, pong, ready

from router_daemon.core.events import Malformed
from router_daemon.core.types import Side
from router_daemon.errors import ProtocolError
from router_daemon.wire import Decoder, Limits
from router_daemon.zmtp import Reader, Skipped, parse_properties

PEER: Final = b"\x00peer"
ROOMY: Final = Limits(body_frames=64, header_bytes=65_536, message_bytes=1_000_000)
SMALL: Final = Limits(body_frames=4, header_bytes=500, message_bytes=1_000)
MOST_FRAMES: Final = 4 + 5
EDGES: Final = (0, 1, 2, 254, 255, 256, 257, 65_535, 65_536, 65_537)


class Outcome(NamedTuple):
    """What came of a stream: its messages, what was answered, and the code of the error that ended it, if one did."""

    messages: list[list[Any]]
    replies: list[bytes]
    error: str | None


def lengths(frames: list[Any]) -> list[Any]:
    """Return the frames with what was skipped as its length, to be compared."""
    return [len(part) if isinstance(part, Skipped) else part for part in frames]


def read(chunks: list[bytes], limits: Limits, *, views: bool = False) -> Outcome:
    """Feed the chunks, as they are or as views of what is overwritten; assert that what is kept is within the limits."""
    reader = Reader(PEER, limits)
    messages: list[list[Any]] = []
    error = None
    for chunk in chunks:
        landing = bytearray(chunk)
        try:
            reader.feed(memoryview(landing) if views else chunk, messages)
        except ProtocolError as fault:
            error = fault.code
            break
        finally:
            landing[:] = bytes(len(landing))
        kept = sum(len(part) for part in reader._frames if isinstance(part, bytes))
        assert kept <= limits.message_bytes + 255 * len(reader._frames)
        assert len(reader._frames) <= limits.body_frames + 5
        assert len(reader._buffer) <= max(limits.message_bytes, 4_096) + 9
    assert all(isinstance(part, bytes | Skipped) for frames in messages for part in frames)
    return Outcome([lengths(frames) for frames in messages], reader.replies, error)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return the data in pieces, none of them empty."""
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    pieces = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return [piece for piece in pieces if piece]


PLACES = st.lists(st.integers(0, 2**20), max_size=12)
SIZED = st.sampled_from(EDGES).map(lambda size: (bytes(range(256)) * (size // 256 + 1))[:size]) | st.binary(max_size=12)
MESSAGES = st.lists(st.lists(SIZED, min_size=1, max_size=6), max_size=5)
CONTEXTS = st.lists(st.binary(max_size=16), max_size=4)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[list[Any]], list[bytes]]:
    """Draw a legal stream after the handshake, its messages, and the contexts of its PINGs, all between any frames."""
    messages = draw(MESSAGES)
    stream, contexts = [], []
    for bodies in messages:
        for index, body in enumerate(bodies):
            for context in draw(CONTEXTS) if draw(st.booleans()) else []:
                contexts.append(context)
                stream.append(ping(context))
            long = True if draw(st.booleans()) else None
            stream.append(frame(body, more=index < len(bodies) - 1, long=long))
    return b"".join(stream), messages, contexts


@look(150)
@given(streams(), PLACES, st.booleans(), st.booleans())
def test_a_legal_stream_reads_the_same_however_it_is_cut(
    drawn: tuple[bytes, list[list[Any]], list[bytes]], places: list[int], by_bytes: bool, views: bool
) -> None:
    stream, messages, contexts = drawn
    data = handshake() + stream
    head = [data[at : at + 1] for at in range(min(len(data), 400))] if by_bytes else []
    outcome = read(head + cut(data[len(head) :], places), ROOMY, views=views)
    assert outcome.messages == [[PEER, *bodies] for bodies in messages]
    assert outcome.replies[1:] == [pong(context) for context in contexts]
    assert outcome.error is None


SIZES = st.integers(0, 20) | st.sampled_from((255, 256, 300, 500, 999, 1_000, 1_001, 4_000, 4_001))


@look(300)
@given(st.lists(st.lists(SIZES, min_size=1, max_size=12), max_size=4), PLACES, st.booleans())
@example([[1_000], [256, 744], [256, 745], [1]], [], False)
@example([[4_000, 4_000], [0] * 12, [4_001]], [], True)
def test_limits_hold_and_what_is_within_them_is_whole(sizes: list[list[int]], places: list[int], views: bool) -> None:
    sent = [[bytes((index + 1,)) * size for index, size in enumerate(parts)] for parts in sizes]
    data = handshake() + b"".join(message(*bodies) for bodies in sent)
    outcome = read(cut(data, places), SMALL, views=views)
    beyond = [index for index, parts in enumerate(sizes) if max(parts) > 4 * SMALL.message_bytes]
    assert outcome.error == ("too_large" if beyond else None)
    assert len(outcome.messages) == (beyond[0] if beyond else len(sizes))
    for bodies, (_, *found) in zip(sent, outcome.messages, strict=False):
        assert [part if isinstance(part, int) else len(part) for part in found] == [
            len(body) for body in bodies[: MOST_FRAMES - 1]
        ]
        assert all(part == body for part, body in zip(found, bodies, strict=False) if isinstance(part, bytes))
        if sum(map(len, bodies)) <= SMALL.message_bytes:
            assert found == bodies[: MOST_FRAMES - 1]
        if sum(map(len, bodies)) <= SMALL.message_bytes + 255 * len(bodies):
            continue
        assert len(found) == MOST_FRAMES - 1 or any(isinstance(part, int) for part in found)


@look(300)
@given(st.lists(SIZES.filter(lambda size: size <= 4_000), max_size=8), PLACES)
def test_a_send_is_too_large_exactly_when_its_bytes_or_frames_are_too_many(sizes: list[int], places: list[int]) -> None:
    header = b"\x82\xa2id\x07\xaacapability\xa1c"
    data = handshake() + message(b"CAR1.SEND", header, *map(bytes, sizes))
    reader = Reader(PEER, SMALL)
    messages: list[list[Any]] = []
    for chunk in cut(data, places):
        reader.feed(chunk, messages)
    [frames] = messages
    event = Decoder(Side.CLIENT, SMALL).decode(frames)
    too_many = len(sizes) > SMALL.body_frames or sum(sizes) + len(header) + 9 > SMALL.message_bytes
    assert isinstance(event, Malformed) == too_many
    if isinstance(event, Malformed):
        assert (event.code, event.id) == ("too_large", 7)


COMMANDS = st.builds(
    command,
    st.sampled_from((b"READY", b"PING", b"PONG", b"ERROR", b"SUBSCRIBE", b"")) | st.binary(max_size=20),
    st.binary(max_size=40) | st.just(metadata(Socket_Type=b"DEALER")) | st.just(bytes(5_000)),
)
FRAMES = st.builds(
    lambda body, more, long: frame(body, more=more, long=long),
    st.binary(max_size=30) | st.sampled_from((bytes(256), bytes(990), bytes(1_001))),
    st.booleans(),
    st.sampled_from((None, True)),
)
HEADS = st.builds(
    lambda flags, size: bytes((flags,)) + size.to_bytes(8, "big"),
    st.integers(0, 255),
    st.sampled_from((0, 9, 255, 4_000, 4_001, 2**31, 2**32, 2**62, 2**63, 2**64 - 1)),
)
OPENINGS = st.sampled_from(
    (
        handshake(),
        handshake(b"REQ", minor=0),
        greeting(),
        greeting(mechanism=b"PLAIN"),
        greeting(mechanism=b"CURVE"),
        greeting(0, major=1),
        greeting() + ready(b"PUB"),
        b"\x01\x00",
        b"",
    )
)


@st.composite
def bent(draw: st.DrawFn) -> bytes:
    """Draw a stream of legal and illegal pieces in which some bytes are changed, taken out or put in."""
    data = bytearray(draw(OPENINGS) + b"".join(draw(st.lists(COMMANDS | FRAMES | HEADS | st.binary(max_size=9)))))
    for place, what, value in draw(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 2), st.integers(0, 255)))):
        at = place % (len(data) + 1)
        data[at : at + (what > 0)] = bytes((value,)) if what < 2 else b""
    return bytes(data)


@look(1_000)
@given(bent() | st.binary(max_size=200), PLACES)
def test_bytes_raise_only_the_one_error_and_the_same_however_they_are_cut(data: bytes, places: list[int]) -> None:
    # What follows makes a reader that waits for the rest of something look at it, so that both end the same.
    padded = data + bytes(6_000)
    whole = read([padded], SMALL)
    pieces = read([*cut(data, places), padded[len(data) :]], SMALL)
    assert pieces == whole
    assert whole.error in {None, "bad_frames", "too_large"}


@look(300)
@given(st.binary(max_size=60) | st.binary(max_size=20).map(lambda junk: metadata(Socket_Type=b"REQ", X=b"y") + junk))
def test_metadata_raises_only_the_one_error(data: bytes) -> None:
    try:
        found = parse_properties(data)
    except ProtocolError as error:
        assert error.code == "bad_frames"  # noqa: PT017 - either is fine
    else:
        assert sum(len(name) + len(value) + 5 for name, value in found.items()) <= len(data)
