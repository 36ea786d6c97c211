"""The end of the demo: what the backends found, and how the messages were shared among them.

Rules:
- Every number is a backend's answer, the daemon's own, or the demo's count of its messages; nothing is estimated here.
- Reads well without a terminal: plain words, tables of at most `WIDTH` columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from demo_app.analysis import short
from demo_app.ledger import Ledger, Story
from demo_app.roster import ROSTER
from demo_app.table import NO_VALUE, Scene, number, state_of

WIDTH: Final = 116
EPISODES_SHOWN: Final = 10
ALERTS_SHOWN: Final = 8

FANOUT: Final = (
    "A message that does not say otherwise may be handed to up to three backends at once while they are nearly idle "
    '(`unsaid_idempotent = "copies"`): the first answer counts, the others are cancelled.'
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


def _print_table(
    console: Console,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    *,
    words: int = 1,
    wide_only: Sequence[str] = (),
) -> None:
    """Print rows; the first `words` columns hold words, the others numbers, `wide_only` needs `WIDTH` columns."""
    wide = console.width >= WIDTH
    shown = [index for index, name in enumerate(columns) if wide or name not in wide_only]
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1 if wide else 0),
    )
    for index in shown:
        table.add_column(columns[index], justify="left" if index < words else "right")
    for row in rows:
        table.add_row(*(row[index] for index in shown))
    console.print(table)


def _tell_series(console: Console, ledger: Ledger) -> None:
    console.print()
    console.rule("[bold]what the backends found", style="dim", align="left")
    if not ledger.stories:
        console.print("Nothing: no window was analysed.")
        return
    _print_table(
        console,
        f"{len(ledger.stories)} series analysed: p50, p95 and mean of the last window, extremes of all",
        ("series", "windows", "samples", "p50", "p95", "mean", "min", "max", "anomalies", "last trend"),
        [[series, *_series_row(story)] for series, story in sorted(ledger.stories.items())],
        wide_only=("samples", "p95"),
    )
    if filled := max(story.filled for story in ledger.stories.values()):
        console.print(f"Gaps were filled by the cleaning backends, at most {filled} in one window.", highlight=False)


def _series_row(story: Story) -> list[str]:
    cells = [f"{story.windows:,}", f"{story.samples:,}"]
    if story.aggregate is None:
        cells += [NO_VALUE] * 5
    else:
        cells += [short(story.aggregate[key]) for key in ("p50", "p95", "mean")]
        cells += [short(story.minimum), short(story.maximum)]
    cells.append(str(len(story.episodes) + story.episodes_forgotten))
    if story.trend is None:
        return [*cells, NO_VALUE]
    direction, change = story.trend["direction"], story.trend["change"]
    return [*cells, direction if direction == "flat" else f"{'+' if change > 0 else ''}{short(change)}"]


def _tell_episodes(console: Console, ending: Ending) -> None:
    ledger = ending.scene.ledger
    episodes = ledger.episodes()
    if not episodes:
        console.print("Anomalies: none.")
        return
    count, shown = ledger.episode_count(), min(EPISODES_SHOWN, len(episodes))
    title = "1 anomaly" if count == 1 else f"{count} anomalies"
    if count > shown:
        title += f", the {shown} strongest"
    rows = [
        (
            *(ending.when(episode.time), episode.series, episode.method, episode.backend),
            *(short(episode.value), f"{episode.score:.1f}", str(episode.samples)),
        )
        for episode in episodes[:shown]
    ]
    columns = ("time", "series", "found by", "on", "value", "score", "samples")
    _print_table(console, title, columns, rows, words=4, wide_only=("on", "samples"))


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
    _print_table(
        console,
        f"by backend, extra times and failures from seed {ending.seed}; cancelled are copies that came second",
        ("backend", "state", "deliveries", "share", "acked", "cancelled", "failed", "answers", "EWMA ms", "success"),
        [_backend_row(scene, spec.name) for spec in ROSTER],
        words=2,
        wide_only=("share", "success"),
    )


def _backend_row(scene: Scene, name: str) -> list[str | Text]:
    snapshot = scene.snapshot
    outcomes = snapshot.deliveries.get(name, {})
    count, acked, cancelled = sum(outcomes.values()), outcomes.get("acked", 0), outcomes.get("cancelled", 0)
    latency_ms = snapshot.latency_ms(name)
    return [
        name,
        state_of(snapshot.backends.get(name), scene.children.get(name)),
        *(f"{count:,}", f"{count / (snapshot.all_delivered() or 1):.1%}"),
        *(f"{acked:,}", f"{cancelled:,}", f"{count - acked - cancelled:,}"),
        f"{scene.ledger.answers_of[name]:,}",
        NO_VALUE if latency_ms is None else f"{latency_ms:,.1f}",
        number(snapshot.success_percent(name), "%"),
    ]


def _tell_daemon(console: Console, scene: Scene) -> None:
    snapshot, ledger = scene.snapshot, scene.ledger
    hits = number(None if snapshot.hit_ratio is None else snapshot.hit_ratio * 100, "%")
    copied = snapshot.copied()
    console.print(
        f"Of the messages, {number(None if copied is None else copied * 100, '%')} had more than one delivery, most of "
        f"them at once, while little else was going on. Hedges, because the first was late: {snapshot.hedges:,}; "
        f"retries, because one had failed: {snapshot.retries:,}; backends ejected for failing: {snapshot.ejections:,}.",
        highlight=False,
    )
    console.print(
        f"Routing decisions: p50 {number(snapshot.decision_us(0.5), 'us', 2)}, "
        f"p99 {number(snapshot.decision_us(0.99), 'us', 2)}, cache hits {hits}. "
        f"End to end: p50 {number(ledger.latency_ms(0.5), 'ms')}, p99 {number(ledger.latency_ms(0.99), 'ms')}.",
        highlight=False,
    )
