"""The screens that lie over the tables: help, and a question before something is changed."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Static

HELP: Final = """\
router-daemon top shows what the running daemon does.

 1 to 6, Tab     the views; a click on a tab
 up, down        the row; PgUp, PgDn, Home, End
 left, right     scroll where the terminal is narrow
 < and >         sort by the column before, or after
 r               the other way round
                 (a click on a title: sort by it; again: reverse)
 /               show only rows with a text; Enter keeps it,
                 Esc ends it
 d               drain the backend of the row: nothing new goes
                 there; asks first
 u               let it have messages again; asks first
 p               pause: what is shown stays
 R               read at once
 ?, F1           this page
 q, Ctrl-C       quit

Rates, percentiles and shares above the tables are those of the
last 5 seconds. MS and OK % of a backend are its moving averages,
those by which messages are routed; of a route, since the start.

STATE  up
       paused: it said busy, and gets nothing for so long
       ejected: it fails, and gets nothing for so long
       draining: it is about to leave, as it said itself
       drained: a person said so; `u` ends it
       disconnected: its connection is lost, it may come back
OPEN   deliveries open there, of the places it has
"""


class Help(ModalScreen[None]):
    """What the keys do."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q,question_mark,f1,enter", "dismiss", "Close")]
    CSS = """
    Help { align: center middle; }
    Help > VerticalScroll { width: 72; max-width: 100%; height: auto; max-height: 100%; border: round $primary;
        padding: 0 1; background: $surface; }
    """

    def compose(self) -> ComposeResult:
        """Return the page."""
        with VerticalScroll():
            yield Static(HELP, markup=False)


class Question(ModalScreen[bool]):
    """Asks yes or no; whatever is not yes is no.

    Args:
        what: what would be done, as plain text.
        more: what follows from it.
        yes: on the button.
    """

    BINDINGS: ClassVar[list[BindingType]] = [("y", "answer(True)", "Yes"), ("n,escape,q", "answer(False)", "No")]
    CSS = """
    Question { align: center middle; }
    Question > Vertical { width: 60; max-width: 100%; height: auto; border: round $warning; padding: 1 2;
        background: $surface; }
    Question #more { color: $text-muted; margin-top: 1; }
    Question Horizontal { height: auto; margin-top: 1; align: center middle; }
    Question Button { margin: 0 1; min-width: 12; }
    """

    def __init__(self, what: str, more: str, yes: str, **more_keys: Any) -> None:
        super().__init__(**more_keys)
        self._what = what
        self._more = more
        self._yes = yes

    def compose(self) -> ComposeResult:
        """Return the question with its buttons; the one in focus changes nothing."""
        with Vertical():
            yield Static(Text(self._what, style="bold"))
            yield Static(Text(self._more), id="more")
            with Horizontal():
                yield Button("No (n)", id="no")
                yield Button(self._yes, id="yes", variant="warning")

    def on_mount(self) -> None:
        """Put the focus where Enter does no harm."""
        self.query_one("#no", Button).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Answer."""
        self.dismiss(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        """Answer by a key."""
        self.dismiss(yes)
