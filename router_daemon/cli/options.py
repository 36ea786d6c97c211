"""Options that several commands share, and where the daemon is that they speak of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from router_daemon.cli.exits import USAGE, CommandError
from router_daemon.config import addresses, load_config, tokens

ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="TOML file to read.")]
Admin = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="The daemon's admin room. [default: configured]")]
Token = Annotated[
    str | None,
    typer.Option(metavar="TOKEN", help="Asked for where the admin room has one. [default: configured]"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the daemon's JSON answer.")]


def admin_address(flag: str | None, file: Path | None) -> str:
    """Return where the admin room is: what the flag says, else what is configured.

    Raises:
        CommandError: it is switched off, or no address.
        ConfigError: the configuration is wrong.
    """
    address = load_config(file, os.environ).admin.bind if flag is None else flag
    if not address:
        raise CommandError(USAGE, "the admin room is switched off (admin.bind): say where it is with --admin HOST:PORT")
    return reachable("--admin", address)


def admin_token(flag: str | None, file: Path | None) -> str:
    """Return what the admin room asks for before it lets anybody write: the flag, else what is configured, else "".

    Raises:
        CommandError: no header can carry it.
        ConfigError: the configuration is wrong.
    """
    token = tokens.admin_token(load_config(file, os.environ).admin) if flag is None else flag
    if not token.isascii() or not token.isprintable():
        raise CommandError(USAGE, "--token: must be printable ASCII")
    return token


def reachable(option: str, address: str) -> str:
    """Return where to connect to for what is bound to `address`.

    Raises:
        CommandError: it is none.
    """
    try:
        return addresses.reachable(address)
    except ValueError as error:
        raise CommandError(USAGE, f"{option} {address}: {error}") from None
