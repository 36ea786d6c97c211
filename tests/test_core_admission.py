"""What becomes of a SEND before anybody is looked for: refusals, taken ids, limits; and the client's other commands."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from core_kit import accept, deliver, error, make_broker, malformed, outcomes, registered, reply, unwanted
from msgspec import UNSET

from router_daemon.core.actions import Accept, Deliver, Error, Pong, PongHeader, Reply
from router_daemon.core.events import Event, Feedback, FeedbackHeader, Request, Send
from router_daemon.core.messages import Message
from router_daemon.core.types import Side
from router_daemon.testing import CLIENT, BrokerFixture, only

NO_COPIES = "reply: all sends to several at once: no single, no hedge, no idempotent: false"
TAKEN = "a message of this id is open"


def test_a_message_goes_to_its_backend_and_the_answer_back() -> None:
    broker = BrokerFixture()
    assert broker.register("a", "c") == [registered("a")]
    assert broker.send("c", b"one", b"", b"three") == [deliver("a", 1, b"one", b"", b"three")]
    broker.clock.advance(0.25)
    assert broker.ack(deliver("a", 1), b"done", b"") == [reply("a", b"done", b"", elapsed_ms=250.0)]
    assert broker.broker.open_messages == 0
    assert outcomes(broker) == {"answered": 1}


def test_what_is_given_to_the_backend_goes_along() -> None:
    broker = make_broker("a")
    keys: dict[str, Any] = {"embedding": [0.5, 1.0], "traceparent": "00-abc", "priority": 4, "ttl_ms": 1500}
    assert broker.send("c", **keys) == [
        deliver("a", 1, priority=4, ttl_ms=1500, embedding=[0.5, 1.0], traceparent="00-abc")
    ]


def test_the_ttl_is_lowered_to_the_maximum_and_has_a_default() -> None:
    broker = make_broker("a", default_ttl_ms=4_000, max_ttl_ms=10_000)
    assert broker.send("c") == [deliver("a", 1, ttl_ms=4_000)]
    assert broker.send("c", client_id=2, ttl_ms=99_999) == [deliver("a", 2, message="m2", ttl_ms=10_000)]


def test_heads_are_lowered_to_the_configured_number() -> None:
    broker = make_broker("a", "b", "z", heads=2)
    assert broker.send("c", heads=3) == [deliver("a", 1, heads=2), deliver("b", 2, attempt=2)]
    assert broker.send("c", client_id=2, heads=1) == [deliver("a", 3, message="m2")]


def test_no_capability_and_no_backend_are_told_apart() -> None:
    broker = make_broker("a")
    assert broker.send("other") == [error("no_capability", "other: no backend has ever offered it")]
    broker.unregister(b"a")
    assert broker.send("c") == [error("no_backend", "c: no backend offers it now", message="m2")]
    assert outcomes(broker, "unknown") == {"no_capability": 1}
    assert outcomes(broker) == {"no_backend": 1}


def test_nothing_is_delivered_while_all_that_offer_it_drain() -> None:
    broker = make_broker("a")
    broker.send("c")
    broker.drain(b"a")
    assert broker.send("c", client_id=2) == [
        error("no_backend", "c: no backend offers it now", client_id=2, message="m2")
    ]


@pytest.mark.parametrize("keys", [{"durable": True}, {"policy": "paper"}, {"backend": "a"}], ids=repr)
def test_features_that_are_not_offered_are_forbidden(keys: dict[str, Any]) -> None:
    broker = make_broker("a")
    (answer,) = broker.send("c", **keys)
    assert isinstance(answer, Error)
    assert (answer.header.code, answer.header.retry, answer.header.last) == ("forbidden", False, True)
    assert next(iter(keys)) in answer.header.detail
    assert outcomes(broker) == {"forbidden": 1}
    assert broker.broker.counts.protocol_errors == {"forbidden": 1}


def test_not_durable_is_not_forbidden() -> None:
    assert make_broker("a").send("c", durable=False) == [deliver("a", 1)]


def test_keys_without_effect_are_accepted() -> None:
    broker = make_broker("a")
    assert broker.send("c", key="k", budget=1.0, max_cost=0.0, resources=[]) == [deliver("a", 1)]


@pytest.mark.parametrize("keys", [{"mode": "single"}, {"idempotent": False}], ids=repr)
def test_reply_all_contradicts_one_head_at_a_time(keys: dict[str, Any]) -> None:
    broker = make_broker("a")
    assert broker.send("c", reply="all", **keys) == [error("bad_header", NO_COPIES, retry=False)]


def test_reply_all_is_refused_where_the_unsaid_means_never() -> None:
    broker = make_broker("a", unsaid_idempotent="never")
    assert broker.send("c", reply="all") == [error("bad_header", NO_COPIES, retry=False)]
    assert broker.send("c", reply="all", idempotent=True) == [deliver("a", 1, message="m2")]


def test_reply_all_needs_a_peer_that_takes_several_answers() -> None:
    broker = make_broker("a")
    detail = "reply: all needs a peer that takes several answers (no empty delimiter)"
    assert broker.send("c", reply="all", delimited=True) == [error("bad_frames", detail, retry=False, delimited=True)]


@pytest.mark.parametrize("client_id", [7, -1, 2**64 - 1, "seven", b"\x00\xff", "", 0])
def test_the_id_is_echoed_unchanged(client_id: Any) -> None:
    broker = make_broker("a")
    [sent] = broker.send("c", client_id=client_id)
    assert sent == deliver("a", 1)
    assert broker.ack(deliver("a", 1)) == [reply("a", client_id=client_id)]


def test_a_taken_id_is_refused_and_the_first_undisturbed() -> None:
    broker = make_broker("a")
    broker.send("c")
    refusal = error("duplicate_id", TAKEN, retry=False, last=False, message=None)
    assert broker.send("c") == [refusal]
    assert broker.send("nobody offers", durable=True) == [refusal]
    assert broker.handle(malformed(CLIENT, "SEND", 1, side=Side.CLIENT)) == [refusal]
    assert broker.ack(deliver("a", 1)) == [reply("a")]
    assert broker.send("c") == [deliver("a", 2, message="m2")]


def test_a_taken_id_is_counted_as_a_protocol_error() -> None:
    broker = make_broker("a")
    broker.send("c")
    broker.send("c")
    assert broker.broker.counts.protocol_errors == {"duplicate_id": 1}


def test_an_id_is_taken_for_its_connection_and_its_type_alone() -> None:
    broker = make_broker("a", slots=8)
    for peer, client_id in ((b"x", 1), (b"y", 1), (b"x", "1"), (b"x", b"1")):
        assert only(broker.send("c", client_id=client_id, peer=peer), Error) == []
    assert broker.broker.open_messages == 4


def test_the_id_of_a_message_without_reply_is_free_at_once() -> None:
    broker = make_broker("a")
    assert broker.send("c", reply="none") == [accept(), deliver("a", 1)]
    assert broker.send("c", reply="none") == [accept(message="m2"), deliver("a", 2, message="m2")]


def test_open_messages_are_bounded() -> None:
    broker = make_broker("a", open_messages=2)
    broker.send("c", client_id=1)
    broker.send("c", client_id=2)
    detail = "2 messages are open, and no more are allowed"
    assert broker.send("c", client_id=3) == [error("overloaded", detail, client_id=3, message="m3")]
    broker.ack(deliver("a", 1))
    assert broker.send("c", client_id=3) == [deliver("a", 3, message="m4")]


def test_a_draining_daemon_refuses_and_finishes_what_is_open() -> None:
    broker = make_broker("a", slots=1)
    broker.send("c", client_id=1)
    assert broker.send("c", client_id=2) == []
    broker.broker.start_drain()
    detail = "the daemon is about to exit"
    assert broker.send("c", client_id=3) == [error("draining", detail, client_id=3, message="m3")]
    assert broker.ack(deliver("a", 1)) == [reply("a"), deliver("a", 2, message="m2")]
    assert broker.ack(deliver("a", 2)) == [reply("a", client_id=2, message="m2")]
    assert outcomes(broker) == {"answered": 2, "draining": 1}


def test_malformed_frames_with_an_id_end_that_send() -> None:
    broker = make_broker("a")
    event = malformed(CLIENT, "SEND", 9, side=Side.CLIENT, code="too_large")
    assert broker.handle(event) == [error("too_large", "what is wrong", client_id=9, retry=False, message=None)]
    assert broker.broker.counts.protocol_errors == {"too_large": 1}


def test_malformed_frames_without_an_id_end_nothing() -> None:
    broker = make_broker("a")
    event = malformed(CLIENT, "", side=Side.CLIENT, code="unknown_command")
    answer = error("unknown_command", "what is wrong", client_id=None, retry=False, last=False, message=None)
    assert broker.handle(event) == [answer]


def test_cancel_ends_an_open_message_and_says_nothing_of_others() -> None:
    broker = make_broker("a", "b")
    broker.send("c")
    assert broker.cancel(2) == []
    assert broker.cancel(1, peer=b"somebody else") == []
    assert broker.cancel() == [
        error("cancelled", "cancelled by the client", retry=False),
        unwanted("a", 1),
        unwanted("b", 2),
    ]
    assert broker.cancel() == []
    assert outcomes(broker) == {"cancelled": 1}


def test_cancel_of_reply_all_is_one_error() -> None:
    broker = make_broker("a", "b")
    broker.send("c", reply="all")
    answers = broker.cancel()
    assert only(answers, Error) == [error("cancelled", "cancelled by the client", retry=False)]


def test_cancel_of_a_message_without_reply_has_no_effect() -> None:
    broker = make_broker("a")
    broker.send("c", reply="none")
    assert broker.cancel() == []
    assert broker.broker.open_messages == 1


def test_feedback_has_no_reply() -> None:
    broker = make_broker("a")
    assert broker.handle(Feedback(CLIENT, False, FeedbackHeader(1, 0.5))) == []


@pytest.mark.parametrize("delimited", [False, True])
def test_ping_says_what_the_daemon_is(delimited: bool) -> None:
    broker = make_broker("a", version="1.2.3", heads=2, max_ttl_ms=5_000, max_message_bytes=1_000)
    features = ["auto", "fanout", "hedge", "single", "stream", "reply_all", "reply_none"]
    header = PongHeader("1.2.3", features, 5_000, 1_000, 2)
    assert broker.ping(delimited=delimited) == [Pong(CLIENT, delimited, header)]


def test_the_delimiter_comes_back() -> None:
    broker = make_broker("a")
    broker.send("c", delimited=True)
    assert broker.ack(deliver("a", 1), b"x") == [reply("a", b"x", delimited=True)]


def fault_in(fixture: BrokerFixture, name: str, *, before: bool, call: int = 1) -> None:
    """Let a step of the dispatcher raise, before or after it was done, when it is called for that time."""
    dispatcher = fixture.broker.dispatcher
    step = getattr(dispatcher, name)
    calls = count(1)

    def faulty(*args: Any) -> None:
        raises = next(calls) == call
        if not (raises and before):
            step(*args)
        if raises:
            raise ZeroDivisionError

    setattr(dispatcher, name, faulty)


def meet_fault(fixture: BrokerFixture, *batch: Event) -> list[Any]:
    """Let a batch arrive, in which there is one fault; return what is sent."""
    actions = fixture.broker.handle_all(batch, fixture.clock.now)
    [(kind, fault)] = fixture.broker.faults
    assert (kind, type(fault)) == ("Send", ZeroDivisionError)
    fixture.broker.faults.clear()
    fixture.broker.check()
    return actions


def raise_fault(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError


def last_answers(actions: list[Any]) -> list[tuple[str, str]]:
    """Return command and code of every last answer, in order."""
    answers = [
        action for action in actions if isinstance(action, Accept | Error | Reply) and action.header.last is True
    ]
    return [(type(action).__name__, getattr(action.header, "code", "")) for action in answers]


@pytest.mark.parametrize(
    ("reply_key", "step", "before", "expected"),
    [
        ("first", "submit", True, ("Error", "internal")),
        ("first", "deliver", True, ("Error", "internal")),
        ("first", "deliver", False, ("Error", "internal")),
        ("none", "submit", True, ("Error", "internal")),
        ("none", "deliver", True, ("Accept", "")),
        ("none", "deliver", False, ("Accept", "")),
    ],
)
def test_a_send_that_meets_a_fault_of_ours_has_one_last_answer(
    reply_key: str, step: str, before: bool, expected: tuple[str, str]
) -> None:
    broker = make_broker("a")
    fault_in(broker, step, before=before)
    actions = meet_fault(broker, Send(CLIENT, False, Request(5, "c", reply=reply_key)))  # type: ignore[arg-type]
    assert last_answers(actions) == [expected]
    assert broker.broker.open_messages == 0


@pytest.mark.parametrize(("before", "second"), [(True, "internal"), (False, "no_capability")])
def test_a_fault_around_a_refusal_is_told_from_the_answer_to_an_earlier_send(before: bool, second: str) -> None:
    broker = make_broker("a")
    sends = [Send(CLIENT, False, Request(5, "other")) for _ in range(2)]
    fault_in(broker, "refuse", before=before, call=2)
    assert last_answers(meet_fault(broker, *sends)) == [("Error", "no_capability"), ("Error", second)]


def test_a_fault_after_the_end_of_a_message_adds_nothing() -> None:
    broker = make_broker("a")
    dispatcher = broker.broker.dispatcher

    def submit(message: Message, now: float) -> None:
        type(dispatcher).submit(dispatcher, message, now)
        dispatcher.fail(message, "failed", now)
        raise ZeroDivisionError

    dispatcher.submit = submit  # type: ignore[method-assign]
    assert last_answers(meet_fault(broker, Send(CLIENT, False, Request(5, "c")))) == [("Error", "failed")]


def test_a_fault_in_a_send_with_a_taken_id_leaves_the_open_message_alone() -> None:
    broker = make_broker("a")
    [sent] = only(broker.send("c", client_id=5), Deliver)
    broker.broker._clients._error = raise_fault  # type: ignore[method-assign]
    assert meet_fault(broker, Send(CLIENT, False, Request(5, "c"))) == []
    assert last_answers(broker.ack(sent)) == [("Reply", "")]


def test_a_fault_in_one_event_of_a_batch_does_not_touch_the_others() -> None:
    broker = make_broker("a")
    fault_in(broker, "submit", before=True)
    actions = meet_fault(broker, *(Send(CLIENT, False, Request(number, "c")) for number in range(3)))
    assert [(type(action).__name__, action.header.id) for action in actions] == [
        ("Error", 0),
        ("Deliver", 1),
        ("Deliver", 2),
    ]


def test_unset_keys_are_not_sent() -> None:
    [sent] = only(make_broker("a").send("c"), Deliver)
    assert sent.header.embedding is UNSET
    assert sent.header.traceparent is UNSET
