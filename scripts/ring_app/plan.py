"""What is in the ring: who is linked with whom, what each backend is like, what messages ask for. Drawn from the seed.

The pool is that of Gilbert, "Ring attention for distributed message processing", section IV: one backend a node, base
latencies of 0.5 to 3 ms, reliabilities of 0.90 to 0.995, unit vectors of 8 numbers for backends and messages.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass
from typing import Final

DIMENSION: Final = 8
SERVICE_MS: Final = (0.5, 3.0)
RELIABILITY: Final = (0.90, 0.995)
CAPABILITY: Final = "topic"

Edge = tuple[int, int]
Vector = tuple[float, ...]


@dataclass(frozen=True)
class Member:
    """A backend: how long it works, how often it succeeds, what it is about."""

    service_ms: float
    reliability: float
    embedding: Vector


@dataclass(frozen=True)
class Plan:
    """The whole ring; nodes are numbered around it."""

    members: tuple[Member, ...]
    edges: tuple[Edge, ...]

    @property
    def size(self) -> int:
        """How many daemons."""
        return len(self.members)

    def distances(self, origin: int, without: int | None = None) -> dict[int, int]:
        """Return the least number of links to every daemon that can be reached, with one left out."""
        found, todo = {origin: 0}, deque([origin])
        while todo:
            node = todo.popleft()
            for one, other in self.edges:
                if node in (one, other):
                    far = other if node == one else one
                    if far not in found and far != without:
                        found[far] = found[node] + 1
                        todo.append(far)
        return found


def make_plan(daemons: int, shortcuts: int, seed: int) -> Plan:
    """Return the ring of a seed: the same pool whatever the number of shortcuts."""
    rng = random.Random(f"pool {seed}")
    members = tuple(
        Member(rng.uniform(*SERVICE_MS), rng.uniform(*RELIABILITY), unit_vector(rng)) for _ in range(daemons)
    )
    ring = [(node, (node + 1) % daemons) for node in range(daemons)]
    chords = _chords(daemons, shortcuts, random.Random(f"chords {seed}"))
    return Plan(members, tuple(ring + chords))


def _chords(daemons: int, count: int, rng: random.Random) -> list[Edge]:
    apart = [
        (one, other) for one in range(daemons) for other in range(one + 2, daemons) if (one, other) != (0, daemons - 1)
    ]
    return rng.sample(apart, min(count, len(apart)))


def unit_vector(rng: random.Random) -> Vector:
    """Return a direction, each as likely as any other: a Gaussian vector over its length."""
    drawn = [rng.gauss(0.0, 1.0) for _ in range(DIMENSION)]
    length = math.sqrt(math.fsum(value * value for value in drawn))
    return tuple(value / length for value in drawn)


def cosine(one: Vector, other: Vector) -> float:
    """Return the cosine of the angle between two unit vectors."""
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def daemon_name(node: int) -> str:
    """Return what the daemon of a node is called."""
    return f"d{node:02}"


def backend_name(node: int) -> str:
    """Return what its backend is called, there."""
    return f"b{node:02}"


def node_of(backend: str) -> int:
    """Return the node of a backend by the name that a REPLY gives it: `b07`, or `d07/b07` elsewhere."""
    return int(backend.rpartition("/")[2][1:])
