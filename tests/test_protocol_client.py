"""What a client may say, and what it hears: PING, SEND and its last message, CANCEL, FEEDBACK, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
from conftest import Room
from contract import pack
from peers import LATE_S, Stopwatch


def test_ping_is_answered_by_pong_with_what_the_daemon_can(room: Room) -> None:
    client = room.client()
    client.command("PING", {"shade": math.nan})
    client.expect("PONG", max_heads=3, max_message_bytes=16_777_216, max_ttl_ms=300_000)


def test_a_reply_says_who_did_it_and_how_long_it_took(room: Room) -> None:
    client, backend = room.client(), room.backend()
    watch = Stopwatch()
    ident = client.send(room.capability, b"question")
    delivery = backend.delivery()
    backend.ack(delivery, b"answer")
    reply = client.expect("REPLY", id=ident, backend=backend.name, head=1, heads=1, last=True)
    assert reply.body == [b"answer"]
    assert reply.header["message"] == delivery.header["message"]
    assert 0 < reply.header["elapsed_ms"] <= watch.elapsed_s * 1000
    assert client.pending() == []


def test_a_capability_nobody_ever_offered_is_no_capability(room: Room) -> None:
    client = room.client()
    client.error("no_capability", client.send(room.capability))


def test_a_capability_nobody_offers_any_more_is_no_backend(room: Room) -> None:
    client, backend = room.client(), room.backend()
    backend.command("UNREGISTER")
    backend.expect("BYE")
    client.error("no_backend", client.send(room.capability))


def test_a_backend_without_the_capability_gets_nothing(room: Room) -> None:
    client, other = room.client(), room.backend(capabilities=[f"{room.capability}-other"])
    client.error("no_capability", client.send(room.capability))
    assert other.pending() == []


@pytest.mark.parametrize("key", [{"durable": True}, {"policy": "paper"}, {"backend": "someone"}], ids=repr)
def test_what_this_daemon_lacks_is_forbidden(room: Room, key: dict[str, Any]) -> None:
    client, backend = room.client(), room.backend()
    client.error("forbidden", client.send(room.capability, **key))
    assert backend.pending() == []


def test_an_id_is_free_again_after_its_last_message(room: Room) -> None:
    client, backend = room.client(), room.backend()
    messages = set()
    for _ in range(3):
        client.send(room.capability, id="again")
        delivery = backend.delivery()
        messages.add(delivery.header["message"])
        backend.ack(delivery)
        client.expect("REPLY", id="again", last=True)
    assert len(messages) == 3
    client.send(f"{room.capability}-none", id="again")
    client.error("no_capability", "again")
    client.send(room.capability, id="again", priority=9)
    client.error("bad_header", "again")


@pytest.mark.parametrize(
    "fault",
    [
        {},
        {"priority": 9},
        {"capability": 5},
        {"capability": "nobody-offers-this"},
        {"durable": True},
        {"reply": "all", "idempotent": False},
        {"embedding": [math.nan]},
        {"reply": "none"},
    ],
    ids=repr,
)
def test_a_taken_id_is_duplicate_whatever_else_is_wrong(room: Room, fault: dict[str, Any]) -> None:
    client, backend = room.client(), room.backend(slots=4)
    client.send(room.capability, id="mine")
    delivery = backend.delivery()
    client.send_raw("mine", {"id": "mine", "capability": room.capability, **fault})
    client.error("duplicate_id", "mine", last=False)
    assert backend.pending() == []
    backend.ack(delivery, b"done")
    assert client.expect("REPLY", id="mine", last=True).body == [b"done"]


def test_a_taken_id_is_duplicate_also_without_a_capability_or_with_deep_nesting(room: Room) -> None:
    client, backend = room.client(), room.backend()
    client.send(room.capability, id="mine")
    delivery = backend.delivery()
    deep = b"\x91" * 100 + b"\x90"
    for header in (pack({"id": "mine"}), b"\x82" + pack("id") + pack("mine") + pack("shade") + deep):
        client.send_raw("mine", header)
        client.error("duplicate_id", "mine", last=False)
    backend.ack(delivery)
    client.expect("REPLY", id="mine", last=True)


def test_ids_belong_to_their_connection(room: Room) -> None:
    one, two, backend = room.client(), room.client(), room.backend(slots=2)
    one.send(room.capability, b"one", id="same")
    first = backend.delivery()
    two.send(room.capability, b"two", id="same")
    second = backend.delivery()
    two.command("CANCEL", {"id": "same"})
    two.error("cancelled", "same")
    backend.cancelled(second)
    backend.ack(first, b"for one")
    assert one.expect("REPLY", id="same", last=True).body == [b"for one"]
    assert two.pending() == []


def test_cancel_ends_an_open_send_and_the_backend_is_told(room: Room) -> None:
    client, backend = room.client(), room.backend()
    ident = client.send(room.capability)
    delivery = backend.delivery()
    client.command("CANCEL", {"id": ident})
    client.error("cancelled", ident)
    backend.cancelled(delivery)
    backend.ack(delivery, b"too late")
    assert backend.pending() == []
    assert client.pending() == []


def test_cancel_of_a_waiting_message_keeps_it_from_being_delivered(room: Room) -> None:
    client, backend = room.client(), room.backend(slots=1)
    first, second, third = (client.send(room.capability, name) for name in (b"1", b"2", b"3"))
    delivery = backend.delivery()
    client.command("CANCEL", {"id": second})
    client.error("cancelled", second)
    backend.ack(delivery)
    client.expect("REPLY", id=first, last=True)
    delivery = backend.delivery()
    assert delivery.body == [b"3"]
    backend.ack(delivery)
    client.expect("REPLY", id=third, last=True)


def test_cancel_of_any_other_id_says_nothing(room: Room) -> None:
    client, backend = room.client(), room.backend()
    client.send(room.capability, id="done")
    backend.ack(backend.delivery())
    client.expect("REPLY", id="done", last=True)
    for ident in ("done", "never", 7, b"\x00"):
        client.command("CANCEL", {"id": ident})
    assert client.pending() == []
    assert backend.pending() == []


@pytest.mark.parametrize("ident", [True, 1.0, "x" * 65, [1]], ids=lambda value: repr(value)[:10])
def test_cancel_with_no_legal_id_is_bad_header(room: Room, ident: Any) -> None:
    client = room.client()
    client.command("CANCEL", {"id": ident})
    client.error("bad_header", None, last=False)
    client.command("CANCEL", {})
    client.error("bad_header", None, last=False)


def test_feedback_gets_no_reply(room: Room) -> None:
    client, backend = room.client(), room.backend()
    ident = client.send(room.capability)
    backend.ack(backend.delivery())
    client.expect("REPLY", id=ident, last=True)
    for header in ({"id": ident, "score": 0.5}, {"id": ident, "score": 1}, {"id": "never", "score": 0}):
        client.command("FEEDBACK", header)
    assert client.pending() == []


@pytest.mark.parametrize("score", [-0.1, 1.5, 2, math.nan, True, "1", None], ids=repr)
def test_feedback_out_of_range_is_bad_header(room: Room, score: Any) -> None:
    client = room.client()
    client.command("FEEDBACK", {"id": "mine", "score": score})
    client.error("bad_header", None, last=False)
    client.command("FEEDBACK", {"id": "mine"})
    client.error("bad_header", None, last=False)
    client.command("FEEDBACK", {"score": 1})
    client.error("bad_header", None, last=False)


def test_time_to_live_ends_a_message_that_is_out(room: Room) -> None:
    client, backend = room.client(), room.backend()
    watch = Stopwatch()
    ident = client.send(room.capability, ttl_ms=300)
    delivery = backend.delivery()
    message = client.error("expired", ident, timeout_s=0.3 + LATE_S)
    assert watch.elapsed_s >= 0.29
    assert message.header["retry"] is True
    assert message.header["message"] == delivery.header["message"]
    backend.cancelled(delivery)
    backend.ack(delivery, b"too late")
    assert backend.pending() == []
    assert client.pending() == []


def test_what_may_not_run_twice_and_has_left_is_not_worth_a_retry(room: Room) -> None:
    client, backend = room.client(), room.backend()
    out = client.send(room.capability, ttl_ms=200, idempotent=False)
    waiting = client.send(room.capability, ttl_ms=200, idempotent=False)
    backend.delivery()
    ended = {}
    for _ in range(2):
        message = client.expect("ERROR", last=True, timeout_s=0.2 + LATE_S)
        ended[message.header["id"]] = message.header
    assert (ended[out]["code"], ended[out]["retry"]) == ("expired", False)
    assert ended[waiting]["code"] in {"expired", "overloaded"}
    assert ended[waiting]["retry"] is True


def test_many_messages_all_end_by_their_time(room: Room) -> None:
    client, backend = room.client(), room.backend(slots=50)
    watch = Stopwatch()
    for number in range(300):
        client.send(room.capability, ttl_ms=200 + number, priority=4)
    for _ in range(300):
        message = client.expect("ERROR", last=True, timeout_s=0.5 + LATE_S)
        assert message.header["code"] in {"expired", "overloaded"}
    assert watch.elapsed_s < 0.5 + 0.1 + LATE_S
    assert client.open == set()
    assert len([told for told in backend.pending() if told.verb == "DELIVER"]) == 50
    assert client.pending() == []
