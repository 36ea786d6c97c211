"""What is recorded of decisions: exact at the decision, kept where it must be, bounded, and without an effect."""

from __future__ import annotations

import gc
import json
import tracemalloc
import weakref
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

import pytest
from core_kit import make_broker
from routing_kit import learn, make, occupy, room_only_at, send, send_one

from router_daemon.core import events, whys
from router_daemon.core.actions import Deliver
from router_daemon.core.backends import Backend
from router_daemon.core.decisions import FURTHER_EVERY_S, MOST_DECISIONS, MOST_DELIVERIES, MOST_ROWS
from router_daemon.core.entries import (
    DECISION_BYTES,
    DELIVERY_BYTES,
    ENTRY_BYTES,
    KINDS,
    ROW_BYTES,
    Entry,
    Row,
    Shelf,
)
from router_daemon.core.settings import AttentionSettings, ExplorationSettings, HedgeSettings, WhySettings
from router_daemon.core.types import Side
from router_daemon.lab.random_world import random_plan
from router_daemon.testing import CLIENT, BrokerFixture, only

WALL: Final = 1_750_000_000.0
EVERYTHING: Final = WhySettings(sample_every_s=0.0)
NO_SAMPLE: Final = WhySettings(sample_every_s=86_400.0)
TRACE: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Told = dict[str, Any]


def why(fixture: BrokerFixture, text: str = "m1") -> list[Told]:
    """Return the view, after a check that it is JSON."""
    told = whys.why(fixture.broker, text, fixture.clock.now, WALL)
    json.dumps(told, allow_nan=False)
    return told


def why_one(fixture: BrokerFixture, text: str = "m1") -> Told:
    (told,) = why(fixture, text)
    return told


def search(fixture: BrokerFixture, limit: int = 1000, **wanted: Any) -> list[str]:
    """Return the names of the messages found."""
    found = whys.search(fixture.broker, whys.Wanted(**wanted), limit, fixture.clock.now, WALL)
    json.dumps(found, allow_nan=False)
    return [row["message"] for row in found["decisions"]]


def row(decision: Told, name: str) -> Told:
    (found,) = (told for told in decision["candidates"] if told["backend"] == name)
    return found  # type: ignore[no-any-return]


def unsampled(fixture: BrokerFixture) -> None:
    """Let the first message, which is always sampled, be over."""
    (delivery,) = only(fixture.send("c", client_id="first"), Deliver)
    fixture.advance(0.01)
    fixture.ack(delivery)


# --- exact ---


def test_the_terms_are_those_of_the_decision_by_hand() -> None:
    """a takes 10 ms and its one slot is busy, b takes 20 ms and is idle, c is full; E = L + (1 - S) ref."""
    fixture = make(why=EVERYTHING, attention=AttentionSettings(scarcity=0.0), exploration=ExplorationSettings(share=0))
    for name, slots in (("a", 1), ("b", 1), ("c", 1)):
        fixture.register(name, "c", slots=slots, prefetch=2)
    learn(fixture, "a", 0.010, 400)
    learn(fixture, "b", 0.020, 400)
    learn(fixture, "c", 0.030, 400)
    occupy(fixture, "a", 1)
    with room_only_at(fixture, "c"):
        for number in (101, 102, 103):
            send_one(fixture, number, heads=1, priority=4)
    send_one(fixture, 7)
    # the clock goes on, and everything that the terms were made of changes
    broker = fixture.broker
    services = {name: fixture.backend(name).services["c"] for name in "abc"}
    success = {name: fixture.backend(name).profile.success for name in "abc"}
    reference_s = broker.registry.pool("c").reference_s
    told = why_one(fixture, "7")["decisions"][0]
    work_s = {name: services[name].service_s for name in "ab"}
    # a: q = 1 open on 1 slot: wait = W (q + 1 - slots) / (q slots) = s; L = (s + s)^2 / s = 4 s
    expected_s = {
        "a": 4.0 * work_s["a"] + (1.0 - success["a"]) * reference_s,
        "b": work_s["b"] + (1.0 - success["b"]) * reference_s,
    }
    least_s = min(expected_s.values())
    for name in "ab":
        found = row(told, name)
        performance = 0.3 / (1.0 + expected_s[name] / least_s)
        assert found["terms"] == pytest.approx(
            {
                "capability": 0.4,
                "performance": performance,
                "reliability": 0.2 * success[name],
                "priority": 0.1 * 2 / 4,
            }
        )
        assert found["score"] == pytest.approx(sum(found["terms"].values()))
        assert found["expected_ms"] == pytest.approx(expected_s[name] * 1000.0)
    assert (row(told, "b")["head"], row(told, "b")["reason"]) == (1, "head 1 by rank")
    assert (row(told, "a")["head"], row(told, "a")["reason"]) == (None, "others were better")
    full = row(told, "c")
    assert (full["score"], full["terms"], full["reason"]) == (None, {}, "all its places were taken")
    assert (row(told, "a")["in_flight"], row(told, "b")["in_flight"], full["in_flight"], full["free"]) == (1, 0, 3, 0)
    assert told["terms"] == "compared"
    # what comes later does not change them
    learn(fixture, "b", 0.5, 20)
    fixture.update(b"b", slots=7)
    assert why_one(fixture, "7")["decisions"][0] == told


