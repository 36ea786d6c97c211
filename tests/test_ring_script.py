"""`scripts/ring`: what it draws, how it counts, and a short run of it all with real processes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from tools import BOTH_ENGINES

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from ring_app.load import Answer, Ledger  # noqa: E402
from ring_app.options import ROWS, parse  # noqa: E402
from ring_app.plan import RELIABILITY, SERVICE_MS, Plan, cosine, make_plan, node_of  # noqa: E402
from ring_app.report import HEADER, Measured, table  # noqa: E402

from router_daemon.policies.base import NAMES  # noqa: E402


def test_the_pool_is_that_of_the_paper() -> None:
    """Gilbert, section IV: base latency 0.5 to 3 ms, reliability 0.90 to 0.995, Gaussian topics; 24 nodes."""
    plan = make_plan(24, 4, seed=3)
    assert plan.size == 24
    for member in plan.members:
        assert SERVICE_MS[0] <= member.service_ms <= SERVICE_MS[1]
        assert RELIABILITY[0] <= member.reliability <= RELIABILITY[1]
        assert math.isclose(cosine(member.embedding, member.embedding), 1.0)
    assert make_plan(24, 4, seed=3) == plan
    assert make_plan(24, 0, seed=3).members == plan.members


def test_the_ring_is_one_and_chords_are_none_of_its_links() -> None:
    plain, short = make_plan(24, 0, 1), make_plan(24, 4, 1)
    assert (len(plain.edges), len(short.edges)) == (24, 28)
    assert plain.distances(0) == {node: min(node, 24 - node) for node in range(24)}
    chords = set(short.edges) - set(plain.edges)
    assert all(2 <= other - one <= 22 for one, other in chords)
    assert mean_distance(short) < mean_distance(plain) == pytest.approx(144 / 24)


def mean_distance(plan: Plan) -> float:
    return sum(sum(plan.distances(node).values()) for node in range(plan.size)) / plan.size**2


def test_without_a_daemon_the_ring_is_a_line() -> None:
    plan = make_plan(6, 0, 1)
    assert plan.distances(0, without=1) == {0: 0, 5: 1, 4: 2, 3: 3, 2: 4}


def test_a_backend_is_known_by_both_its_names() -> None:
    assert [node_of(name) for name in ("b07", "d07/b07", "d23/b23")] == [7, 7, 23]


def test_rows_name_policies_that_there_are_and_options_choose_among_them() -> None:
    assert {row.policy for row in ROWS} <= set(NAMES)
    assert [row.name for row in parse(["--rows", "default; ring, plain ring"]).rows] == ["ring, plain ring", "default"]
    with pytest.raises(SystemExit):
        parse(["--rows", "ring,default"])


def test_the_table_tells_before_during_and_after() -> None:
    answers = [Answer(sent_s, ms / 1000.0, 0.5) for sent_s, ms in ((3.0, 1.0), (5.5, 2.0), (6.5, 9.0), (9.0, 3.0))]
    ledger = Ledger(sent=7, answers=answers, cut_off=1, unanswered=1)
    ledger.errors["failed"] += 1
    assert ledger.balanced
    row = Measured("ring", ledger, 1.25, "d01", killed_s=6.0, seconds=10.0)
    assert dict(zip(HEADER, row.cells(), strict=True)) == {
        "policy": "ring",
        "hops": "1.25",
        "mean ms": "3.75",
        "alignment": "0.500",
        "p95 before": "2.00",
        "during": "9.00",
        "after": "3.00",
        "answered": "4/7",
        "lost": "1 failed",
        "cut off": "1",
        "unanswered": "1",
    }
    assert table([row]).count("\n") == 2
    ledger.sent += 1
    assert not ledger.balanced


@pytest.mark.slow
@pytest.mark.timeout(180)
@BOTH_ENGINES
def test_a_short_run_answers_every_message_though_the_busiest_daemon_is_killed(engine: str) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "scripts"), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "ring_app", "--daemons", "6", "--shortcuts", "1", "--seconds", "4"]
    command += ["--rate", "25", "--rows", "ring", "--engine", engine, "--link-ms", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=150, check=False, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    row = [cell.strip() for cell in done.stdout.splitlines()[-1].strip("|").split("|")]
    told = dict(zip(HEADER, row, strict=True))
    answered, sent = map(int, told["answered"].split("/"))
    assert told["policy"] == "ring"
    assert sent > 50
    assert answered > 0.9 * sent
    assert 0.0 < float(told["hops"]) < 3.0
    assert 0.0 < abs(float(told["alignment"])) < 1.0  # how much of it: the busier the machine, the less it weighs
    assert "more than any other: killed" in done.stdout
