"""The ring paper's world: nodes on a ring, chords across it, what each node is good at, and the messages.

"Ring attention for distributed message processing" (B. J. Gilbert): N nodes, each with a key of d Gaussian numbers, a
base latency and a reliability; a message is a query of d Gaussian numbers; a link takes 0.06 ms.

Rules:
- Everything is a function of a seed, and each thing has a generator of its own: two variants of the same seed meet the
  same nodes, messages, chords and luck, so they may be compared run by run.
- Distances are counted in hops; every link takes the same time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Final, TypeAlias

Vector: TypeAlias = list[float]
Chord: TypeAlias = tuple[int, int]
Hops: TypeAlias = Sequence[Sequence[int]]
"""hops[i][j]: links on a shortest way from node i to node j."""

NODES: Final = 24
DIMENSION: Final = 8
SHORTCUTS: Final = 4
LINK_MS: Final = 0.06
BASE_MS: Final = (0.5, 3.0)
RELIABILITY: Final = (0.90, 0.995)


def ring_hops(nodes: int, chords: Iterable[Chord] = (), gone: Iterable[int] = ()) -> Hops:
    """Return all distances on a ring with chords; `gone` nodes pass nothing on, but can still be reached.

    Where a node cannot be reached without them, its distance is that of the whole ring round, `nodes`.
    """
    neighbours = [[(node - 1) % nodes, (node + 1) % nodes] for node in range(nodes)]
    for one, other in chords:
        neighbours[one].append(other)
        neighbours[other].append(one)
    silent = frozenset(gone)
    return [_hops_from(start, neighbours, silent) for start in range(nodes)]


def _hops_from(start: int, neighbours: Sequence[Sequence[int]], silent: frozenset[int]) -> list[int]:
    hops = [len(neighbours)] * len(neighbours)
    hops[start] = 0
    todo = deque((start,))
    while todo:
        node = todo.popleft()
        if node in silent and node != start:
            continue
        for other in neighbours[node]:
            if hops[other] > hops[node] + 1:
                hops[other] = hops[node] + 1
                todo.append(other)
    return hops


def mean_hops(hops: Hops) -> float:
    """Return the mean over all pairs of nodes, a node and itself among them."""
    return sum(map(sum, hops)) / len(hops) ** 2


def random_chords(nodes: int, count: int, rng: Random) -> tuple[Chord, ...]:
    """Return so many different chords, drawn uniformly from all pairs of nodes that are no neighbours."""
    possible = _possible(nodes)
    return tuple(possible.pop(rng.randrange(len(possible))) for _ in range(count))


@cache
def spread_chords(nodes: int, count: int) -> tuple[Chord, ...]:
    """Return chords chosen one after the other, each the one that shortens the mean distance most; the first of equals.

    Ours: the paper draws them at random.
    """
    chosen: tuple[Chord, ...] = ()
    for _ in range(count):
        free = [chord for chord in _possible(nodes) if chord not in chosen]
        chosen += (min(free, key=lambda chord: mean_hops(ring_hops(nodes, (*chosen, chord)))),)
    return chosen


def _possible(nodes: int) -> list[Chord]:
    return [(i, j) for i in range(nodes) for j in range(i + 2, nodes) if (i, j) != (0, nodes - 1)]


def unit(vector: Vector) -> Vector:
    """Return the vector at length 1."""
    length = math.sqrt(math.fsum(x * x for x in vector))
    return [x / length for x in vector]


def cosine(one: Vector, other: Vector) -> float:
    """Return the cosine of two vectors of length 1."""
    return math.fsum(map(float.__mul__, one, other))


def gaussian(dimension: int, rng: Random) -> Vector:
    """Return a vector of standard normal numbers."""
    return [rng.gauss(0.0, 1.0) for _ in range(dimension)]


@dataclass(frozen=True, slots=True)
class Node:
    """What a node is: what it is good at, how fast (ms, without the way to it), how often it succeeds."""

    key: Vector
    base_ms: float
    reliability: float


def draw_nodes(seed: int, nodes: int = NODES, dimension: int = DIMENSION) -> Sequence[Node]:
    """Return the nodes of a seed."""
    rng = Random(f"nodes/{seed}")
    return [Node(gaussian(dimension, rng), rng.uniform(*BASE_MS), rng.uniform(*RELIABILITY)) for _ in range(nodes)]


def draw_queries(seed: int, topics: int = 0, noise: float = 0.0, dimension: int = DIMENSION) -> Iterator[Vector]:
    """Yield queries without end: each drawn for itself, or one of a few topics with some noise upon it."""
    rng = Random(f"queries/{seed}")
    centres = [gaussian(dimension, rng) for _ in range(topics)]
    while True:
        if not centres:
            yield gaussian(dimension, rng)
        else:
            centre = centres[rng.randrange(topics)]
            yield [x + noise * rng.gauss(0.0, 1.0) for x in centre]
