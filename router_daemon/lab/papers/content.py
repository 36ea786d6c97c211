"""What a reproduction found, as data: `report` writes it as Markdown, HTML, CSV and pictures.

Rules:
- A part says what was printed beside what was seen, and a `Claim` says in words whether the one follows from the
  paper's own description; nothing here is tuned until it fits.
- Texts are plain: paragraphs between empty lines, `code` in backquotes, nothing else has a meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Cell: TypeAlias = str | float | int | None
Verdict: TypeAlias = Literal["follows", "does not follow", "not stated", "ours"]


@dataclass(frozen=True, slots=True)
class Table:
    """One table, and one CSV file of the same numbers.

    Attributes:
        name: of the file, and its anchor: `table-1`.
        title: as in the paper, with its number.
        columns: with their units.
        rows: None is an empty cell; a float is written with four significant digits in text and in full in the CSV.
        note: how to read it.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One picture (PNG and SVG), and one CSV file of its numbers.

    Attributes:
        draw: draws it on axes; called only where matplotlib is installed.
        columns, rows: its numbers, for the CSV.
        size: width and height in inches.
    """

    name: str
    title: str
    draw: Callable[[Axes], None]
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    size: tuple[float, float] = (6.0, 3.6)


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement of a paper, and what became of it.

    Attributes:
        where: section, equation, table or figure.
        text: the statement.
        verdict: whether it follows from the paper's own description; `ours` for what goes beyond it.
        found: what was seen, with figures, and why.
    """

    where: str
    text: str
    verdict: Verdict
    found: str


@dataclass(frozen=True, slots=True)
class Report:
    """One paper's reproduction.

    Attributes:
        name: as in the registry, and of its directory: `cross-attention`.
        intro: what was set up, in whose words, with which seeds.
        settings: what was run: runs, messages, seed.
        parts: tables and figures in the order in which they are to be read; no two have the same name.
    """

    name: str
    title: str
    intro: str
    settings: Mapping[str, Cell]
    parts: Sequence[Table | Figure]
    claims: Sequence[Claim] = field(default_factory=tuple)
