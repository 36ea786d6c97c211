"""ZMTP without sockets: golden bytes of the specification and of a real libzmq; the handshake; limits."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any, Final

import pytest
import zmq
from zmtp_bytes import command, frame, greeting, handshake, message, metadata, ping, pong, ready

from router_daemon import zmtp
from router_daemon.core.events import Malformed
from router_daemon.core.types import Side
from router_daemon.errors import ProtocolError
from router_daemon.wire import Decoder, Limits
from router_daemon.zmtp import LAST_HEADS, Reader, Skipped, append_frames, frame_head, heads_after, parse_properties

PEER: Final = b"\x00peer"
SMALL: Final = Limits(body_frames=4, header_bytes=500, message_bytes=1_000)
MOST_FRAMES: Final = 4 + 5  # with the peer's name; one more than a legal message has
TIMEOUT_S: Final = 5.0


def connected(limits: Limits = SMALL, **options: Any) -> Reader:
    """Return a reader that has shaken hands."""
    reader = Reader(PEER, limits)
    assert fed(reader, handshake(**options)) == []
    reader.replies.clear()
    return reader


def fed(reader: Reader, data: bytes) -> list[list[Any]]:
    """Return the messages that these bytes complete, without the peer's name."""
    messages: list[list[Any]] = []
    if data:
        reader.feed(data, messages)
    assert all(frames.pop(0) == PEER for frames in messages)
    return messages


def fed_by_bytes(reader: Reader, data: bytes) -> list[list[Any]]:
    """Return the messages of these bytes, fed one by one."""
    return [frames for byte in data for frames in fed(reader, bytes((byte,)))]


def kept_bytes(reader: Reader) -> int:
    """Return how many bytes a reader holds on to."""
    return len(reader._buffer) + sum(len(part) for part in reader._frames if isinstance(part, bytes))


def refused(data: bytes, *, reader: Reader | None = None) -> ProtocolError:
    """Return the error that these bytes raise."""
    with pytest.raises(ProtocolError) as caught:
        fed(reader or Reader(PEER, SMALL), data)
    return caught.value


# --- golden bytes ---


def test_the_greeting_is_that_of_the_specification() -> None:
    ours = zmtp.GREETING
    assert ours == bytes.fromhex("ff 0000000000000000 7f 03 01 4e554c4c") + bytes(16 + 1 + 31)
    assert len(ours) == 64
    assert ours == greeting()


def test_ready_and_ping_are_those_of_the_specification() -> None:
    assert zmtp.ready() == b"\x04\x29\x05READY\x0bSocket-Type\0\0\0\x06ROUTER\x08Identity\0\0\0\0"
    assert zmtp.PING == b"\x04\x07\x04PING\0\0"
    assert zmtp.command(b"X", bytes(300)) == b"\x06" + (302).to_bytes(8, "big") + b"\x01X" + bytes(300)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, 2**40])
@pytest.mark.parametrize("more", [False, True])
def test_frame_heads_are_those_of_the_specification(size: int, more: bool) -> None:
    head = bytes((more, size)) if size < 256 else bytes((2 | more,)) + size.to_bytes(8, "big")
    assert frame_head(size, more=more) == head


@pytest.mark.parametrize("header", [b"", b"\x80", bytes(255), bytes(256)], ids=len)
@pytest.mark.parametrize(
    "body",
    [(), (b"",), (bytes(255),), (bytes(256),), (memoryview(b"view"),), (b"a", b"", bytes(300))],
    ids=["none", "empty", "255", "256", "view", "three"],
)
def test_what_follows_a_command_is_framed_as_specified(header: bytes, body: tuple[Any, ...]) -> None:
    out: list[Any] = []
    size = append_frames(out, b"CAR1.SEND", (header, *body))
    assert b"".join(out) == message(b"CAR1.SEND", header, *body)
    assert size == sum(map(len, (header, *body)))


@pytest.mark.parametrize("size", [0, 1, 255])
@pytest.mark.parametrize("last", [0, 255, 256, len(LAST_HEADS) - 1])
def test_the_heads_made_beforehand_are_those_of_the_specification(size: int, last: int) -> None:
    pieces = heads_after(b"CAR1.SEND")[size], bytes(size), LAST_HEADS[last], bytes(last)
    assert b"".join(pieces) == message(b"CAR1.SEND", bytes(size), bytes(last))


