"""Retries: their budget, how long a head has, and the same backend once more."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import make_broker
from routing_kit import learn, name_of, pool, refusal, send_one

from router_daemon.core.actions import CancelDelivery, Deliver, Error, Reply
from router_daemon.core.settings import EjectionSettings, RetrySettings
from router_daemon.testing import BrokerFixture, only

NO_EJECTION = EjectionSettings(failures=0)


def failing(**settings: Any) -> BrokerFixture:
    """Return a broker with two backends whose order is fixed, and nobody is ejected; a tenth may be tried again."""
    settings = {"retry": RetrySettings(share=0.1)} | settings
    return make_broker("a", "b", slots=50, mode="single", ejection=NO_EJECTION, **settings)


def retried(fixture: BrokerFixture, number: int) -> bool:
    """Let a message's first head fail; tell whether a second one got it, which then succeeds."""
    actions = fixture.nack(send_one(fixture, number))
    again = only(actions, Deliver)
    if again:
        fixture.ack(again[0])
    else:
        assert refusal(actions)[0] == "overloaded"
    return bool(again)


# --- the budget ---


def test_three_at_first_then_one_in_ten() -> None:
    fixture = failing()
    outcome = [retried(fixture, number) for number in range(24)]
    assert outcome[:4] == [True] * 3 + [False], "3.4 - 3 is less than 1"
    assert sum(outcome) == 5, "3 + 24 / 10"
    assert fixture.broker.counts.capabilities["c"].refusals["budget"] == 19
    assert fixture.broker.counts.capabilities["c"].retries == 5


def test_a_second_adds_one_where_messages_add_less() -> None:
    fixture = failing()
    for number in range(4):
        retried(fixture, number)
    fixture.advance(0.5)
    assert not retried(fixture, 5)
    fixture.advance(0.6)
    assert retried(fixture, 6)


def test_no_more_than_ten_are_saved_up() -> None:
    fixture = failing(heartbeat_s=1000.0)
    retried(fixture, 0)
    fixture.advance(100.0)
    assert sum(retried(fixture, number) for number in range(1, 11)) == 10
    assert pool(fixture).retries.tokens == pytest.approx(0.9)


def test_each_capability_has_its_own() -> None:
    fixture = failing()
    for name in ("a", "b"):
        fixture.update(name.encode(), capabilities=["c", "d"])
    while retried(fixture, 1):
        pass
    first = send_one(fixture, 2, "d")
    assert only(fixture.nack(first), Deliver)


def test_what_had_not_begun_costs_nothing() -> None:
    fixture = make_broker("a", "b", slots=50, mode="single", retry=RetrySettings(start=0.0, share=0.0, per_s=0.0))
    again = only(fixture.nack(send_one(fixture), "busy", retry_after_ms=1000), Deliver)
    assert [name_of(deliver) for deliver in again] == ["b"]
    assert len(only(fixture.undelivered(again[0], full=True), Deliver)) <= 1
    assert fixture.broker.counts.capabilities["c"].retries == 0


def test_a_timed_out_head_without_a_token_goes_on() -> None:
    fixture = failing(attempt_timeout_s=0.2, retry=RetrySettings(start=0.0, share=0.0, per_s=0.0))
    deliver = send_one(fixture)
    assert fixture.advance(1.0) == []
    (reply,) = only(fixture.ack(deliver), Reply)
    assert reply.header.last


# --- how long a head has ---


def attempts(fixture: BrokerFixture, ttl_ms: int, **keys: Any) -> list[float]:
    """Send one message that nobody answers; return when its heads were sent to and when it ended, in seconds."""
    fixture.send("c", ttl_ms=ttl_ms, **keys)
    began, times = fixture.clock.now, [0.0]
    while not times or fixture.broker.open_messages:
        due = fixture.broker.next_deadline()
        assert due is not None
        actions = fixture.advance(max(0.0, due - fixture.clock.now))
        if any(isinstance(action, Deliver | Error) for action in actions):
            times.append(fixture.clock.now - began)
    return times


def test_equal_shares_of_what_is_left_and_all_of_it_for_the_last() -> None:
    fixture = make_broker("a", "b", "d", mode="single", heartbeat_s=1000.0)
    assert attempts(fixture, 900) == pytest.approx([0.0, 0.3, 0.6, 0.9], abs=0.06)
    assert attempts(fixture, 900, heads=2) == pytest.approx([0.0, 0.45, 0.9], abs=0.06)
    assert attempts(fixture, 900, heads=1) == pytest.approx([0.0, 0.9], abs=0.06)
    assert attempts(fixture, 900, idempotent=False) == pytest.approx([0.0, 0.9], abs=0.06)


@pytest.mark.parametrize("latency_s", [0.1, 0.001], ids=["learnt", "floor"])
def test_once_twenty_latencies_are_known_three_times_what_is_late(latency_s: float) -> None:
    fixture = make_broker("a", "b", mode="single", heartbeat_s=1000.0)
    m = dev = 0.0
    for n in range(1, 21):
        learn(fixture, "a", latency_s)
        weight = max(0.1, 1 / n)
        dev = 0.5 * latency_s if n == 1 else dev + weight * (abs(latency_s - m) - dev)
        m += weight * (latency_s - m)
    timeout_s = max(0.05, 3 * (m + 4 * dev))
    assert attempts(fixture, 20_000)[1] == pytest.approx(timeout_s, abs=2e-3)


