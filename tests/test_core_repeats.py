"""The same backends again, once a message has been everywhere: within its heads, like any other delivery."""

from __future__ import annotations

from core_kit import make_broker

from router_daemon.core.actions import CancelDelivery, Deliver, Error, Piece, Reply
from router_daemon.testing import only

LONG_S = 2.0


def test_a_message_that_went_to_all_at_once_goes_again_only_as_often_as_its_heads_allow() -> None:
    broker = make_broker("a", "b", mode="auto", heads=3)
    first, second = only(broker.send("c"), Deliver)
    assert not only(broker.nack(first), Deliver)
    assert not only(broker.nack(second), Deliver)
    [third] = only(broker.advance(LONG_S), Deliver)
    assert third.header.attempt == 3


def test_a_head_that_timed_out_and_streams_after_all_is_the_only_one() -> None:
    broker = make_broker("a", mode="hedge", heads=3)
    [first] = only(broker.send("c", first_ms=50), Deliver)
    assert only(broker.advance(0.052), CancelDelivery)  # it backs off now, to try the same one again
    assert only(broker.part(first, b"late"), Piece)
    assert not broker.advance(LONG_S)
    [reply] = only(broker.ack(first), Reply)
    assert (reply.header.head, reply.header.heads) == (1, 1)


def test_each_further_try_at_the_same_backend_backs_off() -> None:
    broker = make_broker("a", mode="hedge", heads=3)
    [first] = only(broker.send("c"), Deliver)
    assert not only(broker.nack(first), Deliver)
    [second] = only(broker.advance(LONG_S), Deliver)
    assert not only(broker.nack(second), Deliver)
    [third] = only(broker.advance(LONG_S), Deliver)
    assert third.header.attempt == 3


def test_one_that_nobody_may_get_any_more_when_it_has_backed_off_fails_at_once() -> None:
    """Somebody offers the capability, but at more than a further head may cost: nobody would ever take it."""
    broker = make_broker("a", mode="hedge", heartbeat_s=1000.0)
    broker.update(b"a", cost=1.0)
    [first] = only(broker.send("c"), Deliver)
    broker.nack(first)
    broker.register("dear", "c", cost=100.0)
    broker.unregister(b"a")
    [error] = only(broker.advance(LONG_S), Error)
    assert error.header.code == "failed"
