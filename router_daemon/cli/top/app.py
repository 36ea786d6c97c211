"""The terminal of `router-daemon top`.

Rules:
- What is shown is made by `views` and `status`; here it is only laid out. Every text is put on the screen as
  `rich.Text`, never as markup: names come from peers.
- The screen is never waited for by a reading, nor a reading by the screen: a thread reads (`reader`) and makes the
  tables, and what it made is handed over between two keys.
- While there is no daemon, what was seen last stays, dimmed, under a line that says since when.
- At most `MOST_ROWS` rows are laid out, since a terminal shows fifty of them; a filter finds the others.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Final

from rich.text import Text
from textual import events, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Input, Static, Tab, Tabs

from router_daemon.cli.exits import CommandError
from router_daemon.cli.top import status
from router_daemon.cli.top.cells import Line, Table, arranged
from router_daemon.cli.top.figures import Figures
from router_daemon.cli.top.grid import MOST_ROWS, Grid
from router_daemon.cli.top.reader import Reader, Source
from router_daemon.cli.top.reading import Reading
from router_daemon.cli.top.screens import Help, Question
from router_daemon.cli.top.views import tables
from router_daemon.logs import printable

RATES_KEPT: Final = 120

Drain = Callable[[str, bool], None]
"""Drains a backend by its name (True), or ends that; raises CommandError where the daemon refuses."""


class Top(App[None]):
    """The whole of it.

    Args:
        source: reads once, in a thread.
        address: of the admin room, to be shown.
        drain: what the keys `d` and `u` do, in a thread.
        every_s: between two readings, at least.
        view, sort, wanted: the table to begin with, its column, and the filter.
    """

    TITLE = "router-daemon top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head { height: auto; padding: 0 1; background: $panel; }
    #problem { height: auto; padding: 0 1; background: $error; color: $text; display: none; }
    #notes { height: auto; max-height: 40%; padding: 0 1; color: $text-muted; }
    #filter { display: none; border: none; height: 1; padding: 0 1; }
    Tabs { height: 2; }
    Grid { height: 1fr; scrollbar-color: $primary-darken-2; scrollbar-background: $surface; }
    .stale Grid, .stale #notes { opacity: 50%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", "Quit"),
        Binding("question_mark,f1", "help", "Help", key_display="?"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("less_than_sign", "sort(-1)", "Sort", key_display="<"),
        Binding("greater_than_sign", "sort(1)", "Sort", key_display=">"),
        Binding("r", "reverse", "Reverse"),
        Binding("d", "drain(True)", "Drain"),
        Binding("u", "drain(False)", "Undrain"),
        Binding("p", "pause", "Pause"),
        Binding("R", "read", "Read", show=False),
        Binding("escape", "unfilter", "All", show=False),
        Binding("tab", "turn(1)", "Next", show=False, priority=True),
        Binding("shift+tab", "turn(-1)", "Previous", show=False, priority=True),
        *(Binding(str(number), f"view({number})", show=False) for number in range(1, 7)),
    ]

    def __init__(
        self,
        source: Source,
        address: str,
        drain: Drain,
        *,
        every_s: float = 1.0,
        view: str = "backends",
        sort: str = "",
        wanted: str = "",
        calendar: Callable[[], float] = time.time,
        **keys: Any,
    ) -> None:
        super().__init__(**keys)
        self._address = address
        self._drain = drain
        self._calendar = calendar
        self._figures, self._of_reader = Figures(), Figures()
        self._reader = Reader(source, self._hand_over, every_s)
        self._rates: deque[float | None] = deque(maxlen=RATES_KEPT)
        self._tables: dict[str, Table] = {}
        self._sorts: dict[str, tuple[str, bool]] = {}
        self._began_with = (view, sort)
        self._view = view
        self._wanted = wanted
        self._paused = False
        self._lost: tuple[float, str] | None = None

    # --- laying out ---

    def compose(self) -> ComposeResult:
        """Return what the screen has."""
        yield Static(id="head")
        yield Static(id="problem")
        yield Tabs(id="tabs")
        yield Grid("table")
        yield Static(id="notes")
        yield Input(self._wanted, placeholder="rows with this text; Enter keeps it, Esc ends it", id="filter")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to read."""
        self.query_one(Tabs).can_focus = False  # keys are the table's
        self.query_one(Grid).focus()
        self._head("asking ...")
        self._reader.start()

    def on_unmount(self) -> None:
        """End."""
        self._reader.stop()

    def on_resize(self, _: events.Resize) -> None:
        """Lay out again for another width."""
        self._lay_out()

    # --- what was read ---

    def _hand_over(self, found: Reading | CommandError) -> None:
        """Make tables of what the reader's thread has found, there, and give them to the screen's."""
        made: tuple[Figures, dict[str, Table]] | CommandError
        if isinstance(found, CommandError):
            self._of_reader.forget()
            made = found
        else:
            self._of_reader.take(found)
            figures = self._of_reader.copy()
            made = figures, tables(figures)
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # it has just been closed
            self._loop.call_soon_threadsafe(self.call_later, self._take, made)

    def _take(self, made: tuple[Figures, dict[str, Table]] | CommandError) -> None:
        if isinstance(made, CommandError):
            since = self._lost[0] if self._lost else time.monotonic()
            self._lost = since, str(made)
            self._rates.append(None)
            self._tell_problem()
            return
        self._lost = None
        self._figures, found = made
        self._rates.append(self._figures.rate("router_messages_total"))
        if not self._paused:
            self._tables = found
            self._choose_first()
        self._tell_problem()
        self._lay_out()

    def _choose_first(self) -> None:
        """Take over what the command line has said, once it is known what there is."""
        view, sort = self._began_with
        if self._view not in self._tables:
            self._view = next(iter(self._tables))
        if sort and view in self._tables:
            column = self._tables[view].column(sort)
            if column is not None:
                self._sorts[view] = column.key, column.falling
        self._began_with = "", ""

    def _tell_problem(self) -> None:
        problem = self.query_one("#problem", Static)
        problem.display = self._lost is not None
        self.screen_stack[0].set_class(self._lost is not None, "stale")
        if self._lost is not None:
            since, why = self._lost
            for_s = status.duration(time.monotonic() - since)
            problem.update(Text(printable(f"{why}; asking again (for {for_s})")))
            if not self._tables:
                self._head("no daemon yet")

    # --- laying out what is known ---

    def _lay_out(self) -> None:
        if not self._tables:
            return
        with self.batch_update():
            self._lay_out_head()
            self._lay_out_tabs()
            table = self._tables[self._view]
            sort, falling = self._sort_of(table)
            lines = arranged(table, sort, falling=falling, wanted=self._wanted)
            self.query_one(Grid).lay_out(table, lines, sort, falling=falling, width=self.size.width)
            self._lay_out_notes(table, lines)

    def _head(self, second: str) -> None:
        self.query_one("#head", Static).update(Text(f"router-daemon at {printable(self._address)}\n{second}"))

    def _lay_out_head(self) -> None:
        room = max(0, self.size.width - 2)
        first = Text(status.daemon_line(self._figures, self._address, self._calendar(), room), style="bold")
        if self._paused:
            first.append("  PAUSED", style="bold yellow")
        second = Text(status.traffic_line(self._figures, room))
        left = room - len(second) - 2
        if left >= 8:
            second.append("  " + status.spark(list(self._rates), min(left, 60)), style="cyan")
        self.query_one("#head", Static).update(Text("\n").join([first, second]))

    def _lay_out_tabs(self) -> None:
        tabs = self.query_one(Tabs)
        there = [str(tab.id) for tab in tabs.query(Tab)]
        if there != list(self._tables):
            tabs.clear()
            for number, (key, table) in enumerate(self._tables.items(), 1):
                tabs.add_tab(Tab(f"{number} {table.title}", id=key))
        if tabs.active != self._view and self._view in self._tables:
            with self.prevent(Tabs.TabActivated):
                tabs.active = self._view

    def _lay_out_notes(self, table: Table, lines: list[Line]) -> None:
        notes = list(table.notes)
        if not lines:
            notes.insert(0, f"no row has {self._wanted!r} in it" if self._wanted and table.lines else table.empty)
        elif len(lines) > MOST_ROWS:
            notes.insert(0, f"{MOST_ROWS} of {len(lines)} rows: press / to find others")
        elif self._wanted:
            notes.insert(0, f"{len(lines)} of {len(table.lines)} rows have {self._wanted!r} in them; Esc shows all")
        shown = self.query_one("#notes", Static)
        shown.update(Text("\n".join(map(printable, notes))))
        shown.display = bool(notes)

    # --- keys ---

    def _sort_of(self, table: Table) -> tuple[str, bool]:
        first = table.column(table.sort)
        return self._sorts.get(table.key, (table.sort, first is not None and first.falling and table.key != "waiting"))

    def action_view(self, number: int) -> None:
        """Show a view by its number."""
        keys = list(self._tables)
        if number <= len(keys):
            self._show(keys[number - 1])

    def action_turn(self, by: int) -> None:
        """Show the next view, or the one before; within a question, go to the next button."""
        if len(self.screen_stack) > 1:
            (self.screen.focus_next if by > 0 else self.screen.focus_previous)()
            return
        keys = list(self._tables)
        if keys:
            self._show(keys[(keys.index(self._view) + by) % len(keys)])

    def _show(self, view: str) -> None:
        self._view = view
        self._lay_out()

    def on_tabs_tab_activated(self, event: Tabs.TabActivated) -> None:
        """A tab was clicked."""
        current = event.tab.id == event.tabs.active  # else it is old news: a key was faster
        if current and event.tab.id in self._tables and event.tab.id != self._view:
            self._show(str(event.tab.id))

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """A title was clicked."""
        self._sort_by(str(event.column_key.value))

    def action_sort(self, by: int) -> None:
        """Sort by the next column, or the one before."""
        if self._tables:
            table = self._tables[self._view]
            keys = [column.key for column in table.columns]
            self._sort_by(keys[(keys.index(self._sort_of(table)[0]) + by) % len(keys)])

    def _sort_by(self, key: str) -> None:
        table = self._tables[self._view]
        sort, falling = self._sort_of(table)
        column = table.column(key)
        assert column is not None
        self._sorts[table.key] = key, (not falling if key == sort else column.falling)
        self._lay_out()

    def action_reverse(self) -> None:
        """Sort the other way round."""
        if self._tables:
            self._sort_by(self._sort_of(self._tables[self._view])[0])

    def action_filter(self) -> None:
        """Ask for a text."""
        field = self.query_one("#filter", Input)
        field.display = True
        self.screen.set_focus(field)  # at once: the next key is for it

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        self._wanted = event.value
        self._lay_out()

    def on_input_submitted(self, _: Input.Submitted) -> None:
        """Keep the filter."""
        self._close_filter()

    def action_unfilter(self) -> None:
        """Show all rows."""
        self._wanted = ""
        self.query_one("#filter", Input).value = ""
        self._close_filter()

    def _close_filter(self) -> None:
        self.query_one("#filter", Input).display = False
        self.query_one(Grid).focus()
        self._lay_out()

    def action_pause(self) -> None:
        """Keep what is shown, or go on."""
        self._paused = not self._paused
        self._reader.hurry()
        self._lay_out()

    def action_read(self) -> None:
        """Read at once."""
        self._reader.hurry()

    def action_help(self) -> None:
        """Show what the keys do."""
        self.push_screen(Help())

    # --- draining ---

    def action_drain(self, drained: bool) -> None:
        """Ask whether the backend of the row is to be drained, or to have messages again."""
        name = self.query_one(Grid).key_at_cursor() if self._view == "backends" and self._tables else None
        if name is None:
            self.notify("Choose a backend in the view Backends first.", severity="warning", markup=False)
            return
        if drained:
            what, yes = f"Drain {printable(name)}?", "Drain (y)"
            more = (
                "It gets nothing new, also after it registers again, until somebody undrains it. What is open goes on."
            )
        else:
            what, yes = f"Let {printable(name)} have messages again?", "Undrain (y)"
            more = "It begins as one that has just registered."

        def answered(said: bool | None) -> None:
            if said:
                self._drain_now(name, drained)

        self.push_screen(Question(what, more, yes), answered)

    @work(thread=True)
    def _drain_now(self, name: str, drained: bool) -> None:
        try:
            self._drain(name, drained)
        except CommandError as error:
            self.call_from_thread(self.notify, printable(str(error)), title="Refused", severity="error", markup=False)
            return
        said = f"{printable(name)} is drained." if drained else f"{printable(name)} gets messages again."
        self.call_from_thread(self.notify, said, markup=False)
        self._reader.hurry()
