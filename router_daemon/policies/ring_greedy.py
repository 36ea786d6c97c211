"""Embedding attention among neighbours: from where a message comes in to the best neighbour, until none is better.

z is that of `ring` (ring-attention paper, GREEDY-LOCAL); `layout` says who is whose neighbour. Only those that a climb
passes are looked at. Who has no room or was tried is worth nothing, and a climb that ends at such a one, because all
around are so too, goes on from the nearest place that has room.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from random import Random

from router_daemon.core.backends import Backend
from router_daemon.core.events import Request
from router_daemon.core.ranking import NOBODY, Account, Candidate, Ranking, first_free
from router_daemon.core.settings import Settings
from router_daemon.policies.keys import OneHead
from router_daemon.policies.layout import Arrangement, Layout, NameRing, climb, nearest
from router_daemon.policies.ring import RingAttention
from router_daemon.policies.view import Held, View


class RingGreedy(RingAttention):
    """Policy `ring_greedy`: climbs from neighbour to neighbour; `layout` says who is one, and may be set later."""

    name = "ring_greedy"

    def __init__(self, settings: Settings, rng: Random, layout: Layout | None = None) -> None:
        super().__init__(settings, rng, OneHead())
        self.layout: Layout = NameRing() if layout is None else layout
        self._last_climb: tuple[View | None, int, dict[int, float]] = None, 0, {}

    def path(
        self, view: View, held: Held, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float
    ) -> list[int]:
        """Return the places climbed over, the last with room; empty where no place that can be reached has any.

        From where nobody around has room the way leads on to the nearest place that has, and from there upwards.
        """
        arrangement = self._arranged(view)
        values: dict[int, float] = {}
        self._last_climb = view, len(tried), values
        among = None if ranking.candidates is view.candidates else {c.backend for c in ranking.candidates}

        def value(place: int) -> float:
            found = values.get(place)
            if found is None:
                candidate = view.candidates[place]
                backend = candidate.backend
                masked = backend.free <= 0 or backend in tried or (among is not None and backend not in among)
                found = values[place] = -inf if masked else held.one(place) + self._live(candidate, now)
            return found

        start = arrangement.start(request, self._rng)
        assert start is not None
        path = climb(start, arrangement.neighbours, value)
        if value(path[-1]) > -inf:
            return path
        free = nearest(start, arrangement.neighbours, lambda place: value(place) > -inf)
        return [] if free is None else [*path, *climb(free, arrangement.neighbours, value)]

    def _choose(
        self, view: View, held: Held, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float
    ) -> Candidate | None:
        """Return where the climb ends; where it reaches nobody with room, anybody that has."""
        path = self.path(view, held, ranking, request, tried, now)
        return view.candidates[path[-1]] if path else first_free(ranking.candidates, tried)

    def _account(self, view: View, held: Held, ranking: Ranking, tried: Sequence[Backend]) -> Account:
        """Return it of those whom the last climb looked at; nobody where another message climbed since."""
        climbed, had_tried, values = self._last_climb
        if climbed is not view or had_tried != len(tried):
            return NOBODY
        rows: list[tuple[Candidate, float, tuple[float, ...]]] = []
        for place, value in values.items():
            if value > -inf:
                alignment = held.one(place)
                rows.append((view.candidates[place], value, (alignment, value - alignment)))
        return ("alignment", "live"), rows

    def _in_order(self, live: list[Candidate], view: View, held: Held, request: Request) -> list[Candidate]:
        """Put first where a climb ends whose start is not left to chance."""
        arrangement = self._arranged(view)
        start = arrangement.start(request, None)
        if start is None:
            return live

        def value(place: int) -> float:
            return held.one(place) + float(view.live[place]) if view.room[place] else -inf

        end = view.candidates[climb(start, arrangement.neighbours, value)[-1]].backend
        live.sort(key=lambda candidate: candidate.backend is not end)
        return live

    def _arranged(self, view: View) -> Arrangement:
        """Return how the candidates are connected now."""
        if view.arrangement is None or view.arranged != self.layout.version:
            view.arrangement = self.layout.arrange(view.candidates)
            view.arranged = self.layout.version
        return view.arrangement
