"""The simulator in worlds so small that what must happen can be said exactly."""

from __future__ import annotations

import math
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
from lab_kit import at, one, world

from router_daemon.core.actions import Action
from router_daemon.core.broker import Broker
from router_daemon.core.events import Ack
from router_daemon.lab.chance import (
    Constant,
    Duration,
    Exponential,
    InTurn,
    Lognormal,
    Mix,
    Pareto,
    chooser,
    zipf,
)
from router_daemon.lab.faults import NOTICES, Fault
from router_daemon.lab.result import percentile
from router_daemon.lab.specs import Demand, Dependency, NetworkSpec
from router_daemon.lab.timeline import START_S, BrokenError, Timeline
from router_daemon.lab.world import World

TICK_S = 2.0**-20
LATE_S = 0.051
"""A deadline of the broker is at most one tick of its coarse wheel late."""


def latencies(done: World) -> list[float]:
    return [record.latency_s for record in done.ledger.records]


def outcomes(done: World) -> list[str]:
    return [record.outcome for record in done.ledger.records]


# --- time ---


def test_time_goes_from_one_thing_to_the_next_in_the_order_of_asking() -> None:
    timeline, seen = Timeline(), list[tuple[float, str]]()
    for when, name in ((2.0, "c"), (1.0, "a"), (1.0, "b")):
        timeline.after(when, lambda name: seen.append((timeline.now - START_S, name)), name)
    timeline.run(START_S + 10.0)
    assert seen == [(1.0, "a"), (1.0, "b"), (2.0, "c")]
    assert timeline.now == START_S + 10.0


def test_time_does_not_run_backwards() -> None:
    timeline = Timeline()
    timeline.run(START_S + 1.0)
    with pytest.raises(BrokenError, match="before now"):
        timeline.at(START_S, print)


def test_halting_ends_a_run_after_the_step() -> None:
    timeline, seen = Timeline(), list[float]()

    def halt(_: object) -> None:
        seen.append(timeline.now)
        timeline.halted = True

    timeline.after(1.0, halt)
    timeline.after(2.0, halt)
    timeline.run(math.inf)
    assert seen == [START_S + 1.0]


# --- chance ---


@pytest.mark.parametrize(
    "distribution",
    [
        Constant(0.01),
        Exponential(0.01),
        Lognormal(0.01, 1.0),
        Pareto(0.01, 3.0),
        Mix(((9.0, Constant(0.001)), (1.0, Exponential(0.1)))),
        InTurn((0.01, 0.02)),
    ],
    ids=lambda distribution: type(distribution).__name__,
)
def test_a_distribution_has_the_mean_that_it_names(distribution: Duration) -> None:
    draw = distribution.sampler(Random(1))
    drawn = [draw() for _ in range(50_000)]
    assert math.fsum(drawn) / len(drawn) == pytest.approx(distribution.mean_s, rel=0.05)
    assert all((seconds / TICK_S).is_integer() for seconds in drawn)


def test_the_shape_of_the_tails() -> None:
    rng = Random(1)
    draw = Pareto(0.03, 1.5, most_s=2.0).sampler(rng)
    drawn = [draw() for _ in range(50_000)]
    assert min(drawn) >= 0.0099
    assert max(drawn) == 2.0
    assert sum(seconds > 0.1 for seconds in drawn) / 50_000 == pytest.approx(0.1**1.5, rel=0.1)  # (x_min / x)^alpha
    draw = Lognormal(1.0, 0.5).sampler(rng)
    ordered = sorted(draw() for _ in range(50_000))
    assert ordered[25_000] == pytest.approx(math.exp(-0.125), rel=0.02)


def test_choices_follow_their_weights_and_one_value_needs_no_draw() -> None:
    rng = Random(1)
    state = rng.getstate()
    assert chooser({"only": 3.0}, rng)() == "only"
    assert rng.getstate() == state
    draw = chooser(zipf(["a", "b"], 1.0), rng)
    drawn = [draw() for _ in range(30_000)]
    assert drawn.count("a") / 30_000 == pytest.approx(2 / 3, rel=0.02)


