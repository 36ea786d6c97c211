"""What came out, as the tables of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from router_daemon.lab.compare import mean, spread
from router_daemon.lab.papers.content import Cell, Table
from router_daemon.lab.papers.cross_attention.finite import CONTESTANTS
from router_daemon.lab.papers.cross_attention.ours import MODES
from router_daemon.lab.papers.cross_attention.printed import METRICS, TABLE_1
from router_daemon.lab.papers.cross_attention.setup import SIZES
from router_daemon.lab.papers.cross_attention.spread import ROUNDING, Spread, spread_of
from router_daemon.lab.papers.cross_attention.trial import CA_FULL, RR, VARIANTS, Outcome, Reading
from router_daemon.lab.papers.cross_attention.work import (
    BASE,
    LEARNED,
    REFRESHED,
    STARTS_MS,
    VARIED,
    Found,
    Pair,
    reading_pairs,
)

NAMES: Final = {"hit": "capability hit", "success": "success", "latency_ms": "latency, ms"}
OURS: Final = "attention"


def average(outcomes: Sequence[Outcome], metric: str) -> float:
    """Return the mean of a metric over runs or pools."""
    return mean(values(outcomes, metric))


def values(outcomes: Sequence[Outcome], metric: str) -> list[float]:
    """Return a metric of each run or pool."""
    return [getattr(outcome, metric) for outcome in outcomes]


def pool_spread(found: Found, pair: Pair, metric: str) -> Spread:
    """Return what a metric of a pair comes to over the pools."""
    return spread_of(values(found.pools[pair], metric))


def tables(found: Found) -> list[Table]:
    """Return all tables but those that belong to a figure."""
    return [table_1(found), spreads(found), readings(found), beyond(found), sizes(found), starts(found), finite(found)]


def table_1(found: Found) -> Table:
    """Table I: printed and seen, and the daemon's default in the same set-up."""
    columns = ["variant"]
    for name in NAMES.values():
        columns += [f"{name}, printed", "seen", "±"]
    columns += ["route, us, printed", "cached", "not cached"]
    rows: list[list[Cell]] = []
    for variant in VARIANTS:
        row: list[Cell] = [variant.name]
        for metric in METRICS:
            seen = values(found.runs[variant, BASE], metric)
            row += [getattr(TABLE_1[variant.name], metric), mean(seen), spread(seen)]
        rows.append([*row, TABLE_1[variant.name].route_us, *found.route_us[variant.name]])
    rows += _our_rows(found)
    return Table(
        "table-1",
        "Table I: capability hit, success, latency and route time",
        columns,
        rows,
        "Mean and standard deviation over the runs, a pool each; the printed variants know every latency and"
        " reliability from the start and send to one system. `attention` is the daemon's default, in the same pools:"
        " it starts cold, and sends copies while little is going on (see the table of what goes beyond). Route time is"
        " the mean of a decision on the machine that made this report: the look-up in the decision cache and the"
        " choice, no input or output.",
    )


def _our_rows(found: Found) -> Iterator[list[Cell]]:
    for (mode, varies), outcomes in found.our_runs.items():
        if not varies:
            row: list[Cell] = [mode]
            for metric in METRICS:
                seen = values(outcomes, metric)
                row += [None, mean(seen), spread(seen)]
            yield [*row, None, *found.route_us[OURS]]


def spreads(found: Found) -> Table:
    """Every cell of Table I beside the spread of its own description over pools."""
    rows: list[list[Cell]] = []
    for variant in VARIANTS:
        for metric, name in NAMES.items():
            printed, seen = getattr(TABLE_1[variant.name], metric), pool_spread(found, (variant, BASE), metric)
            inside = seen.holds(printed, ROUNDING[metric])
            of_runs = seen.holds_mean(printed, found.size.runs, ROUNDING[metric])
            numbers = (printed, seen.mean, seen.deviation, seen.low, seen.high)
            rows.append([variant.name, name, *numbers, _inside(inside), _inside(of_runs)])
    return Table(
        "spread",
        f"Table I, cell by cell, over {found.size.pools} pools",
        (
            *("variant", "", "printed", "mean", "±", "2.5 %", "97.5 %"),
            *("one pool", f"mean of {found.size.runs} pools"),
        ),
        rows,
        "Profiles known, one head. `one pool`: whether the printed value lies between the 2.5th and the 97.5th"
        " percentile of the pools; the last column: whether it could be the mean of so many pools (within 1.96 standard"
        " errors). The text does not say whether its runs share a pool.",
    )


