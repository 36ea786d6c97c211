"""`router-daemon top`: the command line, and `--once` for pipes."""

# ruff: noqa: PLC0415 - a command loads only the rooms that it needs

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Final

import typer

from router_daemon.cli.exits import USAGE, CommandError, reported
from router_daemon.cli.options import Admin, ConfigFile, Token, admin_address, admin_token

MISSING: Final = "top needs textual: pip install 'router-daemon[top]' (without it: top --once)"
VIEWS: Final = ("backends", "capabilities", "routes", "waiting", "links", "daemons")


@reported
def top(
    once: Annotated[
        bool, typer.Option("--once", help="Print one table and end; rates are of the time between two readings.")
    ] = False,
    view: Annotated[str, typer.Option(metavar="V", help=f"To begin with: {', '.join(VIEWS)}.")] = "backends",
    sort: Annotated[str, typer.Option(metavar="COLUMN", help="By its title. [default: the first]")] = "",
    reverse: Annotated[bool, typer.Option("--reverse", help="With --once: the other way round.")] = False,
    filter_: Annotated[str, typer.Option("--filter", metavar="TEXT", help="Only rows with this text.")] = "",
    every: Annotated[float, typer.Option(metavar="S", min=0.2, max=3600.0, help="Seconds between two readings.")] = 1.0,
    config: ConfigFile = None,
    admin: Admin = None,
    token: Token = None,
) -> None:
    """Watch the running daemon: backends, capabilities, routes, the waiting room, the ring.

    Sort by any column, filter, drain a backend; ? shows the keys. Where the daemon goes away it is asked again until it
    is back. The token is asked for by the daemon where something is to be changed, not for looking.

    Exit code: 0; with --once 1 where no daemon answers; 2 where textual is missing (--once does without).
    """
    if view not in VIEWS:
        raise CommandError(USAGE, f"--view {view}: must be one of {', '.join(VIEWS)}")
    address = admin_address(admin, config)
    if once:
        print(printed(address, view, sort, reverse=reverse, wanted=filter_, every_s=every))
        return
    if importlib.util.find_spec("textual") is None:
        raise CommandError(USAGE, MISSING)
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):  # textual writes to the last
        raise CommandError(USAGE, "top needs a terminal; in a pipe: top --once")
    known_token = admin_token(token, config)

    from router_daemon.cli import asking
    from router_daemon.cli.draining import PATH
    from router_daemon.cli.top.app import Top
    from router_daemon.cli.top.reading import read

    def drain(name: str, drained: bool) -> None:
        if drained:
            asking.tell(address, PATH, {"backend": name}, known_token)
        else:
            asking.tell(address, PATH, {}, known_token, method="DELETE", backend=name)

    Top(partial(read, address), address, drain, every_s=every, view=view, sort=sort, wanted=filter_).run()


def printed(
    address: str,
    view: str,
    sort: str,
    *,
    reverse: bool,
    wanted: str,
    every_s: float,
    pause: Callable[[float], None] = time.sleep,
) -> str:
    """Return one view as plain text, from two readings.

    Raises:
        CommandError: no daemon answers, or the view or the column does not exist.
    """
    from router_daemon.cli import asking
    from router_daemon.cli.top import status
    from router_daemon.cli.top.cells import arranged
    from router_daemon.cli.top.figures import Figures
    from router_daemon.cli.top.reading import read
    from router_daemon.cli.top.views import tables

    figures = Figures()
    figures.take(read(address))
    pause(every_s)
    figures.take(read(address))
    table = tables(figures).get(view)
    if table is None:
        raise CommandError(USAGE, f"--view {view}: the daemon at {address} is in no ring")
    column = table.column(sort or table.sort)
    if column is None:
        titles = ", ".join(each.title for each in table.columns)
        raise CommandError(USAGE, f"--sort {sort}: {view} has the columns {titles}")
    falling = (column.falling if sort else False) != reverse
    lines = arranged(table, column.key, falling=falling, wanted=wanted)
    cells = [[cell.long or cell.text for cell in line.cells] for line in lines]
    shown = asking.table([each.title for each in table.columns], cells) if cells else table.empty
    head = (status.daemon_line(figures, address, time.time()), status.traffic_line(figures))
    return "\n\n".join(filter(None, ["\n".join(head), shown, "\n".join(table.notes)]))
