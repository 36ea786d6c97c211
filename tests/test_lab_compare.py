"""The comparison: loads, aggregation and verdicts by hand-computed numbers, texts exact, a small matrix end to end."""

from __future__ import annotations

import csv
import io
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from typer.testing import CliRunner

from router_daemon.cli import app
from router_daemon.core.events import Request
from router_daemon.core.settings import Settings
from router_daemon.lab.capacity import most_served
from router_daemon.lab.chance import Constant
from router_daemon.lab.compare import Job, Row, Run, difference, measure, row, table
from router_daemon.lab.contenders import OURS, PREFETCH, Contender, as_published, contenders, in_our_shell
from router_daemon.lab.goals import verdicts
from router_daemon.lab.ledger import Record
from router_daemon.lab.matrix import cells
from router_daemon.lab.plot import png
from router_daemon.lab.report import csv_text, markdown
from router_daemon.lab.specs import BackendSpec
from router_daemon.lab.timeline import START_S
from router_daemon.lab.workloads import REPORTING, TUNING, Scene
from router_daemon.lab.world import World
from router_daemon.policies.balancers import C3

NAN = math.nan
C3_RANKING, C3_PUBLISHED, ATTENTION = Contender("c3"), Contender("c3", published=True), Contender(OURS)

# --- load ---


@pytest.mark.parametrize(
    ("demand", "expected"),
    [
        ({"x": 0.5, "y": 0.5}, 30.0),  # both together: 30 / 1
        ({"x": 0.1, "y": 0.9}, 20.0 / 0.9),  # y alone
        ({"x": 0.9, "y": 0.1}, 30.0),
        ({"y": 1.0}, 20.0),
        ({"x": 0.5, "y": 5.0}, 4.0),  # half of the messages of y, ten units each: 20 / 5
    ],
)
def test_what_any_router_could_serve(demand: dict[str, float], expected: float) -> None:
    assert most_served([(10.0, ["x"]), (20.0, ["x", "y"])], demand) == pytest.approx(expected)


def test_nobody_can_serve_what_nobody_offers() -> None:
    assert most_served([(10.0, ["x"])], {"x": 0.9, "y": 0.1}) == 0.0


def test_capabilities_are_few() -> None:
    with pytest.raises(ValueError, match="11 capabilities, at most 10"):
        most_served([], dict.fromkeys("abcdefghijk", 1.0))


# --- who ---


def test_a_baseline_runs_in_both_ways_and_attention_as_it_is() -> None:
    assert contenders(["attention", "c3"]) == [ATTENTION, C3_RANKING, C3_PUBLISHED]
    assert [contender.name for contender in contenders()] == [
        "attention",
        "least_in_flight",
        "least_in_flight +retries",
        "p2c_peak_ewma",
        "p2c_peak_ewma +retries",
        "prequal",
        "prequal +retries",
        "c3",
        "c3 +retries",
    ]


def test_in_our_shell_nothing_but_the_policy_differs_from_the_default() -> None:
    spec = BackendSpec("b", cells()["load-0.3"].scene(0, 10).backends[0].service, ("c1",))
    assert C3_RANKING.settings() == ATTENTION.settings() == in_our_shell() == Settings()
    assert C3_RANKING.backends([spec]) == [replace(spec, prefetch=1)], "as the SDK does for work of milliseconds"
    slow = replace(spec, service=Constant(1.0))
    assert C3_RANKING.backends([slow]) == [slow]
    assert [backend.prefetch for backend in C3_RANKING.backends([spec], 2)] == [2]


def test_as_published_there_are_retries_and_a_breaker_and_nothing_of_ours() -> None:
    settings, default = as_published(), Settings()
    assert (settings.mode, settings.heads) == ("single", 3)
    assert (settings.retry, settings.ejection) == (default.retry, default.ejection)
    assert (settings.hedge.share, settings.exploration.share, settings.waiting.reserve) == (0.0, 0.0, 0.0)
    assert not settings.exploration.slow_start
    [backend] = C3_PUBLISHED.backends(cells()["load-0.3"].scene(0, 10).backends[:1])
    assert backend.prefetch == PREFETCH


