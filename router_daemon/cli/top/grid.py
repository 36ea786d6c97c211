"""The table on the screen: lays out rows again and again without losing where somebody is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.text import Text
from textual.widgets import DataTable

from router_daemon.cli.top.cells import Cell, Column, Line, Table

MOST_ROWS: Final = 500
NARROW: Final = 80
STYLES: Final = {"": "", "good": "green", "note": "cyan", "warn": "yellow", "bad": "bold red", "dim": "dim"}


class Grid(DataTable[Text]):
    """One table at a time; the row under the cursor stays the same one where it is there still."""

    def __init__(self, name: str) -> None:
        super().__init__(id=name, cursor_type="row", zebra_stripes=True, fixed_columns=1)
        self._shows: tuple[str, tuple[str, ...]] = ("", ())

    def lay_out(self, table: Table, lines: Sequence[Line], sort: str, *, falling: bool, width: int) -> None:
        """Show the first `MOST_ROWS` of these rows; `width`: of the screen, in cells."""
        titles = tuple(_title(column, sort, falling=falling) for column in table.columns)
        same_table = self._shows[0] == table.key
        same_titles = self._shows == (table.key, titles)
        at = self.key_at_cursor() if same_table else None
        offset = (self.scroll_x, self.scroll_y) if same_table else (0.0, 0.0)
        self._shows = table.key, titles
        self.clear(columns=not same_titles)
        if not same_titles:
            for column, title in zip(table.columns, titles, strict=True):
                self.add_column(Text(title, justify="right" if column.right else "left"), key=column.key)
        longest = max(10, width // 3) if width < NARROW else width
        for line in lines[:MOST_ROWS]:
            first, *others = (_laid(cell, column) for cell, column in zip(line.cells, table.columns, strict=True))
            first.truncate(longest, overflow="ellipsis")  # it stays while the others scroll
            self.add_row(first, *others, key=line.key)
        if at is not None and any(line.key == at for line in lines[:MOST_ROWS]):
            self.move_cursor(row=self.get_row_index(at), animate=False, scroll=False)
        self.scroll_to(*offset, animate=False, force=True, immediate=True)

    def key_at_cursor(self) -> str | None:
        """Return the key of the row under the cursor; None where there is none."""
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value if self.row_count else None


def _title(column: Column, sort: str, *, falling: bool) -> str:
    if column.key != sort:
        return column.title
    return f"{column.title} {'▼' if falling else '▲'}"


def _laid(cell: Cell, column: Column) -> Text:
    return Text(cell.text, style=STYLES[cell.tone], justify="right" if column.right else "left", no_wrap=True)
