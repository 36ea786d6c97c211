"""The ring paper's experiment: one run of one variant, message by message, with the policy that routes live traffic.

latency = hops x link + service (ring paper, "Simulation"); after each service the node's moving averages of latency and
success take it in. At 60 % of the run the node that had the most messages fails.

Rules:
- The policy is asked as the broker asks it, over the broker's own registry; nothing is scored here.
- A run is a function of its `Job` alone.
- What the text leaves open is a field of `Reading`; the defaults are the reading that comes nearest to what was printed
  and says least that the text does not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Literal, TypeAlias

from router_daemon.core.settings import RingAttentionSettings
from router_daemon.lab.papers.ring import world
from router_daemon.lab.papers.ring.router import Router
from router_daemon.lab.papers.ring.world import Chord, Node, Vector
from router_daemon.lab.result import percentile

FAILS_AT: Final = 0.6

Chords: TypeAlias = Literal["none", "random", "spread"]


@dataclass(frozen=True, slots=True)
class Variant:
    """A row of the table: a policy, what it is set to, and the chords across the ring."""

    name: str
    policy: str
    chords: Chords = "none"
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read what the text leaves open.

    Attributes:
        known: averages start at what the node is; else at the policy's cold start, for all alike.
        jitter: sigma of a lognormal factor of mean 1 on each service.
        topics, noise: queries are one of so many Gaussian topics, with that much noise; 0: each is drawn for itself.
        enters: at which node a message comes in: any, one and the same, any that has not failed.
        fails: the busiest node fails at 60 % of the run. relays: it still passes on what goes through it.
        unit: queries and keys have length 1; else they are as drawn.
        settings: of the policy.
    """

    known: bool = True
    jitter: float = 0.0
    topics: int = 0
    noise: float = 0.0
    enters: Literal["any", "one", "living"] = "any"
    fails: bool = True
    relays: bool = True
    unit: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)


PLAIN: Final = Reading()


@dataclass(frozen=True, slots=True)
class Job:
    """One run to be made.

    Attributes:
        load: None: each message finds its node idle; else nodes have one queue each, and messages arrive at random,
            so many of them as all nodes together could serve, times this share.
        sampled: the node is drawn by its attention weight instead of the arg max.
    """

    variant: Variant
    seed: int
    messages: int
    reading: Reading = PLAIN
    shortcuts: int = world.SHORTCUTS
    load: float | None = None
    sampled: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to.

    Attributes:
        latency_ms, hops, alignment, success: means over all messages.
        throughput: messages per second, one after the other: 1000 / latency_ms.
        delta_p95_ms: 95th percentile of the latency after the failure, minus that before it.
        busiest: the share of all messages that the node with the most of them had, before the failure.
        ways: how many messages went how many hops to a node at which distance along the ring.
    """

    latency_ms: float
    hops: float
    throughput: float
    alignment: float
    delta_p95_ms: float
    success: float
    busiest: float
    ways: Mapping[tuple[int, int], int]


def run(job: Job) -> Outcome:
    """Make one run."""
    return _Run(job).make()


def chords(job: Job) -> Sequence[Chord]:
    """Return the chords of a job's ring."""
    if job.variant.chords == "none":
        return ()
    if job.variant.chords == "spread":
        return world.spread_chords(world.NODES, job.shortcuts)
    return world.random_chords(world.NODES, job.shortcuts, Random(f"chords/{job.seed}"))


def entries(job: Job) -> Iterator[int]:
    """Yield the node at which each message comes in."""
    rng = Random(f"entries/{job.seed}")
    while True:
        yield 0 if job.reading.enters == "one" else rng.randrange(world.NODES)


