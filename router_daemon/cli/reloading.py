"""What the command `reload` prints."""

from __future__ import annotations

from router_daemon.cli.asking import Row, rows_of, text_of
from router_daemon.logs import printable


def changed_text(answer: Row) -> str:
    """Return what took effect, a line for each key."""
    return "\n".join(map(_line, rows_of(answer, "changed"))) or "nothing has changed"


def restart_lines(answer: Row) -> list[str]:
    """Return a line for each key that needs a restart."""
    return [f"needs a restart: {_line(row)}" for row in rows_of(answer, "needs_restart")]


def _line(row: Row) -> str:
    return printable(f"{text_of(row, 'key')}: {text_of(row, 'old')} -> {text_of(row, 'new')}")
