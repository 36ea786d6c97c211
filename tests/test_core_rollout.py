"""Rollouts: who takes which route, the control group, stages, the guard's verdict, and what people may say."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from rollout_kit import rollout_of, route, send_and_answer, with_candidate

from router_daemon.core.actions import Deliver, Error
from router_daemon.core.events import Request
from router_daemon.core.rollout import DONE, ROLLED_BACK, RUNNING, Rollout
from router_daemon.core.settings import RolloutSettings
from router_daemon.testing import BrokerFixture, only

KEYS = [f"user-{number}" for number in range(20_000)]
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
CRITICAL_CHI_SQUARE = 43.82
"""Of 19 degrees of freedom, exceeded by chance once in a thousand."""


def assigned(fixture: BrokerFixture, key: str = "", **keys: Any) -> str:
    chosen: dict[str, Any] = {"key": key} if key else {}
    request = Request(1, "c", **chosen, **keys)
    return rollout_of(fixture).assign(request, "m1").name


# --- who takes which route ---


@pytest.mark.parametrize("what", ["key", "message"])
def test_assignment_is_uniform(what: str) -> None:
    """Chi-square over 20 equal parts of 20,000 keys that differ in their last digits, and of as many messages."""
    rollout = rollout_of(with_candidate())
    places = [
        rollout.place(Request(1, "c", key=key), "m1") if what == "key" else rollout.place(Request(1, "c"), key)
        for key in KEYS
    ]
    counts = Counter(int(20 * place) for place in places)
    expected = len(KEYS) / 20
    assert sum((counts[part] - expected) ** 2 / expected for part in range(20)) < CRITICAL_CHI_SQUARE


def test_another_rollout_assigns_anew() -> None:
    """Of two independent halves a quarter is in both."""
    one, other = (rollout_of(with_candidate(name=name, percent=50.0)) for name in ("one", "other"))
    requests = [Request(1, "c", key=key) for key in KEYS]
    both = sum(one.assign(r, "").name == other.assign(r, "").name == "candidate" for r in requests)
    assert both / len(KEYS) == pytest.approx(0.25, abs=0.01)


def test_a_key_keeps_its_route_whatever_the_message_and_its_trace() -> None:
    broker = with_candidate("a", percent=50.0)
    routes = {send_and_answer(broker, number, key="mine") for number in range(20)}
    assert len(routes) == 1
    assert assigned(broker, "mine", traceparent=TRACE) in routes


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_every_process_says_the_same(hash_seed: str) -> None:
    code = (
        "from test_core_rollout import assigned, with_candidate as w\n"
        "b = w(percent=30.0, control_percent=10.0)\n"
        "print(*[assigned(b, f'k{n}') for n in range(50)])"
    )
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])  # noqa: PTH120
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=60)
    broker = with_candidate(percent=30.0, control_percent=10.0)
    assert done.stdout.split() == [assigned(broker, f"k{number}") for number in range(50)]


def test_without_a_key_all_messages_of_a_trace_take_one_route() -> None:
    rollout = rollout_of(with_candidate(percent=50.0))
    span = TRACE.replace("00f067aa0ba902b7", "00f067aa0ba902b8")
    places = {rollout.place(Request(1, "c", traceparent=text), name) for text in (TRACE, span) for name in "ab"}
    assert len(places) == 1


@pytest.mark.parametrize("broken", ["", "00-4bf9-00f067aa0ba902b7-01", "nonsense"])
def test_a_traceparent_that_is_none_leaves_each_message_by_itself(broken: str) -> None:
    rollout = rollout_of(with_candidate(percent=50.0))
    assert len({rollout.place(Request(1, "c", traceparent=broken), name) for name in "ab"}) == 2


@pytest.mark.parametrize(("sticky", "same"), [("key", True), ("trace", False), ("message", False)])
def test_what_keeps_a_route_together_is_configured(sticky: str, same: bool) -> None:
    rollout = rollout_of(with_candidate(sticky=sticky))
    places = {rollout.place(Request(1, "c", key="mine"), name) for name in "ab"}
    assert (len(places) == 1) is same


def test_a_key_and_a_message_of_the_same_text_are_two() -> None:
    rollout = rollout_of(with_candidate())
    assert rollout.place(Request(1, "c", key="m1"), "x") != rollout.place(Request(1, "c"), "m1")


def test_percent_moves_nobody_back_and_leaves_the_control_group_alone() -> None:
    broker = with_candidate(control_percent=10.0, stages=(1.0, 5.0, 25.0, 50.0, 100.0))
    rollout = rollout_of(broker)
    before: dict[str, str] = {}
    for percent in (0.0, 1.0, 5.0, 25.0, 50.0, 100.0):
        rollout.set_percent(percent, broker.clock.now)
        now = {key: assigned(broker, key) for key in KEYS[:5000]}
        share = Counter(now.values())
        assert share["control"] / 5000 == pytest.approx(0.1, abs=0.02)
        assert share["candidate"] / 5000 == pytest.approx(min(percent / 100, 0.9), abs=0.02)
        for key, was in before.items():
            assert now[key] == was or (was, now[key]) == ("stable", "candidate")
        before = now


def test_each_message_is_decided_by_the_policy_of_its_route() -> None:
    """The candidate takes turns; stable, by the paper's rule, stays with the winner of its ranking."""
    broker = with_candidate("a", "b", percent=50.0)
    taken: dict[str, list[bytes]] = {"stable": [], "candidate": []}
    for number in range(60):
        [deliver] = only(broker.send("c", client_id=number), Deliver)
        (message,) = broker.broker.dispatcher.messages
        taken[message.route.name].append(deliver.peer)
        broker.ack(deliver)
    assert len(set(taken["stable"])) == 1
    turns = taken["candidate"]
    assert all(one != other for one, other in pairwise(turns))


