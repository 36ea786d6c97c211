"""A message waits for a full backend where that is the sooner answer by far, and never for nothing."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import delivery_outcomes, outcomes
from routing_kit import learn, make, name_of, occupy, pool, room_only_at, send, send_one, service
from test_core_outlook import explain
from test_core_why import EVERYTHING, row, why_one

from router_daemon.core.actions import CancelDelivery, Deliver, Error, Reply
from router_daemon.core.settings import (
    AttentionSettings,
    ExplorationSettings,
    HedgeSettings,
    RetrySettings,
    WaitingSettings,
)
from router_daemon.policies.attention import Attention
from router_daemon.testing import BrokerFixture, only

NO_EXPLORATION = ExplorationSettings(share=0.0)
NO_RESERVE = WaitingSettings(reserve=0.0)
FAST_S, SLOW_S = 0.02, 2.0
WORTH_S = SLOW_S / 4.0
"""What a slow backend's latency comes to over `hold_times`; a little more, with the penalty for failures."""


def unequal(*, learnt: bool = True, **settings: Any) -> BrokerFixture:
    """Return a broker with a backend of 20 ms and one place beside one of 2 s and eight."""
    given: dict[str, Any] = {"exploration": NO_EXPLORATION, "default_ttl_ms": 60_000, "waiting": NO_RESERVE} | settings
    fixture = make(**given)
    fixture.register("fast", "c", slots=1)
    fixture.register("slow", "c", slots=8)
    if learnt:
        learn(fixture, "fast", FAST_S, 50)
        learn(fixture, "slow", SLOW_S, 3)
    return fixture


def held(fixture: BrokerFixture) -> int:
    """Return how many messages wait, after a look at all sums."""
    fixture.broker.check()
    return fixture.broker.dispatcher.waiting.size


def test_it_waits_for_the_fast_one_and_goes_there_when_that_answers() -> None:
    fixture = unequal()
    (first,) = occupy(fixture, "fast", 1)
    assert send(fixture, 1) == []
    assert held(fixture) == 1
    assert fixture.broker.counts.capabilities["c"].holds == 1
    fixture.advance(FAST_S)
    (deliver,) = only(fixture.ack(first), Deliver)
    assert name_of(deliver) == "fast"
    assert held(fixture) == 0


@pytest.mark.parametrize(
    "hold_times",
    [0.0, 50.0],
    ids=["switched off", "2 s are less than fifty times what waiting for 20 ms comes to"],
)
def test_without_that_whoever_has_room_gets_it(hold_times: float) -> None:
    fixture = unequal(attention=AttentionSettings(hold_times=hold_times))
    occupy(fixture, "fast", 1)
    assert name_of(send_one(fixture, 1)) == "slow"
    assert fixture.broker.counts.capabilities["c"].holds == 0
    assert sum(fixture.broker.routes.stable.faults.values()) == 0


def test_it_waits_behind_so_many_as_the_fast_one_does_meanwhile_and_no_more() -> None:
    """E = 4 s + ahead s, s = 20 ms, and a penalty for failures: less than what the slow one takes over 4."""
    fixture = unequal()
    learn(fixture, "slow", SLOW_S, 50)  # as sure as the other one
    occupy(fixture, "fast", 1)
    ahead = 0
    while not send(fixture, ahead):
        ahead += 1
        assert held(fixture) == ahead
    most_s = service(fixture, "slow").expected_s / 4.0  # a little less before the last one was sent there
    expected_s = service(fixture, "fast").expected_s
    assert expected_s + (ahead - 1) * FAST_S < most_s
    assert expected_s + (ahead + 5) * FAST_S > most_s


def test_where_the_fast_one_hangs_the_slow_one_gets_it_soon() -> None:
    fixture = unequal()
    occupy(fixture, "fast", 1)
    send(fixture, 1)
    begun = fixture.clock.now
    found: list[Deliver] = []
    while not found:
        due = fixture.broker.next_deadline()
        assert due is not None
        found = only(fixture.advance(max(due - fixture.clock.now, 0.001)), Deliver)
    assert [name_of(deliver) for deliver in found] == ["slow"]
    assert WORTH_S <= fixture.clock.now - begun < 3.0 * WORTH_S
    assert held(fixture) == 0


def test_where_the_fast_one_is_lost_too() -> None:
    fixture = unequal()
    occupy(fixture, "fast", 1)
    send(fixture, 1)
    assert [name_of(deliver) for deliver in only(fixture.gone(b"fast"), Deliver)] == ["slow"]
    assert only(fixture.advance(3.0 * WORTH_S), Deliver) == []