def test_a_setting_can_be_tried_in_our_shell_only() -> None:
    changes = [("waiting.reserve", 0), ("heads", 2), ("attempt_timeout_s", 0.5)]
    settings = ATTENTION.settings(changes)
    assert (settings.waiting.reserve, settings.heads, settings.attempt_timeout_s) == (0, 2, 0.5)
    assert settings.waiting.longest == Settings().waiting.longest
    assert C3_PUBLISHED.settings(changes) == as_published()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("waiting.reserves=0", "--set waiting.reserves: there is no such setting"),
        ("nothing.reserve=0", "--set nothing.reserve: there is no such setting"),
        ("waiting=0", "--set waiting: there is no such setting"),
        ("heads=2.5", "--set heads = 2.5: it is 3, of another kind"),
        ("heads=", "--set heads=: the value must be as in JSON"),
    ],
)
def test_a_setting_that_cannot_be_tried_is_named(text: str, fault: str) -> None:
    code, _, said = command("--cells", "load-0.3", "--set", text)
    assert code == 2
    assert said == f"error: {fault}\n"


def test_c3_is_told_how_many_daemons_there_are() -> None:
    scene = cells()["daemons-4"].scene(0, 200)
    world = World(
        seed=0, policy=C3_RANKING.maker(4), backends=scene.backends, demands=scene.demands, daemons=scene.daemons
    )
    policies = [daemon.broker.policy for daemon in world.daemons]
    assert [policy._clients for policy in policies if isinstance(policy, C3)] == [4, 4, 4, 4]


# --- numbers ---


def record(
    number: int, outcome: str, latency_ms: float = 1.0, *, capability: str = "x", priority: int = 2, at_s: float = 0.0
) -> Record:
    made = Record(number, b"c", 0, Request(number, capability, priority), ())
    made.outcome, made.sent_at, made.deliveries = outcome, START_S + at_s, 1
    made.ended_at = made.sent_at + latency_ms / 1000.0
    return made


def test_a_run_is_measured() -> None:
    records = [record(number, "answered", latency_ms=number + 1.0, priority=1 + number % 4) for number in range(100)]
    records += [record(number, "expired", 500.0) for number in range(100, 125)]
    records[0].deliveries = 26
    metrics, latencies_ms = measure(records, Scene((), ()))
    assert metrics == {
        "success": 0.8,
        "p50_ms": pytest.approx(50.0),
        "p99_ms": pytest.approx(99.0),
        "critical_p99_ms": pytest.approx(100.0),
        "deliveries": 1.2,
        "recovered": pytest.approx(NAN, nan_ok=True),
    }
    assert len(latencies_ms) == 100


def test_a_focus_is_of_latency_and_alone_of_success_too() -> None:
    records = [record(0, "answered", 1.0), record(1, "answered", 9.0, capability="y"), record(2, "failed")]
    shared, _ = measure(records, Scene((), (), focus="y"))
    alone, _ = measure(records, Scene((), (), focus="y", alone=True))
    assert shared["p50_ms"] == alone["p50_ms"] == pytest.approx(9.0)
    assert shared["success"] == pytest.approx(2 / 3)
    assert alone["success"] == 1.0


def test_what_was_sent_outside_of_what_is_counted_is_in_no_number() -> None:
    records = [record(number, "answered", 1.0 + number, at_s=0.1 * number) for number in range(10)]
    metrics, latencies_ms = measure([*records, record(10, "failed", at_s=0.35)], Scene((), (), counted=(0.25, 0.55)))
    assert metrics["success"] == 0.75
    assert list(latencies_ms) == pytest.approx([4.0, 5.0, 6.0])


def test_recovery_is_success_from_five_seconds_after_the_surge_over_that_before_it() -> None:
    good = [record(number, "answered", at_s=at_s) for number, at_s in enumerate((0.0, 9.0, 16.0))]
    bad = [record(number + 3, "expired", at_s=at_s) for number, at_s in enumerate((10.5, 15.9, 20.0))]
    metrics, _ = measure(good + bad, Scene((), (), overload=(10.0, 11.0)))
    assert metrics["recovered"] == 0.5