def test_one_route_means_no_rollout_and_no_tally() -> None:
    broker = BrokerFixture(mode="single")
    broker.register("a", "c")
    assert send_and_answer(broker, 1) == "stable"
    assert route(broker).tally is None


def test_a_rollout_that_names_no_route_is_refused() -> None:
    with pytest.raises(ValueError, match="routes that are not there: nobody"):
        with_candidate(candidate="nobody")


# --- outcomes ---


def test_outcomes_by_route() -> None:
    broker = with_candidate("a", percent=50.0, stages=(50.0, 100.0))
    for number in range(40):
        send_and_answer(broker, number, ok=number % 4 != 0, after_s=0.010, heads=1)
    view = {shown["name"]: shown for shown in broker.broker.routes.view(broker.clock.now)["routes"]}
    assert view["stable"]["messages"] + view["candidate"]["messages"] == 40
    for name in ("stable", "candidate"):
        shown = view[name]
        assert shown["answers"] == shown["messages"] > 0
        assert shown["success"] == shown["outcomes"]["answered"] / shown["messages"]
        assert shown["p50_ms"] == pytest.approx(10.0, rel=0.06)
        assert shown["p99_ms"] == pytest.approx(10.0, rel=0.06)
        assert shown["deliveries_per_message"] == 1.0


def test_what_nobody_can_be_blamed_for_is_no_failure() -> None:
    broker = with_candidate("a", percent=100.0)
    broker.send("c", client_id=1)
    broker.cancel(1)
    [deliver] = only(broker.send("c", client_id=2), Deliver)
    broker.nack(deliver, "rejected")
    broker.send("unheard of", client_id=3)
    tally = route(broker, "candidate").tally
    assert tally is not None
    assert tally.figures()["answers"] == 0
    assert tally.figures()["messages"] == 3


def test_a_route_whose_policy_ranks_nobody_fails_its_messages() -> None:
    broker = with_candidate("a", percent=100.0)
    route(broker, "candidate").policy.threshold = 2.0
    [error] = only(broker.send("c"), Error)
    assert error.header.code == "no_backend"
    tally = route(broker, "candidate").tally
    assert tally is not None
    assert tally.figures()["success"] == 0.0


def test_cost_by_route_is_that_of_all_deliveries() -> None:
    broker = with_candidate(percent=100.0)
    broker.register("a", "c", cost=3.0)
    send_and_answer(broker, 1)
    tally = route(broker, "candidate").tally
    assert tally is not None
    assert tally.figures()["cost_per_message"] == 3.0


# --- stages ---


def feed(broker: BrokerFixture, name: str, answers: int, *, failing: int = 0, seconds: float = 0.01) -> None:
    """Let a route have had so many answers in this window, one of them in `failing` a failure."""
    tally = route(broker, name).tally
    assert tally is not None
    assert tally.side is not None
    for number in range(answers):
        tally.side.take(None if failing and number % failing == 0 else seconds)


def good(broker: BrokerFixture, answers: int = 4000) -> None:
    feed(broker, "candidate", answers, failing=1000)
    feed(broker, "stable", answers, failing=1000)