def test_a_learnt_timeout_never_takes_more_than_the_share() -> None:
    fixture = make_broker("a", "b", mode="single", heartbeat_s=1000.0)
    learn(fixture, "a", 5.0, times=20)
    assert attempts(fixture, 2_000)[1] == pytest.approx(1.0, abs=0.06)


def test_a_configured_timeout_for_all_or_for_one_capability_replaces_both() -> None:
    fixture = make_broker("a", "b", mode="single", attempt_timeout_s=0.4)
    assert attempts(fixture, 2_000)[1] == pytest.approx(0.4, abs=2e-3)
    fixture = make_broker("a", "b", mode="single", attempt_timeout_s=0.4, attempt_timeouts_s={"c": 0.7})
    assert attempts(fixture, 2_000)[1] == pytest.approx(0.7, abs=2e-3)


# --- the same backend again ---


def alone(mode: str, **settings: Any) -> BrokerFixture:
    """Return a broker with one backend, which takes 0.1 s."""
    fixture = make_broker("a", mode=mode, ejection=NO_EJECTION, **settings)
    learn(fixture, "a", 0.1)
    return fixture


@pytest.mark.parametrize("mode", ["auto", "hedge"])
def test_a_pool_of_one_has_a_retry_after_half_to_one_service(mode: str) -> None:
    waits = []
    for seed in range(20):
        fixture = alone(mode)
        fixture.random.seed(seed)
        assert only(fixture.nack(send_one(fixture)), Error) == []
        assert fixture.broker.dispatcher.waiting.size == 0, "it backs off, and does not wait for a place"
        began = fixture.clock.now
        assert only(fixture.advance(0.0495), Deliver) == []
        while not (again := only(fixture.advance(0.001), Deliver)):
            pass
        waits.append(fixture.clock.now - began)
        assert (again[0].header.attempt, again[0].header.heads) == (2, 2)
    assert 0.05 <= min(waits) < 0.06
    assert 0.09 < max(waits) <= 0.102


@pytest.mark.parametrize("mode", ["single", "fanout"])
def test_not_in_other_modes(mode: str) -> None:
    fixture = alone(mode)
    assert refusal(fixture.nack(send_one(fixture)))[0] == "failed"


@pytest.mark.parametrize("keys", [{"idempotent": False}, {"heads": 1}, {"reply": "all"}])
def test_not_of_what_may_not_run_again(keys: dict[str, Any]) -> None:
    fixture = alone("auto")
    assert refusal(fixture.nack(send_one(fixture, **keys)))[0] == "failed"


def test_not_where_it_is_switched_off() -> None:
    fixture = alone("auto", retry=RetrySettings(same_backend=False))
    assert refusal(fixture.nack(send_one(fixture)))[0] == "failed"


def test_only_after_all_others_and_within_heads() -> None:
    fixture = make_broker("a", "b", mode="auto", auto_idle=0.0, ejection=NO_EJECTION)
    (second,) = only(fixture.nack(send_one(fixture)), Deliver)
    assert second.peer == b"b"
    assert fixture.nack(second) == []
    (third,) = only(fixture.advance(1.0), Deliver)
    assert third.header.attempt == 3
    assert refusal(fixture.nack(third))[0] == "failed", "three heads, three attempts"


def test_each_further_attempt_costs_a_token() -> None:
    fixture = alone("auto", retry=RetrySettings(start=1.0, share=0.0, per_s=0.0))
    fixture.nack(send_one(fixture))
    (again,) = only(fixture.advance(0.2), Deliver)
    assert refusal(fixture.nack(again))[0] == "overloaded"


def test_a_cancel_ends_one_that_backs_off() -> None:
    fixture = alone("auto")
    fixture.nack(send_one(fixture))
    assert refusal(fixture.cancel(1))[0] == "cancelled"
    assert only(fixture.advance(1.0), Deliver) == []


def test_one_that_backs_off_ends_by_its_time() -> None:
    fixture = alone("auto")
    learn(fixture, "a", 2.0, times=20)
    fixture.nack(send_one(fixture, ttl_ms=100))
    assert refusal(fixture.advance(0.16))[0] == "expired"


def test_a_stream_that_begins_late_is_not_followed_by_a_retry() -> None:
    """The head timed out, the message backs off, and then the head streams after all: it is the answering one."""
    fixture = alone("auto")
    deliver = send_one(fixture, first_ms=50)
    assert [type(action) for action in fixture.advance(0.052)] == [CancelDelivery]
    fixture.part(deliver, b"late")
    assert only(fixture.advance(1.0), Deliver) == []
    (reply,) = only(fixture.ack(deliver), Reply)
    assert reply.header.last


def test_who_comes_meanwhile_is_tried() -> None:
    fixture = alone("auto")
    fixture.nack(send_one(fixture))
    fixture.update(b"a", slots=1)
    fixture.register("b", "c")
    assert send_one(fixture, 2, mode="single").peer == b"a"
    assert [name_of(deliver) for deliver in only(fixture.advance(0.2), Deliver)] == ["b"]
