"""The command line of the ring run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple


class Row(NamedTuple):
    """One line of the table: a policy, the mode it runs in, and whether the ring has its shortcuts."""

    name: str
    policy: str
    mode: str
    shortcuts: bool


ROWS: Final = (
    Row("round_robin", "round_robin", "single", shortcuts=True),
    Row("ring_greedy", "ring_greedy", "single", shortcuts=True),
    Row("ring, plain ring", "ring", "single", shortcuts=False),
    Row("ring", "ring", "single", shortcuts=True),
    Row("ring_multi", "ring_multi", "single", shortcuts=True),
    Row("default", "attention", "auto", shortcuts=True),
)


@dataclass
class Options:
    """What a run is told.

    Attributes:
        daemons: in the ring, each with one backend. shortcuts: chords across it.
        seconds: of load, per row. rate: messages a second in all.
        link_ms: what each link takes more, each way.
        seed: of the pool, the chords, the topics and the arrivals.
        rows: names of `ROWS`.
        kill: whether the busiest daemon is killed at `KILL_AT` of the time.
        engine: of the daemons.
    """

    daemons: int = 24
    shortcuts: int = 4
    seconds: float = 30.0
    rate: float = 100.0
    link_ms: float = 0.0
    seed: int = 1
    rows: tuple[Row, ...] = ROWS
    kill: bool = True
    engine: str = "native"


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Return the options of a command line."""
    parser = argparse.ArgumentParser(
        prog="ring",
        description="A ring of real daemons with real backends and clients, for each policy; the busiest daemon is "
        "killed under way. Exit code 0: every message of a client whose daemon lived was answered once.",
    )
    default = Options()
    parser.add_argument("--daemons", type=int, default=default.daemons, help="(default: %(default)s)")
    parser.add_argument("--shortcuts", type=int, default=default.shortcuts, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="per row (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=default.rate, help="messages/s in all (default: %(default)s)")
    parser.add_argument("--link-ms", type=float, default=default.link_ms, help="more per link (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, help="(default: %(default)s)")
    parser.add_argument("--rows", help=f"only these, separated by semicolons: {'; '.join(row.name for row in ROWS)}")
    parser.add_argument("--no-kill", action="store_true", help="kill nobody")
    parser.add_argument("--engine", choices=("native", "libzmq"), default=default.engine, help="(default: %(default)s)")
    found = parser.parse_args(arguments)
    names = [name.strip() for name in found.rows.split(";")] if found.rows else [row.name for row in ROWS]
    if unknown := set(names) - {row.name for row in ROWS}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    if found.daemons < 3:
        parser.error("a ring has three daemons at least")
    return Options(
        daemons=found.daemons,
        shortcuts=found.shortcuts,
        seconds=found.seconds,
        rate=found.rate,
        link_ms=found.link_ms,
        seed=found.seed,
        rows=tuple(row for row in ROWS if row.name in names),
        kill=not found.no_kill,
        engine=found.engine,
    )