class _Run:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._nodes = world.draw_nodes(job.seed)
        self._keys = [world.unit(node.key) for node in self._nodes]
        self._chords = chords(job)
        self._hops = world.ring_hops(world.NODES, self._chords)
        self._along = world.ring_hops(world.NODES)
        reading = job.reading
        self._router = Router(
            job.variant.policy,
            RingAttentionSettings(**{**job.variant.settings, **reading.settings}),
            self._nodes,
            unit=reading.unit,
            known=reading.known,
            seed=job.seed,
        )
        self._chance = Random(f"draws/{job.seed}")
        self._failed: int | None = None
        self._traffic = [0] * world.NODES
        self._latencies_ms: list[float] = []
        self._alignment: list[float] = []
        self._successes = 0
        self._ways: Counter[tuple[int, int]] = Counter()

    def make(self) -> Outcome:
        job = self._job
        fails_at = int(FAILS_AT * job.messages)
        queries = world.draw_queries(job.seed, job.reading.topics, job.reading.noise)
        arrivals, luck = self._entries(), Random(f"luck/{job.seed}")
        queues = _Queues(job, self._nodes)
        busiest = 0.0
        for number, query, here in zip(range(job.messages), queries, arrivals, strict=False):
            if number == fails_at and job.reading.fails:
                busiest = max(self._traffic) / fails_at
                self._fail()
            self._serve(here, query, luck, queues)
        return self._outcome(fails_at, busiest)

    def _serve(self, here: int, query: Vector, luck: Random, queues: _Queues) -> None:
        """Route one message and let the node that it goes to do it."""
        aimed = world.unit(query)
        asked = aimed if self._job.reading.unit else query
        if self._job.sampled:
            chosen, hops = self._router.draw(here, asked, self._hops, self._chance)
        else:
            chosen, hops = self._router.choose(here, asked, self._hops)
        node = self._nodes[chosen]
        way_ms = hops * world.LINK_MS
        service_ms = queues.serve(chosen, way_ms, luck)
        works = luck.random() < node.reliability
        self._router.learn(chosen, service_ms, works=works)
        self._traffic[chosen] += 1
        self._latencies_ms.append(way_ms + service_ms)
        self._alignment.append(world.cosine(aimed, self._keys[chosen]))
        self._successes += works
        self._ways[hops, self._along[here][chosen]] += 1

    def _fail(self) -> None:
        """Let the node that has had the most messages fail."""
        self._failed = failed = max(range(world.NODES), key=self._traffic.__getitem__)
        self._router.remove(failed)
        if not self._job.reading.relays:
            self._hops = world.ring_hops(world.NODES, self._chords, {failed})

    def _entries(self) -> Iterator[int]:
        for here in entries(self._job):
            if here != self._failed or self._job.reading.enters != "living":
                yield here

    def _outcome(self, fails_at: int, busiest: float) -> Outcome:
        count, latencies_ms = len(self._latencies_ms), self._latencies_ms
        mean_ms = math.fsum(latencies_ms) / count
        before, after = sorted(latencies_ms[:fails_at]), sorted(latencies_ms[fails_at:])
        return Outcome(
            latency_ms=mean_ms,
            hops=sum(hops * times for (hops, _), times in self._ways.items()) / count,
            throughput=1_000.0 / mean_ms,
            alignment=math.fsum(self._alignment) / count,
            delta_p95_ms=percentile(after, 0.95) - percentile(before, 0.95),
            success=self._successes / count,
            busiest=busiest,
            ways=dict(self._ways),
        )


class _Queues:
    """How long nodes take: at once, or one message after the other."""

    def __init__(self, job: Job, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._jitter = job.reading.jitter
        self._rng = Random(f"demand/{job.seed}")
        self._rate = None if job.load is None else job.load * math.fsum(1.0 / node.base_ms for node in nodes)
        self._now_ms = 0.0
        self._free_at_ms = [0.0] * len(nodes)

    def serve(self, chosen: int, way_ms: float, luck: Random) -> float:
        """Return the milliseconds from a message's arrival at a node to its end there."""
        service_ms = self._nodes[chosen].base_ms
        if self._jitter:
            service_ms *= math.exp(luck.gauss(-(self._jitter**2) / 2.0, self._jitter))
        if self._rate is None:
            return service_ms
        self._now_ms += self._rng.expovariate(self._rate)
        comes_ms = self._now_ms + way_ms
        done_ms = max(comes_ms, self._free_at_ms[chosen]) + service_ms
        self._free_at_ms[chosen] = done_ms
        return done_ms - comes_ms