def test_the_score_is_the_one_that_pick_compared() -> None:
    """Of two backends one bit apart, the recorded scores tell the same winner: they are the same computation."""
    fixture = make(why=EVERYTHING, exploration=ExplorationSettings(share=0.0))
    for name in "abcd":
        fixture.register(name, "c", slots=40)
    for name, latency_s in zip("abcd", (0.0100001, 0.01, 0.0099999, 0.01), strict=True):
        learn(fixture, name, latency_s, 30)
    for number in range(200):
        delivery = send_one(fixture, number)
        decision = why_one(fixture, delivery.header.message)["decisions"][0]
        best = max(told["score"] for told in decision["candidates"] if told["score"] is not None)
        assert row(decision, delivery.peer.decode())["score"] == best
        fixture.advance(0.001)
        if number % 3:
            fixture.ack(delivery)


def test_a_further_head_has_the_score_it_was_chosen_by() -> None:
    """By then the first head is not compared any more: b is the fastest left, with w_p / (1 + 1)."""
    fixture = make(why=EVERYTHING, exploration=ExplorationSettings(share=0.0))
    for name in "abc":
        fixture.register(name, "c", slots=8)
    for name, latency_s in (("a", 0.01), ("b", 0.02), ("c", 0.04)):
        learn(fixture, name, latency_s, 100)
    heads = send(fixture, 2, mode="fanout", heads=2)
    told = why_one(fixture, heads[0].header.message)
    (decision,) = told["decisions"]
    assert [delivery.peer for delivery in heads] == [b"a", b"b"]
    assert [(each["backend"], each["head"]) for each in decision["candidates"]] == [("a", 1), ("b", 2), ("c", None)]
    a, b, c = decision["candidates"]
    assert a["terms"]["performance"] == b["terms"]["performance"] == pytest.approx(0.15)
    assert c["terms"]["performance"] == pytest.approx(0.3 / (1.0 + c["expected_ms"] / a["expected_ms"]))
    assert told["mode"] == {"asked": "fanout", "as": "fanout", "done": "fanout"}


def test_of_many_candidates_those_drawn_are_told() -> None:
    fixture = make(why=EVERYTHING, attention=AttentionSettings(scan_most=10, sample=5))
    for number in range(100):
        fixture.register(f"b{number}", "c", slots=2)
    delivery = send_one(fixture, 1)
    decision = why_one(fixture, "m1")["decisions"][0]
    compared = [told for told in decision["candidates"] if told["score"] is not None]
    assert 1 <= len(compared) <= 5
    assert decision["candidates"][0]["backend"] == delivery.peer.decode()
    assert (decision["backends"], len(decision["candidates"])) == (100, MOST_ROWS)
    unseen = {told["reason"] for told in decision["candidates"] if told["score"] is None}
    assert unseen == {"not among those the policy looked at"}


def test_heads_of_several_draws_are_told_without_the_terms_of_the_earlier_ones() -> None:
    fixture = make(mode="fanout", why=EVERYTHING, attention=AttentionSettings(scan_most=10, sample=5))
    for number in range(100):
        fixture.register(f"b{number}", "c", slots=2)
    heads = send(fixture, 1)
    decision = why_one(fixture, "m1")["decisions"][0]
    scores = [(told["backend"], told["score"]) for told in decision["candidates"] if told["head"]]
    assert [name for name, _ in scores] == [delivery.peer.decode() for delivery in heads]
    assert [score is None for _, score in scores] == [True, True, False]


