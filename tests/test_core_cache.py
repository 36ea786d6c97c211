"""The decision cache, counted look-up by look-up; and the bounds on labels."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import InOrder, deliver, make_broker, outcomes

from router_daemon.core.actions import Deliver
from router_daemon.core.counts import DECISION_SECONDS, Counts, Histogram
from router_daemon.core.ranking import MAX_ENTRIES
from router_daemon.testing import BrokerFixture, only


def looked_up(broker: BrokerFixture) -> tuple[int, int, int, int]:
    """Return hits, misses, expired, invalidated."""
    cache = broker.broker.rankings
    return cache.hits, cache.misses, cache.expired, cache.invalidated


def post(broker: BrokerFixture, capability: str = "c", **keys: Any) -> None:
    """SEND and answer, so that every place stays free."""
    for sent in only(broker.send(capability, **keys), Deliver):
        broker.ack(sent)


def test_the_first_of_a_kind_is_a_miss_and_the_next_a_hit() -> None:
    broker = make_broker("a", mode="single")
    post(broker)
    assert looked_up(broker) == (0, 1, 0, 0)
    post(broker)
    post(broker)
    assert looked_up(broker) == (2, 1, 0, 0)


def test_each_capability_and_priority_has_its_own_entry() -> None:
    broker = make_broker("a", mode="single")
    broker.register("b", "d")
    for priority in (1, 2, 3, 4):
        post(broker, priority=priority)
        post(broker, "d", priority=priority)
    assert looked_up(broker) == (0, 8, 0, 0)


def test_an_entry_is_served_for_its_time_to_live() -> None:
    broker = make_broker("a", mode="single", cache_ttl_s=30.0, heartbeat_s=60.0)
    post(broker)
    broker.advance(29.999)
    post(broker)
    assert looked_up(broker) == (1, 1, 0, 0)
    broker.advance(0.001)
    post(broker)
    assert looked_up(broker) == (1, 1, 1, 0)
    post(broker)
    assert looked_up(broker) == (2, 1, 1, 0)


def test_a_time_to_live_of_nothing_caches_nothing() -> None:
    broker = make_broker("a", mode="single", cache_ttl_s=0.0)
    for _ in range(3):
        post(broker)
    assert looked_up(broker) == (0, 1, 2, 0)


CHANGES = {
    "join": lambda broker: broker.register("b", "d"),
    "leave": lambda broker: broker.unregister(b"spare"),
    "loss": lambda broker: broker.gone(b"spare"),
    "drain": lambda broker: broker.drain(b"spare"),
    "other capabilities": lambda broker: broker.update(b"spare", capabilities=["d"]),
    "another cost": lambda broker: broker.update(b"spare", cost=2.0),
    "registered anew": lambda broker: broker.register("spare", "c", "d"),
    "end of a drain": lambda broker: broker.drain(b"spare") and broker.register("spare", "c"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_entry_is_invalidated_by(change: object) -> None:
    broker = make_broker("a", "spare", mode="single")
    post(broker)
    assert callable(change)
    change(broker)
    post(broker)
    assert looked_up(broker) == (0, 1, 0, 1)
    post(broker)
    assert looked_up(broker) == (1, 1, 0, 1)


@pytest.mark.parametrize("keys", [{"slots": 2}, {"prefetch": 3}, {"version": "2"}, {"capabilities": ["c"]}], ids=str)
def test_an_entry_outlives_an_update_that_no_score_depends_on(keys: dict[str, Any]) -> None:
    broker = make_broker("a", "spare", mode="single")
    post(broker)
    broker.update(b"spare", **keys)
    post(broker)
    assert looked_up(broker) == (1, 1, 0, 0)


def test_what_does_not_change_the_backends_leaves_the_entry_in_force() -> None:
    broker = make_broker("a", mode="single", slots=1)
    broker.send("c")
    broker.heartbeat(b"a", queue=9)
    broker.nack(deliver("a", 1), "busy", retry_after_ms=1)
    hits, misses, expired, invalidated = looked_up(broker)
    assert (misses, expired, invalidated) == (1, 0, 0)
    assert hits > 0


def test_the_scores_in_an_entry_are_those_of_its_making() -> None:
    """The winner is cached: what was measured since shows only in the next ranking (cross-attention paper, cache)."""
    broker = BrokerFixture(policy="paper", mode="single", cache_ttl_s=30.0, heartbeat_s=60.0)
    broker.register("a", "c")
    broker.register("b", "c")
    [first] = only(broker.send("c"), Deliver)
    broker.clock.advance(1.0)
    broker.ack(first)
    [second] = only(broker.send("c"), Deliver)
    assert second.peer == first.peer
    broker.ack(second)
    broker.advance(30.0)
    [third] = only(broker.send("c"), Deliver)
    assert third.peer != first.peer


def test_the_number_of_entries_is_bounded() -> None:
    broker = BrokerFixture(policy=InOrder(), mode="single")
    for number in range(MAX_ENTRIES + 10):
        broker.send(f"nobody offers {number}")
    assert len(broker.broker.rankings._rows) <= MAX_ENTRIES


def test_decisions_are_timed_by_whether_they_were_cached() -> None:
    broker = make_broker("a", mode="single")
    for _ in range(3):
        post(broker)
    counts = broker.broker.counts
    assert (sum(counts.decision_miss.counts), sum(counts.decision_hit.counts)) == (1, 2)
    assert DECISION_SECONDS[0] == pytest.approx(0.5e-6)


def test_histogram_buckets_hold_what_is_at_most_their_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.total == 14.0


def test_capabilities_beyond_the_bound_are_other() -> None:
    broker = BrokerFixture(policy=InOrder(), mode="single", label_values=200)
    for number in range(5):
        broker.register(f"b{number}", *(f"c{number}.{index}" for index in range(50)), slots=50)
    for number in range(5):
        for index in range(50):
            post(broker, f"c{number}.{index}")
    table = broker.broker.counts.capabilities
    assert len(table) == 201
    assert table["other"].outcomes["answered"] == 50
    assert broker.broker.counts.label_overflow == 50


def test_backends_beyond_the_bound_are_other() -> None:
    broker = BrokerFixture(policy=InOrder(), mode="single", label_values=2)
    for number in range(4):
        broker.register(f"b{number}", f"c{number}")
        post(broker, f"c{number}")
    table = broker.broker.counts.backends
    assert list(table) == ["b0", "b1", "other"]
    assert table["other"].outcomes["acked"] == 2
    assert broker.backend("b3").profile is not broker.backend("b2").profile
    assert broker.broker.counts.label_overflow >= 2


def test_capabilities_nobody_offered_are_unknown_whatever_their_number() -> None:
    broker = make_broker("a", mode="single", label_values=1)
    post(broker)
    for number in range(300):
        broker.send(f"nobody offers {number}")
    assert list(broker.broker.counts.capabilities) == ["c", "unknown"]
    assert outcomes(broker, "unknown") == {"no_capability": 300}
    assert broker.broker.counts.label_overflow == 0


def test_a_capability_gets_its_own_series_once_somebody_offers_it() -> None:
    broker = make_broker("a", mode="single")
    broker.send("d")
    broker.register("b", "d")
    post(broker, "d")
    assert outcomes(broker, "unknown") == {"no_capability": 1}
    assert outcomes(broker, "d") == {"answered": 1}


def test_groups_beyond_the_bound_are_other() -> None:
    counts = Counts(2)
    assert [counts.group(name) for name in ("", "blue", "green", "blue")] == ["", "blue", "other", "blue"]
    assert counts.label_overflow == 1


def test_series_of_a_group_go_ten_minutes_after_the_last_of_it_left_and_make_room() -> None:
    broker = BrokerFixture(policy=InOrder(), mode="single", label_values=2, heartbeat_s=3_600.0)
    for name in ("blue", "green", "red"):
        broker.register(name, "c", group=name)
    post(broker)
    counts = broker.broker.counts
    seconds = counts.capabilities["c"].delivery_seconds
    broker.unregister(b"blue")
    broker.advance(600.0)
    assert (list(counts.groups), list(seconds)) == (["blue", "green"], ["blue"]), "who left may still come back"
    broker.advance(130.0)
    assert (list(counts.groups), list(seconds)) == (["green"], [])
    broker.register("late", "c", group="yellow")
    labels = [broker.backend(name).group_label for name in ("green", "red", "late")]
    assert labels == ["green", "other", "yellow"], "who is there keeps the label that it got"


def test_series_of_a_group_stay_while_somebody_is_in_it_or_comes_back_to_it() -> None:
    broker = BrokerFixture(policy=InOrder(), mode="single", label_values=1, heartbeat_s=3_600.0)
    for name in ("a", "b"):
        broker.register(name, "c", group="blue")
    post(broker)
    broker.unregister(b"a")
    broker.advance(900.0)
    broker.unregister(b"b")
    broker.advance(590.0)
    broker.register("b", "c", group="blue")
    broker.unregister(b"b")
    broker.advance(590.0)
    assert sum(broker.broker.counts.capabilities["c"].delivery_seconds["blue"].counts) == 1


def test_series_of_a_backend_go_ten_minutes_after_it_left_and_make_room() -> None:
    broker = BrokerFixture(policy=InOrder(), mode="single", label_values=1)
    broker.register("a", "c")
    broker.unregister(b"a")
    broker.advance(590.0)
    assert "a" in broker.broker.counts.backends
    broker.advance(71.0)
    assert "a" not in broker.broker.counts.backends
    broker.register("b", "c")
    assert list(broker.broker.counts.backends) == ["b"]


def test_series_of_a_capability_go_when_nobody_has_offered_it_for_ten_minutes() -> None:
    broker = make_broker("a", mode="single")
    post(broker)
    broker.unregister(b"a")
    broker.advance(590.0)
    assert "c" in broker.broker.counts.capabilities
    broker.advance(71.0)
    assert "c" not in broker.broker.counts.capabilities
    assert only(broker.register("a", "c"), Deliver) == []
    post(broker)
    assert outcomes(broker) == {"answered": 1}


def test_series_of_a_capability_stay_ten_minutes_after_the_last_backend_left() -> None:
    broker = make_broker("a", mode="single", heartbeat_s=3_600.0)
    broker.advance(3_000.0)
    post(broker)
    broker.unregister(b"a")
    broker.advance(120.0)
    assert outcomes(broker) == {"answered": 1}


def test_series_of_one_that_came_back_in_time_stay() -> None:
    broker = make_broker("a", mode="single", heartbeat_s=3_600.0)
    post(broker)
    broker.unregister(b"a")
    broker.advance(300.0)
    broker.register("a", "c")
    broker.advance(900.0)
    assert outcomes(broker) == {"answered": 1}
    assert broker.broker.counts.backends["a"].outcomes["acked"] == 1


def test_a_backend_called_other_has_no_power_over_the_rest() -> None:
    broker = BrokerFixture(policy=InOrder(), mode="single", label_values=1, heartbeat_s=3_600.0)
    broker.register("a", "c")
    broker.register("b", "d")
    post(broker, "d")
    broker.register("other", "e")
    broker.unregister(b"other")
    broker.advance(700.0)
    assert broker.broker.counts.backends["other"].outcomes["acked"] == 1


def test_where_all_may_get_all_what_nobody_offers_shares_an_entry() -> None:
    """Each entry has every backend in it: thousands of names that a client makes up would fill the memory."""
    broker = BrokerFixture(policy=InOrder(), mode="single", require_capability=False)
    broker.register("a", "c", slots=100)
    for number in range(50):
        assert only(broker.send(f"nobody offers {number}", client_id=number), Deliver)
    assert looked_up(broker) == (49, 1, 0, 0)
    assert broker.broker.rankings.peek("nobody offers 99", 2, broker.clock.now)[0] == "hit"
    assert len(broker.broker.rankings._rows) == 1


def test_pools_of_capabilities_beyond_those_that_are_remembered_go_with_their_last_member(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("router_daemon.core.registry.CAPABILITIES_SEEN", 1)
    broker = make_broker("a", mode="single")
    for number in range(20):
        broker.register(f"b{number}", f"c{number}")
        broker.unregister(f"b{number}".encode())
    broker.advance(700.0)
    assert [pool.capability for pool in broker.broker.registry.pools()] == []
