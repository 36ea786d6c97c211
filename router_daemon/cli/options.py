"""Options that several commands share, and where the daemon is that they speak of."""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import Annotated

import typer

from router_daemon.cli.exits import USAGE, CommandError
from router_daemon.config import addresses, load_config, tokens


class Mode(enum.StrEnum):
    """How a message is spread over its heads."""

    AUTO = "auto"
    FANOUT = "fanout"
    HEDGE = "hedge"
    SINGLE = "single"


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


def socket_address(option: str, flag: str | None, file: Path | None, section: str) -> str:
    """Return where to connect to: what the flag says, else the first address that the daemon is configured to bind.

    Raises:
        CommandError: it is no endpoint.
        ConfigError: the configuration is wrong.
    """
    if flag is None:
        loaded = load_config(file, os.environ)
        flag = (loaded.frontend if section == "frontend" else loaded.backend).addresses[0]
    if "://" not in flag:
        raise CommandError(USAGE, f"{option} {flag}: must be {addresses.ENDPOINT_RULE}")
    return reachable(option, flag)


def reachable(option: str, address: str) -> str:
    """Return where to connect to for what is bound to `address`.

    Raises:
        CommandError: it is none.
    """
    try:
        return addresses.reachable(address)
    except ValueError as error:
        raise CommandError(USAGE, f"{option} {address}: {error}") from None