@pytest.mark.parametrize(
    ("policy", "terms", "names"),
    [
        ("least_in_flight", "compared", {"cost"}),
        ("p2c_peak_ewma", "compared", {"cost"}),
        ("c3", "compared", {"cost"}),
        ("prequal", "compared", {"hot", "by"}),
        ("paper", "ranking", {"capability", "performance", "reliability", "priority"}),
        ("round_robin", "ranking", {"turn"}),
        ("ring", "compared", {"alignment", "live"}),
        ("ring_multi", "compared", {"alignment", "live"}),
        ("ring_greedy", "compared", {"alignment", "live"}),
    ],
)
def test_other_policies_tell_what_they_compared(policy: str, terms: str, names: set[str]) -> None:
    fixture = BrokerFixture(policy=policy, mode="single", heartbeat_s=1000.0, why=EVERYTHING, seed=3)
    for place, name in enumerate("abcd"):
        fixture.register(name, "c", slots=40, embedding=[1.0, float(place)])
    for number in range(50):
        (delivery,) = only(fixture.send("c", client_id=number, embedding=[1.0, 0.1 * number]), Deliver)
        told = why_one(fixture, delivery.header.message)
        decision = told["decisions"][0]
        assert (told["policy"], decision["policy"], decision["terms"]) == (policy, policy, terms)
        chosen = row(decision, delivery.peer.decode())
        assert set(chosen["terms"]) == names
        compared = [each["score"] for each in decision["candidates"] if each["score"] is not None]
        if policy != "ring_greedy":  # that looks only at those it climbs past
            assert len(compared) == (2 if policy == "p2c_peak_ewma" else 4)
        if policy != "round_robin":
            assert chosen["score"] == pytest.approx(max(compared), abs=1e-6)
        if policy.startswith("ring"):
            assert chosen["score"] == pytest.approx(sum(chosen["terms"].values()))
        fixture.advance(0.003)
        if number % 2:
            fixture.ack(delivery)


def test_what_the_cache_had_is_told() -> None:
    fixture = make(why=EVERYTHING, cache_ttl_s=1.0)
    fixture.register("a", "c", slots=50)
    states = []
    for number, wait_s in enumerate((0.0, 0.0, 2.0, 0.5)):
        fixture.advance(wait_s)
        if number == 3:
            fixture.register("b", "c")
        send(fixture, number)
        states.append(why_one(fixture, f"m{number + 1}")["decisions"][0]["cache"])
    send(fixture, 9, priority=3)
    assert states == ["miss", "hit", "expired", "invalidated"]
    assert why_one(fixture, "m5")["decisions"][0]["cache"] == "miss"


def test_what_is_not_recorded_is_said_and_the_nearest_recorded_one_is_named() -> None:
    fixture = make(why=NO_SAMPLE, retry=replace(make().settings.retry, same_backend=False))
    fixture.register("a", "c")
    unsampled(fixture)
    fixture.advance(1.0)
    delivery = send_one(fixture, 2)
    fixture.advance(0.002)
    fixture.nack(delivery, reason="disk full")
    told = why_one(fixture, "m2")
    assert told["nearest"] == {"message": "m1", "later_ms": pytest.approx(-1010.0)}
    assert told["decisions"] == []
    (sent,) = told["deliveries"]
    assert (told["kept"], told["outcome"], told["reason"]) == ("failed", "failed", "a: failed: disk full")
    assert (sent["outcome"], sent["latency_ms"]) == ("failed", pytest.approx(2.0))
    assert sent["expected"] == {"service_ms": pytest.approx(10.0), "work_share": 1.0}


# --- a message's life ---


