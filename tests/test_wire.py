"""Frames <-> events and actions, by golden bytes written by hand for every command in both directions."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
import zmq

from router_daemon.core import actions, events
from router_daemon.core.events import EmptyHeader, ForeignSend, Malformed, Resource, Timing
from router_daemon.core.types import Side
from router_daemon.wire import Decoder, Limits, encode

PEER = b"\x00peer"
CLIENTS = Decoder(Side.CLIENT, Limits())
BACKENDS = Decoder(Side.BACKEND, Limits())
SEND = b"\x82\xa2id\x01\xaacapability\xa1c"
ERA = 2**53 - 1

GOLDEN_IN: list[tuple[Decoder, bytes, bytes, tuple[bytes, ...], Any]] = [
    (
        CLIENTS,
        b"CAR1.SEND",
        SEND,
        (b"body", b""),
        events.Send(PEER, False, events.Request(1, "c"), [b"body", b""]),
    ),
    (
        CLIENTS,
        b"CAR1.SEND",
        b"\x8a\xa2id\xc4\x02\x00\xff\xaacapability\xa1c\xa8priority\x04\xa6ttl_ms\xcd\x03\xe8\xa5heads\x02\xa4mode\xa6single"
        b"\xa5reply\xa4none\xaaidempotent\xc2\xa9embedding\x92\x01\xcb\x3f\xe0\x00\x00\x00\x00\x00\x00\xa8first_ms\x05",
        (),
        events.Send(
            PEER,
            False,
            events.Request(
                b"\x00\xff",
                "c",
                priority=4,
                ttl_ms=1000,
                heads=2,
                mode="single",
                reply="none",
                idempotent=False,
                embedding=[1.0, 0.5],
                first_ms=5,
            ),
            [],
        ),
    ),
    (
        CLIENTS,
        b"CAR1.SEND",
        b"\x89\xa2id\xa1x\xaacapability\xa1c\xa9resources\x91\x82\xa2id\xa1r\xa5bytes\x07\xa3key\xa1k\xa6budget\x01"
        b"\xa8max_cost\xca\x3f\x00\x00\x00\xa7idle_ms\x06\xabtraceparent\xa200\xa7durable\xc2",
        (),
        events.Send(
            PEER,
            False,
            events.Request(
                "x",
                "c",
                resources=[Resource("r", 7)],
                key="k",
                budget=1.0,
                max_cost=0.5,
                idle_ms=6,
                traceparent="00",
                durable=False,
            ),
            [],
        ),
    ),
    (
        CLIENTS,
        b"CAR1.SEND",
        b"\x84\xa2id\xff\xaacapability\xa1c\xa6policy\xa5paper\xa7backend\xa1a",
        (),
        events.Send(PEER, False, events.Request(-1, "c", policy="paper", backend="a"), []),
    ),
    (CLIENTS, b"CAR1.CANCEL", b"\x81\xa2id\xa1x", (), events.Cancel(PEER, False, events.CancelHeader("x"))),
    (
        CLIENTS,
        b"CAR1.FEEDBACK",
        b"\x82\xa2id\x05\xa5score\x01",
        (),
        events.Feedback(PEER, False, events.FeedbackHeader(5, 1.0)),
    ),
    (CLIENTS, b"CAR1.PING", b"\x80", (), events.Ping(PEER, False, EmptyHeader())),
    (
        BACKENDS,
        b"CAR1.REGISTER",
        b"\x82\xa4name\xa1a\xaccapabilities\x91\xa1c",
        (),
        events.Register(PEER, False, events.Registration("a", ["c"])),
    ),
    (
        BACKENDS,
        b"CAR1.REGISTER",
        b"\x8b\xa4name\xa1a\xaccapabilities\x92\xa1c\xa1d\xa5slots\x02\xa8prefetch\x00\xa9embedding\xc4\x04\x00\x00\x80\x3f"
        b"\xa4cost\x00\xa4zone\xa1z\xa5group\xa1g\xa7session\xc4\x08sessions\xa9resources\x90\xa7version\xa11",
        (),
        events.Register(
            PEER,
            False,
            events.Registration(
                "a",
                ["c", "d"],
                slots=2,
                prefetch=0,
                embedding=b"\x00\x00\x80\x3f",
                cost=0.0,
                zone="z",
                group="g",
                session=b"sessions",
                resources=[],
                version="1",
            ),
        ),
    ),
    (BACKENDS, b"CAR1.UPDATE", b"\x81\xa5slots\x03", (), events.Update(PEER, False, events.Revision(slots=3))),
    (BACKENDS, b"CAR1.HEARTBEAT", b"\x80", (), events.Heartbeat(PEER, False, events.HeartbeatHeader())),
    (
        BACKENDS,
        b"CAR1.HEARTBEAT",
        b"\x81\xa5queue\x00",
        (),
        events.Heartbeat(PEER, False, events.HeartbeatHeader(queue=0)),
    ),
    (
        BACKENDS,
        b"CAR1.ACK",
        b"\x81\xa2id\xcf\x00\x1f\xff\xff\xff\xff\xff\xff",
        (b"result",),
        events.Ack(PEER, False, events.AckHeader(ERA), [b"result"]),
    ),
    (
        BACKENDS,
        b"CAR1.ACK",
        b"\x85\xa2id\x07\xa5queue\x01\xa7quality\xcb\x3f\xe0\x00\x00\x00\x00\x00\x00\xa4cost\x02\xa9timing_us\x81\xa5queue\x09",
        (),
        events.Ack(PEER, False, events.AckHeader(7, queue=1, quality=0.5, cost=2.0, timing_us=Timing(queue=9.0)), []),
    ),
    (
        BACKENDS,
        b"CAR1.NACK",
        b"\x84\xa2id\x07\xa6reason\xa4full\xa4code\xa4busy\xaeretry_after_ms\x05",
        (),
        events.Nack(PEER, False, events.NackHeader(7, "full", "busy", 5)),
    ),
    (BACKENDS, b"CAR1.NACK", b"\x81\xa2id\x07", (), events.Nack(PEER, False, events.NackHeader(7))),
    (
        BACKENDS,
        b"CAR1.PART",
        b"\x81\xa2id\x07",
        (b"1", b"2"),
        events.Part(PEER, False, events.PartHeader(7), [b"1", b"2"]),
    ),
    (BACKENDS, b"CAR1.DRAIN", b"\x80", (), events.Drain(PEER, False, EmptyHeader())),
    (BACKENDS, b"CAR1.UNREGISTER", b"\x80", (), events.Unregister(PEER, False, EmptyHeader())),
]


@pytest.mark.parametrize(("decoder", "command", "header", "body", "expected"), GOLDEN_IN, ids=lambda v: str(v)[:24])
def test_golden_bytes_in(
    decoder: Decoder, command: bytes, header: bytes, body: tuple[bytes, ...], expected: Any
) -> None:
    assert decoder.decode([PEER, command, header, *body]) == expected
    if not isinstance(expected, events.Cancel | events.Feedback):
        expected.delimited = True
        assert decoder.decode([PEER, b"", command, header, *body]) == expected
        expected.delimited = False


GOLDEN_OUT: list[tuple[Any, bytes, bytes]] = [
    (
        actions.Reply(PEER, False, actions.ReplyHeader(7, "m1", "a", 1, 2, 1.5, True)),
        b"CAR1.REPLY",
        b"\x87\xa2id\x07\xa7message\xa2m1\xa7backend\xa1a\xa4head\x01\xa5heads\x02"
        b"\xaaelapsed_ms\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00\xa4last\xc3",
    ),
    (
        actions.Piece(PEER, False, actions.PieceHeader(b"\xff", "m1", "a", 1, 0)),
        b"CAR1.PART",
        b"\x85\xa2id\xc4\x01\xff\xa7message\xa2m1\xa7backend\xa1a\xa4head\x01\xa3seq\x00",
    ),
    (
        actions.Accept(PEER, False, actions.AcceptHeader("x", "m1", last=True)),
        b"CAR1.ACCEPT",
        b"\x83\xa2id\xa1x\xa7message\xa2m1\xa4last\xc3",
    ),
    (
        actions.Error(PEER, False, actions.ErrorHeader(None, "bad_header", "why", retry=False, last=False)),
        b"CAR1.ERROR",
        b"\x85\xa2id\xc0\xa4code\xaabad_header\xa6detail\xa3why\xa5retry\xc2\xa4last\xc2",
    ),
    (
        actions.Error(PEER, False, actions.ErrorHeader(-1, "failed", "no", True, False, "m1", backend="a", head=2)),
        b"CAR1.ERROR",
        b"\x88\xa2id\xff\xa4code\xa6failed\xa6detail\xa2no\xa5retry\xc3\xa4last\xc2\xa7message\xa2m1\xa7backend\xa1a\xa4head\x02",
    ),
    (
        actions.Pong(PEER, False, actions.PongHeader("1", ["single"], 300_000, 16_777_216, 3)),
        b"CAR1.PONG",
        b"\x85\xa7version\xa11\xa8features\x91\xa6single\xaamax_ttl_ms\xce\x00\x04\x93\xe0"
        b"\xb1max_message_bytes\xce\x01\x00\x00\x00\xa9max_heads\x03",
    ),
    (
        actions.Registered(PEER, False, actions.RegisteredHeader("a", 1_000)),
        b"CAR1.REGISTERED",
        b"\x82\xa4name\xa1a\xacheartbeat_ms\xcd\x03\xe8",
    ),
    (
        actions.Deliver(PEER, False, actions.DeliverHeader(ERA, "m1", "c", 2, 30_000, 1, 1, 3)),
        b"CAR1.DELIVER",
        b"\x88\xa2id\xcf\x00\x1f\xff\xff\xff\xff\xff\xff\xa7message\xa2m1\xaacapability\xa1c\xa8priority\x02"
        b"\xa6ttl_ms\xcd\x75\x30\xa7attempt\x01\xa4head\x01\xa5heads\x03",
    ),
    (
        actions.Deliver(
            PEER,
            False,
            actions.DeliverHeader(
                1, "m1", "c", 2, 5, 2, 2, 2, embedding=b"\0\0\0\0", traceparent="00", tracestate="v=1"
            ),
        ),
        b"CAR1.DELIVER",
        b"\x8b\xa2id\x01\xa7message\xa2m1\xaacapability\xa1c\xa8priority\x02\xa6ttl_ms\x05\xa7attempt\x02\xa4head\x02"
        b"\xa5heads\x02\xa9embedding\xc4\x04\x00\x00\x00\x00\xabtraceparent\xa200\xaatracestate\xa3v=1",
    ),
    (
        actions.CancelDelivery(PEER, False, actions.CancelDeliveryHeader(9)),
        b"CAR1.CANCEL",
        b"\x81\xa2id\x09",
    ),
    (actions.HeartbeatReply(PEER, False, EmptyHeader()), b"CAR1.HEARTBEAT", b"\x80"),
    (actions.Bye(PEER, False, EmptyHeader()), b"CAR1.BYE", b"\x80"),
    (
        actions.BackendError(PEER, False, actions.ErrorHeader(None, "not_registered", "no")),
        b"CAR1.ERROR",
        b"\x83\xa2id\xc0\xa4code\xaenot_registered\xa6detail\xa2no",
    ),
]


@pytest.mark.parametrize(("action", "command", "header"), GOLDEN_OUT, ids=lambda value: type(value).__name__)
def test_golden_bytes_out(action: Any, command: bytes, header: bytes) -> None:
    assert encode(action) == [PEER, command, header]
    action.delimited = True
    assert encode(action) == [PEER, b"", command, header]
    action.delimited = False


@pytest.mark.parametrize("module", [actions, events], ids=["actions", "events"])
def test_what_comes_and_goes_is_no_work_for_the_garbage_collector(module: Any) -> None:
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    assert [kind.__name__ for kind in kinds if kind.__struct_config__.gc] == []  # type: ignore[attr-defined]


def test_every_command_has_golden_bytes() -> None:
    assert {type(expected) for *_, expected in GOLDEN_IN} == {
        event for event in events.Event.__args__ if issubclass(event, events.Inbound) and event is not ForeignSend
    }  # ForeignSend comes from the ring, not off the wire
    assert {type(action) for action, *_ in GOLDEN_OUT} == set(actions.Action.__args__)


def test_body_frames_pass_as_they_are() -> None:
    body = [zmq.Frame(b"big" * 5_000), b"", memoryview(b"view")]
    sent = CLIENTS.decode([PEER, b"CAR1.SEND", SEND, *body])
    assert isinstance(sent, events.Send)
    assert all(mine is theirs for mine, theirs in zip(sent.body, body, strict=True))
    header = actions.DeliverHeader(1, "m1", "c", 2, 5, 1, 1, 1)
    frames = encode(actions.Deliver(PEER, False, header, sent.body))
    assert [bytes(frame) for frame in frames[3:]] == [b"big" * 5_000, b"", b"view"]


@pytest.mark.parametrize("wrap", [bytes, memoryview, zmq.Frame])
@pytest.mark.parametrize("padding", [0, 100, 20_000])
def test_a_header_may_be_any_buffer(wrap: Any, padding: int) -> None:
    packed = msgpack.packb({"id": 1, "capability": "c", "padding": "x" * padding, "list": [[]] * 100})
    sent = CLIENTS.decode([PEER, b"CAR1.SEND", wrap(packed), wrap(b"body")])
    assert isinstance(sent, events.Send)
    assert sent.header == events.Request(1, "c")
    bad = CLIENTS.decode([PEER, b"CAR1.SEND", wrap(packed + b"!"), wrap(b"body")])
    assert isinstance(bad, Malformed)
    assert bad.code == "bad_header"