def test_nobody_waits_for_one_that_is_not_known() -> None:
    fixture = unequal(learnt=False)
    learn(fixture, "slow", SLOW_S, 3)
    occupy(fixture, "fast", 1)
    assert name_of(send_one(fixture, 1)) == "slow"


def test_nobody_waits_for_one_that_it_has_tried() -> None:
    fixture = unequal()
    assert name_of(send_one(fixture, 1, first_ms=100)) == "fast"
    (second,) = only(fixture.advance(0.11), Deliver)  # the place is taken until it answers
    assert fixture.backend("fast").full
    assert name_of(second) == "slow"


def test_a_retry_waits_as_a_first_try_does() -> None:
    fixture = unequal()
    fixture.register("other", "c", slots=1)
    learn(fixture, "other", FAST_S, 50)
    (taken,) = occupy(fixture, "other", 1)
    deliver = send_one(fixture, 1)
    assert name_of(deliver) == "fast"
    assert only(fixture.nack(deliver), Deliver) == []
    assert held(fixture) == 1
    fixture.advance(FAST_S)
    (second,) = only(fixture.ack(taken), Deliver)
    assert name_of(second) == "other"


def test_one_that_names_the_slow_one_goes_there() -> None:
    fixture = unequal(backend_override=True)
    occupy(fixture, "fast", 1)
    assert name_of(send_one(fixture, 1, backend="slow")) == "slow"


def test_one_that_may_not_cost_what_the_fast_one_does_goes_to_the_slow_one() -> None:
    fixture = unequal()
    fixture.update(b"fast", cost=5.0)
    fixture.update(b"slow", cost=1.0)
    occupy(fixture, "fast", 1)
    assert name_of(send_one(fixture, 1, max_cost=2.0)) == "slow"
    assert send(fixture, 2) == []


@pytest.mark.parametrize("limits", [{"queue_messages": 4}, {"queue_bytes": 40}], ids=["messages", "bytes"])
def test_nobody_is_refused_or_displaced_for_waiting_since_half_the_room_is_left_free(limits: dict[str, Any]) -> None:
    fixture = unequal(**limits)
    occupy(fixture, "fast", 1)
    for number in range(2):
        assert only(fixture.send("c", b"0123456789", client_id=number, priority=1), Deliver) == []
    (deliver,) = only(fixture.send("c", b"0123456789", client_id=2, priority=3), Deliver)
    assert name_of(deliver) == "slow"
    assert held(fixture) == 2


def test_nor_where_waiting_takes_too_much_of_the_time_to_live() -> None:
    fixture = unequal(waiting=WaitingSettings(reserve=0.0, longest=0.0))
    occupy(fixture, "fast", 1)
    assert name_of(send_one(fixture, 1)) == "slow"


def test_whoever_comes_first_keeps_nobody_waiting_for_longer_than_was_said() -> None:
    """Critical messages keep the fast one busy; another one waits for a quarter of what the slow one takes, and no more."""
    fixture = unequal()
    (running,) = occupy(fixture, "fast", 1)
    assert send(fixture, 1, priority=1) == []
    begun, number = fixture.clock.now, 100
    sent: list[Deliver] = []
    while not sent:
        assert send(fixture, number, priority=4) == []
        number += 1
        sent = [d for d in only(fixture.advance(FAST_S), Deliver) if name_of(d) == "slow"]
        (running,) = only(fixture.ack(running), Deliver)
        assert running.header.priority == 4
        fixture.broker.check()
    assert [deliver.header.priority for deliver in sent] == [1]
    assert fixture.clock.now - begun == pytest.approx(service(fixture, "slow").expected_s / 4.0, abs=2 * FAST_S)


def test_the_first_of_several_moments_counts() -> None:
    """Held for long against the one of 15 s, then for less against the one of 2 s, which has got room meanwhile."""
    fixture = unequal()
    fixture.register("slowest", "c", slots=2)
    learn(fixture, "slowest", 15.0, 3)
    (taken, *_) = occupy(fixture, "slow", 8)
    with room_only_at(fixture, "fast"):
        send_one(fixture, 2, heads=1)
    assert send(fixture, 1) == []
    assert pool(fixture).held_until - fixture.clock.now > 3.0
    fixture.advance(0.1)
    assert only(fixture.ack(taken), Deliver) == []
    assert pool(fixture).held_until - fixture.clock.now < 2.0 * WORTH_S
    (deliver,) = only(fixture.advance(2.0 * WORTH_S), Deliver)
    assert name_of(deliver) == "slow"