def made(contender: Contender, seed: int, latencies_ms: Sequence[float], **metrics: float) -> Run:
    known = {"success": 1.0, "p50_ms": 1.0, "p99_ms": 2.0, "critical_p99_ms": NAN, "deliveries": 1.0, "recovered": NAN}
    job = Job("load-0.7", contender, seed, 10)
    return Run(job, known | metrics, array("d", sorted(latencies_ms)), {"pause": seed})


def test_a_row_is_the_mean_and_spread_of_its_seeds_and_the_tail_of_all_messages() -> None:
    """Of 1 to 2000 ms, in two runs, the 1998th is the 99.9th percentile; either run alone has another."""
    odd, even = range(1, 2000, 2), range(2, 2001, 2)
    both = row([made(C3_RANKING, 3, list(odd), p99_ms=4.0), made(C3_RANKING, 5, list(even), p99_ms=8.0)])
    assert both.mean("p99_ms") == 6.0
    assert both.spread("p99_ms") == pytest.approx(math.sqrt(8.0))
    assert both.p999_ms == 1998.0
    assert both.seeds == (3, 5)
    assert both.happened == {"pause": 8}
    assert math.isnan(both.mean("recovered"))
    assert math.isnan(row([made(C3_RANKING, 3, [1.0])]).spread("p99_ms"))


def test_a_difference_is_taken_seed_by_seed() -> None:
    """Differences 1, 2, 3: mean 2, standard deviation 1, two standard errors 2 / sqrt 3."""
    assert difference([11.0, 22.0, 33.0], [10.0, 20.0, 30.0]) == pytest.approx((2.0, 2.0 / math.sqrt(3.0)))
    assert difference([11.0, NAN, 33.0], [10.0, 20.0, 30.0]) == pytest.approx((2.0, 2.0))
    assert difference([11.0], [10.0]) == (1.0, 0.0)
    assert difference([NAN], [10.0]) == (0.0, 0.0)


# --- verdicts ---

PUBLISHED_GOAL, SHELL_GOAL = 1, 2

Values: TypeAlias = Mapping[str, Sequence[float]]


def verdict_of(cell: str, **values: Values) -> list[tuple[int, tuple[tuple[str, str], ...]]]:
    """Judge one cell: `ours`, `ranking` and `published` by metric, one value per seed."""
    who = {"ours": ATTENTION, "ranking": C3_RANKING, "published": C3_PUBLISHED}
    rows = {who[name]: made_row(cell, who[name], metrics) for name, metrics in values.items()}
    return [(verdict.cells, verdict.failed) for verdict in verdicts({cell: rows})]


def made_row(cell: str, contender: Contender, values: Values) -> Row:
    count = len(next(iter(values.values())))
    usual = {
        "success": 1.0,
        "p99_ms": 10.0,
        "p50_ms": 1.0,
        "critical_p99_ms": 10.0,
        "deliveries": 1.0,
        "recovered": NAN,
    }
    known = {metric: tuple(values.get(metric, (value,) * count)) for metric, value in usual.items()}
    return Row(cells()[cell], contender, tuple(range(count)), known, 12.0, {})


def test_goals_that_hold() -> None:
    found = verdict_of(
        "load-0.7",
        ours={"success": [0.99, 1.0], "p99_ms": [9.0, 9.0]},
        ranking={"success": [0.99, 1.0], "p99_ms": [9.0, 9.0]},
        published={"success": [0.99, 1.0], "p99_ms": [10.0, 10.0]},
    )
    assert found == [(1, ()), (1, ()), (1, ()), (0, ())]


def test_less_success_beyond_the_spread_is_named() -> None:
    ours, better = {"success": [0.90, 0.95]}, {"success": [0.91, 0.96]}
    found = verdict_of("load-0.7", ours=ours, ranking=better)
    text = (("load-0.7", "success 0.9250 against 0.9350 of c3"),)
    assert found[0] == (1, text)
    assert found[SHELL_GOAL] == (1, text)
    noisy = {"success": [0.90, 0.97]}
    assert verdict_of("load-0.7", ours=ours, ranking=noisy)[0] == (1, ()), "mean .01, two standard errors .02"


