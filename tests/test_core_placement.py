"""/explain by route and by key: which route a message takes and why, and what it would meet there."""

from __future__ import annotations

from typing import Any

import pytest
from rollout_kit import odd, rollout_of, route, send_and_answer, with_candidate

from router_daemon.core import views
from router_daemon.core.events import Request
from router_daemon.core.placement import UnknownRouteError
from router_daemon.core.routes import FALLBACK
from router_daemon.testing import BrokerFixture


def explain(fixture: BrokerFixture, **keys: Any) -> dict[str, Any]:
    return views.explain(fixture.broker, "c", 2, fixture.clock.now, **keys)


def key_of(fixture: BrokerFixture, name: str) -> str:
    """Return a key whose messages take this route."""
    rollout = rollout_of(fixture)
    keys = (f"k{number}" for number in range(10_000))
    return next(key for key in keys if rollout.assign(Request(0, "c", key=key), "").name == name)


def test_without_a_word_it_is_stable_and_the_others_are_named() -> None:
    shown = explain(with_candidate("a", control_percent=1.0))["route"]
    assert (shown["name"], shown["policy"], shown["why"]) == ("stable", "paper", "no route was asked for")
    assert (shown["others"], shown["key"]) == (["candidate", "baseline", "control"], None)
    alone = BrokerFixture(mode="single")
    assert explain(alone)["route"]["why"] == "the only one"
    assert explain(alone)["route"]["others"] == []


def test_a_route_is_shown_with_its_own_policy_and_its_own_cache() -> None:
    fixture = with_candidate("a", "b", percent=0.0, stages=(100.0,))
    send_and_answer(fixture, 1)
    stable, other = explain(fixture), explain(fixture, route="candidate")
    assert (stable["policy"], stable["cache"]["state"]) == ("paper", "hit")
    assert (other["policy"], other["cache"]["state"]) == ("round_robin", "absent")
    assert stable["candidates"][0]["terms"].keys() != other["candidates"][0]["terms"].keys()
    assert (other["route"]["why"], other["route"]["decides"]) == ("asked for", "candidate")


@pytest.mark.parametrize("name", ["stable", "candidate", "control"])
def test_a_key_leads_to_the_very_route_that_its_messages_take(name: str) -> None:
    fixture = with_candidate("a", percent=25.0, stages=(5.0, 25.0, 100.0), control_percent=10.0)
    key = key_of(fixture, name)
    shown = explain(fixture, key=key)["route"]
    assert send_and_answer(fixture, 1, key=key) == shown["name"] == shown["key"]["route"] == name
    begin, end = {"candidate": (0, 25), "stable": (25, 90), "control": (90, 100)}[name]
    assert begin <= shown["key"]["place_percent"] < end
    assert "candidate has 0 to 25, stable has 25 to 90, control has 90 to 100" in shown["key"]["why"]
    assert (shown["key"]["rollout"], shown["key"]["state"]) == ("candidate", "running")
    assert shown["key"]["stage"] == {"percent": 25.0, "number": 2, "of": 3}


def test_a_key_beside_a_route_is_told_of_and_the_route_is_shown() -> None:
    fixture = with_candidate("a", percent=50.0)
    shown = explain(fixture, route="stable", key=key_of(fixture, "candidate"))["route"]
    assert (shown["name"], shown["key"]["route"]) == ("stable", "candidate")


def test_what_a_key_does_not_decide() -> None:
    fixture = with_candidate("a", percent=50.0, sticky="message")
    shown = explain(fixture, key="k")["route"]
    assert (shown["name"], shown["key"]["route"]) == ("stable", None)
    assert shown["key"]["why"] == 'rollout.sticky is "message": the key decides nothing'
    alone = explain(BrokerFixture(mode="single"), key="k")["route"]
    assert (alone["name"], alone["key"]["why"]) == ("stable", "there is no rollout: what names no route takes stable")


def test_after_a_rollback_the_key_says_why_it_is_stable() -> None:
    fixture = with_candidate("a", percent=50.0)
    key = key_of(fixture, "candidate")
    rollout_of(fixture).roll_back(fixture.clock.now, "odd answers")
    shown = explain(fixture, key=key)["route"]
    assert shown["name"] == "stable"
    assert "candidate has nothing (rolled back: odd answers), stable has 0 to 100" in shown["key"]["why"]


def test_who_stands_in_is_shown_while_he_decides() -> None:
    fixture, policy = odd("a", heartbeat_s=1000.0)
    policy.choose = lambda *_: 1 / 0
    for number in range(3):
        send_and_answer(fixture, number)
    view = explain(fixture)
    assert (view["route"]["decides"], view["policy"]) == (FALLBACK, "least_in_flight")


def test_looking_at_a_route_whose_policy_raises_counts_for_nobody() -> None:
    fixture, policy = odd("a")
    policy.objection = lambda *_: 1 / 0  # type: ignore[assignment]
    before = fixture.broker.routes.view(fixture.clock.now)
    assert explain(fixture)["candidates"][0]["head"] == 1
    assert fixture.broker.routes.view(fixture.clock.now) == before
    assert fixture.broker.routes.take_news() == []
    assert route(fixture).budget_s > 0.0


def test_no_such_route_and_none_is_made() -> None:
    fixture = with_candidate("a", settings={"policy_override": True})
    with pytest.raises(UnknownRouteError, match="no route 'c3', but: stable, candidate, baseline"):
        explain(fixture, route="c3")
    assert "c3" not in fixture.broker.routes.by_name


def test_an_override_is_told_of() -> None:
    fixture = with_candidate("a")
    assert explain(fixture)["override"] is None
    fixture.broker.overrides.set("c", "b", 60.0, fixture.clock.now)
    assert explain(fixture)["override"] == {"backend": "b", "left_s": 60.0, "there": False}
    fixture.clock.advance(61.0)
    assert explain(fixture)["override"] is None
