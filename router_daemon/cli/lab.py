"""Commands of the simulator: no daemon is asked, and none is started.

Rules:
- What is printed suffices to see the same again: the seed, the kinds of faults, the number of messages, the policy.
- A broken promise is exit code 4, with the command that replays it; it is a fault of the broker (or of the simulator),
  never of who typed.
"""

# ruff: noqa: PLC0415 - a command loads only the rooms that it needs

from __future__ import annotations

import shlex
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router_daemon.cli.exits import FAILED, USAGE, CommandError, complain, reported

if TYPE_CHECKING:
    from router_daemon.lab.random_world import Plan
    from router_daemon.lab.result import Result


@reported
def simulate(
    seed: Annotated[int, typer.Option(metavar="S", help="Of the world; the same seed replays the same run.")] = 0,
    faults: Annotated[
        str, typer.Option(metavar="all|none|KIND,...", help="What may go wrong; --list-faults names the kinds.")
    ] = "all",
    messages: Annotated[int, typer.Option(metavar="N", min=1, help="How many messages are sent.")] = 200,
    policy: Annotated[str | None, typer.Option(metavar="P", help="How backends are chosen. [default: drawn]")] = None,
    ring: Annotated[int | None, typer.Option(metavar="N", min=2, max=64, help="A ring of N daemons.")] = None,
    check_every: Annotated[
        int, typer.Option(metavar="K", min=0, help="Check the broker's invariants every K steps, 0: at the end.")
    ] = 1,
    list_faults: Annotated[bool, typer.Option("--list-faults", help="Name the kinds of faults and exit.")] = False,
) -> None:
    """Run a random world in virtual time.

    The daemon's own broker and policies, with simulated backends, clients, network and clock. Prints what happened,
    and a digest of everything that the brokers did: the same wherever and whenever the seed is run.

    Exit code: 0 where every promise was kept, 4 where one was broken.
    """
    from router_daemon.lab.random_ring import kinds_for, plan_for
    from router_daemon.policies.base import NAMES

    there_are = kinds_for(ring)
    if list_faults:
        print("\n".join(there_are))
        return
    kinds = {"all": list(there_are), "none": []}.get(faults, [kind for kind in faults.split(",") if kind])
    if strange := [kind for kind in kinds if kind not in there_are]:
        raise CommandError(USAGE, f"--faults: no such kind: {', '.join(strange)}; there are: {', '.join(there_are)}")
    if policy is not None and policy not in NAMES:
        raise CommandError(USAGE, f"--policy {policy}: there are: {', '.join(NAMES)}")
    plan = plan_for(seed, ring, messages=messages, kinds=kinds, policy=policy)
    try:
        result = plan.run(check_every=check_every)
    except Exception as broken:
        complain(f"error: seed {seed} breaks a promise")
        complain(what_broke(broken))
        complain(f"replay: {replay_command(seed, faults=faults, messages=messages, policy=policy, ring=ring)}")
        raise typer.Exit(FAILED) from broken
    print(report(plan, result))


@reported
def guard(
    runs: Annotated[int, typer.Option(metavar="N", min=1, help="Of each kind of candidate.")] = 1000,
    answers: Annotated[int, typer.Option(metavar="N", min=1000, help="Of all sides, in each window.")] = 50_000,
    seed: Annotated[int, typer.Option(metavar="S", help="The same seed gives the same tables.")] = 1,
) -> None:
    """Measure the guard of a rollout: how often it stops a harmless candidate, how soon a bad one.

    And how often a harmless route is named for retirement, how soon a bad one. The daemon's own tests with their
    default settings, looking all the time at answers drawn by chance.
    """
    from router_daemon.lab.guard_trials import TRIALS, report, run_trial
    from router_daemon.lab.naming_trials import NAMINGS, naming_report, run_naming

    outcomes = []
    for trial in TRIALS:
        outcomes.append(run_trial(trial, runs=runs, answers=answers, seed=seed))
        stopped = sum(outcomes[-1].stopped.values())
        complain(f"{trial.name}: {stopped} of {runs} stopped")
    print("\n".join((*report(outcomes), "")))
    namings = []
    for trial in NAMINGS:
        namings.append(run_naming(trial, runs=runs, answers=answers, seed=seed))
        complain(f"{trial.name}: a harmless route was named in {namings[-1].falsely} of {runs}")
    print("\n".join(naming_report(namings)))


def what_broke(broken: BaseException) -> str:
    """Return what was raised and the line that first did, on one line."""
    first = broken.__cause__ or broken
    place = traceback.extract_tb(first.__traceback__)[-1]
    return f"{type(broken).__name__}: {broken} ({Path(place.filename).name}:{place.lineno}: {place.line})"


def replay_command(seed: int, *, faults: str, messages: int, policy: str | None, ring: int | None = None) -> str:
    """Return the command that runs the same world again."""
    words = ["router-daemon", "simulate", "--seed", str(seed), "--faults", faults, "--messages", str(messages)]
    words += ["--policy", policy] if policy else []
    return shlex.join([*words, *(["--ring", str(ring)] if ring else [])])


def report(plan: Plan, result: Result) -> str:
    """Return a few lines about a run, the digest last."""
    summary, settings = result.summary(), plan.settings
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(summary.outcomes.items()))
    happened = ", ".join(f"{kind} {count}" for kind, count in sorted(result.happened.items()) if count)
    kind = "daemons" if plan.ring is None else "a ring of daemons"
    return "\n".join(
        (
            f"seed       {plan.seed}",
            f"world      {kind} {plan.daemons}, backends {len(plan.backends)}, {plan.seconds:.1f} s of demand",
            f"settings   policy {plan.policy}, mode {settings.mode}, heads {settings.heads}",
            f"messages   {len(result.records)}: {outcomes}",
            f"latency    p50 {summary.p50_ms:.1f} ms, p99 {summary.p99_ms:.1f} ms; deliveries {summary.deliveries:.2f}",
            f"faults     {happened or 'none'}",
            f"steps      {result.steps}, actions {result.actions}",
            "promises   kept: one last answer for each message, nothing twice, nothing late, counts agree",
            f"digest     {result.digest}",
        )
    )
