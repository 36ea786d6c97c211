"""The command line of the demo; only the standard library here, so `--help` works before anything is installed."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DEFAULT_RATE: Final = 200.0
MAX_RATE: Final = 5000.0
PLAIN_SECONDS: Final = 20.0
DEFAULT_SEED: Final = 7
CANDIDATES: Final = ("paper", "round_robin", "least_in_flight", "p2c_peak_ewma", "prequal", "c3")

_DESCRIPTION = """\
Starts a router daemon and twelve backend processes that do real work, feeds them this machine's live metrics or a CSV
file, shows live who gets which messages, and ends with what the backends found."""

_EPILOG = f"""\
Ctrl-C ends it at any time with the summary. Kill a backend (the table shows its pid) and watch its messages go to the
others. Without a terminal it prints a line every few seconds and ends by itself after {PLAIN_SECONDS:.0f} s.
Exit code: 0 after a summary, 1 when the daemon or the backends did not run, 2 for a wrong option or input file."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for.

    Attributes:
        input: the CSV to replay; None for live metrics.
        seconds: how long to feed; None until Ctrl-C or the end of the file (without a terminal: `PLAIN_SECONDS`).
        rate: messages per second to aim at, over all capabilities.
        picture: where to save the last table as SVG; None for nowhere.
        seed: of the backends' extra times and failures.
        rollout: the policy that gets a growing share of the messages; None for no rollout.
    """

    input: Path | None
    seconds: float | None
    rate: float
    picture: Path | None
    seed: int
    rollout: str | None = None


def _positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _rate(text: str) -> float:
    value = _positive(text)
    if value > MAX_RATE:
        raise argparse.ArgumentTypeError(f"{text} is over {MAX_RATE:.0f}; scripts/bench_broker is for speed")
    return value


def parse(arguments: list[str]) -> Options:
    parser = argparse.ArgumentParser(
        prog="./scripts/demo",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--input",
        type=Path,
        metavar="FILE.csv",
        help="replay this file (header `timestamp,value`) at an accelerated rate instead of live metrics",
    )
    parser.add_argument(
        "--seconds", type=_positive, metavar="N", help="end after N seconds (a file is replayed within them)"
    )
    parser.add_argument(
        "--rate",
        type=_rate,
        default=DEFAULT_RATE,
        metavar="MSGS_PER_S",
        help="messages per second to aim at, default %(default)g; live metrics are sampled at most 10 times a second",
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE.svg", help="save the last state of the live table as a picture"
    )
    parser.add_argument(
        "--seed", type=int, default=DEFAULT_SEED, help="of extra times and failures, default %(default)s"
    )
    parser.add_argument(
        "--rollout",
        choices=CANDIDATES,
        metavar="POLICY",
        help=f"try this policy on a growing share of the messages, as the page shows: {', '.join(CANDIDATES)}",
    )
    return Options(**vars(parser.parse_args(arguments)))
