"""The answer of /ring as text for a terminal: this daemon's links, the others and the ways to them, what was counted.

Rules: as in `asking`.
"""

from __future__ import annotations

from router_daemon.cli.asking import Row, number_of, rows_of, table, table_of, text_of
from router_daemon.logs import printable

COUNTED = ("forwarded", "taken", "relayed", "resent", "duplicates", "links_lost")


def ring_text(answer: Row) -> str:
    """Return the whole answer; that there is no ring where that is so."""
    if not answer.get("name"):
        return "no ring"
    links, daemons = rows_of(answer, "links"), rows_of(answer, "daemons")
    reached = sum(bool(row.get("reachable")) for row in daemons)
    counts = table_of(answer, "counts")
    paragraphs = [
        printable(
            f"{text_of(answer, 'name')} of ring {text_of(answer, 'ring')}"
            f"{', draining' if answer.get('draining') else ''}: "
            f"{reached} of {len(daemons)} other daemons can be reached"
        )
        + "\n"
        + ", ".join(f"{text_of(counts, name)} {name.replace('_', ' ')}" for name in COUNTED),
        table(["NEIGHBOUR", "STATE", "RTT MS", "DIALLED", "ADDRESS", "WHY"], [_link_cells(row) for row in links])
        if links
        else "no links",
    ]
    if daemons:
        header = ["DAEMON", "HOPS", "WAY MS", "HEARD S", "BACKENDS", "PATH"]
        paragraphs.append(table(header, [_daemon_cells(row) for row in daemons]))
    return "\n\n".join(paragraphs)


def _link_cells(row: Row) -> list[str]:
    return [
        text_of(row, "neighbour"),
        text_of(row, "state"),
        number_of(row, "rtt_ms"),
        "yes" if row.get("dialled") else "no",
        text_of(row, "address"),
        text_of(row, "why"),
    ]


def _daemon_cells(row: Row) -> list[str]:
    path, backends = row.get("path"), row.get("backends")
    return [
        text_of(row, "name"),
        text_of(row, "hops"),
        number_of(row, "way_ms"),
        number_of(row, "heard_s"),
        str(len(backends)) if isinstance(backends, list) else "-",
        " ".join(map(str, path)) if isinstance(path, list) and path else "unreachable",
    ]
