"""What `bench_broker` measured, and its report: medians over the rounds, the ratio to the proxy, what was met.

Rules:
- A ratio is taken within a round, between two runs right after one another; the report shows the median of those.
- Whatever would make a reader believe a number wrongly (a generator at its limit, lost messages) stands below it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Final, NamedTuple

AGAINST_TARGET: Final = 1.5
"""At most this many times the CPU of the policy compared with."""
TARGETS: Final = {100: 5.0, 1024: 3.0, 65536: 1.4}  # at most this many times the proxy's CPU per round trip
OTHERS_TOO_MUCH: Final = 0.1  # of the two cores: from here on the machine was not ours
COPIES_TO_TELL: Final = 1.02  # deliveries per round trip; without copies a few are on their way at either end
GENERATOR_FULL: Final = 0.93  # from this share of its core on the generator may be what limits the rate,
BROKER_FREE: Final = 0.90  # unless the broker has less than a tenth of its own core left


class Load(NamedTuple):
    """How many requests are kept out at once."""

    name: str
    clients: int
    outstanding: int


LOADS: Final = (Load("many outstanding", 8, 32), Load("one outstanding", 1, 1))


@dataclass
class Phase:
    """What one run of the generator measured of one broker."""

    round_trips: int
    deliveries: int
    wall_s: float
    generator_cpu_s: float
    others_cpu_s: float
    broker_cpu_s: float
    broker_user_s: float
    broker_system_s: float
    p50_us: float
    p99_us: float
    errors: int
    unexpected: int
    lost: int

    @property
    def rate(self) -> float:
        """Round trips per second."""
        return self.round_trips / self.wall_s

    @property
    def cpu_us(self) -> float:
        """Broker CPU per round trip, user and system."""
        return self.broker_cpu_s / max(1, self.round_trips) * 1e6

    @property
    def broker_share(self) -> float:
        """Share of one core that the broker used."""
        return self.broker_cpu_s / self.wall_s

    @property
    def generator_share(self) -> float:
        """Share of one core that the load generator used."""
        return self.generator_cpu_s / self.wall_s

    @property
    def others_share(self) -> float:
        """Share of the two cores that other processes used."""
        return self.others_cpu_s / self.wall_s / 2

    @property
    def faults(self) -> int:
        """How much was lost or answered wrongly."""
        return self.errors + self.unexpected + self.lost


@dataclass
class Row:
    """All rounds of one load and size; `broker[i]` and `proxy[i]` were measured right after one another."""

    load: Load
    size: int
    broker: list[Phase] = field(default_factory=list)
    proxy: list[Phase] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Broker CPU per round trip over the proxy's, per round."""
        return [b.cpu_us / p.cpu_us for b, p in zip(self.broker, self.proxy, strict=True)]


@dataclass(frozen=True)
class Run:
    """What the numbers depend on: the machine, the libraries, the options."""

    processor: str
    cores: int
    system: str
    python: str
    libzmq: str
    mode: str
    policy: str
    engine: str
    against: str
    backends: int
    rounds: int
    seconds: float


def progress(row: Row) -> str:
    """Return one line about a finished row."""
    return f"{row.load.name}, {row.size} B: {spread(row.ratios, '.2f')} times the proxy's CPU per round trip"


