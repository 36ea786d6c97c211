"""The answers of /decisions as text for a terminal: one message in full, or many in a line each.

Rules: as in `asking`.
"""

from __future__ import annotations

import textwrap
import urllib.parse
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from router_daemon.cli.asking import Row, number_of, rows_of, table, table_of, text_of
from router_daemon.logs import printable

COLUMNS: Final = 100
TERMS: Final = {
    "compared": "terms: exact, as compared at that moment",
    "ranking": "terms: exact, those of the ranking, by which the policy goes",
    "named": "terms: none, since the message names its backend",
    "unrecorded": "terms: not recorded; the deliveries have what was expected of those chosen",
}
MEASURED: Final = (
    ("OPEN", "in_flight"),
    ("FREE", "free"),
    ("OTHER", "other"),
    ("WORK MS", "service_ms"),
    ("WAIT MS", "expected_wait_ms"),
    ("E MS", "expected_ms"),
    ("SUCCESS", "success_ratio"),
    ("N", "samples"),
)
TIMES: Final = (
    ("SENT", "sent_ms"),
    ("FIRST PART", "first_part_ms"),
    ("SETTLED", "settled_ms"),
    ("ANSWERED LATE", "answered_late_ms"),
    ("TOOK", "latency_ms"),
)


def path_of(ident: str) -> str:
    """Return the page of a message."""
    return f"/decisions/{urllib.parse.quote(ident, safe='', errors='surrogateescape')}"


def list_text(answer: Row) -> str:
    """Return a line for each entry."""
    rows = rows_of(answer, "decisions")
    if not rows:
        return "no decisions"
    cells = [
        [
            _moment(row),
            text_of(row, "message"),
            text_of(row, "id"),
            text_of(row, "capability"),
            text_of(row, "priority"),
            text_of(row, "kept"),
            text_of(row, "outcome"),
            number_of(row, "took_ms"),
            ", ".join(_names(row)) or "-",
        ]
        for row in rows
    ]
    return table(["WHEN", "MESSAGE", "ID", "CAPABILITY", "PRIO", "KEPT", "OUTCOME", "MS", "BACKENDS"], cells)


def why_text(answer: Row) -> str:
    """Return everything about each message that was found."""
    return "\n\n\n".join("\n\n".join(_paragraphs(row)) for row in rows_of(answer, "decisions"))


def _paragraphs(row: Row) -> Iterator[str]:
    yield "\n".join(_wrapped(line) for line in _lines(row))
    deliveries = rows_of(row, "deliveries")
    if deliveries:
        yield f"deliveries, in ms since the message came{_left_out(row, 'deliveries')}\n{_deliveries(deliveries)}"
    for decision in rows_of(row, "decisions"):
        yield _decision(decision)
    if row.get("decisions_left_out"):
        yield f"further decisions{_left_out(row, 'decisions')}"
    nearest = table_of(row, "nearest")
    if nearest:
        later = nearest.get("later_ms")
        when = "later" if isinstance(later, int | float) and later > 0 else "earlier"
        off = {"off": abs(later)} if isinstance(later, int | float) else {}
        yield _wrapped(
            f"the nearest message of the kind whose first decision has its terms: {text_of(nearest, 'message')}, "
            f"{number_of(off, 'off')} ms {when}"
        )


