"""reply first, all and none, whole and streamed: who hears what, in which order, and what is the last of it."""

from __future__ import annotations

import itertools

from conftest import Room
from contract import Message
from peers import LATE_S, RawBackend, RawClient, Stopwatch


def fanned_out(room: Room, count: int, **keys: object) -> tuple[RawClient, object, list[tuple[RawBackend, Message]]]:
    """SEND to so many backends at once; returns the client, the id, and who got which delivery."""
    client, backends = room.client(), room.backends(count)
    ident = client.send(room.capability, mode="fanout", **keys)
    sent = room.sent_to(client, backends)
    assert len(sent) == count
    return client, ident, sent


def test_all_brings_one_answer_per_head_and_the_last_is_marked(room: Room) -> None:
    client, ident, sent = fanned_out(room, 3, reply="all")
    (one, first), (two, second), (three, third) = sent
    two.ack(second, b"second")
    reply = client.expect("REPLY", id=ident, last=False, backend=two.name, head=second.header["head"])
    assert reply.body == [b"second"]
    one.nack(first, code="failed", reason="no luck")
    client.expect("ERROR", id=ident, last=False, code="failed", backend=one.name, head=first.header["head"])
    three.ack(third, b"third")
    client.expect("REPLY", id=ident, last=True, backend=three.name, head=third.header["head"], heads=3)
    assert client.pending() == []
    assert room.deliveries([one, two, three]) == [], "nobody is cancelled"


def test_the_id_of_all_is_taken_until_its_last_answer(room: Room) -> None:
    client, ident, ((one, first), (two, second)) = fanned_out(room, 2, reply="all")
    one.ack(first)
    client.expect("REPLY", id=ident, last=False)
    client.send(room.capability, id=ident)
    client.error("duplicate_id", ident, last=False)
    two.ack(second)
    client.expect("REPLY", id=ident, last=True)


def test_all_counts_a_rejected_head_as_one_answer(room: Room) -> None:
    client, ident, sent = fanned_out(room, 2, reply="all")
    (one, first), (two, second) = sent
    one.nack(first, code="rejected")
    client.expect("ERROR", id=ident, last=False, code="rejected", backend=one.name)
    two.nack(second, code="rejected")
    client.expect("ERROR", id=ident, last=True, code="rejected", backend=two.name)


def test_all_has_no_failover(room: Room) -> None:
    client, backends = room.client(), room.backends(3)
    ident = client.send(room.capability, reply="all", heads=2)
    sent = room.sent_to(client, backends)
    assert len(sent) == 2
    for number, (backend, delivery) in enumerate(sent, 1):
        backend.nack(delivery)
        client.expect("ERROR", id=ident, code="failed", last=number == 2, backend=backend.name)
    assert room.deliveries(backends) == []


def test_all_with_one_capable_backend_is_one_answer(room: Room) -> None:
    client, ident, ((backend, delivery),) = fanned_out(room, 1, reply="all")
    backend.ack(delivery, b"alone")
    client.expect("REPLY", id=ident, last=True)


def test_all_without_a_backend_is_one_error(room: Room) -> None:
    client = room.client()
    client.error("no_capability", client.send(room.capability, reply="all"))
    assert client.pending() == []


def test_all_reports_each_silent_head_when_the_time_is_up(room: Room) -> None:
    client, ident, sent = fanned_out(room, 3, reply="all", ttl_ms=300)
    watch = Stopwatch()
    sent[0][0].ack(sent[0][1])
    client.expect("REPLY", id=ident, last=False)
    errors = [client.expect("ERROR", id=ident, code="expired", timeout_s=0.3 + LATE_S) for _ in range(2)]
    assert watch.elapsed_s < 0.3 + LATE_S
    assert [error.header["last"] for error in errors] == [False, True]
    silent = {(backend.name, delivery.header["head"]) for backend, delivery in sent[1:]}
    assert {(error.header["backend"], error.header["head"]) for error in errors} == silent
    for backend, delivery in sent[1:]:
        backend.cancelled(delivery)


def test_cancel_of_all_is_one_error_and_cancels_every_head(room: Room) -> None:
    client, ident, sent = fanned_out(room, 3, reply="all")
    sent[0][0].ack(sent[0][1])
    client.expect("REPLY", id=ident, last=False)
    client.command("CANCEL", {"id": ident})
    client.error("cancelled", ident)
    for backend, delivery in sent[1:]:
        backend.cancelled(delivery)
        backend.ack(delivery)
        assert backend.pending() == []
    assert sent[0][0].pending() == []
    assert client.pending() == []


