"""What the paper states, and what became of it: every verdict is computed from the numbers of the same report."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from router_daemon.lab.compare import mean
from router_daemon.lab.papers.content import Claim, Verdict
from router_daemon.lab.papers.cross_attention.printed import FIGURE_4_US, METRICS, TABLE_1
from router_daemon.lab.papers.cross_attention.setup import RELIABILITY
from router_daemon.lab.papers.cross_attention.spread import ROUNDING, Spread, spread_of
from router_daemon.lab.papers.cross_attention.tables import OURS, average, pool_spread, values
from router_daemon.lab.papers.cross_attention.trial import (
    CA_FULL,
    CA_NO_REL,
    CAP_ONLY,
    RR,
    VARIANTS,
    Reading,
    Variant,
    without,
)
from router_daemon.lab.papers.cross_attention.work import BASE, LEARNED, RATES_PER_S, TTLS_S, VARIED, Found, cached

RETRY: Final = Reading("known", "retry")
THREE: Final = Reading("known", "three heads")


def claims(found: Found) -> list[Claim]:
    """Return every statement, in the order of the text."""
    return [
        *_of_the_method(found),
        *_of_table_1(found),
        *_of_figures(found),
        *_beyond(found),
    ]


def _verdict(holds: bool) -> Verdict:
    return "follows" if holds else "does not follow"


def _inside(found: Found, variant: Variant, metric: str) -> bool:
    """Tell whether a printed cell could come from one pool, or be the mean of the runs: which one is not stated."""
    seen, printed = pool_spread(found, (variant, BASE), metric), getattr(TABLE_1[variant.name], metric)
    return seen.holds(printed, ROUNDING[metric]) or seen.holds_mean(printed, found.size.runs, ROUNDING[metric])


def _told(seen: Spread, digits: int) -> str:
    return f"{seen.mean:.{digits}f} ± {seen.deviation:.{digits}f}"


# --- the method ---


def _of_the_method(found: Found) -> list[Claim]:
    return [_redundancy(found), _load(found), _threshold(found), _invalidated(found)]


def _redundancy(found: Found) -> Claim:
    one, three = (average(found.pools[CA_FULL, reading], "success") for reading in (BASE, THREE))
    return Claim(
        "method, multi-head selection",
        "Several heads provide redundancy.",
        _verdict(three > one and three > 0.99),
        f"Success is {one:.4f} with one head and {three:.4f} with three at once.",
    )


def _load(found: Found) -> Claim:
    high = found.size.loads[-1]
    one, three = (
        mean(run["success"] for run in found.finite[name, high]) for name in ("ca-full", "ca-full, three heads")
    )
    ours, told = (
        mean(run["success"] for run in found.finite[name, high]) for name in (OURS, "ca-full, three heads, cancelled")
    )
    return Claim(
        "method, multi-head selection",
        "Several heads provide load distribution.",
        _verdict(three >= 0.95 * ours),
        "The set-up has no load, so it cannot show any. Where systems can be busy, three copies are three times the"
        f" work: at load {high.removeprefix('load-')} success within the time to live is {three:.3f} with three heads,"
        f" {one:.3f} with one and {ours:.3f} with `attention`. It is {told:.3f} where losers are told to stop (CANCEL),"
        " which the text does not have.",
    )


def _threshold(found: Found) -> Claim:
    hit = average(found.pools[CA_FULL, THREE], "hit")
    least = spread_of(values(found.pools[CA_FULL, THREE], "hit"))
    return Claim(
        "method, h = 3 heads over the threshold 0.3",
        "Whoever is over the threshold can do what is asked.",
        _verdict(hit == 1.0),
        f"Of deliveries to three heads {hit:.3f} go to a capable system, {least.low:.2f} in the worst pools: without"
        " the capability term a system still scores up to .3/1.5 + .2 + .1, so the threshold lets incapable ones"
        " through where fewer than three are capable. One head is always a capable one: no other term weighs .4. The"
        " daemon makes capability a filter (`require_capability`).",
    )


def _invalidated(found: Found) -> Claim:
    kept = average(found.pools[CA_FULL, LEARNED], "latency_ms")
    dropped = found.pools[CA_FULL, Reading("learned", refresh="failure")]
    return Claim(
        "method, decision cache",
        "Cache entries are invalidated and refreshed as needed.",
        "not stated",
        f"When is not said. Never before their time: {kept:.2f} ms with learned profiles. At each failure:"
        f" {average(dropped, 'latency_ms'):.2f} ms, with {average(dropped, 'cached'):.2f} of the look-ups answered by"
        " the cache.",
    )


# --- Table I ---


def _of_table_1(found: Found) -> list[Claim]:
    return [_hits(found), _latencies(found), _plain_success(found), _success(found), _pair(found), _learned(found)]


def _hits(found: Found) -> Claim:
    hits = {variant: pool_spread(found, (variant, BASE), "hit") for variant in VARIANTS}
    sure = all(hits[variant].low == 1.0 for variant in (CAP_ONLY, CA_NO_REL, CA_FULL))
    return Claim(
        "Table I, capability hit",
        "1.000 for every variant that looks at capability, .434 for rr.",
        _verdict(sure and _inside(found, RR, "hit")),
        f"1.000 in every pool; rr {_told(hits[RR], 3)} with 1 to 4 capabilities for each system, which the text leaves"
        " open (table of set sizes).",
    )


def _latencies(found: Found) -> Claim:
    seen = {variant: pool_spread(found, (variant, BASE), "latency_ms") for variant in VARIANTS}
    return Claim(
        "Table I, latency",
        "2.29 ms for rr and 2.42 for cap-only; 1.08 for the full rule, less than half of it.",
        _verdict(all(_inside(found, variant, "latency_ms") for variant in VARIANTS)),
        "; ".join(f"{variant.name} {_told(seen[variant], 2)} ms" for variant in VARIANTS)
        + ": with known profiles. The spread between pools is as large as the effect of many a design.",
    )


def _plain_success(found: Found) -> Claim:
    plain = (RR, CAP_ONLY, CA_NO_REL)
    return Claim(
        "Table I, success",
        ".949 for rr, .939 for cap-only, .944 for ca-no-rel.",
        _verdict(all(_inside(found, variant, "success") for variant in plain)),
        "; ".join(f"{variant.name} {_told(pool_spread(found, (variant, BASE), 'success'), 3)}" for variant in plain)
        + ": the mean reliability, as it must be. (rr succeeds without the capability: success asks nothing about it.)",
    )


def _success(found: Found) -> Claim:
    one = pool_spread(found, (CA_FULL, BASE), "success")
    retried = pool_spread(found, (CA_FULL, RETRY), "success")
    three = average(found.pools[CA_FULL, THREE], "success")
    printed = TABLE_1["ca-full"].success
    return Claim(
        "Table I, success",
        f"{printed} for the full rule.",
        _verdict(_inside(found, CA_FULL, "success")),
        f"One head gives {_told(one, 3)}, and {one.high:.3f} at the 97.5th percentile of the pools: {printed} is the"
        f" upper end of U{RELIABILITY}, so every message would have to go to a system at that very end. A retry gives"
        f" {_told(retried, 4)}, three heads {three:.4f}; then the other variants have as much.",
    )


def _pair(found: Found) -> Claim:
    full, plain = found.pools[CA_FULL, BASE], found.pools[CA_NO_REL, BASE]
    gain = spread_of([a.success - b.success for a, b in zip(full, plain, strict=True)])
    slower = spread_of([a.latency_ms - b.latency_ms for a, b in zip(full, plain, strict=True)])
    printed = TABLE_1["ca-full"].success - TABLE_1["ca-no-rel"].success
    return Claim(
        "Table I, ca-full and ca-no-rel",
        f"The reliability term lifts success by {printed:.3f} and costs no latency.",
        _verdict(gain.holds_mean(printed, found.size.runs) and slower.holds_mean(0.0, found.size.runs)),
        f"In the same pools it lifts success by {_told(gain, 4)} (97.5th percentile {gain.high:.3f}) and costs"
        f" {_told(slower, 3)} ms. A tenth more reliability is worth .02 of the score, less than 0.15 ms of latency near"
        " 0.5 ms, so it decides between near equals only.",
    )


def _learned(found: Found) -> Claim:
    seen = pool_spread(found, (CA_FULL, LEARNED), "latency_ms")
    fresh = average(found.runs[cached(0.0, 1_000.0)], "latency_ms")
    kept = average(found.runs[CA_FULL, LEARNED], "latency_ms")
    printed = TABLE_1["ca-full"].latency_ms
    lucky = 100 * mean(float(ms <= printed) for ms in values(found.pools[CA_FULL, LEARNED], "latency_ms"))
    runs = found.size.runs
    return Claim(
        "update rule and Table I, latency",
        f"Profiles are learned as messages go, decisions are cached for 30 s, and latency is {printed} ms.",
        _verdict(seen.holds_mean(printed, runs, ROUNDING["latency_ms"])),
        f"Learned and cached, it is {_told(seen, 2)} ms: the first choice of each capability and priority stays for 30"
        f" s while others are never tried. {lucky:.0f} % of the pools have {printed} or less; of means of {runs} pools"
        f" 95 % lie within {seen.mean:.2f} ± {seen.within(runs):.2f}. In the runs it is {kept:.2f} ms with the cache"
        f" and {fresh:.2f} without.",
    )


# --- figures ---


def _of_figures(found: Found) -> list[Claim]:
    return [_route(found), *_terms(found), *_cache(found)]


def _route(found: Found) -> Claim:
    told = "; ".join(f"{name} {found.route_us[name][0]:.2f} us" for name in ("rr", "cap-only", "ca-no-rel", "ca-full"))
    return Claim(
        "Figure 4 and Table I, route time",
        f"{FIGURE_4_US['ca-no-rel']} us for ca-no-rel and {FIGURE_4_US['ca-full']} for ca-full with the cache; 0.0 for"
        " rr and cap-only.",
        "not stated",
        f"On what machine is not said. Here: {told}; without the cache ca-full takes {found.route_us['ca-full'][1]:.1f}"
        f" us, and `attention` {found.route_us[OURS][0]:.2f} with it. The two rules differ by nothing once cached: what"
        " is timed is the look-up.",
    )


def _terms(found: Found) -> list[Claim]:
    full = found.runs[CA_FULL, BASE]
    hit, success, latency = (average(full, metric) for metric in METRICS)
    less = {
        (term, metric): average(found.runs[without(term), BASE], metric)
        for term in ("capability", "performance", "reliability")
        for metric in METRICS
    }
    same = found.runs[without("priority"), BASE] == full
    return [
        Claim(
            "Figure 5",
            "The capability term dominates satisfaction.",
            _verdict(less["capability", "hit"] < 0.75 * hit),
            f"Without it capability hit falls from {hit:.3f} to {less['capability', 'hit']:.3f}.",
        ),
        Claim(
            "Figure 5",
            "The performance term drives latency.",
            _verdict(less["performance", "latency_ms"] > 1.25 * latency),
            f"Without it latency rises from {latency:.2f} to {less['performance', 'latency_ms']:.2f} ms.",
        ),
        Claim(
            "Figure 5",
            "The reliability term lifts success.",
            _verdict(success > less["reliability", "success"]),
            f"It does, from {less['reliability', 'success']:.4f} to {success:.4f}; alone with capability (no"
            f" performance term) it would reach {less['performance', 'success']:.4f}.",
        ),
        Claim(
            "Figure 5",
            "The priority term is small and situational.",
            "not stated" if same else "follows",
            "It changes not one decision: it adds the same to every system. Whatever its form, it can do so only if it"
            " depends on the system, and the text does not say how."
            if same
            else "It changes who is over the threshold.",
        ),
    ]


def _cache(found: Found) -> list[Claim]:
    hits = {(ttl, rate): average(found.runs[cached(ttl, rate)], "cached") for ttl in TTLS_S for rate in RATES_PER_S}
    rises = all(hits[a, r] <= hits[b, r] + 1e-12 for r in RATES_PER_S for a, b in pairwise(TTLS_S))
    slow = RATES_PER_S[0]
    times = [found.cache_us[ttl, slow] for ttl in TTLS_S]
    low, high = hits[30.0, slow], hits[30.0, RATES_PER_S[-1]]
    kept, fresh = (average(found.runs[cached(ttl, 1_000.0)], "latency_ms") for ttl in (30.0, 0.0))
    return [
        Claim(
            "Figure 6",
            "A longer time to live means more hits and less time for a decision; 0 switches the cache off.",
            _verdict(rises and times[0] > 2.0 * times[-1] and hits[0.0, slow] == 0.0),
            f"At {slow:.0f} messages a second a decision takes {times[0]:.1f} us without a cache and {times[-1]:.1f}"
            " with 120 s.",
        ),
        Claim(
            "Figure 6",
            "How many hits 30 s bring.",
            "not stated",
            f"No rate of messages is given, and it decides: {low:.3f} at {slow:.0f} a second, {high:.4f} at"
            f" {RATES_PER_S[-1]:,.0f}. There are 24 entries: six capabilities times four priorities.",
        ),
        Claim(
            "Figure 6",
            "What a longer time to live costs.",
            "not stated",
            f"Decisions that do not follow what is learned: with 1,000 messages a second {kept:.2f} ms of latency with"
            f" 30 s, {fresh:.2f} without a cache. The daemon caches who is eligible, never who wins.",
        ),
    ]


# --- beyond ---


def _beyond(found: Found) -> list[Claim]:
    return [_constant(found), _varying(found), _busy(found)]


def _constant(found: Found) -> Claim:
    ours = found.our_pools[OURS, 0.0]
    learned, known = (found.pools[CA_FULL, reading][: len(ours)] for reading in (LEARNED, BASE))
    slower = 100 * mean(float(a.latency_ms < b.latency_ms) for a, b in zip(ours, learned, strict=True))
    below = 100 * mean(float(outcome.latency_ms < TABLE_1["ca-full"].latency_ms) for outcome in ours)
    return Claim(
        "beyond Table I",
        "`attention`, the daemon's default, beside the printed hit 1.000, success .995 and latency 1.08 ms.",
        "ours",
        f"Hit 1, success {average(ours, 'success'):.4f}, latency {average(ours, 'latency_ms'):.3f} ms from a cold"
        f" start, and under 1.08 in {below:.0f} % of the pools. The full rule that learns as well has"
        f" {average(learned, 'success'):.3f} and {average(learned, 'latency_ms'):.3f} ms, and is slower in"
        f" {slower:.0f} % of the pools. The least that anybody can have over these pools is"
        f" {mean(found.best_ms[: len(ours)]):.3f} ms where each message goes to one system (the full rule with"
        f" everything known: {average(known, 'latency_ms'):.3f}, with {average(known, 'success'):.3f} success), and"
        f" {mean(found.copies_ms[: len(ours)]):.3f} where it succeeds, since some answers are second ones.",
    )


def _varying(found: Found) -> Claim:
    ours = found.our_pools[OURS, VARIED]
    known = found.pools[CA_FULL, Reading("known", varies=VARIED)][: len(ours)]
    return Claim(
        "beyond Table I",
        "The same where a system's latency varies from message to message.",
        "ours",
        f"Lognormal around the base (sigma {VARIED}), hit 1: success {average(ours, 'success'):.4f} and"
        f" {average(ours, 'latency_ms'):.3f} ms, beside the {average(known, 'latency_ms'):.3f} ms of the full rule"
        " that knows everything. The first of several answers comes sooner than that of the fastest system.",
    )


def _busy(found: Found) -> Claim:
    load = next((load for load in found.size.loads if load == "load-0.7"), found.size.loads[-1])
    told = "; ".join(
        f"{name} {mean(run['success'] for run in found.finite[name, load]):.3f} and"
        f" {mean(run['p99_ms'] for run in found.finite[name, load]):.1f} ms"
        for name in ("cap-only", "ca-full", OURS)
    )
    return Claim(
        "the set-up describes no queues",
        "What becomes of it where systems can be busy.",
        "ours",
        f"At load {load.removeprefix('load-')}, success and p99: {told}. A winner that is cached for 30 s gets"
        " everything; `attention` weighs what is going on with each message.",
    )
