"""The cells: each can be built and run, contains its fault, and has the load that it is named by."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from router_daemon.lab.chance import Lognormal, Pareto, zipf
from router_daemon.lab.contenders import OURS, Contender
from router_daemon.lab.hardships import SURGE_FROM_S, SURGE_UNTIL_S
from router_daemon.lab.matrix import cells
from router_daemon.lab.result import Result
from router_daemon.lab.timeline import START_S
from router_daemon.lab.workloads import (
    BACKENDS,
    CAPABILITIES,
    LEAST_OFFERS,
    LOADS,
    OFFERED,
    OVERLOAD_LEAST,
    TTL_MS,
    Scene,
    mean_s,
    rate_of,
)
from router_daemon.lab.world import World

SEED = 31
FEW = 250
MANY, SHORT_S = 16, 3.0
"""So many daemons hear so many heartbeats that a few seconds of them must do."""
SMALL = [name for name, cell in cells().items() if cell.load < 1.0]


@cache
def scene(name: str, seed: int = SEED, messages: int = FEW) -> Scene:
    return cells()[name].scene(seed, messages)


@cache
def result(name: str) -> Result:
    made, contender = scene(name), Contender(OURS)
    world = World(
        seed=SEED,
        policy=contender.maker(made.daemons),
        settings=contender.settings(),
        backends=made.backends,
        demands=made.demands,
        faults=made.faults,
        daemons=made.daemons,
    )
    return world.run(until_s=SHORT_S if made.daemons >= MANY else None)


@pytest.mark.parametrize("name", SMALL)
def test_every_cell_runs_and_contains_its_fault(name: str) -> None:
    seen = result(name)
    if scene(name).daemons < MANY:
        assert len(seen.records) == sum(demand.messages or 20 for demand in scene(name).demands)
        assert seen.summary().success > 0.7
    assert seen.summary().outcomes["answered"] > 0
    for kind in cells()[name].strikes:
        assert seen.happened[kind] > 0
    assert not set(seen.happened) - set(cells()[name].strikes) - {"fail"}


@pytest.mark.parametrize("load", LOADS)
def test_a_load_is_a_share_of_what_any_router_could_serve(load: float) -> None:
    made = scene(f"load-{load:g}")
    [demand] = made.demands
    assert demand.rate_per_s == pytest.approx(load * rate_of(made.backends, 1.0, zipf(CAPABILITIES)))
    assert demand.messages == (FEW if load < 1.0 else OVERLOAD_LEAST)


def test_an_overload_lasts_and_its_ends_are_not_counted() -> None:
    made = scene("load-1.2", messages=20_000)
    [demand] = made.demands
    assert demand.messages == 60_000
    assert isinstance(demand.rate_per_s, float)
    assert made.counted is not None
    seconds = demand.messages / demand.rate_per_s
    assert list(made.counted) == pytest.approx([0.4 * seconds, seconds - 0.1])
    assert seconds > 10.0 * TTL_MS / 1000.0


def test_a_seed_makes_the_same_pool_whatever_the_load_and_another_seed_another() -> None:
    assert scene("load-0.3").backends == scene("load-1.5").backends
    assert scene("load-0.3").backends != scene("load-0.3", SEED + 1).backends
    assert cells()["load-0.3"].scene(SEED, FEW) == cells()["load-0.3"].scene(SEED, FEW)


@pytest.mark.parametrize("seed", range(100_000, 100_006))
def test_the_standard_pool_is_as_described(seed: int) -> None:
    pool = scene("load-0.7", seed).backends
    assert len(pool) == BACKENDS
    offers = Counter(capability for spec in pool for capability in spec.capabilities)
    assert set(offers) == set(CAPABILITIES)
    assert min(offers.values()) >= LEAST_OFFERS
    for spec in pool:
        assert len(set(spec.capabilities)) == OFFERED
        assert isinstance(spec.service, Lognormal)
        assert 0.0005 <= mean_s(spec) <= 0.004
        assert spec.workers in {1, 2, 4}
        assert 0.88 <= spec.reliability <= 0.995
        assert (spec.slots, spec.prefetch, spec.reports_queue) == (None, 0, True)


@pytest.mark.parametrize(
    ("name", "left"),
    [("slow", 0.1), ("fails-at-once", 0.0), ("silent", 0.0), ("answers-60", 0.6), ("joins", 0.0), ("returns", 0.0)],
)
def test_what_a_fault_takes_away_is_not_counted(name: str, left: float) -> None:
    hit, whole = scene(f"{name}-0.7"), scene("load-0.7")
    able = {whole.backends[0].name: left}
    assert hit.demands[0].rate_per_s == pytest.approx(rate_of(whole.backends, 0.7, zipf(CAPABILITIES), able))
    assert hit.backends[1:] == whole.backends[1:]


def test_a_backend_that_returns_gets_faster_step_by_step() -> None:
    made = scene("returns-0.3")
    [crash] = made.faults
    steps = made.backends[0].slowness
    assert [factor for _, factor in steps] == [10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    assert steps[0][0] == pytest.approx(crash.at_s + crash.for_s)
    assert steps[-1][0] == pytest.approx(3.0 * crash.at_s)


def test_a_fault_begins_after_a_fifth_of_the_run() -> None:
    records = result("silent-0.3").records
    [fault] = scene("silent-0.3").faults
    share = sum(record.sent_at - START_S < fault.at_s for record in records) / len(records)
    assert share == pytest.approx(0.2, abs=0.06)


def test_what_fails_at_once_fails_at_once_and_what_answers_60_does_not() -> None:
    assert scene("fails-at-once-0.3").backends[0].fails_after_s == 0.0001
    assert scene("answers-60-0.3").backends[0].fails_after_s is None


def test_outages_are_ten_in_thirty_seconds() -> None:
    dependency = scene("outages-0.7").backends[0].depends_on
    assert dependency is not None
    assert dependency.windows[:2] == ((1.5, 1.8, 0.7), (4.5, 4.8, 0.7))
    assert len(dependency.windows) == 10
    assert all(spec.depends_on is dependency for spec in scene("outages-0.7").backends)
    sent_s = max(record.sent_at for record in result("outages-0.7").records) - START_S
    assert sent_s == pytest.approx(30.0, rel=0.25)


def test_heavy_tails_are_pareto() -> None:
    assert all(isinstance(spec.service, Pareto) for spec in scene("pareto-0.3").backends)


def test_lengths_differ_on_every_backend_and_most_messages_are_short() -> None:
    made = scene("lengths-0.7")
    for spec in made.backends:
        means = [service.mean_s for service in spec.services().values()]
        assert means == pytest.approx([means[0], 10.0 * means[0], 100.0 * means[0]])
    assert [demand.messages for demand in made.demands] == [225, 22, 2]
    rates = [rate for demand in made.demands if isinstance(rate := demand.rate_per_s, float)]
    work = sum(rate * times for rate, times in zip(rates, (1.0, 10.0, 100.0), strict=True))
    ability = sum(spec.workers * spec.reliability / mean_s(spec) for spec in made.backends)
    assert work == pytest.approx(0.7 * ability)


def test_the_rare_capability_is_rare() -> None:
    usual, rare = scene("rare-0.3", messages=20_000).demands
    assert (usual.messages, rare.messages) == (20_000, 40)
    assert rare.rate_per_s / usual.rate_per_s == pytest.approx(0.002)  # type: ignore[operator]
    assert sum("rare" in spec.capabilities for spec in scene("rare-0.3").backends) == 4


def test_one_message_a_minute() -> None:
    sent = [record.sent_at - START_S for record in result("a-minute").records]
    assert sent[:3] == [60.0, 120.0, 180.0]


def test_speeds_and_sizes() -> None:
    assert [mean_s(spec) for spec in scene("speeds-0.3").backends] == [0.02, 0.02, 2.0, 2.0, 8.0, 8.0, 30.0, 30.0]
    assert [mean_s(spec) for spec in scene("chat-0.3").backends] == [2.0, 2.0, 8.0, 8.0, 30.0, 30.0]
    workers = sorted(spec.workers for spec in scene("big-0.3").backends)
    assert workers[-1] == 64
    assert set(workers[:-1]) == {1, 2}


@pytest.mark.parametrize("count", [1, 4, 16, 64])
def test_daemons_share_the_pool_for_thirty_seconds_with_a_surge_of_one(count: int) -> None:
    for name in (f"daemons-{count}", f"daemons-{count}-unseen"):
        made, seen = scene(name), result(name)
        assert made.daemons == count
        assert {spec.reports_queue for spec in made.backends} == {not name.endswith("unseen")}
        assert {record.daemon for record in seen.records} <= set(range(count))
        if count < MANY:
            assert len({record.daemon for record in seen.records}) == count
            assert seen.records[-1].sent_at - START_S == pytest.approx(30.0, abs=5.0)


def test_the_surge_doubles_the_load_and_more() -> None:
    sent = [record.sent_at - START_S for record in result("daemons-4").records]
    surge = sum(SURGE_FROM_S <= at_s < SURGE_UNTIL_S for at_s in sent)
    usual = sum(at_s < SURGE_FROM_S for at_s in sent) / SURGE_FROM_S
    assert surge == pytest.approx(usual * 1.5 / 0.7, rel=0.5)