@contextlib.contextmanager
def raw_server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TIMEOUT_S)
        yield server


def exactly(link: socket.socket, size: int) -> bytes:
    """Return the next bytes of a connection, so many."""
    data = b""
    while len(data) < size:
        piece = link.recv(size - len(data))
        assert piece, f"the end after {data!r}"
        data += piece
    return data


def said_by(kind: int, frames: list[bytes], *, minor: int = 1) -> tuple[bytes, bytes]:
    """Return what a real libzmq socket sends before it has heard anything, and in all up to the end of one message."""
    end = message(*frames)
    with raw_server() as server, zmq.Context() as context, context.socket(kind) as peer:
        peer.setsockopt(zmq.LINGER, 0)
        peer.connect(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        peer.send_multipart(frames)
        link, _ = server.accept()
        with link:
            link.settimeout(TIMEOUT_S)
            first = exactly(link, 10)
            link.sendall(greeting(minor) + zmtp.ready())
            data = first
            while not data.endswith(end):
                data += link.recv(65_536)
        return first, data


def test_a_dealer_of_libzmq_is_read_as_it_speaks() -> None:
    body = [b"CAR1.SEND", b"", bytes(range(255)), bytes(256), b"e" * 65_536, b"last"]
    _, data = said_by(zmq.DEALER, body)
    signature, rest = data[:10], data[10:]
    assert (signature[0], signature[9]) == (0xFF, 0x7F)
    assert signature + rest == signature + greeting()[10:] + ready(b"DEALER", Identity=b"") + message(*body)
    reader = Reader(PEER, Limits())
    assert fed(reader, data) == [body]
    assert reader.replies == [zmtp.ready()]
    assert (reader.ready, reader.answers_ping) == (True, True)


def test_a_req_of_libzmq_is_read_with_its_delimiter() -> None:
    _, data = said_by(zmq.REQ, [b"CAR1.PING", b"\x80"])
    assert data[10:] == greeting()[10:] + ready(b"REQ", Identity=b"") + message(b"", b"CAR1.PING", b"\x80")
    assert fed(Reader(PEER, SMALL), data) == [[b"", b"CAR1.PING", b"\x80"]]


def test_libzmq_never_falls_back_to_an_older_protocol_with_us() -> None:
    for minor in (0, 1):  # what it sends unasked is no more than the signature: the rest depends on our greeting
        first, data = said_by(zmq.DEALER, [b"x"], minor=minor)
        assert (first[0], first[9], data[10]) == (0xFF, 0x7F, 3)


def test_what_we_send_is_what_a_router_of_libzmq_sends() -> None:
    ours = zmtp.GREETING[10:] + zmtp.ready()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.LINGER, 0)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as link:
            link.sendall(handshake())
            assert exactly(link, 10 + len(ours))[10:] == ours


# --- the handshake ---


def test_nothing_is_read_before_the_handshake_is_done() -> None:
    reader = Reader(PEER, SMALL)
    for byte in handshake(b"REQ"):
        assert not reader.ready
        assert fed(reader, bytes((byte,))) == []
    assert reader.ready
    assert reader.replies == [zmtp.ready()]