def test_a_retry_has_its_own_decision_and_each_delivery_its_times() -> None:
    fixture = make(why=NO_SAMPLE)
    for name in "ab":
        fixture.register(name, "c", slots=2)
    unsampled(fixture)
    first = send_one(fixture, 2, traceparent=TRACE, mode="single", ttl_ms=5000)
    fixture.advance(0.010)
    (second,) = only(fixture.nack(first, reason="disk full"), Deliver)
    fixture.advance(0.020)
    fixture.ack(second, queue=3)
    told = why_one(fixture, "m2")
    assert (told["kept"], told["outcome"], told["answered_by"]) == ("retried", "answered", second.peer.decode())
    assert (told["trace_id"], told["ttl_ms"]) == ("0af7651916cd43dd8448eb211c80319c", pytest.approx(5000.0))
    assert told["mode"] == {"asked": "single", "as": "single", "done": "single"}
    assert (told["at"], told["ago_s"]) == (pytest.approx(WALL - 0.030), pytest.approx(0.030))
    (decision,) = told["decisions"]
    assert (decision["kind"], decision["after_ms"], decision["terms"]) == ("retry", pytest.approx(10.0), "compared")
    assert row(decision, first.peer.decode())["reason"] == "it had been tried"
    times = [(d["sent_ms"], d["settled_ms"], d["outcome"], d["answered"]) for d in told["deliveries"]]
    assert times == [
        (0.0, pytest.approx(10.0), "failed", False),
        (pytest.approx(10.0), pytest.approx(30.0), "acked", True),
    ]
    assert told["deliveries"][1]["queue"] == 3


def test_a_hedge_is_told_with_the_one_who_lost() -> None:
    fixture = make(mode="hedge", why=NO_SAMPLE)
    for name in "ab":
        fixture.register(name, "c", slots=2)
    learn(fixture, "a", 0.01, 30)
    learn(fixture, "b", 0.01, 30)
    first = send_one(fixture, 2, mode="hedge")
    (second,) = only(fixture.advance(1.0), Deliver)
    fixture.ack(second)
    told = why_one(fixture, "2")
    assert (told["kept"], told["mode"]["done"], told["answered_by"]) == ("slow", "hedge", second.peer.decode())
    assert [d["kind"] for d in told["decisions"]] == ["hedge"]
    assert row(told["decisions"][0], second.peer.decode())["reason"] == "hedge: the first head was late"
    outcomes = {d["backend"]: d["outcome"] for d in told["deliveries"]}
    assert outcomes == {first.peer.decode(): "cancelled", second.peer.decode(): "acked"}


def test_an_answer_that_comes_after_its_head_was_timed_out_is_told_as_both() -> None:
    fixture = make(why=NO_SAMPLE)
    for name in "ab":
        fixture.register(name, "c")
    unsampled(fixture)
    first = send_one(fixture, 2, first_ms=50)
    fixture.advance(0.06)
    fixture.ack(first)
    told = why_one(fixture, "m2")
    assert told["answered_by"] == first.peer.decode()
    sent = told["deliveries"][0]
    assert (sent["outcome"], sent["settled_ms"], sent["answered_late_ms"], sent["latency_ms"]) == (
        "timeout",
        pytest.approx(50.0, abs=2.0),
        pytest.approx(60.0),
        pytest.approx(60.0),
    )


def test_waiting_is_told_and_the_decision_that_ended_it() -> None:
    fixture = make(why=EVERYTHING, waiting=replace(make().settings.waiting, reserve=0.0))
    fixture.register("a", "c")
    held = send_one(fixture, 1)
    assert send(fixture, 2) == []
    fixture.advance(0.25)
    assert why_one(fixture, "2")["outcome"] == "open"
    assert why_one(fixture, "2")["waited_ms"] == pytest.approx(250.0)
    (delivery,) = only(fixture.ack(held), Deliver)
    fixture.advance(0.01)
    fixture.ack(delivery)
    told = why_one(fixture, "2")
    assert (told["waited_ms"], told["took_ms"]) == (pytest.approx(250.0), pytest.approx(260.0))
    assert [d["kind"] for d in told["decisions"]] == ["first", "served"]
    first, served = told["decisions"]
    assert row(first, "a")["reason"] == "all its places were taken"
    assert row(served, "a")["head"] == 1


def test_a_refused_message_is_told_with_the_reason() -> None:
    fixture = make()
    fixture.register("a", "c")
    fixture.send("never", client_id="x")
    told = why_one(fixture, "x")
    assert (told["kept"], told["outcome"], told["deliveries"]) == ("refused", "no_capability", [])
    assert told["reason"] == "never: no backend has ever offered it"


def test_who_is_tried_to_find_out_about_is_said_to_be() -> None:
    fixture = make(why=EVERYTHING, exploration=ExplorationSettings(share=1.0, after_s=1.0, after_services=1.0))
    for name in "ab":
        fixture.register(name, "c")
    learn(fixture, "a", 0.01, 30)
    learn(fixture, "b", 0.5, 30)
    fixture.advance(100.0)
    seen = set()
    for number in range(20):
        delivery = send_one(fixture, number)
        told = why_one(fixture, delivery.header.message)
        seen.add((told["risked"], row(told["decisions"][0], delivery.peer.decode())["reason"]))
        fixture.advance(0.3)
        fixture.ack(delivery)
    assert (True, "head 1 to find out about it: on trial, or unused for long") in seen
    assert (False, "head 1 by rank") in seen


