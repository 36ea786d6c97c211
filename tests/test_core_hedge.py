"""Hedges: a second head beside a late one, when, to whom, and out of which budget."""

from __future__ import annotations

from typing import Any

import pytest
from routing_kit import learn, make, pool, send_one, service

from router_daemon.core.actions import Deliver
from router_daemon.core.settings import HedgeSettings
from router_daemon.testing import BrokerFixture, only

RICH = HedgeSettings(share=1.0)
"""A budget that is never in the way once a message has come."""


def known(mode: str = "auto", hedge: HedgeSettings = RICH, **settings: Any) -> BrokerFixture:
    """Return a broker that sends to a first, and knows what is late there; b is as good and idle."""
    fixture = make(mode=mode, auto_idle=0.0, attempt_timeout_s=100.0, hedge=hedge, **settings)
    for name in ("a", "b"):
        fixture.register(name, "c", slots=4)
    for number in range(20):
        learn(fixture, "a", 0.1 if number % 2 else 0.12)
        learn(fixture, "b", 0.14)
    return fixture


def hedged_after(fixture: BrokerFixture, seconds: float = 3.0, **keys: Any) -> tuple[float | None, list[Deliver]]:
    """Send one message; return after how long a second head got it, and that delivery."""
    first = send_one(fixture, 1, **keys)
    assert first.peer == b"a"
    sent_at = fixture.clock.now
    until = sent_at + seconds
    while fixture.clock.now < until:
        due = fixture.broker.next_deadline()
        assert due is not None
        if second := only(fixture.advance(max(0.0, min(due, until) - fixture.clock.now)), Deliver):
            return fixture.clock.now - sent_at, second
    return None, []


def late_s() -> float:
    """Return m + 4 dev of a's twenty latencies."""
    m = dev = 0.0
    for n in range(1, 21):
        latency_s = 0.12 if n % 2 else 0.1
        weight = max(0.1, 1 / n)
        dev = 0.5 * latency_s if n == 1 else dev + weight * (abs(latency_s - m) - dev)
        m += weight * (latency_s - m)
    return m + 4 * dev


@pytest.mark.parametrize("mode", ["auto", "hedge"])
def test_it_leaves_after_mean_and_four_deviations(mode: str) -> None:
    fixture = known(mode)
    assert service(fixture).late_s == pytest.approx(late_s())
    after_s, (second,) = hedged_after(fixture)
    assert after_s == pytest.approx(late_s(), abs=1.1e-3)
    assert (second.peer, second.header.head, second.header.attempt) == (b"b", 2, 2)
    assert fixture.broker.counts.capabilities["c"].hedges == 1


@pytest.mark.parametrize("keys", [{"mode": "single"}, {"idempotent": False}, {"heads": 1}])
def test_what_may_not_have_one_has_none(keys: dict[str, Any]) -> None:
    assert hedged_after(known(), **keys)[0] is None


def test_none_without_a_budget_which_starts_empty_and_gets_one_in_twenty() -> None:
    fixture = known(hedge=HedgeSettings())
    bucket = pool(fixture).hedges
    assert bucket.tokens == 0.0
    assert bucket.look(pool(fixture).messages, fixture.clock.now) == pytest.approx(0.05 * 40)
    deliveries = [send_one(fixture, number) for number in range(3)]
    assert [deliver.peer for deliver in deliveries] == [b"a"] * 3
    assert len(only(fixture.advance(0.5), Deliver)) == 2, "0.05 * 43 = 2.15"


def test_the_budget_is_capped() -> None:
    fixture = known(hedge=HedgeSettings(share=1.0, most=2.0))
    assert pool(fixture).hedges.look(pool(fixture).messages, fixture.clock.now) == 2.0


def test_one_that_a_message_asks_for_needs_no_budget() -> None:
    fixture = known(hedge=HedgeSettings(share=0.0))
    assert hedged_after(fixture)[0] is None
    fixture = known(hedge=HedgeSettings(share=0.0))
    assert hedged_after(fixture, mode="hedge")[0] == pytest.approx(late_s(), abs=1.1e-3)


def test_only_to_an_idle_backend() -> None:
    fixture = known("hedge")
    fixture.update(b"b", slots=1, prefetch=3)
    fixture.heartbeat(b"b", queue=1)
    fixture.heartbeat(b"b", queue=2)
    assert fixture.backend("b").other == 1.25
    assert hedged_after(fixture)[0] is None


@pytest.mark.parametrize(("queue", "hedged"), [(9, True), (10, False)])
def test_not_while_70_percent_of_the_slots_are_taken(queue: int, hedged: bool) -> None:
    """Of 8 slots 5.6: the message itself and, from elsewhere at a third, 4.5 or 5."""
    fixture = known()
    fixture.register("third", "c", slots=1)
    fixture.update(b"a", slots=4)
    fixture.update(b"b", slots=3)
    fixture.heartbeat(b"third", queue=queue)
    assert (pool(fixture).slots, pool(fixture).busy) == (8, queue / 2)
    assert (hedged_after(fixture)[0] is not None) == hedged


@pytest.mark.parametrize("reports", [False, True])
def test_none_to_one_that_was_busy_and_never_says_how_busy(reports: bool) -> None:
    fixture = known()
    for deliver in only(fixture.send("c", client_id=7, mode="fanout"), Deliver):
        if deliver.peer == b"b":
            fixture.nack(deliver, "busy", retry_after_ms=0)
        else:
            fixture.ack(deliver)
    fixture.advance(0.06)
    if reports:
        fixture.heartbeat(b"b", queue=0)
    assert (hedged_after(fixture)[0] is not None) == reports


def test_none_while_retries_and_timeouts_are_a_tenth_of_the_messages() -> None:
    assert hedged_after(troubled(0.1, less=0.001))[0] is not None
    assert hedged_after(troubled(0.1))[0] is None


def troubled(share: float, *, less: float = 0.0, ago_s: float = 0.0) -> BrokerFixture:
    """Return a broker in which so many of the messages will have been trouble when the next one is looked at."""
    fixture = known()
    pool(fixture).troubles = share * (pool(fixture).messages + 1) - less
    pool(fixture).trouble_at = fixture.clock.now - ago_s
    return fixture


def test_trouble_of_long_ago_is_none() -> None:
    assert hedged_after(troubled(0.5, ago_s=59.0))[0] is None
    assert hedged_after(troubled(0.5, ago_s=60.1))[0] is not None


@pytest.mark.parametrize(("cost", "hedged"), [(2.0, True), (2.1, False)])
def test_none_to_one_that_is_more_than_twice_as_dear(cost: float, hedged: bool) -> None:
    fixture = known()
    fixture.update(b"a", cost=1.0)
    fixture.update(b"b", cost=cost)
    assert (hedged_after(fixture)[0] is not None) == hedged


def test_the_first_answer_counts_and_the_other_is_cancelled() -> None:
    fixture = known()
    _, (second,) = hedged_after(fixture)
    actions = fixture.ack(second)
    assert [type(action).__name__ for action in actions] == ["Reply", "CancelDelivery"]
    assert actions[1].peer == b"a"
