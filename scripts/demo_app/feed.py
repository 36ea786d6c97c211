"""Where the windows come from: this machine's metrics as they happen, or a file at an accelerated rate.

Rules:
- A feed yields windows that overlap: the last samples of a series as context, of which those from `since` on are new.
- A feed paces itself by its own clock and never runs ahead; who consumes it slowly gets live windows later (with newer
  samples in them) and a file's windows all the same.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

import psutil

from demo_app.analysis import median
from demo_app.csv_input import MIN_ROWS, Table

MESSAGES_PER_WINDOW: Final = 4
"""Cleaning, then aggregation, trend and anomaly detection; alerts come on top, rarely."""
LIVE_SAMPLES_PER_S: Final = (1.0, 10.0)
LIVE_CONTEXT: Final = 120
LIVE_MIN_SAMPLES: Final = 8
LIVE_CORES: Final = 8
FILE_CONTEXT: Final = 200
FILE_HOP: Final = 5
"""New rows per window where no duration is given."""
FILE_SHARE_OF_TIME: Final = 0.9
"""Of the seconds given, so that the last rows are analysed before the end."""


@dataclass(slots=True)
class Window:
    """Consecutive samples of one series.

    Attributes:
        since: time of the first new sample; those before it are context.
        new_samples: how many are new (times may repeat, so `since` cannot tell).
        floor: as in `analysis`.
        step_s: the usual distance of two samples.
    """

    series: str
    times: list[float]
    values: list[float]
    since: float
    new_samples: int
    floor: float
    step_s: float


class Pace:
    """Sleeps until the next beat; a short delay is caught up, a long one is forgiven."""

    FORGIVE_S: Final = 1.0

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._due_s = time.monotonic()

    async def beat(self) -> None:
        """Return when the next beat is due."""
        now_s = time.monotonic()
        self._due_s += self._period_s
        if self._due_s < now_s - self.FORGIVE_S:
            self._due_s = now_s
        await asyncio.sleep(max(0.0, self._due_s - now_s))


class Feed(Protocol):
    """What the demo needs of a feed."""

    title: str

    def windows(self) -> AsyncGenerator[Window, None]:
        """Yield windows when they are due."""
        ...

    def when(self, time_s: float) -> str:
        """Return a time of this feed for a person."""
        ...

    def notes(self) -> list[str]:
        """Return what the summary should say of the input."""
        ...


class Metrics:
    """This machine's numbers by psutil: levels as they are, counters as rates since the sample before."""

    floors: Final = {"percent": 5.0, "load": 0.2, "rate": 65536.0, "count": 4.0}

    def __init__(self) -> None:
        self.floor_of: dict[str, float] = {}
        self._counters: dict[str, tuple[float, float]] = {}
        psutil.cpu_percent(percpu=True)  # the first call has nothing to compare with

    def sample(self, now_s: float) -> dict[str, float]:
        """Return series -> value; a rate is missing the first time."""
        values: dict[str, float] = {}
        cores = psutil.cpu_percent(percpu=True)
        self._put(values, "cpu.percent", math.fsum(cores) / len(cores), "percent")
        for index, value in enumerate(cores[:LIVE_CORES]):
            self._put(values, f"cpu{index}.percent", value, "percent")
        self._put(values, "memory.percent", psutil.virtual_memory().percent, "percent")
        self._put(values, "load.1min", psutil.getloadavg()[0], "load")
        self._put(values, "processes", float(len(psutil.pids())), "count")
        if (disk := psutil.disk_io_counters()) is not None:
            self._rate(values, "disk.read_bytes_per_s", disk.read_bytes, now_s)
            self._rate(values, "disk.write_bytes_per_s", disk.write_bytes, now_s)
        if (network := psutil.net_io_counters()) is not None:
            self._rate(values, "net.received_bytes_per_s", network.bytes_recv, now_s)
            self._rate(values, "net.sent_bytes_per_s", network.bytes_sent, now_s)
        return values

    def _put(self, values: dict[str, float], series: str, value: float, kind: str) -> None:
        values[series] = value
        self.floor_of[series] = self.floors[kind]

    def _rate(self, values: dict[str, float], series: str, counter: float, now_s: float) -> None:
        before_s, before = self._counters.get(series, (now_s, counter))
        self._counters[series] = (now_s, counter)
        if now_s > before_s:
            self._put(values, series, max(0.0, counter - before) / (now_s - before_s), "rate")


