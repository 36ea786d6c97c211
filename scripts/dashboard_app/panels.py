"""The parts of a Grafana dashboard (schema 39: Grafana 10.4, 11 and later), and their places.

Rules:
- Pure: each function returns plain data; nothing is read or written.
- Every panel asks the data source that is chosen at the top (`${datasource}`), and says in its description what to
  look for.
- The grid is 24 columns wide; panels fill it from left to right, row by row, in the order in which they are given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

SCHEMA: Final = 39
COLUMNS: Final = 24
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"
Json = dict[str, Any]
Query = tuple[str, str]
"""An expression and the legend of its series."""


def _steps(limits: Sequence[tuple[str, float]]) -> Json:
    """Return thresholds: green, and from each number on another colour."""
    steps: list[Json] = [{"color": GREEN, "value": None}]
    return {"mode": "absolute", "steps": steps + [{"color": color, "value": value} for color, value in limits]}


def _targets(queries: Sequence[Query], *, instant: bool = False, shape: str = "time_series") -> list[Json]:
    return [
        {
            "refId": chr(ord("A") + place),
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": expr,
            "legendFormat": legend,
            "instant": instant,
            "range": not instant,
            "format": shape,
        }
        for place, (expr, legend) in enumerate(queries)
    ]


def _panel(kind: str, title: str, what: str, targets: list[Json], width: int, height: int, **more: Any) -> Json:
    return {
        "type": kind,
        "title": title,
        "description": what,
        "datasource": SOURCE,
        "targets": targets,
        "gridPos": {"w": width, "h": height},
        **more,
    }


def stat(
    title: str,
    what: str,
    query: Query,
    unit: str = "short",
    *,
    limits: Sequence[tuple[str, float]] = (),
    width: int = 3,
) -> Json:
    """Return one number with its recent course; `limits`: from which number on it has which colour."""
    defaults = {"unit": unit, "thresholds": _steps(limits), "color": {"mode": "thresholds"}, "noValue": "-"}
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "area",
        "textMode": "auto",
        "justifyMode": "auto",
        "orientation": "auto",
    }
    fields = {"defaults": defaults, "overrides": []}
    return _panel("stat", title, what, _targets([query]), width, 4, fieldConfig=fields, options=options)


def graph(
    title: str,
    what: str,
    *queries: Query,
    unit: str = "short",
    width: int = 8,
    stacked: bool = False,
    most: float | None = None,
    limit: float | None = None,
) -> Json:
    """Return lines over time; `most`: the scale's upper end; `limit`: drawn as a line that is not to be crossed."""
    custom: Json = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 30 if stacked else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "off" if limit is None else "line"},
    }
    defaults: Json = {"unit": unit, "min": 0, "custom": custom, "color": {"mode": "palette-classic"}}
    if most is not None:
        defaults["max"] = most
    if limit is not None:
        defaults["thresholds"] = _steps([(RED, limit)])
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    fields = {"defaults": defaults, "overrides": []}
    return _panel("timeseries", title, what, _targets(queries), width, 8, fieldConfig=fields, options=options)


def heat(title: str, what: str, expr: str, unit: str = "s", width: int = 8) -> Json:
    """Return how a histogram's values lie over time."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "exponent": 0.5, "steps": 64, "fill": "dark-orange"},
        "filterValues": {"le": 1e-9},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "yHistogram": False},
        "yAxis": {"unit": unit},
        "legend": {"show": True},
    }
    targets = _targets([(expr, "{{le}}")], shape="heatmap")
    return _panel("heatmap", title, what, targets, width, 8, options=options)


def table(title: str, what: str, columns: Sequence[tuple[str, str, str]], by: str, width: int = 16) -> Json:
    """Return the present values of several queries side by side.

    Args:
        title: as of the others.
        what: its description.
        columns: title, expression and unit of each.
        by: the label that a line is for.
        width: in columns of the grid.
    """
    queries = [(expr, "") for _, expr, _ in columns]
    letters = [chr(ord("A") + place) for place in range(len(columns))]
    overrides = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "unit", "value": unit}],
        }
        for name, _, unit in columns
    ]
    hidden = {"Time": True, **{f"Time {place}": True for place in range(1, len(columns) + 1)}}
    names = {f"Value #{letter}": name for letter, (name, _, _) in zip(letters, columns, strict=True)}
    return _panel(
        "table",
        title,
        what,
        _targets(queries, instant=True, shape="table"),
        width,
        8,
        fieldConfig={"defaults": {"custom": {"align": "auto", "filterable": True}}, "overrides": overrides},
        options={"showHeader": True, "sortBy": [{"displayName": by, "desc": False}]},
        transformations=[
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": hidden, "renameByName": names}},
        ],
    )


def row(title: str) -> Json:
    """Return the heading of the panels that follow it."""
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": COLUMNS, "h": 1}}


def placed(panels: Iterable[Json]) -> list[Json]:
    """Return the panels with ids, each at its place in the grid."""
    found, x, y, height = [], 0, 0, 0
    for number, panel in enumerate(panels, 1):
        size = panel["gridPos"]
        if x + size["w"] > COLUMNS or size["w"] == COLUMNS:
            x, y, height = 0, y + height, 0
        found.append({"id": number, **panel, "gridPos": {"x": x, "y": y, **size}})
        x, height = x + size["w"], max(height, size["h"])
    return found


def variable(name: str, metric: str, label: str, chosen: str = "") -> Json:
    """Return a choice among the values that a label of a metric has; `chosen`: labels that narrow it."""
    query = f"label_values({metric}{{{chosen}}}, {label})" if chosen else f"label_values({metric}, {label})"
    return {
        "type": "query",
        "name": name,
        "label": name,
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery", "qryType": 5},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "hide": 0,
    }


def sources() -> Json:
    """Return the choice of the data source."""
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "data source",
        "query": "prometheus",
        "refresh": 1,
        "hide": 0,
        "multi": False,
        "includeAll": False,
    }


def event(name: str, expr: str, color: str, title: str, text: str = "{{instance}}") -> Json:
    """Return marks at the moments at which an expression has a value."""
    return {
        "name": name,
        "datasource": SOURCE,
        "enable": True,
        "hide": False,
        "iconColor": color,
        "expr": expr,
        "step": "15s",
        "titleFormat": title,
        "textFormat": text,
        "useValueForTime": False,
    }
