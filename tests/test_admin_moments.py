"""What the page is told: rates and percentiles between two moments, weights as /explain says them."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, Final

import pytest
from rollout_kit import odd, send_and_answer, with_candidate

from router_daemon.admin import glance
from router_daemon.admin.glance import Glance
from router_daemon.admin.moments import MOST_BACKENDS, Moment, between, moment_of
from router_daemon.core import views
from router_daemon.core.actions import Deliver
from router_daemon.core.chronicle import KINDS
from router_daemon.testing import BrokerFixture, only

WALL: Final = 1_750_000_000.0


def now_of(broker: BrokerFixture) -> Moment:
    return moment_of(broker.broker, broker.clock.now, WALL + broker.clock.now)


def answer(broker: BrokerFixture, count: int, took_s: float, *, well: bool = True, first: int = 0) -> None:
    """Have so many messages for "c" answered after so many seconds, or failed."""
    for number in range(first, first + count):
        [delivery] = only(broker.send("c", client_id=number, idempotent=False), Deliver)
        broker.clock.advance(took_s)
        broker.ack(delivery) if well else broker.nack(delivery)


# --- between two moments ---


def test_a_point_is_about_what_ended_between_two_moments() -> None:
    broker = BrokerFixture(mode="single", heartbeat_s=60.0)
    broker.register("a", "c")
    answer(broker, 5, 1.0)
    earlier = now_of(broker)
    answer(broker, 9, 0.0021, first=100)
    answer(broker, 1, 0.0021, first=200, well=False)
    broker.clock.advance(1.979)
    point = between(earlier, now_of(broker), broker.broker)
    assert point["span_s"] == pytest.approx(2.0)
    assert point["per_s"] == pytest.approx(5.0)
    assert point["success"] == 0.9
    assert 2.0 < point["p50_ms"] <= 2.12, "within one bucket; nothing of the slow ones before"
    assert 2.0 < point["p99_ms"] <= 2.12
    assert point["backends"]["a"][2] == pytest.approx(5.0)
    assert point["at"] == WALL + broker.clock.now
    assert (point["in_flight"], point["waiting"], point["routes"]) == (0, [0, 0, 0, 0], {})


def test_where_nothing_happened_nothing_is_said() -> None:
    broker = BrokerFixture()
    broker.register("a", "c")
    earlier = now_of(broker)
    broker.clock.advance(5.0)
    point = between(earlier, now_of(broker), broker.broker)
    unknown = {key: point[key] for key in ("success", "p50_ms", "p99_ms", "hit_ratio")}
    assert unknown == dict.fromkeys(unknown)
    assert (point["per_s"], point["refused_per_s"], point["refused"]) == (0.0, 0.0, {})


def test_refusals_and_waiting_are_counted_by_cause_and_priority() -> None:
    broker = BrokerFixture(mode="single", queue_messages=2)
    broker.register("a", "c", slots=1)
    earlier = now_of(broker)
    for number in range(6):
        broker.send("c", client_id=number, priority=3)
    point = between(earlier, now_of(broker), broker.broker)
    assert point["waiting"][2] == broker.broker.dispatcher.waiting.size > 0
    assert sum(point["refused"].values()) == 6 - point["in_flight"]
    assert point["refused"]


def test_several_routes_are_told_apart() -> None:
    broker = with_candidate("a", percent=100.0)
    earlier = now_of(broker)
    assert {send_and_answer(broker, number) for number in range(3)} == {"candidate"}
    broker.clock.advance(1.0)
    routes = between(earlier, now_of(broker), broker.broker)["routes"]
    assert routes["candidate"]["per_s"] == pytest.approx(3.0, rel=0.05)
    assert routes["candidate"]["success"] == 1.0
    assert (routes["stable"]["per_s"], routes["stable"]["success"]) == (0.0, None)


def test_a_point_names_the_busiest_backends_and_no_more() -> None:
    broker = BrokerFixture(mode="single", heartbeat_s=1000.0)
    for number in range(MOST_BACKENDS + 8):
        broker.register(f"b{number:02}", "c" if number == MOST_BACKENDS + 7 else "d")
    earlier = now_of(broker)
    answer(broker, 3, 0.01)
    named = between(earlier, now_of(broker), broker.broker)["backends"]
    assert len(named) == MOST_BACKENDS
    assert f"b{MOST_BACKENDS + 7}" in named


def test_a_count_that_began_anew_is_not_less_than_nothing() -> None:
    broker = BrokerFixture(mode="single", heartbeat_s=1000.0)
    broker.register("a", "c")
    answer(broker, 5, 0.01)
    earlier = now_of(broker)
    broker.backend("a").profile.start_afresh()
    answer(broker, 2, 0.01, first=50)
    broker.clock.advance_to(earlier.now + 1.0)
    assert between(earlier, now_of(broker), broker.broker)["backends"]["a"][2] == pytest.approx(2.0)


# --- a glance ---


def glance_at(broker: BrokerFixture, looking: Glance | None = None, wanted: str = "") -> dict[str, Any]:
    looking = looking or Glance(broker.broker)
    earlier = now_of(broker)
    asyncio.run(looking.refresh(broker.clock.now))
    return looking.show(earlier, now_of(broker), wanted)


@pytest.mark.parametrize("policy", ["attention", "paper", "c3", "round_robin"])
def test_weights_are_what_explain_says(policy: str) -> None:
    broker = BrokerFixture(policy=policy)
    for name in "abc":
        broker.register(name, "c", slots=2)
    answer(broker, 7, 0.02)
    broker.send("c", client_id=99)
    [told] = glance_at(broker)["capabilities"]
    explained = views.explain(broker.broker, "c", glance.PRIORITY, broker.clock.now)["candidates"]
    assert told["weights"] == {each["backend"]: [each["weight"], each["head"]] for each in explained}
    assert sum(weight for weight, _ in told["weights"].values()) == pytest.approx(1.0)
    assert told["best"] == max(each["weight"] for each in explained)


def test_of_many_backends_the_busiest_are_shown_and_a_filter_finds_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(glance, "MOST_BACKENDS", 3)
    broker = BrokerFixture(mode="single", heartbeat_s=1000.0)
    for name in ("a1", "a2", "b1", "b2"):
        broker.register(name, "c" if name == "b2" else "d", group="Blue" if name == "a2" else "grey")
    looking = Glance(broker.broker)
    earlier = now_of(broker)
    answer(broker, 3, 0.01)
    asyncio.run(looking.refresh(broker.clock.now))
    later = now_of(broker)

    def names(wanted: str) -> list[str]:
        return [backend["name"] for backend in looking.show(earlier, later, wanted)["backends"]]

    told = looking.show(earlier, later)
    assert (len(told["backends"]), told["backends_found"], told["backends_there"]) == (3, 4, 4)
    assert "b2" in names(""), "it alone had answers"
    assert [c["left_out"] for c in told["capabilities"]] == [0, 1]
    assert names("B1") == ["b1"]
    assert names("blue") == ["a2"], "by group"
    assert names("d") == ["a1", "a2", "b1"], "by capability"
    assert names("nobody") == []


def test_who_is_in_trouble_is_shown_before_who_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glance, "MOST_BACKENDS", 1)
    broker = BrokerFixture(mode="single", heartbeat_s=1000.0)
    broker.register("busy", "c")
    broker.register("leaving", "d")
    broker.send("d", client_id=5)
    broker.drain(b"leaving")
    answer(broker, 3, 0.01)
    assert [backend["name"] for backend in glance_at(broker)["backends"]] == ["leaving"]


def test_capabilities_beyond_the_limit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glance, "MOST_CAPABILITIES", 2)
    broker = BrokerFixture()
    broker.register("a", "c", "d", "e")
    broker.send("d")
    told = glance_at(broker)
    assert (len(told["capabilities"]), told["capabilities_there"]) == (2, 3)
    assert "d" in [each["name"] for each in told["capabilities"]]


def test_a_look_has_a_budget_and_reads_the_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glance, "ROWS_A_LOOK", 4)
    broker = BrokerFixture(heartbeat_s=1000.0)
    for name in ("x", "y"):
        broker.register(name, "c", "d", "e")
    looking = Glance(broker.broker)
    ages = []
    for _ in range(3):
        told = glance_at(broker, looking)
        ages.append([each["read_s"] for each in told["capabilities"] if each["weights"]])
        broker.clock.advance(1.0)
    assert ages == [[0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


def test_one_capability_is_read_however_many_offer_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glance, "ROWS_A_LOOK", 1)
    broker = BrokerFixture()
    for name in "xyz":
        broker.register(name, "c")
    assert len(glance_at(broker)["capabilities"][0]["weights"]) == 3


def test_a_policy_that_raises_costs_its_weights_and_nothing_else() -> None:
    broker, policy = odd("a")

    def scores(_: Any) -> Any:
        raise ArithmeticError("no such thing")

    policy.scores = scores
    told = glance_at(broker)
    assert told["capabilities"][0]["fault"] == "ArithmeticError: no such thing"
    assert told["backends"][0]["name"] == "a"


# --- what the page's scripts know ---


def test_the_page_has_a_mark_for_every_kind_of_event_and_no_other() -> None:
    script = (Path(glance.__file__).parent / "page/kinds.js").read_text()
    assert set(re.findall(r"^  (\w+): \[", script, re.MULTILINE)) == set(KINDS.values())