def test_every_answer_of_reply_all_has_its_time() -> None:
    fixture = make(mode="fanout", why=EVERYTHING)
    for name in "abc":
        fixture.register(name, "c")
    heads = send(fixture, 1, reply="all")
    for delivery in heads:
        fixture.advance(0.01)
        fixture.ack(delivery)
    told = why_one(fixture, "m1")
    assert [d["settled_ms"] for d in told["deliveries"]] == pytest.approx([10.0, 20.0, 30.0])
    assert {d["outcome"] for d in told["deliveries"]} == {"acked"}


# --- what is kept ---


def run_one(fixture: BrokerFixture, number: int, latency_s: float = 0.01, **keys: Any) -> str:
    delivery = send_one(fixture, number, **keys)
    fixture.advance(latency_s)
    fixture.ack(delivery)
    return delivery.header.message


def test_failed_slow_cancelled_and_critical_ones_are_always_kept() -> None:
    fixture = make(why=WhySettings(sample_every_s=86_400.0, slow_times=5.0))
    for name in "ab":
        fixture.register(name, "c", slots=4)
    unsampled(fixture)
    for number in range(30):
        run_one(fixture, number)
    assert search(fixture) == ["m1"]
    critical = run_one(fixture, 100, priority=4)
    slow = run_one(fixture, 101, 0.06)
    delivery = send_one(fixture, 102, heads=1)
    fixture.nack(delivery, "rejected")
    failed = delivery.header.message
    cancelled = send_one(fixture, 103).header.message
    fixture.cancel(103)
    gone = send_one(fixture, 104).header.message
    fixture.gone(CLIENT, Side.CLIENT)
    assert {kept: search(fixture, kept=kept) for kept in KINDS if kept != "refused"} == {
        "failed": [failed],
        "cancelled": [gone, cancelled],
        "critical": [critical],
        "slow": [slow],
        "retried": [],
        "sampled": ["m1"],
    }


def test_slow_is_what_the_setting_says_and_of_a_stream_its_beginning() -> None:
    fixture = make(why=WhySettings(sample_every_s=86_400.0, slow_times=0.0, slow_s=0.05))
    fixture.register("a", "c", slots=4)
    unsampled(fixture)
    run_one(fixture, 1, 0.05)
    slow = run_one(fixture, 2, 0.0501)
    delivery = send_one(fixture, 3)
    fixture.advance(0.04)
    fixture.part(delivery, b"x")
    fixture.advance(1.0)
    fixture.ack(delivery)
    assert search(fixture, kept="slow") == [slow]


def test_who_waited_long_is_slow_though_its_delivery_was_not() -> None:
    fixture = make(why=replace(NO_SAMPLE, slow_times=1.5), waiting=replace(make().settings.waiting, reserve=0.0))
    fixture.register("a", "c")
    unsampled(fixture)
    held = send_one(fixture, 1)
    fixture.send("c", client_id=2)
    fixture.advance(0.025)
    (delivery,) = only(fixture.ack(held), Deliver)
    fixture.advance(0.01)
    fixture.ack(delivery)
    assert search(fixture, kept="slow") == [delivery.header.message]


def test_others_are_sampled_by_time_and_out_of_step() -> None:
    fixture = make(why=WhySettings(sample_every_s=0.1))
    fixture.register("a", "c", slots=4)
    sampled = []
    for number in range(5000):
        name = run_one(fixture, number, 0.001)
        if search(fixture, limit=1) == [name]:
            sampled.append(number)
    gaps = {after - before for before, after in pairwise(sampled)}
    assert len(sampled) == pytest.approx(50, abs=10)
    assert len(gaps) > 20
    assert all(50 <= gap <= 151 for gap in gaps)


def test_a_flood_of_critical_messages_has_its_terms_read_now_and_then() -> None:
    fixture = make(why=NO_SAMPLE)
    fixture.register("a", "c", slots=100)
    unsampled(fixture)
    fixture.advance(1.0)
    names = [send_one(fixture, number, priority=4).header.message for number in range(10)]
    fixture.advance(2 * FURTHER_EVERY_S)
    names.append(send_one(fixture, 10, priority=4).header.message)
    terms = [[decision["terms"] for decision in why_one(fixture, name)["decisions"]] for name in names]
    assert terms == [["compared"], *[[]] * 9, ["compared"]]
    assert why_one(fixture, names[3])["nearest"] is None  # of that priority, none has ended yet


