"""deploy/grafana: the dashboard is what the script prints, is laid out without gaps of sense, and asks for what exists."""

from __future__ import annotations

import json
import re
import sys
from itertools import combinations
from typing import Any, Final

import yaml
from deployed import GRAFANA, REPOSITORY, dashboard_queries, recorded_in, rules

sys.path.insert(0, str(REPOSITORY / "scripts"))

from dashboard_app.__main__ import text

FILE: Final = GRAFANA / "router-daemon.json"
DASHBOARD: Final[dict[str, Any]] = json.loads(FILE.read_text())
PANELS: Final[list[dict[str, Any]]] = DASHBOARD["panels"]


def test_the_file_is_what_the_script_prints() -> None:
    assert FILE.read_text() == text(), "PYTHONPATH=scripts python -m dashboard_app >deploy/grafana/router-daemon.json"


def test_every_panel_has_its_own_number_title_and_place() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    titles = [panel["title"] for panel in PANELS]
    assert len(set(titles)) == len(titles)
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_every_panel_says_what_to_look_for_and_asks_the_chosen_source() -> None:
    for panel in PANELS:
        if panel["type"] == "row":
            continue
        assert panel["description"]
        assert panel["targets"]
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_every_variable_is_used_and_every_one_used_is_there() -> None:
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "job", "instance", "capability", "backend", "route"}
    used = set(re.findall(r"\$\{?([a-z]+)\b", FILE.read_text()))
    assert used - {"__all", "__rate_interval"} == variables
    for expr in dashboard_queries(DASHBOARD).values():
        assert 'job=~"$job' in expr  # nothing of another program's by accident


def test_what_it_asks_of_rules_is_recorded() -> None:
    recorded = {rule["record"] for rule in rules("record")}
    asked = set().union(*map(recorded_in, dashboard_queries(DASHBOARD).values()))
    assert asked
    assert asked <= recorded


def test_provisioning_finds_the_dashboard_and_its_source() -> None:
    [source] = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["uid"], source["isDefault"]) == ("prometheus", "prometheus", True)
    scrape = yaml.safe_load((REPOSITORY / "deploy/prometheus/prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scrape["scrape_interval"]
    [provider] = yaml.safe_load((GRAFANA / "provisioning/dashboards/router-daemon.yml").read_text())["providers"]
    assert (provider["type"], provider["options"].keys()) == ("file", {"path"})
