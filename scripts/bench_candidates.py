"""Time a choice of the policy attention among few and many backends, in-process, as `bench_broker --candidates`.

Three ways of finding the best, on the same backends with the same load:
- all: every candidate is looked at, in Python;
- sample: as the policy does beyond `scan_most` candidates;
- numpy: expected latencies, successes and free places as columns, one masked arg max. The policy does not do this; it
  is here to show from how many candidates on it would pay. Its columns have to be kept up to date: that is timed, too,
  for one capability; each further one that a backend offers has columns of its own.

Each is the least of many short batches (noise only adds), with two backends changed before each choice, as a message
that comes and one that ends change them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any, Final

import numpy as np

from router_daemon.core.broker import Broker
from router_daemon.core.events import Register, Registration, Request
from router_daemon.core.ranking import Ranking
from router_daemon.core.settings import AttentionSettings, Settings
from router_daemon.policies.base import make_policy

COUNTS: Final = (3, 12, 25, 50, 100, 300, 1_000, 10_000)
BATCHES: Final = 60
EVERYBODY: Final = 1_000_000
REQUEST: Final = Request(1, "bench")


class Field:
    """So many backends of one capability, each with its own speed, success and load."""

    def __init__(self, count: int, settings: Settings) -> None:
        self.rng = Random(1)
        self.policy = make_policy("attention", settings, self.rng)
        broker = Broker(settings, self.policy, rng=self.rng, timer=lambda: 0.0, instance="bench")
        for number in range(count):
            header = Registration(f"backend-{number}", ["bench"], slots=4)
            broker.handle(Register(str(number).encode(), False, header), 0.0)
        began = time.perf_counter()
        self.ranking: Ranking = broker.rankings.get("bench", 2, 1.0)
        self.ranking_s = time.perf_counter() - began
        self.ranking.pool.reference_s, self.ranking.pool.samples = 0.003, 1_000
        for candidate in self.ranking.candidates:
            candidate.service.service_s = self.rng.uniform(0.001, 0.005)
            candidate.backend.profile.success = self.rng.uniform(0.9, 1.0)
            candidate.service.version = -1

    def touch(self) -> None:
        """Let something happen at two backends."""
        for _ in range(2):
            self.rng.choice(self.ranking.candidates).backend.version += 1


class Columns:
    """The same backends as numpy columns."""

    def __init__(self, field: Field) -> None:
        services = [candidate.service for candidate in field.ranking.candidates]
        self.expected = np.array([service.service_s for service in services])
        self.success = np.array([candidate.backend.profile.success for candidate in field.ranking.candidates])
        self.free = np.ones(len(services), dtype=bool)
        self._rng = field.rng

    def update(self) -> None:
        """Write what two backends have become."""
        for _ in range(2):
            at = int(self._rng.random() * len(self.free))
            self.expected[at] = 0.002
            self.success[at] = 0.95
            self.free[at] = True

    def pick(self) -> Any:
        """Return the index of the best."""
        least = self.expected[self.free].min()
        score = 0.3 * least / (least + self.expected) + 0.2 * self.success
        score[~self.free] = -1.0
        return score.argmax()


def least_us(work: Callable[[], object], rounds: int) -> float:
    """Return the least mean time of a batch, in microseconds."""
    best = float("inf")
    for _ in range(BATCHES):
        began = time.perf_counter()
        for _ in range(rounds):
            work()
        best = min(best, (time.perf_counter() - began) / rounds)
    return best * 1e6


def row(count: int) -> str:
    """Return one line of the table."""
    rounds = 100 if count <= 1_000 else 5
    every = Field(count, Settings(attention=AttentionSettings(scan_most=EVERYBODY)))
    some = Field(count, Settings())
    touch_us = least_us(every.touch, 100)
    times = []
    for field in (every, some):

        def choose(field: Field = field) -> None:
            field.touch()
            field.policy.pick(field.ranking, REQUEST, (), 1.0)

        times.append(least_us(choose, rounds) - touch_us)
    columns = Columns(every)

    def choose_by_columns() -> None:
        columns.update()
        columns.pick()

    times.append(least_us(choose_by_columns, rounds))
    cells = " | ".join(f"{us:.1f}" for us in times)
    return f"| {count:,} | {cells} | {every.ranking_s * 1e3:.2f} |"


def report() -> str:
    """Return a table in Markdown."""
    head = (
        "| candidates | all, us | as the policy does (all up to 50, else a sample of 32), us | numpy columns, us "
        "| making the ranking, ms (once in 30 s) |\n| ---: | ---: | ---: | ---: | ---: |"
    )
    return "\n".join([head, *map(row, COUNTS)])
