"""What is recorded of decisions where there are several routes, or a policy that fails."""

from __future__ import annotations

from typing import Any

import pytest
from rollout_kit import odd, rollout_of, route, send_and_answer, with_candidate

from router_daemon.core import whys
from router_daemon.core.actions import Deliver
from router_daemon.core.settings import WhySettings
from router_daemon.testing import BrokerFixture, only

EVERYTHING = WhySettings(sample_every_s=0.0)


def found(fixture: BrokerFixture, **wanted: Any) -> list[dict[str, Any]]:
    """Return what /decisions lists."""
    rows: list[dict[str, Any]] = whys.search(fixture.broker, whys.Wanted(**wanted), 1000, fixture.clock.now, 0.0)[
        "decisions"
    ]
    return rows


def first_decision(fixture: BrokerFixture, name: str = "m1") -> dict[str, Any]:
    """Return what /decisions/NAME tells of the message's first decision."""
    [told] = whys.why(fixture.broker, name, fixture.clock.now, 0.0)
    decision: dict[str, Any] = told["decisions"][0]
    return decision


def test_decisions_are_found_by_the_route_that_the_message_took() -> None:
    fixture = with_candidate("a", "b", settings={"why": EVERYTHING}, percent=50.0)
    assert rollout_of(fixture).shares()["candidate"] == pytest.approx(50.0)
    took: dict[str, list[str]] = {"stable": [], "candidate": []}
    for number in range(1, 41):
        took[send_and_answer(fixture, number)].append(f"m{number:x}")
    assert all(took.values())
    for name, policy in (("stable", "paper"), ("candidate", "round_robin")):
        listed = found(fixture, route=name)
        assert sorted(row["message"] for row in listed) == sorted(took[name])
        assert {(row["route"], row["policy"]) for row in listed} == {(name, policy)}
        assert {first_decision(fixture, message)["policy"] for message in took[name]} == {policy}
        # each route has a cache of its own: of each the first decision alone was no hit
        states = [first_decision(fixture, message)["cache"] for message in took[name]]
        assert states == ["miss"] + ["hit"] * (len(states) - 1)
    assert found(fixture, route="baseline") == []


def test_the_policy_that_stood_in_is_told_where_one_has_failed() -> None:
    fixture, policy = odd("a", why=EVERYTHING)

    def fails(*_: Any) -> Any:
        raise ZeroDivisionError("of no thought")

    policy.choose = fails
    send_and_answer(fixture, 1)
    [listed] = found(fixture)
    assert (listed["route"], listed["policy"]) == ("stable", "odd")
    told = first_decision(fixture)
    assert (told["policy"], told["cache"]) == (fixture.broker.routes.fallback.policy.name, "miss")
    assert [(row["backend"], row["head"]) for row in told["candidates"]] == [("a", 1)]


NONSENSE: dict[str, Any] = {"nothing": None, "no pair": (1, 2, 3), "rows of another form": (("x",), [1])}


@pytest.mark.parametrize("account", [None, *NONSENSE])
def test_a_policy_that_cannot_account_for_its_choice_costs_no_message_and_opens_no_breaker(
    account: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixture, policy = odd("a", "b", why=EVERYTHING)

    def account_of(*_: Any) -> Any:
        if account is None:
            raise ZeroDivisionError("of no memory")
        return NONSENSE[account]

    monkeypatch.setattr(policy, "account", account_of, raising=False)
    for number in range(1, 11):
        assert send_and_answer(fixture, number) == "stable"
    stable = route(fixture)
    assert (stable.faults, policy.picked) == ({"account": 10}, 10)
    assert stable.acting is stable
    assert stable.opened_at is None
    assert [what for what, *_ in fixture.broker.routes.take_news()] == [
        "route's policy raised when asked what it compared"
    ]
    told = first_decision(fixture, "m9")
    assert told["terms"] == "ranking"
    assert [(row["backend"], row["head"], row["terms"]) for row in told["candidates"]] == [
        ("a", 1, {"order": 1.0}),
        ("b", None, {"order": 1.0}),
    ]


def test_of_a_message_with_several_heads_too() -> None:
    fixture, policy = odd("a", "b", why=EVERYTHING, mode="fanout")
    calls = []

    def account_of(ranking: Any, _: Any, tried: Any, __: float) -> Any:
        calls.append(len(tried))
        if tried:
            raise ZeroDivisionError("of short memory")
        return ("order",), [(candidate, 1.0, (1.0,)) for candidate in ranking.candidates]

    policy.account = account_of  # type: ignore[attr-defined]
    assert len(only(fixture.send("c", heads=2), Deliver)) == 2
    told = first_decision(fixture)
    assert calls[:2] == [0, 1]
    assert [(row["head"], row["score"]) for row in told["candidates"]] == [(1, 1.0), (2, None)]
    assert fixture.broker.open_messages == 1
