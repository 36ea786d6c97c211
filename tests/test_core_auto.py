"""Mode auto: copies only while hardly anybody works, and never where work costs something."""

from __future__ import annotations

from typing import Any

from routing_kit import make, pool, send

from router_daemon.core.actions import CancelDelivery
from router_daemon.testing import BrokerFixture, only


def idle(**settings: Any) -> BrokerFixture:
    """Return a broker in mode auto with three backends of ten slots."""
    fixture = make(mode="auto", **settings)
    for name in ("a", "b", "c"):
        fixture.register(name, "c", slots=10)
    return fixture


def test_copies_while_under_15_percent_of_the_slots_are_taken() -> None:
    fixture = idle()
    assert [len(send(fixture, number)) for number in range(3)] == [3, 3, 1], "0, 3 and 6 of 30 slots, but 4.5 is 15 %"


def test_work_from_elsewhere_counts() -> None:
    fixture = idle()
    fixture.heartbeat(b"a", queue=9)
    assert pool(fixture).busy == 4.5
    assert len(send(fixture)) == 1


def test_no_copies_of_what_costs_something() -> None:
    fixture = idle()
    fixture.update(b"b", cost=0.001)
    assert len(send(fixture)) == 1
    fixture = idle()
    fixture.ack(send(fixture, 1)[0], cost=1.0)
    assert len(send(fixture, 2)) == 1, "one told so"


def test_as_many_copies_as_heads_and_none_of_what_may_not_be_copied() -> None:
    assert len(send(idle(), heads=2)) == 2
    assert len(send(idle(), heads=1)) == 1
    assert len(send(idle(), idempotent=False)) == 1
    assert len(send(idle(unsaid_idempotent="retries"))) == 1
    assert len(send(idle(unsaid_idempotent="retries"), idempotent=True)) == 3
    assert len(send(idle(auto_idle=0.0))) == 1


def test_losers_finish_while_little_is_known_of_them_and_are_cancelled_later() -> None:
    fixture = idle()
    for number in range(16):
        deliveries = send(fixture, number)
        fixture.advance(0.01)
        assert only(fixture.ack(deliveries[0]), CancelDelivery) == []
        for loser in deliveries[1:]:
            fixture.ack(loser)
    cancelled = 0
    for number in range(400):
        deliveries = send(fixture, number)
        cancels = only(fixture.ack(deliveries[0]), CancelDelivery)
        assert len(cancels) in (0, 2)
        cancelled += bool(cancels)
        for loser in deliveries[1:]:
            fixture.nack(loser, "cancelled") if cancels else fixture.ack(loser)
    assert 360 <= cancelled <= 396, "one in twenty finishes"
