"""The ring paper's report, put together."""

from __future__ import annotations

from typing import Final

from router_daemon.lab.papers.content import Figure, Report, Table
from router_daemon.lab.papers.ring import tables
from router_daemon.lab.papers.ring.claims import claims
from router_daemon.lab.papers.ring.figures import figures
from router_daemon.lab.papers.ring.plan import Findings
from router_daemon.lab.papers.running import Options

TITLE: Final = "Ring attention for distributed message processing"
INTRO: Final = """
B. J. Gilbert's ring: 24 nodes with a key of 8 Gaussian numbers each, a base latency of 0.5 to 3.0 ms and a reliability
of 0.90 to 0.995 (uniform), links of 0.06 ms; a message is a Gaussian query that comes in at some node. Each node scores
z = q.k / tau + 0.3 log(1 / (1 + latency)) + 0.2 log(reliability) with tau 0.7, the greatest gets the message,
latency = hops x link + service, and the moving averages of latency (0.1) and success (0.05) take it in. At 60 % of the
run the node with the most messages fails.

The policies are those of a daemon (`ring`, `ring_multi`, `ring_greedy`, `round_robin`), asked over the broker's own
registry. Read as follows, where the text leaves it open: q and k have length 1, their product is divided by sqrt d;
averages start at what the node is; a service always takes its base latency; each query is drawn for itself; messages
come in anywhere, alike; a failed node still passes on what goes through it; messages per second are 1000 / latency.
What other readings give is a table below.
"""


def report(found: Findings, options: Options) -> Report:
    """Return the report on what was found."""
    settings = {"runs": options.runs, "messages": found.messages, "seed": options.seed}
    parts: list[Table | Figure] = [
        tables.table_one(found),
        tables.ours(found),
        tables.cells(found),
        *figures(found),
        tables.readings(found),
        tables.bound(found),
    ]
    return Report("ring", TITLE, INTRO, settings, parts, list(claims(found)))
