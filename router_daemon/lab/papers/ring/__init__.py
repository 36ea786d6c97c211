"""Ring attention for distributed message processing (B. J. Gilbert): its experiment again.

`world` is its ring, nodes and messages, `router` the policy among them, `runs` one run, `numbers` what it prints;
`plan` runs everything, and `tables`, `figures` and `claims` say what came out. `bound` goes beyond it.
"""

from __future__ import annotations

from router_daemon.lab.papers.content import Report
from router_daemon.lab.papers.ring.plan import find
from router_daemon.lab.papers.ring.report import report
from router_daemon.lab.papers.running import Options, Progress


def reproduce(options: Options, progress: Progress) -> Report:
    """Run it and return the report."""
    return report(find(options, progress), options)
