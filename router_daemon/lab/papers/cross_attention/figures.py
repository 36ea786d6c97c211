"""What came out, as the figures of the paper, and those of what it leaves out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan
from typing import TYPE_CHECKING, Final

from router_daemon.lab.compare import mean, spread
from router_daemon.lab.papers.content import Figure
from router_daemon.lab.papers.cross_attention.finite import CONTESTANTS
from router_daemon.lab.papers.cross_attention.printed import FIGURE_4_US, TABLE_1
from router_daemon.lab.papers.cross_attention.tables import OURS, average, reading_name, values
from router_daemon.lab.papers.cross_attention.trial import CA_FULL, VARIANTS, Reading, Variant, without
from router_daemon.lab.papers.cross_attention.work import (
    BASE,
    DELIVERIES,
    LEARNED,
    RATES_PER_S,
    TERMS,
    TTLS_S,
    Found,
    cached,
)
from router_daemon.lab.papers.drawing import Bars, Line, bars, lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES: Final = [variant.name for variant in VARIANTS]


def figures(found: Found) -> list[Figure]:
    """Return all figures, the paper's first."""
    return [
        figure_1(found),
        figure_2(found),
        figure_3(found),
        figure_4(found),
        figure_5(found),
        figure_5_latency(found),
        figure_6(found),
        figure_6_time(found),
        cache_cost(found),
        busy(found),
    ]


def _of_variants(found: Found, metric: str, readings: Sequence[Reading]) -> list[Bars]:
    """Return a colour for each reading: over the runs, the mean of each variant and the standard deviation."""
    rows = []
    for reading in readings:
        seen = [found.runs.get((variant, reading)) for variant in VARIANTS]
        means = [None if runs is None else average(runs, metric) for runs in seen]
        around = [0.0 if runs is None else spread(values(runs, metric)) for runs in seen]
        rows.append(Bars(reading_name(reading), means, [0.0 if isnan(each) else each for each in around]))
    return rows


def _bars_figure(
    name: str, title: str, unit: str, rows: Sequence[Bars], printed: Sequence[float], note: str, *, digits: int = 3
) -> Figure:
    def draw(axes: Axes) -> None:
        bars(axes, NAMES, rows, unit, printed=printed, digits=digits)

    columns = ("variant", "printed", *(row.label for row in rows))
    numbers = [(variant, printed[place], *(row.values[place] for row in rows)) for place, variant in enumerate(NAMES)]
    return Figure(name, title, draw, columns, numbers, note)


def figure_1(found: Found) -> Figure:
    """Capability hit by variant."""
    printed = [TABLE_1[name].hit for name in NAMES]
    readings = (BASE, Reading("known", "three heads"))
    return _bars_figure(
        "figure-1",
        "Figure 1: capability hit",
        "share of deliveries",
        _of_variants(found, "hit", readings),
        printed,
        "Dotted: as printed; thin: the standard deviation over the runs, a pool each. Of three heads over the printed"
        " threshold, some cannot do it where fewer than three can.",
    )


def figure_2(found: Found) -> Figure:
    """Success by variant."""
    rows = _of_variants(found, "success", [Reading("known", delivery) for delivery in DELIVERIES])

    def draw(axes: Axes) -> None:
        bars(axes, NAMES, rows, "share of messages", printed=[TABLE_1[name].success for name in NAMES])
        axes.set_ylim(0.88, 1.02)

    plain = _bars_figure("figure-2", "Figure 2: success", "", rows, [TABLE_1[name].success for name in NAMES], "")
    note = (
        "The axis begins at .88. The printed .995 of `ca-full` is what a second try gives to every variant, not what"
        " one head gives to this one."
    )
    return Figure(plain.name, plain.title, draw, plain.columns, plain.rows, note, (7.0, 3.8))


def figure_3(found: Found) -> Figure:
    """Latency by variant."""
    return _bars_figure(
        "figure-3",
        "Figure 3: latency",
        "ms",
        _of_variants(found, "latency_ms", (BASE, LEARNED)),
        [TABLE_1[name].latency_ms for name in NAMES],
        "The printed halving is there where profiles are known, and mostly gone where they are learned through a cache"
        " of 30 s.",
        digits=2,
    )


def figure_4(found: Found) -> Figure:
    """Time of a decision by variant."""
    names = [*NAMES, OURS]
    times = [found.route_us[name] for name in names]
    rows = [Bars("with the cache", [with_cache for with_cache, _ in times]), Bars("without", [us for _, us in times])]
    printed = [TABLE_1[name].route_us if name in TABLE_1 else None for name in names]

    def draw(axes: Axes) -> None:
        bars(axes, names, rows, "us per decision", printed=printed, digits=2)
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])

    return Figure(
        "figure-4",
        "Figure 4: time of a decision",
        draw,
        ("variant", "Table I, us", "Figure 4, us", "with the cache, us", "without, us"),
        [(name, printed[place], FIGURE_4_US.get(name), *times[place]) for place, name in enumerate(names)],
        "On the machine that made this report; linear up to 1, logarithmic above. `attention` weighs what is"
        " going on for every message, so the cache spares it less. The printed 0.0 of `rr` and `cap-only` is less than"
        " any look-up takes in Python: what they do was not measured, or not counted.",
    )