class LiveFeed:
    """All series of this machine, sampled together, each sample a window of each series."""

    def __init__(self, rate: float) -> None:
        self._metrics = Metrics()
        self._metrics.sample(time.time())
        self._series = len(self._metrics.sample(time.time()))  # rates take two samples to appear
        low, high = LIVE_SAMPLES_PER_S
        self._period_s = 1 / min(high, max(low, rate / MESSAGES_PER_WINDOW / self._series))
        self._history: dict[str, deque[tuple[float, float]]] = {}
        self.title = f"this machine's live metrics, {1 / self._period_s:.1f} samples/s of each series"

    async def windows(self) -> AsyncGenerator[Window, None]:
        """Yield windows when they are due."""
        pace = Pace(self._period_s / self._series)  # spread: all at once would only queue up at the backends
        while True:
            now_s = time.time()
            for series, value in self._metrics.sample(now_s).items():
                await pace.beat()
                history = self._history.setdefault(series, deque(maxlen=LIVE_CONTEXT))
                history.append((now_s, value))
                if len(history) >= LIVE_MIN_SAMPLES:
                    times, values = map(list, zip(*history, strict=True))
                    floor = self._metrics.floor_of[series]
                    yield Window(series, times, values, now_s, 1, floor, self._period_s)

    def when(self, time_s: float) -> str:
        """Return the time for a person."""
        return datetime.fromtimestamp(time_s).astimezone().strftime("%H:%M:%S.%f")[:-5]

    def notes(self) -> list[str]:
        """Live metrics need no word."""
        return []


class FileFeed:
    """One file's series, replayed so that all of it fits into the time given."""

    def __init__(self, table: Table, rate: float, seconds: float | None) -> None:
        self._table = table
        self._period_s = MESSAGES_PER_WINDOW / rate
        rows = len(table.times)
        self._hop = FILE_HOP
        if seconds is not None:
            self._hop = max(1, math.ceil(rows * self._period_s / (seconds * FILE_SHARE_OF_TIME)))
        self._context = max(FILE_CONTEXT, 2 * self._hop)
        self._replayed = 0
        steps_s = [after - before for before, after in itertools.pairwise(table.times)]
        self._step_s = median(steps_s)
        ordered = sorted(table.values)
        self._floor = 0.01 * (ordered[int(0.95 * (rows - 1))] - ordered[int(0.05 * (rows - 1))])
        self.title = f"{table.name} ({rows:,} rows), {self._hop / self._period_s:,.0f} rows/s"

    async def windows(self) -> AsyncGenerator[Window, None]:
        """Yield windows when they are due."""
        times, values = self._table.times, self._table.values
        pace = Pace(self._period_s)
        start = 0
        while start < len(times):
            end = min(len(times), max(start + self._hop, MIN_ROWS))
            begin = max(0, end - self._context)
            await pace.beat()
            window = (self._table.name, times[begin:end], values[begin:end])
            yield Window(*window, times[start], end - start, self._floor, self._step_s)
            self._replayed = start = end

    def when(self, time_s: float) -> str:
        """Return the time for a person."""
        return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S")

    def notes(self) -> list[str]:
        """Return what was wrong with the file, and what of it was not reached."""
        notes = self._table.notes()
        if self._replayed < len(self._table.times):
            notes.append(f"{self._replayed:,} of {len(self._table.times):,} rows were replayed in this time")
        return notes