def _lines(row: Row) -> Iterator[str]:
    mode = table_of(row, "mode")
    yield (
        f"{text_of(row, 'message')}: {text_of(row, 'capability')}, priority {text_of(row, 'priority')}, "
        f"id {text_of(row, 'id')} ({text_of(row, 'id_kind')}) of client {text_of(row, 'client')}, "
        f"trace {text_of(row, 'trace_id')}"
    )
    yield (
        f"came {_moment(row)} ({number_of(row, 'ago_s')} s ago) with {text_of(row, 'body_bytes')} bytes and "
        f"{number_of(row, 'ttl_ms')} ms to live; kept as {text_of(row, 'kept')}"
    )
    words = ", last failure: " if row.get("outcome") == "answered" else ": "
    reason = f"{words}{row['reason']}" if row.get("reason") else ""
    by = f" by {row['answered_by']}" if row.get("answered_by") else ""
    waited = f", of which it waited {number_of(row, 'waited_ms')} ms for a place" if row.get("waited_ms") else ""
    yield f"{text_of(row, 'outcome')}{by} after {number_of(row, 'took_ms')} ms{waited}{reason}"
    cost = f", max_cost {number_of(row, 'max_cost')}" if row.get("max_cost") is not None else ""
    yield (
        f"mode {text_of(mode, 'as')} (asked: {text_of(mode, 'asked')}; done: {text_of(mode, 'done')}), up to "
        f"{text_of(row, 'heads')} heads, reply {text_of(row, 'reply')}{cost}; route {text_of(row, 'route')}, "
        f"policy {text_of(row, 'policy')}"
    )


def _decision(decision: Row) -> str:
    pool, rows = table_of(decision, "pool"), rows_of(decision, "candidates")
    terms = str(decision.get("terms"))
    first = _wrapped(
        f"decision ({text_of(decision, 'kind')}) after {number_of(decision, 'after_ms')} ms, by "
        f"{text_of(decision, 'policy')} over {text_of(decision, 'backends')} candidates; ranking: "
        f"{text_of(decision, 'cache')}, {number_of(decision, 'ranking_age_ms')} ms old; "
        f"places: {text_of(pool, 'free')} of {text_of(pool, 'places')} free, {text_of(pool, 'reserved')} reserved; "
        f"{number_of(pool, 'busy')} of {text_of(pool, 'slots')} slots busy; mean latency "
        f"{number_of(pool, 'reference_ms')} ms"
    )
    said = f"{first}\n{TERMS.get(terms, terms)}"
    return f"{said}\n{_candidates(rows)}" if rows else said


def _candidates(rows: Sequence[Row]) -> str:
    terms = list(dict.fromkeys(term for row in rows for term in table_of(row, "terms")))
    cost = [("COST", "cost")] if any(row.get("cost") is not None for row in rows) else []
    measured = [*MEASURED, *cost]
    cells = [
        [
            text_of(row, "head"),
            text_of(row, "backend"),
            text_of(row, "score"),
            *(text_of(table_of(row, "terms"), term) for term in terms),
            *(number_of(row, key) for _, key in measured),
            text_of(row, "reason"),
        ]
        for row in rows
    ]
    titles = [title for title, _ in measured]
    return table(["HEAD", "BACKEND", "SCORE", *map(str.upper, terms), *titles, "REASON"], cells)


def _deliveries(rows: Sequence[Row]) -> str:
    times = [column for column in TIMES if any(row.get(column[1]) is not None for row in rows)]
    cells = [
        [
            text_of(row, "head"),
            text_of(row, "backend"),
            text_of(row, "outcome") + (", the answer" if row.get("answered") else ""),
            *(number_of(row, key) for _, key in times),
            number_of(table_of(row, "expected"), "service_ms"),
            number_of(table_of(row, "expected"), "work_share"),
            text_of(row, "queue"),
            "trial" if row.get("trial") else "",
        ]
        for row in rows
    ]
    titles = [title for title, _ in times]
    return table(["HEAD", "BACKEND", "OUTCOME", *titles, "EXPECTED WORK", "WORK SHARE", "QUEUE", "NOTE"], cells)


def _names(row: Row) -> list[str]:
    value = row.get("backends")
    return [str(name) for name in value] if isinstance(value, list) else []


def _left_out(row: Row, what: str) -> str:
    count = row.get(f"{what}_left_out")
    return f" ({count} more are not told)" if count else ""


def _moment(row: Row) -> str:
    at = row.get("at")
    if not isinstance(at, int | float):
        return "-"
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    except (OverflowError, ValueError, OSError):
        return "-"


def _wrapped(line: str) -> str:
    return textwrap.fill(
        printable(line), COLUMNS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