def test_of_a_flood_of_refusals_one_is_kept_now_and_then_and_the_rest_counted() -> None:
    fixture = make(why=NO_SAMPLE, queue_messages=0)
    fixture.register("a", "c")
    send(fixture, 1)
    for number in range(2, 12):
        fixture.send("c", client_id=number)
    fixture.send("never", client_id=12)
    fixture.advance(2 * FURTHER_EVERY_S)
    fixture.send("c", client_id=13)
    assert search(fixture, kept="refused") == ["md", "mc", "m2"]
    assert fixture.broker.decisions.shelf.passed_over == 9


def test_with_no_entries_nothing_is_kept_and_open_messages_are_told() -> None:
    fixture = make(why=WhySettings(entries=0))
    fixture.register("a", "c")
    delivery = send_one(fixture, 1, priority=4)
    assert why_one(fixture, "m1")["outcome"] == "open"
    fixture.nack(delivery, "rejected")
    assert why(fixture, "m1") == []
    assert "there is no entry" in whys.nothing(fixture.broker, "m1", fixture.clock.now)


# --- bounds ---


def entry(kept: str, number: int, **keys: Any) -> Entry:
    """Return an entry in which only what matters is told."""
    given: dict[str, Any] = {
        "client": b"",
        "id": number,
        "traceparent": None,
        "capability": "c",
        "priority": 2,
        "asked": None,
        "mode": "auto",
        "done": "single",
        "reply": "first",
        "heads": 3,
        "ttl_s": 1.0,
        "max_cost": None,
        "named": None,
        "bytes": 0,
        "accepted_at": float(number),
        "ended_at": float(number),
        "outcome": "answered",
        "reason": "",
        "waited_s": 0.0,
        "risked": False,
        "route": None,
        "policy": "p",
        "sent": 0,
        "decided": 0,
        "deliveries": [],
        "decisions": [],
    }
    return Entry(kept, number, f"m{number}", **(given | keys))


def test_a_flood_of_one_kind_leaves_the_others_their_share() -> None:
    shelf = Shelf(70, 1 << 30)
    for number in range(10):
        shelf.put(entry("slow", number))
    for number in range(10, 1000):
        shelf.put(entry("refused", number))
        shelf.check()
    for number in range(1000, 1040):
        shelf.put(entry("failed", number))
        shelf.check()
    held = {kind: [each.number for each in shelf if each.kept == kind] for kind in KINDS}
    assert held["slow"] == list(range(9, -1, -1))
    assert held["refused"] == list(range(999, 969, -1))
    assert len(held["failed"]) == 30
    assert held["failed"][0] == 1039
    assert shelf.kept == dict.fromkeys(KINDS, 0) | {"slow": 10, "refused": 990, "failed": 40}


def test_bytes_are_bounded_even_where_one_entry_is_too_large() -> None:
    shelf = Shelf(1000, 10 * ENTRY_BYTES)
    for number in range(100):
        shelf.put(entry("failed", number))
        shelf.check()
    assert shelf.entries == 10
    assert shelf.bytes == sum(each.size() for each in shelf)
    shelf.put(entry("failed", 100, id="x" * 10 * ENTRY_BYTES))
    shelf.check()
    assert shelf.entries == 0


def test_a_message_that_goes_round_for_ever_is_told_in_part() -> None:
    fixture = make(why=EVERYTHING, retry=replace(make().settings.retry, share=1.0, most=100.0, start=100.0))
    for number in range(40):
        fixture.register(f"b{number}", "c")
    (delivery,) = only(fixture.send("c"), Deliver)
    for _ in range(30):
        (delivery,) = only(fixture.nack(delivery, "busy", retry_after_ms=60_000), Deliver)
    fixture.ack(delivery)
    told = why_one(fixture, "m1")
    assert (len(told["decisions"]), told["decisions_left_out"]) == (MOST_DECISIONS, 31 - MOST_DECISIONS)
    assert (len(told["deliveries"]), told["deliveries_left_out"]) == (MOST_DELIVERIES, 31 - MOST_DELIVERIES)


