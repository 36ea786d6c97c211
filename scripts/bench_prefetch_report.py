"""What `bench_prefetch` measured, and its tables: medians over the rounds, and ratios to the first prefetch named.

A ratio is taken within a round, between runs right after one another or at the same time.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench_prefetch_load import Closed


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that so many are not above."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def spread(values: Sequence[float], form: str) -> str:
    """Return the median, and in brackets the least and the greatest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


@dataclass
class Quick:
    """All rounds of one slots and work, by prefetch."""

    slots: int
    work_ms: float
    runs: dict[str, list[Closed]]

    def ratios(self, prefetch: str, what: Callable[[Closed], float]) -> list[float]:
        """Return that of a prefetch over that of the first, per round."""
        return [what(a) / what(b) for a, b in zip(self.runs[prefetch], next(iter(self.runs.values())), strict=True)]

    def progress(self) -> str:
        """Return one line about a finished row."""
        rates = ", ".join(f"{each}: {statistics.median(self.ratios(each, _rate)):.2f}" for each in self.runs)
        return f"slots {self.slots}, {self.work_ms:g} ms: {rates}"


@dataclass
class Streams:
    """All rounds of one mixture, by prefetch: seconds to the first PART of every message; how many were refused."""

    mix: str
    load: float
    seconds: float
    first_s: dict[str, list[list[float]]]
    refused: Counter[str] = field(default_factory=Counter)

    def ratios(self, prefetch: str, what: Callable[[Sequence[float]], float]) -> list[float]:
        """Return that of a prefetch over that of the first, per round."""
        return [
            what(a) / what(b) for a, b in zip(self.first_s[prefetch], next(iter(self.first_s.values())), strict=True)
        ]

    def progress(self) -> str:
        """Return one line about a finished row."""
        means = ", ".join(
            f"{each}: {statistics.median(self.ratios(each, statistics.fmean)):.2f}" for each in self.first_s
        )
        return f"{self.mix}: mean time to the first PART {means}"


def _rate(run: Closed) -> float:
    return run.rate


def _p50(run: Closed) -> float:
    return percentile(run.latencies_s, 0.5)


def _p99(run: Closed) -> float:
    return percentile(run.latencies_s, 0.99)


def first_p50(waits: Sequence[float]) -> float:
    return percentile(waits, 0.5)


def first_p99(waits: Sequence[float]) -> float:
    return percentile(waits, 0.99)


def quick_table(rows: Sequence[Quick]) -> Iterator[str]:
    """Yield the lines of the closed loop's table."""
    yield "| slots | work, ms | prefetch | answers/s | ratio | p50, ms | ratio | p99, ms | ratio |"
    yield "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for row in rows:
        for prefetch, runs in row.runs.items():
            cells = [f"{row.slots}", f"{row.work_ms:g}", prefetch, f"{statistics.median(map(_rate, runs)):,.0f}"]
            cells.append(spread(row.ratios(prefetch, _rate), ".2f"))
            for what in (_p50, _p99):
                cells.append(f"{statistics.median(map(what, runs)) * 1000:.1f}")
                cells.append(spread(row.ratios(prefetch, what), ".2f"))
            yield "| " + " | ".join(cells) + " |"


def streams_table(rows: Sequence[Streams]) -> Iterator[str]:
    """Yield the lines of the open loop's table."""
    yield (
        "| lengths, s | load | answered | refused | prefetch "
        "| to first PART: mean, ms | ratio | p50, ms | p99, ms | ratio |"
    )
    yield "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    for row in rows:
        for prefetch, rounds in row.first_s.items():
            cells = [row.mix, f"{row.load:g}", f"{sum(map(len, rounds))}", f"{row.refused[prefetch]}", prefetch]
            cells.append(f"{statistics.median(map(statistics.fmean, rounds)) * 1000:,.1f}")
            cells.append(spread(row.ratios(prefetch, statistics.fmean), ".2f"))
            cells.append(f"{statistics.median(map(first_p50, rounds)) * 1000:,.1f}")
            cells.append(f"{statistics.median(map(first_p99, rounds)) * 1000:,.0f}")
            cells.append(spread(row.ratios(prefetch, first_p99), ".2f"))
            yield "| " + " | ".join(cells) + " |"


def markdown(rows: Sequence[Quick] | Sequence[Streams]) -> str:
    """Return the table of either."""
    quick = [row for row in rows if isinstance(row, Quick)]
    streams = [row for row in rows if isinstance(row, Streams)]
    return "\n".join([*(quick_table(quick) if quick else ()), *(streams_table(streams) if streams else ())])


def as_json(rows: Sequence[Quick] | Sequence[Streams]) -> list[dict[str, Any]]:
    """Return everything, unrounded."""
    found: list[dict[str, Any]] = []
    for row in rows:
        if isinstance(row, Quick):
            runs = {
                each: [{"rate": run.rate, "p50_s": _p50(run), "p99_s": _p99(run)} for run in some]
                for each, some in row.runs.items()
            }
            found.append({"slots": row.slots, "work_ms": row.work_ms, "runs": runs})
        else:
            found.append({"mix": row.mix, "load": row.load, "refused": row.refused, "first_s": row.first_s})
    return found
