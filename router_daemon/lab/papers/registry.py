"""The papers by name: the one list that the command line chooses from."""

from __future__ import annotations

from typing import Final

from router_daemon.lab.papers import cross_attention, ring
from router_daemon.lab.papers.running import Reproduce

PAPERS: Final[dict[str, Reproduce]] = {
    "cross-attention": cross_attention.reproduce,
    "ring": ring.reproduce,
}
