"""The ring paper's eight figures, and one of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from router_daemon.lab.papers.content import Cell, Figure
from router_daemon.lab.papers.drawing import COLOURS, Bars, Line, bars, lines
from router_daemon.lab.papers.ring.numbers import METRICS, PRINTED, TITLES, mean
from router_daemon.lab.papers.ring.plan import ATTN, CURVES, GREEDY, OURS, SHORT, SHORTCUTS, SPREAD, TAUS, Findings
from router_daemon.lab.papers.ring.runs import Outcome
from router_daemon.lab.papers.ring.tables import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES: Final = ("Latency", "Hops", "Throughput", "Alignment", "What the failure adds to the 95th percentile")
NOTES: Final = (
    "hops x 0.06 ms + service.",
    "Links on the way to the node that does the work.",
    "1000 / latency: messages one after the other, which is what the printed pairs come to.",
    "Cosine of the query and the key of the chosen node.",
    "After the node with the most messages failed at 60 % of the run, minus before.",
)
DIGITS: Final = (2, 2, 0, 3, 2)


def figures(found: Findings) -> Sequence[Figure]:
    """Return all of them, in the paper's order."""
    five = [_bars(found, place) for place in range(len(METRICS))]
    return [*five, _shortcuts(found), *_temperature(found), _stretch(found)]


def _bars(found: Findings, place: int) -> Figure:
    metric, title = METRICS[place], TITLES[place]
    seen = {name: spread(outcomes, metric) for name, outcomes in found.table.items()}
    printed = {name: PRINTED[name][place] if name in PRINTED else None for name in seen}

    def draw(axes: Axes) -> None:
        row = Bars("seen", [s.mean for s in seen.values()], [s.deviation for s in seen.values()])
        groups = [name.replace(", ", ",\n").replace("attn_", "attn\n_") for name in seen]
        bars(axes, groups, [row], title, printed=list(printed.values()), digits=DIGITS[place])

    rows: list[Sequence[Cell]] = [[name, s.mean, s.deviation, printed[name]] for name, s in seen.items()]
    number = place + 1
    return Figure(
        f"figure-{number}",
        f"Figure {number}: {NAMES[place]}",
        draw,
        ["", title, "deviation of the runs", "printed"],
        rows,
        f"{NOTES[place]} Bars: deviation of the runs; dotted: as printed.",
    )


def _shortcuts(found: Findings) -> Figure:
    seen = {
        name: [
            (spread(found.shortcuts[name, s], "latency_ms"), spread(found.shortcuts[name, s], "hops"))
            for s in SHORTCUTS
        ]
        for name in (SHORT.name, OURS.name, SPREAD.name)
    }

    def draw(axes: Axes) -> None:
        rows = [Line(name, SHORTCUTS, [hops.mean for _, hops in pairs]) for name, pairs in seen.items()]
        lines(axes, rows, "chords across the ring", "hops")

    rows: list[Sequence[Cell]] = [
        [name, s, latency.mean, hops.mean, spread(found.shortcuts[name, s], "alignment").mean]
        for name, pairs in seen.items()
        for s, (latency, hops) in zip(SHORTCUTS, pairs, strict=True)
    ]
    columns = ["", "chords", "latency, ms", "hops", "alignment"]
    note = (
        "Mean over pools. A further chord shortens ways less than the one before; ring_attn_sw chooses alike with all."
    )
    return Figure("figure-6", "Figure 6: chords across the ring", draw, columns, rows, note)


def _temperature(found: Findings) -> Sequence[Figure]:
    """Figure 7 in two pictures, since its two axes are two questions."""
    columns = ["", "tau", "latency, ms", "alignment", "share of the busiest node"]
    rows: list[Sequence[Cell]] = [
        [
            curve,
            tau,
            *(spread(found.taus[curve, tau], metric).mean for metric in ("latency_ms", "alignment", "busiest")),
        ]
        for curve in CURVES
        for tau in TAUS
    ]
    made = []
    for letter, metric, title in (("a", "alignment", "alignment"), ("b", "latency_ms", "latency, ms")):
        curves = {curve: [spread(found.taus[curve, tau], metric).mean for tau in TAUS] for curve in CURVES}
        name, heading = f"figure-7{letter}", f"Figure 7{letter}: temperature and {title.partition(',')[0]}"
        made.append(Figure(name, heading, _over_tau(curves, title), columns, rows, _TAU_NOTE))
    return made


_TAU_NOTE: Final = (
    "ring_attn_sw. With queues, each node does one message after the other, messages arrive at random, half as many as"
    " all nodes together could do, and latencies include the wait."
)


def _over_tau(curves: Mapping[str, Sequence[float]], title: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        lines(axes, [Line(curve, TAUS, values) for curve, values in curves.items()], "tau", title, log=True)
        axes.set_xticks(TAUS, [f"{tau:g}" for tau in TAUS])
        axes.minorticks_off()
        axes.set_ylim(bottom=0.0)

    return draw


def _stretch(found: Findings) -> Figure:
    curves = {name: _cdf(found.table[name]) for name in (GREEDY.name, ATTN.name, SHORT.name, OURS.name, SPREAD.name)}

    def draw(axes: Axes) -> None:
        for place, (name, points) in enumerate(curves.items()):
            across, up = [0.0, *(x for x, _ in points), 1.5], [0.0, *(y for _, y in points), 1.0]
            style = "--" if place == 0 else "-"
            axes.step(across, up, where="post", label=name, color=COLOURS[place], linestyle=style, linewidth=1.4)
        axes.set_xlim(0.0, 1.5)
        axes.set_xlabel("links on the way / distance along the ring")
        axes.set_ylabel("share of messages")
        axes.grid(visible=True, alpha=0.3)
        axes.legend(loc="upper left", fontsize=8)

    rows: list[Sequence[Cell]] = [[name, x, y] for name, points in curves.items() for x, y in points]
    note = (
        "Of the messages that another node did than the one at which they came in. Climbing never turns back on a"
        " ring, so greedy goes the distance as the plain ring does, but for ways that begin at the failed node."
    )
    return Figure("figure-8", "Figure 8: path stretch", draw, ["", "stretch", "share at most"], rows, note)


def _cdf(outcomes: Sequence[Outcome]) -> Sequence[tuple[float, float]]:
    """Return (stretch, share of messages with at most that), without those that stayed where they came in."""
    counts: dict[float, int] = {}
    for outcome in outcomes:
        for (hops, along), times in outcome.ways.items():
            if along:
                counts[hops / along] = counts.get(hops / along, 0) + times
    total, upto, points = sum(counts.values()), 0, []
    for stretch in sorted(counts):
        upto += counts[stretch]
        points.append((stretch, upto / total))
    return points


def mean_stretch(outcomes: Sequence[Outcome]) -> float:
    """Return the mean of way / distance along the ring, over the messages that went somewhere."""
    return mean(
        [hops / along for o in outcomes for (hops, along), times in o.ways.items() if along for _ in range(times)]
    )