def test_arrivals_keep_their_rate_through_its_steps() -> None:
    demand = Demand(messages=6000, rate_per_s=((0.0, 100.0), (10.0, 1000.0), (12.0, 0.0), (20.0, 300.0)), ttl_ms=1)
    done = world(one(), demand=demand)
    done.run()
    sent = [record.sent_at - START_S for record in done.ledger.records]
    assert sum(at_s < 10.0 for at_s in sent) == pytest.approx(1000, rel=0.15)
    assert sum(10.0 <= at_s < 12.0 for at_s in sent) == pytest.approx(2000, rel=0.15)
    assert not any(12.0 < at_s < 20.0 for at_s in sent)
    assert sum(20.0 <= at_s < 25.0 for at_s in sent) == pytest.approx(1500, rel=0.15)


def test_every_policy_meets_the_same_messages() -> None:
    def asked(policy: str) -> list[Any]:
        demand = Demand(
            messages=200, rate_per_s=50.0, capability={"work": 1.0, "other": 1.0}, priority={1: 1.0, 4: 1.0}
        )
        done = world(one("a"), one("b", 0.125), demand=demand, policy=policy, settings={"mode": "fanout"})
        done.run()
        return [(r.sent_at, r.request.capability, r.request.priority) for r in done.ledger.records]

    assert asked("paper") == asked("capability_only")


# --- backends ---


def test_one_worker_takes_one_after_the_other() -> None:
    done = world(one(slots=10), demand=at(1.0, 1.0, 1.0))
    done.run(check_every=1)
    assert latencies(done) == [0.25, 0.5, 0.75]


def test_workers_share_a_queue_and_the_daemon_keeps_to_slots_and_prefetch() -> None:
    done = world(one(workers=2, slots=2, prefetch=1), demand=at(1.0, 1.0, 1.0, 1.0))
    done.run(check_every=1)
    assert latencies(done) == [0.25, 0.25, 0.5, 0.5]
    done = world(one(workers=2, slots=1), demand=at(1.0, 1.0))
    done.run(check_every=1)
    assert latencies(done) == [0.25, 0.5]


def test_daemons_share_a_backend_that_tells_each_of_them_its_whole_queue() -> None:
    seen = list[Any]()

    class Listening(Broker):
        def handle(self, event: Any, now: float) -> list[Action]:
            if isinstance(event, Ack):
                seen.append(event.header.queue)
            return super().handle(event, now)

    demand = at(*[1.0] * 8, connections=2)
    spec = one(slots=8, reports_queue=True)
    done = world(spec, demand=demand, daemons=2, make_broker=Listening)
    done.run(check_every=1)
    assert seen == [7, 6, 5, 4, 3, 2, 1, 0]
    assert {record.daemon for record in done.ledger.records} == {0, 1}


def test_the_network_takes_its_time_each_way() -> None:
    done = world(one(), demand=at(1.0), network=NetworkSpec(latency_s=0.125))
    done.run(check_every=1)
    assert latencies(done) == [0.5]


def test_what_fails_is_tried_elsewhere_after_its_service_time_or_at_once() -> None:
    for fails_after_s, seconds in ((None, 0.5), (0.0, 0.25), (0.125, 0.375)):
        done = world(one("a", reliability=0.0, fails_after_s=fails_after_s), one("b"), demand=at(1.0))
        done.run(check_every=1)
        assert latencies(done) == [seconds]
        assert done.ledger.records[0].deliveries == 2


def test_a_long_queue_is_refused() -> None:
    done = world(one(slots=5, busy_over=1), demand=at(1.0, 1.0, 1.0))
    done.run(check_every=1)
    assert done.happened["busy"] >= 1
    assert latencies(done)[:2] == [0.25, 0.5]


def test_a_silent_backend_costs_the_time_to_live() -> None:
    done = world(one(silent=True), demand=at(1.0, ttl_ms=1000))
    done.run(check_every=1)
    assert outcomes(done) == ["expired"]
    assert 1.0 <= latencies(done)[0] <= 1.0 + LATE_S


@pytest.mark.parametrize("honours_cancel", [True, False])
def test_cancel_frees_the_worker_where_it_is_honoured(honours_cancel: bool) -> None:
    demand = at(1.0, 1.5, ttl_ms=4000, cancels=1.0, cancels_within_s=0.001)
    done = world(one(seconds=2.0, slots=5, honours_cancel=honours_cancel), demand=demand)
    done.run(settle_s=3.0, check_every=1)
    assert outcomes(done) == ["cancelled", "cancelled"]
    assert done.backends["b"].done == (0 if honours_cancel else 1)