def test_an_entry_takes_no_more_than_it_is_counted_for() -> None:
    """The sizes in `entries` are upper bounds of what tracemalloc finds, and not more than three times of it."""
    fixture = make(mode="fanout", why=replace(EVERYTHING, entries=10_000, bytes=1 << 30))
    for number in range(12):
        fixture.register(f"backend-{number:040}", "c", slots=100)
    send(fixture, 1)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.take_snapshot()
    shelf = fixture.broker.decisions.shelf
    for number in range(2, 202):
        fixture.clock.advance(0.01)
        for delivery in send(fixture, f"{number:0100}", traceparent=TRACE):  # type: ignore[arg-type]
            fixture.broker.handle(ack_of(delivery), fixture.clock.now)
    gc.collect()
    after = tracemalloc.take_snapshot()
    tracemalloc.stop()
    grown = sum(change.size_diff for change in after.compare_to(before, "filename"))
    assert shelf.entries >= 200
    assert grown <= shelf.bytes <= 3 * grown
    assert ROW_BYTES > 0
    assert min(DECISION_BYTES, DELIVERY_BYTES) > 0


def ack_of(delivery: Deliver) -> events.Ack:
    return events.Ack(delivery.peer, False, events.AckHeader(delivery.header.id))


def test_an_entry_keeps_no_body_no_message_and_no_backend_alive() -> None:
    fixture = make(why=EVERYTHING)
    fixture.register("a", "c", slots=2)
    fixture.register("b", "c", slots=2)

    class Body:
        def __len__(self) -> int:
            return 5

    body = Body()
    watched: list[weakref.ref[Any]] = [weakref.ref(body)]
    (delivery,) = only(fixture.send("c", body, embedding=[1.0] * 1000), Deliver)
    del body
    fixture.ack(delivery)
    del delivery
    fixture.unregister(b"a")
    fixture.unregister(b"b")
    fixture.broker.rankings._rows.clear()
    fixture.broker.rankings._last_made = None, "", 0
    gc.collect()
    assert [ref() for ref in watched] == [None]
    assert not [each for each in gc.get_objects() if isinstance(each, Backend)]
    assert why_one(fixture, "m1")["body_bytes"] == 5


def test_a_row_is_in_the_order_of_its_fields() -> None:
    fixture = make(why=EVERYTHING)
    fixture.register("a", "c", slots=3, cost=2.0)
    send(fixture, 1)
    (found,) = fixture.broker.decisions.of_open(next(iter(fixture.broker.dispatcher.messages)), 0.0).decisions[0].seen()
    assert isinstance(found, Row)
    assert (found.backend, found.head, found.verdict, found.open, found.free) == ("a", 1, "chosen", 0, 3)
    assert (found.cost, found.service_s, found.success, found.samples) == (2.0, 0.001, 0.9, 0)


# --- finding ---


def test_a_message_is_found_by_any_of_its_names() -> None:
    fixture = make(why=EVERYTHING)
    fixture.register("a", "c", slots=50)
    for client_id in ("job/7 ä", 255, b"\xff\x00\x01", "255", -3):
        fixture.send("c", client_id=client_id, peer=str(client_id).encode(), traceparent=TRACE)
    assert [told["message"] for told in why(fixture, "job/7 ä")] == ["m1"]
    assert [(told["message"], told["id_kind"]) for told in why(fixture, "255")] == [("m2", "integer"), ("m4", "text")]
    assert [told["message"] for told in why(fixture, "0xff")] == ["m2"]
    assert [(told["id"], told["id_kind"]) for told in why(fixture, "ff0001")] == [("ff0001", "bytes")]
    assert [told["message"] for told in why(fixture, "0xFF0001")] == ["m3"]
    assert [told["id"] for told in why(fixture, "-3")] == [-3]
    assert len(why(fixture, "0af7651916cd43dd8448eb211c80319c")) == len(why(fixture, TRACE)) == 5
    assert why(fixture, "b7ad6b7169203331") == why(fixture, "") == why(fixture, "nobody") == []


def test_an_id_that_is_too_long_to_keep_is_found_by_all_of_it() -> None:
    fixture = make(why=EVERYTHING)
    fixture.register("a", "c")
    delivery = only(fixture.send("c", client_id="x" * 5000), Deliver)[0]
    fixture.ack(delivery)
    assert len(why_one(fixture, "x" * 5000)["id"]) == 512


