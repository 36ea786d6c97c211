"""Time choices by embedding among few and many backends, in-process, as `bench_broker --embeddings`.

The broker times its decisions itself, as in `bench_decision`: from reading the ranking to the head, with everything
that the message asks for. Every message has a query of its own; a delivery is acknowledged after a few messages, so
that load comes and goes; and every message is followed by some backend's report of a random queue. Each figure is the
least median of several batches (noise only adds).

What looking at a part of many backends loses: how often the one chosen is not the best (by more than `TIE`) when all
are looked at in that moment, and by how much of z, in the mean over all messages.
"""

from __future__ import annotations

import statistics
from collections import deque
from random import Random
from typing import Final, NamedTuple

import numpy as np
from bench_candidates import least_us
from bench_decision import Stamps
from numpy.typing import NDArray

from router_daemon.core.actions import Deliver
from router_daemon.core.broker import Broker
from router_daemon.core.events import (
    Ack,
    AckHeader,
    Heartbeat,
    HeartbeatHeader,
    Register,
    Registration,
    Request,
    Revision,
    Send,
    Update,
)
from router_daemon.core.settings import Settings
from router_daemon.policies.base import make_policy
from router_daemon.policies.ring import TIE

NUMBERS: Final = 384
COUNTS: Final = (12, 100, 1_000, 10_000)
POLICIES: Final = ("ring", "ring_multi", "ring_greedy")
BATCHES: Final = 12
BATCH: Final = 40
OPEN: Final = 20
JUDGED: Final = 200


class Loss(NamedTuple):
    """What was lost against looking at all: share of messages, mean difference of z."""

    share: float
    mean: float


class Field:
    """So many backends with a key each, under one policy, and messages one after the other."""

    def __init__(self, policy: str, count: int) -> None:
        settings, self.rng = Settings(), Random(1)
        self.stamps = Stamps()
        self._draw = np.random.default_rng(1)
        self.policy = make_policy(policy, settings, self.rng)
        self.broker = Broker(settings, self.policy, rng=self.rng, timer=self.stamps, instance="bench")
        self._now, self._sent, self._count = 0.0, 0, count
        self._open: deque[Deliver] = deque()
        for number in range(count):
            header = Registration(f"b{number}", ["bench"], slots=4, embedding=self.vector().tobytes())
            self.broker.handle(Register(str(number).encode(), False, header), 0.0)
        for candidate in self.broker.rankings.get("bench", 2, 0.0).candidates:
            candidate.service.service_s = self.rng.uniform(0.001, 0.005)
            candidate.backend.profile.success = self.rng.uniform(0.9, 1.0)

    def vector(self) -> NDArray[np.float32]:
        """Return a random query or key."""
        return self._draw.standard_normal(NUMBERS).astype("<f4")

    def serve(self) -> tuple[Request, Deliver]:
        """Send a message, and return it with its delivery."""
        self._sent += 1
        self._now += 0.0002
        request = Request(self._sent, "bench", mode="single", embedding=self.vector().tobytes())
        [delivery] = [a for a in self.broker.handle(Send(b"client", False, request), self._now) if type(a) is Deliver]
        self._open.append(delivery)
        return request, delivery

    def settle(self) -> None:
        """Let one that is open be acknowledged, and some backend report a queue."""
        if len(self._open) > OPEN:
            done = self._open.popleft()
            self.broker.handle(Ack(done.peer, False, AckHeader(done.header.id)), self._now)
        peer = str(self.rng.randrange(self._count)).encode()
        self.broker.handle(Heartbeat(peer, False, HeartbeatHeader(queue=self.rng.randrange(8))), self._now)

    def decision_us(self) -> float:
        """Return the least median time of a decision."""
        medians = []
        for _ in range(BATCHES):
            self.stamps.all.clear()
            for _ in range(BATCH):
                self.serve()
                self.settle()
            medians.append(statistics.median(self.stamps.spans_us()))
        return min(medians)

    def loss(self) -> Loss:
        """Return what the choices lack of the best ones."""
        lacking = []
        for _ in range(JUDGED):
            ranking = self.broker.rankings.get("bench", 2, self._now).detached()
            free = {c.backend.name: c.backend.free for c in ranking.candidates}
            request = Request(0, "bench", embedding=self.vector().tobytes())
            rows = {c.backend.name: c for c in self.policy.peek(ranking, request, self._now)}
            chosen = self.policy.pick(self.broker.rankings.get("bench", 2, self._now), request, (), self._now)
            assert chosen is not None
            best = max(row.logit or 0.0 for name, row in rows.items() if free[name] > 0)
            lacking.append(best - (rows[chosen.backend.name].logit or 0.0))
            self.serve()
            self.settle()
        return Loss(sum(lack > TIE for lack in lacking) / JUDGED, statistics.fmean(lacking))

    def update_us(self) -> float:
        """Return the least time in which a key that changes is taken in."""
        headers = [Revision(embedding=self.vector().tobytes()) for _ in range(8)]
        turn = iter(range(1_000_000))
        return least_us(lambda: self.broker.handle(Update(b"0", False, headers[next(turn) % 8]), self._now), 20)


def report() -> str:
    """Return a table in Markdown."""
    head = (
        f"| backends, keys of {NUMBERS} | {', us | '.join(f'`{name}`' for name in POLICIES)}, us "
        "| a key that changes, us | not the best, `ring` | z lost in the mean |\n"
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    return "\n".join([head, *map(_row, COUNTS)])


def _row(count: int) -> str:
    fields = {name: Field(name, count) for name in POLICIES}
    times = [f"{field.decision_us():.1f}" for field in fields.values()]
    ring = fields["ring"]
    loss = ring.loss()
    return f"| {count:,} | {' | '.join(times)} | {ring.update_us():.0f} | {loss.share:.1%} | {loss.mean:.2g} |"