def test_slowness_work_and_warming_up_stretch_the_service_time() -> None:
    done = world(one(slowness=((3.0, 10.0), (9.0, 2.0))), demand=at(1.0, 5.0, 10.0))
    done.run(check_every=1)
    assert latencies(done) == [0.25, 2.5, 0.5]
    done = world(one(), demand=Demand(arrivals=[(1.0, 2.0), (3.0, 4.0)], ttl_ms=5000))
    done.run(check_every=1)
    assert latencies(done) == [0.5, 1.0]
    done = world(one(warm_up=(4.0, 5.0)), demand=at(1.0, 3.0, 6.0))
    done.run(check_every=1)
    assert latencies(done) == [1.0, 0.5, 0.25]


def test_what_several_depend_on_fails_for_all_of_them() -> None:
    database = Dependency(((2.0, 4.0, 1.0),))
    done = world(one("a", depends_on=database), one("b", depends_on=database), demand=at(1.0, 3.0, 5.0))
    done.run(check_every=1)
    assert outcomes(done) == ["answered", "failed", "answered"]
    assert done.happened["dependency"] == 2


def test_streams_come_in_pieces() -> None:
    done = world(one(parts=3), demand=at(1.0))
    done.run(check_every=1)
    [record] = done.ledger.records
    assert record.pieces == {1: 3}
    assert record.first_at == START_S + 1.0625
    assert latencies(done) == [0.25]


def test_who_joins_late_is_there_from_then_on() -> None:
    done = world(one(joins_at_s=2.0), demand=at(1.0, 3.0))
    done.run(check_every=1)
    assert outcomes(done) == ["no_capability", "answered"]


# --- faults ---


@pytest.mark.parametrize("notice", NOTICES)
def test_after_a_crash_the_backend_is_another_process(notice: str) -> None:
    fault = Fault("crash", 1.125, for_s=5.0, target="b", notice=notice)
    done = world(one(), demand=at(1.0, 10.0), faults=[fault])
    done.run(check_every=1, settle_s=1.0, reunite=True)
    assert outcomes(done) == ["failed", "answered"]
    assert 3.0 <= latencies(done)[0] <= 3.0 + LATE_S  # lost after three silent heartbeats: it might have come back
    assert done.happened["crash"] == 1
    assert done.backends["b"].life == 2


@pytest.mark.parametrize("notice", NOTICES)
def test_after_a_cut_the_session_goes_on_and_what_was_open_is_answered(notice: str) -> None:
    fault = Fault("cut", 1.125, for_s=1.0, target="b", notice=notice)
    done = world(one(), demand=at(1.0), faults=[fault], network=NetworkSpec(latency_s=0.0))
    done.run(check_every=1, settle_s=1.0, reunite=True)
    assert outcomes(done) == ["answered"]
    assert latencies(done) == [1.125]


def test_a_frozen_connection_loses_nothing() -> None:
    fault = Fault("freeze", 1.125, for_s=1.0, target="b")
    done = world(one(), demand=at(1.0, 1.5), faults=[fault])
    done.run(check_every=1)
    assert latencies(done) == [1.125, 0.875]


def test_a_paused_backend_goes_on_later() -> None:
    fault = Fault("pause", 1.125, for_s=1.0, target="b")
    done = world(one(), demand=at(1.0, 1.5), faults=[fault])
    done.run(check_every=1)
    assert latencies(done) == [1.125, 0.875]


def test_a_daemon_that_stands_still_reads_and_answers_later() -> None:
    fault = Fault("stall", 1.125, for_s=1.0, target=0)
    done = world(one(), demand=at(1.0, 1.5, ttl_ms=600), faults=[fault])
    done.run(check_every=1)
    assert [record.sent_at - START_S for record in done.ledger.records] == [1.0, 2.125]
    assert outcomes(done) == ["answered", "answered"]
    assert latencies(done) == [1.125, 0.25]


@pytest.mark.parametrize("kind", ["drain", "unregister"])
def test_who_leaves_comes_back(kind: str) -> None:
    fault = Fault(kind, 2.0, for_s=2.0, target="b")
    done = world(one(), demand=at(1.0, 3.0, 5.0), faults=[fault])
    done.run(check_every=1, settle_s=1.0, reunite=True)
    assert outcomes(done) == ["answered", "no_backend", "answered"]


