"""The answer of /routes as text for a terminal: the routes, the rollout and what it waits for, what happened.

Rules: as in `asking`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from router_daemon.cli.asking import Row, number_of, rows_of, table, table_of, text_of
from router_daemon.logs import printable

SHOWN: Final = 10
"""Of what happened and of what was said, the latest; `--json` has more."""


def routes_text(answer: Row) -> str:
    """Return the whole answer."""
    rollout = table_of(answer, "rollout")
    paragraphs = [
        _routes_table(answer, table_of(rollout, "percent")),
        "\n".join(map(printable, (*rollout_lines(rollout, answer), *_retired_lines(answer)))),
        _overrides_table(answer),
        _history(rollout),
        _acts(answer),
    ]
    return "\n\n".join(filter(None, paragraphs))


def _routes_table(answer: Row, shares: Row) -> str:
    header = ["ROUTE", "POLICY", "DECIDES", "PERCENT", "ANSWERED", "SUCCESS", "P50 MS", "P99 MS", "QUALITY"]
    return table(header, [_route_cells(row, shares) for row in rows_of(answer, "routes")])


def _route_cells(row: Row, shares: Row) -> list[str]:
    return [
        *(text_of(row, key) for key in ("name", "policy", "decides")),
        number_of(shares, text_of(row, "name")),
        str(table_of(row, "outcomes").get("answered", "-")),
        *(number_of(row, key) for key in ("success", "p50_ms", "p99_ms", "quality")),
    ]


def rollout_lines(rollout: Row, answer: Row) -> Iterator[str]:
    """Yield how the rollout does and what it waits for, as it was told: names in it are as peers wrote them."""
    if not rollout:
        yield "no rollout"
        return
    reason = f": {text_of(rollout, 'reason')}" if rollout.get("reason") else ""
    yield f"rollout {text_of(rollout, 'name')} of {text_of(rollout, 'candidate')}: {text_of(rollout, 'state')}{reason}"
    if answer.get("held"):
        yield f"held back: {text_of(answer, 'held')}"
    missing = rollout.get("missing")
    for each in missing if isinstance(missing, list) else ():
        yield f"the stage waits for {each}"


def _retired_lines(answer: Row) -> Iterator[str]:
    for row in rows_of(answer, "to_be_retired"):
        yield f"to be retired: {text_of(row, 'route')}: {text_of(row, 'why')}"


def _overrides_table(answer: Row) -> str:
    rows = rows_of(answer, "overrides")
    cells = [[text_of(row, "capability"), text_of(row, "backend"), number_of(row, "left_s")] for row in rows]
    return table(["OVERRIDE", "BACKEND", "LEFT S"], cells) if cells else ""


def _history(rollout: Row) -> str:
    rows = rows_of(rollout, "history")[-SHOWN:]
    cells = [[number_of(row, "age_s"), *(text_of(row, key) for key in ("what", "route", "detail"))] for row in rows]
    return table(["AGO S", "WHAT", "ROUTE", "WHY"], cells) if cells else ""


def _acts(answer: Row) -> str:
    rows = rows_of(answer, "acts")[-SHOWN:]
    cells = [[_moment(row), *(text_of(row, key) for key in ("by", "what", "detail"))] for row in rows]
    return table(["SAID AT", "BY", "WHAT", "DETAIL"], cells) if cells else ""


def _moment(row: Row) -> str:
    at = row.get("at")
    if not isinstance(at, int | float) or not 0.0 <= at < 1e11:
        return "-"
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