def test_all_reports_a_lost_head(room: Room) -> None:
    client, ident, sent = fanned_out(room, 2, reply="all")
    sent[0][0].command("UNREGISTER")
    sent[0][0].expect("BYE")
    client.expect("ERROR", id=ident, code="failed", last=False, backend=sent[0][0].name)
    sent[1][0].ack(sent[1][1])
    client.expect("REPLY", id=ident, last=True)


def test_none_is_accepted_and_nothing_more_is_sent(room: Room) -> None:
    client, backend = room.client(), room.backend(slots=4)
    for answer in ("ack", "nack", "rejected", "part"):
        ident = client.send(room.capability, answer.encode(), reply="none", id="mine", mode="single")
        accept = client.expect("ACCEPT", id=ident, last=True)
        delivery = backend.delivery(message=accept.header["message"])
        if answer == "ack":
            backend.ack(delivery, b"done")
        elif answer == "nack":
            backend.nack(delivery)
        elif answer == "rejected":
            backend.nack(delivery, code="rejected")
        else:
            backend.part(delivery, b"dropped")
            backend.ack(delivery, b"done")
        assert backend.pending() == []
        assert client.pending() == []


def test_none_is_accepted_while_it_waits_and_is_delivered_later(room: Room) -> None:
    client, backend = room.client(), room.backend()
    for _ in range(2):
        client.send(room.capability, reply="none")
        client.expect("ACCEPT", last=True)
    backend.ack(backend.delivery())
    backend.ack(backend.delivery())
    assert backend.pending() == []
    assert client.pending() == []


def test_none_says_nothing_when_its_time_is_up(room: Room) -> None:
    client, backend = room.client(), room.backend()
    client.send(room.capability, reply="none", ttl_ms=100)
    client.expect("ACCEPT", last=True)
    backend.cancelled(backend.delivery(), timeout_s=0.1 + LATE_S)
    assert client.pending() == []


def test_none_that_cannot_be_queued_is_an_error(room: Room) -> None:
    client = room.client()
    client.error("no_capability", client.send(room.capability, reply="none"))
    assert client.pending() == []


def test_a_stream_arrives_in_order_and_ends_with_the_reply(room: Room) -> None:
    client, ident, ((backend, delivery),) = fanned_out(room, 1)
    pieces = [[b"one"], [], [b""], [b"two", b"", b"frames"], [bytes(100_000)]]
    for piece in pieces:
        backend.part(delivery, *piece)
    backend.ack(delivery, b"end")
    for seq, piece in enumerate(pieces):
        part = client.expect("PART", id=ident, seq=seq, head=1, backend=backend.name)
        assert part.body == piece
        assert part.header["message"] == delivery.header["message"]
    reply = client.expect("REPLY", id=ident, last=True, head=1)
    assert reply.body == [b"end"], "the body of the ACK alone"


def test_a_part_is_passed_on_before_the_next_one_is_made(room: Room) -> None:
    client, ident, ((backend, delivery),) = fanned_out(room, 1)
    for seq in range(3):
        backend.part(delivery, bytes([seq]))
        client.expect("PART", id=ident, seq=seq)
    backend.ack(delivery)
    client.expect("REPLY", id=ident, last=True)


def test_the_first_head_to_send_a_part_is_the_answering_one(room: Room) -> None:
    client, ident, sent = fanned_out(room, 3)
    (one, first), (two, second), (three, third) = sent
    two.part(second, b"mine")
    client.expect("PART", id=ident, seq=0, backend=two.name, head=second.header["head"])
    one.cancelled(first)
    three.cancelled(third)
    one.part(first, b"too late")
    one.ack(first, b"too late")
    three.nack(third, code="cancelled")
    assert one.pending() == three.pending() == []
    two.part(second, b"still mine")
    client.expect("PART", id=ident, seq=1, backend=two.name)
    two.ack(second, b"end")
    client.expect("REPLY", id=ident, last=True, backend=two.name)
    assert client.pending() == []


def test_a_whole_answer_wins_against_a_stream_that_has_not_begun(room: Room) -> None:
    client, ident, ((one, first), (two, second)) = fanned_out(room, 2)
    one.ack(first, b"whole")
    client.expect("REPLY", id=ident, last=True, backend=one.name)
    two.cancelled(second)
    two.part(second, b"late")
    assert two.pending() == []
    assert client.pending() == []


