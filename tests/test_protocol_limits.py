"""Limits: what is too large is refused with the id, what is just within passes, and nobody else suffers."""

from __future__ import annotations

import zmq
from conftest import Room
from contract import pack
from peers import RawClient, Stopwatch


def padded(header: dict[str, object], size: int) -> bytes:
    """Return the header with an unknown key that makes it exactly `size` bytes long."""
    without = len(pack({**header, "pad": bytes(1000)})) - 1000
    packed = pack({**header, "pad": bytes(size - without)})
    assert len(packed) == size
    return packed


def refused(client: RawClient, room: Room, *body: bytes) -> None:
    """Assert that a SEND with this body is too large and that its id comes back."""
    ident = client.send(room.capability, *body)
    client.error("too_large", ident)


def test_64_body_frames_pass_and_65_do_not(room: Room) -> None:
    client, backend = room.client(), room.backend()
    client.send(room.capability, *[b"x"] * 64)
    delivery = backend.delivery()
    assert delivery.body == [b"x"] * 64
    backend.ack(delivery)
    client.expect("REPLY", last=True)
    refused(client, room, *[b""] * 65)
    refused(client, room, *[b""] * 1000)
    assert backend.pending() == []


def test_a_header_of_64_kib_passes_and_one_byte_more_does_not(room: Room) -> None:
    client, backend = room.client(), room.backend()
    header: dict[str, object] = {"id": "mine", "capability": room.capability}
    client.send_raw("mine", padded(header, 65_536), b"x")
    backend.ack(backend.delivery())
    client.expect("REPLY", id="mine", last=True)
    client.send_raw("mine", padded(header, 65_537), b"x")
    client.error("too_large", "mine")
    assert backend.pending() == []


def test_17_mib_is_too_large_by_default(room: Room) -> None:
    client, backend = room.client(), room.backend()
    refused(client, room, bytes(17 << 20))
    refused(client, room, bytes(9 << 20), bytes(9 << 20))
    assert backend.pending() == []


def test_the_limits_are_those_of_the_configuration(small: Room) -> None:
    client, backend = small.client(), small.backend()
    for body in ([bytes(90_000)], [bytes(22_000)] * 4):
        client.send(small.capability, *body)
        delivery = backend.delivery()
        assert delivery.body == body
        backend.ack(delivery)
        client.expect("REPLY", last=True)
    refused(client, small, bytes(150_000))
    refused(client, small, bytes(60_000), bytes(60_000))
    refused(client, small, *[b""] * 5)
    client.send_raw("big", padded({"id": "big", "capability": small.capability}, 2_100))
    client.error("too_large", "big")
    assert backend.pending() == []


def test_too_large_without_an_id_has_a_nil_id(small: Room) -> None:
    client = small.client()
    client.send_raw(None, b"\xc1", *[b""] * 70)
    message = client.expect("ERROR", id=None, last=False)
    assert message.header["code"] in {"too_large", "bad_header"}


def test_a_taken_id_is_duplicate_even_when_too_large(small: Room) -> None:
    client, backend = small.client(), small.backend()
    client.send(small.capability, id="mine")
    delivery = backend.delivery()
    client.send(small.capability, bytes(150_000), id="mine")
    client.error("duplicate_id", "mine", last=False)
    client.send(small.capability, *[b""] * 9, id="mine")
    client.error("duplicate_id", "mine", last=False)
    backend.ack(delivery)
    client.expect("REPLY", id="mine", last=True)


def test_a_frame_far_over_the_limit_costs_at_most_its_own_connection(small: Room) -> None:
    giant, client, backend = small.client(), small.client(), small.backend()
    giant.send(small.capability, bytes(2_000_000), id="giant")
    ident = client.send(small.capability, b"x")
    backend.ack(backend.delivery())
    client.expect("REPLY", id=ident, last=True)
    answer = giant.poll(0.1)
    assert answer is None or (answer.verb, answer.header["code"]) == ("ERROR", "too_large")
    assert backend.pending() == []


