"""Tables of cells: what each shows, what it is sorted by, which rows a filter leaves.

Rules:
- A text is made harmless here, once: names come from peers.
- A cell without a value comes last, whichever way the table is sorted.
- Names are sorted as people count: worker-2 before worker-10.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

from router_daemon.cli.asking import number_of
from router_daemon.logs import printable

LONGEST: Final = 60
Tone = Literal["", "good", "note", "warn", "bad", "dim"]


class Column(NamedTuple):
    """One column; `right`: of numbers. `falling`: what is largest comes first when it is first sorted by this."""

    key: str
    title: str
    right: bool = True
    falling: bool = True


class Cell(NamedTuple):
    """What is shown, what is sorted by (None: nothing is known), how it is meant; `long`: for pipes, if other."""

    text: str
    by: float | str | None
    tone: Tone = ""
    long: str = ""


class Line(NamedTuple):
    """One row; `key` tells it from the others of its table."""

    key: str
    cells: tuple[Cell, ...]


class Table(NamedTuple):
    """One view.

    Attributes:
        key, title: how it is asked for, and what stands on its tab.
        sort: the column that it is sorted by unless told otherwise.
        notes: lines to be shown below.
        empty: what to say where there is no row.
    """

    key: str
    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    sort: str
    notes: tuple[str, ...] = ()
    empty: str = "nothing"

    def column(self, key: str) -> Column | None:
        """Return a column by its key or title, in any case."""
        wanted = key.casefold()
        return next((each for each in self.columns if wanted in (each.key, each.title.casefold())), None)


def text(value: object, tone: Tone = "") -> Cell:
    """Return a cell with a text; a dash where there is none."""
    if value is None or value == "":
        return Cell("-", None, "dim")
    harmless = printable(str(value))
    return Cell(harmless if len(harmless) <= LONGEST else harmless[: LONGEST - 1] + "…", harmless, tone, harmless)


def number(value: object, tone: Tone = "", *, unit: float = 1.0) -> Cell:
    """Return a cell with a number, `unit` times as large as it is, in about three digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Cell("-", None, "dim")
    shown = value if isinstance(value, int) and unit == 1.0 else float(value) * unit
    return Cell(number_of({"": shown}, ""), float(shown), tone or ("dim" if not shown else ""))


def percent(share: object, *, warn_below: float = -1.0, bad_below: float = -1.0) -> Cell:
    """Return a cell with a share from 0 to 1 in percent."""
    if isinstance(share, bool) or not isinstance(share, int | float):
        return Cell("-", None, "dim")
    tone: Tone = "bad" if share < bad_below else "warn" if share < warn_below else ""
    return Cell(f"{100.0 * share:.4g}", float(share), tone)


def bar(part: object, whole: object, width: int = 6) -> Cell:
    """Return a cell with `part` of `whole` as a bar and numbers, sorted by the share."""
    if not isinstance(part, int) or not isinstance(whole, int):
        return Cell("-", None, "dim")
    share = part / whole if whole else 0.0
    full = min(width, round(share * width))
    if part and not full:
        full = 1
    tone: Tone = "warn" if share >= 1.0 else "" if part else "dim"
    return Cell(f"{'━' * full}{'╌' * (width - full)} {part}/{whole}", share, tone, f"{part}/{whole}")


def natural(value: str) -> tuple[tuple[int, int, str], ...]:
    """Return what a text is sorted by, so that the numbers in it count as numbers."""
    parts = re.split(r"([0-9]{1,18})", value.casefold())
    return tuple((1, int(part), "") if part.isascii() and part.isdigit() else (0, 0, part) for part in parts if part)


def arranged(table: Table, sort: str, *, falling: bool, wanted: str = "") -> list[Line]:
    """Return the rows that have a text in them, in the order of a column; those without a value last."""
    place = next((place for place, column in enumerate(table.columns) if column.key == sort), 0)
    lines = list(matching(table.lines, wanted))
    known = [line for line in lines if line.cells[place].by is not None]
    known.sort(key=lambda line: natural(line.key))
    known.sort(key=lambda line: _rank(line.cells[place].by), reverse=falling)
    return known + [line for line in lines if line.cells[place].by is None]


def matching(lines: Iterable[Line], wanted: str) -> Iterable[Line]:
    """Yield the rows that have a text in one of their cells, in any case."""
    folded = wanted.casefold()
    return (line for line in lines if any(folded in _searched(cell) for cell in line.cells))


def _searched(cell: Cell) -> str:
    return (cell.by if isinstance(cell.by, str) else cell.text).casefold()


def _rank(by: float | str | None) -> tuple[int, float, Sequence[tuple[int, int, str]]]:
    return (1, 0.0, natural(by)) if isinstance(by, str) else (0, by or 0.0, ())
