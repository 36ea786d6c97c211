"""The same backends again, once a message has been everywhere: within its heads, like any other delivery."""

from __future__ import annotations

from core_kit import make_broker

from router_daemon.core.actions import Deliver
from router_daemon.testing import only

LONG_S = 5.0


def test_a_message_that_went_to_all_at_once_goes_again_only_as_often_as_its_heads_allow() -> None:
    broker = make_broker("a", "b", mode="auto", heads=3)
    first, second = only(broker.send("c"), Deliver)
    assert not only(broker.nack(first), Deliver)
    assert not only(broker.nack(second), Deliver)
    [third] = only(broker.advance(LONG_S), Deliver)
    assert third.header.attempt == 3