def test_ten_per_cent_below_c3_as_published_up_to_load_0_7_and_no_more_above() -> None:
    ours, theirs = {"p99_ms": [9.5, 9.5]}, {"p99_ms": [10.0, 10.0]}
    assert verdict_of("load-0.7", ours=ours, published=theirs)[PUBLISHED_GOAL] == (
        1,
        (("load-0.7", "p99 9.50 ms against 10.00 (-5%)"),),
    )
    assert verdict_of("load-0.85", ours=ours, published=theirs)[PUBLISHED_GOAL] == (1, ())
    assert verdict_of("load-0.85", ours=theirs, published=ours)[PUBLISHED_GOAL] == (
        1,
        (("load-0.85", "p99 10.00 ms against 9.50 of c3 +retries (+5%)"),),
    )


def test_who_answers_less_has_not_the_best_p99_of_the_shell_and_is_named_so_as_published() -> None:
    ours, theirs = {"p99_ms": [10.0, 10.0]}, {"success": [0.5, 0.5], "p99_ms": [5.0, 5.0]}
    found = verdict_of("load-0.7", ours=ours, ranking=theirs, published=theirs)
    assert found[SHELL_GOAL] == (1, ())
    text = "p99 10.00 ms against 5.00 (+100%), which answers 0.5000 against 1.0000"
    assert found[PUBLISHED_GOAL] == (1, (("load-0.7", text),))


def test_recovery_is_judged_where_there_was_a_surge() -> None:
    assert verdict_of("daemons-4", ours={"recovered": [1.0, 0.99]})[3] == (1, ())
    text = "success is 0.900 times that before the surge"
    assert verdict_of("daemons-4", ours={"recovered": [0.9, 0.9]})[3] == (1, (("daemons-4", text),))


# --- texts ---


def two_rows() -> list[Row]:
    return [
        made_row("load-0.7", ATTENTION, {"success": [0.999, 1.0], "p99_ms": [8.0, 9.0]}),
        made_row("load-0.7", C3_PUBLISHED, {"p99_ms": [10.0, 250.0], "recovered": [1.0, 1.0]}),
    ]


def test_the_report_in_markdown() -> None:
    made_table = table(two_rows())
    text = markdown(made_table, verdicts(made_table), messages=500, seeds=range(7, 9))
    assert (
        text
        == """\
# Comparison

2 seeds (7 to 8), 500 messages each. Mean and spread (standard deviation) over the seeds; p99.9 of all seeds together. `+retries`: as published, with retries and breaker; without it: as a ranking inside the same shell as `attention`. How to read it: docs/compare.md.

## Goals

- success no less than the best baseline's: holds in 1 of 1 cells
- p99 at least 10% below C3's as published up to load 0.7, and no more above: holds in 1 of 1 cells
- success and p99 no worse than those of the best ranking inside our shell: holds in 0 of 0 cells
- within 5 s after a surge at least 0.99 of the success before it: holds in 0 of 0 cells

## load-0.7: load 0.7

| | success | p50 ms | p99 ms | p99.9 ms | p99 of critical, ms | deliveries | recovered |
| --- | --- | --- | --- | --- | --- | --- | --- |
| attention | 0.9995 ± 0.0007 | 1.00 ± 0.00 | 8.50 ± 0.71 | 12.00 | 10.00 ± 0.00 | 1.00 ± 0.00 | - |
| c3 +retries | 1.0000 ± 0.0000 | 1.00 ± 0.00 | 130 ± 170 | 12.00 | 10.00 ± 0.00 | 1.00 ± 0.00 | 1.000 ± 0.000 |
"""
    )


