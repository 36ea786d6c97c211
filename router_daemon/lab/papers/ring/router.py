"""The ring paper's nodes as backends of a broker's registry, and the policy that chooses among them.

Rules:
- The policy is asked as the broker asks it, and what it reads of the nodes is learnt as the broker learns it.
- One registry for all nodes: the paper's arg max is over what everybody knows. Where the way counts (`path_cost`),
  estimates of latencies include it, and move with the place at which a message comes in; else there is no way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from struct import pack
from typing import Final

from router_daemon.core.backends import Backend
from router_daemon.core.counts import Counts
from router_daemon.core.events import Registration, Request
from router_daemon.core.ranking import Candidate, Policy, Ranking, RankingCache
from router_daemon.core.registry import Registry
from router_daemon.core.settings import ExplorationSettings, RingAttentionSettings, Settings
from router_daemon.lab.papers.ring import world
from router_daemon.lab.papers.ring.world import Hops, Node, Vector
from router_daemon.policies.base import make_policy
from router_daemon.policies.layout import Arrangement
from router_daemon.policies.ring_greedy import RingGreedy
from router_daemon.policies.view import Held, View

WORK: Final = "work"
SLOTS: Final = 1_000
"""So many that nobody is ever full: the paper has no places."""
MS: Final = 1e-3
"""In seconds."""


class Router:
    """Chooses a node for each message and learns what became of it.

    Args:
        policy: its name.
        ring: what it is set to.
        nodes: who may be chosen.
        unit: keys have length 1; else they are as drawn.
        known: averages start at what the nodes are; else as those of a backend that nobody knows.
        seed: of what the policy leaves to chance.
    """

    def __init__(
        self, policy: str, ring: RingAttentionSettings, nodes: Sequence[Node], *, unit: bool, known: bool, seed: int
    ) -> None:
        settings = Settings(ring_attention=ring, exploration=ExplorationSettings(slow_start=False))
        rng = Random(f"policy/{seed}")
        counts = Counts(settings.label_values)
        self._registry = Registry(settings, counts)
        self._number = {f"node-{number:02}": number for number in range(len(nodes))}
        self._climber = Climber(settings, rng, self._number) if policy == Climber.name else None
        self._policy: Policy = self._climber or make_policy(policy, settings, rng)
        self._rankings = RankingCache(self._registry, self._policy, counts, rng, ttl_s=math.inf)
        self._request = Request(id=0, capability=WORK)
        self._moves = ring.path_cost and policy != "round_robin"
        self._now_s = 0.0
        keys = [world.unit(node.key) if unit else node.key for node in nodes]
        self._backends = [self._add(name, key) for name, key in zip(self._number, keys, strict=True)]
        if known:
            self._know(nodes)

    def choose(self, here: int, query: Vector, hops: Hops) -> tuple[int, int]:
        """Return the node for a message that comes in `here`, and how many links it goes."""
        ranking, request = self._ask(here, query, hops)
        if self._climber is not None:
            self._climber.around.here = here
        candidate = self._policy.pick(ranking, request, (), self._now_s)
        assert candidate is not None
        chosen = self._number[candidate.backend.name]
        if self._climber is not None:
            return chosen, self._climber.links(hops)
        return chosen, hops[here][chosen]

    def draw(self, here: int, query: Vector, hops: Hops, rng: Random) -> tuple[int, int]:
        """Return the same, but a node drawn by its attention weight instead of the arg max."""
        ranking, request = self._ask(here, query, hops)
        candidates = list(self._policy.peek(ranking, request, self._now_s))
        [drawn] = rng.choices(candidates, [candidate.weight for candidate in candidates])
        chosen = self._number[drawn.backend.name]
        return chosen, hops[here][chosen]

    def learn(self, chosen: int, service_ms: float, *, works: bool) -> None:
        """Take in that a node took so long for the message (without the way), and whether it did it."""
        backend = self._backends[chosen]
        self._now_s += service_ms * MS + backend.path_s
        if works:
            latency_s = service_ms * MS + backend.path_s
            service = self._registry.service(backend, WORK, self._now_s)
            service.observe(latency_s, 1.0, self._registry.learning, self._now_s)
            backend.profile.observe_success(latency_s)
        else:
            backend.profile.observe_failure("failed")
        backend.version += 1

    def remove(self, number: int) -> None:
        """Let a node be gone for good."""
        backend = self._backends[number]
        self._registry.remove(backend, self._now_s)
        if self._policy.watch is not None:
            self._policy.watch(backend, False)

    def backend(self, number: int) -> Backend:
        """Return what is known of a node."""
        return self._backends[number]

    def _ask(self, here: int, query: Vector, hops: Hops) -> tuple[Ranking, Request]:
        if self._moves:
            self._stand(hops[here])
        request = self._request = Request(id=0, capability=WORK, embedding=pack(f"<{len(query)}f", *query))
        return self._rankings.get(WORK, request.priority, self._now_s), request

    def _stand(self, hops: Sequence[int]) -> None:
        """Move to where these are the ways: what is expected of each node moves by the change of the way to it."""
        for backend, links in zip(self._backends, hops, strict=True):
            change_s = links * world.LINK_MS * MS - backend.path_s
            if change_s:
                backend.path_s += change_s
                backend.profile.latency_s += change_s
                backend.services[WORK].service_s += change_s
                backend.version += 1

    def _add(self, name: str, key: Vector) -> Backend:
        info = Registration(name, [WORK], slots=SLOTS, embedding=pack(f"<{len(key)}f", *key))
        backend = self._registry.add(name.encode(), False, info, self._now_s)
        self._registry.service(backend, WORK, self._now_s)
        if self._policy.watch is not None:
            self._policy.watch(backend, True)
        return backend

    def _know(self, nodes: Sequence[Node]) -> None:
        """Let the averages stand where they would after very many messages to each node."""
        steady = self._registry.learning.steady
        pool = self._registry.pool(WORK)
        pool.samples = len(nodes) * steady
        pool.reference_s = math.fsum(node.base_ms for node in nodes) / len(nodes) * MS
        for backend, node in zip(self._backends, nodes, strict=True):
            service = backend.services[WORK]
            service.samples, service.service_s = steady, node.base_ms * MS
            backend.profile.latency_s, backend.profile.success = node.base_ms * MS, node.reliability


@dataclass(slots=True)
class Around:
    """A layout: the living nodes as a ring. A message begins `here`, or behind it where that node has failed."""

    number: Mapping[str, int]
    here: int = 0
    version: int = 0

    def arrange(self, candidates: Sequence[Candidate]) -> Arrangement:
        """Connect each with the next living one either side."""
        place = {self.number[candidate.backend.name]: at for at, candidate in enumerate(candidates)}
        order = [place[node] for node in sorted(place)]
        neighbours: list[tuple[int, ...]] = [()] * len(order)
        for at, middle in enumerate(order):
            neighbours[middle] = (order[at - 1], order[(at + 1) % len(order)])
        return _Arrangement(neighbours, order, around=self, place=place)


class _Arrangement(Arrangement, kw_only=True):
    around: Around
    place: Mapping[int, int]

    def start(self, request: Request, rng: Random | None) -> int:  # noqa: ARG002 - nothing is left to chance
        """Return the place of the node at which the message is."""
        node = self.around.here
        while node not in self.place:
            node = (node + 1) % world.NODES
        return self.place[node]


class Climber(RingGreedy):
    """The policy `ring_greedy` on the ring of nodes, telling over which of them its last climb went."""

    def __init__(self, settings: Settings, rng: Random, number: Mapping[str, int]) -> None:
        self.around = Around(number)
        self._climbed: list[int] = []
        super().__init__(settings, rng, self.around)

    def path(
        self, view: View, held: Held, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float
    ) -> list[int]:
        """Climb, and note the nodes."""
        places = super().path(view, held, ranking, request, tried, now)
        self._climbed = [self.around.number[view.candidates[place].backend.name] for place in places]
        return places

    def links(self, hops: Hops) -> int:
        """Return how many links the last climb went, from where the message came in."""
        nodes = [self.around.here, *self._climbed]
        return sum(hops[one][other] for one, other in pairwise(nodes))
