"""The daemon's process from outside: its memory, sampled and judged by whether it has stopped growing, and its waits.

Formula: mean resident size of the last quarter of a life's samples against that of its second quarter (the first one is
the start). Growth counts as a plateau up to `GROWTH` of it and `SLACK_MIB`.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Final

GROWTH: Final = 0.10
SLACK_MIB: Final = 4.0
EVERY_S: Final = 0.25
LOOKS_PER_SAMPLE: Final = 5
WAIT_WORTH_S: Final = 0.005
LEAST_SAMPLES: Final = 80
"""Fewer (20 s) say nothing: then there is no verdict."""
PAGE_BYTES: Final = 4096


class Memory:
    """Samples by life of the daemon, in MiB; and how long the daemon waited for a processor (`waited_s`).

    `on_wait` is told of each such wait: from when to when, in seconds.
    """

    def __init__(self, on_wait: Callable[[float, float], None]) -> None:
        self.lives: list[list[float]] = [[]]
        self.pid: int | None = None
        self.waited_s = 0.0
        self._on_wait = on_wait
        self._waited_before: tuple[int, float] = (0, 0.0)

    def new_life(self) -> None:
        """Another process from now on."""
        self.lives.append([])

    def sample(self) -> None:
        """Note how much the daemon has now, if it runs."""
        if self.pid is None:
            return
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            return
        self.lives[-1].append(pages * PAGE_BYTES / (1 << 20))

    def look_at_waits(self) -> None:
        """Note how long the daemon, ready to run, has waited for a processor since the last look."""
        if self.pid is None:
            return
        try:
            waited_s = int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):  # the kernel need not keep it
            return
        pid, before_s = self._waited_before
        self._waited_before = (self.pid, waited_s)
        since_s = waited_s - before_s if pid == self.pid else 0.0
        if since_s > WAIT_WORTH_S:
            now_s = time.monotonic()
            self.waited_s += since_s
            self._on_wait(now_s - since_s, now_s)

    async def watch(self) -> None:
        """Sample until cancelled."""
        for turn in itertools.count():
            if turn % LOOKS_PER_SAMPLE == 0:
                self.sample()
            self.look_at_waits()
            await asyncio.sleep(EVERY_S / LOOKS_PER_SAMPLE)


class Plateau:
    """The verdict on one series of samples."""

    def __init__(self, samples: list[float]) -> None:
        quarter = len(samples) // 4
        self.enough = len(samples) >= LEAST_SAMPLES
        self.early = fmean(samples[quarter : 2 * quarter]) if quarter else 0.0
        self.late = fmean(samples[-quarter:]) if quarter else 0.0
        self.peak = max(samples, default=0.0)
        self.bound = self.early * (1.0 + GROWTH) + SLACK_MIB

    @property
    def holds(self) -> bool:
        """Whether memory has stopped growing, as far as that can be told."""
        return not self.enough or self.late <= self.bound

    def __str__(self) -> str:
        """Say it with figures."""
        if not self.enough:
            return f"too short to tell; at most {self.peak:.1f} MiB"
        return (
            f"second quarter {self.early:.1f} MiB, last quarter {self.late:.1f} MiB "
            f"(bound {self.bound:.1f}), at most {self.peak:.1f} MiB"
        )


def longest(memory: Memory) -> Plateau:
    """Return the verdict on the longest life."""
    return Plateau(max(memory.lives, key=len))
