"""The kinds of picture that the papers have, drawn on axes that are handed in. Knows no plotting library itself.

Rules:
- Colours are told apart by people who see few of them (Okabe and Ito), on white and on black.
- What a paper printed is a hollow mark beside what was seen; spreads are thin bars.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999933", "#888888")
LEGEND_ROW, LEGEND_MARK = 90, 5
"""How many letters of a legend fit in a row, and how many its coloured marks take up."""
GROUP: Final = 0.86
"""The share of the room between two groups that bars take."""


@dataclass(frozen=True, slots=True)
class Bars:
    """One colour of bars: a value for each group, None where there is none."""

    label: str
    values: Sequence[float | None]
    spreads: Sequence[float] | None = None
    colour: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One line: y over x, with its spread."""

    label: str
    across: Sequence[float]
    up: Sequence[float]
    spreads: Sequence[float] | None = None
    colour: str | None = None
    style: str = "o-"


def bars(
    axes: Axes,
    groups: Sequence[str],
    rows: Sequence[Bars],
    unit: str,
    *,
    printed: Sequence[float | None] | None = None,
    digits: int = 3,
) -> None:
    """Draw bars beside each other, group by group, each with its value.

    Args:
        axes: to draw on.
        groups: their names, below the axis.
        rows: one colour each.
        unit: of the values, beside the axis.
        printed: what the paper has for each group, a line across it.
        digits: of the values, after the point.
    """
    width = GROUP / len(rows)
    letters = 6.5 if len(rows) < 4 else 5.5
    for number, row in enumerate(rows):
        spots = [place - GROUP / 2 + (number + 0.5) * width for place in range(len(groups))]
        known = [(x, y, place) for place, (x, y) in enumerate(zip(spots, row.values, strict=True)) if y is not None]
        axes.bar(
            [x for x, _, _ in known],
            [y for _, y, _ in known],
            0.92 * width,
            yerr=None if row.spreads is None else [row.spreads[place] for _, _, place in known],
            color=row.colour or COLOURS[number % len(COLOURS)],
            ecolor="#888888",
            label=row.label,
        )
        for x, y, place in known:
            above = row.spreads[place] if row.spreads is not None else 0.0
            axes.annotate(
                f"{y:.{digits}f}", (x, y + above), (0, 2), textcoords="offset points", ha="center", fontsize=letters
            )
    for place, value in enumerate(printed or ()):
        if value is not None:
            half = GROUP / 2 + 0.04
            label = "printed" if place == 0 else "_"
            axes.hlines(value, place - half, place + half, colors="#000000", linestyles=":", label=label)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel(unit)
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.margins(y=0.12)
    if len(rows) > 1 or printed:
        _legend_above(axes)


def lines(axes: Axes, rows: Sequence[Line], across: str, up: str, *, log: bool = False) -> None:
    """Draw lines; `log`: a logarithmic axis across."""
    for number, row in enumerate(rows):
        axes.errorbar(
            row.across,
            row.up,
            row.spreads,
            fmt=row.style,
            color=row.colour or COLOURS[number % len(COLOURS)],
            markersize=3.5,
            linewidth=1.4,
            elinewidth=0.8,
            capsize=2.0,
            label=row.label,
        )
    if log:
        axes.set_xscale("log")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(visible=True, alpha=0.3)
    if len(rows) > 1:
        _legend_above(axes)


def _legend_above(axes: Axes) -> None:
    """Put the legend above the axes, where nothing is drawn: in one row where the labels are short enough."""
    labels = axes.get_legend_handles_labels()[1]
    room = sum(len(label) + LEGEND_MARK for label in labels) <= LEGEND_ROW
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(labels) if room else 3, fontsize=8)