def test_a_stage_ends_after_its_time_with_enough_answers_that_are_no_worse() -> None:
    broker = with_candidate(stages=(1.0, 5.0, 100.0), stage_s=60.0)
    rollout = rollout_of(broker)
    good(broker)
    broker.advance(59.0)
    assert list(rollout.missing(broker.clock.now)) == ["1 s of the stage's time"]
    assert rollout.percent == 1.0
    broker.advance(2.0)
    assert rollout.percent == 5.0
    assert list(rollout.missing(broker.clock.now))[1:3] == [
        "1000 answers of candidate in this window",
        "1000 answers of stable in this window",
    ]
    assert [each.what for each in rollout.history] == ["rollout stage"]


@pytest.mark.parametrize(
    ("candidate", "stable", "missing"),
    [
        ({"answers": 999}, {}, "1 answers of candidate in this window"),
        ({}, {"answers": 999}, "1 answers of stable in this window"),
        (
            {"failing": 80},
            {"failing": 200},
            "proof that success is not worse: success 98.75% of 4000 answers, stable 99.50% of 4000",
        ),
        ({"seconds": 0.0149}, {}, "proof that p99 is not worse: p99 15"),
    ],
    ids=["few of the candidate", "few of stable", "success not proven", "p99 not proven"],
)
def test_a_stage_stays_and_says_what_is_missing(
    candidate: dict[str, Any], stable: dict[str, Any], missing: str
) -> None:
    broker = with_candidate(stages=(1.0, 5.0), stage_s=60.0)
    feed(broker, "candidate", **{"answers": 4000, **candidate})
    feed(broker, "stable", **{"answers": 4000, **stable})
    broker.advance(61.0)
    rollout = rollout_of(broker)
    assert (rollout.state, rollout.percent) == (RUNNING, 1.0)
    said = list(rollout.missing(broker.clock.now))
    assert any(text.startswith(missing) for text in said), said
    assert rollout.view(broker.clock.now)["missing"] == said


def test_a_candidate_that_the_fallback_decided_for_has_proven_nothing() -> None:
    broker = with_candidate("a", percent=100.0, stages=(), stage_s=1.0)
    route(broker, "candidate").fallbacks["raised"] = 1
    send_and_answer(broker, 1)
    assert "decisions of the candidate's own policy: the fallback made 100.0% of them" in list(
        rollout_of(broker).missing(broker.clock.now)
    )


def test_after_the_last_stage_the_rollout_is_done_and_stable_is_named_for_retirement() -> None:
    broker = with_candidate(stages=(50.0, 100.0), stage_s=10.0, control_percent=10.0)
    rollout = rollout_of(broker)
    good(broker)
    broker.advance(10.5)
    assert rollout.percent == 100.0
    feed(broker, "candidate", 4000, failing=1000)
    feed(broker, "control", 4000, failing=1000)
    broker.advance(11.0)
    assert rollout.state == DONE
    assert rollout.view(broker.clock.now)["to_be_retired"] == ["stable"]
    assert [each.what for each in rollout.history] == ["rollout stage", "rollout done", "route to be retired"]


def test_at_all_of_the_messages_the_control_group_is_compared_with() -> None:
    broker = with_candidate(percent=100.0, control_percent=5.0)
    feed(broker, "control", 7)
    feed(broker, "candidate", 5)
    mine, reference = rollout_of(broker).sides()
    assert (mine.answers, reference.answers) == (5, 7)


def test_a_baseline_of_its_own_is_not_what_the_candidate_is_compared_with() -> None:
    broker = with_candidate(percent=50.0, control="baseline", control_percent=5.0)
    feed(broker, "baseline", 7)
    feed(broker, "stable", 3)
    assert rollout_of(broker).sides()[1].answers == 3


# --- the verdict ---


def bad(broker: BrokerFixture) -> None:
    feed(broker, "candidate", 1000, failing=5)
    feed(broker, "stable", 4000, failing=1000)


def test_a_candidate_that_fails_more_is_stopped_within_a_second_and_stays_so() -> None:
    broker = with_candidate(percent=50.0, stages=(50.0, 100.0))
    rollout = rollout_of(broker)
    bad(broker)
    broker.advance(1.0)
    assert rollout.state == ROLLED_BACK
    assert {assigned(broker, key) for key in KEYS[:2000]} == {"stable"}
    assert rollout.verdicts == {"success": 1, "p99": 0, "policy": 0}
    assert "success 80.00% of 1000 answers" in rollout.reason
    news = broker.broker.routes.take_news()
    assert [what for what, *_ in news] == ["rollout stopped", "route to be retired"]
    good(broker)
    broker.advance(7200.0)
    assert rollout.state == ROLLED_BACK, "until a person says otherwise"


def test_a_candidate_that_is_slower_is_stopped() -> None:
    broker = with_candidate(percent=50.0)
    feed(broker, "candidate", 3000, seconds=0.03)
    feed(broker, "stable", 3000)
    broker.advance(1.0)
    assert rollout_of(broker).verdicts["p99"] == 1