def test_a_full_waiting_queue_is_overloaded(small: Room) -> None:
    client, backend = small.client(), small.backend(slots=1)
    first, second, third = (client.send(small.capability, ttl_ms=3_000) for _ in range(3))
    fourth = client.send(small.capability, ttl_ms=3_000)
    client.error("overloaded", fourth)
    for ident in (first, second, third):
        backend.ack(backend.delivery())
        client.expect("REPLY", id=ident, last=True)


def test_ttl_is_lowered_to_the_maximum_and_set_by_default(small: Room) -> None:
    client, backend = small.client(), small.backend(slots=2)
    client.command("PING")
    assert client.expect("PONG").header["max_ttl_ms"] == 3_000
    client.send(small.capability, ttl_ms=10**12)
    assert 2_000 < backend.delivery().header["ttl_ms"] <= 3_000
    client.send(small.capability)
    assert 300 < backend.delivery().header["ttl_ms"] <= 700


def test_pong_says_the_configured_limits(small: Room, room: Room, careful: Room) -> None:
    limits = []
    for where in (small, room, careful):
        client = where.client()
        client.command("PING")
        header = client.expect("PONG").header
        limits.append((header["max_ttl_ms"], header["max_message_bytes"], header["max_heads"]))
    assert limits == [(3_000, 100_000, 3), (300_000, 16_777_216, 3), (300_000, 16_777_216, 2)]


def test_a_stream_its_client_does_not_read_ends_without_a_gap(small: Room) -> None:
    client = small.client(RCVHWM=1, RCVBUF=8_192)
    backend = small.backend()
    ident = client.send(small.capability, ttl_ms=3_000)
    delivery = backend.delivery()
    watch = Stopwatch()
    sent = 0
    while (told := backend.poll(0)) is None and sent < 1_500:
        backend.part(delivery, sent.to_bytes(4, "big") + bytes(60_000))
        sent += 1
    assert told is not None, "90 MB were taken for a client that reads nothing"
    assert (told.verb, told.header["id"]) == ("CANCEL", delivery.header["id"])
    assert watch.elapsed_s < 2.9, "the time to live ended it, not the limit"
    backend.nack(delivery, code="cancelled")
    seen = 0
    while (message := client.poll(0.15)) is not None and message.verb == "PART":
        assert (message.header["id"], message.header["seq"]) == (ident, seen)
        assert message.body[0][:4] == seen.to_bytes(4, "big")
        seen += 1
    assert 0 < seen < sent
    if message is not None:  # an answer that could not be queued either may be lost
        assert (message.verb, message.header["code"]) == ("ERROR", "overloaded")


def test_a_client_that_reads_nothing_stalls_nobody(small: Room) -> None:
    deaf = small.client(RCVHWM=1, SNDTIMEO=200)
    sent = 0
    try:
        for _ in range(20_000):
            deaf.command("PING")
            sent += 1
    except zmq.Again:
        pass  # the daemon need not take more than it can answer
    assert sent
    client, backend = small.client(), small.backend()
    ident = client.send(small.capability, ttl_ms=3_000)
    backend.ack(backend.delivery())
    client.expect("REPLY", id=ident, last=True)


def test_a_backend_that_reads_nothing_stalls_nobody(small: Room) -> None:
    deaf, client = small.stranger(RCVHWM=1, RCVBUF=8_192), small.client()
    deaf.register("deaf", slots=10_000)
    for _ in range(200):
        client.send("deaf", bytes(90_000), reply="none", ttl_ms=500)
    other, backend = small.client(), small.backend()
    ident = other.send(small.capability, ttl_ms=3_000)
    backend.ack(backend.delivery())
    other.expect("REPLY", id=ident, last=True)
    for _ in range(200):
        assert client.recv().header["last"] is True
    assert client.open == set()
