"""What people may see of the broker: the views behind /backends and /explain."""

from __future__ import annotations

import json
from typing import Any

import pytest
from core_kit import SESSION, deliver, make_broker

from router_daemon.core import views
from router_daemon.testing import BrokerFixture


def explain(broker: BrokerFixture, capability: str = "c", priority: int = 2) -> dict[str, Any]:
    """Return the view, after a check that it is JSON."""
    view = views.explain(broker.broker, capability, priority, broker.clock.now)
    json.dumps(view, allow_nan=False)
    broker.broker.check()
    return view


def backends(broker: BrokerFixture) -> list[dict[str, Any]]:
    view = views.backends(broker.broker, broker.clock.now)
    json.dumps(view, allow_nan=False)
    return view


def test_backends_tell_everything_known() -> None:
    broker = BrokerFixture(mode="single")
    broker.register(
        "a",
        "c",
        "d",
        slots=2,
        prefetch=1,
        group="blue",
        zone="z",
        cost=0.5,
        version="7",
        embedding=[1.0],
        session=SESSION,
    )
    broker.heartbeat(b"a", queue=4)
    broker.send("c", client_id=1)
    broker.clock.advance(0.011)
    broker.ack(deliver("a", 1))
    broker.send("c", client_id=2)
    broker.nack(deliver("a", 2))
    broker.send("c", client_id=3)
    broker.clock.advance(0.5)
    [told] = backends(broker)
    assert told == {
        "name": "a",
        "up": True,
        "state": "up",
        "drained": False,
        "capabilities": ["c", "d"],
        "slots": 2,
        "prefetch": 1,
        "in_flight": 1,
        "queue": 4,
        "other": 2.0,
        "latency_ms": pytest.approx(2.0),
        "success_ratio": pytest.approx(0.85975),
        "samples": 2,
        "group": "blue",
        "zone": "z",
        "version": "7",
        "cost": 0.5,
        "observed_cost": None,
        "services": {"c": told["services"]["c"]},
        "resources": [],
        "embedding": True,
        "deliveries": {"acked": 1, "failed": 1},
        "failures": {"failed": 1},
        "paused_s": 0.0,
        "ejected": None,
        "ejections": 0,
        "warm": False,
        "stale": False,
        "window": None,
        "connected_s": pytest.approx(0.511),
        "last_seen_s": pytest.approx(0.5),
    }


def test_backends_are_listed_by_name_with_their_state() -> None:
    broker = make_broker("d", "c", "b", mode="single")
    broker.register("a", "c", session=SESSION)
    broker.gone(b"a")
    broker.send("c", client_id=1)
    broker.send("c", client_id=2)
    broker.nack(deliver("d", 2), "busy", retry_after_ms=1_500)
    broker.drain(b"c")
    states = {told["name"]: (told["up"], told["state"], told["paused_s"]) for told in backends(broker)}
    assert list(states) == sorted(states)
    assert states["a"] == (False, "disconnected", 0.0)
    assert states["d"] == (True, "paused", 1.5)
    assert states["b"] == (True, "up", 0.0)


def test_explain_gives_each_candidate_term_by_term() -> None:
    broker = BrokerFixture(policy="paper", mode="single", heads=1, threshold=0.3)
    broker.register("a", "c", slots=2)
    view = explain(broker, priority=4)
    assert (view["capability"], view["priority"], view["policy"]) == ("c", 4, "paper")
    assert (view["mode"], view["heads"], view["threshold"], view["require_capability"]) == ("single", 1, 0.3, True)
    assert view["cache"] == {"state": "absent", "age_s": None, "ttl_s": 30.0}
    [candidate] = view["candidates"]
    assert candidate["terms"] == {
        "capability": pytest.approx(0.4),
        "performance": pytest.approx(0.15),
        "reliability": pytest.approx(0.18),
        "priority": pytest.approx(0.1),
    }
    assert candidate["score"] == pytest.approx(0.83)
    assert candidate["weight"] == pytest.approx(1.0)
    assert (candidate["head"], candidate["reason"]) == (1, "head 1 by rank")
    assert (candidate["in_flight"], candidate["places"], candidate["state"]) == (0, 2, "up")