def test_a_stream_that_breaks_is_failed_without_failover(room: Room) -> None:
    client, backends = room.client(), room.backends(3)
    for mode, ending in itertools.product(("single", "fanout"), ("nack", "malformed")):
        ident = client.send(room.capability, mode=mode)
        sent = room.sent_to(client, backends)
        backend, delivery = sent[0]
        backend.part(delivery, b"piece")
        client.expect("PART", id=ident, seq=0)
        for other, loser in sent[1:]:
            other.cancelled(loser)
            other.nack(loser, code="cancelled")
        if ending == "nack":
            backend.nack(delivery)
        else:
            backend.part(delivery, *[b""] * 65)
            backend.expect("ERROR", code="too_large")
        client.error("failed", ident)
        assert room.deliveries(backends) == []


def test_a_stream_whose_backend_leaves_is_failed(room: Room) -> None:
    client, backends = room.client(), room.backends(2)
    ident = client.send(room.capability, mode="single")
    ((backend, delivery),) = room.sent_to(client, backends)
    backend.part(delivery, b"piece")
    client.expect("PART", id=ident)
    backend.command("UNREGISTER")
    backend.expect("BYE")
    client.error("failed", ident)
    (other,) = (one for one in backends if one is not backend)
    assert other.pending() == []


def test_a_stream_may_be_silent_for_idle_ms_at_most(room: Room) -> None:
    client, backends = room.client(), room.backends(2)
    ident = client.send(room.capability, mode="single", idle_ms=400, ttl_ms=20_000)
    ((backend, delivery),) = room.sent_to(client, backends)
    for seq in range(3):
        assert backend.poll(0.15) is None
        backend.part(delivery, b"piece")
        client.expect("PART", id=ident, seq=seq)
    watch = Stopwatch()
    client.error("failed", ident, timeout_s=0.4 + LATE_S)
    assert watch.elapsed_s >= 0.3
    (other,) = (one for one in backends if one is not backend)
    assert other.pending() == []


def test_a_stream_ends_when_its_time_is_up(room: Room) -> None:
    client, ident, ((backend, delivery),) = fanned_out(room, 1, ttl_ms=300)
    watch = Stopwatch()
    backend.part(delivery, b"piece")
    client.expect("PART", id=ident, seq=0)
    message = client.expect("ERROR", id=ident, last=True, timeout_s=0.3 + LATE_S)
    assert message.header["code"] == "expired"
    assert watch.elapsed_s < 0.3 + LATE_S
    backend.cancelled(delivery)
    backend.part(delivery, b"late")
    assert backend.pending() == []
    assert client.pending() == []


def test_streams_of_all_heads_interleave_told_apart_by_head(room: Room) -> None:
    client, ident, sent = fanned_out(room, 3, reply="all")
    for round_number in range(3):
        for backend, delivery in sent:
            backend.part(delivery, backend.name.encode(), bytes([round_number]))
            part = client.expect("PART", id=ident, seq=round_number, head=delivery.header["head"], backend=backend.name)
            assert part.body == [backend.name.encode(), bytes([round_number])]
    sent[0][0].nack(sent[0][1])
    client.expect("ERROR", id=ident, last=False, code="failed", head=sent[0][1].header["head"])
    sent[1][0].ack(sent[1][1])
    client.expect("REPLY", id=ident, last=False, head=sent[1][1].header["head"])
    sent[2][0].part(sent[2][1], b"more")
    client.expect("PART", id=ident, seq=3, head=sent[2][1].header["head"])
    sent[2][0].ack(sent[2][1])
    client.expect("REPLY", id=ident, last=True, head=sent[2][1].header["head"])


def test_cancel_in_mid_stream_stops_it(room: Room) -> None:
    client, ident, ((backend, delivery),) = fanned_out(room, 1)
    backend.part(delivery, b"piece")
    client.expect("PART", id=ident)
    client.command("CANCEL", {"id": ident})
    client.error("cancelled", ident)
    backend.cancelled(delivery)
    backend.part(delivery, b"late")
    backend.nack(delivery, code="cancelled")
    assert backend.pending() == []
    assert client.pending() == []


def test_a_long_stream_has_no_gap(room: Room) -> None:
    client, ident, ((backend, delivery),) = fanned_out(room, 1)
    for number in range(2_000):
        backend.part(delivery, number.to_bytes(2, "big"))
        if number % 100 == 99:
            for seq in range(number - 99, number + 1):
                assert client.expect("PART", id=ident, seq=seq).body == [seq.to_bytes(2, "big")]
    backend.ack(delivery)
    client.expect("REPLY", id=ident, last=True)