def test_entries_are_searched_by_what_they_say() -> None:
    fixture = make(why=EVERYTHING)
    fixture.register("a", "c", slots=50)
    fixture.register("b", "d", slots=50)
    one = run_one(fixture, 1)
    fixture.advance(10.0)
    two = run_one(fixture, 2, capability="d")
    fixture.nack(send_one(fixture, 3), "rejected")
    assert search(fixture) == ["m3", two, one]
    assert search(fixture, limit=1) == ["m3"]
    assert search(fixture, capability="d") == search(fixture, backend="b") == [two]
    assert search(fixture, outcome="rejected") == search(fixture, kept="failed") == ["m3"]
    assert search(fixture, ended_since=fixture.clock.now - 5.0) == ["m3", two]
    assert search(fixture, route="stable") == search(fixture, capability="c", backend="b") == []


def test_what_is_not_there_is_said_with_how_far_back_the_entries_go() -> None:
    fixture = make(why=EVERYTHING)
    fixture.register("a", "c")
    run_one(fixture, 1)
    fixture.advance(35.0)
    text = whys.nothing(fixture.broker, "m99", fixture.clock.now)
    assert text == (
        "nothing is kept of 'm99': it was never here, went well and was not sampled, was one of a flood of "
        "refusals, or gave way to others (1 entries, the oldest of 35 s ago)"
    )


# --- without an effect ---


@pytest.mark.parametrize("seed", [1, 4, 9, 17])
def test_what_is_kept_changes_nothing_that_is_done(seed: int) -> None:
    plan = random_plan(seed, messages=100)
    digests = {
        replace(plan, settings=replace(plan.settings, why=why)).run(check_every=0).digest
        for why in (WhySettings(entries=0), WhySettings(), EVERYTHING, WhySettings(entries=3, slow_s=0.0))
    }
    assert len(digests) == 1


def test_a_hedge_s_candidates_that_are_busy_are_said_to_be() -> None:
    hedge = HedgeSettings(samples=4)
    fixture = make(mode="hedge", why=NO_SAMPLE, hedge=hedge)
    for name in "abc":
        fixture.register(name, "c", slots=1, prefetch=3)
    for name in "abc":
        learn(fixture, name, 0.01, 10)
    occupy(fixture, "c", 1)
    first = send_one(fixture, 2, mode="hedge")
    fixture.advance(0.5)
    told = why_one(fixture, "2")
    (decision,) = [each for each in told["decisions"] if each["kind"] == "hedge"]
    assert row(decision, "c")["reason"] == "not idle: a hedge is for who surely has nothing else to do"
    assert row(decision, first.peer.decode())["reason"] == "it had been tried"


def test_a_message_that_names_its_backend_was_compared_with_nobody() -> None:
    fixture = make(why=EVERYTHING, backend_override=True)
    for name in "abc":
        fixture.register(name, "c")
    delivery = send_one(fixture, 1, backend="b")
    told = why_one(fixture, "m1")
    (decision,) = told["decisions"]
    assert (told["named"], decision["terms"]) == ("b", "named")
    (candidate,) = decision["candidates"]
    assert (candidate["backend"], candidate["head"], candidate["reason"]) == ("b", 1, "the message names it")
    fixture.send("c", client_id=2, backend="b")
    (candidate,) = why_one(fixture, "2")["decisions"][0]["candidates"]
    assert (candidate["backend"], candidate["head"], candidate["reason"]) == ("b", None, "all its places were taken")
    fixture.ack(delivery)


def test_a_message_that_ring_cannot_hold_against_keys_tells_the_terms_of_the_policy_it_went_by() -> None:
    fixture = BrokerFixture(policy="ring", mode="single", heartbeat_s=1000.0, why=EVERYTHING)
    for name in "ab":
        fixture.register(name, "c", embedding=[1.0, 0.0])
    (delivery,) = only(fixture.send("c"), Deliver)
    chosen = row(why_one(fixture)["decisions"][0], delivery.peer.decode())
    assert set(chosen["terms"]) == {"capability", "performance", "reliability", "priority"}


def test_a_message_whose_policy_has_a_ranking_of_equals_is_told_so() -> None:
    broker = make_broker("a", "b", mode="single", why=EVERYTHING)
    broker.send("c")
    decision = why_one(broker)["decisions"][0]
    assert [told["reason"] for told in decision["candidates"]] == [
        "head 1 by rank",
        "as good as the first head, and drawn after it",
    ]
