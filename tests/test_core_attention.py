"""The default policy: the score by hand, relative to the best, the least where it says arg max, ties at random."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from core_kit import ASKED, success_after
from routing_kit import learn, make, pool, send, send_one, service, works

from router_daemon.core.settings import AttentionSettings, RetrySettings, WaitingSettings, Weights
from router_daemon.testing import BrokerFixture

PLAIN = AttentionSettings(scarcity=0.0)


def live(fixture: BrokerFixture, capability: str = "c", priority: int = 2) -> dict[str, float]:
    """Return backend -> score as the next message would find it."""
    now = fixture.clock.now
    ranking = fixture.broker.rankings.preview(capability, priority, now)
    return {candidate.backend.name: candidate.score for candidate in fixture.broker.policy.peek(ranking, ASKED, now)}


def two(unit_s: float, ttl_ms: int = 300_000) -> BrokerFixture:
    """Return a broker with backends that need one unit and two."""
    fixture = make(default_ttl_ms=ttl_ms, heartbeat_s=1000.0, attention=PLAIN)
    for name in ("a", "b"):
        fixture.register(name, "c", slots=2)
    learn(fixture, "a", unit_s)
    learn(fixture, "b", 2 * unit_s)
    return fixture


def test_the_score_by_hand() -> None:
    fixture = two(0.01)
    reference_s, success = 0.015, success_after(True)
    penalty_s = (1 - success) * reference_s
    a, b = 0.01 + penalty_s, 0.02 + penalty_s
    assert live(fixture, priority=3) == {
        "a": pytest.approx(0.4 + 0.3 / 2 + 0.2 * success + 0.1 * 3 / 4),
        "b": pytest.approx(0.4 + 0.3 / (1 + b / a) + 0.2 * success + 0.1 * 3 / 4),
    }


@pytest.mark.parametrize("unit_s", [0.001, 0.05, 20.0])
def test_it_is_relative_to_the_best_whatever_the_length_of_the_work(unit_s: float) -> None:
    scores = live(two(unit_s))
    assert scores["a"] - scores["b"] == pytest.approx(
        0.3 / 2 - 0.3 / (1 + (2 + 0.0925 * 1.5 + 0) / (1 + 0.0925 * 1.5)), abs=2e-3
    )


def test_failures_cost_as_much_as_their_share_of_the_reference() -> None:
    fixture = make(heads=1, attention=PLAIN)
    fixture.register("a", "c")
    works(fixture, 0.1)
    for _ in range(3):
        fixture.nack(send_one(fixture))
    success = success_after(True, False, False, False)
    assert service(fixture).expected_s == pytest.approx(0.1 + (1 - success) * 0.1)


def test_they_cost_more_as_the_retries_left_become_few() -> None:
    """3 of 10 tokens, and 0.2 more for each of two messages: 0.66 of the budget is empty, four times that much more."""
    fixture = make(attention=AttentionSettings(scarcity=4.0))
    fixture.register("a", "c", slots=2)
    works(fixture, 0.1)
    send_one(fixture)
    assert service(fixture).expected_s == pytest.approx(0.1 + (1 - success_after(True)) * 0.1 * (1 + 4.0 * 0.66))


def test_load_moves_the_choice() -> None:
    """b takes 0.02 s; a, with 0.01 s and one slot, takes 0.01, (0.01 + 0.01)^2 / 0.01 = 0.04, ... s."""
    fixture = make()
    fixture.register("a", "c", slots=1, prefetch=3)
    fixture.register("b", "c", slots=4)
    learn(fixture, "a", 0.01, times=20)
    learn(fixture, "b", 0.02, times=20)
    assert [send_one(fixture, number).peer for number in range(4)] == [b"a", b"b", b"b", b"b"]


def test_work_from_elsewhere_moves_it_too() -> None:
    fixture = two(0.01)
    assert send_one(fixture, 1).peer == b"a"
    for _ in range(8):
        fixture.heartbeat(b"a", queue=7)
    assert send_one(fixture, 2).peer == b"b"


def test_the_winner_is_not_cached() -> None:
    fixture = make(cache_ttl_s=30.0)
    fixture.register("a", "c", slots=2)
    fixture.register("b", "c", slots=2)
    learn(fixture, "a", 0.01, times=20)
    learn(fixture, "b", 0.011, times=20)
    chosen = [send_one(fixture, number).peer for number in range(3)]
    assert chosen[:2] == [b"a", b"a"]
    assert chosen[2] == b"b"


@pytest.mark.parametrize("weights", [Weights(), Weights(performance=1e-8, reliability=0.0)], ids=["default", "tiny"])
def test_equal_ones_are_chosen_at_random(weights: Weights) -> None:
    """Also where latency weighs so little beside capability that rounding is more than it."""
    chosen: Counter[bytes] = Counter()
    for seed in range(200):
        fixture = make(seed=seed, weights=weights)
        for name in ("a", "b", "c"):
            fixture.register(name, "c")
        chosen[send_one(fixture).peer] += 1
    assert all(40 < count < 95 for count in chosen.values()), chosen
    assert len(chosen) == 3


def test_a_backend_nobody_knows_is_taken_for_an_average_one() -> None:
    fixture = two(0.01)
    fixture.register("new", "c")
    send(fixture, 9)
    assert service(fixture, "new").service_s == pytest.approx(pool(fixture).reference_s) == pytest.approx(0.015)


def test_cost_weighs_as_multiples_of_the_cheapest() -> None:
    """Twice the price is 1 reference: at weight 1 a, 0.01 s and cost 2, is expected to take 0.025 s against b's 0.02."""
    chosen = []
    for weight in (0.0, 1.0):
        fixture = make(attention=AttentionSettings(cost_weight=weight))
        fixture.register("a", "c", cost=2.0)
        fixture.register("b", "c", cost=1.0)
        learn(fixture, "a", 0.01)
        learn(fixture, "b", 0.02)
        chosen.append(send_one(fixture).peer)
    assert chosen == [b"a", b"b"]


