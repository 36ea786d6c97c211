"""The report: settings, tables, figures and statements, in the order in which they are to be read."""

from __future__ import annotations

from collections.abc import Sequence

from router_daemon.lab.papers.content import Cell, Figure, Report, Table
from router_daemon.lab.papers.cross_attention.claims import claims
from router_daemon.lab.papers.cross_attention.figures import figures
from router_daemon.lab.papers.cross_attention.tables import tables
from router_daemon.lab.papers.cross_attention.work import Found
from router_daemon.lab.papers.running import Options

ORDER = (
    *("table-1", "spread", "readings", "beyond", "figure-1", "figure-2", "figure-3", "figure-4"),
    *("figure-5", "figure-5-latency", "figure-6", "figure-6-time", "cache-cost", "cold-start", "set-sizes"),
    *("busy", "busy-p99"),
)

INTRO = """
The experiment of B. J. Gilbert, "Cross-attention routing between heterogeneous systems", run again as its text
describes it, with the policies, the profiles and the decision cache that route live traffic in `router-daemon`:
12 systems, capabilities sampled from six names, base latency U(0.5, 4.0) ms, reliability U(0.88, 0.995); capability by
Zipf's law (1.2), priorities 1 to 4 alike; no queues. What the text leaves open is chosen here, and varied: how many
capabilities a system has (1 to 4), how many messages come in a second (1,000), whether profiles are known or learned,
what becomes of a failure.

"Follows" is a statement that comes out of the paper's own description; nothing was tuned until it fitted. Beside the
printed variants stands `attention`, the daemon's default.
"""


def report(found: Found, options: Options) -> Report:
    """Return the report."""
    size = found.size
    settings: dict[str, Cell] = {
        "runs": size.runs,
        "messages of a run": size.messages,
        "pools": size.pools,
        "messages of a pool": size.pool_messages,
        "seed": options.seed,
        "command": command(options),
    }
    title = "Cross-attention routing between heterogeneous systems, run again"
    return Report(
        "cross-attention", title, INTRO, settings, _in_order([*tables(found), *figures(found)]), claims(found)
    )


def command(options: Options) -> str:
    """Return what makes the same report."""
    words = ["router-daemon reproduce cross-attention --out DIR"]
    words += ["--quick"] if options.quick else []
    words += [f"--runs {options.runs}", f"--seed {options.seed}"]
    words += [f"--messages {options.messages}"] if options.messages else []
    return f"`{' '.join(words)}`"


def _in_order(parts: Sequence[Table | Figure]) -> list[Table | Figure]:
    by_name = {part.name: part for part in parts}
    assert by_name.keys() == set(ORDER)
    return [by_name[name] for name in ORDER]
