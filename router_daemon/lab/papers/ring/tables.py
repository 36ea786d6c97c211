"""The ring paper's tables: what was printed beside what was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from router_daemon.lab.papers.content import Cell, Table
from router_daemon.lab.papers.ring.numbers import DIGITS, METRICS, PRINTED, TITLES, Spread, mean
from router_daemon.lab.papers.ring.plan import OURS, READ, READINGS, SHORT, SPREAD, Findings
from router_daemon.lab.papers.ring.runs import Outcome

BETTER: Mapping[str, int] = {"latency_ms": -1, "hops": -1, "alignment": 1}
"""What the variant of ours is to be better in, and which way that is."""


def spread(outcomes: Sequence[Outcome], metric: str) -> Spread:
    """Return mean and deviation of a metric over runs."""
    return Spread.of([getattr(outcome, metric) for outcome in outcomes])


def differences(ones: Sequence[Outcome], others: Sequence[Outcome], metric: str) -> list[float]:
    """Return one minus other, seed by seed."""
    return [getattr(one, metric) - getattr(other, metric) for one, other in zip(ones, others, strict=True)]


def table_one(found: Findings) -> Table:
    """Table I, with the rows of ours below it."""
    columns = ["", *(name for title in TITLES for name in (title, f"printed {title}")), "success"]
    rows: list[list[Cell]] = []
    for name, outcomes in found.table.items():
        printed: Sequence[Cell] = PRINTED.get(name, (None,) * len(METRICS))
        seen = [mean([getattr(outcome, metric) for outcome in outcomes]) for metric in METRICS]
        pairs = [cell for pair in zip(seen, printed, strict=True) for cell in pair]
        rows.append([name, *pairs, mean([outcome.success for outcome in outcomes])])
    note = (
        "Means over the runs. Messages per second are 1000 / latency of each run. The rows of ours are not the paper's:"
        " the policy `ring` as a daemon has it by default, on the same chords as ring_attn_sw, and on chords that are"
        " chosen to shorten ways instead of drawn."
    )
    return Table("table-1", "Table I: the variants", columns, rows, note)


def cells(found: Findings) -> Table:
    """Where each printed cell lies in the spread of its own description."""
    rows: list[list[Cell]] = []
    for name, printed in PRINTED.items():
        for metric, title, value, digits in zip(METRICS, TITLES, printed, DIGITS, strict=True):
            seen = spread(found.pools[name], metric)
            inside = "inside" if seen.holds(value, digits) else "outside"
            rows.append([name, title, value, seen.mean, seen.deviation, round(seen.distance(value), 1), inside])
    runs = len(next(iter(found.pools.values())))
    note = (
        f"Mean and standard deviation over {runs} runs, each with nodes, messages and chords of its own; `distance` in"
        " standard deviations; inside means at most two of them (and half of the last printed digit)."
    )
    columns = ["", "cell", "printed", "mean", "deviation", "distance", "verdict"]
    return Table("cells", "Each printed cell in the spread of its own description", columns, rows, note)


def inside(outcomes: Sequence[Outcome], name: str) -> int:
    """Return how many of the five printed cells of a row lie in the spread of these runs."""
    cells = zip(METRICS, PRINTED[name], DIGITS, strict=True)
    return sum(spread(outcomes, metric).holds(value, digits) for metric, value, digits in cells)


def readings(found: Findings) -> Table:
    """What other readings of the text give."""
    rows: list[list[Cell]] = []
    for name in READINGS:
        for variant in READ:
            outcomes = found.readings[name, variant.name]
            seen = [spread(outcomes, metric) for metric in METRICS]
            cells = [cell for s in seen for cell in (s.mean, s.deviation)]
            rows.append([name, variant.name, *cells, inside(outcomes, variant.name)])
    note = (
        "One thing is read differently in each (two in one of them); `inside` counts the five printed cells of the row"
        " that lie within two standard deviations. A wide spread takes in more: few topics, and one node at which all"
        " messages come in, make runs differ."
    )
    columns = ["reading", "", *(name for title in TITLES for name in (title, f"deviation of {title}")), "inside, of 5"]
    return Table("readings", "What the text leaves open", columns, rows, note)


def ours(found: Findings) -> Table:
    """Our variant against the paper's best, seed by seed."""
    rows: list[list[Cell]] = []
    for name, ones, others in (
        (OURS.name, found.ours[OURS.name], found.ours[SHORT.name]),
        (SPREAD.name, found.ours[SPREAD.name], found.ours[SHORT.name]),
        (f"{OURS.name}: Table I", found.table[OURS.name], found.table[SHORT.name]),
    ):
        for metric, way in BETTER.items():
            differing = differences(ones, others, metric)
            seen = Spread.of(differing)
            better = mean([float(way * difference > 0.0) for difference in differing])
            title = TITLES[METRICS.index(metric)]
            rows.append([name, title, seen.mean, seen.error, better, seen.runs])
    note = (
        "Ours minus ring_attn_sw on the same nodes, messages and (unless chosen) chords: the mean of the differences,"
        " its standard error, and the share of runs in which ours is better."
    )
    columns = ["", "metric", "difference", "standard error", "better in", "runs"]
    return Table("ours", "Ours against ring_attn_sw, run by run", columns, rows, note)


def bound(found: Findings) -> Table:
    """How far any policy could go."""
    mine, theirs = found.unfailing[OURS.name], found.unfailing[SHORT.name]
    rows: list[list[Cell]] = [
        [SHORT.name, spread(theirs, "latency_ms").mean, spread(theirs, "hops").mean, spread(theirs, "alignment").mean],
        [OURS.name, spread(mine, "latency_ms").mean, spread(mine, "hops").mean, spread(mine, "alignment").mean],
        ["no policy is below", mean(found.bounds_ms), None, spread(mine, "alignment").mean],
    ]
    note = (
        "No node fails here. The last row bounds the latency of whatever chooses with our mean alignment on these"
        " nodes, messages and chords, from weak duality and with the true latencies: what is left to gain is little."
    )
    columns = ["", "latency, ms", "hops", "alignment"]
    return Table("bound", "What is left to gain", columns, rows, note)
