"""The answer of /explain as text for a terminal of 100 columns: who would get a message, why, and by which numbers.

Rules: as in `asking`; a paragraph whose keys are missing (an older daemon) is left out.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from router_daemon.cli.asking import Row, number_of, rows_of, state_text, table, table_of, text_of
from router_daemon.logs import printable

COLUMNS: Final = 100
MEASURED: Final = (
    ("WORK", "service_ms"),
    ("MEAN", "response_ms"),
    ("DEV", "deviation_ms"),
    ("N", "samples"),
    ("WAIT", "expected_wait_ms"),
    ("L", "expected_latency_ms"),
    ("E", "expected_ms"),
    ("SUCCESS", "success_ratio"),
    ("UNUSED S", "unused_s"),
)
SOMETIMES: Final = (("SILENT S", "silence_s"), ("OTHER", "other"), ("COST", "cost"))
LEGEND: Final = "in ms; L: latency to expect with the work that is there; E: L and a penalty for failures"


def explain_text(answer: Row) -> str:
    """Return the whole answer."""
    rows = rows_of(answer, "candidates")
    paragraphs = ["\n".join(_wrapped(printable(line)) for line in _lines(answer))]
    if rows:
        paragraphs.append(_heads_table(rows))
        paragraphs.append(_terms_table(rows))
    if any("service_ms" in row for row in rows):
        paragraphs.append(f"{LEGEND}\n{_measured_table(rows)}")
    return "\n\n".join(paragraphs)


def _wrapped(line: str) -> str:
    return textwrap.fill(line, COLUMNS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _lines(answer: Row) -> Iterator[str]:
    cache, rule = table_of(answer, "cache"), "required" if answer.get("require_capability") else "one term of the score"
    yield (
        f"{text_of(answer, 'capability')}, priority {text_of(answer, 'priority')}: "
        f"policy {text_of(answer, 'policy')}, mode {text_of(answer, 'mode')}, "
        f"up to {text_of(answer, 'heads')} heads over {number_of(answer, 'threshold', 2)}, capability {rule}"
    )
    yield from _route_lines(table_of(answer, "route"), table_of(answer, "override"))
    age = f", {number_of(cache, 'age_s')} s old" if cache.get("age_s") is not None else ""
    yield f"cached ranking: {text_of(cache, 'state')}{age}, kept for {number_of(cache, 'ttl_s')} s"
    admission, auto = table_of(answer, "admission"), table_of(answer, "auto")
    if admission:
        wait_ms = admission.get("predicted_wait_ms")
        wait = f", about {number_of(admission, 'predicted_wait_ms')} ms to wait" if wait_ms else ""
        yield f"a message now: {text_of(admission, 'would')}, {text_of(admission, 'why')}{wait}"
    if auto:
        yield f"mode auto now: {text_of(auto, 'would')}, {text_of(auto, 'why')}"
    yield from _pool_lines(table_of(answer, "pool"))


def _route_lines(route: Row, override: Row) -> Iterator[str]:
    if route:
        decides = f", decided by {text_of(route, 'decides')}" if route.get("decides") != route.get("name") else ""
        others = route.get("others")
        rest = f"; other routes: {', '.join(map(str, others))}" if isinstance(others, list) and others else ""
        yield f"route {text_of(route, 'name')}{decides}: {text_of(route, 'why')}{rest}"
    placed = table_of(route, "key")
    if placed:
        rollout = f" (rollout {text_of(placed, 'rollout')})" if placed.get("rollout") else ""
        yield f"key {text_of(placed, 'key')} takes {text_of(placed, 'route')}{rollout}: {text_of(placed, 'why')}"
        yield from _stage_line(placed)
    if override:
        none = "" if override.get("there") else ", which is not there, so that it has no effect"
        left = number_of(override, "left_s")
        yield f"override: new messages go to {text_of(override, 'backend')} for another {left} s{none}"


def _stage_line(placed: Row) -> Iterator[str]:
    stage = table_of(placed, "stage")
    if stage:
        yield (
            f"the rollout is {text_of(placed, 'state')}, at {number_of(stage, 'percent')} %: "
            f"stage {text_of(stage, 'number')} of {text_of(stage, 'of')}"
        )


def _pool_lines(pool: Row) -> Iterator[str]:
    if not pool:
        return
    budgets, waiting = table_of(pool, "budgets"), table_of(pool, "waiting")
    retry, hedge = table_of(budgets, "retry"), table_of(budgets, "hedge")
    yield (
        f"slots: {number_of(pool, 'busy')} of {text_of(pool, 'slots')} busy (load {number_of(pool, 'load')}), "
        f"{text_of(pool, 'warm_slots')} warm; places: {text_of(pool, 'free')} of {text_of(pool, 'places')} free, "
        f"{text_of(pool, 'reserved')} of them for critical messages"
    )
    yield (
        f"budgets: {number_of(retry, 'tokens')} retries (most {number_of(retry, 'most')}), "
        f"{number_of(hedge, 'tokens')} hedges (most {number_of(hedge, 'most')}); "
        f"trouble {number_of(pool, 'trouble_share')}; mean latency {number_of(pool, 'reference_ms')} ms"
    )
    by_priority = " ".join(f"{priority}: {text_of(waiting, priority)}" for priority in waiting)
    trials = pool.get("trials")
    named = ", ".join(map(str, trials)) if isinstance(trials, list) and trials else "none"
    due = "due" if pool.get("explore_due") else "not due"
    yield f"waiting by priority: {by_priority or '-'}; exploration {due}; due for trial: {named}"


def _heads_table(rows: Sequence[Row]) -> str:
    cells = [
        [
            text_of(row, "head"),
            text_of(row, "backend"),
            state_text(row),
            f"{text_of(row, 'in_flight')}/{text_of(row, 'places')}",
            text_of(row, "reason"),
        ]
        for row in rows
    ]
    return table(["HEAD", "BACKEND", "STATE", "OPEN", "REASON"], cells)


def _terms_table(rows: Sequence[Row]) -> str:
    scored = [row for row in rows if row.get("score") is not None]
    terms = list(dict.fromkeys(term for row in scored for term in table_of(row, "terms")))
    totals = [("WEIGHT", "weight"), ("SCORE", "score")]
    if any(row.get("logit") is not None for row in scored):  # then the terms add up to it, and scores are weights
        totals[1] = ("Z", "logit")
    cells = [
        [
            *(text_of(row, key) for key in ("backend", *(key for _, key in totals))),
            *(text_of(table_of(row, "terms"), term) for term in terms),
        ]
        for row in scored
    ]
    return table(["BACKEND", *(title for title, _ in totals), *map(str.upper, terms)], cells)


def _measured_table(rows: Sequence[Row]) -> str:
    columns = [*MEASURED, *(column for column in SOMETIMES if any(row.get(column[1]) for row in rows))]
    cells = [[text_of(row, "backend"), *(number_of(row, key) for _, key in columns)] for row in rows]
    return table(["BACKEND", *(title for title, _ in columns)], cells)
