"""A report as text: Markdown to read, CSV to compute with, and numbers as both write them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from typing import Final

from router_daemon.lab.papers.content import Cell, Figure, Report, Table

FIGURES: Final = 4
"""Significant digits."""
SMALL: Final = 1e-4


def number(cell: Cell) -> str:
    """Return a cell as people read it: a float with four significant digits, nothing for None and nan."""
    if cell is None:
        return ""
    if not isinstance(cell, float):
        return str(cell)
    if math.isnan(cell):
        return ""
    if math.isinf(cell) or (cell and abs(cell) < SMALL):
        return f"{cell:.{FIGURES - 1}g}"
    whole = math.floor(math.log10(abs(cell))) + 1 if cell else 1
    digits = max(0, FIGURES - whole) if whole > 0 else FIGURES - whole
    text = f"{cell:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def csv_text(part: Table | Figure) -> str:
    """Return a part's numbers in full, one line per row."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(part.columns)
    writer.writerows([_full(cell) for cell in row] for row in part.rows)
    return out.getvalue()


def _full(cell: Cell) -> Cell:
    return "" if cell is None or (isinstance(cell, float) and math.isnan(cell)) else cell


def markdown(report: Report, *, pictures: bool) -> str:
    """Return the report; `pictures`: a PNG of each figure lies beside it, else its numbers stand there instead."""
    lines = [
        f"# {report.title}",
        "",
        report.intro.strip(),
        "",
        *_table(("setting", "value"), [*report.settings.items()]),
    ]
    if report.claims:
        rows = [(claim.where, claim.text, f"**{claim.verdict}**", claim.found) for claim in report.claims]
        lines += ["", "## What follows and what does not", ""]
        lines += _table(("where", "statement", "verdict", "found"), rows)
    for part in report.parts:
        lines += ["", f"## {part.title}", "", *_part(part, pictures=pictures)]
    return "\n".join(lines) + "\n"


def _part(part: Table | Figure, *, pictures: bool) -> Iterator[str]:
    if isinstance(part, Figure) and pictures:
        yield f"![{part.title}]({part.name}.png)"
    else:
        yield from _table(part.columns, part.rows)
    yield ""
    if part.note:
        yield part.note.strip()
        yield ""
    yield f"Numbers: [{part.name}.csv]({part.name}.csv)"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Iterator[str]:
    yield f"| {' | '.join(map(_in_table, columns))} |"
    yield f"| {' | '.join('---' for _ in columns)} |"
    for row in rows:
        yield f"| {' | '.join(map(_in_table, row))} |"


def _in_table(cell: Cell) -> str:
    return number(cell).replace("|", "\\|").replace("\n", " ")