def test_a_candidate_that_is_a_little_slower_is_not() -> None:
    broker = with_candidate(percent=50.0)
    feed(broker, "candidate", 100_000, seconds=0.0145)
    feed(broker, "stable", 100_000)
    broker.advance(1.0)
    assert rollout_of(broker).state == RUNNING


def test_the_control_group_stays_after_a_verdict() -> None:
    broker = with_candidate(percent=50.0, control_percent=10.0)
    before = {key for key in KEYS[:2000] if assigned(broker, key) == "control"}
    bad(broker)
    broker.advance(1.0)
    assert {key for key in KEYS[:2000] if assigned(broker, key) == "control"} == before != set()


def test_the_candidates_open_breaker_ends_its_rollout() -> None:
    broker = with_candidate("a", percent=50.0)
    route(broker, "candidate").opened_at = broker.clock.now
    broker.advance(1.0)
    assert rollout_of(broker).verdicts["policy"] == 1
    rollout_of(broker).resume(broker.clock.now)
    assert route(broker, "candidate").opened_at is None


def test_a_window_begins_with_a_stage_and_what_was_sent_before_does_not_count() -> None:
    broker = with_candidate("a", percent=100.0, stages=(100.0,))
    [early] = only(broker.send("c", client_id=1), Deliver)
    broker.advance(0.5)
    rollout_of(broker).set_percent(100.0, broker.clock.now)
    broker.ack(early)
    send_and_answer(broker, 2)
    assert rollout_of(broker).sides()[0].answers == 1


def test_a_window_ends_after_its_time_once_there_is_enough_and_each_spends_less() -> None:
    broker = with_candidate(percent=50.0, stages=(), window_s=100.0, stage_s=1e6)
    rollout = rollout_of(broker)
    first = rollout.view(broker.clock.now)["window"]
    broker.advance(101.0)
    assert rollout.windows == 1, "too few answers to begin anew"
    good(broker, 1000)
    broker.advance(1.0)
    second = rollout.view(broker.clock.now)["window"]
    assert (rollout.windows, second["answers"]) == (2, {"candidate": 0, "stable": 0})
    assert second["stops_at"] > first["stops_at"]


# --- what people say ---


def test_rollback_and_resume() -> None:
    broker = with_candidate(stages=(1.0, 5.0, 25.0))
    rollout = rollout_of(broker)
    rollout.advance(broker.clock.now)
    assert rollout.percent == 5.0
    rollout.roll_back(broker.clock.now, "on call")
    assert (rollout.state, rollout.reason, rollout.shares()["candidate"]) == (ROLLED_BACK, "on call", 0.0)
    rollout.resume(broker.clock.now)
    assert (rollout.state, rollout.percent) == (RUNNING, 1.0)
    assert [each.what for each in rollout.history] == ["rollout stage", "rollout rolled back", "rollout stage"]


@pytest.mark.parametrize("percent", [-1.0, 100.5, float("nan")])
def test_a_share_must_be_one(percent: float) -> None:
    broker = with_candidate()
    with pytest.raises(ValueError, match="percent must be from 0 to 100"):
        rollout_of(broker).set_percent(percent, broker.clock.now)


def test_the_state_survives_a_restart() -> None:
    broker = with_candidate(stages=(1.0, 5.0, 25.0), stage_s=100.0)
    rollout = rollout_of(broker)
    rollout.advance(broker.clock.now)
    bad(broker)
    broker.advance(10.0)
    kept = rollout.snapshot(broker.clock.now)
    again = with_candidate(stages=(1.0, 5.0, 25.0), stage_s=100.0)
    assert rollout_of(again).restore(kept, again.clock.now)
    assert rollout_of(again).state == ROLLED_BACK
    assert {assigned(again, key) for key in KEYS[:500]} == {"stable"}
    assert rollout_of(again).snapshot(again.clock.now) == kept | {"windows": kept["windows"] + 1}


def test_the_state_of_another_rollout_is_none_of_this_one() -> None:
    broker = with_candidate(name="last year's")
    kept = rollout_of(broker).snapshot(broker.clock.now)
    again = with_candidate()
    assert not rollout_of(again).restore(kept, again.clock.now)


def test_what_happened_is_kept_within_bounds() -> None:
    broker = with_candidate()
    rollout: Rollout = rollout_of(broker)
    for number in range(1000):
        rollout.set_percent(float(number % 100), broker.clock.now)
    assert len(rollout.history) == 256
    assert RolloutSettings().min_answers == 1000
