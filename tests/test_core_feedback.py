"""FEEDBACK: the newest answered SEND of that id among the connection's last 1,024, else ignored and counted."""

from __future__ import annotations

from typing import Any

import pytest
from rollout_kit import route, send_and_answer, with_candidate

from router_daemon.core.actions import Deliver
from router_daemon.core.messages import RATEABLE
from router_daemon.core.types import Side
from router_daemon.testing import CLIENT, BrokerFixture, only


def make(**settings: Any) -> BrokerFixture:
    broker = BrokerFixture(mode="single", heartbeat_s=1000.0, **settings)
    broker.register("a", "c", slots=5000)
    return broker


def rated(broker: BrokerFixture, name: str = "stable") -> tuple[float, int]:
    return route(broker, name).quality, route(broker, name).rated


def test_feedback_about_an_answer_counts_for_its_route_and_has_no_reply() -> None:
    broker = make()
    send_and_answer(broker, 1)
    assert broker.feedback(1, 0.25) == []
    assert rated(broker) == (0.25, 1)
    assert broker.broker.counts.feedback_ignored == 0


def test_feedback_about_what_was_not_answered_is_ignored_and_counted() -> None:
    broker = make()
    broker.feedback(1)
    [deliver] = only(broker.send("c", client_id=1), Deliver)
    broker.feedback(1)
    broker.nack(deliver, "rejected")
    broker.feedback(1)
    broker.send("c", client_id=2, reply="none")
    broker.feedback(2)
    assert (rated(broker), broker.broker.counts.feedback_ignored) == ((0.0, 0), 4)


def test_feedback_of_another_connection_is_ignored() -> None:
    broker = make()
    send_and_answer(broker, 1)
    broker.feedback(1, peer=b"another")
    broker.gone(CLIENT, Side.CLIENT)
    broker.feedback(1)
    assert broker.broker.counts.feedback_ignored == 2


@pytest.mark.parametrize("known", [True, False])
def test_the_last_1024_answered_are_known(known: bool) -> None:
    broker = make()
    for number in range(RATEABLE + (not known)):
        send_and_answer(broker, number)
    broker.feedback(0)
    assert rated(broker)[1] == known
    assert broker.broker.counts.feedback_ignored == (not known)


def test_of_an_id_used_again_the_newest_counts() -> None:
    broker = with_candidate("a", percent=50.0)
    taken = [send_and_answer(broker, 7) for _ in range(20)]
    assert len(set(taken)) == 2
    broker.feedback(7, 1.0)
    assert rated(broker, taken[-1]) == (1.0, 1)


def test_each_answer_is_rated_for_the_route_it_took() -> None:
    broker = with_candidate("a", percent=50.0)
    taken = {number: send_and_answer(broker, number) for number in range(50)}
    for number in reversed(range(50)):
        broker.feedback(number, 1.0)
    for name in ("stable", "candidate"):
        assert rated(broker, name)[1] == sum(name == took for took in taken.values())


def test_the_quality_that_an_ack_tells_counts_the_same_way() -> None:
    broker = with_candidate("a", percent=100.0)
    [deliver] = only(broker.send("c"), Deliver)
    broker.ack(deliver, quality=0.5)
    assert rated(broker, "candidate") == (0.5, 1)
    shown = broker.broker.routes.view(broker.clock.now)["routes"]
    assert [each["quality"] for each in shown] == [None, 0.5, None]


def test_an_id_of_another_kind_is_another_id() -> None:
    broker = make()
    send_and_answer(broker, 1)
    for other in ("1", b"1"):
        broker.feedback(other)
    assert broker.broker.counts.feedback_ignored == 2
