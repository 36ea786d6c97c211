"""The command line of the chaos run."""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from chaos_app.acts import ACTS


@dataclass
class Options:
    """What a run is told.

    Attributes:
        seconds: of acts; starting, measuring the capacity and the last answers come on top.
        seed: of the schedule and of every other choice.
        acts: which may be drawn; in this order, once each, with `in_order`.
        capacity_seconds: how long the capacity is measured.
        pace: of how long faults of the wire and pauses of processes last.
        slack_ms: what the machine may add to "ttl + 100 ms".
        goodput: the least share of the others' messages that must be answered in time during a flood.
        settings: `section.key=value` for the daemon.
    """

    seconds: float = 120.0
    seed: int = 1
    acts: list[str] = field(default_factory=lambda: list(ACTS))
    in_order: bool = False
    capacity_seconds: float = 3.0
    flood_seconds: float = 4.0
    pace: float = 1.0
    slack_ms: float = 250.0
    goodput: float = 0.9
    settings: list[str] = field(default_factory=list)


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Return the options of a command line."""
    parser = argparse.ArgumentParser(
        prog="chaos",
        description="A real daemon, real backends and clients, and faults by a seed; a ledger of every message at the "
        "end. Exit code 0: it balances, on the driver's side and on the daemon's, and every other promise was kept.",
    )
    default = Options()
    parser.add_argument("--seconds", type=float, default=default.seconds, help="of acts (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of every choice (default: drawn, and printed)")
    parser.add_argument("--acts", help=f"only these, separated by commas: {', '.join(ACTS)}")
    parser.add_argument("--in-order", action="store_true", help="each of the acts once, as named, whatever the time")
    parser.add_argument(
        "--capacity-seconds", type=float, default=default.capacity_seconds, help="(default: %(default)s)"
    )
    parser.add_argument("--flood-seconds", type=float, default=default.flood_seconds, help="(default: %(default)s)")
    parser.add_argument(
        "--slack-ms", type=float, default=default.slack_ms, help="beyond ttl + 100 ms (default: %(default)s)"
    )
    parser.add_argument(
        "--goodput", type=float, default=default.goodput, help="least, in a flood (default: %(default)s)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="for the daemon")
    found = parser.parse_args(arguments)
    acts = found.acts.split(",") if found.acts else default.acts
    unknown = [act for act in acts if act not in ACTS]
    if unknown:
        parser.error(f"no such act: {', '.join(unknown)}")
    return Options(
        seconds=found.seconds,
        seed=random.randrange(1_000_000) if found.seed is None else found.seed,
        acts=acts,
        in_order=found.in_order,
        capacity_seconds=found.capacity_seconds,
        flood_seconds=found.flood_seconds,
        slack_ms=found.slack_ms,
        goodput=found.goodput,
        settings=found.set,
    )