def test_other_faults_at_a_moment() -> None:
    faults = [
        Fault("update", 1.0, target="b", factor=3.0),
        Fault("garble", 2.125, target="b"),
        Fault("garble_send", 3.0, target=0),
        Fault("leave", 4.125, target=0),
        Fault("full", 5.0, for_s=0.5, target="b"),
        Fault("slow", 6.0, for_s=0.5, target="b", factor=2.0),
        Fault("mute", 7.0, for_s=0.5, target="b"),
    ]
    done = world(one(), demand=at(2.0, 4.0, 5.0625, 6.125, 7.125, ttl_ms=800), faults=faults)
    done.run(check_every=1)
    assert dict(done.happened) == dict.fromkeys([fault.kind for fault in faults], 1)
    assert outcomes(done)[:2] == ["failed", "client_gone"]
    assert outcomes(done)[2:] == ["answered", "answered", "expired"]
    assert latencies(done)[3] == 0.5


@pytest.mark.parametrize(
    ("kind", "share"),
    [("drop", "dropped"), ("delay", "delayed"), ("duplicate", "duplicated"), ("reorder", "reordered")],
)
def test_shares_of_the_network_strike_as_often_as_they_say(kind: str, share: str) -> None:
    network = NetworkSpec(delay_s=0.01, **{share: 0.25})
    demand = Demand(messages=400, rate_per_s=20.0, ttl_ms=1000, starts_at_s=10.0)
    done = world(one(seconds=0.005, workers=4), demand=demand, network=network)
    result = done.run(check_every=1)
    deliveries = result.summary().deliveries * 400
    assert done.happened[kind] > 0.2 * deliveries  # and of the answers, and of the heartbeats both ways
    assert (result.summary().success == 1.0) == (kind != "drop")


def test_every_answer_of_a_lossy_network_keeps_the_order_unless_it_is_reordered() -> None:
    network = NetworkSpec(latency_s=0.001, jitter_s=0.05)
    done = world(one(parts=5), demand=at(1.0, 2.0), network=network)
    done.run(check_every=1)
    assert outcomes(done) == ["answered", "answered"]  # the ledger would have seen a gap in the stream


# --- results ---


def test_a_result_in_numbers() -> None:
    demand = at(*[float(k) for k in range(1, 11)], priority={2: 1.0, 4: 1.0}, ttl_ms=200)
    done = world(one(seconds=0.125, slowness=((6.5, 8.0),)), demand=demand)
    result = done.run(check_every=1)
    summary = result.summary()
    assert (summary.messages, summary.success, summary.p50_ms) == (10, 0.6, 125.0)
    assert summary.p99_ms == summary.p999_ms == summary.mean_ms == summary.critical_p99_ms == 125.0
    assert dict(summary.outcomes) == {"answered": 6, "expired": 4}
    assert result.after(6.5).success == 0.0
    assert [part.messages for part in result.by_window(5.0).values()] == [4, 5, 1]
    assert result.by_capability() == {"work": summary}
    assert result.where(lambda record: record.number < 3).messages == 3
    assert summary.deliveries == 1.0
    assert 0.0 < result.busy["b"] < 1.0


def test_refused_is_what_was_never_sent() -> None:
    done = world(one(), demand=at(1.0, 1.0, 1.0), settings={"queue_messages": 1})
    summary = done.run(check_every=1).summary()
    assert dict(summary.outcomes) == {"answered": 2, "overloaded": 1}
    assert summary.refused == pytest.approx(1 / 3)


def test_nothing_answered_is_no_latency() -> None:
    done = world(one(), demand=at(1.0, capability="nobody's"))
    summary = done.run().summary()
    assert math.isnan(summary.p99_ms)
    assert summary.success == 0.0


def test_a_percentile_is_a_value_that_was_there() -> None:
    values = [float(k) for k in range(1, 101)]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 0.999, 1.0)] == [1.0, 50.0, 99.0, 100.0, 100.0]


def test_a_world_can_be_stopped_in_the_middle() -> None:
    done = world(one(seconds=4.0), demand=at(1.0))
    done.run(until_s=2.0, check_every=1)
    assert outcomes(done) == ["draining"]


def test_the_example_of_the_document_runs(capsys: pytest.CaptureFixture[str]) -> None:
    document = Path(__file__).resolve().parent.parent / "docs" / "simulator.md"
    [example] = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
    exec(compile(example, str(document), "exec"), {})
    assert "Summary(messages=10000, success=" in capsys.readouterr().out
