"""Routes named for retirement: worse than stable, unused, stopped, replaced; in words, and no more often than allowed."""

from __future__ import annotations

from dataclasses import replace
from math import exp
from typing import Any

import pytest
from rollout_kit import rollout_of, route, send_and_answer, with_candidate
from test_core_changes import reconfigure

from router_daemon.core.chores import HOUSEKEEPING_S
from router_daemon.core.guard import alarm_needed, naming_needed
from router_daemon.core.retirement import CAUSES
from router_daemon.core.settings import RolloutSettings, RouteSettings
from router_daemon.lab.naming_trials import NAMINGS, ROUTES, naming_report, run_naming
from router_daemon.testing import BrokerFixture


def feed(fixture: BrokerFixture, name: str, answers: int, *, failing: int = 0, seconds: float = 0.01) -> None:
    """Let a route have had so many answers in this window, one of them in `failing` a failure."""
    tally = route(fixture, name).tally
    assert tally is not None
    assert tally.side is not None
    for number in range(answers):
        failed = failing and number % failing == 0
        tally.side.take(None if failed else seconds)
        tally.outcomes["failed" if failed else "answered"] += 1


def several(*, ask: bool = True, **rollout: Any) -> BrokerFixture:
    """Return a broker with the routes stable, one and two, and no rollout; of which the house is kept."""
    routes = {"one": RouteSettings("round_robin"), "two": RouteSettings("capability_only")}
    settings: dict[str, Any] = {"policy_override": ask, "heartbeat_s": 1e6, "rollout": RolloutSettings(**rollout)}
    fixture = BrokerFixture(mode="single", routes=routes, **settings)
    fixture.register("a", "c", slots=1000)
    keep_house(fixture)
    return fixture


def keep_house(fixture: BrokerFixture) -> None:
    fixture.advance(HOUSEKEEPING_S + 0.5)


def named(fixture: BrokerFixture) -> dict[tuple[str, str], str]:
    """Return why, by route and cause, as /routes has it."""
    view = fixture.broker.routes.view(fixture.clock.now)
    return {(each["route"], each["cause"]): each["why"] for each in view["to_be_retired"]}


def news(fixture: BrokerFixture) -> list[tuple[str, str]]:
    return [(what, name) for what, name, _ in fixture.broker.routes.take_news()]


# --- worse ---


def test_a_route_that_fails_more_is_named_with_its_figures() -> None:
    fixture = several()
    feed(fixture, "stable", 4000, failing=100)
    feed(fixture, "one", 1000, failing=100)
    feed(fixture, "two", 1000, failing=5)
    keep_house(fixture)
    [(found, why)] = named(fixture).items()
    assert found == ("two", "success")
    assert "success 80.00% of 1000 answers, stable 99.00% of 4000; 1.00% less is allowed (log e-value" in why
    assert "only messages that name it take it, so what differs may be those" in why
    assert news(fixture) == [("route to be retired", "two")]
    keep_house(fixture)
    assert news(fixture) == [], "once"


def test_a_route_that_is_slower_is_named() -> None:
    fixture = several()
    feed(fixture, "stable", 5000)
    feed(fixture, "one", 5000, seconds=0.1)
    keep_house(fixture)
    assert [cause for _, cause in named(fixture)] == ["p99"]
    assert "1.5 times as much is allowed" in named(fixture)["one", "p99"]


def test_it_stays_named_in_the_next_window_until_it_is_another_policy() -> None:
    fixture = several(window_s=100.0, min_answers=10)
    feed(fixture, "stable", 4000)
    feed(fixture, "one", 1000, failing=2)
    keep_house(fixture)
    fixture.advance(2 * HOUSEKEEPING_S)
    stable = route(fixture).tally
    assert stable is not None
    assert stable.side is not None
    assert stable.side.answers == 0, "another window"
    assert ("one", "success") in named(fixture)
    another_policy(fixture, "one")
    assert ("one", "success") not in named(fixture)


def another_policy(fixture: BrokerFixture, name: str) -> None:
    settings = fixture.broker.settings
    routes = {**settings.routes, name: RouteSettings("c3")}
    reconfigure(fixture, "paper", replace(settings, routes=routes), was="paper")


def test_answers_of_the_old_policy_do_not_count_for_the_new_one() -> None:
    fixture = several()
    feed(fixture, "stable", 4000)
    feed(fixture, "one", 1000, failing=2)
    another_policy(fixture, "one")
    keep_house(fixture)
    assert named(fixture) == {}


def test_the_candidate_is_the_guards_while_the_rollout_runs() -> None:
    fixture = with_candidate("a", percent=50.0)
    feed(fixture, "stable", 4000)
    feed(fixture, "candidate", 1000, failing=2)
    fixture.broker.routes.review(fixture.clock.now)
    assert ("candidate", "success") not in named(fixture)
    fixture.advance(0.5)
    [(found, why)] = [(each, why) for each, why in named(fixture).items() if each[0] == "candidate"]
    assert found == ("candidate", "stopped")
    assert why == rollout_of(fixture).reason


def test_stable_is_held_against_a_baseline_of_its_own() -> None:
    fixture = with_candidate("a", control="baseline", control_percent=5.0)
    feed(fixture, "stable", 4000, failing=5)
    feed(fixture, "baseline", 1000, failing=1000)
    fixture.broker.routes.review(fixture.clock.now)
    [why] = [why for found, why in named(fixture).items() if found == ("stable", "success")]
    assert "baseline 99.90% of 1000" in why
    assert "only messages that name it" not in why, "it is assigned by hash"