def test_the_report_names_the_faults_and_the_cells_where_a_goal_is_missed() -> None:
    rows = [
        made_row("pauses-0.3", ATTENTION, {"success": [0.8]}),
        made_row("pauses-0.3", C3_RANKING, {"success": [0.9]}),
    ]
    rows[0].happened.update(pause=3, fail=2)  # type: ignore[attr-defined]
    made_table = table(rows)
    text = markdown(made_table, verdicts(made_table), messages=500, seeds=[7])
    assert "1 seeds (7), 500 messages each." in text
    assert (
        "- success no less than the best baseline's: holds in 0 of 1 cells\n"
        "  - not in pauses-0.3: success 0.8000 against 0.9000 of c3\n" in text
    )
    assert "\nWhat went wrong, in the runs of attention: fail 2, pause 3.\n" in text


def test_the_report_as_csv() -> None:
    found = list(csv.DictReader(io.StringIO(csv_text(two_rows()))))
    assert [(line["cell"], line["load"], line["policy"], line["as_published"], line["seeds"]) for line in found] == [
        ("load-0.7", "0.7", "attention", "0", "2"),
        ("load-0.7", "0.7", "c3", "1", "2"),
    ]
    assert (found[0]["p99_ms_mean"], found[0]["p99_ms_sd"], found[0]["p999_ms"]) == ("8.5", "0.707107", "12")
    assert (found[0]["recovered_mean"], found[1]["recovered_mean"]) == ("", "1")


def test_the_picture_is_a_png_whatever_is_there() -> None:
    others = [
        made_row("pauses-0.3", ATTENTION, {"p99_ms": [8.0]}),
        made_row("pauses-0.3", C3_RANKING, {"p99_ms": [NAN]}),
    ]
    for rows in ([], two_rows() + others):
        assert png(table(rows)).startswith(b"\x89PNG\r\n")


# --- end to end ---


def command(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["compare", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_a_small_matrix_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "made" / "here"
    options = ("--cells", "load-0.3,silent-0.7", "--policies", "attention,c3", "--seeds", "2", "--messages", "300")
    code, text, _ = command(*options, "--jobs", "1", "--out", str(out))
    assert code == 0
    report = (out / "comparison.md").read_text(encoding="utf-8")
    assert f"2 seeds ({REPORTING[0]} to {REPORTING[1]}), 300 messages each." in report
    tables = [line for line in report.splitlines() if line.startswith("| ")]
    assert [line for line in text.splitlines() if line.startswith("| ")] == tables
    assert [line.split(" | ")[0] for line in tables] == ["|", "| ---", "| attention", "| c3", "| c3 +retries"] * 2
    lines = list(csv.DictReader((out / "comparison.csv").read_text(encoding="utf-8").splitlines()))
    assert len(lines) == 6
    assert all(0.9 < float(line["success_mean"]) <= 1.0 for line in lines)
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "mute 2" in report


def test_runs_are_the_same_in_other_processes_and_again() -> None:
    options = ("--cells", "load-0.7", "--policies", "c3", "--seeds", "1", "--messages", "200")
    assert command(*options, "--jobs", "1") == command(*options, "--jobs", "2")


def test_tuning_takes_other_seeds() -> None:
    assert not set(TUNING) & set(REPORTING)
    options = ("--cells", "load-0.7", "--policies", "attention", "--seeds", "1", "--messages", "200", "--jobs", "1")
    assert command(*options)[1] != command(*options, "--tuning")[1]


def test_cells_are_listed_and_a_name_that_is_none_is_refused() -> None:
    code, text, _ = command("--list")
    assert code == 0
    assert [line.split()[0] for line in text.splitlines()] == list(cells())
    code, _, fault = command("--cells", "load-0.3,nothing")
    assert code == 2
    assert fault.startswith("error: --cells: there is no nothing; there are: load-0.02, ")
    code, _, fault = command("--policies", "best")
    assert code == 2
    assert "--policies: there is no best; there are: attention, " in fault


def test_without_matplotlib_there_is_everything_but_the_picture(tmp_path: Path, monkeypatch: Any) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "router_daemon.lab.plot", None)
    options = ("--cells", "load-0.3", "--policies", "attention", "--seeds", "1", "--messages", "50", "--jobs", "1")
    code, text, _ = command(*options, "--out", str(tmp_path))
    assert code == 0
    assert text.splitlines()[-1].startswith("no picture: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.csv", "comparison.md"]
