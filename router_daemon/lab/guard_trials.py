"""How often the guard of a rollout stops a harmless candidate, and how soon a bad one: answers drawn, not messages run.

Rules:
- The guard is the daemon's own (`core.guard`), with its thresholds, and looks as often as the daemon does: after every
  `LOOK_ANSWERS` answers, as at 1,000 messages a second.
- Answers are drawn by the thousand: for each look how many take the candidate, how many fail, and how many of the rest
  fall into each bucket of latency. Latencies are lognormal, so that the slowest percent is some times the median.
- "Border" is a candidate exactly as much worse as is allowed: of all that the guard must leave alone the one that it is
  most likely to stop. "Outages" hit both sides at once, in bursts: failures then are anything but independent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import erf, inf, log, sqrt
from typing import Any, Final

import numpy as np

from router_daemon.core.counts import FINE_SECONDS
from router_daemon.core.guard import Side, alarm_needed, fine_needed, p99_evidence, success_evidence
from router_daemon.core.settings import RolloutSettings

LOOK_ANSWERS: Final = 250
MEDIAN_S: Final = 0.02
SPREAD: Final = 0.7
"""Of the logarithm: p99 is 5.1 times the median."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One kind of candidate.

    Attributes:
        name: for people. harmless: whether the guard should leave it alone.
        failing: stable's failure rate. drop: how much worse the candidate's is. slower: how many times its latencies.
        share: of the answers that are the candidate's.
        outages: (rate, length in answers, gap in answers) of failures that both sides share.
        margin, ratio: what is allowed; None: as the configuration has it by default.
    """

    name: str
    harmless: bool
    failing: float = 0.01
    drop: float = 0.0
    slower: float = 1.0
    share: float = 0.05
    outages: tuple[float, int, int] | None = None
    margin: float = field(default=RolloutSettings().max_success_drop)
    ratio: float = field(default=RolloutSettings().max_p99_ratio)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of many runs of a trial.

    Attributes:
        runs, stopped: how many, and how many of them the guard stopped, by what.
        answers: of the candidate until it was stopped, rising. seen: of both together.
        fine: of the candidate until "worse" was rejected for success and p99, where that was.
    """

    trial: Trial
    runs: int
    stopped: dict[str, int]
    answers: Sequence[int]
    seen: Sequence[int]
    fine: Sequence[int]

    def quantile(self, which: str, share: float) -> float:
        """Return the nearest rank over all runs; infinite where it lies among those that did not end so."""
        return nearest_rank(getattr(self, which), self.runs, share)


