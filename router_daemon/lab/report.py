"""The comparison as text: Markdown to read, CSV to compute with."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from router_daemon.lab.compare import METRICS, Row
from router_daemon.lab.goals import Rows, Verdict

HEADER: Final = (
    "| | success | p50 ms | p99 ms | p99.9 ms | p99 of critical, ms | deliveries | recovered |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
)


def markdown(table: Mapping[str, Rows], verdicts: Sequence[Verdict], *, messages: int, seeds: Sequence[int]) -> str:
    """Return the report: the goals, then a table for each cell."""
    how = (
        f"{len(seeds)} seeds ({_range(seeds)}), {messages} messages each. Mean and spread (standard deviation) over the"
        " seeds; p99.9 of all seeds together. `+retries`: as published, with retries and breaker; without it: as a"
        " ranking inside the same shell as `attention`. How to read it: docs/compare.md."
    )
    lines = [
        "# Comparison",
        "",
        how,
        "",
        "## Goals",
        "",
        goals_text(verdicts),
    ]
    for rows in table.values():
        lines += ["", *_cell(rows)]
    return "\n".join(lines) + "\n"


def _range(seeds: Sequence[int]) -> str:
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])


def goals_text(verdicts: Sequence[Verdict]) -> str:
    """Return a line for each goal, and one for each cell where it does not hold."""
    return "\n".join(_goals(verdicts))


def _goals(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for verdict in verdicts:
        yield f"- {verdict.goal}: holds in {verdict.cells - len(verdict.failed)} of {verdict.cells} cells"
        for cell, text in verdict.failed:
            yield f"  - not in {cell}: {text}"


def _cell(rows: Rows) -> Iterator[str]:
    first = next(iter(rows.values()))
    happened = ", ".join(f"{kind} {count}" for kind, count in sorted(first.happened.items()) if count)
    yield f"## {first.cell.name}: {first.cell.title}"
    yield ""
    if happened:
        yield f"What went wrong, in the runs of {first.contender.name}: {happened}."
        yield ""
    yield from HEADER
    for row in rows.values():
        yield line(row)


def line(row: Row) -> str:
    """Return a contender's row of a table."""
    cells = (
        row.contender.name,
        _pair(row, "success", 4),
        _pair(row, "p50_ms", 2),
        _pair(row, "p99_ms", 2),
        number(row.p999_ms, 2),
        _pair(row, "critical_p99_ms", 2),
        _pair(row, "deliveries", 2),
        _pair(row, "recovered", 3),
    )
    return f"| {' | '.join(cells)} |"


def _pair(row: Row, metric: str, digits: int) -> str:
    middle, around = row.mean(metric), row.spread(metric)
    return number(middle, digits) if math.isnan(around) else f"{number(middle, digits)} ± {number(around, digits)}"


def number(value: float, digits: int) -> str:
    """Return a number with so many digits after the point; fewer where it is large, - where there is none."""
    if math.isnan(value):
        return "-"
    return f"{value:.{digits if abs(value) < 100.0 else 0}f}"


def csv_text(rows: Iterable[Row]) -> str:
    """Return one line per cell and contender."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = [f"{metric}_{what}" for metric in METRICS for what in ("mean", "sd")]
    writer.writerow(["cell", "load", "policy", "as_published", "seeds", *columns, "p999_ms"])
    for row in rows:
        values = [value for metric in METRICS for value in (row.mean(metric), row.spread(metric))]
        known = ["" if math.isnan(value) else f"{value:.6g}" for value in (*values, row.p999_ms)]
        contender = row.contender
        writer.writerow(
            [row.cell.name, f"{row.cell.load:g}", contender.policy, int(contender.published), len(row.seeds), *known]
        )
    return out.getvalue()
