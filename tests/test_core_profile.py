"""What is measured of a backend, by numbers worked out by hand (cross-attention paper, update rule)."""

from __future__ import annotations

import pytest
from core_kit import deliver, make_broker, success_after

from router_daemon.core.counts import BackendCounts
from router_daemon.core.profile import Profile
from router_daemon.core.settings import ProfileSettings
from router_daemon.testing import BrokerFixture


def fresh(**settings: float) -> Profile:
    return Profile(ProfileSettings(**settings), BackendCounts("a"))


def test_cold_start_values_are_the_configured_ones() -> None:
    profile = fresh(initial_latency_s=0.25, initial_success=0.5)
    assert (profile.latency_s, profile.success, profile.samples) == (0.25, 0.5, 0)


def test_paper_update_rule_of_the_latency() -> None:
    """new = 0.1 observed + 0.9 old: 1 ms, then 11 ms and 21 ms."""
    profile = fresh()
    profile.observe_success(0.011)
    assert profile.latency_s == pytest.approx(0.0020)
    profile.observe_success(0.021)
    assert profile.latency_s == pytest.approx(0.0039)
    profile.observe_success(0.0039)
    assert profile.latency_s == pytest.approx(0.0039)


def test_paper_update_rule_of_the_success_ratio() -> None:
    """new = 0.05 observed + 0.95 old: 0.9, ok, failed, ok."""
    profile = fresh()
    profile.observe_success(0.001)
    assert profile.success == pytest.approx(0.905)
    profile.observe_failure("failed")
    assert profile.success == pytest.approx(0.85975)
    profile.observe_success(0.001)
    assert profile.success == pytest.approx(0.8667625)
    assert profile.success == pytest.approx(success_after(True, False, True))


def test_the_weights_of_new_values_are_configurable() -> None:
    profile = fresh(latency_alpha=0.5, success_alpha=0.25)
    profile.observe_success(0.003)
    assert profile.latency_s == pytest.approx(0.002)
    assert profile.success == pytest.approx(0.925)


def test_a_failure_that_came_fast_never_touches_the_latency() -> None:
    profile = fresh(initial_latency_s=0.5)
    for cause in ("failed", "lost", "malformed"):
        profile.observe_failure(cause)
    assert profile.latency_s == 0.5
    assert profile.success == pytest.approx(success_after(False, False, False))
    assert profile.counts.failures["failed"] == profile.counts.outcomes["lost"] == 1


def test_a_timeout_is_a_failure_at_its_full_length_and_never_makes_a_backend_look_fast() -> None:
    profile = fresh(initial_latency_s=0.1)
    profile.observe_failure("timeout", 2.1)
    assert profile.latency_s == pytest.approx(0.3)
    profile.observe_failure("timeout", 0.05)
    assert profile.latency_s == pytest.approx(0.3)


def test_latency_is_measured_from_send_to_ack() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c")
    broker.clock.advance(0.011)
    broker.nack(deliver("a", 1))
    broker.clock.advance(0.021)
    broker.ack(deliver("b", 2))
    assert broker.backend("a").profile.latency_s == 0.001
    assert broker.backend("b").profile.latency_s == pytest.approx(0.1 * 0.021 + 0.9 * 0.001)


def test_an_attempt_timeout_is_observed_at_its_full_length_and_once() -> None:
    broker = make_broker("a", "b", mode="single", attempt_timeout_s=0.5)
    broker.send("c")
    broker.advance(0.501)
    profile = broker.backend("a").profile
    assert profile.latency_s == pytest.approx(0.1 * 0.501 + 0.9 * 0.001)
    assert profile.success == pytest.approx(0.855)
    broker.ack(deliver("a", 1))
    assert profile.success == pytest.approx(0.855)
    assert profile.samples == 1


def test_an_expired_message_is_a_timeout_of_each_head_that_was_out() -> None:
    broker = make_broker("a", "b")
    broker.send("c", ttl_ms=400)
    broker.clock.advance(0.1)
    broker.nack(deliver("a", 1))
    broker.advance(0.35)
    assert broker.backend("a").profile.success == pytest.approx(success_after(False))
    b = broker.backend("b").profile
    assert b.success == pytest.approx(success_after(False))
    assert b.latency_s == pytest.approx(0.1 * 0.4 + 0.9 * 0.001, abs=1e-4)


@pytest.mark.parametrize("code", ["busy", "rejected", "cancelled"])
def test_codes_that_do_not_blame_leave_the_profile_alone(code: str) -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c")
    broker.clock.advance(1.0)
    broker.nack(deliver("a", 1), code)
    profile = broker.backend("a").profile
    assert (profile.success, profile.latency_s, profile.samples) == (0.9, 0.001, 0)


def test_a_cancelled_loser_counts_neither_way() -> None:
    broker = make_broker("a", "b")
    broker.send("c")
    broker.clock.advance(0.3)
    broker.ack(deliver("a", 1))
    broker.nack(deliver("b", 2), "cancelled")
    profile = broker.backend("b").profile
    assert (profile.success, profile.latency_s, profile.samples) == (0.9, 0.001, 0)


def test_a_cancelled_loser_that_is_lost_counts_neither_way() -> None:
    broker = make_broker("a", "b")
    broker.send("c")
    broker.ack(deliver("a", 1))
    profile = broker.backend("b").profile
    broker.unregister(b"b")
    assert (profile.success, profile.samples) == (0.9, 0)


def test_delivery_and_message_times_are_counted_by_capability_and_group() -> None:
    broker = BrokerFixture(mode="single")
    broker.register("a", "c", group="blue")
    broker.register("b", "d")
    broker.send("c")
    broker.clock.advance(0.003)
    broker.ack(deliver("a", 1))
    broker.send("d")
    broker.clock.advance(0.2)
    broker.ack(deliver("b", 2))
    counts = broker.broker.counts.capabilities
    blue = counts["c"].delivery_seconds["blue"]
    assert sum(blue.counts) == 1
    assert blue.counts[blue.bounds.index(0.005)] == 1
    assert blue.total == pytest.approx(0.003)
    assert sum(counts["d"].delivery_seconds[""].counts) == 1
    assert counts["d"].message_seconds.total == pytest.approx(0.2)


def test_a_failed_delivery_is_not_among_the_delivery_times() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    broker.nack(deliver("a", 1))
    assert broker.broker.counts.capabilities["c"].delivery_seconds == {}
    assert sum(broker.broker.counts.capabilities["c"].message_seconds.counts) == 1
