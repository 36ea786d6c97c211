"""Cross-attention routing between heterogeneous systems (B. J. Gilbert): its experiment again.

`setup` is its pool and its demand, `trial` one run of it, `printed` what it prints; `work` runs everything, and
`tables`, `figures` and `claims` say what came out. `ours` and `finite` go beyond it.
"""

from __future__ import annotations

from router_daemon.lab.papers.content import Report
from router_daemon.lab.papers.cross_attention.report import report
from router_daemon.lab.papers.cross_attention.work import find
from router_daemon.lab.papers.running import Options, Progress


def reproduce(options: Options, progress: Progress) -> Report:
    """Run it and return the report."""
    return report(find(options, progress), options)
