"""What the tests of deploy/ share: the rules as data, and the names of metrics in a query."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml

REPOSITORY: Final = Path(__file__).resolve().parent.parent
PROMETHEUS: Final = REPOSITORY / "deploy/prometheus"
GRAFANA: Final = REPOSITORY / "deploy/grafana"
RULES: Final = PROMETHEUS / "rules.yml"


def groups(path: Path = RULES) -> list[dict[str, Any]]:
    """Return the groups of a file of rules."""
    found: list[dict[str, Any]] = yaml.safe_load(path.read_text())["groups"]
    return found


def rules(kind: str) -> list[dict[str, Any]]:
    """Return the rules that are an `alert`, or that `record` something."""
    return [rule for group in groups() for rule in group["rules"] if kind in rule]


def alert_names() -> list[str]:
    """Return the names of the alerts, each once."""
    return list(dict.fromkeys(rule["alert"] for rule in rules("alert")))


def metrics_in(expr: str) -> set[str]:
    """Return the metrics of the daemon that a query names; what rules have recorded is not among them."""
    bare = re.sub(r'"[^"]*"', "", re.sub(r"\{[^}]*\}", "", expr))
    return set(re.findall(r"(?<![:\w])(?:router|process)_\w+", bare))


def recorded_in(expr: str) -> set[str]:
    """Return what rules are to have recorded for a query."""
    return set(re.findall(r"\b[a-z_]+:\w+:\w+", expr))


def families_in(page: str) -> set[str]:
    """Return the names under which the samples of a page of metrics can be asked for, also of those without any."""
    found = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE):
        found |= {name + end for end in ("_bucket", "_count", "_sum")} if kind == "histogram" else {name}
    return found


def dashboard_queries(dashboard: dict[str, Any]) -> dict[str, str]:
    """Return every query of a dashboard by where it stands: title of the panel or annotation, and its letter."""
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    }
    return found | {event["name"]: event["expr"] for event in dashboard["annotations"]["list"]}


def without_thresholds(expr: str) -> str:
    """Return an alert's expression with every comparison met by anything: what is left tells whether there is data."""
    return re.sub(r"(>=?|==|<) *(?:[0-9.]+)(?: \* 0\.001)?", "> bool -1 >= 0", expr)
