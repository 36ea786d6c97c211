"""`router-daemon route`: how the rollout does, and what people may say to it.

Rules:
- Options stand after the subcommand: one before it would be easy to overlook, and another daemon be told.
- The token is that of `--token`, else the configured one; on a command line everybody on the machine can read it.
"""

# ruff: noqa: PLC0415 - a command loads only the rooms that it needs

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from router_daemon.cli.exits import USAGE, CommandError, reported
from router_daemon.cli.options import Admin, AsJson, ConfigFile, Token, admin_address, admin_token

SECONDS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

app = typer.Typer(
    name="route", help="Show the routes and the rollout, or lead it.", rich_markup_mode=None, no_args_is_help=False
)


@app.callback(invoke_without_command=True)
@reported
def show(context: typer.Context, config: ConfigFile = None, admin: Admin = None, as_json: AsJson = False) -> None:
    """Show the routes of the running daemon and how its rollout does, or lead the rollout with a subcommand.

    What came of each route's messages, what the stage waits for, the overrides, what happened and who said what.

    Exit code: 0, or 1 where no daemon answers.
    """
    if context.invoked_subcommand is not None:
        if config is not None or admin is not None or as_json:
            raise CommandError(USAGE, f"options stand after the subcommand: route {context.invoked_subcommand} ...")
        return
    from router_daemon.cli import asking

    _print(asking.fetch(admin_address(admin, config), "/routes"), as_json)


@app.command()
@reported
def rollback(
    why: Annotated[str | None, typer.Option(metavar="TEXT", help="For those who look at it later.")] = None,
    config: ConfigFile = None,
    admin: Admin = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Give all that the candidate has to stable, at once and until somebody resumes.

    Exit code: 0, 1 where no daemon answers, 3 where it refuses.
    """
    _tell("rollback", {} if why is None else {"why": why}, config, admin, token, as_json)


@app.command()
@reported
def resume(config: ConfigFile = None, admin: Admin = None, token: Token = None, as_json: AsJson = False) -> None:
    """Begin the rollout again at its first stage, after it was stopped or rolled back.

    Exit code: 0, 1 where no daemon answers, 3 where it refuses.
    """
    _tell("resume", {}, config, admin, token, as_json)


@app.command()
@reported
def advance(config: ConfigFile = None, admin: Admin = None, token: Token = None, as_json: AsJson = False) -> None:
    """Go to the next stage, whatever the present one waits for.

    Exit code: 0, 1 where no daemon answers, 3 where it refuses.
    """
    _tell("advance", {}, config, admin, token, as_json)


@app.command()
@reported
def percent(
    number: Annotated[float, typer.Argument(metavar="N", min=0.0, max=100.0, help="Of the messages, in percent.")],
    config: ConfigFile = None,
    admin: Admin = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Give the candidate this share; further stages are those above it.

    Exit code: 0, 1 where no daemon answers, 3 where it refuses.
    """
    _tell("percent", {"percent": number}, config, admin, token, as_json)


@app.command()
@reported
def override(
    capability: Annotated[str, typer.Option(metavar="C", help="Whose new messages.")],
    backend: Annotated[str | None, typer.Option(metavar="B", help="Where they all go.")] = None,
    for_: Annotated[str | None, typer.Option("--for", metavar="TIME", help="How long: 30s, 10m, 2h, 1d.")] = None,
    end: Annotated[bool, typer.Option("--end", help="End it instead.")] = False,
    config: ConfigFile = None,
    admin: Admin = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Send all new messages of a capability to one backend for a time, or end that.

    Exit code: 0, 1 where no daemon answers, 3 where it refuses.
    """
    if end:
        if backend is not None or for_ is not None:
            raise CommandError(USAGE, "override --end takes --capability alone")
        _tell("override", {}, config, admin, token, as_json, method="DELETE", capability=capability)
        return
    if backend is None or for_ is None:
        raise CommandError(USAGE, "override takes --capability, --backend and --for, or --capability and --end")
    asked = {"capability": capability, "backend": backend, "for_s": seconds_of(for_)}
    _tell("override", asked, config, admin, token, as_json)


def seconds_of(text: str, option: str = "--for") -> float:
    """Return a time like 30s, 10m, 2h, 1d or 90 in seconds.

    Raises:
        CommandError: it is none.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd]?)", text, re.ASCII)
    seconds = math.nan if match is None else float(match[1]) * SECONDS[match[2]]
    if not seconds > 0.0:
        raise CommandError(USAGE, f"{option} {text}: must be a time above 0 like 30s, 10m, 2h or 1d")
    return seconds


def _tell(
    what: str,
    body: Mapping[str, Any],
    config: Path | None,
    admin: str | None,
    token: str | None,
    as_json: bool,
    **more: str,
) -> None:
    from router_daemon.cli import asking

    address = admin_address(admin, config)
    _print(asking.tell(address, f"/routes/{what}", body, admin_token(token, config), **more), as_json)


def _print(answer: Mapping[str, Any], as_json: bool) -> None:
    from router_daemon.cli import routing

    print(json.dumps(answer, indent=2) if as_json else routing.routes_text(answer))