def test_weights_are_shares_of_the_candidates_scores() -> None:
    broker = BrokerFixture(policy="paper", mode="single", heartbeat_s=60.0)
    broker.register("a", "c")
    broker.register("b", "c")
    shares = [candidate["weight"] for candidate in explain(broker)["candidates"]]
    assert shares == [pytest.approx(0.5), pytest.approx(0.5)]


def test_explain_says_why_one_is_no_head() -> None:
    broker = make_broker("a", "b", "d", "e", mode="single", slots=1, heads=1)
    broker.send("c", client_id=1)
    broker.send("c", client_id=2)
    broker.nack(deliver("b", 2), "busy", retry_after_ms=1_000)
    reasons = {told["backend"]: told["reason"] for told in explain(broker)["candidates"]}
    assert reasons["a"] == "all its places are taken"
    assert reasons["b"] == "paused for another 1.00 s: it was busy"
    assert reasons["e"] == "head 1 by rank"


def test_explain_says_that_others_rank_higher_or_the_score_is_too_low() -> None:
    broker = make_broker("a", "b", heads=1)
    assert [told["reason"] for told in explain(broker)["candidates"]] == ["head 1 by rank", "others rank higher"]
    broker = BrokerFixture(policy="paper", require_capability=False, threshold=0.5)
    broker.register("a", "other")
    [candidate] = explain(broker)["candidates"]
    assert (candidate["head"], candidate["reason"]) == (None, "score not over the threshold of 0.5")


def test_explain_tells_the_error_that_a_message_would_get() -> None:
    broker = make_broker("a")
    assert explain(broker)["error"] is None
    assert explain(broker, "never")["error"]["code"] == "no_capability"
    broker.unregister(b"a")
    assert explain(broker)["error"]["code"] == "no_backend"
    assert explain(broker)["candidates"] == []


def test_explain_tells_the_state_of_the_cache() -> None:
    broker = make_broker("a", mode="single", heartbeat_s=60.0)
    broker.send("c")
    broker.clock.advance(2.0)
    assert explain(broker)["cache"] == {"state": "hit", "age_s": 2.0, "ttl_s": 30.0}
    broker.clock.advance(28.0)
    assert explain(broker)["cache"]["state"] == "expired"
    broker.register("b", "c")
    assert explain(broker)["cache"]["state"] == "invalidated"


def test_explain_is_no_decision() -> None:
    broker = BrokerFixture(policy="paper")
    broker.register("a", "c")
    explain(broker)
    explain(broker, "never")
    cache = broker.broker.rankings
    assert (cache.hits, cache.misses, cache.expired, cache.invalidated) == (0, 0, 0, 0)
    assert sum(broker.broker.counts.decision_miss.counts) == 0
    assert broker.broker.rankings.peek("c", 2, broker.clock.now)[0] == "absent"


def test_explain_draws_no_randomness_so_that_the_events_alone_replay_a_run() -> None:
    broker = BrokerFixture(policy="paper")
    broker.register("a", "c")
    broker.register("b", "c")
    before = broker.random.getstate()
    explain(broker)
    assert broker.random.getstate() == before


def test_explain_names_the_heads_that_the_policy_would_take() -> None:
    """Round robin tries the next one, not the first of the list."""
    broker = BrokerFixture(policy="round_robin", mode="single", heads=1, heartbeat_s=60.0)
    for name in ("a", "b"):
        broker.register(name, "c")
    assert broker.send("c") == [deliver("a", 1)]
    broker.ack(deliver("a", 1))
    [expected] = [told["backend"] for told in explain(broker)["candidates"] if told["head"] == 1]
    [sent] = broker.send("c")
    assert sent.peer == expected.encode()


def test_explain_counts_who_waits() -> None:
    broker = make_broker("a", mode="single", slots=1)
    broker.send("c", client_id=1)
    broker.send("c", client_id=2)
    assert explain(broker)["waiting"] == 1
