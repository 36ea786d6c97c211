"""Who is linked with whom, and the shortest ways from here (Dijkstra, Numerische Mathematik 1, 1959).

Rules:
- A link counts where both of its ends report it. One's own counts as one has measured it: its other end may not have
  been heard yet.
- What a link costs is the mean of the round trip times that its ends report, so both ends say the same, in whole
  microseconds: sums are exact. Equal costs go by fewer links, then by names: a graph has one answer.
- Ways are worked out when the graph has changed (`compute`), not per message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import heappop, heappush
from typing import NamedTuple

Edge = tuple[str, str]


class Way(NamedTuple):
    """A shortest way from here.

    Attributes:
        cost_us4: sum over its links of both ends' round trip times: four times the way there (microseconds).
        path: the daemons on it, the neighbour first, the one at its end last.
    """

    cost_us4: int
    path: tuple[str, ...]

    @property
    def one_way_s(self) -> float:
        """The way there, in seconds."""
        return self.cost_us4 / 4e6

    @property
    def round_trip_s(self) -> float:
        """The way there and back, in seconds."""
        return self.cost_us4 / 2e6

    @property
    def hops(self) -> int:
        """How many links it is."""
        return len(self.path)


class Topology:
    """The graph as it is known here.

    Attributes:
        me: where the ways begin.
        ways: to everybody that can be reached, oneself left out.
    """

    def __init__(self, me: str) -> None:
        self.me = me
        self.ways: dict[str, Way] = {}
        self._links: dict[str, dict[str, int]] = {}
        self._edges: frozenset[Edge] = frozenset()

    @property
    def edges(self) -> frozenset[Edge]:
        """The links that count, each once, the lower name first; another object after each `compute`."""
        return self._edges

    def report(self, name: str, links: Mapping[str, int]) -> bool:
        """Take in the links of one daemon: by neighbour, the round trip time (us); tell whether they are others now."""
        if self._links.get(name) == links:
            return False
        self._links[name] = dict(links)
        return True

    def forget(self, name: str) -> None:
        """Forget what one daemon has reported."""
        self._links.pop(name, None)

    def compute(self) -> bool:
        """Work out all ways anew; tell whether a link is gone since the last time."""
        graph = {name: dict(self._edges_of(name)) for name in (self.me, *self._links)}
        before = self._edges
        self._edges = frozenset((a, b) if a < b else (b, a) for a, links in graph.items() for b in links)
        self.ways = self._dijkstra(graph)
        return not before <= self._edges

    def next_hop(self, name: str) -> str | None:
        """Return the neighbour over whom a daemon is reached; None where it is not."""
        way = self.ways.get(name)
        return None if way is None else way.path[0]

    def _edges_of(self, name: str) -> Iterator[tuple[str, int]]:
        """Yield the neighbours that count, with the sum of both ends' round trip times, at least 1."""
        mine = name == self.me
        for other, rtt_us in self._links.get(name, {}).items():
            back_us = self._links.get(other, {}).get(name)
            if other == name or (back_us is None and not mine) or (other == self.me and back_us is None):
                continue
            yield other, max(1, rtt_us + (rtt_us if back_us is None else back_us))

    def _dijkstra(self, graph: Mapping[str, Mapping[str, int]]) -> dict[str, Way]:
        found: dict[str, Way] = {}
        todo: list[tuple[int, int, tuple[str, ...]]] = [(0, 0, ())]
        while todo:
            cost, hops, path = heappop(todo)
            name = path[-1] if path else self.me
            if name in found or (path and name == self.me):
                continue
            if path:
                found[name] = Way(cost, path)
            for other, weight in graph.get(name, {}).items():
                if other not in found and other != self.me:
                    heappush(todo, (cost + weight, hops + 1, (*path, other)))
        return found