def spread(values: list[float], form: str) -> str:
    """Return the median, and in brackets the least and the greatest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def middle(phases: list[Phase], what: Callable[[Phase], float]) -> float:
    """Return the median over the rounds."""
    return statistics.median(map(what, phases))


def verdict(row: Row, run: Run) -> str:
    """Return the target and whether it was met; a dash where none is set."""
    target = AGAINST_TARGET if run.against else TARGETS.get(row.size)
    if target is None or (run.mode != "single" and not run.against) or row.load is not LOADS[0]:
        return "-"
    met = statistics.median(row.ratios) <= target
    return f"{target:g}: {'met' if met else '**not met**'}"


def table(rows: list[Row], load: Load, run: Run) -> Iterator[str]:
    """Yield the lines of one load's table."""
    yield f"### {load.name.capitalize()} ({load.clients} clients x {load.outstanding})\n"
    yield (
        "| body | round trips/s | proxy | broker CPU, us per round trip | proxy | ratio | target, at most "
        "| p50 / p99, us | proxy | busy: broker, generator | proxy, generator |"
    )
    yield "| ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |"
    for row in rows:
        if row.load is not load:
            continue
        cells = [f"{row.size} B"]
        cells += [f"{middle(phases, lambda p: p.rate):,.0f}" for phases in (row.broker, row.proxy)]
        cells += [spread([p.cpu_us for p in phases], ".2f") for phases in (row.broker, row.proxy)]
        cells += [spread(row.ratios, ".2f"), verdict(row, run)]
        cells += [
            f"{middle(phases, lambda p: p.p50_us):,.0f} / {middle(phases, lambda p: p.p99_us):,.0f}"
            for phases in (row.broker, row.proxy)
        ]
        cells += [
            f"{middle(phases, lambda p: p.broker_share):.0%}, {middle(phases, lambda p: p.generator_share):.0%}"
            for phases in (row.broker, row.proxy)
        ]
        yield "| " + " | ".join(cells) + " |"
    yield ""


def remarks(rows: list[Row], cores: int) -> Iterator[str]:
    """Yield what a reader must know before believing a number."""
    if cores == 1:
        yield "- Only one core: broker and generator shared it, so the rates are of both together."
    others = max((p.others_share for row in rows for p in row.broker + row.proxy), default=0.0)
    if others >= OTHERS_TOO_MUCH:
        yield (
            f"- **Other processes used up to {others:.0%} of the two cores meanwhile**: rates are too low, CPU per "
            "round trip and latencies too high, and the ratios uncertain. Measure again on a quiet machine."
        )
    for row in rows:
        for name, phases in (("broker", row.broker), ("proxy", row.proxy)):
            generator = middle(phases, lambda p: p.generator_share)
            share = middle(phases, lambda p: p.broker_share)
            where = f"{row.load.name}, {row.size} B, {name}"
            if generator >= GENERATOR_FULL and share < BROKER_FREE:
                yield (
                    f"- {where}: **the load generator was the bottleneck** ({generator:.0%} of its core, the {name} "
                    f"{share:.0%} of its own): the rate is a lower bound; CPU per round trip stands."
                )
            copies = sum(p.deliveries for p in phases) / max(1, sum(p.round_trips for p in phases))
            if copies >= COPIES_TO_TELL:
                yield f"- {where}: {copies:.2f} deliveries per round trip, all of which are in its CPU."
            faults = sum(p.faults for p in phases)
            if faults:
                yield f"- {where}: **{faults} messages were lost or answered wrongly**; these numbers do not count."


def markdown(rows: list[Row], run: Run) -> str:
    """Return the whole report."""
    machine = f"{run.processor}, {run.cores} cores, {run.system}, Python {run.python}, {run.libzmq}"
    how = f"mode `{run.mode}`, policy `{run.policy}`, engine `{run.engine}`, {run.backends} backends"
    lines = [f"{machine}; {how}; {run.rounds} rounds of {run.seconds:g} s, medians (least-greatest).", ""]
    for load in LOADS:
        lines += table(rows, load, run)
    lines += remarks(rows, run.cores)
    text = "\n".join(lines).rstrip() + "\n"
    return text.replace("proxy", f"with {run.against}") if run.against else text


def as_json(rows: list[Row], run: Run) -> str:
    """Return every phase of the run, and what the table shows of it."""
    data = {
        "run": asdict(run),
        "rows": [
            {
                "load": row.load._asdict(),
                "size": row.size,
                "ratio": statistics.median(row.ratios),
                "ratios": row.ratios,
                "target": verdict(row, run),
                "broker": [asdict(phase) for phase in row.broker],
                "proxy": [asdict(phase) for phase in row.proxy],
            }
            for row in rows
        ],
    }
    return json.dumps(data, indent=1) + "\n"
