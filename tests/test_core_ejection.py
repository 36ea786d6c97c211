"""Ejection: who, each condition alone; for how long; the trial; how one comes back; and never everybody."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import make_broker
from routing_kit import learn, name_of, occupy, pool, room_only_at, send, send_one, service

from router_daemon.core.actions import Deliver
from router_daemon.core.settings import EjectionSettings, RetrySettings, WaitingSettings
from router_daemon.testing import BrokerFixture, only

RICH = RetrySettings(start=1_000.0, most=1_000.0)
EXACT = EjectionSettings(jitter=0.0)


def members(*names: str, ejection: EjectionSettings = EXACT, slots: int = 4, **settings: Any) -> BrokerFixture:
    """Return a broker whose first backend gets whatever it can take."""
    settings = {"retry": RICH, "heartbeat_s": 1000.0, "mode": "single"} | settings
    return make_broker(*names, slots=slots, ejection=ejection, **settings)


def fail(fixture: BrokerFixture, times: int, code: str = "failed", **keys: Any) -> None:
    """Let the first backend fail so many messages, each answered by the next one."""
    for number in range(times):
        for again in only(fixture.nack(send_one(fixture, number, **keys), code), Deliver):
            fixture.ack(again)


def ejected(fixture: BrokerFixture, name: str = "a") -> bool:
    return fixture.backend(name).ejected


# --- the conditions, each alone ---


def test_at_least_five_failures() -> None:
    fixture = members("a", "b")
    fail(fixture, 4)
    assert not ejected(fixture)
    fail(fixture, 1)
    assert ejected(fixture)
    assert fixture.backend("a").state == "ejected"
    assert fixture.broker.counts.backends["a"].ejections == 1
    assert send_one(fixture).peer == b"b"


@pytest.mark.parametrize(
    ("successes", "failures", "out"), [(9, 10, True), (10, 10, False), (30, 10, False), (30, 11, True)]
)
def test_over_half_of_the_last_twenty(successes: int, failures: int, out: bool) -> None:
    fixture = members("a", "b")
    for number in range(successes):
        fixture.ack(send_one(fixture, number))
    fail(fixture, failures)
    assert ejected(fixture) == out


def test_the_last_five_failures_within_thirty_seconds() -> None:
    for gap_s, out in ((7.4, True), (7.6, False)):
        fixture = members("a", "b")
        for _ in range(5):
            fail(fixture, 1)
            if not ejected(fixture):
                fixture.advance(gap_s)
        assert ejected(fixture) == out, "4 gaps of 7.5 s are 30 s"


@pytest.mark.parametrize("code", ["busy", "rejected", "cancelled"])
def test_only_for_what_it_is_to_blame_for(code: str) -> None:
    fixture = members("a", "b")
    for number in range(30):
        deliver = send_one(fixture, number)
        for again in only(fixture.nack(deliver, code, retry_after_ms=0), Deliver):
            fixture.ack(again) if again.peer == b"b" else fixture.nack(again, "rejected")
    assert not ejected(fixture)


def test_never_the_last_one() -> None:
    fixture = members("a")
    fail(fixture, 30)
    assert not ejected(fixture)
    fixture = members("a", "b", heads=1)
    for number in range(60):
        fixture.nack(send_one(fixture, number))
    assert [ejected(fixture, name) for name in "ab"].count(True) == 1


def test_not_while_the_others_of_the_capability_fail_too() -> None:
    for failures, out in ((3, True), (4, False)):  # of 10 outcomes: 30 % is not more than 30 %
        fixture = members("a", "b", heads=1)
        for name, times, failed in (("b", 10, failures), ("a", 5, 5)):
            with room_only_at(fixture, name):
                for number in range(times):
                    deliver = send_one(fixture, number)
                    fixture.nack(deliver) if number < failed else fixture.ack(deliver)
        assert ejected(fixture) == out


@pytest.mark.parametrize(("busy", "out"), [(2, True), (3, False)])
def test_not_where_the_others_could_not_take_its_work(busy: int, out: bool) -> None:
    """b has 4 slots and a has 2 deliveries open beside those that fail: 4 - 2 are enough, 4 - 3 are not."""
    fixture = members("a", "b")
    occupy(fixture, "b", busy)
    for number in (100, 101):
        assert send_one(fixture, number).peer == b"a"
    for number in range(5):
        fixture.nack(send_one(fixture, number, heads=1))
    assert ejected(fixture) == out


def test_not_at_all_where_it_is_switched_off() -> None:
    fixture = members("a", "b", ejection=EjectionSettings(failures=0))
    fail(fixture, 40)
    assert not ejected(fixture)


# --- for how long ---


def trial(fixture: BrokerFixture) -> Deliver:
    """Send a message; it goes to the first backend on trial."""
    deliver = send_one(fixture, 7)
    assert deliver.peer == b"a"
    return deliver


def test_a_quarter_of_a_second_doubled_to_ten() -> None:
    fixture = members("a", "b")
    fail(fixture, 5)
    for length_s in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0):
        assert fixture.backend("a").readmit_at - fixture.clock.now == pytest.approx(length_s)
        fixture.advance(length_s - 0.01)
        deliver = send_one(fixture, 1)
        assert deliver.peer == b"b"
        fixture.ack(deliver)
        fixture.advance(0.07)
        (again,) = only(fixture.nack(trial(fixture)), Deliver)
        fixture.ack(again)
    assert fixture.broker.counts.backends["a"].ejections == 1, "prolonged, not another one"


def test_times_vary_by_a_fifth() -> None:
    lengths = []
    for seed in range(60):
        fixture = members("a", "b", ejection=EjectionSettings())
        fixture.random.seed(seed)
        fail(fixture, 5)
        lengths.append(fixture.backend("a").readmit_at - fixture.clock.now)
    assert 0.2 <= min(lengths) < 0.21
    assert 0.29 < max(lengths) <= 0.3


# --- the trial, and coming back ---


def out_for_a_while(**settings: Any) -> BrokerFixture:
    """Return a broker whose first backend was ejected and may be tried."""
    fixture = members("a", "b", **settings)
    fail(fixture, 5)
    fixture.advance(0.31)
    return fixture


def test_one_message_at_a_time_is_the_trial() -> None:
    fixture = out_for_a_while()
    assert trial(fixture).peer == b"a"
    assert send_one(fixture, 8).peer == b"b"
    fixture.advance(5.0)
    fixture.heartbeat(b"a")
    assert send_one(fixture, 9).peer == b"b", "while the first is out there is no second"


def test_a_success_ends_it() -> None:
    fixture = out_for_a_while()
    fixture.ack(trial(fixture))
    assert not ejected(fixture)
    assert send_one(fixture, 8).peer == b"a"


@pytest.mark.parametrize("code", ["busy", "rejected", "cancelled"])
def test_one_that_tells_nothing_is_followed_by_another(code: str) -> None:
    fixture = out_for_a_while()
    for again in only(fixture.nack(trial(fixture), code, retry_after_ms=0), Deliver):
        fixture.ack(again)
    assert ejected(fixture)
    assert trial(fixture).peer == b"a"


@pytest.mark.parametrize("keys", [{"priority": 4}, {"idempotent": False}, {"heads": 1}])
def test_never_with_what_is_critical_or_cannot_go_on_elsewhere(keys: dict[str, Any]) -> None:
    fixture = out_for_a_while()
    assert send_one(fixture, 8, **keys).peer == b"b"


def test_a_trial_takes_a_place_like_any_delivery() -> None:
    fixture = members("a", "b")
    held = occupy(fixture, "a", 2)
    fail(fixture, 5)
    fixture.update(b"a", slots=2)
    fixture.advance(0.31)
    assert send_one(fixture, 8).peer == b"b"
    fixture.ack(held[0])
    assert send_one(fixture, 9).peer == b"a"


def test_not_while_it_is_disconnected() -> None:
    fixture = make_broker("b", ejection=EXACT, retry=RICH, mode="single", heartbeat_s=1000.0)
    fixture.unregister(b"b")
    fixture.register("a", "c", slots=4, session=b"session-1")
    fixture.register("b", "c", slots=4)
    fail(fixture, 5)
    fixture.gone(b"a")
    fixture.advance(0.31)
    assert send_one(fixture, 8).peer == b"b"


def test_a_trial_goes_out_though_all_others_are_full() -> None:
    fixture = out_for_a_while(waiting=WaitingSettings(reserve=0.0))
    fixture.update(b"b", slots=1)
    taken = send_one(fixture, 20, priority=4)
    assert taken.peer == b"b"
    assert trial(fixture).peer == b"a"


def test_fanout_lets_it_in_too() -> None:
    fixture = out_for_a_while()
    assert sorted(name_of(deliver) for deliver in send(fixture, 8, mode="fanout")) == ["a", "b"]


def test_who_failed_alone_comes_back_as_new() -> None:
    fixture = members("a", "b")
    learn(fixture, "b", 0.1, times=3)
    learn(fixture, "a", 0.5)
    fail(fixture, 5)
    fixture.advance(0.31)
    assert service(fixture).service_s == pytest.approx(0.5)
    fixture.ack(trial(fixture))
    assert service(fixture).samples == 0
    assert service(fixture).service_s == pytest.approx(pool(fixture).reference_s)
    assert fixture.backend("a").window == 2, "and starts slowly; the trial was the first round"


def test_who_failed_with_others_comes_back_as_it_was() -> None:
    fixture = members("a", "b", "d", ejection=EjectionSettings(jitter=0.0, elsewhere=1.0))
    for number in range(10):
        fixture.nack(send_one(fixture, number, heads=1))
    assert [ejected(fixture, name) for name in "abd"] == [True, True, False]
    assert [fixture.backend(name).correlated for name in "ab"] == [False, True]
    learned = service(fixture, "b").samples
    fixture.advance(0.31)
    for _ in range(2):
        fixture.ack(send_one(fixture, 50))
    assert not ejected(fixture, "b")
    assert fixture.backend("b").window is None
    assert service(fixture, "b").samples == learned + 1


def test_after_twenty_good_ones_it_is_short_again() -> None:
    fixture = out_for_a_while()
    fixture.ack(trial(fixture))
    for number in range(20):
        fixture.ack(send_one(fixture, number))
    assert fixture.backend("a").ejections == 0
    fail(fixture, 11)
    assert fixture.backend("a").readmit_at - fixture.clock.now == pytest.approx(0.25)


def test_where_no_message_may_be_risked_it_is_let_in_after_the_longest_time() -> None:
    fixture = out_for_a_while(heads=1, heartbeat_s=1.0)
    began = fixture.clock.now
    while (deliver := send_one(fixture, 8)).peer == b"b":
        fixture.ack(deliver)
        fixture.heartbeat(b"a")
        fixture.advance(1.0)
    assert 10.0 <= fixture.clock.now - began <= 10.0 + 3.0 + 1.0, "noticed within three heartbeats"


# --- never everybody ---


@pytest.mark.parametrize("how", ["unregister", "drain", "update"])
def test_when_the_last_other_goes_all_are_let_in_and_serve_who_waits(how: str) -> None:
    fixture = members("a", "b", waiting=WaitingSettings(longest=1.0))
    fail(fixture, 5)
    fixture.update(b"b", slots=1)
    assert send_one(fixture, 90).peer == b"b"
    assert fixture.send("c", client_id=91) == []
    if how == "update":
        actions = fixture.update(b"b", capabilities=["other"])
    else:
        actions = fixture.unregister(b"b") if how == "unregister" else fixture.drain(b"b")
    assert not ejected(fixture)
    assert "a" in [name_of(deliver) for deliver in only(actions, Deliver)]


def test_who_is_lost_with_much_to_do_is_not_ejected_after_it_has_gone() -> None:
    fixture = members("a", "b", slots=8)
    occupy(fixture, "a", 6)
    fixture.unregister(b"a")
    fixture.advance(30.0)
    assert list(fixture.broker.registry.by_name) == ["b"]
    assert fixture.broker.counts.backends["a"].ejections == 0


def test_one_that_drains_is_not_ejected() -> None:
    fixture = members("a", "b")
    deliveries = [send_one(fixture, number) for number in range(4)]
    fixture.backend("a").failed, fixture.backend("a").settled = 0b1111, 4
    fixture.backend("a").failures_at.extend([fixture.clock.now] * 4)
    fixture.drain(b"a")
    for deliver in deliveries[:2]:
        fixture.nack(deliver)
    assert not ejected(fixture)


def test_not_the_last_one_that_can_be_reached() -> None:
    """The other is still registered, as its session may come back, but gets nothing meanwhile."""
    fixture = make_broker("there", "away", heartbeat_s=1000.0, mode="single", ejection=EXACT)
    fixture.update(b"away", session=b"12345678")
    fixture.gone(b"away")
    assert not fixture.backend("away").connected
    fail(fixture, 6, heads=1)
    assert not fixture.backend("there").ejected
