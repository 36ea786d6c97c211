"""DELIVER and what answers it: places, fan-out, failover one after the other, busy, rejected, late answers."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from conftest import Room
from peers import LATE_S, RawBackend, RawClient, Stopwatch, unique


def single(room: Room, client: RawClient, backends: list[RawBackend], **keys: Any) -> tuple[Any, ...]:
    """SEND one head at a time; returns the id, the first backend, its delivery, and the other backends."""
    ident = client.send(room.capability, mode="single", **keys)
    ((first, delivery),) = room.sent_to(client, backends)
    return ident, first, delivery, [backend for backend in backends if backend is not first]


def test_deliver_says_what_the_client_said(room: Room) -> None:
    client, backend = room.client(), room.backend()
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    context: dict[str, Any] = {"traceparent": traceparent, "tracestate": "vendor=1,other=2"}
    client.send(room.capability, b"x", priority=4, ttl_ms=9_000, embedding=[1, 0.5], **context)
    delivery = backend.delivery(capability=room.capability, priority=4, attempt=1, head=1, **context)
    assert 8_000 < delivery.header["ttl_ms"] <= 9_000
    given = delivery.header["embedding"]
    assert (list(struct.unpack("<2f", given)) if isinstance(given, bytes) else given) == [1.0, 0.5]


def test_deliver_leaves_out_what_was_not_given(room: Room) -> None:
    client, backend = room.client(), room.backend()
    client.send(room.capability)
    delivery = backend.delivery(priority=2)
    assert not {"embedding", "traceparent", "tracestate", "fetch"} & delivery.header.keys()
    assert 29_000 < delivery.header["ttl_ms"] <= 30_000


def test_a_binary_embedding_arrives_with_its_values(room: Room) -> None:
    client, backend = room.client(), room.backend()
    packed = struct.pack("<3f", 0.5, -1.0, 3.0)
    client.send(room.capability, embedding=packed)
    given = backend.delivery().header["embedding"]
    assert given in (packed, [0.5, -1.0, 3.0])


def test_fanout_sends_to_as_many_heads_as_are_configured(room: Room) -> None:
    client, backends = room.client(), room.backends(4)
    client.send(room.capability, b"copy", mode="fanout")
    sent = room.sent_to(client, backends)
    assert len(sent) == 3
    assert sorted(delivery.header["head"] for _, delivery in sent) == [1, 2, 3]
    assert len({delivery.header["message"] for _, delivery in sent}) == 1
    assert len({delivery.header["id"] for _, delivery in sent}) == 3
    assert all(delivery.body == [b"copy"] for _, delivery in sent)


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_heads_says_how_many_get_it_at_once(room: Room, heads: int) -> None:
    client, backends = room.client(), room.backends(3)
    client.send(room.capability, heads=heads, mode="fanout")
    assert len(room.sent_to(client, backends)) == heads


def test_heads_is_lowered_to_the_configured(careful: Room) -> None:
    client, backends = careful.client(), careful.backends(3)
    client.send(careful.capability, heads=3, idempotent=True)
    assert len(careful.sent_to(client, backends)) == 2


def test_the_first_success_answers_and_the_others_are_cancelled(room: Room) -> None:
    client, backends = room.client(), room.backends(3)
    ident = client.send(room.capability, mode="fanout")
    sent = room.sent_to(client, backends)
    winner, delivery = sent[1]
    winner.ack(delivery, b"won")
    client.expect("REPLY", id=ident, last=True, backend=winner.name, head=delivery.header["head"], heads=3)
    assert winner.pending() == []
    for loser, lost in (sent[0], sent[2]):
        loser.cancelled(lost)
    sent[0][0].ack(sent[0][1], b"done all the same")
    sent[2][0].nack(sent[2][1], code="cancelled")
    assert sent[0][0].pending() == sent[2][0].pending() == []
    assert client.pending() == []


def test_a_failed_head_is_forgiven_while_another_is_out(room: Room) -> None:
    client, backends = room.client(), room.backends(3)
    ident = client.send(room.capability, mode="fanout")
    sent = room.sent_to(client, backends)
    for backend, delivery in sent[:2]:
        backend.nack(delivery, reason="no luck")
        assert backend.pending() == []
    assert client.pending() == []
    sent[2][0].ack(sent[2][1], b"third")
    client.expect("REPLY", id=ident, last=True, backend=sent[2][0].name)


def test_all_heads_failed_is_failed_and_a_fourth_is_not_tried(room: Room) -> None:
    client, backends = room.client(), room.backends(4)
    ident = client.send(room.capability, mode="fanout")
    sent = room.sent_to(client, backends)
    for backend, delivery in sent:
        backend.nack(delivery, code="failed", reason="no luck")
    message = client.error("failed", ident)
    assert message.header["retry"] is True
    assert message.header["message"] == sent[0][1].header["message"]
    (spare,) = (backend for backend in backends if backend not in dict(sent))
    assert spare.pending() == []


def test_a_cancelled_loser_holds_its_place_until_it_answers(room: Room) -> None:
    client, backends = room.client(), room.backends(2)
    client.send(room.capability, mode="fanout")
    sent = dict(room.sent_to(client, backends))
    winner, loser = backends
    winner.ack(sent[winner])
    client.expect("REPLY", last=True)
    loser.cancelled(sent[loser])
    winner.command("UNREGISTER")
    winner.expect("BYE")
    client.send(room.capability, id="second")
    assert room.sent_to(client, [loser]) == []
    loser.nack(sent[loser], code="cancelled")
    loser.ack(loser.delivery())
    client.expect("REPLY", id="second", last=True)


@pytest.mark.parametrize(("slots", "prefetch"), [(1, 0), (2, 1), (3, 4)])
def test_no_more_than_slots_and_prefetch_are_open(room: Room, slots: int, prefetch: int) -> None:
    client, backend = room.client(), room.backend(slots=slots, prefetch=prefetch)
    places = slots + prefetch
    for number in range(places + 3):
        client.send(room.capability, bytes([number]))
    is_open = [delivery for _, delivery in room.sent_to(client, [backend])]
    assert [delivery.body for delivery in is_open] == [[bytes([number])] for number in range(places)]
    for number in range(places, places + 3):
        backend.ack(is_open.pop(0))
        is_open.append(backend.delivery())
        assert is_open[-1].body == [bytes([number])], "those waiting go in age order"
        assert backend.pending() == []


def test_a_nack_frees_the_place_too(room: Room) -> None:
    client, backend = room.client(), room.backend()
    first, second = client.send(room.capability), client.send(room.capability)
    backend.nack(backend.delivery(), code="rejected")
    client.error("rejected", first)
    backend.ack(backend.delivery())
    client.expect("REPLY", id=second, last=True)


def test_when_one_is_full_the_other_gets_the_next(room: Room) -> None:
    client, backends = room.client(), room.backends(3)
    for _ in range(4):
        client.send(room.capability, heads=1)
    assert {backend for backend, _ in room.sent_to(client, backends)} == set(backends)


def test_what_is_left_of_ttl_shrinks_while_a_message_waits(room: Room) -> None:
    client, backend = room.client(), room.backend()
    client.send(room.capability)
    delivery = backend.delivery()
    watch = Stopwatch()
    client.send(room.capability, ttl_ms=5_000)
    assert backend.poll(0.12) is None
    backend.ack(delivery)
    waited_ms = 1000 * watch.elapsed_s
    assert backend.delivery().header["ttl_ms"] <= 5_000 - 0.8 * waited_ms


def test_single_tries_the_next_head_after_a_failure(room: Room) -> None:
    client, backends = room.client(), room.backends(4)
    ident, first, delivery, _ = single(room, client, backends)
    tried = [first.name]
    for attempt in (2, 3):
        backend = next(backend for backend in backends if backend.name == tried[-1])
        backend.nack(delivery)
        assert backend.pending() == []
        ((head, again),) = room.sent_to(client, [one for one in backends if one.name not in tried])
        assert (again.header["attempt"], again.header["head"]) == (attempt, attempt)
        assert again.header["message"] == delivery.header["message"]
        assert again.header["id"] != delivery.header["id"]
        assert again.header["ttl_ms"] <= delivery.header["ttl_ms"]
        tried.append(head.name)
        delivery = again
    head.ack(delivery, b"third")
    client.expect("REPLY", id=ident, backend=head.name, head=3, heads=3, last=True)


def test_single_ends_when_its_heads_are_used_up(room: Room) -> None:
    client, backends = room.client(), room.backends(3)
    ident, first, delivery, others = single(room, client, backends, heads=2)
    first.nack(delivery)
    assert first.pending() == []
    ((second, repeated),) = room.sent_to(client, others)
    second.nack(repeated, reason="nor I")
    client.error("failed", ident)
    assert room.deliveries(backends) == []


def test_rejected_tries_no_further_head(room: Room) -> None:
    client, backends = room.client(), room.backends(2)
    ident, first, delivery, others = single(room, client, backends)
    first.nack(delivery, code="rejected", reason="this cannot be done")
    client.error("rejected", ident)
    assert room.deliveries(others) == []


def test_rejected_by_one_head_ends_nothing_while_another_is_out(room: Room) -> None:
    client, (one, two) = room.client(), room.backends(2)
    ident = client.send(room.capability)
    sent = dict(room.sent_to(client, [one, two]))
    one.nack(sent[one], code="rejected")
    assert one.pending() == []
    assert client.pending() == []
    two.ack(sent[two], b"it can")
    client.expect("REPLY", id=ident, last=True, backend=two.name)


def test_a_busy_backend_passes_its_message_on(room: Room) -> None:
    client, backends = room.client(), room.backends(2)
    ident, first, delivery, (second,) = single(room, client, backends)
    first.nack(delivery, code="busy", retry_after_ms=5_000)
    repeated = second.delivery(attempt=2)
    second.ack(repeated, b"second")
    client.expect("REPLY", id=ident, last=True, backend=second.name)
    client.send(room.capability, mode="single")
    second.delivery()
    client.send(room.capability, mode="single")
    assert room.sent_to(client, backends) == [], "the busy one gets nothing for the time it asked for"


def test_a_message_a_busy_backend_gave_back_waits_for_it(room: Room) -> None:
    client, backend = room.client(), room.backend()
    ident = client.send(room.capability, b"again")
    for _ in range(4):  # more often than there are heads: busy is outside the count
        delivery = backend.delivery()
        backend.nack(delivery, code="busy", retry_after_ms=100)
        assert backend.poll(0.07) is None
    delivery = backend.delivery(attempt=5)
    assert delivery.body == [b"again"]
    backend.ack(delivery, b"done")
    client.expect("REPLY", id=ident, last=True)


def test_busy_until_the_time_is_up_is_expired(room: Room) -> None:
    client, backend = room.client(), room.backend()
    watch = Stopwatch()
    ident = client.send(room.capability, ttl_ms=300)
    backend.nack(backend.delivery(), code="busy", retry_after_ms=60_000)
    message = client.expect("ERROR", id=ident, last=True, timeout_s=0.3 + LATE_S)
    assert message.header["code"] in {"expired", "overloaded"}
    assert watch.elapsed_s < 0.3 + LATE_S
    assert backend.pending() == []


def test_a_head_that_gives_up_uncancelled_still_ends_in_one_last_message(room: Room) -> None:
    client, backend = room.client(), room.backend()
    ident = client.send(room.capability, ttl_ms=300)
    backend.nack(backend.delivery(), code="cancelled")
    assert client.until_last(ident, timeout_s=0.3 + LATE_S)[-1].verb == "ERROR"


def test_a_late_a_second_and_a_foreign_answer_change_nothing(room: Room) -> None:
    client, backend, other = room.client(), room.backend(), room.backend(capabilities=[unique("other")])
    ident = client.send(room.capability)
    delivery = backend.delivery()
    other.ack(delivery, b"foreign")
    other.nack(delivery)
    other.part(delivery, b"foreign")
    assert other.pending() == []
    assert client.pending() == []
    backend.ack(delivery, b"true")
    assert client.expect("REPLY", id=ident, last=True).body == [b"true"]
    backend.ack(delivery, b"second")
    backend.nack(delivery)
    backend.part(delivery, b"after the end")
    backend.command("ACK", {"id": 2**53 - 1})
    backend.command("NACK", {"id": 0})
    assert backend.pending() == []
    assert client.pending() == []


def test_a_second_answer_does_not_free_a_second_place(room: Room) -> None:
    client, backend = room.client(), room.backend(slots=1)
    for _ in range(3):
        client.send(room.capability)
    assert client.pending() == []  # all three were read before the first is answered
    delivery = backend.delivery()
    for _ in range(3):
        backend.ack(delivery)
    assert len([told for told in backend.pending() if told.verb == "DELIVER"]) == 1


def test_delivery_and_message_ids_are_never_used_twice(room: Room) -> None:
    client, backends = room.client(), room.backends(3, slots=50)
    for _ in range(50):
        client.send(room.capability, mode="fanout", priority=4)
    sent = room.sent_to(client, backends)
    assert len(sent) == len({delivery.header["id"] for _, delivery in sent}) == 150
    assert len({delivery.header["message"] for _, delivery in sent}) == 50


def test_large_bodies_reach_every_head_and_those_after_a_failure(room: Room) -> None:
    client, backends = room.client(), room.backends(3)
    body = [bytes([number]) * size for number, size in enumerate((0, 8_191, 8_192, 70_000, 300_000))]
    client.send(room.capability, *body, id="fanout", mode="fanout")
    sent = room.sent_to(client, backends)
    assert [delivery.body for _, delivery in sent] == [body] * 3
    for backend, delivery in sent:
        backend.nack(delivery)
    client.error("failed", "fanout")
    client.send(room.capability, *body, mode="single")
    for _ in range(3):
        ((backend, delivery),) = room.sent_to(client, backends)
        assert delivery.body == body
        backend.nack(delivery)
        assert [told for told in backend.pending() if told.verb == "DELIVER"] == []
        backends.remove(backend)
    client.expect("ERROR", code="failed", last=True)


def test_peers_that_read_late_get_all_in_order(room: Room) -> None:
    client = room.client(RCVHWM=1, RCVBUF=8_192)
    backend = room.stranger(RCVHWM=1, RCVBUF=8_192)
    backend.register(room.capability, slots=250)
    body = bytes(50_000)
    for number in range(250):
        client.send(room.capability, number.to_bytes(2, "big"), body, priority=4)
    deliveries = [backend.delivery() for _ in range(250)]
    assert [delivery.body for delivery in deliveries] == [[n.to_bytes(2, "big"), body] for n in range(250)]
    for delivery in deliveries:
        backend.ack(delivery, *delivery.body)
    assert backend.pending() == []
    replies = [client.expect("REPLY", last=True) for _ in range(250)]
    assert [reply.body for reply in replies] == [delivery.body for delivery in deliveries]
