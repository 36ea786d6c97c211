"""Where the scenes go: a live table in a terminal, a plain line now and then elsewhere, a picture when asked."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from rich.console import Console
from rich.live import Live

from demo_app import table
from demo_app.table import Scene

FRAME_S: Final = 0.25
LINE_S: Final = 3.0
PICTURE_WIDTH: Final = 128
PICTURE_HEIGHT: Final = 40


class Output(Console):
    """The demo's standard output; when nobody reads it any more it says so once, and is silent from then on."""

    def __init__(self, width: int | None = None) -> None:
        super().__init__(width=width)
        self.on_closed: Callable[[], None] = lambda: None

    def on_broken_pipe(self) -> None:
        """Go on without an output instead of leaving from the middle of a task, as rich would."""
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()
        self.on_closed()


class Stage(Protocol):
    """Shows scenes every `period_s`."""

    period_s: float

    def draw(self, scene: Scene) -> None:
        """Show this scene."""
        ...

    def close(self) -> None:
        """Leave the terminal as a summary wants it."""
        ...


class LiveStage:
    """Redraws one table in place."""

    period_s = FRAME_S

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._live.start()

    def draw(self, scene: Scene) -> None:
        """Show this scene."""
        size = self._live.console.size
        self._live.update(table.draw(scene, size.width, size.height), refresh=True)

    def close(self) -> None:
        """Leave the last table standing."""
        self._live.stop()


class PlainStage:
    """Prints one line per scene."""

    period_s = LINE_S

    def __init__(self, console: Console) -> None:
        self._console = console

    def draw(self, scene: Scene) -> None:
        """Show this scene."""
        self._console.print(table.progress_line(scene), highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing to leave."""


def stage_for(console: Console) -> Stage:
    return LiveStage(console) if console.is_terminal else PlainStage(console)


def save_picture(scene: Scene, path: Path) -> None:
    """Save the table as SVG, without the web fonts that rich would load from elsewhere."""
    console = Console(
        record=True, width=PICTURE_WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(table.draw(scene, PICTURE_WIDTH, PICTURE_HEIGHT))
    picture = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="./scripts/demo"), flags=re.DOTALL)
    picture = picture.replace("Fira Code, monospace", "'Fira Code', 'DejaVu Sans Mono', monospace")
    path.write_text(picture, encoding="utf-8")
