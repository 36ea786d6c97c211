"""How long a decision takes (Table I, Figures 4 and 6), by the clock that is handed in.

Rules:
- Timed are whole batches of decisions, the look-up in the cache and the policy's choice, and what a batch costs without
  any decision is taken off. Each batch is timed in several passes and the shortest counts, since a machine that others
  use makes some of them longer; the batches are averaged, since a few of them hold the misses.
- These are the only numbers of a report that differ from run to run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import fsum
from typing import Final

from router_daemon.core.events import Request
from router_daemon.lab.papers.cross_attention.setup import System
from router_daemon.lab.papers.cross_attention.trial import START_S, Reading, Stage, Variant

Timer = Callable[[], float]

BATCH: Final = 500
PASSES: Final = 3


def route_us(
    variant: Variant, reading: Reading, pool: tuple[System, ...], requests: Sequence[Request], timer: Timer
) -> float:
    """Return the mean time of a decision in microseconds, over all requests in turn."""
    passes = [_pass(Stage(variant, reading, pool, "timing"), reading, requests, timer) for _ in range(PASSES)]
    return 1e6 * fsum(min(times) for times in zip(*passes, strict=True)) / len(requests)


def _pass(stage: Stage, reading: Reading, requests: Sequence[Request], timer: Timer) -> list[float]:
    """Return the time of each batch."""
    step_s = 1.0 / reading.rate_per_s
    times = []
    for begin in range(0, len(requests), BATCH):
        batch = [(request, START_S + (begin + k) * step_s) for k, request in enumerate(requests[begin : begin + BATCH])]
        times.append(max(0.0, _timed(stage, batch, timer) - _empty(batch, timer)))
    return times


def _timed(stage: Stage, batch: list[tuple[Request, float]], timer: Timer) -> float:
    get, pick = stage.cache.get, stage.policy.pick
    began = timer()
    for request, now in batch:
        pick(get(request.capability, request.priority, now), request, (), now)
    return timer() - began


def _empty(batch: list[tuple[Request, float]], timer: Timer) -> float:
    began = timer()
    for _request, _now in batch:
        pass
    return timer() - began
