"""What became of each statement of the ring paper.

Rules:
- Verdicts are worked out from the runs, never written down; what is written down is what was asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from router_daemon.lab.papers.content import Claim, Verdict
from router_daemon.lab.papers.ring import tables
from router_daemon.lab.papers.ring.figures import mean_stretch
from router_daemon.lab.papers.ring.numbers import DIGITS, METRICS, PRINTED, TITLES, Spread, mean
from router_daemon.lab.papers.ring.plan import (
    ATTN,
    GREEDY,
    HEADS,
    MULTI,
    OURS,
    RR,
    SHORT,
    SHORTCUTS,
    SPREAD,
    TAUS,
    Findings,
)
from router_daemon.lab.papers.ring.tables import spread


def claims(found: Findings) -> Iterator[Claim]:
    """Yield what became of each statement."""
    yield _order(found)
    yield from _cells(found)
    yield _throughput()
    yield _same_choice(found)
    yield _failure(found)
    yield from _heads(found)
    yield _chords(found)
    yield from _temperature(found)
    yield from _stretch(found)
    yield from _ours(found)


def verdict(holds: bool) -> Verdict:
    """Return it in the report's words."""
    return "follows" if holds else "does not follow"


def _order(found: Findings) -> Claim:
    seen = {v.name: spread(found.pools[v.name], "latency_ms").mean for v in (SHORT, ATTN, GREEDY, RR)}
    return Claim(
        "Table I",
        "Latency, best first: shortcuts, the plain ring, greedy, round robin.",
        verdict(list(seen.values()) == sorted(seen.values())),
        f"{', '.join(f'{name} {ms:.2f}' for name, ms in seen.items())} ms.",
    )


def _cells(found: Findings) -> Iterator[Claim]:
    """Yield a claim for each row of Table I."""
    for name, printed in PRINTED.items():
        seen = [spread(found.pools[name], metric) for metric in METRICS]
        outside = [
            f"{title} {value:g} against {s}"
            for title, value, s, digits in zip(TITLES, printed, seen, DIGITS, strict=True)
            if not s.holds(value, digits)
        ]
        told = f"Outside: {'; '.join(outside)}. {WHY[name]}{_other_readings(found, name)}"
        yield Claim(
            "Table I", f"The row of {name}.", verdict(not outside), told if outside else "All five cells are inside."
        )


def _other_readings(found: Findings, name: str) -> str:
    """Return which readings have all five cells of a row inside, and how far runs of them differ."""
    fitting = [
        f"{reading} (hops {spread(outcomes, 'hops')}, alignment {spread(outcomes, 'alignment')})"
        for (reading, variant), outcomes in found.readings.items()
        if variant == name and tables.inside(outcomes, name) == len(METRICS)
    ]
    return (
        f" All five are inside when read otherwise: {'; '.join(fitting)}."
        if fitting
        else " No reading has all five inside."
    )


WHY: Final = {
    "rr": (
        "On a ring of 24 the mean distance from anywhere to anywhere is 6.0, whoever is chosen, if all are chosen alike"
        " or messages come in everywhere alike."
    ),
    "greedy": "Climbing the very score that the others maximise finds faster nodes than printed.",
    "ring_attn": "Hops: as for rr. Alignment: at the latency printed, the arg max reaches more.",
    "ring_attn_sw": "Alignment: as for ring_attn.",
    "ring_attn_mh": (
        "Averaged heads choose other nodes, but the way to them is as long as to any other: 6.0. One random chord gives"
        " 5.17 ± 0.31 hops, so the row may have been run with one."
    ),
}
"""What is known of the cells that are outside."""


def _throughput() -> Claim:
    off = [abs(row[0] * row[2] / 1000.0 - 1.0) for row in PRINTED.values()]
    return Claim(
        "Table I",
        "Throughput, whose meaning is not given.",
        "not stated",
        f"Printed latency times printed throughput is 1,000 within {100 * max(off):.1f} % in every row: messages one"
        " after the other, the mean of 1000 / latency over runs.",
    )


def _same_choice(found: Findings) -> Claim:
    off = abs(spread(found.pools[ATTN.name], "alignment").mean - spread(found.pools[SHORT.name], "alignment").mean)
    return Claim(
        "Table I",
        "Shortcuts change ways, not choices: alignment is the same with and without.",
        verdict(off < 1e-9),
        f"The difference of the means is {off:.1g}.",
    )


def _failure(found: Findings) -> Claim:
    seen = {v.name: spread(found.pools[v.name], "delta_p95_ms") for v in (RR, GREEDY, ATTN, SHORT, MULTI)}
    attending = [seen[v.name].mean for v in (ATTN, SHORT, MULTI)]
    holds = min(attending) > max(seen[RR.name].mean, seen[GREEDY.name].mean)
    text = ", ".join(f"{name} {s}" for name, s in seen.items())
    return Claim(
        "Figure 5",
        "The failure of the busiest node costs the arg max more than greedy and round robin.",
        verdict(holds),
        f"{text} ms.",
    )


