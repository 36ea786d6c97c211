"""What a run prints in the end: the ledger, what was checked and found, and whether that is good."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Final, NamedTuple

from chaos_app.books import FATES, Account, Books
from chaos_app.daemon_side import compare, compare_proxied
from chaos_app.load import quantile
from chaos_app.memory import longest
from chaos_app.scene import Scene

COLUMNS: Final = ("sent", *FATES)
WIDTH: Final = 112


class Finding(NamedTuple):
    """One thing that was checked: its name, what was found, and what is wrong with it."""

    name: str
    found: str
    wrong: list[str]


def ledger(books: Books) -> str:
    """Return the table: a line for each capability, and their sum."""
    totals = books.totals()
    everything = Account()
    for account in totals.values():
        everything.sent += account.sent
        everything.outcomes.update(account.outcomes)
    rows = [_line("", *COLUMNS)]
    for name, account in [*sorted(totals.items()), ("total", everything)]:
        counts = account.by_fate()
        rows.append(_line(name, str(account.sent), *(str(counts[fate]) for fate in FATES)))
    codes = ", ".join(f"{code} {count}" for code, count in sorted(everything.outcomes.items()) if count)
    return "\n".join([*rows, "", wrapped(f"by outcome: {codes}")])


def _line(name: str, *cells: str) -> str:
    return "  ".join([f"{name:<8}", *(f"{cell:>{max(len(c), 6)}}" for c, cell in zip(COLUMNS, cells, strict=True))])


def wrapped(text: str, indent: int = 0) -> str:
    """Return the text in lines of at most `WIDTH`, all but the first one indented."""
    return textwrap.fill(text, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def findings(scene: Scene, least_goodput: float) -> list[Finding]:
    """Return everything that was checked."""
    books, stage = scene.books, scene.stage
    line = books.by_fate()
    sums = f"{line['sent']} sent = " + " + ".join(f"{line[fate]} {fate}" for fate in FATES)
    plateau = longest(scene.memory)
    twice = stage.ran_twice()
    proxied = books.totals().get("proxied", Account()).outcomes["lost"]
    return [
        Finding("the driver's ledger", sums, [*books.check(), *books.faults[:5]]),
        Finding("the daemon's ledger", *_daemon(scene)),
        Finding(
            "nothing runs twice that may not",
            f"{stage.ran_once()} runs of such messages",
            [f"{twice} of them ran again"] if twice else [],
        ),
        Finding(
            "lost only behind a fault",
            f"{proxied} messages of clients behind the proxy",
            [f"{proxied} lost, and nothing stood in their way"] if proxied and not scene.broken else [],
        ),
        Finding("answered by ttl + 100 ms", _times(scene), [f"{books.late} later"] if books.late else []),
        Finding("the daemon's memory", str(plateau), [] if plateau.holds else ["it still grows"]),
        *_floods(scene, least_goodput),
        Finding("the daemon's log", "no traceback, no fault", stage.complaints()[:5]),
    ]


def _daemon(scene: Scene) -> tuple[str, list[str]]:
    wrong: list[str] = []
    ended = 0
    for number, (accounts, page) in enumerate(zip(scene.books.lives, scene.pages, strict=True), 1):
        if page is None:
            wrong.append(f"life {number}: /metrics could not be read")
            continue
        quiet = number == len(scene.pages)
        wrong += [f"life {number}: {text}" for text in compare(accounts, page, quiet=quiet)]
        ended += sum(page.outcomes(capability).total() for capability in (*accounts, "unknown"))
    wrong += compare_proxied(scene.books.lives, [page for page in scene.pages if page is not None])
    lives = len(scene.pages)
    return (
        f"{ended} messages ended in {lives} {'life' if lives == 1 else 'lives'}, the last one compared exactly",
        wrong,
    )


def _times(scene: Scene) -> str:
    books, late_s = scene.books, scene.load.late_s
    return (
        f"{books.timed} answers of direct clients judged, the latest {books.worst_late_s * 1e3:.0f} ms from that mark "
        f"(allowed: {books.slack_s * 1e3:.0f}; {books.excused} more while the daemon could not run); the daemon waited "
        f"for a processor for {scene.memory.waited_s:.1f} s in all; the driver itself was late by "
        f"{quantile(late_s, 0.99) * 1e3:.1f} ms (p99), {max(late_s, default=0.0) * 1e3:.0f} ms at most"
    )


def _floods(scene: Scene, least: float) -> Iterable[Finding]:
    for name, window, told in scene.floods:
        low = window.goodput < least
        yield Finding(name, told, [f"the others' goodput is below {least:.0%}"] if low else [])
