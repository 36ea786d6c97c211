"""Cross-attention routing between heterogeneous systems: its experiment again."""

from __future__ import annotations

from router_daemon.lab.papers.content import Report
from router_daemon.lab.papers.running import Options, Progress


def reproduce(options: Options, progress: Progress) -> Report:
    """Return the report."""
    progress.start(1)
    progress.advance("nothing yet")
    return Report("cross-attention", "Cross-attention routing", "Not there yet.", {"seed": options.seed}, ())
