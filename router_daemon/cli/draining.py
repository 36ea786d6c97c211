"""`router-daemon drain` and `undrain`: give one backend nothing new, and end that.

Rules:
- Both end with a table of who is drained, so that nobody is forgotten.
- With `--wait`, drain returns once nothing is open there any more: then its host may go. It asks, and gets no news.
"""

# ruff: noqa: PLC0415 - a command loads only the rooms that it needs

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from router_daemon.cli.exits import FAILED, CommandError, reported
from router_daemon.cli.options import Admin, AsJson, ConfigFile, Token, admin_address, admin_token

PATH: Final = "/backends/drain"
LOOK_S: Final = 0.5

Name = Annotated[str, typer.Argument(metavar="NAME", help="As `router-daemon backends` shows it.")]


@reported
def drain(
    name: Name,
    wait: Annotated[
        str | None, typer.Option("--wait", metavar="TIME", help="Until nothing is open there: 30s, 10m; at most.")
    ] = None,
    config: ConfigFile = None,
    admin: Admin = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Send a backend nothing new, until `undrain`.

    What is open there goes on, and its registration stays in force. Whoever registers again under the name gets nothing
    either, also after a restart of the daemon where there is a state.dir.

    Exit code: 0, 1 where no daemon answers, 3 where it refuses (there is no such backend), 4 where the time of --wait
    is over and something is open still.
    """
    from router_daemon.cli import asking
    from router_daemon.cli.operating import seconds_of

    address, most_s = admin_address(admin, config), None if wait is None else seconds_of(wait, "--wait")
    answer = asking.tell(address, PATH, {"backend": name}, admin_token(token, config))
    if most_s is not None:
        answer = _idle(address, name, most_s)
    _print(answer, as_json)


@reported
def undrain(
    name: Name, config: ConfigFile = None, admin: Admin = None, token: Token = None, as_json: AsJson = False
) -> None:
    """Let a backend that was drained have messages again.

    One that drains itself, as when it is about to exit, comes back by registering again and not by this.

    Exit code: 0, 1 where no daemon answers, 3 where it refuses (nobody has drained it).
    """
    from router_daemon.cli import asking

    address = admin_address(admin, config)
    _print(asking.tell(address, PATH, {}, admin_token(token, config), method="DELETE", backend=name), as_json)


def _idle(address: str, name: str, most_s: float) -> dict[str, Any]:
    """Return who is drained once nothing is open at one of them.

    Raises:
        CommandError: the time is over.
    """
    from router_daemon.cli import asking

    until = time.monotonic() + most_s
    while True:
        answer = asking.fetch(address, PATH)
        open_there = [row.get("in_flight") for row in asking.rows_of(answer, "drained") if row.get("backend") == name]
        if not any(open_there):
            return answer
        if time.monotonic() >= until:
            raise CommandError(FAILED, f"{name} is drained, and {open_there[0]} deliveries are open there still")
        time.sleep(min(LOOK_S, max(0.0, until - time.monotonic())))


def _print(answer: Mapping[str, Any], as_json: bool) -> None:
    print(json.dumps(answer, indent=2) if as_json else drained_text(answer))


def drained_text(answer: Mapping[str, Any]) -> str:
    """Return who is drained, a line each."""
    from router_daemon.cli import asking

    cells = [
        [
            asking.text_of(row, "backend"),
            asking.number_of(row, "for_s"),
            "yes" if row.get("registered") else "no",
            asking.text_of(row, "in_flight"),
        ]
        for row in asking.rows_of(answer, "drained")
    ]
    return asking.table(["DRAINED", "FOR S", "REGISTERED", "OPEN"], cells) if cells else "nobody is drained"