def _terms() -> list[Variant]:
    return [CA_FULL, *(without(term) for term in TERMS)]


def figure_5(found: Found) -> Figure:
    """What each term does for hit and success."""
    groups = [variant.name.replace("without ", "w/o ") for variant in _terms()]
    rows = [
        Bars(label, [average(found.runs[variant, BASE], metric) for variant in _terms()])
        for label, metric in (("capability hit", "hit"), ("success", "success"))
    ]
    return _terms_figure(
        "figure-5",
        "Figure 5: one term at a time removed, hit and success",
        groups,
        rows,
        "share",
        "Profiles known, one head; the weights of the other terms stay. Priority adds the same to every system, so it"
        " can change no ranking, whatever its form, as long as it does not depend on the system.",
    )


def figure_5_latency(found: Found) -> Figure:
    """What each term does for latency."""
    groups = [variant.name.replace("without ", "w/o ") for variant in _terms()]
    rows = [Bars("latency, ms", [average(found.runs[variant, BASE], "latency_ms") for variant in _terms()])]
    return _terms_figure(
        "figure-5-latency",
        "Figure 5: one term at a time removed, latency",
        groups,
        rows,
        "ms",
        "Without the capability term latency falls, since the fastest system is taken whether it can do it or not.",
    )


def _terms_figure(name: str, title: str, groups: list[str], rows: list[Bars], unit: str, note: str) -> Figure:
    def draw(axes: Axes) -> None:
        bars(axes, [group.replace(" ", "\n") for group in groups], rows, unit)

    numbers = [(group, *(row.values[place] for row in rows)) for place, group in enumerate(groups)]
    return Figure(name, title, draw, ("rule", *(row.label for row in rows)), numbers, note)


def _by_ttl(
    name: str, title: str, up: str, note: str, value: Callable[[float, float], float], *, log_up: bool = False
) -> Figure:
    """Return a figure with a line for each rate over the times to live."""
    table = {rate: [value(ttl_s, rate) for ttl_s in TTLS_S] for rate in RATES_PER_S}
    rows = [Line(f"{rate:,.0f} a second", TTLS_S, table[rate]) for rate in RATES_PER_S]

    def draw(axes: Axes) -> None:
        lines(axes, rows, "time to live, s", up)
        axes.set_xscale("symlog", linthresh=1.0)
        axes.set_xticks(TTLS_S, [f"{ttl_s:g}" for ttl_s in TTLS_S])
        axes.minorticks_off()
        if log_up:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")

    columns = ("time to live, s", *(row.label for row in rows))
    numbers = [(ttl_s, *(table[rate][place] for rate in RATES_PER_S)) for place, ttl_s in enumerate(TTLS_S)]
    return Figure(name, title, draw, columns, numbers, note)


def figure_6(found: Found) -> Figure:
    """Share of look-ups that the cache answers."""
    return _by_ttl(
        "figure-6",
        "Figure 6: cache hits by time to live",
        "hits, share of look-ups",
        "The text states no rate of messages, and hits depend on it: a line for each of four rates.",
        lambda ttl_s, rate: average(found.runs[cached(ttl_s, rate)], "cached"),
    )


def figure_6_time(found: Found) -> Figure:
    """Time of a decision by time to live."""
    return _by_ttl(
        "figure-6-time",
        "Figure 6: time of a decision by time to live",
        "us per decision",
        "`ca-full`, profiles known; means over decisions on the machine that made this report.",
        lambda ttl_s, rate: found.cache_us[ttl_s, rate],
        log_up=True,
    )


def cache_cost(found: Found) -> Figure:
    """What a longer time to live costs."""
    return _by_ttl(
        "cache-cost",
        "What a longer time to live costs: latency with learned profiles",
        "latency, ms",
        "Not in the paper. A ranking that is kept does not follow what is learned, so the saved microseconds are paid"
        " for with milliseconds. The full rule, one head, from the daemon's cold start.",
        lambda ttl_s, rate: average(found.runs[cached(ttl_s, rate)], "latency_ms"),
    )


def busy(found: Found) -> Figure:
    """The 99th percentile by load."""
    loads = [float(load.removeprefix("load-")) for load in found.size.loads]
    table = {
        who.name: [mean(run["p99_ms"] for run in found.finite[who.name, load]) for load in found.size.loads]
        for who in CONTESTANTS
    }
    rows = [Line(name, loads, table[name]) for name in table]

    def draw(axes: Axes) -> None:
        lines(axes, rows, "load, as a share of what any router could serve", "p99 of the answered, ms")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")

    numbers = [(load, *(table[name][place] for name in table)) for place, load in enumerate(loads)]
    return Figure(
        "busy-p99",
        "What the paper leaves out: the 99th percentile by load",
        draw,
        ("load", *table),
        numbers,
        "Of messages that were answered within 100 ms; the table above has the success beside it.",
        (6.5, 3.8),
    )
