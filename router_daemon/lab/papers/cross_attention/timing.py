"""How long a decision takes (Table I, Figures 4 and 6), by the clock that is handed in.

Rules:
- Timed are whole batches of decisions, the look-up in the cache and the policy's choice, and what a batch costs without
  any decision is taken off. The median of the batches counts: a machine that others use makes some of them longer.
- These are the only numbers of a report that differ from run to run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

from router_daemon.core.events import Request
from router_daemon.lab.papers.cross_attention.setup import System
from router_daemon.lab.papers.cross_attention.trial import START_S, Reading, Stage, Variant

Timer = Callable[[], float]

BATCH: Final = 500


def route_us(
    variant: Variant, reading: Reading, pool: tuple[System, ...], requests: Sequence[Request], timer: Timer
) -> float:
    """Return the median time of a decision in microseconds, over all requests once."""
    stage = Stage(variant, reading, pool, "timing")
    step_s = 1.0 / reading.rate_per_s
    times = []
    for begin in range(0, len(requests), BATCH):
        batch = [(request, START_S + (begin + k) * step_s) for k, request in enumerate(requests[begin : begin + BATCH])]
        times.append((_timed(stage, batch, timer) - _empty(batch, timer)) / len(batch))
    return 1e6 * max(0.0, median(times))


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
