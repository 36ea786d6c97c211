"""The end of the demo: what the backends found, and how the messages were shared among them.

Rules:
- Every number is a backend's answer, the daemon's own, or the demo's count of its messages; nothing is estimated here.
- Reads well without a terminal: plain words, tables of at most `WIDTH` columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from demo_app.ledger import Ledger, Story
from demo_app.roster import ROSTER
from demo_app.table import NO_VALUE, Scene, number, state_of

WIDTH: Final = 116
EPISODES_SHOWN: Final = 10
ALERTS_SHOWN: Final = 8

FANOUT: Final = (
    "A message that does not say otherwise may be handed to up to three backends at once (`unsaid_idempotent = "
    '"copies"`): the first answer counts, the others are cancelled.'
)


@dataclass(slots=True)
class Ending:
    """What the summary needs beside the last scene."""

    scene: Scene
    why: str
    when: Callable[[float], str]
    notes: list[str]
    spooled: int
    datagrams: int
    seed: int


def tell(console: Console, ending: Ending) -> None:
    """Print the summary."""
    scene, ledger = ending.scene, ending.scene.ledger
    console.print()
    console.rule("[bold]what fan-out does", style="dim", align="left")
    console.print(FANOUT)
    console.print(
        f"\n{ending.why} after {scene.elapsed_s:.1f} s on {escape(scene.title)}: {ledger.sent:,} messages sent, "
        f"{ledger.answered:,} answered, {ledger.errors.total():,} ended in an error.",
        highlight=False,
    )
    for note in ending.notes:
        console.print(f"Note: {escape(note)}.", highlight=False)
    _tell_errors(console, ledger)
    _tell_series(console, ledger)
    _tell_episodes(console, ending)
    _tell_alerts(console, ending)
    _tell_backends(console, ending)
    _tell_daemon(console, scene)


def _tell_errors(console: Console, ledger: Ledger) -> None:
    for (capability, code), count in ledger.errors.most_common():
        detail = ledger.error_detail[capability, code]
        console.print(f"  {count} x {capability}: {code}, last: {escape(detail)}", highlight=False)


def _table(title: str, *columns: str, left: int = 1) -> Table:
    """Return a table whose first `left` columns are words and whose others are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right")
    return table


def short(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _tell_series(console: Console, ledger: Ledger) -> None:
    console.print()
    console.rule("[bold]what the backends found", style="dim", align="left")
    if not ledger.stories:
        console.print("Nothing: no window was analysed.")
        return
    table = _table(
        f"{len(ledger.stories)} series analysed: p50, p95 and mean of the last window, extremes and trends of all",
        *("series", "windows", "samples", "p50", "p95", "mean", "min", "max", "anomalies", "last trend"),
        *("rising/falling",),
    )
    for series, story in sorted(ledger.stories.items()):
        table.add_row(series, *_series_row(story))
    console.print(table)
    filled = sum(story.filled for story in ledger.stories.values())
    if filled:
        console.print(
            f"Gaps were filled by the cleaning backends, up to {filled} samples in a window.", highlight=False
        )


def _series_row(story: Story) -> list[str]:
    cells = [f"{story.windows:,}", f"{story.samples:,}"]
    if story.aggregate is None:
        cells += [NO_VALUE] * 5
    else:
        cells += [short(story.aggregate[key]) for key in ("p50", "p95", "mean")]
        cells += [short(story.minimum), short(story.maximum)]
    cells.append(str(len(story.episodes) + story.episodes_forgotten))
    if story.trend is None:
        return [*cells, NO_VALUE, NO_VALUE]
    direction = story.trend["direction"]
    change = (
        ""
        if direction == "flat"
        else f" {'+' if story.trend['change'] > 0 else '-'}{short(abs(story.trend['change']))}"
    )
    return [*cells, direction + change, f"{story.trends['rising']}/{story.trends['falling']}"]


def _tell_episodes(console: Console, ending: Ending) -> None:
    ledger = ending.scene.ledger
    episodes = ledger.episodes()
    if not episodes:
        console.print("Anomalies: none.")
        return
    shown = min(EPISODES_SHOWN, len(episodes))
    title = f"{ledger.episode_count()} anomalies" + (
        f", the {shown} strongest" if ledger.episode_count() > shown else ""
    )
    table = _table(title, "time", "series", "found by", "value", "score", "samples", left=3)
    for episode in episodes[:shown]:
        table.add_row(
            ending.when(episode.time),
            episode.series,
            f"{episode.method} ({episode.backend})",
            short(episode.value),
            f"{episode.score:.1f}",
            str(episode.samples),
        )
    console.print(table)


def _tell_alerts(console: Console, ending: Ending) -> None:
    ledger = ending.scene.ledger
    alerts = list(ledger.alerts.values())
    handed = ", ".join(f"{count} by {sink}" for sink, count in sorted(ledger.exports.items())) or "none"
    console.print(
        f"Alerts: {len(alerts) + ledger.alerts_forgotten}; handed on: {handed} "
        f"(the spool file held {ending.spooled} lines, {ending.datagrams} datagrams arrived).",
        highlight=False,
    )
    for alert in alerts[-ALERTS_SHOWN:]:
        console.print(f"  {escape(alert['text'])}", highlight=False)
    if len(alerts) > ALERTS_SHOWN:
        console.print(f"  (the last {ALERTS_SHOWN} of them)", highlight=False)


def _tell_backends(console: Console, ending: Ending) -> None:
    scene = ending.scene
    console.print()
    console.rule("[bold]how the messages were shared", style="dim", align="left")
    snapshot = scene.snapshot
    total = snapshot.all_delivered() or 1
    table = _table(
        f"by backend (extra times and failures from seed {ending.seed})",
        *(
            "backend",
            "state",
            "deliveries",
            "share",
            "acked",
            "cancelled",
            "failed",
            "answered first",
            "EWMA",
            "success",
        ),
        left=2,
    )
    for spec in ROSTER:
        entry = snapshot.backends.get(spec.name)
        known = entry or {}
        outcomes = snapshot.deliveries.get(spec.name, {})
        count, acked, cancelled = sum(outcomes.values()), outcomes.get("acked", 0), outcomes.get("cancelled", 0)
        table.add_row(
            spec.name,
            state_of(entry, scene.children.get(spec.name)),
            *(f"{count:,}", f"{count / total:.1%}"),
            *(f"{acked:,}", f"{cancelled:,}", f"{count - acked - cancelled:,}"),
            f"{scene.ledger.answers_of[spec.name]:,}",
            number(known.get("latency_ms"), "ms"),
            number(None if "success_ratio" not in known else known["success_ratio"] * 100, "%"),
        )
    console.print(table)


def _tell_daemon(console: Console, scene: Scene) -> None:
    snapshot, ledger = scene.snapshot, scene.ledger
    hits = number(None if snapshot.hit_ratio is None else snapshot.hit_ratio * 100, "%")
    console.print(
        f"Routing decisions: p50 {number(snapshot.decision_us(0.5), 'us', 2)}, "
        f"p99 {number(snapshot.decision_us(0.99), 'us', 2)}, cache hits {hits}. "
        f"End to end: p50 {number(ledger.latency_ms(0.5), 'ms')}, p99 {number(ledger.latency_ms(0.99), 'ms')}.",
        highlight=False,
    )