@pytest.mark.parametrize(
    "data",
    [
        b"G",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" + bytes(9),
        b"\x01\x00\x01\x00",  # ZMTP 1.0: an anonymous identity
        greeting(0, major=1),  # ZMTP 2.0
        greeting(0, major=2),
        greeting(mechanism=b"PLAIN"),
        greeting(mechanism=b"CURVE"),
        greeting(mechanism=b"NULLX"),
        greeting(mechanism=b""),
        greeting() + message(b"x"),
        greeting() + frame(b"x" * 300),
        greeting() + ping(),
        greeting() + command(b""),
        greeting() + frame(b"", kind=4),
        greeting() + frame(b"\x09READY", kind=4),
        greeting() + command(b"ERROR", b"\x04nope"),
        greeting() + command(b"READY"),
        greeting() + command(b"READY", metadata(Identity=b"x")),
        *(greeting() + ready(kind) for kind in (b"PUB", b"SUB", b"REP", b"PULL", b"dealer", b"", b"DEALER\0", b"\xff")),
        *(greeting() + command(b"READY", metadata(Socket_Type=b"DEALER")[:cut]) for cut in (1, 5, 12, 14, 15, 16, 21)),
        greeting() + command(b"READY", metadata(Socket_Type=b"DEALER") + b"\x01a\xff\xff\xff\xff"),
        greeting() + b"\x06" + (4_097).to_bytes(8, "big"),
        greeting() + b"\x06" + b"\xff" * 8,
        handshake() + b"\x06" + (2**63).to_bytes(8, "big"),
        handshake() + frame(b"", kind=8),
        handshake() + frame(b"", kind=128),
        handshake() + frame(b"\x04PING\0\0", kind=4, more=True),
        handshake() + frame(b"", kind=4),
        handshake() + frame(b"\x05PING", kind=4),
    ],
)
def test_what_is_no_peer_of_a_router_is_refused_however_it_is_cut(data: bytes) -> None:
    error = refused(data)
    assert error.code == "bad_frames"
    assert error.detail
    with pytest.raises(ProtocolError):
        fed_by_bytes(Reader(PEER, SMALL), data)


def test_newer_versions_are_taken_at_what_we_speak_and_3_0_is_not_pinged() -> None:
    for major, minor, answers in ((3, 0, False), (3, 1, True), (3, 2, True), (4, 0, True)):
        reader = Reader(PEER, SMALL)
        assert fed(reader, greeting(minor, major=major) + ready() + message(b"x")) == [[b"x"]]
        assert reader.answers_ping is answers


def test_metadata_names_know_no_case_and_identities_are_ignored() -> None:
    data = metadata(Identity=b"i am you", X_Custom=bytes(300)) + b"\x0bsOCKET-tYPE\0\0\0\x03REQ"
    reader = Reader(PEER, SMALL)
    assert fed(reader, greeting() + command(b"READY", data) + message(b"x")) == [[b"x"]]
    assert parse_properties(data) == {b"identity": b"i am you", b"x-custom": bytes(300), b"socket-type": b"REQ"}


# --- commands ---


def test_pings_are_answered_with_their_context_in_order_and_between_frames() -> None:
    reader = connected()
    data = ping(b"1", 50) + frame(b"a", more=True) + ping(b"2" * 16) + frame(b"b") + ping()
    assert fed(reader, data) == [[b"a", b"b"]]
    assert reader.replies == [pong(b"1"), pong(b"2" * 16), pong()]


def test_a_context_longer_than_allowed_is_cut_and_a_ping_without_one_is_answered() -> None:
    reader = connected()
    assert fed(reader, ping(bytes(range(100)))) == []
    assert fed(reader, command(b"PING")) == []
    assert reader.replies == [pong(bytes(range(16))), pong()]


def test_other_commands_are_passed_over() -> None:
    reader = connected()
    others = [pong(b"x"), command(b"SUBSCRIBE", b"a"), command(b"READY"), command(b"X", bytes(4_000)), command(b"")]
    assert fed(reader, frame(b"a", more=True) + b"".join(others) + frame(b"b")) == [[b"a", b"b"]]
    assert reader.replies == []


# --- limits ---


def test_messages_that_were_whole_before_a_fault_are_not_lost() -> None:
    reader = connected()
    messages: list[list[Any]] = []
    with pytest.raises(ProtocolError):
        reader.feed(message(b"a", b"b") + message(b"c") + frame(b"d", more=True) + b"\x02" + b"\xff" * 8, messages)
    assert messages == [[PEER, b"a", b"b"], [PEER, b"c"]]


def test_a_frame_over_four_times_the_limit_is_refused_before_it_comes() -> None:
    assert fed(connected(), frame(bytes(4_000), long=True)) != []
    head = b"\x02" + (4_001).to_bytes(8, "big")
    for cut in range(9):
        reader = connected()
        assert fed(reader, head[:cut]) == []
        assert refused(head[cut:], reader=reader).code == "too_large"


def test_the_size_of_a_frame_is_judged_however_its_head_is_cut() -> None:
    for data in (handshake() + b"\x02" + b"\x3f" * 8, greeting() + b"\x06" + b"\x3f" * 8):
        for cut in range(len(data) - 9, len(data)):
            reader = Reader(PEER, SMALL)
            fed(reader, data[:cut])
            refused(data[cut:] + bytes(20), reader=reader)


