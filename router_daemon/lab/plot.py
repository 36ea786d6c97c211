"""The comparison as a picture: success and p99 by load, and p99 of every other cell beside that of `attention`.

matplotlib is the extra `lab`; nothing else needs it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from router_daemon.lab.compare import Row
from router_daemon.lab.contenders import OURS, Contender
from router_daemon.lab.goals import Rows

LOADS_FROM: Final = "load-"
COLOURS: Final = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#7f7f7f", "#17becf")


def png(table: Mapping[str, Rows]) -> bytes:
    """Return the picture."""
    loads = {name: rows for name, rows in table.items() if name.startswith(LOADS_FROM)}
    others = {name: rows for name, rows in table.items() if name not in loads}
    figure = Figure(figsize=(12.0, 5.0 + 0.28 * len(others)), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(4.5, 0.5 + 0.28 * len(others)))
    styles = _styles(table)
    _by_load(figure.add_subplot(grid[0, 0]), loads, styles, "success", "success")
    _by_load(figure.add_subplot(grid[0, 1]), loads, styles, "p99_ms", "p99 in ms")
    _beside(figure.add_subplot(grid[1, :]), others, styles)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()


def _styles(table: Mapping[str, Rows]) -> dict[Contender, tuple[str, str]]:
    """Return colour and line of each contender: a policy has one colour, as published it is dashed."""
    seen = dict.fromkeys(contender for rows in table.values() for contender in rows)
    policies = list(dict.fromkeys(contender.policy for contender in seen))
    return {
        contender: (COLOURS[policies.index(contender.policy) % len(COLOURS)], "--" if contender.published else "-")
        for contender in seen
    }


def _by_load(
    axes: Axes, loads: Mapping[str, Rows], styles: Mapping[Contender, tuple[str, str]], metric: str, label: str
) -> None:
    for contender, (colour, line) in styles.items():
        rows = [rows[contender] for rows in loads.values() if contender in rows]
        if rows:
            axes.errorbar(
                [row.cell.load for row in rows],
                [row.mean(metric) for row in rows],
                [_known(row.spread(metric)) for row in rows],
                color=colour,
                linestyle=line,
                linewidth=2.0 if contender.policy == OURS else 1.0,
                capsize=2.0,
                label=contender.name,
            )
    axes.set_xlabel("load, as a share of what any router could serve")
    axes.set_ylabel(label)
    axes.grid(visible=True, alpha=0.3)
    if metric != "success":
        axes.set_yscale("log")
    if loads:
        axes.legend(fontsize=7)


def _beside(axes: Axes, others: Mapping[str, Rows], styles: Mapping[Contender, tuple[str, str]]) -> None:
    """Draw p99 over that of `attention`: to the right of 1 is slower than it."""
    names = list(others)
    for contender, (colour, line) in styles.items():
        points = [
            (ratio, place)
            for place, rows in enumerate(others.values())
            if contender in rows and not math.isnan(ratio := _ratio(rows[contender], rows.get(Contender(OURS))))
        ]
        if points:
            face = "none" if line == "--" else colour
            across, up = zip(*points, strict=True)
            axes.scatter(across, up, edgecolors=colour, facecolors=face, s=22.0)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("p99 / p99 of attention; hollow: as published, with retries")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.grid(visible=True, alpha=0.3)


def _ratio(row: Row, ours: Row | None) -> float:
    return math.nan if ours is None else row.mean("p99_ms") / ours.mean("p99_ms")


def _known(value: float) -> float:
    return 0.0 if math.isnan(value) else value
