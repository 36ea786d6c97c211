"""`router-daemon bench`: the command line."""

# ruff: noqa: PLC0415 - a command loads only the rooms that it needs

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Annotated, Any

import typer

from router_daemon import __version__
from router_daemon.cli.bench import plan as plans
from router_daemon.cli.exits import FAILED, INTERRUPTED, NO_DAEMON, USAGE, CommandError, reported
from router_daemon.cli.options import ConfigFile, Mode, socket_address

PING_TIMEOUT_S = 2.0


@reported
def bench(
    to: Annotated[str | None, typer.Option(metavar="ADDR", help="The daemon's frontend. [default: configured]")] = None,
    capability: Annotated[
        str | None, typer.Option(metavar="C", help="What is asked for. [default with --backends: bench]")
    ] = None,
    seconds: Annotated[float, typer.Option(metavar="S", help="Measured.")] = 10.0,
    warmup: Annotated[float, typer.Option(metavar="S", help="Before that.")] = 1.0,
    clients: Annotated[int, typer.Option(metavar="N", help="Connections.")] = 4,
    processes: Annotated[int, typer.Option(metavar="N", help="That the clients are spread over.")] = 1,
    concurrency: Annotated[
        int | None,
        typer.Option(metavar="N", help="Open at once, of each client. [default: 8, with --rate 1000]"),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(metavar="N", help="Messages/s in all, whatever comes back: an open loop. [default: closed]"),
    ] = None,
    even: Annotated[bool, typer.Option("--even", help="With --rate: in equal steps, not at random moments.")] = False,
    size: Annotated[int, typer.Option(metavar="BYTES", help="Of each body.")] = 64,
    mode: Annotated[Mode | None, typer.Option(help="Default: as the daemon is configured.")] = None,
    priority: Annotated[int | None, typer.Option(metavar="N", min=1, max=4, help="1 low to 4 critical.")] = None,
    ttl_ms: Annotated[int, typer.Option(metavar="N", help="Give up after this long.")] = 10_000,
    backends: Annotated[int, typer.Option(metavar="N", help="Built-in ones, which echo, for this run.")] = 0,
    slots: Annotated[int, typer.Option(metavar="N", help="Of each built-in backend.")] = 8,
    work: Annotated[
        str, typer.Option(metavar="TIME", help="Of a built-in backend: 5ms, exp:5ms, 1ms-9ms, lognormal:5ms:0.5.")
    ] = "0ms",
    failing: Annotated[float, typer.Option(metavar="SHARE", help="Of the messages, 0 to 1, that they fail.")] = 0.0,
    backend_to: Annotated[
        str | None, typer.Option(metavar="ADDR", help="The daemon's backend socket. [default: configured]")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of moments, work and failures.")] = 1,
    json_: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there, too.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    config: ConfigFile = None,
) -> None:
    """Measure a running daemon with real clients, and built-in backends where wanted.

    Without --rate, each client has --concurrency messages open. With it, messages leave at their moments, and latencies
    count from these, so that a daemon that stalls cannot hide it. Ctrl-C ends early and tells what was measured.

    Exit code: 0, 1 no daemon, 2 wrong usage, 3 the daemon does not take the built-in backends, 4 nothing was answered.
    """
    try:
        plan = plans.Plan(
            socket_address("--to", to, config, "frontend"),
            socket_address("--backend-to", backend_to, config, "backend") if backends else "",
            _capability(capability, backends),
            seconds,
            warmup,
            clients,
            processes,
            concurrency or (plans.CLOSED_CONCURRENCY if rate is None else plans.OPEN_CONCURRENCY),
            rate,
            even,
            size,
            ttl_ms,
            mode and mode.value,
            priority,
            backends,
            slots,
            plans.work_of(work),
            failing,
            seed,
        )
        plans.check(plan)
    except ValueError as error:
        raise CommandError(USAGE, str(error)) from None
    raise typer.Exit(_run(plan, json_, quiet=quiet))


def _capability(said: str | None, backends: int) -> str:
    if said is None and not backends:
        raise CommandError(USAGE, "bench needs --capability C, or --backends N for built-in ones")
    return plans.BENCH if said is None else said


def _writable(file: Path) -> None:
    """Refuse a file that cannot be written before minutes are spent on what goes there."""
    try:
        file.touch()
    except OSError as error:
        raise CommandError(USAGE, f"--json {file}: {error.strerror}") from None


def _run(plan: plans.Plan, file: Path | None, *, quiet: bool) -> int:
    """Measure, print, and return the exit code."""
    from router_daemon.cli.bench import report, workers
    from router_daemon.cli.bench.progress import shown

    if file is not None:
        _writable(file)
    _ping(plan.frontend)
    with shown(plan, quiet=quiet) as progress:
        outcome = workers.run(plan, progress)
    print(report.text(plan, outcome))
    if file is not None:
        file.write_text(json.dumps(report.data(plan, outcome, _about()), indent=2) + "\n")
    if outcome.codes["answered"]:
        return 0
    return INTERRUPTED if outcome.interrupted else FAILED


def _ping(frontend: str) -> None:
    import zmq

    from router_daemon.errors import ConnectionLost
    from router_daemon.sdk.sync_client import SyncClient

    try:
        with SyncClient(frontend) as client:
            client.ping(PING_TIMEOUT_S)
    except ConnectionLost:
        raise CommandError(NO_DAEMON, f"no daemon at {frontend}") from None
    except zmq.ZMQError as error:
        raise CommandError(USAGE, f"{frontend}: {error.strerror}") from None


def _about() -> dict[str, Any]:
    return {
        "router_daemon": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
