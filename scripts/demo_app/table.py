"""The live table: who gets which messages, how each backend is doing, and what was found last.

Rules:
- Draws what `gauges`, `ledger` and `processes` hold at that moment; measures nothing.
- The daemon's word decides about a backend, except that a process which ended is shown as such at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from demo_app.gauges import Snapshot
from demo_app.ledger import Ledger
from demo_app.processes import Child
from demo_app.roster import ROSTER, Spec

SHORT: Final = {
    "data_processing": "processing",
    "anomaly_detection": "anomalies",
    "trend_analysis": "trends",
    "alert_generation": "alerts",
    "metric_aggregation": "aggregation",
    "external_integration": "integration",
}
WIDE: Final = 120
"""Columns from which on there is room for what each backend can do."""
EXTRA: Final = "hedges/retries"
ROOM_FOR_EXTRA: Final = 100
LINES_BESIDE_NEWS: Final = 22
BAR_CELLS: Final = 10
NARROW_BAR_CELLS: Final = 4
NO_VALUE: Final = "-"


@dataclass(slots=True)
class Scene:
    """All that one drawing shows."""

    title: str
    elapsed_s: float
    snapshot: Snapshot
    ledger: Ledger
    children: dict[str, Child]


def number(value: float | None, unit: str, digits: int = 1) -> str:
    return NO_VALUE if value is None else f"{value:,.{digits}f} {unit}"


def state_of(entry: dict[str, Any] | None, child: Child | None) -> Text:
    """Return the state of a backend: the process's end before the daemon's word, for it is known first."""
    if child is not None and not child.running:
        return Text(f"lost: {child.cause()}", "bold red")
    if entry is None:
        return Text("starting", "yellow")
    if entry.get("up"):
        state = str(entry.get("state") or "up")
        return Text(state, "green" if state == "up" else "yellow")
    return Text("lost", "bold red")


def vitals(scene: Scene) -> list[tuple[str, str]]:
    """Return the numbers of the daemon and of the messages, by name."""
    snapshot, ledger = scene.snapshot, scene.ledger
    hits = None if snapshot.hit_ratio is None else snapshot.hit_ratio * 100
    return [
        ("elapsed", f"{scene.elapsed_s:.0f} s"),
        ("messages", f"{ledger.sent:,} ({snapshot.messages_per_s:,.0f}/s)"),
        ("cache hits", number(hits, "%")),
        (
            "decision p50/p99",
            f"{number(snapshot.decision_us(0.5), 'us')} / {number(snapshot.decision_us(0.99), 'us')}",
        ),
        ("end to end p50/p99", f"{number(ledger.latency_ms(0.5), 'ms')} / {number(ledger.latency_ms(0.99), 'ms')}"),
        (EXTRA, f"{snapshot.hedges:,} / {snapshot.retries:,}"),
        ("errors", f"{ledger.errors.total():,}"),
    ]


def draw(scene: Scene, width: int, height: int) -> RenderableType:
    """Return the whole picture for a console of that size; a low one shows less of the news."""
    news_lines = max(1, height - LINES_BESIDE_NEWS)
    news = "\n".join(list(scene.ledger.news)[-news_lines:]) or "nothing yet"
    return Group(
        Rule(Text.assemble(("router-daemon", "bold"), f" on {scene.title}"), style="cyan", align="left"),
        _header(scene, width),
        _backends(scene, width),
        Rule("found last", style="dim", align="left"),
        Text(news, overflow="ellipsis", no_wrap=True),
    )


def _header(scene: Scene, width: int) -> Table:
    grid = Table.grid(padding=(0, 3 if width >= WIDE else 1))
    named = [(name, value) for name, value in vitals(scene) if name != EXTRA or width >= ROOM_FOR_EXTRA]
    for _ in named:
        grid.add_column(justify="left", no_wrap=True)
    grid.add_row(*(Text(name, "dim") for name, _ in named))
    grid.add_row(*(Text(value, "bold") for _, value in named))
    return grid


def _backends(scene: Scene, width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", padding=(0, 1 if width >= WIDE else 0))
    table.add_column("backend", style="cyan", no_wrap=True)
    table.add_column("pid", justify="right", style="dim", no_wrap=True)
    if width >= WIDE:
        table.add_column("can do", ratio=1)
    table.add_column("state", no_wrap=True)
    table.add_column("share", no_wrap=True)
    table.add_column("answers", justify="right", no_wrap=True)
    table.add_column("EWMA ms", justify="right", no_wrap=True)
    table.add_column("success", justify="right", no_wrap=True)
    table.add_column("open", justify="right", no_wrap=True)
    for spec in ROSTER:
        table.add_row(*_row(spec, scene, width))
    return table


def _row(spec: Spec, scene: Scene, width: int) -> list[RenderableType]:
    entry = scene.snapshot.backends.get(spec.name)
    child = scene.children.get(spec.name)
    snapshot = scene.snapshot
    share = snapshot.delivered(spec.name) / (snapshot.all_delivered() or 1)
    abilities = ", ".join(SHORT[capability] for capability in spec.work)
    answered = scene.ledger.answers_of[spec.name] / (scene.ledger.answered or 1)
    latency_ms, success = snapshot.latency_ms(spec.name), snapshot.success_percent(spec.name)
    return [
        spec.name,
        str(child.pid) if child else NO_VALUE,
        *([abilities] if width >= WIDE else []),
        state_of(entry, child),
        _bar(share, BAR_CELLS if width >= WIDE else NARROW_BAR_CELLS),
        f"{answered:.1%}",
        NO_VALUE if latency_ms is None else f"{latency_ms:.1f}",
        NO_VALUE if success is None else Text(f"{success:.1f}%", "yellow" if success < 90 else ""),
        str((entry or {}).get("in_flight", NO_VALUE)),
    ]


def _bar(share: float, cells: int) -> Text:
    full = min(cells, round(share * cells * 3))  # a third of all deliveries fills it: twelve share them
    return Text.assemble(("█" * full, "blue"), ("·" * (cells - full), "dim"), f" {share:5.1%}")


def progress_line(scene: Scene) -> str:
    """Return the same in one line, for where there is no terminal."""
    listed = scene.snapshot.backends
    up = sum(1 for name, child in scene.children.items() if child.running and listed.get(name, {}).get("up"))
    numbers = ", ".join(f"{name} {value}" for name, value in vitals(scene)[1:])
    return f"{scene.elapsed_s:4.0f} s  {up} of {len(ROSTER)} backends up, {numbers}"
