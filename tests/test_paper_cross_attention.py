"""The cross-attention paper, statement by statement: what its text supports is a test named after where it stands.

B. J. Gilbert, "Cross-attention routing between heterogeneous systems". What does not follow from its own description is
tested, too, as the difference that it is: `router-daemon reproduce cross-attention` says it in words.

Every pool and every message comes from `SEED`; a failure names the pools that it needs to be seen again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from math import fsum
from typing import Final, TypeVar

import pytest
from matplotlib.figure import Figure as Canvas

from router_daemon.core.events import Request
from router_daemon.core.settings import Settings, Weights
from router_daemon.lab.chance import Constant, zipf
from router_daemon.lab.papers import cross_attention
from router_daemon.lab.papers.content import Figure
from router_daemon.lab.papers.cross_attention import work
from router_daemon.lab.papers.cross_attention.finite import CONTESTANTS, as_described, run_finite
from router_daemon.lab.papers.cross_attention.ours import run_ours
from router_daemon.lab.papers.cross_attention.printed import TABLE_1
from router_daemon.lab.papers.cross_attention.report import ORDER
from router_daemon.lab.papers.cross_attention.setup import (
    CAPABILITIES,
    SIZES,
    System,
    best_ms,
    best_of_copies_ms,
    demand_of,
    pool_of,
)
from router_daemon.lab.papers.cross_attention.spread import Spread, spread_of
from router_daemon.lab.papers.cross_attention.timing import BATCH, PASSES, route_us
from router_daemon.lab.papers.cross_attention.trial import (
    CA_FULL,
    CA_NO_REL,
    CAP_ONLY,
    RR,
    START_S,
    VARIANTS,
    Delivery,
    Outcome,
    Reading,
    Stage,
    Variant,
    run,
    without,
)
from router_daemon.lab.papers.report import files
from router_daemon.lab.papers.running import Options, Quiet
from router_daemon.lab.specs import BackendSpec, Demand, NetworkSpec
from router_daemon.lab.world import World

T = TypeVar("T")
R = TypeVar("R")

SEED: Final = 7
POOLS: Final = 40
MESSAGES: Final = 400
RUNS: Final = 5
KNOWN: Final = Reading()
LEARNED: Final = Reading("learned")


@cache
def outcomes(variant: Variant, reading: Reading = KNOWN) -> tuple[Outcome, ...]:
    """Return an outcome for each pool."""
    return tuple(
        run(variant, reading, pool_of(SEED, number), demand_of(SEED, number, MESSAGES), f"{SEED}/{number}")
        for number in range(POOLS)
    )


def seen(metric: str, variant: Variant, reading: Reading = KNOWN) -> Spread:
    return spread_of([getattr(outcome, metric) for outcome in outcomes(variant, reading)])


def mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values)


def where(variant: Variant, reading: Reading = KNOWN) -> str:
    """Return what to look at again."""
    return f"seed {SEED}, pools 0 to {POOLS - 1}, {MESSAGES} messages each, {variant.name}, {reading}"


# --- the set-up ---


def test_setup_twelve_systems_latency_and_reliability_uniform() -> None:
    systems = [system for number in range(POOLS) for system in pool_of(SEED, number)]
    assert len(systems) == 12 * POOLS
    latencies = sorted(system.latency_ms for system in systems)
    reliabilities = sorted(system.reliability for system in systems)
    assert 0.5 <= latencies[0] < 0.52
    assert 3.98 < latencies[-1] <= 4.0
    assert mean(latencies) == pytest.approx(2.25, abs=0.12)
    assert 0.88 <= reliabilities[0] < 0.881
    assert 0.994 < reliabilities[-1] <= 0.995
    assert mean(reliabilities) == pytest.approx(0.9375, abs=0.004)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_setup_capability_sets_are_sampled_from_six_and_everything_is_offered(sizes: tuple[int, ...]) -> None:
    for number in range(10):
        pool = pool_of(SEED, number, sizes)
        assert {name for system in pool for name in system.capabilities} == set(CAPABILITIES)
        assert {len(system.capabilities) for system in pool} <= set(sizes)
        assert all(len(set(system.capabilities)) == len(system.capabilities) for system in pool)


def test_setup_demand_is_zipf_over_capabilities_and_uniform_over_priorities() -> None:
    requests = demand_of(SEED, 0, 20_000).requests
    shares = Counter(request.capability for request in requests)
    weights = zipf(CAPABILITIES, 1.2)
    for name, weight in weights.items():
        assert shares[name] / 20_000 == pytest.approx(weight / sum(weights.values()), abs=0.012)
    priorities = Counter(request.priority for request in requests)
    assert all(priorities[priority] / 20_000 == pytest.approx(0.25, abs=0.012) for priority in (1, 2, 3, 4))


# --- the rule ---


def stage(variant: Variant = CA_FULL, reading: Reading = KNOWN, number: int = 0) -> Stage:
    return Stage(variant, reading, pool_of(SEED, number), f"{SEED}/{number}")


@pytest.mark.parametrize("priority", [1, 4])
def test_score_equation(priority: int) -> None:
    ranking, _ = stage().decide(Request(1, CAPABILITIES[0], priority), START_S)
    systems = {system.name: system for system in pool_of(SEED, 0)}
    assert len(ranking.scored) == 12
    for candidate in ranking.scored:
        system = systems[candidate.backend.name]
        score = 0.3 / (1.0 + system.latency_ms) + 0.2 * system.reliability + 0.1 * priority / 4
        assert candidate.score == pytest.approx(score + 0.4 * (CAPABILITIES[0] in system.capabilities))


def test_up_to_three_heads_over_the_threshold() -> None:
    tested = stage()
    request = Request(1, CAPABILITIES[0], 2)
    ranking, first = tested.decide(request, START_S)
    assert first is not None
    heads = [first, *tested.others(ranking, request, first, START_S)]
    assert heads == ranking.candidates[:3]
    assert all(candidate.score > 0.3 for candidate in ranking.candidates)


def test_the_threshold_of_three_tenths_lets_most_incapable_systems_through() -> None:
    """Does not follow: that who is over the threshold can do what is asked."""
    incapable = passing = 0
    for number in range(POOLS):
        tested = stage(number=number)
        for priority in (1, 2, 3, 4):
            ranking, _ = tested.decide(Request(1, CAPABILITIES[1], priority), START_S)
            cannot = [c for c in ranking.scored if CAPABILITIES[1] not in c.backend.info.capabilities]
            incapable += len(cannot)
            passing += sum(candidate.score > 0.3 for candidate in cannot)
    assert passing / incapable > 0.85, f"seed {SEED}"


def test_update_rule() -> None:
    """latency <- 0.1 observed + 0.9 old; success <- 0.05 [success] + 0.95 old."""
    tested = stage(reading=LEARNED)
    _, first = tested.decide(Request(1, CAPABILITIES[0]), START_S)
    assert first is not None
    profile = first.backend.profile
    latency_s, success = profile.latency_s, profile.success
    attempt = tested.attempt(first, luck=0.0)
    assert attempt.ok
    assert profile.latency_s == pytest.approx(0.1 * attempt.latency_ms / 1000.0 + 0.9 * latency_s)
    assert profile.success == pytest.approx(0.05 + 0.95 * success)
    success = profile.success
    assert not tested.attempt(first, luck=0.999).ok
    assert profile.success == pytest.approx(0.95 * success)


def test_known_profiles_stay_as_they_are() -> None:
    tested = stage()
    _, first = tested.decide(Request(1, CAPABILITIES[0]), START_S)
    assert first is not None
    tested.attempt(first, luck=0.999)
    system = next(system for system in pool_of(SEED, 0) if system.name == first.backend.name)
    assert first.backend.profile.success == system.reliability


def test_decisions_are_cached_by_capability_and_priority_for_30_s() -> None:
    tested = stage()
    first, _ = tested.decide(Request(1, CAPABILITIES[0], 2), START_S)
    assert tested.decide(Request(2, CAPABILITIES[0], 2), START_S + 29.9)[0] is first
    assert tested.decide(Request(3, CAPABILITIES[0], 3), START_S)[0] is not first
    assert tested.decide(Request(4, CAPABILITIES[1], 2), START_S)[0] is not first
    assert tested.decide(Request(5, CAPABILITIES[0], 2), START_S + 30.0)[0] is not first


def test_entries_are_refreshed_at_a_failure_in_the_reading_that_says_so() -> None:
    tested = stage(reading=Reading("learned", refresh="failure"))
    request = Request(1, CAPABILITIES[0])
    ranking, first = tested.decide(request, START_S)
    assert first is not None
    tested.attempt(first, luck=0.0)
    assert tested.decide(request, START_S)[0] is ranking
    tested.attempt(first, luck=0.999)
    assert tested.decide(request, START_S)[0] is not ranking


# --- Table I ---


@pytest.mark.parametrize("variant", [CAP_ONLY, CA_NO_REL, CA_FULL], ids=lambda variant: variant.name)
def test_table_1_capability_hit_is_one_for_who_looks_at_it(variant: Variant) -> None:
    assert {outcome.hit for outcome in outcomes(variant)} == {1.0}, where(variant)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_table_1_latency_and_hit_are_within_the_spread_of_pools(variant: Variant) -> None:
    for metric in ("hit", "latency_ms"):
        assert seen(metric, variant).holds(getattr(TABLE_1[variant.name], metric), 0.005), where(variant)


def test_table_1_latency_is_about_half_of_round_robin_s() -> None:
    assert 0.4 < seen("latency_ms", CA_FULL).mean / seen("latency_ms", RR).mean < 0.6, where(CA_FULL)


@pytest.mark.parametrize("variant", [RR, CAP_ONLY, CA_NO_REL], ids=lambda variant: variant.name)
def test_table_1_success_without_the_reliability_term_is_the_mean_reliability(variant: Variant) -> None:
    assert seen("success", variant).holds(TABLE_1[variant.name].success, 0.0005), where(variant)
    assert seen("success", variant).mean == pytest.approx(0.9375, abs=0.015), where(variant)


def test_table_1_success_of_the_full_rule_does_not_follow_with_one_head() -> None:
    """Printed is .995, the best reliability that there can be; one head has about .945."""
    one = seen("success", CA_FULL)
    assert not one.holds_mean(TABLE_1["ca-full"].success, RUNS), where(CA_FULL)
    assert one.mean < 0.965, where(CA_FULL)


@pytest.mark.parametrize(("delivery", "least"), [("retry", 0.994), ("fail-over", 0.9995), ("three heads", 0.9995)])
def test_table_1_success_is_what_a_second_try_gives(delivery: Delivery, least: float) -> None:
    reading = Reading("known", delivery)
    assert seen("success", CA_FULL, reading).mean > least, where(CA_FULL, reading)
    if delivery == "retry":
        assert seen("success", CA_FULL, reading).holds(TABLE_1["ca-full"].success), where(CA_FULL, reading)


def test_table_1_the_reliability_term_lifts_success_a_little_and_costs_a_little_latency() -> None:
    """Does not follow: that it lifts success by .051 and costs no latency."""
    pairs = list(zip(outcomes(CA_FULL), outcomes(CA_NO_REL), strict=True))
    gain = mean([full.success - plain.success for full, plain in pairs])
    cost_ms = mean([full.latency_ms - plain.latency_ms for full, plain in pairs])
    assert 0.0 < gain < 0.02, where(CA_FULL)
    assert 0.0 < cost_ms < 0.05, where(CA_FULL)


def test_learned_through_a_cache_of_30_s_latency_is_not_that_of_table_1() -> None:
    """A greedy choice that is kept never finds the better system; without the cache it does."""
    kept, fresh = seen("latency_ms", CA_FULL, LEARNED), seen("latency_ms", CA_FULL, replace(LEARNED, ttl_s=0.0))
    known = seen("latency_ms", CA_FULL)
    assert not kept.holds_mean(TABLE_1["ca-full"].latency_ms, RUNS, 0.005), where(CA_FULL, LEARNED)
    assert kept.mean > 1.2 * known.mean, where(CA_FULL, LEARNED)
    assert fresh.mean < 0.85 * kept.mean, where(CA_FULL, LEARNED)


def test_who_starts_as_the_slowest_is_never_tried() -> None:
    slow, quick = (replace(LEARNED, ttl_s=0.0, initial_ms=ms) for ms in (4.0, 0.0))
    assert seen("latency_ms", CA_FULL, slow).mean > 1.2 * seen("latency_ms", CA_FULL, quick).mean, where(CA_FULL, slow)


def test_method_several_heads_provide_redundancy_for_three_times_the_work() -> None:
    reading = Reading("known", "three heads")
    assert seen("success", CA_FULL, reading).mean > seen("success", CA_FULL).mean + 0.03, where(CA_FULL, reading)
    assert {outcome.deliveries for outcome in outcomes(CA_FULL, reading)} == {3.0}
    assert seen("hit", CA_FULL, reading).mean < 1.0, where(CA_FULL, reading)


# --- Figures 4 to 6 ---


class Ticking:
    """A clock: what is timed takes `seconds` more in the first pass than in the others, the empty loop 1 ms."""

    def __init__(self) -> None:
        self.calls = 0
        self.now = 0.0

    def __call__(self) -> float:
        number = self.calls
        self.calls += 1
        if number % 4 == 1:  # the end of a batch
            self.now += 0.101 if number < 4 else 0.021
        elif number % 4 == 3:  # the end of an empty one
            self.now += 0.001
        return self.now


def test_figure_4_the_shortest_pass_counts_and_the_loop_does_not() -> None:
    clock = Ticking()
    requests = demand_of(SEED, 0, BATCH).requests
    microseconds = route_us(CA_FULL, KNOWN, pool_of(SEED, 0), requests, clock)
    assert clock.calls == 4 * PASSES
    assert microseconds == pytest.approx(1e6 * 0.020 / BATCH)


def test_figure_5_the_capability_term_dominates_satisfaction() -> None:
    assert seen("hit", without("capability")).mean < 0.6, where(without("capability"))


def test_figure_5_the_performance_term_drives_latency() -> None:
    changes = {term: seen("latency_ms", without(term)).mean for term in work.TERMS}
    full = seen("latency_ms", CA_FULL).mean
    assert changes["performance"] > 1.5 * full, where(CA_FULL)
    assert max(changes.values()) == changes["performance"]


def test_figure_5_the_reliability_term_lifts_success() -> None:
    assert seen("success", without("reliability")).mean < seen("success", CA_FULL).mean, where(CA_FULL)


def test_figure_5_the_priority_term_decides_nothing() -> None:
    """The text calls it small and situational: equal for every system, it is nothing at all with one head."""
    assert outcomes(without("priority")) == outcomes(CA_FULL), where(CA_FULL)


def test_figure_5_a_term_is_taken_away_and_the_others_stay() -> None:
    assert without("performance").weights == Weights(performance=0.0)


def hits(ttl_s: float, rate_per_s: float) -> float:
    reading = Reading(ttl_s=ttl_s, rate_per_s=rate_per_s)
    return run(CA_FULL, reading, pool_of(SEED, 0), demand_of(SEED, 0, 4_000), str(SEED)).cached


def test_figure_6_a_longer_time_to_live_means_more_hits_and_0_none() -> None:
    shares = [hits(ttl_s, 10.0) for ttl_s in (0.0, 1.0, 5.0, 30.0, 120.0)]
    assert shares[0] == 0.0
    assert shares == sorted(shares)
    assert len(set(shares)) == 5


@pytest.mark.parametrize("rate_per_s", [3.0, 30.0])
def test_figure_6_hits_are_those_of_a_cache_with_24_entries(rate_per_s: float) -> None:
    """Of an entry asked for n times in its time to live, one look-up in n + 1 makes it: rate x ttl / (1 + rate x ttl)."""
    weights = zipf(CAPABILITIES, 1.2)
    shares = [weight / sum(weights.values()) / 4 for weight in weights.values()]
    expected = fsum(4 * share * (rate_per_s * share * 30.0) / (1 + rate_per_s * share * 30.0) for share in shares)
    assert hits(30.0, rate_per_s) == pytest.approx(expected, abs=0.015)


# --- beyond the paper ---


def test_the_bounds_are_those_of_who_knows_all() -> None:
    quick, sure = System("a", CAPABILITIES, 1.0, 0.9), System("b", CAPABILITIES, 3.0, 0.95)
    assert best_ms((sure, quick)) == pytest.approx(1.0)
    expected = (0.9 * 1.0 + 0.1 * 0.95 * 3.0) / (1.0 - 0.1 * 0.05)
    assert best_of_copies_ms((sure, quick)) == pytest.approx(expected)


def test_nobody_with_one_head_beats_the_bound() -> None:
    for number, outcome in enumerate(outcomes(CA_FULL)):
        counted = Counter(request.capability for request in demand_of(SEED, number, MESSAGES).requests)
        pool = pool_of(SEED, number)
        least = {name: min(s.latency_ms for s in pool if name in s.capabilities) for name in CAPABILITIES}
        bound = fsum(count * least[name] for name, count in counted.items()) / MESSAGES
        assert outcome.latency_ms >= bound - 1e-9, f"seed {SEED}, pool {number}"


def test_the_daemon_s_default_beats_the_full_rule_where_both_learn() -> None:
    numbers = range(6)
    ours = [run_ours("attention", pool_of(SEED, number), MESSAGES, number, 0.0) for number in numbers]
    theirs = [outcomes(CA_FULL, LEARNED)[number] for number in numbers]
    assert mean([outcome.success for outcome in ours]) >= 0.995, f"seed {SEED}"
    assert mean([o.latency_ms for o in ours]) < 0.9 * mean([o.latency_ms for o in theirs]), f"seed {SEED}"
    assert {outcome.hit for outcome in ours} == {1.0}


def test_the_daemon_s_default_sends_no_copies_where_they_are_not_wanted() -> None:
    copies, single = (
        run_ours(mode, pool_of(SEED, 0), 200, SEED, 0.5) for mode in ("attention", "attention, no copies")
    )
    assert copies.deliveries > 2.0
    assert single.deliveries < 1.5
    assert copies.latency_ms < single.latency_ms
    assert run_ours("attention", pool_of(SEED, 0), 200, SEED, 0.5) == copies


def test_the_trial_agrees_with_the_simulator_that_has_the_whole_broker() -> None:
    """Two ways to run the published rule: only its ranking, and the daemon around it that does nothing else."""
    pool = pool_of(SEED, 3)
    demand = Demand(
        messages=1_500, rate_per_s=200.0, capability=zipf(CAPABILITIES, 1.2), priority=dict.fromkeys((1, 2, 3, 4), 1.0)
    )
    world = World(
        seed=SEED,
        policy="paper",
        settings=replace(as_described(1), cache_ttl_s=0.0),
        backends=[
            BackendSpec(s.name, Constant(s.latency_ms / 1000.0), s.capabilities, workers=64, reliability=s.reliability)
            for s in pool
        ],
        demands=[demand],
        network=NetworkSpec(latency_s=0.0),
    )
    records = world.run().records
    reading = Reading("learned", ttl_s=0.0, rate_per_s=200.0)
    plain = run(CA_FULL, reading, pool, demand_of(SEED, 3, 1_500), str(SEED))
    assert mean([r.latency_s * 1000.0 for r in records]) == pytest.approx(plain.latency_ms, rel=0.08), f"seed {SEED}"
    assert mean([r.outcome == "answered" for r in records]) == pytest.approx(plain.success, abs=0.02), f"seed {SEED}"


def test_no_queueing_is_described_and_a_cached_winner_does_not_survive_any() -> None:
    by_name = {contestant.name: contestant for contestant in CONTESTANTS}
    names = ("ca-full", "ca-full, three heads", "attention")
    full, three, ours = (run_finite(by_name[name], "load-0.85", 0, 3_000) for name in names)
    assert full["success"] < 0.9
    assert three["success"] < 0.95
    assert ours["success"] > 0.995
    assert ours["p99_ms"] < 0.5 * full["p99_ms"]


# --- the report ---

TINY: Final = work.Size(2, 60, 3, 60, 2, 40, ("load-0.3", "load-0.7"), 1, 40, 300)


class Counting(Quiet):
    """Counts the steps."""

    steps = done = 0

    def start(self, steps: int) -> None:
        self.steps = steps

    def advance(self, what: str, steps: int = 1) -> None:
        self.done += steps


@pytest.mark.slow
def test_the_report_has_every_table_and_figure_and_a_reason_for_every_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "size_of", lambda _options: TINY)
    progress = Counting()
    report = cross_attention.reproduce(Options(time.perf_counter, seed=SEED, quick=True), progress)
    assert progress.done == progress.steps > 0
    assert tuple(part.name for part in report.parts) == ORDER
    for part in report.parts:
        assert part.rows, part.name
        assert {len(row) for row in part.rows} == {len(part.columns)}, part.name
    verdicts = {claim.where: claim.verdict for claim in report.claims}
    assert {"follows", "does not follow", "not stated", "ours"} == set(verdicts.values())
    assert all(len(claim.found) > 40 for claim in report.claims)
    table = {row[0]: row for row in report.parts[0].rows}
    assert {*TABLE_1, "attention"} <= set(table)
    for part in report.parts:
        if isinstance(part, Figure):
            part.draw(axes := Canvas().add_subplot())
            assert axes.has_data(), part.name
    assert b"--seed 7" in files(report, None)["report.md"]


def test_outcomes_do_not_depend_on_how_runs_are_spread() -> None:
    options = Options(time.perf_counter, seed=SEED)

    def backwards(function: Callable[[T], R], items: Sequence[T], /) -> Iterable[R]:
        return reversed([function(item) for item in reversed(items)])

    pairs = work.reading_pairs()[:9]
    one, other = (
        work.tried(each, Quiet(), "", range(2), 50, pairs) for each in (options, replace(options, mapper=backwards))
    )
    assert one == other


def test_the_paper_s_size_is_the_default() -> None:
    size = work.size_of(Options(time.perf_counter))
    assert (size.runs, size.messages) == (5, 30_000)
    assert size.pools >= 100
    assert size.pool_messages >= 3_000
    quick = work.size_of(Options(time.perf_counter, quick=True, messages=300))
    assert (quick.messages, quick.pool_messages) == (300, 300)


def test_the_variants_are_the_daemon_s_policies_with_its_defaults() -> None:
    assert [variant.policy for variant in VARIANTS] == [
        "round_robin",
        "capability_only",
        "paper_no_reliability",
        "paper",
    ]
    assert Reading().ttl_s == Settings().cache_ttl_s == 30.0
    assert Settings().threshold == 0.3
    assert Settings().heads == 3