def test_the_baseline_is_never_named_for_being_worse() -> None:
    fixture = with_candidate("a", control="baseline", control_percent=5.0)
    feed(fixture, "stable", 4000)
    feed(fixture, "baseline", 1000, failing=2)
    fixture.broker.routes.review(fixture.clock.now)
    assert not any(name == "baseline" for name, _ in named(fixture))


def test_after_a_rollback_it_is_a_route_like_others_in_a_window_of_its_own() -> None:
    fixture = with_candidate("a", percent=50.0, settings={"policy_override": True})
    rollout_of(fixture).roll_back(fixture.clock.now, "odd")
    keep_house(fixture)
    feed(fixture, "stable", 4000)
    feed(fixture, "candidate", 1000, failing=2)
    keep_house(fixture)
    assert ("candidate", "success") in named(fixture)
    rollout_of(fixture).resume(fixture.clock.now)
    fixture.broker.routes.review(fixture.clock.now)
    assert ("candidate", "success") not in named(fixture), "it is the guard's again"


# --- nobody takes it ---


def test_a_route_that_nothing_can_take_is_named_at_once() -> None:
    fixture = several(ask=False)
    assert named(fixture) == {
        (name, "unused"): "there is no rollout, and messages may not name it (routing.allow_policy)"
        for name in ("one", "two")
    }
    assert news(fixture) == [("route to be retired", "one"), ("route to be retired", "two")]
    other = with_candidate("a")
    keep_house(other)
    assert named(other) == {
        ("baseline", "unused"): "the rollout does not refer to it, and messages may not name it (routing.allow_policy)"
    }


def test_one_that_nothing_took_for_a_window_while_others_had_work() -> None:
    fixture = several(window_s=600.0, min_answers=100)
    send_and_answer(fixture, 1, policy="one")
    keep_house(fixture)
    fixture.advance(600.0)
    assert named(fixture) == {}, "nobody had work"
    for number in range(2, 102):
        send_and_answer(fixture, number)
    keep_house(fixture)
    assert named(fixture) == {
        (name, "unused"): f"none of {others} messages took it in {minutes} minutes; there is no rollout"
        for name, others, minutes in (("one", 100, 11), ("two", 101, 12))
    }
    assert send_and_answer(fixture, 200, policy="one") == "one"
    keep_house(fixture)
    assert [name for name, _ in named(fixture)] == ["two"]


def test_a_candidate_that_a_person_has_rolled_back_and_forgotten() -> None:
    fixture = with_candidate("a", window_s=600.0, min_answers=10)
    rollout_of(fixture).roll_back(fixture.clock.now, "odd")
    keep_house(fixture)
    for number in range(20):
        send_and_answer(fixture, number)
    fixture.advance(700.0)
    assert "none of 20 messages took it in 11 minutes; rolled back: odd" in named(fixture)["candidate", "unused"]


def test_a_route_with_a_share_is_not_unused() -> None:
    fixture = with_candidate("a", percent=1.0, control_percent=1.0, window_s=60.0, min_answers=1)
    for number in range(20):
        send_and_answer(fixture, number, key="of stable")
    fixture.advance(600.0)
    assert not any(name != "baseline" for name, _ in named(fixture))


def test_with_one_route_nothing_is_looked_at() -> None:
    fixture = BrokerFixture(mode="single")
    fixture.advance(2 * HOUSEKEEPING_S)
    assert named(fixture) == {}
    assert route(fixture).tally is None


def test_who_goes_on_to_another_stage_is_not_to_be_retired_any_more() -> None:
    """After a reload with another candidate, stable was still named as replaced."""
    fixture = with_candidate("a", percent=100.0, stages=(100.0,), stage_s=0.0, min_answers=1, control_percent=10.0)
    feed(fixture, "candidate", 5000)
    feed(fixture, "control", 5000)
    fixture.advance(0.5)
    assert named(fixture)["stable", "replaced"] == "candidate has taken its place"
    rollout_of(fixture).set_percent(5.0, fixture.clock.now)
    assert ("stable", "replaced") not in named(fixture)


# --- how often falsely ---


def test_every_window_and_every_route_costs_some_of_the_confidence() -> None:
    """Summed over all places and windows, and over both comparisons, it is what the confidence leaves."""
    assert naming_needed(0.99, 3, 1) > alarm_needed(0.99, 3)
    spent = sum(2 * exp(-naming_needed(0.99, window, place)) for window in range(1, 400) for place in range(1, 400))
    assert 0.0099 < spent <= 0.01


@pytest.mark.parametrize("trial", [trial for trial in NAMINGS if trial.harmless], ids=lambda trial: trial.name)
def test_harmless_routes_are_not_named(trial: Any) -> None:
    """Of 20 runs with eight routes at most one: two would be once in 60, were each at 1 %."""
    assert run_naming(trial, runs=20, answers=4000, seed=3).falsely <= 1


def test_a_bad_one_is_named_and_no_other() -> None:
    trial = next(trial for trial in NAMINGS if trial.name == "drop 20%")
    outcome = run_naming(trial, runs=5, answers=8000, seed=3)
    assert (len(outcome.answers), outcome.falsely) == (5, 0)
    assert outcome.quantile(0.9) < 400
    assert any(line.startswith(f"| {trial.name} | 5 | 100.0% |") for line in naming_report([outcome]))
    assert ROUTES == 8


def test_the_causes_are_those_that_are_told_of() -> None:
    assert set(CAUSES) == {"stopped", "replaced", "success", "p99", "unused"}
