"""The matrix: cells x contenders x seeds, one run each, and what they come to.

Rules:
- A run is a function of (cell, contender, seed, messages) alone, so runs may go to other processes; whoever calls
  brings the `map` that does it.
- Success counts the answers within the time to live among all that was sent. Latencies are of the answered of the
  scene's focus.
- A mean is over seeds, a spread the standard deviation over them. p99.9 is of all seeds' messages together: 20,000
  messages have twenty beyond it.
- Two contenders met the same messages on the same pools, so they are compared seed by seed: a difference counts where
  its mean is more than two standard errors from 0.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from router_daemon.lab.contenders import Changes, Contender
from router_daemon.lab.ledger import Record
from router_daemon.lab.matrix import cells
from router_daemon.lab.result import CRITICAL, percentile
from router_daemon.lab.timeline import START_S
from router_daemon.lab.workloads import Cell, Scene
from router_daemon.lab.world import World

RECOVERS_WITHIN_S: Final = 5.0
SIGNIFICANT: Final = 2.0
METRICS: Final = ("success", "p50_ms", "p99_ms", "critical_p99_ms", "deliveries", "recovered")


@dataclass(frozen=True, slots=True)
class Job:
    """One run to be made."""

    cell: str
    contender: Contender
    seed: int
    messages: int
    changes: Changes = ()
    prefetch: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One run that was made.

    Attributes:
        metrics: by name, see `METRICS`; `recovered` is success after a surge over that before it, nan without a surge.
        latencies_ms: of the answered of the focus, sorted.
        happened: how often each kind of fault did.
    """

    job: Job
    metrics: Mapping[str, float]
    latencies_ms: array[float]
    happened: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Row:
    """A contender in a cell.

    Attributes:
        values: per metric, one per seed.
        p999_ms: of all seeds together.
        happened: faults of all seeds together.
    """

    cell: Cell
    contender: Contender
    seeds: tuple[int, ...]
    values: Mapping[str, tuple[float, ...]]
    p999_ms: float
    happened: Mapping[str, int]

    def mean(self, metric: str) -> float:
        """Return the mean over the seeds that have a value; nan where none has."""
        return mean(self.values[metric])

    def spread(self, metric: str) -> float:
        """Return the standard deviation over the seeds; nan for fewer than two."""
        return spread(self.values[metric])


Table = Mapping[str, Mapping[Contender, Row]]
"""Rows by cell and contender."""


def jobs(
    names: Iterable[str],
    contenders: Sequence[Contender],
    seeds: Sequence[int],
    messages: int,
    changes: Changes = (),
    prefetch: int | None = None,
) -> list[Job]:
    """Return every run of a matrix: the runs of a row one after the other."""
    return [
        Job(name, contender, seed, messages, changes, prefetch)
        for name in names
        for contender in contenders
        for seed in seeds
    ]


def run(job: Job) -> Run:
    """Make one run."""
    scene = cells()[job.cell].scene(job.seed, job.messages)
    contender = job.contender
    world = World(
        seed=job.seed,
        policy=contender.maker(scene.daemons),
        settings=contender.settings(job.changes),
        backends=contender.backends(scene.backends, job.prefetch),
        demands=scene.demands,
        faults=scene.faults,
        daemons=scene.daemons,
    )
    result = world.run()
    metrics, latencies_ms = measure(result.records, scene)
    return Run(job, metrics, latencies_ms, result.happened)


def measure(records: Sequence[Record], scene: Scene) -> tuple[dict[str, float], array[float]]:
    """Return the metrics of a run, and its latencies."""
    if scene.counted is not None:
        from_s, until_s = scene.counted
        records = [record for record in records if from_s <= record.sent_at - START_S < until_s]
    answered = [record for record in records if record.outcome == "answered"]
    focus = [record for record in answered if scene.focus in (None, record.request.capability)]
    latencies = sorted(record.latency_s * 1000.0 for record in focus)
    critical = sorted(record.latency_s * 1000.0 for record in focus if record.request.priority == CRITICAL)
    metrics = {
        "success": success(records, scene.focus if scene.alone else None),
        "p50_ms": percentile(latencies, 0.5),
        "p99_ms": percentile(latencies, 0.99),
        "critical_p99_ms": percentile(critical, 0.99),
        "deliveries": sum(record.deliveries for record in records) / max(1, len(records)),
        "recovered": _recovered(records, scene),
    }
    return metrics, array("d", latencies)


def success(records: Iterable[Record], focus: str | None = None) -> float:
    """Return the share of messages that were answered in time; nan of none."""
    sent = good = 0
    for record in records:
        if focus in (None, record.request.capability):
            sent += 1
            good += record.outcome == "answered"
    return good / sent if sent else math.nan


def _recovered(records: Sequence[Record], scene: Scene) -> float:
    if scene.overload is None:
        return math.nan
    from_s, until_s = scene.overload
    before = success(record for record in records if record.sent_at - START_S < from_s)
    again_s = until_s + RECOVERS_WITHIN_S
    after = success(record for record in records if record.sent_at - START_S >= again_s)
    return after / before if before else math.nan


def compare(
    todo: Sequence[Job], mapper: Callable[[Callable[[Job], Run], Sequence[Job]], Iterable[Run]]
) -> Iterator[Row]:
    """Make the runs and yield each row when its last run is there.

    Args:
        todo: in the order of `jobs`.
        mapper: `map`, or that of a pool of processes; keeps the order.
    """
    for _, runs in groupby(mapper(run, todo), key=lambda made: (made.job.cell, made.job.contender)):
        yield row(list(runs))


def row(runs: Sequence[Run]) -> Row:
    """Put the runs of one contender in one cell together."""
    first = runs[0].job
    together = sorted(latency for made in runs for latency in made.latencies_ms)
    happened: dict[str, int] = {}
    for made in runs:
        for kind, count in made.happened.items():
            happened[kind] = happened.get(kind, 0) + count
    return Row(
        cells()[first.cell],
        first.contender,
        tuple(made.job.seed for made in runs),
        {metric: tuple(made.metrics[metric] for made in runs) for metric in METRICS},
        percentile(together, 0.999),
        happened,
    )


def table(rows: Iterable[Row]) -> dict[str, dict[Contender, Row]]:
    """Return rows by cell and contender, in their order."""
    found: dict[str, dict[Contender, Row]] = {}
    for each in rows:
        found.setdefault(each.cell.name, {})[each.contender] = each
    return found


# --- numbers ---


def mean(values: Iterable[float]) -> float:
    """Return the mean of those that are not nan; nan of none."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def spread(values: Iterable[float]) -> float:
    """Return the standard deviation (n - 1) of those that are not nan; nan of fewer than two."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return math.nan
    middle = mean(known)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in known) / (len(known) - 1))


def difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Return the mean of ours - theirs, seed by seed, and two of its standard errors; 0 of nothing or one seed."""
    pairs = [a - b for a, b in zip(ours, theirs, strict=True) if not (math.isnan(a) or math.isnan(b))]
    if not pairs:
        return 0.0, 0.0
    error = spread(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else 0.0
    return mean(pairs), SIGNIFICANT * error
