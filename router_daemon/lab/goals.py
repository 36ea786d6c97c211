"""What `attention` has to reach beside the baselines, and the cells where it does not.

Rules:
- The goals are fixed before the runs. A cell where one does not hold is named, with its numbers.
- "Worse" means beyond the spread: the mean difference, seed by seed, is more than two standard errors (see `compare`).
- The best p99 is that of somebody who answers as much: one that drops what is hard to serve has a fine p99.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from router_daemon.lab.compare import Row, difference
from router_daemon.lab.contenders import OURS, Contender

AHEAD_BY: Final = 0.10
UP_TO_LOAD: Final = 0.7
RECOVERED: Final = 0.99
C3_PUBLISHED: Final = Contender("c3", published=True)

Rows = Mapping[Contender, Row]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one goal.

    Attributes:
        cells: in how many it could be looked at.
        failed: cell and what was found there, where it does not hold.
    """

    goal: str
    cells: int
    failed: tuple[tuple[str, str], ...]


def verdicts(table: Mapping[str, Rows]) -> list[Verdict]:
    """Return the verdict of each goal."""
    return [_verdict(goal, judge, table) for goal, judge in _GOALS.items()]


Judge = Callable[[Row, Rows], "str | None"]
"""From our row and all rows of a cell: "" where the goal holds, what is wrong, None where it does not apply."""


def _verdict(goal: str, judge: Judge, table: Mapping[str, Rows]) -> Verdict:
    found = {}
    for name, rows in table.items():
        ours = rows.get(Contender(OURS))
        text = None if ours is None else judge(ours, rows)
        if text is not None:
            found[name] = text
    return Verdict(goal, len(found), tuple((name, text) for name, text in found.items() if text))


def _success(ours: Row, rows: Rows) -> str | None:
    """No less success than the best baseline."""
    return _no_less_success(ours, [row for row in rows.values() if row.contender.policy != OURS])


def _c3(ours: Row, rows: Rows) -> str | None:
    """At least 10 % less p99 than C3 as published up to a load of 0.7, and no more above."""
    c3 = rows.get(C3_PUBLISHED)
    if c3 is None:
        return None
    here, there = ours.mean("p99_ms"), c3.mean("p99_ms")
    if ours.cell.load > UP_TO_LOAD:
        text = _no_later(ours, c3)
    elif math.isnan(here) or math.isnan(there) or here <= (1.0 - AHEAD_BY) * there:
        text = ""
    else:
        text = f"p99 {here:.2f} ms against {there:.2f} ({here / there - 1.0:+.0%})"
    if text and not _answers_as_much(c3, ours):
        text += f", which answers {c3.mean('success'):.4f} against {ours.mean('success'):.4f}"
    return text


def _shell(ours: Row, rows: Rows) -> str | None:
    """Neither less success nor more p99 than the best ranking inside our shell."""
    others = [row for row in rows.values() if row.contender.policy != OURS and not row.contender.published]
    text = _no_less_success(ours, others)
    if text is None:
        return None
    comparable = [row for row in others if _answers_as_much(row, ours) and not math.isnan(row.mean("p99_ms"))]
    best = min(comparable, key=lambda row: row.mean("p99_ms"), default=None)
    return "; ".join(filter(None, (text, "" if best is None else _no_later(ours, best))))


def _recovers(ours: Row, rows: Rows) -> str | None:  # noqa: ARG001 - one shape for all
    """Within 5 s after the surge success is what it was."""
    recovered = ours.mean("recovered")
    if math.isnan(recovered):
        return None
    return "" if recovered >= RECOVERED else f"success is {recovered:.3f} times that before the surge"


_GOALS: Final[Mapping[str, Judge]] = {
    "success no less than the best baseline's": _success,
    f"p99 at least {AHEAD_BY:.0%} below C3's as published up to load {UP_TO_LOAD:g}, and no more above": _c3,
    "success and p99 no worse than those of the best ranking inside our shell": _shell,
    f"within 5 s after a surge at least {RECOVERED:g} of the success before it": _recovers,
}


def _no_less_success(ours: Row, others: list[Row]) -> str | None:
    known = [row for row in others if not math.isnan(row.mean("success"))]
    best = max(known, key=lambda row: row.mean("success"), default=None)
    if best is None:
        return None
    mean, error = difference(ours.values["success"], best.values["success"])
    if mean >= -error:
        return ""
    return f"success {ours.mean('success'):.4f} against {best.mean('success'):.4f} of {best.contender.name}"


def _no_later(ours: Row, other: Row) -> str:
    mean, error = difference(ours.values["p99_ms"], other.values["p99_ms"])
    if mean <= error:
        return ""
    here, there = ours.mean("p99_ms"), other.mean("p99_ms")
    return f"p99 {here:.2f} ms against {there:.2f} of {other.contender.name} ({here / there - 1.0:+.0%})"


def _answers_as_much(other: Row, ours: Row) -> bool:
    """Tell whether another's success is no less than ours beyond the spread."""
    mean, error = difference(other.values["success"], ours.values["success"])
    return mean >= -error
