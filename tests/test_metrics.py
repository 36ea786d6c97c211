"""Every metric of the daemon by name, label and value after a scripted run, in both exposition formats."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from core_kit import SESSION, InOrder, deliver
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from rollout_kit import rollout_of, send_and_answer, with_candidate

from router_daemon import __version__
from router_daemon.core.actions import Deliver
from router_daemon.core.types import Side
from router_daemon.metrics import OPENMETRICS, TEXT, Snapshot, render
from router_daemon.testing import CLIENT, BrokerFixture, only

EXPECTED = {
    "router_messages": ("counter", {"capability", "outcome"}),
    "router_message_seconds": ("histogram", {"capability", "le"}),
    "router_messages_in_flight": ("gauge", set()),
    "router_messages_waiting": ("gauge", set()),
    "router_waiting_messages": ("gauge", {"priority"}),
    "router_waiting_bytes": ("gauge", set()),
    "router_limit": ("gauge", {"limit"}),
    "router_waiting_seconds": ("histogram", {"priority", "le"}),
    "router_hedges": ("counter", {"capability"}),
    "router_retries": ("counter", {"capability"}),
    "router_explorations": ("counter", {"capability"}),
    "router_holds": ("counter", {"capability"}),
    "router_refusals": ("counter", {"capability", "cause"}),
    "router_capability_load": ("gauge", {"capability"}),
    "router_retry_budget_tokens": ("gauge", {"capability"}),
    "router_hedge_budget_tokens": ("gauge", {"capability"}),
    "router_heads_per_message": ("histogram", {"le"}),
    "router_lost_messages": ("counter", {"capability"}),
    "router_lost_answers": ("counter", {"cause"}),
    "router_deliveries": ("counter", {"backend", "outcome"}),
    "router_ring_fallbacks": ("counter", {"capability", "reason"}),
    "router_delivery_failures": ("counter", {"backend", "cause"}),
    "router_delivery_seconds": ("histogram", {"capability", "group", "le"}),
    "router_backend_latency_ewma_seconds": ("gauge", {"backend"}),
    "router_backend_success_ratio": ("gauge", {"backend"}),
    "router_backend_in_flight": ("gauge", {"backend"}),
    "router_backend_up": ("gauge", {"backend"}),
    "router_backend_ejected": ("gauge", {"backend"}),
    "router_backends_drained": ("gauge", set()),
    "router_backend_oldest_drain_seconds": ("gauge", set()),
    "router_backend_ejections": ("counter", {"backend"}),
    "router_backend_losses": ("counter", {"backend"}),
    "router_decision_seconds": ("histogram", {"cache", "le"}),
    "router_decision_cache_requests": ("counter", {"result"}),
    "router_decision_cache_hit_ratio": ("gauge", set()),
    "router_protocol_errors": ("counter", {"code"}),
    "router_stray_answers": ("counter", {"kind"}),
    "router_label_overflow": ("counter", set()),
    "router_route_messages": ("counter", set()),  # nothing of the only route: see the test of several
    "router_route_seconds": ("histogram", set()),
    "router_route_deliveries": ("counter", set()),
    "router_route_cost": ("counter", set()),
    "router_route_quality": ("counter", {"route"}),
    "router_route_rated": ("counter", {"route"}),
    "router_route_fallbacks": ("counter", set()),
    "router_route_faults": ("counter", set()),
    "router_route_breaker_open": ("gauge", {"route"}),
    "router_route_to_be_retired": ("gauge", set()),
    "router_overrides": ("gauge", set()),
    "router_override_messages": ("counter", set()),
    "router_operator_acts": ("counter", set()),
    "router_events": ("counter", set()),
    "router_reloads": ("counter", set()),
    "router_feedback_ignored": ("counter", set()),
    "router_faults": ("counter", set()),
    "router_draining": ("gauge", set()),
    "router_build_info": ("gauge", {"version", "python", "libzmq"}),
    "process_cpu_seconds": ("counter", set()),
    "process_resident_memory_bytes": ("gauge", set()),
    "process_open_fds": ("gauge", set()),
}


def scripted() -> BrokerFixture:
    """Return a broker after a run in which everything happened once or twice."""
    broker = BrokerFixture(policy=InOrder(), mode="single", heartbeat_s=60.0)
    broker.register("a", "c", slots=4, group="blue")
    broker.register("b", "c", slots=4)
    broker.send("c", client_id=1)
    broker.clock.advance(0.003)
    broker.ack(deliver("a", 1))
    broker.send("c", client_id=2)
    broker.clock.advance(0.02)
    broker.nack(deliver("a", 2))
    broker.ack(deliver("b", 3))
    broker.ack(deliver("b", 3))
    broker.send("c", client_id=3, mode="fanout")
    broker.send("nobody offers", client_id=4)
    broker.send("c", client_id=5, durable=True)
    broker.heartbeat(b"stranger")
    lost = broker.ping()
    broker.undelivered(lost[0])
    return broker


def scrape(broker: BrokerFixture, *, openmetrics: bool = False) -> dict[str, Metric]:
    text = render(Snapshot(broker.broker, broker.clock.now), openmetrics=openmetrics).decode()
    families = (parse_openmetrics if openmetrics else parse_text)(text)
    return {family.name: family for family in families}


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    """Return the one sample of that name with those labels."""
    samples = [s for family in families.values() for s in family.samples if s.name == name and s.labels == labels]
    assert len(samples) == 1, f"{name}{labels}: {samples}"
    return samples[0].value


def test_drains_are_counted_and_the_oldest_is_dated() -> None:
    broker = BrokerFixture()
    for name in ("a", "b"):
        broker.broker.members.set_drained(name, True, broker.clock.now)
        broker.clock.advance(60.0)
    told = scrape(broker)
    assert value(told, "router_backends_drained") == 2
    assert value(told, "router_backend_oldest_drain_seconds") == 120


@pytest.fixture(scope="module", params=[False, True], ids=["text", "openmetrics"])
def families(request: pytest.FixtureRequest) -> dict[str, Metric]:
    return scrape(scripted(), openmetrics=request.param)


def test_every_metric_has_its_name_type_labels_and_help(families: dict[str, Metric]) -> None:
    missing = set(EXPECTED) - set(families)
    assert not missing
    for name, (kind, labels) in EXPECTED.items():
        family = families[name]
        assert family.type == kind, name
        assert family.documentation, name
        found = {label for sample in family.samples for label in sample.labels}
        assert found == labels, name
    unknown = {name for name in families if name.startswith("router_")} - set(EXPECTED)
    assert not unknown, "not in this list"


VALUES: list[tuple[float, str, dict[str, str]]] = [
    (2, "router_messages_total", {"capability": "c", "outcome": "answered"}),
    (1, "router_messages_total", {"capability": "c", "outcome": "forbidden"}),
    (1, "router_messages_total", {"capability": "unknown", "outcome": "no_capability"}),
    (1, "router_messages_in_flight", {}),
    (0, "router_messages_waiting", {}),
    (0, "router_waiting_messages", {"priority": "1"}),
    (0, "router_waiting_seconds_count", {"priority": "4"}),
    (0, "router_hedges_total", {"capability": "c"}),
    (1, "router_retries_total", {"capability": "c"}),
    (0, "router_explorations_total", {"capability": "c"}),
    (0, "router_holds_total", {"capability": "c"}),
    (0, "router_refusals_total", {"capability": "c", "cause": "room"}),
    (0, "router_refusals_total", {"capability": "c", "cause": "budget"}),
    (0.25, "router_capability_load", {"capability": "c"}),
    (2.6, "router_retry_budget_tokens", {"capability": "c"}),
    (0.15, "router_hedge_budget_tokens", {"capability": "c"}),
    (0, "router_backend_ejected", {"backend": "a"}),
    (0, "router_backends_drained", {}),
    (0, "router_backend_oldest_drain_seconds", {}),
    (0, "router_backend_ejections_total", {"backend": "a"}),
    (1, "router_deliveries_total", {"backend": "a", "outcome": "acked"}),
    (1, "router_deliveries_total", {"backend": "a", "outcome": "failed"}),
    (1, "router_deliveries_total", {"backend": "b", "outcome": "acked"}),
    (1, "router_delivery_failures_total", {"backend": "a", "cause": "failed"}),
    (1, "router_delivery_seconds_count", {"capability": "c", "group": "blue"}),
    (0.003, "router_delivery_seconds_sum", {"capability": "c", "group": "blue"}),
    (0, "router_delivery_seconds_bucket", {"capability": "c", "group": "blue", "le": "0.0025"}),
    (1, "router_delivery_seconds_bucket", {"capability": "c", "group": "blue", "le": "0.005"}),
    (1, "router_delivery_seconds_bucket", {"capability": "c", "group": "blue", "le": "+Inf"}),
    (1, "router_delivery_seconds_count", {"capability": "c", "group": ""}),
    (2, "router_message_seconds_count", {"capability": "c"}),
    (0.023, "router_message_seconds_sum", {"capability": "c"}),
    (0.0012, "router_backend_latency_ewma_seconds", {"backend": "a"}),
    (0.85975, "router_backend_success_ratio", {"backend": "a"}),
    (0.905, "router_backend_success_ratio", {"backend": "b"}),
    (1, "router_backend_in_flight", {"backend": "a"}),
    (1, "router_backend_in_flight", {"backend": "b"}),
    (1, "router_backend_up", {"backend": "a"}),
    (2, "router_heads_per_message_count", {}),
    (3, "router_heads_per_message_sum", {}),
    (1, "router_heads_per_message_bucket", {"le": "1.0"}),
    (2, "router_heads_per_message_bucket", {"le": "2.0"}),
    (2, "router_decision_cache_requests_total", {"result": "miss"}),
    (3, "router_decision_cache_requests_total", {"result": "hit"}),
    (0, "router_decision_cache_requests_total", {"result": "expired"}),
    (0, "router_decision_cache_requests_total", {"result": "invalidated"}),
    (0.6, "router_decision_cache_hit_ratio", {}),
    (2, "router_decision_seconds_count", {"cache": "miss"}),
    (3, "router_decision_seconds_count", {"cache": "hit"}),
    (3, "router_decision_seconds_bucket", {"cache": "hit", "le": "5e-07"}),
    (1, "router_protocol_errors_total", {"code": "forbidden"}),
    (1, "router_protocol_errors_total", {"code": "not_registered"}),
    (1, "router_stray_answers_total", {"kind": "unknown"}),
    (0, "router_lost_messages_total", {"capability": "c"}),
    (1, "router_lost_answers_total", {"cause": "gone"}),
    (0, "router_refusals_total", {"capability": "c", "cause": "client_messages"}),
    (0, "router_label_overflow_total", {}),
]


@pytest.mark.parametrize(("expected", "name", "labels"), VALUES, ids=lambda item: str(item)[:60])
def test_values_after_the_run(families: dict[str, Metric], expected: float, name: str, labels: dict[str, str]) -> None:
    assert value(families, name, **labels) == pytest.approx(expected)


def test_build_info_names_the_version(families: dict[str, Metric]) -> None:
    [sample] = families["router_build_info"].samples
    assert sample.labels["version"] == __version__
    assert sample.value == 1


def test_decision_buckets_begin_at_half_a_microsecond(families: dict[str, Metric]) -> None:
    bounds = [
        float(s.labels["le"])
        for s in families["router_decision_seconds"].samples
        if s.labels.get("cache") == "hit" and "le" in s.labels
    ]
    assert bounds[0] == pytest.approx(0.5e-6)
    assert bounds == sorted(bounds)


def test_both_formats_tell_the_same() -> None:
    broker = scripted()

    def samples(*, openmetrics: bool) -> set[tuple[str, str, float]]:
        return {
            (
                sample.name,
                str(sorted((k, v if k != "le" else str(float(v))) for k, v in sample.labels.items())),
                sample.value,
            )
            for name, family in scrape(broker, openmetrics=openmetrics).items()
            if name.startswith("router_")
            for sample in family.samples
        }

    assert samples(openmetrics=False) == samples(openmetrics=True)


def test_histograms_of_a_broker_that_has_done_nothing_are_whole() -> None:
    families = scrape(BrokerFixture(), openmetrics=True)
    assert value(families, "router_decision_seconds_count", cache="hit") == 0
    assert value(families, "router_decision_cache_hit_ratio") == 0
    assert value(families, "router_messages_in_flight") == 0


def test_a_snapshot_does_not_change_with_the_broker() -> None:
    broker = scripted()
    snapshot = Snapshot(broker.broker, broker.clock.now)
    before = render(snapshot, openmetrics=True).decode()
    broker.ack(deliver("a", 4))
    broker.unregister(b"a")
    after = render(snapshot, openmetrics=True).decode()

    def ours(text: str) -> list[str]:
        return [line for line in text.splitlines() if "router_" in line]

    assert ours(before) == ours(after)


STATES: dict[str, tuple[Callable[[BrokerFixture], Any], float]] = {
    "registered": (lambda broker: None, 1),
    "draining": (lambda broker: (broker.send("c"), broker.drain(b"a")), 1),
    "away with its session": (lambda broker: broker.gone(b"a"), 0),
    "back": (lambda broker: (broker.gone(b"a"), broker.register("a", "c", session=SESSION, peer=b"new")), 1),
}


@pytest.mark.parametrize(("what", "up"), STATES.values(), ids=STATES)
def test_up_is_for_the_registered_whose_connection_stands(what: Callable[[BrokerFixture], Any], up: float) -> None:
    broker = BrokerFixture()
    broker.register("a", "c", session=SESSION)
    what(broker)
    assert value(scrape(broker), "router_backend_up", backend="a") == up


def test_a_backend_that_left_is_down_for_ten_minutes_and_then_gone() -> None:
    """An alert on `router_backend_up == 0` must see a backend that was lost."""
    broker = scripted()
    broker.gone(b"a")
    families = scrape(broker)
    assert value(families, "router_backend_up", backend="a") == 0
    assert value(families, "router_backend_in_flight", backend="a") == 0
    assert value(families, "router_deliveries_total", backend="a", outcome="lost") == 1
    broker.advance(661.0)
    assert not any(s.labels.get("backend") == "a" for family in scrape(broker).values() for s in family.samples)


def test_backends_beyond_the_bound_share_one_series() -> None:
    broker = BrokerFixture(policy=InOrder(), mode="single", label_values=1)
    for number in range(3):
        broker.register(f"b{number}", f"c{number}")
        broker.send(f"c{number}", client_id=number)
    families = scrape(broker, openmetrics=True)
    assert value(families, "router_backend_up", backend="other") == 2
    assert value(families, "router_backend_in_flight", backend="other") == 2
    assert value(families, "router_backend_success_ratio", backend="other") == pytest.approx(0.9)
    assert value(families, "router_label_overflow_total") > 0


def test_who_waits_and_who_was_refused_is_told_by_priority_and_cause() -> None:
    broker = BrokerFixture(policy=InOrder(), mode="single", heartbeat_s=60.0, queue_messages=2)
    broker.register("a", "c")
    broker.send("c", client_id=1)
    broker.send("c", client_id=2, priority=1)
    broker.send("c", client_id=3, priority=3)
    broker.send("c", client_id=4, priority=3)
    broker.send("c", client_id=5, priority=1)
    families = scrape(broker)
    waiting = [value(families, "router_waiting_messages", priority=str(priority)) for priority in range(1, 5)]
    assert waiting == [0, 0, 2, 0]
    assert value(families, "router_messages_waiting") == 2
    assert value(families, "router_refusals_total", capability="c", cause="displaced") == 1
    assert value(families, "router_refusals_total", capability="c", cause="room") == 1
    broker.clock.advance(0.03)
    broker.ack(deliver("a", 1))
    families = scrape(broker)
    assert value(families, "router_waiting_seconds_count", priority="3") == 1
    assert value(families, "router_waiting_seconds_sum", priority="3") == pytest.approx(0.03)
    assert value(families, "router_capability_load", capability="c") == 1


def test_an_ejection_is_counted_and_shown_while_it_lasts() -> None:
    broker = BrokerFixture(policy=InOrder(), mode="fanout", heartbeat_s=60.0)
    for name in ("bad", "good", "fair"):
        broker.register(name, "c", slots=4)
    for number in range(5):
        sent = only(broker.send("c", client_id=number), Deliver)
        broker.nack(sent[0])
        for other in sent[1:]:
            broker.ack(other)
    families = scrape(broker)
    assert value(families, "router_backend_ejected", backend="bad") == 1
    assert value(families, "router_backend_ejected", backend="good") == 0
    assert value(families, "router_backend_ejections_total", backend="bad") == 1


def test_budgets_are_as_of_the_scrape_and_reading_them_changes_nothing() -> None:
    broker = scripted()
    pool = broker.broker.registry.pool("c")
    spent, tokens = value(scrape(broker), "router_retry_budget_tokens", capability="c"), pool.retries.tokens
    broker.clock.advance(2.0)
    later = value(scrape(broker), "router_retry_budget_tokens", capability="c")
    assert later > spent + 1.5
    assert value(scrape(broker), "router_retry_budget_tokens", capability="c") == later
    assert pool.retries.tokens == tokens


def test_one_pool_of_everybody_has_budgets_without_a_name() -> None:
    broker = BrokerFixture(policy=InOrder(), require_capability=False)
    broker.register("a", "c")
    assert value(scrape(broker), "router_retry_budget_tokens", capability="") == 3


def test_names_with_quotes_and_newlines_are_escaped() -> None:
    broker = BrokerFixture()
    odd = 'a"b\\c\nd é'
    broker.register(odd, odd, group=odd, peer=b"odd")
    broker.send(odd)
    [sent] = broker.backend(odd).open.values()
    broker.ack(deliver(odd, sent.id, peer=b"odd"))
    for openmetrics in (False, True):
        families = scrape(broker, openmetrics=openmetrics)
        assert value(families, "router_deliveries_total", backend=odd, outcome="acked") == 1
        assert value(families, "router_delivery_seconds_count", capability=odd, group=odd) == 1


def test_messages_of_a_client_that_left_are_counted_so() -> None:
    broker = scripted()
    broker.gone(CLIENT, Side.CLIENT)
    assert value(scrape(broker), "router_messages_total", capability="c", outcome="client_gone") == 1


def test_the_content_types_name_their_formats() -> None:
    assert TEXT.startswith("text/plain; version=0.0.4")
    assert OPENMETRICS.startswith("application/openmetrics-text; version=1.0.0")
    broker = scripted()
    assert render(Snapshot(broker.broker, broker.clock.now), openmetrics=True).endswith(b"# EOF\n")


def test_promtool_finds_nothing_to_complain_about() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool not installed")
    broker = scripted()
    text = render(Snapshot(broker.broker, broker.clock.now), openmetrics=False)
    found = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False, timeout=30)
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")


def test_several_routes_have_series_of_their_own() -> None:
    broker = with_candidate("a", percent=100.0, stages=(100.0,), control_percent=0.0)
    send_and_answer(broker, 1, after_s=0.003)
    send_and_answer(broker, 2, ok=False, heads=1)
    broker.feedback(1, 0.5)
    broker.feedback(3, 0.5)
    broker.broker.routes.by_name["candidate"].fallbacks["raised"] = 4
    families = scrape(broker)
    candidate = {"route": "candidate"}
    assert value(families, "router_route_messages_total", outcome="answered", **candidate) == 1
    assert value(families, "router_route_messages_total", outcome="failed", **candidate) == 1
    assert value(families, "router_route_messages_total", outcome="answered", route="stable") == 0
    assert value(families, "router_route_seconds_count", **candidate) == 1
    assert value(families, "router_route_seconds_bucket", le="0.0025", **candidate) == 0
    assert value(families, "router_route_seconds_bucket", le="0.005", **candidate) == 1
    assert value(families, "router_route_deliveries_total", **candidate) == 2
    assert value(families, "router_route_quality_total", **candidate) == 0.5
    assert value(families, "router_route_rated_total", **candidate) == 1
    assert value(families, "router_route_fallbacks_total", reason="raised", **candidate) == 4
    assert value(families, "router_feedback_ignored_total") == 1
    assert value(families, "router_rollout_percent", **candidate) == 100
    assert value(families, "router_rollout_percent", route="stable") == 0
    assert value(families, "router_rollout_stopped") == 0
    rollout_of(broker).roll_back(broker.clock.now)
    families = scrape(broker)
    assert value(families, "router_rollout_stopped") == 1
    assert value(families, "router_rollout_verdicts_total", cause="p99") == 0
    broker.broker.routes.review(broker.clock.now)
    families = scrape(broker)
    assert value(families, "router_route_to_be_retired", route="baseline", cause="unused") == 1
