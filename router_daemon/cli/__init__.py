"""The command line: what is typed becomes a call, and nothing is decided here.

Rules:
- A command loads only the rooms that it needs, so `--help`, completion and `check` start without the daemon.
- Addresses left out come from the configuration (`--config`, environment, defaults), so that the commands of one
  machine find its daemon without being told.
- Expected trouble is one line and an exit code (`cli_exit.reported`): 0 done, 1 no daemon (or it cannot start),
  2 wrong usage or configuration, 3 refused, 4 failed or expired, 130 interrupted.
"""

# ruff: noqa: PLC0415 - imports inside commands are this file's first rule

from __future__ import annotations

import json
import os
from functools import partial
from typing import Annotated

import typer

from router_daemon import __version__
from router_daemon.cli import comparing, conforming, draining, lab, operating, reproducing
from router_daemon.cli.bench import command as benching
from router_daemon.cli.exits import USAGE, CommandError, complain, reported
from router_daemon.cli.options import Admin, AsJson, ConfigFile, Mode, Token, admin_address, admin_token, socket_address
from router_daemon.cli.top import command as topping
from router_daemon.config import load_config
from router_daemon.config.sources import Flag

app = typer.Typer(
    name="router-daemon",
    help="Routes each message to the backends that can do it, soonest and most surely.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Set one key, over file and environment; may be repeated."),
]
Capability = Annotated[str, typer.Option(metavar="C", help="What a backend must offer.")]
Priority = Annotated[int, typer.Option(metavar="N", min=1, max=4, help="1 low, 2 medium, 3 high, 4 critical.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"router-daemon {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Routes each message to the backends that can do it, soonest and most surely."""


@app.command()
@reported
def run(
    config: ConfigFile = None,
    overrides: Overrides = None,
    frontend: Annotated[str | None, typer.Option(metavar="ADDR", help="Where clients connect.")] = None,
    backend: Annotated[str | None, typer.Option(metavar="ADDR", help="Where backends connect.")] = None,
    admin: Annotated[str | None, typer.Option(metavar="HOST:PORT", help='The HTTP room, "" for none.')] = None,
    log_level: Annotated[str | None, typer.Option(metavar="LEVEL", help="debug, info, warning, error.")] = None,
) -> None:
    """Run the daemon.

    SIGTERM and Ctrl-C let open messages finish, a second one does not wait. SIGHUP reads the configuration again.

    Exit code: 0 after a drain, 1 where it cannot start (a port is taken), 2 for a wrong configuration.
    """
    options = (
        ("--frontend", "frontend.bind", frontend),
        ("--backend", "backend.bind", backend),
        ("--admin", "admin.bind", admin),
        ("--log-level", "log.level", log_level),
    )
    flags = [Flag(option, key, text) for option, key, text in options if text is not None]
    read = partial(load_config, config, dict(os.environ), tuple(overrides or ()), flags)
    loaded = read()

    from router_daemon.logs import configure_logging

    configure_logging(loaded.log.level, loaded.log.format)

    from router_daemon.daemon import run as run_daemon

    raise typer.Exit(run_daemon(loaded, read))


@app.command()
@reported
def check(
    config: ConfigFile = None,
    overrides: Overrides = None,
    show: Annotated[bool, typer.Option("--show", help="Print what would be in force, as TOML.")] = False,
) -> None:
    """Check a configuration.

    Checked is what file, environment and --set make together.

    Exit code: 0 where it is right, else 2, with a line for every fault.
    """
    from router_daemon.config.embedding import load_projections
    from router_daemon.config.tokens import admin_token

    loaded = load_config(config, os.environ, overrides or ())
    load_projections(loaded.ring_attention.projections)  # a file that is none would be refused at the start
    admin_token(loaded.admin)
    if show:
        from router_daemon.config.text import effective_text

        print(effective_text(loaded), end="")
    else:
        print(f"ok: {config or 'the defaults'}")


@app.command()
@reported
def reload(config: ConfigFile = None, admin: Admin = None, token: Token = None, as_json: AsJson = False) -> None:
    """Have the running daemon read its configuration again.

    It reads the file it was started with, under the same environment and flags. No message and no connection is lost.
    Printed is what has changed; on stderr, what needs a restart to change. A wrong configuration changes nothing.

    Exit code: 0, 1 where no daemon answers, 3 where it refuses the configuration, with a line for every fault.
    """
    from router_daemon.cli import asking, reloading

    answer = asking.tell(admin_address(admin, config), "/reload", {}, admin_token(token, config))
    print(json.dumps(answer, indent=2) if as_json else reloading.changed_text(answer))
    for line in reloading.restart_lines(answer):
        complain(line)


@app.command()
@reported
def backends(
    services: Annotated[
        bool, typer.Option("--services", help="Show what was measured for each capability, too.")
    ] = False,
    config: ConfigFile = None,
    admin: Admin = None,
    as_json: AsJson = False,
) -> None:
    """Show the backends of the running daemon.

    State, open deliveries and places, measured profile, outcomes.

    Exit code: 0, or 1 where no daemon answers.
    """
    from router_daemon.cli import asking

    answer = asking.fetch(admin_address(admin, config), "/backends")
    print(json.dumps(answer, indent=2) if as_json else asking.backends_text(answer, services=services))


@app.command()
@reported
def explain(
    name: Annotated[str | None, typer.Argument(metavar="CAPABILITY", help="What a backend must offer.")] = None,
    capability: Annotated[str | None, typer.Option(metavar="C", help="The same, as an option.")] = None,
    priority: Priority = 2,
    max_cost: Annotated[float | None, typer.Option(metavar="X", min=0.0, help="What it may cost at most.")] = None,
    embedding: Annotated[
        str | None, typer.Option(metavar="E", help="Its embedding: numbers between commas, or a file (.npy, JSON).")
    ] = None,
    route: Annotated[
        str | None, typer.Option(metavar="R", help="On this route. [default: its key's, or stable]")
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="K", help="Its key: which route it takes, and why.")] = None,
    config: ConfigFile = None,
    admin: Admin = None,
    as_json: AsJson = False,
) -> None:
    """Show how a message would be routed now.

    On which route, whether it would be sent, wait or be refused, what mode auto would do and why, and every candidate:
    why the running daemon would or would not send to it, its score term by term, and what was measured of it.

    Exit code: 0, 1 where no daemon answers, 3 where it would refuse the message (no such capability, no such route).
    """
    wanted = name or capability
    if wanted is None or (name and capability):
        raise CommandError(USAGE, "explain takes one CAPABILITY")

    from router_daemon.cli import asking, embeddings, explaining

    said = {"max_cost": max_cost, "route": route, "key": key}
    query: dict[str, str | float] = {name: value for name, value in said.items() if value is not None}
    if embedding is not None:
        query["embedding"] = embeddings.packed(embeddings.read(embedding))
    answer = asking.fetch(admin_address(admin, config), "/explain", capability=wanted, priority=priority, **query)
    print(json.dumps(answer, indent=2) if as_json else explaining.explain_text(answer))
    asking.raise_error_of(answer)


@app.command()
@reported
def why(
    ident: Annotated[
        str | None, typer.Argument(metavar="ID", help="A message, a trace id, or a client's own id. [default: list]")
    ] = None,
    capability: Annotated[str | None, typer.Option(metavar="C", help="List only of this capability.")] = None,
    outcome: Annotated[str | None, typer.Option(metavar="O", help="answered, failed, overloaded, ...")] = None,
    backend: Annotated[str | None, typer.Option(metavar="B", help="List only what was sent there.")] = None,
    route: Annotated[str | None, typer.Option(metavar="R", help="List only of this route.")] = None,
    kept: Annotated[str | None, typer.Option(metavar="K", help="slow, failed, critical, retried, sampled, ...")] = None,
    since: Annotated[float | None, typer.Option(metavar="S", min=0.0, help="Ended in the last S seconds.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="List at most so many.")] = 50,
    config: ConfigFile = None,
    admin: Admin = None,
    as_json: AsJson = False,
) -> None:
    """Show why a message went where it went.

    With an ID, everything kept of the messages that it names: how they ended, every delivery with its times, and every
    decision with the candidates and the terms they were compared by. A client's integer id is told in decimal or after
    0x, one of bytes in hexadecimal. Without, a line for each message kept, the latest first.

    Exit code: 0, 1 where no daemon answers, 3 where nothing is kept of that message.
    """
    from router_daemon.cli import asking, telling

    filters = {"capability": capability, "outcome": outcome, "backend": backend, "route": route, "kept": kept}
    asked = {key: value for key, value in (*filters.items(), ("since", since)) if value is not None}
    if ident and asked:
        raise CommandError(USAGE, f"why takes an ID or --{next(iter(asked))}, not both")
    address = admin_address(admin, config)
    if ident:
        answer = asking.fetch(address, telling.path_of(ident))
    else:
        answer = asking.fetch(address, "/decisions", limit=limit, **asked)
    text = telling.why_text if ident else telling.list_text
    print(json.dumps(answer, indent=2) if as_json else text(answer))


@app.command()
@reported
def ring(config: ConfigFile = None, admin: Admin = None, as_json: AsJson = False) -> None:
    """Show the ring as the running daemon sees it.

    Its links, the other daemons, the way to each and what it takes, what was passed on.

    Exit code: 0, or 1 where no daemon answers.
    """
    from router_daemon.cli import asking, ringing

    answer = asking.fetch(admin_address(admin, config), "/ring")
    print(json.dumps(answer, indent=2) if as_json else ringing.ring_text(answer))


@app.command()
@reported
def send(
    capability: Capability,
    priority: Priority = 2,
    body: Annotated[str | None, typer.Option(metavar="TEXT|-", help="The body; - reads standard input.")] = None,
    ttl_ms: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Give up after this long. [default: 30000]")
    ] = None,
    heads: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=3, help="At most this many backends get it.")
    ] = None,
    mode: Annotated[Mode | None, typer.Option(help="Default: as the daemon is configured.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Wait for the answer of every head.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Write a streamed answer piece by piece.")] = False,
    frontend: Annotated[
        str | None, typer.Option(metavar="ADDR", help="The daemon's frontend. [default: configured]")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Send one message and print the answer.

    The answer's body goes to stdout as it is. With --all the bodies follow each other, each on a line of its own.

    Exit code: 0 answered, 1 no daemon, 2 wrong usage, 3 refused or nobody can do it, 4 failed or expired; with --all
    that of the first head that failed. The reason is one line on stderr, beginning with the protocol's error code.
    """
    if every and stream:
        raise CommandError(USAGE, "--all and --stream cannot be had together")
    address = socket_address("--frontend", frontend, config, "frontend")

    from router_daemon.cli import sending
    from router_daemon.sdk.answers import SendKeys

    keys = SendKeys(priority=priority, ttl_ms=ttl_ms, heads=heads, mode=mode and mode.value)
    frames = sending.body_of(body)
    code = sending.send(address, capability, frames, keys, every=every, stream=stream)
    raise typer.Exit(code)


@app.command()
@reported
def serve(
    name: Annotated[str, typer.Option(metavar="N", help="Of the backend, 1 to 64 characters; one registration each.")],
    capability: Annotated[list[str], typer.Option(metavar="C", help="What the command can do; may be repeated.")],
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="Program and arguments.")],
    slots: Annotated[int, typer.Option(metavar="N", min=1, help="How many may run at once.")] = 1,
    prefetch: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="How many more may wait. [default: one a slot while quick, else 0]"),
    ] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="ADDR", help="The daemon's backend socket. [default: configured]")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Make any executable a backend.

    The command gets a message's body on stdin and prints the result. Its exit code 0 is success; any other is a
    failure, with the last line of its stderr as the reason. It finds CAR_CAPABILITY, CAR_PRIORITY, CAR_MESSAGE and
    CAR_ATTEMPT in its environment, and is killed when the answer is no longer wanted or the message's time is over.
    SIGTERM and Ctrl-C: what runs finishes, then it exits.

    Exit code: 0 after a drain, 2 for wrong usage or no such executable, 3 where the daemon refuses the registration.
    """
    address = socket_address("--backend", backend, config, "backend")

    from router_daemon.cli import serving
    from router_daemon.logs import configure_logging

    configure_logging()
    serving.serve(name, list(dict.fromkeys(capability)), command, address, slots, prefetch)


app.command()(draining.drain)
app.command()(draining.undrain)
app.command()(topping.top)
app.command()(benching.bench)
app.command()(conforming.conform)
app.add_typer(operating.app)
app.command()(lab.simulate)
app.command()(lab.guard)
app.command()(comparing.compare)
app.command()(reproducing.reproduce)


def main() -> None:
    """Run the command line of this process."""
    app(prog_name="router-daemon")