def _heads(found: Findings) -> Iterator[Claim]:
    for metric, way, text in (("alignment", -1, "alignment"), ("latency_ms", 1, "latency")):
        change = Spread.of(tables.differences(found.pools[MULTI.name], found.pools[ATTN.name], metric))
        yield Claim(
            "Table I",
            f"Averaging several heads costs {text}.",
            verdict(way * change.mean > 2.0 * change.error),
            f"Several heads minus one: {change.mean:+.3f} ± {change.error:.3f} (standard error). How heads are"
            f" averaged is not given; here {HEADS} heads have a random subspace each, and their softmax weights"
            " are averaged.",
        )


def _chords(found: Findings) -> Claim:
    hops = [spread(found.shortcuts[SHORT.name, count], "hops").mean for count in SHORTCUTS]
    latencies = [spread(found.shortcuts[SHORT.name, count], "latency_ms").mean for count in SHORTCUTS]
    falling = all(a > b for ways in (hops, latencies) for a, b in pairwise(ways))
    return Claim(
        "Figure 6",
        "More shortcuts, shorter ways and lower latency.",
        verdict(falling),
        f"{hops[0]:.2f} hops and {latencies[0]:.2f} ms without, {hops[-1]:.2f} and {latencies[-1]:.2f} with"
        f" {SHORTCUTS[-1]}.",
    )


def _temperature(found: Findings) -> Iterator[Claim]:
    def over(curve: str, metric: str) -> list[float]:
        return [spread(found.taus[curve, tau], metric).mean for tau in TAUS]

    def told(curve: str, metric: str, digits: int) -> str:
        values = zip(TAUS, over(curve, metric), strict=True)
        return ", ".join(f"{value:.{digits}f} at {tau:g}" for tau, value in values)

    free, queues, drawn = "arg max, no queues", "arg max, queues", "drawn by attention, queues"
    aligned = over(free, "alignment")
    yield Claim(
        "Figure 7",
        "A lower temperature is sharper: what is chosen fits better.",
        verdict(all(a >= b for a, b in pairwise(aligned))),
        f"Alignment by tau: {told(free, 'alignment', 3)}.",
    )
    latencies, shares = over(queues, "latency_ms"), over(queues, "busiest")
    best = latencies.index(min(latencies))
    yield Claim(
        "Figure 7",
        "Over-concentration at a low temperature causes contention.",
        verdict(shares[0] > shares[-1] and best > 0),
        "With the arg max it is the other way round: a low tau lets q.k decide, and queries differ; a high one leaves"
        " the decision to latency and reliability, which are the same for all messages. Share of the busiest node by"
        f" tau: {told(queues, 'busiest', 2)}; latency with queues: {told(queues, 'latency_ms', 2)} ms; drawn by"
        f" attention instead: {told(drawn, 'latency_ms', 2)} ms.",
    )


def _stretch(found: Findings) -> Iterator[Claim]:
    seen = {v.name: mean_stretch(found.table[v.name]) for v in (GREEDY, ATTN, SHORT)}
    yield Claim(
        "Figure 8",
        "Ways over distances along the ring: greedy at least 1, the plain ring about 1, shortcuts below 1.",
        verdict(seen[GREEDY.name] >= 1.0 == seen[ATTN.name] > seen[SHORT.name]),
        f"{', '.join(f'{name} {value:.2f}' for name, value in seen.items())}.",
    )


def _ours(found: Findings) -> Iterator[Claim]:
    """Yield what is claimed of the variants of ours."""
    theirs = found.ours[SHORT.name]
    for variant, how in ((OURS, "the way is part of the latency"), (SPREAD, "and chords are chosen, not drawn")):
        changes = {
            metric: Spread.of(tables.differences(found.ours[variant.name], theirs, metric)) for metric in tables.BETTER
        }
        shown = all(way * changes[metric].mean > 2.0 * changes[metric].error for metric, way in tables.BETTER.items())
        told = ", ".join(f"{metric} {change.mean:+.4f} ± {change.error:.4f}" for metric, change in changes.items())
        yield Claim(
            "beyond the paper",
            f"Lower latency, fewer hops and higher alignment than ring_attn_sw at once: {how}.",
            "ours",
            f"{'It is so' if shown else 'Not shown by so few runs'}: {told} (standard errors over {len(theirs)} runs).",
        )
    mine, least = spread(found.unfailing[OURS.name], "latency_ms").mean, mean(found.bounds_ms)
    yield Claim(
        "beyond the paper",
        "By choosing among nodes alone there is little more to gain.",
        "ours",
        f"At our alignment no policy can be below {least:.3f} ms on the same chords; ours has {mine:.3f}"
        f" ({100 * (mine / least - 1.0):.1f} % more). What remains is in the chords.",
    )
