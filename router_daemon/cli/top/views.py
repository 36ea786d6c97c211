"""The tables: backends, capabilities, routes, the waiting room, the ring's links and daemons. PURE.

Rules:
- Each is made from `Figures` alone, so that a reading in a test gives the table that an operator sees.
- What has no row in a daemon (a ring, where there is none) has no table.
- Columns stand in the order in which they are missed where the terminal is too narrow for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from router_daemon.cli import routing
from router_daemon.cli.asking import Row, number_of, rows_of, state_text, table_of, text_of
from router_daemon.cli.top.cells import Cell, Column, Line, Table, Tone, bar, number, percent, text
from router_daemon.cli.top.figures import Figures
from router_daemon.logs import printable

PRIORITIES: Final = {"1": "low", "2": "medium", "3": "high", "4": "critical"}
TONES: Final[Mapping[str, Tone]] = {
    "up": "good",
    "paused": "warn",
    "draining": "warn",
    "drained": "note",
    "ejected": "bad",
    "disconnected": "bad",
}
LOW_SUCCESS: Final = 0.95
BAD_SUCCESS: Final = 0.8
ACTS_SHOWN: Final = 3


def backends(figures: Figures) -> Table:
    """Return everybody who is registered, and whom a person has drained."""
    answer = _answer(figures, "backends")
    rows, drained = rows_of(answer, "backends"), rows_of(answer, "drained")
    said = [key for key in ("group", "zone", "version") if any(row.get(key) for row in rows)]
    columns = (
        Column("name", "NAME", right=False, falling=False),
        Column("state", "STATE", right=False, falling=False),
        Column("load", "OPEN", right=False),
        Column("rate", "DONE/S"),
        Column("failing", "FAIL/S"),
        Column("latency", "MS"),
        Column("success", "OK %", falling=False),
        Column("queue", "QUEUE"),
        Column("slots", "SLOTS"),
        Column("ejections", "EJECTED"),
        Column("seen", "SEEN S"),
        *(Column(key, key.upper(), right=False, falling=False) for key in said),
        Column("capabilities", "CAPABILITIES", right=False, falling=False),
    )
    lines = [_backend(figures, row, said) for row in rows]
    there = {text_of(row, "name") for row in rows}
    absent = [text_of(row, "backend") for row in drained if text_of(row, "backend") not in there]
    notes = (f"drained and not there: {printable(', '.join(absent))}",) if absent else ()
    return Table("backends", "Backends", columns, tuple(lines), "name", notes, empty="no backend is registered")


def _backend(figures: Figures, row: Row, said: list[str]) -> Line:
    name = text_of(row, "name")
    acked, failed = figures.backend_rates(name)
    slots, prefetch = row.get("slots"), row.get("prefetch")
    places = slots + prefetch if isinstance(slots, int) and isinstance(prefetch, int) else None
    capabilities = row.get("capabilities")
    return Line(
        name,
        (
            text(name),
            text(state_text(row), TONES.get(text_of(row, "state"), "")),
            bar(row.get("in_flight"), places),
            number(acked),
            number(failed, "bad" if failed else ""),
            number(row.get("latency_ms")),
            percent(row.get("success_ratio"), warn_below=LOW_SUCCESS, bad_below=BAD_SUCCESS),
            number(row.get("queue")),
            number(slots),
            number(row.get("ejections"), "warn" if row.get("ejections") else ""),
            number(row.get("last_seen_s")),
            *(text(row.get(key)) for key in said),
            text(", ".join(map(str, capabilities)) if isinstance(capabilities, list) else None),
        ),
    )


def capabilities(figures: Figures) -> Table:
    """Return what is asked for, and what is offered: the load, what comes of it, how long it takes."""
    columns = (
        Column("name", "CAPABILITY", right=False, falling=False),
        Column("up", "UP", right=False, falling=False),
        Column("load", "LOAD %"),
        Column("rate", "MSG/S"),
        Column("failing", "FAIL/S"),
        Column("success", "OK %", falling=False),
        Column("p50", "P50 MS"),
        Column("p99", "P99 MS"),
        Column("refused", "REFUSED/S"),
        Column("retries", "RETRY/S"),
        Column("hedges", "HEDGE/S"),
        Column("tokens", "RETRIES LEFT"),
    )
    offered = _offered(figures)
    asked = {dict(key).get("capability", "") for key in figures.values("router_messages_total")}
    asked |= {dict(key).get("capability", "") for key in figures.values("router_capability_load")}
    lines = [_capability(figures, name, offered) for name in sorted(asked | offered.keys()) if name]
    return Table("capabilities", "Capabilities", columns, tuple(lines), "name", empty="nobody has offered anything")


def _offered(figures: Figures) -> dict[str, tuple[int, int]]:
    """Return of each capability how many backends offer it, and how many of those are up."""
    offered: dict[str, tuple[int, int]] = {}
    for row in rows_of(_answer(figures, "backends"), "backends"):
        names = row.get("capabilities")
        for name in map(str, names) if isinstance(names, list) else ():
            there, up = offered.get(name, (0, 0))
            offered[name] = there + 1, up + (row.get("state") == "up")
    return offered


def _capability(figures: Figures, name: str, offered: Mapping[str, tuple[int, int]]) -> Line:
    total, answered, success = success_of(figures, "router_messages_total", capability=name)
    failing = None if total is None or answered is None else max(0.0, total - answered)
    there, up = offered.get(name, (0, 0))
    tone: Tone = "bad" if not up else "warn" if up < there else "good"
    refused = figures.rate("router_refusals_total", capability=name)
    tokens = figures.value("router_retry_budget_tokens", capability=name)
    load = figures.value("router_capability_load", capability=name)
    return Line(
        name,
        (
            text(name),
            Cell(f"{up}/{there}", up / there if there else 0.0, tone),
            number(load, "warn" if load is not None and load >= 0.9 else "", unit=100.0),
            number(total),
            number(failing, "bad" if failing else ""),
            percent(success, warn_below=0.999, bad_below=LOW_SUCCESS),
            number(figures.quantile(0.5, "router_message_seconds", capability=name), unit=1000.0),
            number(figures.quantile(0.99, "router_message_seconds", capability=name), unit=1000.0),
            number(refused, "bad" if refused else ""),
            number(figures.rate("router_retries_total", capability=name)),
            number(figures.rate("router_hedges_total", capability=name)),
            number(tokens, "warn" if tokens is not None and tokens < 1.0 else ""),
        ),
    )


def success_of(figures: Figures, name: str, **labels: str) -> tuple[float | None, float | None, float | None]:
    """Return messages per second, those answered, and their share; of a counter with a label `outcome`."""
    total, answered = figures.rate(name, **labels), figures.rate(name, outcome="answered", **labels)
    return total, answered, (answered or 0.0) / total if total else None


def routes(figures: Figures) -> Table:
    """Return the routes, and in notes how the rollout does, the overrides, and what people have said last."""
    answer = _answer(figures, "routes")
    rollout = table_of(answer, "rollout")
    columns = (
        Column("name", "ROUTE", right=False, falling=False),
        Column("policy", "POLICY", right=False, falling=False),
        Column("decides", "DECIDES", right=False, falling=False),
        Column("percent", "PERCENT"),
        Column("rate", "MSG/S"),
        Column("success", "OK %", falling=False),
        Column("p50", "P50 MS"),
        Column("p99", "P99 MS"),
        Column("deliveries", "HEADS/MSG"),
        Column("faults", "FAULTS"),
        Column("fallbacks", "FALLBACKS"),
        Column("quality", "QUALITY"),
    )
    rows = rows_of(answer, "routes")
    lines = [_route(figures, row, table_of(rollout, "percent"), alone=len(rows) == 1) for row in rows]
    return Table("routes", "Routes", columns, tuple(lines), "name", tuple(_route_notes(answer, rollout)))


def _route(figures: Figures, row: Row, shares: Row, *, alone: bool) -> Line:
    name, policy, decides = text_of(row, "name"), row.get("policy"), row.get("decides")
    faults = sum(n for n in table_of(row, "faults").values() if isinstance(n, int))
    fallbacks = sum(n for n in table_of(row, "fallbacks").values() if isinstance(n, int))
    rate = figures.rate("router_messages_total") if alone else figures.rate("router_route_messages_total", route=name)
    opened = row.get("breaker_open_s") is not None
    return Line(
        name,
        (
            text(name),
            text(policy),
            text(f"{decides}, breaker open" if opened else decides, "bad" if opened else ""),
            number(shares.get(name)),
            number(rate),
            percent(row.get("success"), warn_below=0.999, bad_below=LOW_SUCCESS),
            number(row.get("p50_ms")),
            number(row.get("p99_ms")),
            number(row.get("deliveries_per_message")),
            number(faults, "bad" if faults else ""),
            number(fallbacks, "warn" if fallbacks else ""),
            number(row.get("quality")),
        ),
    )


def _route_notes(answer: Row, rollout: Row) -> Iterator[str]:
    yield from map(printable, routing.rollout_lines(rollout, answer))
    for row in rows_of(answer, "overrides"):
        left = number_of(row, "left_s")
        yield printable(f"override: {text_of(row, 'capability')} to {text_of(row, 'backend')}, {left} s left")
    for row in rows_of(answer, "acts")[-ACTS_SHOWN:]:
        yield printable(f"{text_of(row, 'by')} said {text_of(row, 'what')}: {text_of(row, 'detail')}")


def waiting(figures: Figures) -> Table:
    """Return the waiting room by priority, and in notes why messages were refused."""
    columns = (
        Column("priority", "PRIORITY", right=False),
        Column("waiting", "WAITING"),
        Column("served", "SERVED/S"),
        Column("p50", "WAIT P50 MS"),
        Column("p99", "WAIT P99 MS"),
    )
    lines = [_priority(figures, number_, word) for number_, word in PRIORITIES.items()]
    causes = sorted({dict(key).get("cause", "") for key in figures.values("router_refusals_total")})
    refused = {cause: figures.rate("router_refusals_total", cause=cause) for cause in causes}
    said = ", ".join(f"{cause} {number(rate).text}/s" for cause, rate in refused.items() if rate)
    notes = (f"refused: {printable(said) or 'nothing'}",)
    return Table("waiting", "Waiting", columns, tuple(lines), "priority", notes)


def _priority(figures: Figures, priority: str, word: str) -> Line:
    count = figures.value("router_waiting_messages", priority=priority)
    waits = "router_waiting_seconds"
    return Line(
        priority,
        (
            Cell(f"{priority} {word}", priority),
            number(None if count is None else int(count), "warn" if count else ""),
            number(figures.rate(f"{waits}_count", priority=priority)),
            number(figures.quantile(0.5, waits, priority=priority), unit=1000.0),
            number(figures.quantile(0.99, waits, priority=priority), unit=1000.0),
        ),
    )


def links(figures: Figures) -> Table | None:
    """Return the links to neighbours in the ring; None without a ring."""
    answer = _answer(figures, "ring")
    if not answer.get("name"):
        return None
    columns = (
        Column("neighbour", "NEIGHBOUR", right=False, falling=False),
        Column("state", "STATE", right=False, falling=False),
        Column("rtt", "RTT MS"),
        Column("unanswered", "UNANSWERED"),
        Column("dialled", "DIALLED", right=False, falling=False),
        Column("address", "ADDRESS", right=False, falling=False),
        Column("why", "WHY", right=False, falling=False),
    )
    lines = []
    for place, row in enumerate(rows_of(answer, "links")):
        state = text_of(row, "state")
        tone: Tone = {"up": "good", "spare": "dim", "greeting": "note"}.get(state, "bad")  # type: ignore[assignment]
        cells = (
            text(row.get("neighbour")),
            text(state, tone),
            number(row.get("rtt_ms")),
            number(row.get("unanswered")),
            text("yes" if row.get("dialled") else "no"),
            text(row.get("address")),
            text(row.get("why")),
        )
        lines.append(Line(f"{text_of(row, 'neighbour')} {place}", cells))
    name = printable(f"{text_of(answer, 'name')} of ring {text_of(answer, 'ring')}")
    return Table("links", "Links", columns, tuple(lines), "neighbour", (f"this daemon: {name}",), empty="no links")


def daemons(figures: Figures) -> Table | None:
    """Return the other daemons of the ring and the ways to them; None without a ring."""
    answer = _answer(figures, "ring")
    if not answer.get("name"):
        return None
    columns = (
        Column("daemon", "DAEMON", right=False, falling=False),
        Column("reached", "REACHED", right=False, falling=False),
        Column("hops", "HOPS"),
        Column("way", "WAY MS"),
        Column("heard", "HEARD S"),
        Column("backends", "BACKENDS"),
        Column("path", "PATH", right=False, falling=False),
    )
    lines = [Line(text_of(row, "name"), _daemon(row)) for row in rows_of(answer, "daemons")]
    return Table("daemons", "Daemons", columns, tuple(lines), "daemon", empty="no other daemon is known")


def _daemon(row: Row) -> tuple[Cell, ...]:
    reachable, path, theirs = row.get("reachable"), row.get("path"), row.get("backends")
    return (
        text(row.get("name")),
        text("yes", "good") if reachable else text("no", "bad"),
        number(row.get("hops")),
        number(row.get("way_ms")),
        number(row.get("heard_s")),
        number(len(theirs) if isinstance(theirs, list) else None),
        text(" ".join(map(str, path)) if isinstance(path, list) else None),
    )


VIEWS: Final[Mapping[str, Callable[[Figures], Table | None]]] = {
    "backends": backends,
    "capabilities": capabilities,
    "routes": routes,
    "waiting": waiting,
    "links": links,
    "daemons": daemons,
}


def tables(figures: Figures) -> dict[str, Table]:
    """Return every table that this daemon has."""
    made = ((key, view(figures)) for key, view in VIEWS.items())
    return {key: table for key, table in made if table is not None}


def _answer(figures: Figures, page: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = {} if figures.reading is None else getattr(figures.reading, page)
    return found