def _inside(yes: bool) -> str:
    return "inside" if yes else "outside"


def readings(found: Found) -> Table:
    """Each variant in each reading of what the text leaves open."""
    rows: list[list[Cell]] = []
    for pair in reading_pairs():
        variant, reading = pair
        row: list[Cell] = [reading_name(reading), variant.name]
        outside = []
        for metric, name in NAMES.items():
            seen = pool_spread(found, pair, metric)
            row += [seen.mean, seen.deviation]
            if not seen.holds(getattr(TABLE_1[variant.name], metric), ROUNDING[metric]):
                outside.append(name.partition(",")[0])
        deliveries = average(found.pools[pair], "deliveries")
        rows.append([*row, deliveries, " and ".join(outside) if outside else "nothing"])
    columns = ["reading", "variant"]
    for name in NAMES.values():
        columns += [name, "±"]
    return Table(
        "readings",
        f"Table I in the readings that the text allows, over {found.size.pools} pools",
        [*columns, "deliveries", "printed, but outside"],
        rows,
        "Known: latency and reliability are known from the start. Begun: known, then moved by the update rule. Learned:"
        " from the daemon's cold start (1 ms, .9), then by the update rule. Retry: a failure goes to the same system"
        " once more. Fail-over: to the next in rank, three tries at most. Three heads: the three best at once, the"
        " first success counts. Who learns nothing (`rr`, `cap-only`) is the same whatever profiles are. Capability hit"
        " is of deliveries: with the printed threshold of .3, further heads may be systems that cannot do it.",
    )


def reading_name(reading: Reading) -> str:
    """Return a reading in a few words."""
    refresh = ", cache dropped at a failure" if reading.refresh == "failure" else ""
    return f"{reading.profiles}, {reading.delivery}{refresh}"


def beyond(found: Found) -> Table:
    """The daemon's default beside the full rule in each reading, and beside what cannot be beaten."""
    count = found.size.ours
    one, copies = found.best_ms[:count], found.copies_ms[:count]
    rows: list[list[Cell]] = [
        ["who knows all, one head", 1.0, None, mean(one), _share_below(one), None, None, 1.0],
        ["who knows all, all at once", 1.0, None, mean(copies), _share_below(copies), None, None, None],
    ]
    for reading in (BASE, LEARNED, Reading("learned", "fail-over"), Reading("learned", "three heads")):
        plain, varied = found.pools[CA_FULL, reading], found.pools[CA_FULL, _varied(reading)]
        rows.append(_beyond_row(f"ca-full: {reading_name(reading)}", plain[:count], varied[:count]))
    rows += [_beyond_row(mode, found.our_pools[mode, 0.0], found.our_pools[mode, VARIED]) for mode in MODES]
    printed = TABLE_1["ca-full"].latency_ms
    return Table(
        "beyond",
        "Beyond the paper: the daemon's default in the paper's set-up",
        (
            *("router", "capability hit", "success", "latency, ms", f"pools below {printed} ms"),
            *("latency varies: success", "latency, ms", "deliveries"),
        ),
        rows,
        f"The same {count} pools for all; means over them. The first two rows are bounds: with a latency that never"
        " varies, nobody who sends to one system can have less than the fastest capable one, and nobody at all less"
        " than the first success of copies to all of them. The columns to the right let each latency be lognormal"
        f" around its base (sigma {VARIED}), where copies beat the fastest. The message latency of `attention` ends"
        " with the answer, that of one head also with a failure, which takes no second try. With three heads `ca-full`"
        " takes the answers of systems that cannot do it for answers, too: hence its hit, and some of its latency."
        " `attention` is given nothing but the registrations, and learns the rest.",
    )


def _varied(reading: Reading) -> Reading:
    return Reading(reading.profiles, reading.delivery, varies=VARIED)