def nearest_rank(ordered: Sequence[int], runs: int, share: float) -> float:
    """Return the nearest rank over so many runs, of which the others did not end so; infinite where it is of those."""
    place = max(0, -int(-share * runs // 1) - 1)
    return float(ordered[place]) if place < len(ordered) else inf


_AA: Final = Trial("A/A", True)
TRIALS: Final = (
    replace(_AA, name="A/A, 5 %"),
    replace(_AA, name="A/A, 50 %", share=0.5),
    replace(_AA, name="A/A, nothing is allowed", margin=0.0, ratio=1.0, share=0.5),
    replace(_AA, name="A/A, outages of both", outages=(0.3, 2000, 8000)),
    replace(_AA, name="border, success", drop=RolloutSettings().max_success_drop, share=0.5),
    replace(_AA, name="border, p99", slower=RolloutSettings().max_p99_ratio, share=0.5),
    *(
        Trial(f"drop {drop:.0%}, {share:.0%}", False, drop=drop, share=share)
        for drop in (0.02, 0.05, 0.2, 0.99)
        for share in (0.01, 0.05, 0.5)
    ),
    *(
        Trial(f"{slower:g} times slower, {share:.0%}", False, slower=slower, share=share)
        for slower in (2.0, 3.0, 10.0)
        for share in (0.01, 0.05, 0.5)
    ),
)


def run_trial(
    trial: Trial, *, runs: int, answers: int, seed: int, confidence: float = RolloutSettings().confidence
) -> Outcome:
    """Return what the guard does in many runs of up to so many answers each, in its first window."""
    rng = np.random.default_rng([seed, *trial.name.encode()])
    ended = [_run(trial, answers, rng, confidence) for _ in range(runs)]
    stopped = [end for end in ended if end[0]]
    return Outcome(
        trial,
        runs,
        {of: sum(end[0] == of for end in stopped) for of in ("success", "p99")},
        sorted(end[1] for end in stopped),
        sorted(end[2] for end in stopped),
        sorted(end[3] for end in ended if end[3]),
    )


def _run(trial: Trial, answers: int, rng: Any, confidence: float) -> tuple[str, int, int, int]:
    """Return what stopped the candidate ("" for nothing), after how many answers of its own, in all, and until fine."""
    alarm, good = alarm_needed(confidence, 1), fine_needed(confidence)
    mine, stable, fine = Side(0.0), Side(0.0), 0
    spread = {side: buckets(times) for side, times in ((mine, trial.slower), (stable, 1.0))}
    for seen in range(LOOK_ANSWERS, answers + 1, LOOK_ANSWERS):
        failing = failing_rate(trial, seen)
        count = int(rng.binomial(LOOK_ANSWERS, trial.share))
        draw(mine, count, min(1.0, failing + trial.drop), spread[mine], rng)
        draw(stable, LOOK_ANSWERS - count, failing, spread[stable], rng)
        success = success_evidence(mine, stable, trial.margin)
        p99 = p99_evidence(mine, stable, trial.ratio)
        if success.worse >= alarm or p99.worse >= alarm:
            return "success" if success.worse >= alarm else "p99", mine.answers, seen, fine
        if not fine and min(success.fine, p99.fine) >= good:
            fine = mine.answers
    return "", mine.answers, answers, fine


def failing_rate(trial: Trial, seen: int) -> float:
    """Return the failure rate of what is not worse, after so many answers."""
    if trial.outages is None:
        return trial.failing
    rate, length, gap = trial.outages
    return rate if seen % (length + gap) < length else trial.failing


def draw(side: Side, count: int, failing: float, spread: Any, rng: Any) -> None:
    """Give a side so many more answers; `spread`: see `buckets`."""
    failed = int(rng.binomial(count, failing))
    side.failed += failed
    side.answered += count - failed
    times = rng.multinomial(count - failed, spread)
    side.seconds = [have + more for have, more in zip(side.seconds, times.tolist(), strict=True)]


def buckets(times: float) -> Any:
    """Return the probability of each bucket of `FINE_SECONDS`, and of what is above them, so many times slower."""
    below = [0.5 * (1.0 + erf(log(bound / (MEDIAN_S * times)) / (SPREAD * sqrt(2.0)))) for bound in FINE_SECONDS]
    shares = np.diff([0.0, *below, 1.0])
    return shares / shares.sum()


def report(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the lines of two tables: what must not be stopped, and how soon the rest is."""
    yield "| harmless candidate | runs | stopped | allowed | candidate's answers until a stage may end: median, p90 |"
    yield "| --- | --- | --- | --- | --- |"
    for each in outcomes:
        if each.trial.harmless:
            stopped = sum(each.stopped.values())
            fine = f"{each.quantile('fine', 0.5):,.0f}, {each.quantile('fine', 0.9):,.0f}"
            yield f"| {each.trial.name} | {each.runs} | {stopped / each.runs:.2%} | 0.50% | {in_time(fine)} |"
    yield ""
    yield "| bad candidate, its share | runs | stopped | its answers until then: median, p90 | all answers: median |"
    yield "| --- | --- | --- | --- | --- |"
    for each in outcomes:
        if not each.trial.harmless:
            stopped = sum(each.stopped.values())
            until = f"{each.quantile('answers', 0.5):,.0f}, {each.quantile('answers', 0.9):,.0f}"
            seen = in_time(f"{each.quantile('seen', 0.5):,.0f}")
            yield f"| {each.trial.name} | {each.runs} | {stopped / each.runs:.1%} | {in_time(until)} | {seen} |"


def in_time(text: str) -> str:
    """Return a text with words for what is infinite."""
    return text.replace("inf", "not in this time")