def test_max_cost_is_a_hard_filter_and_observed_costs_count() -> None:
    fixture = make()
    fixture.register("dear", "c", cost=5.0, slots=4)
    fixture.register("cheap", "c", cost=1.0, slots=4)
    learn(fixture, "dear", 0.01)
    learn(fixture, "cheap", 0.5)
    assert send_one(fixture, 1, max_cost=4.9).peer == b"cheap"
    deliver = send_one(fixture, 2, max_cost=5.0)
    assert deliver.peer == b"dear"
    fixture.ack(deliver, cost=6.0)
    assert send_one(fixture, 3, max_cost=5.0).peer == b"cheap"
    assert send(fixture, 4, max_cost=0.5) == []


def test_who_scores_no_more_than_the_threshold_is_out() -> None:
    fixture = make(threshold=0.3, weights=Weights(capability=0.0, priority=0.0))
    fixture.register("a", "c")
    assert send(fixture) != [], "0.15 + 0.2 * 0.9 = 0.33"
    fixture = make(threshold=0.34, weights=Weights(capability=0.0, priority=0.0))
    fixture.register("a", "c")
    assert send(fixture) == []


@pytest.mark.parametrize("count", [50, 51, 200])
def test_of_many_the_one_with_room_is_found(count: int) -> None:
    fixture = make(waiting=WaitingSettings(reserve=0.0))
    for number in range(count):
        fixture.register(f"b{number}", "c")
    found = {send_one(fixture, number).peer for number in range(count)}
    assert len(found) == count


def test_of_many_a_sample_finds_a_good_one() -> None:
    fixture = make(waiting=WaitingSettings(reserve=0.0))
    for number in range(100):
        fixture.register(f"b{number}", "c")
    for number in range(100):
        learn(fixture, f"b{number}", 0.01 * (1 + number))
    chosen = [int(send_one(fixture, number).peer[1:]) for number in range(20)]
    assert max(chosen) < 40, chosen


def test_no_score_is_spoilt_by_costs_that_are_worlds_apart() -> None:
    fixture = make(attention=AttentionSettings(cost_weight=1.0))
    fixture.register("cheap", "c", cost=1e-300, slots=2)
    fixture.register("dear", "c", cost=1e300, slots=2)
    learn(fixture, "cheap", 0.1)
    assert all(score > 0.0 for score in live(fixture).values())
    learn(fixture, "dear", 0.1)  # with nobody else there, it is chosen


def test_a_report_beyond_belief_leaves_no_trace_in_the_sums() -> None:
    fixture = make()
    fixture.register("a", "c", slots=9)
    fixture.register("liar", "c")
    fixture.heartbeat(b"liar", queue=2**63 - 1)
    for number in range(7):
        send_one(fixture, number)
    fixture.unregister(b"liar")
    assert pool(fixture).busy == 7.0


def test_what_a_backend_once_reported_and_never_again_is_forgotten() -> None:
    """It told so with an answer; nobody is sent there any more, so it has no answer to tell anything else with."""
    fixture = make()
    for name in ("a", "b"):
        fixture.register(name, "c", slots=2)
        learn(fixture, name, 0.01)
    fixture.ack(send_one(fixture, 1), queue=100)
    busy = next(name for name in ("a", "b") if fixture.backend(name).other)
    for _ in range(12):
        fixture.heartbeat(busy.encode())
    assert fixture.backend(busy).other < 0.1


@pytest.mark.parametrize("seed", range(20))
def test_looking_only_at_the_fast_ones_finds_the_same_as_looking_at_all(seed: int) -> None:
    draw = Random(seed)
    fixture = make(seed=seed, weights=Weights(performance=draw.uniform(0.05, 1.0), reliability=draw.uniform(0.05, 1.0)))
    for number in range(12):
        fixture.register(f"b{number}", "c", slots=1)
        measured = fixture.broker.registry.service(fixture.backend(f"b{number}"), "c", fixture.clock.now)
        measured.service_s, measured.version = 0.001 * 30.0 ** draw.random(), -1
        fixture.backend(f"b{number}").profile.success = draw.random()
    pool(fixture).reference_s = 0.004
    ranking = fixture.broker.rankings.preview("c", 2, fixture.clock.now)
    scores = live(fixture)
    chosen = fixture.broker.policy.pick(ranking, ASKED, [], fixture.clock.now)
    assert chosen is not None
    assert scores[chosen.backend.name] == max(scores.values()), f"seed {seed}: {scores}"


def test_a_budget_that_began_overfull_does_not_make_failing_look_good() -> None:
    """Less than none of it was empty, so that E became negative, and nobody was the best."""
    fixture = make(retry=RetrySettings(start=100.0, most=10.0), queue_messages=2)
    fixture.register("a", "c", slots=1)
    learn(fixture, "a", 0.001)
    assert send_one(fixture).peer == b"a"
    assert service(fixture, "a").expected_s > 0.0
