"""A rollout in the simulator: two routes over the same backends; every promise holds, and the guard keeps its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router_daemon.core.rollout import DONE, ROLLED_BACK, RUNNING, Rollout
from router_daemon.core.settings import EjectionSettings, RolloutSettings, RouteSettings, Settings
from router_daemon.lab.chance import Lognormal
from router_daemon.lab.guard_trials import TRIALS, Trial, report, run_trial
from router_daemon.lab.random_world import random_plan
from router_daemon.lab.specs import BackendSpec, Demand
from router_daemon.lab.timeline import START_S
from router_daemon.lab.world import World


def failing_pool() -> list[BackendSpec]:
    """Three good backends, and one that is at fault in every third message."""
    good = [BackendSpec(f"good{k}", Lognormal(0.004), ("work",), workers=4, reliability=0.9995) for k in range(3)]
    return [*good, BackendSpec("bad", Lognormal(0.004), ("work",), workers=4, reliability=0.65)]


def run(candidate: RouteSettings, *, seed: int = 1, messages: int = 20_000, **rollout: Any) -> tuple[World, Rollout]:
    keys: dict[str, Any] = {"candidate": "candidate", "stages": (20.0, 50.0, 100.0), "stage_s": 5.0} | rollout
    settings = Settings(
        mode="single",
        heads=1,
        ejection=EjectionSettings(failures=0),  # or the shell would make good what the candidate does
        routes={"candidate": candidate, "stable": RouteSettings("attention")},
        rollout=RolloutSettings(**keys),
    )
    demand = Demand(messages=messages, rate_per_s=1000.0, ttl_ms=2000, heads=1)
    world = World(seed=seed, backends=failing_pool(), demands=[demand], settings=settings)
    found = world.daemons[0].broker.routes.rollout
    assert found is not None
    return world, found


def test_a_worse_candidate_is_stopped_and_gets_nothing_from_then_on() -> None:
    world, rollout = run(RouteSettings("round_robin"))
    taken: list[tuple[float, str]] = []
    assign = rollout.assign

    def noted(request: Any, name: str) -> Any:
        route = assign(request, name)
        taken.append((world.timeline.now, route.name))
        return route

    rollout.assign = noted  # type: ignore[method-assign]
    world.run(check_every=500)
    assert rollout.state == ROLLED_BACK
    assert sum(rollout.verdicts.values()) == 1
    verdict_at = rollout.history[0].at
    assert verdict_at - START_S < 5.0, "long before the first stage could have ended"
    late = [when for when, name in taken if name == "candidate" and when > verdict_at]
    assert late == [], "within one second: at once"
    assert [name for when, name in taken if when <= verdict_at].count("candidate") > 20


def test_the_same_seed_replays_the_verdict() -> None:
    digests, reasons = set(), set()
    for _ in range(2):
        world, rollout = run(RouteSettings("round_robin"), messages=5000)
        digests.add(world.run().digest)
        reasons.add(rollout.reason)
    assert len(digests) == len(reasons) == 1
    assert reasons != {""}


@pytest.mark.slow
def test_a_good_candidate_goes_through_all_stages() -> None:
    keys: dict[str, Any] = {
        "stages": (20.0, 100.0),
        "control_percent": 10.0,
        "max_success_drop": 0.03,
        "max_p99_ratio": 3.0,
    }
    world, rollout = run(RouteSettings("attention"), messages=60_000, **keys)
    world.run()
    assert (rollout.state, rollout.percent) == (DONE, 100.0)
    assert rollout.view(world.timeline.now)["to_be_retired"] == ["stable"]


def test_a_candidate_like_stable_is_left_alone() -> None:
    world, rollout = run(RouteSettings("attention"), messages=10_000)
    world.run()
    assert rollout.state == RUNNING
    assert sum(rollout.verdicts.values()) == 0


@pytest.mark.parametrize("seed", range(20))
def test_random_worlds_with_a_rollout_keep_every_promise(seed: int) -> None:
    plan = random_plan(seed, messages=80)
    rollout = RolloutSettings(
        candidate="candidate", stages=(40.0, 100.0), stage_s=1.0, min_answers=5, control_percent=20
    )
    routes = {"candidate": RouteSettings("c3" if plan.policy != "c3" else "prequal")}
    replace(plan, settings=replace(plan.settings, routes=routes, rollout=rollout)).run(check_every=1)


# --- the guard by itself, by drawn answers ---


@pytest.mark.parametrize("trial", [trial for trial in TRIALS if trial.harmless], ids=lambda trial: trial.name)
def test_harmless_candidates_are_left_alone(trial: Trial) -> None:
    """Of 20 at most one: by chance two or more would be stopped once in 200, were each at 0.5 %."""
    assert sum(run_trial(trial, runs=20, answers=10_000, seed=3).stopped.values()) <= 1


@pytest.mark.parametrize("trial", [Trial("fails", False, drop=0.2), Trial("slow", False, slower=3.0)], ids=str)
def test_bad_ones_are_stopped_soon(trial: Trial) -> None:
    outcome = run_trial(trial, runs=10, answers=20_000, seed=3)
    assert sum(outcome.stopped.values()) == 10
    assert outcome.quantile("answers", 0.9) < 500
    assert any(f"| {trial.name} | 10 | 100.0% |" in line for line in report([outcome]))


def test_the_same_seed_gives_the_same_trial() -> None:
    trial = Trial("fails", False, drop=0.05)
    assert run_trial(trial, runs=3, answers=5000, seed=4) == run_trial(trial, runs=3, answers=5000, seed=4)