def test_those_that_name_a_backend_do_not_hide_the_others_from_a_look() -> None:
    patient = WaitingSettings(reserve=0.0, longest=1.0)
    fixture = unequal(backend_override=True, waiting=patient, default_ttl_ms=300_000)
    learn(fixture, "slow", 20.0, 50)  # so that 40 before it are not too many
    occupy(fixture, "fast", 1)
    for number in range(40):
        assert send(fixture, number, backend="fast") == []
    fixture.update(b"fast", cost=1.0)
    assert send(fixture, 50, max_cost=2.0) == []
    (deliver,) = only(fixture.advance(10.0), Deliver)
    assert name_of(deliver) == "slow"


def test_it_works_where_capabilities_are_no_filter() -> None:
    fixture = unequal(require_capability=False)
    occupy(fixture, "fast", 1)
    assert send(fixture, 1) == []
    (deliver,) = only(fixture.advance(2.0 * WORTH_S), Deliver)
    assert name_of(deliver) == "slow"


def test_cost_is_no_speed() -> None:
    """Two that are as fast: however much cheaper the full one is, nobody waits for it."""
    fixture = unequal(learnt=False, attention=AttentionSettings(cost_weight=1.0))
    for name, cost in (("fast", 0.01), ("slow", 10.0)):
        learn(fixture, name, FAST_S, 20)
        fixture.update(name.encode(), cost=cost)
    occupy(fixture, "fast", 1)
    assert name_of(send_one(fixture, 1)) == "slow"


def test_a_policy_that_says_no_time_has_chosen() -> None:
    fixture = unequal()
    occupy(fixture, "fast", 1)
    fixture.broker.policy.holds = lambda *_: float("nan")  # type: ignore[attr-defined]
    assert name_of(send_one(fixture, 1)) == "slow"
    assert sum(fixture.broker.routes.stable.faults.values()) == 1


def test_in_mode_fanout_the_first_head_waits_and_the_further_ones_do_not() -> None:
    fixture = unequal(mode="fanout", retry=RetrySettings(share=0.0))
    (first,) = occupy(fixture, "fast", 1)
    assert send(fixture, 1) == []
    fixture.advance(FAST_S)
    assert [name_of(deliver) for deliver in only(fixture.ack(first), Deliver)] == ["fast", "slow"]


def test_of_more_than_are_looked_at_those_that_were_drawn_are_waited_for() -> None:
    """Of 40 fast ones and one that is slow, 2 are drawn: mostly nobody with room, so that the slow one is the choice."""
    fixture = unequal(attention=AttentionSettings(scan_most=2, sample=2))
    for number in range(39):
        fixture.register(f"fast{number}", "c", slots=1)
        learn(fixture, f"fast{number}", FAST_S)
    for number, name in enumerate(["fast", *(f"fast{number}" for number in range(39))]):
        with room_only_at(fixture, name):
            send_one(fixture, 100 + number, heads=1)
    assert [send(fixture, number) for number in range(5)] == [[]] * 5


@pytest.mark.parametrize(("scan_most", "walks"), [(2, True), (1, False)])
def test_of_many_full_ones_none_is_looked_at_to_tell_whether_to_ask(scan_most: int, walks: bool) -> None:
    """Two full ones, as slow as the choice: a walk through them says no; `holds` is asked without one beyond `scan_most`."""
    fixture = unequal(learnt=False, attention=AttentionSettings(scan_most=scan_most))
    fixture.register("full", "c", slots=1)
    for number, name in enumerate(("fast", "full")):
        learn(fixture, name, FAST_S, 20)
        with room_only_at(fixture, name):
            send_one(fixture, 100 + number, heads=1)
    learn(fixture, "slow", FAST_S, 20)
    now, policy = fixture.clock.now, fixture.broker.policy
    assert isinstance(policy, Attention)
    ranking = fixture.broker.rankings.get("c", 2, now)
    (choice,) = (candidate for candidate in ranking.candidates if candidate.backend.name == "slow")
    choice.service.bring_up_to_date(now, fixture.settings.profile, fixture.settings.attention)
    assert policy.may_hold(ranking, choice) is not walks
    assert policy.holds(ranking, choice, (), 0, now) is None
    assert name_of(send_one(fixture, 1)) == "slow"


def test_a_policy_that_fails_to_say_has_chosen() -> None:
    fixture = unequal()
    occupy(fixture, "fast", 1)
    fixture.broker.policy.holds = lambda *_: 1 / 0  # type: ignore[attr-defined]
    assert name_of(send_one(fixture, 1)) == "slow"
    assert sum(fixture.broker.routes.stable.faults.values()) == 1