def _beyond_row(name: str, plain: Sequence[Outcome], varied: Sequence[Outcome]) -> list[Cell]:
    return [
        name,
        average(plain, "hit"),
        average(plain, "success"),
        average(plain, "latency_ms"),
        _share_below(values(plain, "latency_ms")),
        average(varied, "success"),
        average(varied, "latency_ms"),
        average(plain, "deliveries"),
    ]


def _share_below(latencies_ms: Sequence[float]) -> float:
    """Return the share of pools that have less than the printed latency."""
    below = [latency_ms < TABLE_1["ca-full"].latency_ms for latency_ms in latencies_ms]
    return sum(below) / len(below)


def sizes(found: Found) -> Table:
    """The readings of how many capabilities a system has."""
    rows: list[list[Cell]] = []
    for name in SIZES:
        hit = spread_of(values(found.sizes[name][RR, BASE], "hit"))
        full = spread_of(values(found.sizes[name][CA_FULL, BASE], "latency_ms"))
        success = spread_of(values(found.sizes[name][CA_FULL, BASE], "success"))
        inside = hit.holds_mean(TABLE_1["rr"].hit, found.size.runs, ROUNDING["hit"])
        numbers = (hit.mean, hit.deviation, full.mean, full.deviation, success.mean)
        rows.append([name, *numbers, _inside(inside)])
    return Table(
        "set-sizes",
        "How many capabilities a system has",
        ("capabilities", "rr: hit", "±", "ca-full: latency, ms", "±", "success", f"printed hit {TABLE_1['rr'].hit}"),
        rows,
        "The text says that sets are sampled, not how large they are. Each number given is as likely as another. The"
        " last column: whether the printed hit of `rr` could be the mean of as many pools as there are runs. This"
        " report uses 1 to 4.",
    )


def starts(found: Found) -> Table:
    """The readings of what a profile says before anything was measured."""
    rows: list[list[Cell]] = []
    for start_ms in STARTS_MS:
        row: list[Cell] = [start_ms]
        for ttl_s in (0.0, 30.0):
            outcomes = found.runs[CA_FULL, Reading("learned", ttl_s=ttl_s, initial_ms=start_ms)]
            row += [average(outcomes, "latency_ms"), average(outcomes, "success")]
        rows.append(row)
    refreshed = found.runs[CA_FULL, REFRESHED]
    return Table(
        "cold-start",
        "What a profile says before anything was measured",
        ("start, ms", "no cache: latency, ms", "success", "30 s cache: latency, ms", "success"),
        rows,
        "`ca-full`, learned, one head. Whoever starts low is tried and found out; whoever starts high is never tried"
        " once somebody was measured to be better. A ranking that is kept for 30 s does not hear of what was found out:"
        " the first choice of each capability and priority stays. With every ranking dropped at each failure (a reading"
        ' of "invalidated and refreshed as needed") latency is'
        f" {average(refreshed, 'latency_ms'):.2f} ms, and the cache holds for {average(refreshed, 'cached'):.2f} of"
        " the look-ups.",
    )


def finite(found: Found) -> Table:
    """What becomes of the variants where systems can be busy."""
    rows: list[list[Cell]] = []
    for contestant in CONTESTANTS:
        for load in found.size.loads:
            metrics = found.finite[contestant.name, load]
            numbers = [mean(run[metric] for run in metrics) for metric in ("success", "p50_ms", "p99_ms", "deliveries")]
            rows.append([contestant.name, float(load.removeprefix("load-")), *numbers])
    return Table(
        "busy",
        "What the paper leaves out: systems that can be busy",
        ("variant", "load", "success", "p50, ms", "p99, ms", "deliveries"),
        rows,
        "In the simulator, with the daemon's broker: 12 backends of 1, 2 or 4 workers with a FIFO queue, 3 of 6"
        " capabilities each, latency lognormal with a mean of 0.5 to 4 ms, a time to live of 100 ms; the load is a"
        " share of what any router could serve. The variants of the paper as it describes them: learned profiles, a"
        " cache of 30 s, nothing around the ranking; `rr` takes turns among the capable here. `attention` is the daemon"
        f" as it is shipped. {found.size.finite} pools of {found.size.finite_messages} messages; success within the"
        " time to live, percentiles of what was answered.",
    )
