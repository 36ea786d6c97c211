"""deploy/prometheus: promtool finds no fault, every alert is tried both ways, and every metric it names exists."""

from __future__ import annotations

import re
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from conftest import DaemonFactory, free_port
from deployed import (
    PROMETHEUS,
    REPOSITORY,
    RULES,
    alert_names,
    families_in,
    groups,
    metrics_in,
    recorded_in,
    rules,
    without_thresholds,
)
from tools import FULL, require_tool

TESTS: Final = PROMETHEUS / "rules_test.yml"
Mutation = Callable[[dict[str, Any]], None]


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [require_tool("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def test_promtool_finds_no_fault_in_rules_and_configuration() -> None:
    done = promtool("check", "config", "--lint-fatal", PROMETHEUS / "prometheus.yml")  # checks its rules, too
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 rule files found" in done.stdout
    assert f"{len(rules('alert')) + len(rules('record'))} rules found" in done.stdout


@pytest.mark.slow
def test_every_alert_fires_and_stays_quiet_as_it_should() -> None:
    done = promtool("test", "rules", TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


def checks() -> list[tuple[str, dict[str, Any]]]:
    """Return alert and check, of all tests."""
    tests = yaml.safe_load(TESTS.read_text())["tests"]
    return [(test["name"].partition(":")[0], check) for test in tests for check in test["promql_expr_test"]]


def test_every_alert_has_a_test_of_either_kind() -> None:
    assert {alert for alert, check in checks() if check["exp_samples"]} == set(alert_names())
    assert {alert for alert, check in checks() if not check["exp_samples"]} >= set(alert_names()) - {
        "RouterDaemonErrorRatioHigh"  # as a ticket: what must not fire is beside what must
    }
    for alert, check in checks():
        assert f'alertname="{alert}"' in check["expr"]


def never(rule: dict[str, Any]) -> None:
    rule["expr"] = f"({rule['expr']}) unless on () vector(1)"


def at_once(rule: dict[str, Any]) -> None:
    rule.pop("for", None)


def at_the_least(rule: dict[str, Any]) -> None:
    rule["expr"] = without_thresholds(rule["expr"])


def failing(mutate: Mutation, directory: Path) -> set[str]:
    """Return the alerts whose tests fail once all rules are changed like that."""
    changed = groups()
    for group in changed:
        for rule in group["rules"]:
            if "alert" in rule:
                mutate(rule)
    (directory / RULES.name).write_text(yaml.safe_dump({"groups": changed}))
    (directory / TESTS.name).write_text(TESTS.read_text())
    assert promtool("check", "rules", directory / RULES.name).returncode == 0
    done = promtool("test", "rules", directory / TESTS.name)
    return set(re.findall(r'expr: "ALERTS\{alertname=\\"(\w+)', done.stdout + done.stderr))


@pytest.mark.skipif(not FULL, reason="of the full form: --full")
@pytest.mark.slow
@pytest.mark.parametrize("mutate", [never, at_once, at_the_least])
def test_the_tests_notice_an_alert_that_is_wrong(mutate: Mutation, tmp_path: Path) -> None:
    waiting = {rule["alert"] for rule in rules("alert") if "for" in rule}
    expected = waiting if mutate is at_once else set(alert_names())
    assert failing(mutate, tmp_path) == expected


def test_every_metric_of_the_rules_is_on_the_page(daemon: DaemonFactory) -> None:
    bind = f"127.0.0.1:{free_port()}"
    ring = {"name": "a", "listen": f"tcp://127.0.0.1:{free_port()}"}
    routes: dict[str, Any] = {"rollout": {"candidate": "next"}, "routes.next": {"policy": "round_robin"}}
    daemon(admin={"bind": bind}, ring=ring, **routes)
    with urllib.request.urlopen(f"http://{bind}/metrics", timeout=5) as response:
        there = families_in(response.read().decode())
    recorded = {rule["record"] for rule in rules("record")}
    for rule in (*rules("alert"), *rules("record")):
        assert metrics_in(rule["expr"]) <= there, rule
        assert recorded_in(rule["expr"]) <= recorded, rule
        assert metrics_in(rule["expr"]) or recorded_in(rule["expr"]) or rule["alert"] == "RouterDaemonDown"


def test_what_is_recorded_is_named_after_what_it_is() -> None:
    for rule in rules("record"):
        level, metric, operation = rule["record"].split(":")
        assert level == "job_capability"
        assert metric.startswith("router_")
        window = re.search(r"\d+[mhd]$", operation)
        assert window is not None
        assert window[0] in rule["expr"]


def test_every_alert_says_how_urgent_it_is_and_where_help_is() -> None:
    for rule in rules("alert"):
        assert rule["labels"].keys() == {"severity"}
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_the_table_of_alerts_is_that_of_the_rules() -> None:
    text = (REPOSITORY / "docs/monitoring.md").read_text()
    table = re.findall(r"^\| `(RouterDaemon\w+)` \| (\w+) \| .* \|(?: (\w+))? \|$", text, re.MULTILINE)
    assert table == [(rule["alert"], rule["labels"]["severity"], rule.get("for", "")) for rule in rules("alert")]


def test_every_alert_is_in_the_runbook_and_nothing_else() -> None:
    titles = re.findall(r"^#+ (RouterDaemon\w+)$", (REPOSITORY / "docs/runbook.md").read_text(), re.MULTILINE)
    assert sorted(titles) == sorted(alert_names())
