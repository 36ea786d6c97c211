"""The waiting room: who waits, in which order they leave, what makes room, and its bounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from core_kit import (
    SESSION,
    deliver,
    error,
    make_broker,
    malformed,
    outcomes,
    registered,
    reply,
    unwanted,
)

from router_daemon.core.actions import Action, Deliver, Error
from router_daemon.testing import BrokerFixture, only


def full_broker(**settings: object) -> BrokerFixture:
    """Return a broker whose one place is taken by message m1, with m2 waiting."""
    broker = make_broker("a", mode="single", slots=1, **settings)
    broker.send("c")
    assert broker.send("c", b"next", client_id=2, ttl_ms=60_000) == []
    return broker


def test_what_finds_all_full_waits_and_goes_by_priority_then_age() -> None:
    broker = full_broker()
    broker.send("c", client_id=3)
    broker.send("c", client_id=4, priority=4)
    assert broker.broker.dispatcher.waiting.size == 3
    assert only(broker.ack(deliver("a", 1)), Deliver) == [deliver("a", 2, message="m4", priority=4)]
    assert only(broker.ack(deliver("a", 2)), Deliver) == [deliver("a", 3, b"next", message="m2", ttl_ms=60_000)]
    assert only(broker.ack(deliver("a", 3)), Deliver) == [deliver("a", 4, message="m3")]


def test_slots_and_prefetch_are_the_places() -> None:
    broker = make_broker(mode="single")
    broker.register("a", "c", slots=2, prefetch=1)
    sent = [len(broker.send("c", client_id=number)) for number in range(5)]
    assert sent == [1, 1, 1, 0, 0]


CAUSES: dict[str, Callable[[BrokerFixture], list[Action]]] = {
    "ack": lambda broker: broker.ack(deliver("a", 1)),
    "nack failed": lambda broker: broker.nack(deliver("a", 1)),
    "nack rejected": lambda broker: broker.nack(deliver("a", 1), "rejected"),
    "malformed answer": lambda broker: broker.handle(malformed(b"a", "ACK", 1)),
    "more slots": lambda broker: broker.update(b"a", slots=2),
    "registered anew with more slots": lambda broker: broker.register("a", "c", slots=2),
    "another backend": lambda broker: broker.register("b", "c"),
    "the capability added elsewhere": lambda broker: (
        broker.register("b", "other"),
        broker.update(b"b", capabilities=["other", "c"]),
    )[1],
    "a cancelled answer": lambda broker: broker.cancel() + broker.nack(deliver("a", 1), "cancelled"),
    "an ack after the cancel": lambda broker: broker.cancel() + broker.ack(deliver("a", 1)),
}


@pytest.mark.parametrize("cause", CAUSES.values(), ids=CAUSES)
def test_whoever_waits_is_served_by(cause: Callable[[BrokerFixture], list[Action]]) -> None:
    broker = full_broker()
    served = [sent for sent in only(cause(broker), Deliver) if b"next" in sent.body]
    assert len(served) == 1


def test_the_end_of_a_pause_serves_the_oldest() -> None:
    broker = full_broker()
    assert broker.nack(deliver("a", 1), "busy", retry_after_ms=50) == []
    assert [sent.header.message for sent in only(broker.advance(0.06), Deliver)] == ["m1"]


def test_a_full_pipe_is_tried_again_by_the_oldest() -> None:
    broker = full_broker()
    assert broker.undelivered(deliver("a", 1), full=True) == []
    assert [sent.header.message for sent in only(broker.advance(0.11), Deliver)] == ["m1"]


def test_a_session_that_comes_back_serves_who_waits() -> None:
    broker = make_broker(mode="single")
    broker.register("a", "c", session=SESSION)
    broker.gone(b"a")
    assert broker.send("c") == []
    answers = broker.register("a", "c", session=SESSION, peer=b"a again")
    assert answers == [registered("a", peer=b"a again"), deliver("a", 1, peer=b"a again")]


def test_a_delivery_that_never_left_before_its_backend_moved_gives_its_place_to_who_waits() -> None:
    broker = make_broker(mode="single")
    broker.register("a", "c", slots=1, session=SESSION)
    (lost,) = only(broker.send("c"), Deliver)
    broker.send("c", b"next", client_id=2)
    broker.register("a", "c", slots=1, session=SESSION, peer=b"a again")
    broker.cancel()
    assert [sent.body for sent in only(broker.undelivered(lost), Deliver)] == [(b"next",)]


def test_a_first_head_that_turns_out_dearer_lets_its_retries_cost_more() -> None:
    broker = make_broker(mode="single")
    for name, slots, cost in (("a", 2, 1.0), ("full", 1, 1.0), ("dear", 1, 4.0)):
        broker.register(name, "c", slots=slots, cost=cost)
    failing, costly, _ = (only(broker.send("c", client_id=number), Deliver)[0] for number in range(3))
    assert broker.nack(failing) == []
    retries = only(broker.ack(costly, cost=2.0), Deliver)
    assert [(sent.peer, sent.header.message) for sent in retries] == [(b"dear", "m1")]


def test_a_place_that_nobody_answers_for_comes_back_in_the_end() -> None:
    broker = make_broker("a", mode="single", slots=1)
    broker.send("c", ttl_ms=500)
    broker.send("c", b"next", client_id=2, ttl_ms=60_000)
    answers: list[Action] = []
    for _ in range(4):
        answers += broker.advance(0.9)
        broker.heartbeat(b"a")
    assert [sent.body for sent in only(answers, Deliver)] == [(b"next",)]


def test_several_places_serve_several() -> None:
    broker = full_broker()
    for number in range(3, 7):
        broker.send("c", client_id=number)
    served = only(broker.update(b"a", slots=4), Deliver)
    assert [sent.header.message for sent in served] == ["m2", "m3", "m4"]


def test_each_waits_for_those_that_can_do_it() -> None:
    broker = make_broker("a", mode="single", slots=1)
    broker.register("b", "d", slots=1)
    broker.send("c", client_id=1)
    broker.send("d", client_id=2)
    broker.send("c", client_id=3)
    broker.send("d", client_id=4)
    [served] = only(broker.ack(deliver("b", 2)), Deliver)
    assert (served.peer, served.header.message) == (b"b", "m4")


def test_the_older_of_two_capabilities_goes_first() -> None:
    broker = make_broker(mode="single")
    broker.register("a", "c", "d")
    broker.send("c", client_id=1)
    broker.send("d", client_id=2)
    broker.send("c", client_id=3)
    assert [sent.header.message for sent in only(broker.ack(deliver("a", 1)), Deliver)] == ["m2"]
    assert [sent.header.message for sent in only(broker.ack(deliver("a", 2)), Deliver)] == ["m3"]


def test_a_message_that_has_been_tried_waits_for_an_untried_one() -> None:
    broker = make_broker("a", "b", mode="single", slots=1)
    broker.send("c", client_id=1)
    broker.send("c", client_id=2)
    assert broker.nack(deliver("a", 1)) == []
    assert broker.broker.dispatcher.waiting.size == 1
    answers = broker.ack(deliver("b", 2))
    assert only(answers, Deliver) == [deliver("b", 3, attempt=2)]


def test_an_older_retry_goes_before_a_fresh_one() -> None:
    broker = make_broker("a", "b", mode="single", slots=1)
    broker.send("c", client_id=1)
    broker.send("c", client_id=2)
    broker.send("c", client_id=3)
    answers = broker.nack(deliver("a", 1))
    assert [sent.header.message for sent in only(answers, Deliver)] == ["m3"]
    answers = broker.ack(deliver("b", 2))
    assert [sent.header.message for sent in only(answers, Deliver)] == ["m1"]


def test_one_that_waits_expires() -> None:
    broker = full_broker()
    broker.send("c", client_id=3, ttl_ms=400)
    assert broker.advance(0.45) == [error("expired", "the time is up", client_id=3, message="m3")]
    assert broker.broker.dispatcher.waiting.size == 1


def test_nothing_is_delivered_once_its_time_is_up() -> None:
    """Deadlines are looked at up to 50 ms late; in between an ACK may make room."""
    broker = make_broker("a", mode="single", slots=1)
    broker.send("c")
    broker.send("c", client_id=2, ttl_ms=1_040)
    broker.clock.advance(1.042)
    answers = broker.ack(deliver("a", 1))
    assert only(answers, Deliver) == []
    answers += broker.advance(0.05)
    assert only(answers, Error) == [error("expired", "the time is up", client_id=2, message="m2")]


def test_nothing_is_tried_again_once_its_time_is_up() -> None:
    broker = make_broker("a", "b", mode="single", attempt_timeout_s=60.0)
    broker.send("c", ttl_ms=1_040)
    broker.clock.advance(1.042)
    assert only(broker.nack(deliver("a", 1)), Deliver) == []


def test_cancel_ends_one_that_waits() -> None:
    broker = full_broker()
    assert broker.cancel(2) == [error("cancelled", "cancelled by the client", client_id=2, message="m2", retry=False)]
    assert broker.ack(deliver("a", 1)) == [reply("a")]


def test_the_number_of_those_who_wait_is_bounded() -> None:
    broker = full_broker(queue_messages=1)
    detail = "c: every backend is full and the waiting room too"
    assert broker.send("c", client_id=3) == [error("overloaded", detail, client_id=3, message="m3")]
    broker.ack(deliver("a", 1))
    assert broker.send("c", client_id=3) == []


def test_the_bytes_of_those_who_wait_are_bounded() -> None:
    broker = full_broker(queue_bytes=11)  # of which one is for critical messages
    assert broker.send("c", b"123", b"456", client_id=3) == []
    assert [answer.header.code for answer in only(broker.send("c", b"1", client_id=4), Error)] == ["overloaded"]
    assert broker.send("c", client_id=5) == []
    assert broker.broker.dispatcher.waiting.bytes == 10
    broker.cancel(3)
    assert broker.broker.dispatcher.waiting.bytes == 4


def test_a_retry_that_finds_the_room_full_is_overloaded() -> None:
    broker = make_broker("a", "b", mode="single", slots=1, queue_messages=1)
    broker.send("c", client_id=1)
    broker.send("c", client_id=2)
    broker.send("c", client_id=3)
    answers = broker.nack(deliver("a", 1))
    assert [answer.header.code for answer in only(answers, Error)] == ["overloaded"]


def test_those_who_wait_fail_when_the_last_that_could_do_it_leaves() -> None:
    broker = full_broker()
    answers = broker.unregister(b"a")
    said = [(answer.header.id, answer.header.code) for answer in only(answers, Error)]
    assert said == [(1, "failed"), (2, "no_backend")]
    assert outcomes(broker) == {"failed": 1, "no_backend": 1}


def test_those_who_wait_fail_when_the_last_that_could_do_it_drains() -> None:
    broker = full_broker()
    assert broker.drain(b"a") == [error("no_backend", "c: no backend offers it now", client_id=2, message="m2")]


def test_those_who_wait_fail_when_the_last_that_could_do_it_does_so_no_more() -> None:
    broker = full_broker()
    answers = broker.update(b"a", capabilities=["other"])
    assert [answer.header.code for answer in only(answers, Error)] == ["no_backend"]
    assert broker.ack(deliver("a", 1)) == [reply("a")]


def test_a_retry_fails_when_the_last_untried_one_leaves() -> None:
    broker = make_broker("a", "b", mode="single", slots=1)
    broker.send("c", client_id=1)
    broker.send("c", client_id=2)
    broker.nack(deliver("a", 1))
    answers = broker.unregister(b"b")
    said = [(answer.header.id, answer.header.code) for answer in only(answers, Error)]
    assert sorted(said) == [(1, "failed")]
    assert [sent.header.message for sent in only(answers, Deliver)] == ["m2"]


def test_a_head_that_timed_out_answers_though_its_message_waits() -> None:
    broker = make_broker("a", "b", mode="single", slots=1)
    broker.send("c", client_id=1)
    broker.send("c", client_id=2, ttl_ms=60_000)
    broker.ack(deliver("a", 1))
    broker.send("c", client_id=3, ttl_ms=1_000)
    assert broker.advance(0.502) == [unwanted("a", 3)]
    [answer] = broker.ack(deliver("a", 3), b"late")
    assert answer == reply("a", b"late", client_id=3, message="m3", elapsed_ms=pytest.approx(502.0))
    assert broker.broker.dispatcher.waiting.size == 0


def test_soft_capability_serves_who_waits_by_any_backend() -> None:
    broker = make_broker("a", mode="single", slots=1, require_capability=False)
    broker.send("never offered", client_id=1)
    broker.send("never offered", client_id=2)
    assert [sent.header.message for sent in only(broker.ack(deliver("a", 1)), Deliver)] == ["m2"]