def test_a_message_over_the_limit_is_skipped_and_the_next_is_whole() -> None:
    reader = connected()
    header = frame(b"CAR1.SEND", more=True) + frame(b"\x81\xa2id\x07", more=True)
    [frames] = fed(reader, header + frame(bytes(600), more=True) + frame(bytes(401), more=True) + frame(b"end"))
    assert frames[:3] == [b"CAR1.SEND", b"\x81\xa2id\x07", bytes(600)]
    assert isinstance(frames[3], Skipped)
    assert (len(frames[3]), frames[4]) == (401, b"end")
    assert fed(reader, message(b"a", bytes(1_000))) == [[b"a", bytes(1_000)]]
    event = Decoder(Side.CLIENT, SMALL).decode([PEER, *frames])
    assert isinstance(event, Malformed)
    assert (event.code, event.verb, event.id) == ("too_large", "SEND", 7)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_frame_too_large_to_keep_is_told_wherever_it_stands(place: int) -> None:
    parts = [b"CAR1.SEND", b"\x81\xa2id\x07", b"body"]
    parts[place] = bytes(2_000)
    reader = connected()
    for delimiter in ([], [b""]):
        [frames] = fed(reader, message(*delimiter, *parts))
        event = Decoder(Side.CLIENT, SMALL).decode([PEER, *frames])
        assert isinstance(event, Malformed)
        assert event.code == "too_large"
        assert event.id == (7 if place == 2 else None)


def test_a_skipped_message_keeps_nothing_while_it_comes() -> None:
    reader = connected()
    data = frame(bytes(4_000), more=True) + frame(bytes(3_999))
    for at in range(0, len(data) - 10, 10):
        assert fed(reader, data[at : at + 10]) == []
        assert kept_bytes(reader) < 20
    [frames] = fed(reader, data[at + 10 :])
    assert list(map(len, frames)) == [4_000, 3_999]


def test_frames_beyond_the_most_are_not_kept() -> None:
    reader = connected()
    [frames] = fed(reader, message(*[b"%d" % number for number in range(500)]))
    assert frames == [b"%d" % number for number in range(MOST_FRAMES - 1)]
    assert fed(reader, message(b"next")) == [[b"next"]]


@pytest.mark.parametrize("size", [0, 255, 300, 900, 1_001, 4_000])
def test_frames_that_never_end_are_bounded(size: int) -> None:
    reader = connected()
    part = frame(bytes(size), more=True)
    for at in range(2_000):
        assert fed(reader, part[: at % len(part)]) == []
        assert fed(reader, part[at % len(part) :]) == []
        assert kept_bytes(reader) <= SMALL.message_bytes + MOST_FRAMES * 255
        assert len(reader._frames) <= MOST_FRAMES
    [frames] = fed(reader, frame(b"end"))
    assert len(frames) == MOST_FRAMES - 1
    assert fed(reader, message(b"next")) == [[b"next"]]


def test_a_peer_that_sends_byte_by_byte_costs_no_more_than_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = connected(Limits())
    looks = 0
    parse = Reader._parse

    def counted(self: Reader, data: bytes, at: int, messages: list[list[Any]]) -> int:
        nonlocal looks
        looks += 1
        return parse(self, data, at, messages)

    monkeypatch.setattr(Reader, "_parse", counted)
    body = [b"x" * size for size in (0, 1, 255, 256, 50_000)]
    assert fed_by_bytes(reader, message(*body)) == [body]
    assert looks <= 12 * len(body)  # a few for each head and one for each body, not one for each byte


def test_who_sends_large_messages_is_taken_for_one_until_it_sends_small_ones() -> None:
    reader = connected(Limits(body_frames=4, header_bytes=500, message_bytes=1_000_000))
    large, small = message(b"C", b"h", bytes(100_000)), message(b"C", b"h", bytes(1_000))
    assert not reader.large
    for data, is_large in ((large, True), (small * 300, False), (large[:60_000], True), (large[60_000:], True)):
        fed(reader, data)
        assert reader.large == is_large, len(data)
    assert fed(reader, small) == [[b"C", b"h", bytes(1_000)]]
    assert not reader.large
