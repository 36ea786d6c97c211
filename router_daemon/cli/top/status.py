"""The lines above the tables: whose daemon this is, what it does as a whole, and what is wrong. PURE."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from router_daemon.cli.top.cells import number, percent
from router_daemon.cli.top.figures import Figures
from router_daemon.cli.top.reading import START
from router_daemon.cli.top.views import success_of
from router_daemon.logs import printable

BLOCKS: Final = "▁▂▃▄▅▆▇█"
ROOM: Final = 1.25
"""So much higher than the largest value is the line: a steady rate is then no solid bar."""


WIDE: Final = 1000


def daemon_line(figures: Figures, address: str, calendar_s: float, room: int = WIDE) -> str:
    """Return which daemon it is, for how long it has been up, and what it takes, in `room` characters where that is so.

    Args:
        figures: of the daemon.
        address: of its admin room.
        calendar_s: seconds since 1970.
        room: what does not fit is left out, the least important first.
    """
    versions = [dict(key).get("version", "") for key in figures.values("router_build_info")]
    parts = [f"router-daemon {''.join(versions[:1])} at {address}".replace("  ", " ")]
    started = figures.value(START)
    if started is not None:
        parts.append(f"up {duration(calendar_s - started)}")
    cpu, memory = figures.rate("process_cpu_seconds_total"), figures.value("process_resident_memory_bytes")
    if cpu is not None:
        parts.append(f"cpu {100.0 * cpu:.0f} %")
    if memory is not None:
        parts.append(f"{memory / 1e6:.0f} MB")
    return printable(_fitted(parts, room))


def traffic_line(figures: Figures, room: int = WIDE) -> str:
    """Return what all messages together did in the window; `room`: as of `daemon_line`."""
    rate, _, success = success_of(figures, "router_messages_total")
    p50, p99 = (figures.quantile(share, "router_message_seconds") for share in (0.5, 0.99))
    ratio = _hit_ratio(figures)
    parts = [
        f"{number(rate).text} msg/s",
        f"{percent(success).text} % answered",
        f"p99 {number(p99, unit=1000.0).text} ms",
        f"{_count(figures, 'router_messages_waiting')} waiting",
        f"{_count(figures, 'router_messages_in_flight')} open",
        f"p50 {number(p50, unit=1000.0).text} ms",
        *([] if ratio is None else [f"cache {percent(ratio).text} %"]),
    ]
    return _fitted(parts, room)


def _fitted(parts: Sequence[str], room: int) -> str:
    """Return the first parts, as many as there is room for, and the first in any case."""
    line = parts[0]
    for part in parts[1:]:
        if len(line) + 3 + len(part) > room:
            break
        line += f" · {part}"
    return line


def _count(figures: Figures, name: str) -> str:
    value = figures.value(name)
    return "-" if value is None else str(int(value))


def _hit_ratio(figures: Figures) -> float | None:
    """Return hits over look-ups of the decision cache in the window."""
    asked = figures.more("router_decision_cache_requests_total")
    hits = figures.more("router_decision_cache_requests_total", result="hit")
    return hits / asked if asked and hits is not None else None


def duration(seconds: float) -> str:
    """Return a time in the two largest units that it has."""
    whole = max(0, int(seconds))
    for unit_s, unit, smaller_s, smaller in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit_s:
            return f"{whole // unit_s} {unit} {whole % unit_s // smaller_s} {smaller}"
    return f"{whole} s"


def spark(values: Sequence[float | None], width: int) -> str:
    """Return the last values as a line of blocks, the largest of them nearly as high as a line; gaps are spaces."""
    shown = list(values)[-width:] if width > 0 else []
    most = ROOM * max(_known(shown), default=0.0)
    return "".join(" " if value is None else _block(value, most) for value in shown)


def _block(value: float, most: float) -> str:
    return BLOCKS[min(len(BLOCKS) - 1, int(value / most * len(BLOCKS)))] if most else BLOCKS[0]


def _known(values: Iterable[float | None]) -> Iterable[float]:
    return (value for value in values if value is not None)
