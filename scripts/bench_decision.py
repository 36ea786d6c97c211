"""Time one cached decision: look up the ranking, choose the heads. In-process, as `bench_broker --decision`.

The broker times its decisions itself, with a timer that is injected: here one that notes what it returns. Its two
readings enclose exactly what `router_decision_seconds` shows; what the readings themselves cost is measured the same
way and taken off.
"""

from __future__ import annotations

import statistics
import time
from random import Random
from typing import Final

from router_daemon.core.actions import Deliver
from router_daemon.core.broker import Broker
from router_daemon.core.events import Ack, AckHeader, Register, Registration, Request, Send
from router_daemon.core.settings import Settings
from router_daemon.policies.base import make_policy

TARGET_US: Final = 0.5
BACKENDS: Final = 12
BATCHES: Final = 300
BATCH: Final = 128


class Stamps:
    """A timer that notes its readings."""

    def __init__(self) -> None:
        self.all: list[float] = []

    def __call__(self) -> float:
        """Return and note the time, in seconds."""
        now = time.perf_counter()
        self.all.append(now)
        return now

    def spans_us(self) -> list[float]:
        """Return the time between each first and second reading, in microseconds, and forget them."""
        spans = [(b - a) * 1e6 for a, b in zip(self.all[::2], self.all[1::2], strict=True)]
        self.all.clear()
        return spans


def serve_batch(broker: Broker, first_id: int, now: float) -> None:
    """Take a batch of messages in and have each acknowledged."""
    delivered: list[Deliver] = []
    for number in range(first_id, first_id + BATCH):
        header = Request(number, "bench", mode="single")
        delivered += [a for a in broker.handle(Send(b"client", False, header), now) if isinstance(a, Deliver)]
    assert len(delivered) == BATCH
    for action in delivered:
        broker.handle(Ack(action.peer, False, AckHeader(action.header.id)), now)


def measure(policy: str) -> tuple[list[float], float]:
    """Return the cached decisions in microseconds, and what two readings of the timer cost."""
    settings, stamps = Settings(), Stamps()
    rng = Random(1)
    broker = Broker(settings, make_policy(policy, settings, rng), rng=rng, timer=stamps, instance="bench")
    for number in range(BACKENDS):
        header = Registration(f"backend-{number}", ["bench"], slots=BATCH)
        broker.handle(Register(str(number).encode(), False, header), 0.0)
    spans: list[float] = []
    for batch in range(BATCHES):
        serve_batch(broker, batch * BATCH, batch * 0.001)
        spans += stamps.spans_us()
    assert broker.rankings.misses == 1
    for _ in range(BATCHES * BATCH):
        stamps()
        stamps()
    return spans[BATCH:], statistics.median(stamps.spans_us())


def report(policy: str) -> str:
    """Return one line of Markdown."""
    spans, cost_us = measure(policy)
    cuts = statistics.quantiles(spans, n=100)
    p50, p99 = cuts[49] - cost_us, cuts[98] - cost_us
    verdict = "met" if p50 <= TARGET_US else "**not met**"
    return (
        f"A cached decision, policy `{policy}`, {BACKENDS} backends: median {p50:.2f} us, p99 {p99:.2f} us "
        f"(timer, {cost_us:.2f} us, taken off); target at most {TARGET_US} us: {verdict}."
    )
