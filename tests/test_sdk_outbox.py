"""What a backend does about results that a lost connection may have taken with it; no sockets."""

from __future__ import annotations

import pytest

from router_daemon.sdk.deliveries import Answer, ack
from router_daemon.sdk.link import pack, unpack
from router_daemon.sdk.outbox import KEPT_BYTES, ROOM_BYTES, Outbox


def put_ack(outbox: Outbox, delivery_id: int, body: bytes = b"") -> bool:
    return outbox.put(delivery_id, ack(delivery_id, Answer(body), queue=0))


def put_part(outbox: Outbox, delivery_id: int, body: bytes = b"") -> bool:
    return outbox.put(delivery_id, pack("PART", {"id": delivery_id}, [body]))


def send_all(outbox: Outbox) -> list[tuple[str, int]]:
    """Send what waits; return the verbs and deliveries."""
    sent = []
    while outbox:
        message = unpack(outbox.first())
        assert message is not None
        sent.append((message.verb, message.header["id"]))
        outbox.sent()
    return sent


def test_results_leave_in_order() -> None:
    outbox = Outbox()
    put_part(outbox, 1)
    put_ack(outbox, 2)
    put_ack(outbox, 1)
    assert send_all(outbox) == [("PART", 1), ("ACK", 2), ("ACK", 1)]


def test_unconfirmed_acks_are_sent_again_before_those_that_waited() -> None:
    outbox = Outbox()
    for delivery_id in (1, 2):
        put_ack(outbox, delivery_id)
    send_all(outbox)
    put_ack(outbox, 3)
    assert outbox.connection_lost() == []
    assert send_all(outbox) == [("ACK", 1), ("ACK", 2), ("ACK", 3)]


def test_an_answered_heartbeat_confirms_what_was_sent_before_it() -> None:
    outbox = Outbox()
    put_ack(outbox, 1)
    put_part(outbox, 9)
    send_all(outbox)
    outbox.heartbeat_sent()
    put_ack(outbox, 2)
    send_all(outbox)
    outbox.heartbeat_sent()
    put_ack(outbox, 3)
    send_all(outbox)
    outbox.heartbeat_answered()
    assert outbox.connection_lost() == []
    assert send_all(outbox) == [("ACK", 2), ("ACK", 3)]


def test_an_answer_nobody_waits_for_confirms_nothing() -> None:
    outbox = Outbox()
    put_ack(outbox, 1)
    send_all(outbox)
    outbox.heartbeat_answered()
    outbox.connection_lost()
    assert send_all(outbox) == [("ACK", 1)]
    outbox.heartbeat_sent()
    outbox.connection_lost()
    put_ack(outbox, 2)
    send_all(outbox)
    outbox.heartbeat_answered()  # of the connection before
    outbox.connection_lost()
    assert send_all(outbox) == [("ACK", 1), ("ACK", 2)]


def test_a_stream_with_unconfirmed_pieces_is_broken_and_refused_once() -> None:
    outbox = Outbox()
    put_part(outbox, 1)
    put_part(outbox, 2)
    put_ack(outbox, 2)
    send_all(outbox)
    put_part(outbox, 1)
    put_part(outbox, 3)
    assert outbox.connection_lost() == [1, 2]
    assert send_all(outbox) == [("NACK", 1), ("NACK", 2), ("PART", 3)]


def test_a_stream_goes_on_when_all_of_its_pieces_were_confirmed() -> None:
    outbox = Outbox()
    put_part(outbox, 1)
    send_all(outbox)
    outbox.heartbeat_sent()
    outbox.heartbeat_answered()
    put_part(outbox, 1)
    assert outbox.connection_lost() == []
    assert send_all(outbox) == [("PART", 1)]


@pytest.mark.parametrize("wait", [True, False])
def test_an_ended_registration_takes_everything_with_it(wait: bool) -> None:
    outbox = Outbox()
    put_part(outbox, 1)
    put_ack(outbox, 2)
    if not wait:
        send_all(outbox)
    outbox.clear()
    assert outbox.connection_lost() == []
    assert not outbox


def test_room_ends_at_its_limit_and_comes_back_at_half_of_it() -> None:
    outbox, piece = Outbox(), bytes(ROOM_BYTES // 16)
    puts = 0
    while put_part(outbox, 1, piece):
        puts += 1
    assert puts == 15
    room = [outbox.sent() for _ in range(16)]
    assert room == [number == 8 for number in range(16)]
    assert put_part(outbox, 1, piece)
    assert not outbox.sent()


def test_what_is_kept_is_bounded_and_the_oldest_goes_first() -> None:
    outbox, body = Outbox(), bytes(KEPT_BYTES // 4)
    for delivery_id in range(10):
        put_ack(outbox, delivery_id, body)
    send_all(outbox)
    assert outbox._kept_bytes <= KEPT_BYTES
    outbox.connection_lost()
    assert send_all(outbox) == [("ACK", delivery_id) for delivery_id in (7, 8, 9)]
