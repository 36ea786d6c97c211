"""`router-daemon conform`: the daemon's side of the protocol, played against a client or a backend in any language.

Rules:
- Findings go to stdout, what the program itself prints goes where it prints it.
- Exit code 1 is a check that failed; with --strict also one that could not be made.
"""

# ruff: noqa: PLC0415 - a command loads only the rooms that it needs

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from router_daemon.cli.exits import USAGE, CommandError, complain, reported
from router_daemon.config import addresses

if TYPE_CHECKING:
    from router_daemon.conform.checks import Check, Finding
    from router_daemon.conform.play import Play, Scenario

BROKEN: Final = 1
TIMEOUT_S: Final = 10.0
BY_HAND_S: Final = 60.0
"""For the first message of a program that is started by hand."""


@reported
def conform(
    backend: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Listen there as the backend socket; a backend is checked.")
    ] = None,
    client: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Listen there as the frontend; a client is checked.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(metavar="CMD", help="Start the program, end it; {address} is where to connect."),
    ] = None,
    capabilities: Annotated[
        list[str] | None,
        typer.Option("--capability", metavar="ROLE=NAME", help="What has a role here; repeatable. --list names them."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="ID", help="This check only; may be repeated.")] = None,
    timeout_s: Annotated[
        float | None,
        typer.Option(
            "--timeout", metavar="S", min=0.1, help=f"How long to wait for what has to come. [default: {TIMEOUT_S:g}]"
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="A check that could not be made is a failure.")] = False,
    file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the findings there, too.")] = None,
    list_checks: Annotated[bool, typer.Option("--list", help="Name the checks, with what each stands on.")] = False,
) -> None:
    """Check a client or a backend against the protocol.

    Plays the daemon against it, and says which sentence of docs/protocol.md it breaks. Say --backend or --client, and
    have the program connect to that address (port 0: any free one), by hand or by --run. docs/conform.md says what a
    program made for this offers, so that all can be checked.

    Exit code: 0 where no check fails, 1 where one does (or it or the program cannot start), 2 for wrong usage.
    """
    if list_checks:
        print(_listing(backends=client is None, clients=backend is None))
        return
    if (backend is None) == (client is None):
        raise CommandError(USAGE, "conform takes either --backend ADDR or --client ADDR")
    option, address = ("--backend", backend) if backend is not None else ("--client", client)
    assert address is not None
    first_s = (timeout_s or BY_HAND_S) if run is None else 0.0
    play, scenarios = _cast(
        backend is not None, timeout_s or TIMEOUT_S, _roles(capabilities or ()), can_end=run is not None
    )
    wanted = _wanted(only or (), [finding.check.id for finding in play.book])
    from router_daemon.conform import report
    from router_daemon.conform.play import chosen

    where = _perform(play, chosen(scenarios, wanted), _address(option, address), _command(run), first_s)
    findings = [finding for finding in play.book if not wanted or finding.check.id in wanted]
    print(report.text(findings))
    if file is not None:
        _write(file, report.plain(option.strip("-"), where, findings))
    if play.broke_off:
        raise CommandError(BROKEN, f"before the end {play.broke_off}")
    if _is_broken(findings, strict=strict):
        raise typer.Exit(BROKEN)


def _cast(
    of_backend: bool, timeout_s: float, roles: dict[str, str], *, can_end: bool
) -> tuple[Play, Sequence[Scenario[Any]]]:
    if of_backend:
        from router_daemon.conform.backend_play import backend_play
        from router_daemon.conform.backend_scripts import SCENARIOS as BACKEND_SCENARIOS

        return backend_play(timeout_s, roles, can_end=can_end), BACKEND_SCENARIOS
    if roles:
        raise CommandError(USAGE, "--capability goes with --backend")
    from router_daemon.conform.client_play import client_play
    from router_daemon.conform.client_scripts import SCENARIOS as CLIENT_SCENARIOS

    return client_play(timeout_s, can_end=can_end), CLIENT_SCENARIOS


def _perform(
    play: Play, scenarios: Sequence[Scenario[Any]], address: str, command: Sequence[str], first_s: float
) -> str:
    """Play it through; return where it was."""
    from router_daemon.cli.playing import Stage, perform

    stage = Stage(address, command)
    complain(f"listening at {stage.address}")
    perform(play, scenarios, stage, first_s, _progress() if sys.stderr.isatty() else lambda _: None)
    return stage.address


def _progress() -> Callable[[str], None]:
    """Return what tells which script is played, and after how many seconds."""
    began_s = time.monotonic()
    return lambda name: complain(f"{time.monotonic() - began_s:5.1f} s  {name}")


def _address(option: str, text: str) -> str:
    try:
        return addresses.check_endpoint(text)
    except ValueError as error:
        raise CommandError(USAGE, f"{option} {text}: {error}") from None


def _command(text: str | None) -> list[str]:
    try:
        words = shlex.split(text or "")
    except ValueError as error:
        raise CommandError(USAGE, f"--run {text}: {error}") from None
    if text is not None and not words:
        raise CommandError(USAGE, "--run: no command")
    return words


def _roles(texts: Sequence[str]) -> dict[str, str]:
    from router_daemon.conform.backend_checks import ROLES

    found = {}
    for text in texts:
        role, _, name = text.partition("=")
        if role not in ROLES or not name:
            raise CommandError(USAGE, f"--capability {text}: must be ROLE=NAME; roles are {', '.join(ROLES)}")
        found[role] = name
    return found


def _wanted(only: Sequence[str], known: Collection[str]) -> frozenset[str]:
    if strange := [ident for ident in only if ident not in known]:
        raise CommandError(USAGE, f"--only: there is no {', '.join(strange)}; --list names the checks")
    return frozenset(only)


def _is_broken(findings: Sequence[Finding], *, strict: bool) -> bool:
    verdicts = {finding.verdict for finding in findings}
    return "fail" in verdicts or (strict and "not seen" in verdicts)


def _listing(*, backends: bool, clients: bool) -> str:
    from router_daemon.conform import backend_checks, client_checks
    from router_daemon.conform.report import listing

    parts: list[tuple[str, Sequence[Check]]] = []
    if backends:
        parts.append(("of a backend (--backend)", backend_checks.CHECKS))
    if clients:
        parts.append(("of a client (--client)", client_checks.CHECKS))
    texts = [f"{title}\n\n{listing(checks)}" for title, checks in parts]
    if backends:
        roles = "\n".join(f"conform.{role:8} {does}" for role, does in backend_checks.ROLES.items())
        texts.append(f"roles (--capability ROLE=NAME), by default\n\n{roles}")
    return "\n\n".join(texts)


def _write(file: Path, findings: dict[str, Any]) -> None:
    try:
        file.write_text(json.dumps(findings, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(USAGE, f"--json {file}: {error.strerror}") from None
