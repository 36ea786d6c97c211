"""PURE: the links of a ring of daemons as what policy `ring_greedy` climbs along: from here to the daemons beside.

Without it that policy would take all backends for one ring by their names, and begin anywhere in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from router_daemon.core.ranking import Candidate
from router_daemon.policies.layout import Arrangement, DaemonGraph
from router_daemon.ring.topology import Edge, Topology


class RingLayout:
    """The layout of a daemon in a ring; follows the topology."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._edges: frozenset[Edge] = frozenset()
        self._graph = DaemonGraph(topology.me, {topology.me: ()})

    @property
    def version(self) -> int:
        """Of the links: looked at for each message, and worked out where they have changed."""
        edges = self._topology.edges
        if edges is not self._edges:
            if edges != self._edges:
                self._graph.connect(_beside(self._topology.me, edges))
            self._edges = edges
        return self._graph.version

    def arrange(self, candidates: Sequence[Candidate]) -> Arrangement:
        """Return how these are connected; see `DaemonGraph`."""
        return self._graph.arrange(candidates)


def _beside(me: str, edges: Iterable[Edge]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {me: []}
    for one, other in edges:
        found.setdefault(one, []).append(other)
        found.setdefault(other, []).append(one)
    return found
