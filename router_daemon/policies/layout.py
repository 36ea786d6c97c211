"""Who is whose neighbour, for a policy that climbs from backend to backend (ring-attention paper, GREEDY-LOCAL).

Rules:
- A layout speaks of candidates by their place in the list that it is given. It is asked once for each such list: what
  it returned holds until the list or `version` changes.
- `climb` goes to the best neighbour while that one is better, so it ends at a local best, and is nowhere twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Protocol
from zlib import crc32

from msgspec import UNSET, Struct

from router_daemon.core.events import Request
from router_daemon.core.ranking import Candidate


class Arrangement(Struct, eq=False):
    """How some candidates, at least one, are connected.

    Attributes:
        neighbours: of each place.
        starts: the places where a message may begin.
    """

    neighbours: Sequence[Sequence[int]]
    starts: Sequence[int]

    def start(self, request: Request, rng: Random | None) -> int | None:
        """Return where a message begins: those of one sticky `key` always at the same place, others anywhere.

        Without `rng` None where that is left to chance.
        """
        starts = self.starts
        if request.key is not UNSET:
            return starts[crc32(request.key.encode()) % len(starts)]
        if len(starts) == 1:
            return starts[0]
        return None if rng is None else starts[int(rng.random() * len(starts))]


class Layout(Protocol):
    """How candidates are connected.

    Attributes:
        version: changes whenever the connections do though the candidates are the same.
    """

    @property
    def version(self) -> int:
        """Of the connections."""

    def arrange(self, candidates: Sequence[Candidate]) -> Arrangement:
        """Return how these, at least one, are connected."""


class NameRing:
    """All backends as one ring in the order of their names; a message begins anywhere."""

    version = 0

    def arrange(self, candidates: Sequence[Candidate]) -> Arrangement:
        """Connect each with the one before and the one behind: of two it is the same one, and one alone has none."""
        count = len(candidates)
        by_name = sorted(range(count), key=lambda place: candidates[place].backend.name)
        neighbours: list[tuple[int, ...]] = [()] * count
        for at, place in enumerate(by_name if count > 1 else ()):
            neighbours[place] = tuple(dict.fromkeys((by_name[at - 1], by_name[(at + 1) % count])))
        return Arrangement(neighbours, by_name)


class DaemonGraph:
    """Backends of several daemons as one of them sees it: those of another one are named `daemon/name`.

    A backend's neighbours are those of its own daemon and of the daemons beside it. A message begins at this daemon: at
    one of its own backends, or where it has none, at one of the nearest daemon that has any.

    Args:
        me: this daemon's name.
        links: daemon -> those beside it; the names of all daemons are its keys.
    """

    def __init__(self, me: str, links: Mapping[str, Iterable[str]]) -> None:
        self._me = me
        self.version = 0
        self._links = links

    def connect(self, links: Mapping[str, Iterable[str]]) -> None:
        """Take other links from now on."""
        self._links = links
        self.version += 1

    def arrange(self, candidates: Sequence[Candidate]) -> Arrangement:
        """Connect those of each daemon with one another and with those of the daemons beside it.

        All of one daemon share one list, in which they are themselves: it does not matter to a climb, and a list for
        each of ten thousand would.
        """
        members: dict[str, list[int]] = {}
        for place, candidate in enumerate(candidates):
            members.setdefault(self._daemon(candidate), []).append(place)
        around = {
            daemon: [place for name in (daemon, *self._beside(daemon)) for place in members.get(name, ())]
            for daemon in members
        }
        neighbours = [around[self._daemon(candidate)] for candidate in candidates]
        return Arrangement(neighbours, [self._start(members)])

    def _start(self, members: Mapping[str, list[int]]) -> int:
        seen, waiting = {self._me}, deque([self._me])
        while waiting:
            daemon = waiting.popleft()
            if daemon in members:
                return members[daemon][0]
            others = [other for other in self._beside(daemon) if other not in seen]
            seen.update(others)
            waiting.extend(others)
        return 0

    def _beside(self, daemon: str) -> list[str]:
        return sorted(self._links.get(daemon, ()))

    def _daemon(self, candidate: Candidate) -> str:
        daemon, slash, _ = candidate.backend.name.partition("/")
        return daemon if slash and daemon in self._links else self._me


def climb(start: int, neighbours: Sequence[Sequence[int]], value: Callable[[int], float]) -> list[int]:
    """Return the places visited: from `start` always to the best neighbour, while it is better than where one is.

    The last one is a local best: none of its neighbours is better. Of equal neighbours the first one listed.
    """
    path, here = [start], value(start)
    while True:
        best = max(neighbours[path[-1]], key=value, default=None)
        if best is None or value(best) <= here:
            return path
        path.append(best)
        here = value(best)


def nearest(start: int, neighbours: Sequence[Sequence[int]], suits: Callable[[int], bool]) -> int | None:
    """Return the place that suits and is the fewest steps away, `start` itself where it does; None where none does."""
    seen, waiting = {start}, deque([start])
    while waiting:
        place = waiting.popleft()
        if suits(place):
            return place
        others = [other for other in neighbours[place] if other not in seen]
        seen.update(others)
        waiting.extend(others)
    return None
