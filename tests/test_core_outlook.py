"""What /explain says of the moment: why one is passed over, what mode auto would do, and that asking changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from core_kit import SESSION, deliver, make_broker

from router_daemon.core import actions, views, whys
from router_daemon.core.actions import Action, Deliver
from router_daemon.core.memory import BackendRecord, Profiles, ReferenceRecord, ServiceRecord
from router_daemon.core.settings import AttentionSettings, ExplorationSettings, HedgeSettings
from router_daemon.testing import BrokerFixture, only

NO_EXPLORATION = ExplorationSettings(share=0.0)


def explain(broker: BrokerFixture, capability: str = "c", priority: int = 2, **keys: Any) -> dict[str, Any]:
    """Return the view, after a check that it is JSON."""
    view = views.explain(broker.broker, capability, priority, broker.clock.now, **keys)
    json.dumps(view, allow_nan=False)
    broker.broker.check()
    return view


def row(view: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [told for told in view["candidates"] if told["backend"] == name]
    return found  # type: ignore[no-any-return]


def reason(broker: BrokerFixture, name: str, **keys: Any) -> str:
    return str(row(explain(broker, **keys), name)["reason"])


def known(*names: str, slots: int = 4, samples: int = 50, service_s: float = 0.01, **settings: Any) -> BrokerFixture:
    """Return a broker under `attention` that has known these backends for long."""
    broker = BrokerFixture(policy="attention", heartbeat_s=60.0, **{"mode": "auto", **settings})
    service = ServiceRecord(service_s, service_s, 0.1 * service_s, samples, 0.0)
    records = {name: BackendRecord(0.9, service_s, samples, warm=True, services={"c": service}) for name in names}
    broker.broker.restore_profiles(Profiles(records, {"c": ReferenceRecord(service_s, samples)}), broker.clock.now)
    for name in names:
        broker.register(name, "c", slots=slots)
    return broker


def busy(broker: BrokerFixture, count: int, first_id: int = 100) -> list[Deliver]:
    """Send so many messages that stay open, one head each."""
    sent: list[Action] = []
    for number in range(count):
        sent += broker.send("c", client_id=first_id + number, mode="single", idempotent=False)
    return only(sent, Deliver)


# --- pure reading ---


def scenario(look: Callable[[BrokerFixture], None], policy: str) -> tuple[list[Any], BrokerFixture]:
    """Return what a broker does in a run with a bit of everything, with a look in between every two steps."""
    eager = ExplorationSettings(share=0.05, after_s=0.02, after_services=1.0)
    ready = HedgeSettings(share=0.5, samples=4, deviations=2.0, trouble_below=1.0)
    broker = BrokerFixture(policy=policy, seed=7, heartbeat_s=60.0, queue_messages=8, exploration=eager, hedge=ready)
    chance, done, answers = Random(3), [], list[tuple[float, Deliver]]()

    def step(sent_now: list[Action]) -> None:
        done.append(msgspec.to_builtins([action.header for action in sent_now]))
        look(broker)
        for sent in only(sent_now, Deliver):
            hangs = sent.peer == b"b1" and chance.random() < 0.2
            answers.append((broker.clock.now + (0.08 if hangs else chance.uniform(0.004, 0.008)), sent))

    for number in range(4):
        step(broker.register(f"b{number}", "c", slots=2))
    for number in range(600):
        if number == 300:
            step(broker.register("late", "c", slots=4, cost=1.0))
        light = number // 100 % 2 == 0
        if not light or number % 2 == 0:
            step(broker.send("c", client_id=number, priority=1 + number % 4, ttl_ms=200))
        step(broker.advance(0.002 if light else 0.0008))
        for due in sorted((item for item in answers if item[0] <= broker.clock.now), key=lambda item: item[0]):
            answers.remove(due)
            if due[1].header.id in broker.backend(due[1].peer.decode()).open:
                fails = due[1].peer == b"b0" and chance.random() < 0.9
                step(broker.nack(due[1]) if fails else broker.ack(due[1]))
    return done, broker


@pytest.mark.parametrize("policy", ["attention", "p2c_peak_ewma", "c3", "prequal", "round_robin"])
def test_looking_changes_nothing_that_the_broker_does_next(policy: str) -> None:
    def look(broker: BrokerFixture) -> None:
        now = broker.clock.now
        priority = 1 + len(broker.backend("b0").open) % 4
        views.explain(broker.broker, "c", priority, now)
        views.explain(broker.broker, "c", 2, now, max_cost=0.5 if priority == 3 else None)
        views.explain(broker.broker, "never offered", 2, now, route="stable", key="k")
        views.weights(broker.broker, "c", 2, now)
        views.backends(broker.broker, now)
        whys.search(broker.broker, whys.Wanted(), 100, now, 0.0)
        for message in list(broker.broker.dispatcher.messages)[:3]:
            whys.why(broker.broker, message.name, now, 0.0)

    unseen, broker = scenario(lambda broker: None, policy)
    [counts] = broker.broker.counts.capabilities.values()
    assert all((counts.hedges, counts.retries, any(counts.refusals.values()))), "it did little"
    assert counts.explorations or policy != "attention", "others leave nobody unused"
    assert broker.broker.counts.backends["b0"].ejections
    seen, looked_at = scenario(look, policy)
    assert seen == unseen
    [same] = looked_at.broker.counts.capabilities.values()
    for name in ("outcomes", "hedges", "retries", "explorations", "refusals"):
        assert getattr(same, name) == getattr(counts, name)
    assert looked_at.random.getstate() == broker.random.getstate()


def test_looking_begins_no_series_and_no_service() -> None:
    broker = BrokerFixture(policy="attention")
    broker.register("a", "c")
    explain(broker)
    explain(broker, "never")
    assert broker.backend("a").services == {}
    assert broker.broker.counts.capabilities == {}
    assert broker.broker.rankings.peek("c", 2, broker.clock.now)[0] == "absent"


# --- of one backend ---


def test_a_candidate_s_measurements_and_load_are_there() -> None:
    broker = known("a", "b", slots=2, attention=AttentionSettings(scarcity=0.0))
    busy(broker, 3)
    broker.clock.advance(0.004)
    view = explain(broker)
    told = {name: row(view, name) for name in "ab"}
    full = next(told[name] for name in "ab" if told[name]["in_flight"] == 2)
    free = next(told[name] for name in "ab" if told[name]["in_flight"] == 1)
    for candidate in (full, free):
        assert candidate["service_ms"] == pytest.approx(10.0)
        assert candidate["response_ms"] == pytest.approx(10.0)
        assert candidate["deviation_ms"] == pytest.approx(1.0)
        assert (candidate["samples"], candidate["slots"], candidate["places"]) == (50, 2, 2)
        assert candidate["silence_s"] == pytest.approx(0.004)
        assert candidate["unused_s"] == pytest.approx(0.004)
        assert candidate["sampled_s"] == pytest.approx(0.004)
        assert (candidate["other"], candidate["cost"], candidate["surcharge"]) == (0.0, None, 0.0)
        assert (candidate["ejected"], candidate["warm"], candidate["window"]) == (None, True, None)
    assert free["expected_wait_ms"] == 0.0
    assert free["expected_latency_ms"] == pytest.approx(10.0)
    assert free["expected_ms"] == pytest.approx(10.0 + 0.1 * 10.0)
    assert full["expected_wait_ms"] == pytest.approx(10.0 / 2)
    assert full["expected_latency_ms"] == pytest.approx(15.0**2 / 10.0)
    assert (full["reason"], full["head"]) == ("all its places are taken", None)
    assert (free["reason"], free["head"]) == ("head 1 by rank", 1)


def test_the_live_terms_add_up_and_the_weights_are_shares() -> None:
    broker = known("a", "b", "d")
    busy(broker, 2)
    view = explain(broker)
    assert sum(told["weight"] for told in view["candidates"]) == pytest.approx(1.0)
    for told in view["candidates"]:
        assert told["score"] == pytest.approx(sum(told["terms"].values()))
    scores = [told["score"] for told in view["candidates"]]
    assert scores == sorted(scores, reverse=True)


def test_an_ejected_backend_says_until_when_and_how_often() -> None:
    broker = known("bad", "good", mode="single", exploration=NO_EXPLORATION)
    eject(broker)
    view = explain(broker)
    told = row(view, "bad")
    assert told["reason"].startswith("ejected for another 0.2")
    assert told["reason"].endswith("s (the first)")
    assert told["ejected"] == {"for_s": pytest.approx(0.25, abs=0.06), "in_a_row": 1, "with_others": False}
    assert (view["pool"]["ejected"], view["pool"]["trials"]) == (1, [])
    assert row(view, "good")["ejected"] is None
    [listed] = [entry for entry in views.backends(broker.broker, broker.clock.now) if entry["name"] == "bad"]
    assert listed["ejected"] == told["ejected"]
    assert listed["ejections"] == 1


def test_a_trial_that_is_due_is_what_the_next_message_is_for() -> None:
    broker = known("bad", "good", "fair", mode="auto", exploration=NO_EXPLORATION)
    eject(broker)
    broker.advance(0.4)
    view = explain(broker)
    assert view["pool"]["trials"] == ["bad"]
    assert (row(view, "bad")["head"], row(view, "bad")["reason"]) == (1, "head 1 on trial: its ejection is over")
    assert view["auto"]["would"] != "fanout"
    critical = row(explain(broker, priority=4), "bad")
    assert (critical["head"], critical["reason"]) == (None, "ejected (the first): a message on trial decides")
    [sent] = broker.send("c", client_id="x")
    assert sent.peer == b"bad"


def eject(broker: BrokerFixture) -> None:
    """Let `bad` fail until it is ejected, while the others answer."""
    for number in range(20):
        heads = only(broker.send("c", client_id=number, mode="fanout"), Deliver)
        for sent in sorted(heads, key=lambda sent: sent.peer != b"bad"):
            if sent.peer == b"bad":
                broker.nack(sent)
            else:
                broker.ack(sent)
        if broker.backend("bad").ejected:
            return
    raise AssertionError("never ejected")


def test_one_that_is_due_to_be_explored_says_for_how_long_it_was_unused() -> None:
    broker = known("a", "b", exploration=ExplorationSettings(share=1.0, after_s=1.0, after_services=1.0))
    broker.send("c", mode="single")
    broker.send("c", client_id=3, mode="single")
    broker.clock.advance(2.0)
    view = explain(broker)
    assert view["pool"]["explore_due"]
    [unused] = [told for told in view["candidates"] if told["reason"].startswith("head 1 to explore")]
    assert unused["reason"] == "head 1 to explore: unused for 2.0 s"
    sent = only(broker.send("c", client_id=2), Deliver)
    assert [one.peer.decode() for one in sent] == [unused["backend"]]


def test_each_other_reason_to_pass_one_over() -> None:
    broker = known("a", "b", slots=4, heads=1)
    broker.register("new", "c", slots=4)
    assert broker.backend("new").window == 1
    broker.register("gone", "c", session=SESSION)
    broker.gone(b"gone")
    busy(broker, 8)
    assert broker.backend("new").open
    broker.drain(b"b")
    assert reason(broker, "new") == "slow start: 1 of its 4 places for now"
    assert reason(broker, "gone") == "disconnected: its session may come back"
    assert reason(broker, "b") == "draining"
    assert row(explain(broker), "b")["score"] is None


def test_the_reserve_is_for_critical_messages() -> None:
    broker = known("a", "b", slots=5, mode="single")
    busy(broker, 9)
    view = explain(broker)
    assert (view["pool"]["free"], view["pool"]["reserved"]) == (1, 1)
    assert "the places left are for critical messages" in [told["reason"] for told in view["candidates"]]
    assert view["admission"]["would"] == "wait"
    assert [told["head"] for told in view["candidates"]] == [None, None]
    assert explain(broker, priority=4)["admission"]["would"] == "send"


def test_cost_bounds_the_first_head_by_max_cost_and_others_by_the_first() -> None:
    broker = BrokerFixture(policy="attention")
    for name, cost in (("cheap", 1.0), ("fair", 1.5), ("dear", 9.0)):
        broker.register(name, "c", cost=cost)
    assert reason(broker, "dear", max_cost=2.0) == "costs 9, more than max_cost"
    view = explain(broker, max_cost=2.0)
    assert {told["backend"]: told["head"] for told in view["candidates"]} == {"cheap": 1, "fair": 2, "dear": None}
    assert row(view, "dear")["surcharge"] == 8.0
    view = explain(broker)
    if row(view, "dear")["head"] is None:  # who is first is a tie
        assert row(view, "dear")["reason"] == "dearer than 2 times the first"
    assert explain(broker, max_cost=0.5)["error"] == {
        "code": "no_backend",
        "detail": "every backend that offers it costs more than max_cost",
    }


# --- what mode auto would do ---


def auto(broker: BrokerFixture, **keys: Any) -> tuple[str | None, str, float | None]:
    told = explain(broker, **keys)["auto"]
    return told["would"], told["why"], told["hedge_delay_ms"]


def test_auto_fans_out_while_nearly_nothing_is_going_on() -> None:
    broker = known("a", "b", "d")
    assert auto(broker) == ("fanout", "0 of 12 slots busy, under 15%: all heads at once", None)
    assert len(only(broker.send("c"), Deliver)) == 3


def test_auto_hedges_where_that_is_allowed() -> None:
    broker = known("a", "b", "d")
    for number in range(40):  # fills the budget
        for sent in only(broker.send("c", client_id=number, mode="single"), Deliver):
            broker.clock.advance(0.01)
            broker.ack(sent)
    busy(broker, 3)
    would, why, delay_ms = auto(broker)
    assert (would, why.split(";")[0]) == ("hedge", "3 of 12 slots busy, not under 15%")
    assert delay_ms is not None
    first = next(told for told in explain(broker)["candidates"] if told["head"] == 1)
    assert delay_ms == pytest.approx(first["response_ms"] + 4.0 * first["deviation_ms"])
    broker.send("c", client_id="late")
    assert only(broker.advance(delay_ms / 1000.0 - 0.001), Deliver) == []
    assert len(only(broker.advance(0.003), Deliver)) == 1


ALONE: dict[str, tuple[dict[str, Any], str]] = {
    "one head": ({"heads": 1}, "one head: routing.heads is 1"),
    "once": ({"unsaid_idempotent": "never"}, 'not idempotent unless it says so (unsaid_idempotent = "never")'),
    "no copies": ({"unsaid_idempotent": "retries"}, 'not idempotent unless it says so (unsaid_idempotent = "retries")'),
}


@pytest.mark.parametrize(("settings", "why"), ALONE.values(), ids=ALONE)
def test_auto_stays_with_one_head_where_more_are_not_allowed(settings: dict[str, Any], why: str) -> None:
    assert auto(known("a", "b", **settings)) == ("single", why, None)


def test_auto_has_one_head_where_there_is_one_backend_or_none() -> None:
    assert auto(known("a")) == ("single", "only one backend may get it", None)
    assert auto(known("a"), capability="never") == (None, "nobody may get it", None)


def no_hedge(broker: BrokerFixture, taken: int = 6) -> str:
    busy(broker, taken)
    would, why, _ = auto(broker)
    assert would == "single"
    head, _, rest = why.partition("; no hedge: ")
    assert head == f"{taken} of 12 slots busy, not under 15%"
    return rest


def test_auto_says_why_there_is_no_hedge() -> None:
    assert no_hedge(known("a", "b", "d")) == "0.30 in the budget, and one takes 1"
    assert no_hedge(known("a", "b", "d", hedge=HedgeSettings(share=0.0))) == "hedge.share is 0"
    assert no_hedge(known("a", "b", "d", samples=3)) == "fewer than 16 answers are known"
    assert no_hedge(known("a", "b", "d"), 10) == "10 of 12 slots busy, not under 70%"


def test_auto_says_that_costs_forbid_copies() -> None:
    broker = known("a", "b")
    broker.register("a", "c", cost=1.0)
    assert auto(broker)[1].startswith("0 of 5 slots busy, but backends say what they cost; no hedge: ")


# --- the capability ---


def test_the_pool_s_sums_and_budgets_are_there() -> None:
    broker = known("a", "b", slots=5)
    busy(broker, 4)
    broker.nack(deliver_of(broker))
    pool = explain(broker)["pool"]
    assert (pool["members"], pool["slots"], pool["places"], pool["warm_slots"]) == (2, 10, 10, 10)
    assert (pool["busy"], pool["load"], pool["free"], pool["reserved"]) == (3.0, 0.3, 7, 1)
    assert pool["reference_ms"] == pytest.approx(10.0)
    assert pool["budgets"]["retry"] == {"tokens": pytest.approx(3.8), "most": 10.0}
    assert pool["budgets"]["hedge"] == {"tokens": pytest.approx(0.2), "most": 10.0}
    assert (pool["trouble_share"], pool["explore_due"], pool["trials"], pool["ejected"]) == (0.0, False, [], 0)
    assert pool["waiting"] == {"1": 0, "2": 0, "3": 0, "4": 0}


def deliver_of(broker: BrokerFixture) -> Deliver:
    """Return some delivery that is open."""
    backend = next(one for one in broker.broker.registry.by_name.values() if one.open)
    return deliver(backend.name, next(iter(backend.open)))


def test_who_waits_is_counted_by_priority_with_the_wait_to_expect() -> None:
    broker = known("a", "b", slots=1)
    busy(broker, 2)
    for number, priority in enumerate((1, 2, 2, 3)):
        broker.send("c", client_id=number, priority=priority)
    view = explain(broker)
    assert view["pool"]["waiting"] == {"1": 1, "2": 2, "3": 1, "4": 0}
    assert view["pool"]["completions_per_s"] == pytest.approx(200.0)
    assert view["admission"]["would"] == "wait"
    assert view["admission"]["predicted_wait_ms"] == pytest.approx(4 / 200 * 1000)
    assert explain(broker, priority=4)["admission"]["predicted_wait_ms"] == pytest.approx(1 / 200 * 1000)
    assert view["auto"]["why"] == "2 of 2 slots busy, and no place is free"


def test_a_message_that_would_be_refused_is_told_so() -> None:
    broker = known("a", slots=1, default_ttl_ms=100)
    busy(broker, 1)
    while (would := explain(broker)["admission"])["would"] == "wait":
        broker.send("c", client_id=object.__hash__(would))
    assert would["why"] == "every backend is full, and the wait would be too long"
    [refused] = only(broker.send("c", client_id="last"), actions.Error)
    assert refused.header.code == "overloaded"
    full = known("a", slots=1, queue_messages=0)
    busy(full, 1)
    assert explain(full)["admission"]["why"] == "every backend is full and the waiting room too"
    full.broker.start_drain()
    assert explain(full)["admission"] == {
        "would": "refuse",
        "why": "the daemon is about to exit",
        "predicted_wait_ms": pytest.approx(5.0, abs=6.0),
        "ttl_ms": 30_000.0,
    }


def test_of_many_candidates_a_head_is_one_only_where_it_is_drawn() -> None:
    broker = known(*(f"b{number}" for number in range(51)))
    view = explain(broker)
    assert view["candidates"][0]["reason"] == "head 1 by rank, where it is among 32 drawn at random"


def test_many_backends_are_shown_from_the_first_on() -> None:
    broker = make_broker(*(f"b{number}" for number in range(views.MOST_SHOWN + 5)))
    view = explain(broker)
    assert (len(view["candidates"]), view["backends"]) == (views.MOST_SHOWN, views.MOST_SHOWN + 5)
    assert view["candidates"][0]["head"] == 1
