"""`router-daemon simulate` and `scripts/soak_sim`: what they print, and how they say that a world broke."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from typer.testing import CliRunner

from router_daemon.cli import app
from router_daemon.core.broker import Broker
from router_daemon.lab.random_ring import ALL_KINDS, random_ring
from router_daemon.lab.random_world import KINDS, Plan, random_plan
from router_daemon.lab.result import Result
from router_daemon.lab.world import World

SOAK: Final = Path(__file__).resolve().parent.parent / "scripts" / "soak_sim.py"


def simulate(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["simulate", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_a_seed_is_run_and_its_digest_printed_last() -> None:
    code, out, _ = simulate("--seed", "4", "--messages", "50")
    digest = random_plan(4, messages=50).run().digest
    assert code == 0
    assert out.splitlines()[-1] == f"digest     {digest}"
    assert out.splitlines()[0] == "seed       4"


def test_faults_may_be_chosen() -> None:
    none = simulate("--seed", "4", "--messages", "50", "--faults", "none")[1]
    assert "faults     none\n" in none
    some = simulate("--seed", "4", "--messages", "50", "--faults", "drop,crash")[1]
    digest = random_plan(4, messages=50, kinds=["drop", "crash"]).run().digest
    assert some.splitlines()[-1] == f"digest     {digest}"
    assert simulate("--list-faults") == (0, "\n".join(KINDS) + "\n", "")


def test_a_ring_has_faults_of_its_own() -> None:
    assert simulate("--ring", "3", "--list-faults")[1].splitlines() == list(ALL_KINDS)
    out = simulate("--ring", "3", "--seed", "4", "--messages", "20", "--check-every", "0")[1]
    assert "world      a ring of daemons 3," in out
    digest = random_ring(4, 3, messages=20).run(check_every=0).digest
    assert out.splitlines()[-1] == f"digest     {digest}"


def test_the_policy_may_be_chosen() -> None:
    out = simulate("--policy", "round_robin", "--messages", "20")[1]
    assert "policy round_robin," in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--faults", "drop,rain"), "error: --faults: no such kind: rain; there are: delay, "),
        (("--policy", "best"), "error: --policy best: there are: "),
    ],
)
def test_what_there_is_not_is_wrong_usage(arguments: tuple[str, ...], line: str) -> None:
    code, out, err = simulate(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(line)


LEAK: Final = re.compile(r"AssertionError: it leaks \(test_cli_lab\.py:\d+: raise AssertionError\(\"it leaks\"\)\)")


@pytest.fixture
def _broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every world run on a broker whose invariants do not hold."""

    class Leaking(Broker):
        def check(self) -> None:
            raise AssertionError("it leaks")

    monkeypatch.setattr("router_daemon.lab.random_world.World", lambda **keys: World(make_broker=Leaking, **keys))


@pytest.mark.usefixtures("_broken")
def test_a_broken_promise_is_told_with_the_command_that_replays_it() -> None:
    code, out, err = simulate("--seed", "9", "--messages", "30", "--faults", "drop,cut", "--policy", "paper")
    assert (code, out) == (4, "")
    assert LEAK.fullmatch(err.splitlines()[1])
    assert err.splitlines() == [
        "error: seed 9 breaks a promise",
        err.splitlines()[1],
        "replay: router-daemon simulate --seed 9 --faults drop,cut --messages 30 --policy paper",
    ]


# --- scripts/soak_sim ---


def soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SOAK), "--jobs", "2", "--messages", "20", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_soaking_runs_so_many_seeds() -> None:
    done = soak("--seeds", "25", "--start", "100")
    assert done.returncode == 0, done.stderr
    assert "\n25 worlds kept every promise: " in f"\n{done.stdout}"
    assert "faults: busy" in done.stdout


def test_soaking_ends_in_time_and_no_world_is_no_success() -> None:
    done = soak("--seconds", "0")
    assert done.returncode == 1
    assert done.stdout.startswith("0 worlds")


@pytest.mark.usefixtures("_broken")
def test_soaking_stops_at_the_first_seed_that_breaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SOAK.parent))
    import soak_sim

    options = soak_sim.Options(30, "all", None)
    broken = soak_sim.run_batch(range(40, 50), options)
    assert broken.worlds == 0
    assert broken.broken is not None
    assert broken.broken[0] == 40
    assert LEAK.fullmatch(broken.broken[1])
    monkeypatch.setattr(soak_sim, "soak", lambda *_: broken)
    assert soak_sim.main(["--messages", "30"]) == 1
    out = capsys.readouterr().out
    assert "seed 40 breaks a promise: AssertionError: it leaks (" in out
    assert out.splitlines()[-1] == "replay: router-daemon simulate --seed 40 --faults all --messages 30"


def test_of_several_that_broke_the_smallest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SOAK.parent))
    import soak_sim

    def outcome(seed: int | None) -> Any:
        return soak_sim.Outcome(1, 1, Counter[str](), None if seed is None else (seed, "text"))

    merged = soak_sim.merged(soak_sim.merged(outcome(None), outcome(7)), outcome(3))
    assert (merged.worlds, merged.broken) == (3, (3, "text"))


def test_a_world_that_does_not_replay_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SOAK.parent))
    import soak_sim

    real: Callable[..., Result] = Plan.run
    runs = list[int]()

    def run(plan: Plan, *, check_every: int) -> Result:
        runs.append(check_every)
        return real(random_plan(plan.seed + len(runs), messages=10), check_every=check_every)

    monkeypatch.setattr(Plan, "run", run)
    broken = soak_sim.run_batch(range(1), soak_sim.Options(10, "all", None)).broken
    assert broken is not None
    assert "the second time" in broken[1]