def test_explain_and_why_say_so() -> None:
    fixture = unequal(why=EVERYTHING)
    (first,) = occupy(fixture, "fast", 1)
    view = explain(fixture)
    reasons = {told["backend"]: told["reason"] for told in view["candidates"]}
    assert reasons == {
        "fast": "all its places are taken",
        "slow": "a full backend is faster by far: messages wait for that (attention.hold_times)",
    }
    assert view["admission"]["would"] == "wait"
    assert view["admission"]["why"] == "a full backend is faster by far than those with room"
    assert send(fixture, 7) == []
    fixture.advance(FAST_S)
    (deliver,) = only(fixture.ack(first), Deliver)
    fixture.ack(deliver)
    decided = why_one(fixture, "7")["decisions"]
    assert [each["kind"] for each in decided] == ["first", "served"]
    assert row(decided[0], "slow")["reason"] == "a full one is faster by far: it waits for that"
    assert row(decided[0], "fast")["reason"] == "all its places were taken"


def test_looking_holds_nobody() -> None:
    fixture = unequal()
    occupy(fixture, "fast", 1)
    explain(fixture)
    assert pool(fixture).bucket is None
    assert fixture.broker.counts.capabilities["c"].holds == 0


# --- who finds out about a backend does not wait for it ---


def explores(**settings: Any) -> tuple[BrokerFixture, Deliver]:
    """Return a broker whose next message has gone to the slow backend, unused for long."""
    fixture = unequal(mode="auto", auto_idle=0.0, exploration=ExplorationSettings(share=0.02), **settings)
    fixture.advance(200.0)
    for number in range(100):
        deliver = send_one(fixture, number)
        if name_of(deliver) == "slow":
            return fixture, deliver
        fixture.advance(FAST_S)
        fixture.ack(deliver)
    raise AssertionError("nobody has looked how the slow one does")


@pytest.mark.parametrize(
    "hedge",
    [HedgeSettings(), HedgeSettings(most=0.0), HedgeSettings(load_below=0.0)],
    ids=["default", "budget", "load"],
)
def test_it_is_hedged_as_if_it_had_gone_to_the_best(hedge: HedgeSettings) -> None:
    fixture, deliver = explores(hedge=hedge)
    answered = outcomes(fixture)["answered"]
    late_s = service(fixture, "fast").late_s
    assert only(fixture.advance(late_s - 0.002), Deliver) == []
    (second,) = only(fixture.advance(0.004), Deliver)
    assert name_of(second) == "fast"
    fixture.advance(FAST_S)
    answers = fixture.ack(second)
    assert [answer.header.backend for answer in only(answers, Reply)] == ["fast"]
    assert only(answers, CancelDelivery) == []  # the other one is to be measured
    samples = service(fixture, "slow").samples
    fixture.advance(SLOW_S)
    late = fixture.ack(deliver)
    assert service(fixture, "slow").samples == samples + 1
    assert only(late, Error) + only(late, Reply) == []
    assert outcomes(fixture)["answered"] == answered + 1


def test_where_the_best_is_busy_then_it_asks_again() -> None:
    fixture, deliver = explores()
    taken = occupy(fixture, "fast", 1)
    late_s = service(fixture, "fast").late_s
    assert only(fixture.advance(late_s + 0.002), Deliver) == []
    fixture.ack(taken[0])
    (second,) = only(fixture.advance(2.0 * late_s + 0.002), Deliver)
    assert name_of(second) == "fast"
    fixture.ack(second)
    fixture.ack(deliver)
    fixture.broker.check()


def test_not_where_hedges_are_off() -> None:
    fixture, _ = explores(hedge=HedgeSettings(share=0.0))
    assert only(fixture.advance(SLOW_S), Deliver) == []


def test_what_follows_a_failure_is_no_exploration() -> None:
    fixture, deliver = explores(hedge=HedgeSettings(most=0.0))
    fixture.register("idle", "c")
    assert len(only(fixture.nack(deliver), Deliver)) == 1
    assert only(fixture.advance(service(fixture, "fast").late_s + 0.002), Deliver) == []


def test_a_failure_counts_though_another_one_has_answered() -> None:
    fixture, deliver = explores()
    (second,) = only(fixture.advance(service(fixture, "fast").late_s + 0.002), Deliver)
    fixture.ack(second)
    before = fixture.backend("slow").profile.success
    fixture.nack(deliver)
    assert delivery_outcomes(fixture, "slow")["failed"] == 1
    assert fixture.backend("slow").profile.success < before
