"""How often a harmless route is named for retirement, and how soon a bad one: answers drawn, not messages run.

Rules:
- As in `guard_trials`; the test and its thresholds are the daemon's own, and so is the order in which routes and
  windows are counted.
- Eight routes are held against stable, over several windows one after the other: what is counted is a run in which any
  of the harmless ones was named at any look in any window, since that is what the daemon promises to be rare.
- Looked at after every `LOOK_ANSWERS` answers, which is more often than the daemon does (once a minute).
- Of a bad kind one route is bad, the last of them, which has the highest threshold; the others are like stable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from router_daemon.core.comparison import Comparison
from router_daemon.core.guard import Side, naming_needed
from router_daemon.core.settings import RolloutSettings
from router_daemon.lab.guard_trials import Trial, buckets, draw, failing_rate, in_time, nearest_rank

ROUTES: Final = 8
SHARE: Final = 0.05
"""Of the answers, for each of the routes; stable has the rest."""
WINDOWS: Final = 4
LOOK_ANSWERS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Naming:
    """What came of many runs.

    Attributes:
        runs: how many. falsely: in how many a harmless route was named.
        answers: of the bad route until it was named, rising; of those runs in which it was.
    """

    trial: Trial
    runs: int
    falsely: int
    answers: Sequence[int]

    def quantile(self, share: float) -> float:
        """Return the nearest rank over all runs; infinite where it lies among those that did not end so."""
        return nearest_rank(self.answers, self.runs, share)


_AA: Final = Trial("A/A", True)
NAMINGS: Final = (
    _AA,
    replace(_AA, name="A/A, nothing is allowed", margin=0.0, ratio=1.0),
    replace(_AA, name="A/A, outages of all", outages=(0.3, 2000, 8000)),
    replace(_AA, name="border, success", drop=RolloutSettings().max_success_drop),
    replace(_AA, name="border, p99", slower=RolloutSettings().max_p99_ratio),
    *(Trial(f"drop {drop:.0%}", False, drop=drop) for drop in (0.02, 0.05, 0.2, 0.99)),
    *(Trial(f"{slower:g} times slower", False, slower=slower) for slower in (2.0, 3.0, 10.0)),
)


def run_naming(trial: Trial, *, runs: int, answers: int, seed: int, settings: RolloutSettings | None = None) -> Naming:
    """Return whom the daemon names in many runs of so many answers in each window, of all routes together."""
    settings = replace(settings or RolloutSettings(), max_success_drop=trial.margin, max_p99_ratio=trial.ratio)
    rng = np.random.default_rng([seed, *b"naming", *trial.name.encode()])
    ended = [_run(trial, answers, rng, settings) for _ in range(runs)]
    return Naming(
        trial, runs, sum(falsely for falsely, _ in ended), sorted(found for _, found in ended if found is not None)
    )


def _run(trial: Trial, answers: int, rng: Any, settings: RolloutSettings) -> tuple[bool, int | None]:
    """Return whether a harmless route was named, and after how many of its answers the bad one was."""
    bad = {ROUTES} if not trial.harmless else set()
    off = set(range(1, ROUTES + 1)) if trial.harmless else bad
    spread = {place: buckets(trial.slower if place in off else 1.0) for place in range(ROUTES + 1)}
    drops = {place: trial.drop if place in off else 0.0 for place in range(ROUTES + 1)}
    falsely, had, look = False, 0, min(LOOK_ANSWERS, answers)
    for window in range(1, WINDOWS + 1):
        sides = [Side(0.0) for _ in range(ROUTES + 1)]
        for seen in range(look, answers + 1, look):
            counts = rng.multinomial(look, [1.0 - ROUTES * SHARE, *[SHARE] * ROUTES])
            failing = failing_rate(trial, seen)
            for place, side in enumerate(sides):
                draw(side, int(counts[place]), min(1.0, failing + drops[place]), spread[place], rng)
            for place in range(1, ROUTES + 1):
                needed = naming_needed(settings.confidence, window, place)
                if Comparison(sides[place], sides[0], settings).verdict(needed) is None:
                    continue
                if place in bad:
                    return falsely, had + sides[place].answers
                falsely = True
        had += sides[ROUTES].answers
    return falsely, None


def naming_report(namings: Sequence[Naming]) -> Iterator[str]:
    """Yield the lines of two tables: how often a harmless route is named, and how soon a bad one."""
    allowed = 1.0 - RolloutSettings().confidence
    yield f"| {ROUTES} harmless routes, {WINDOWS} windows | runs | any of them named | allowed |"
    yield "| --- | --- | --- | --- |"
    for each in namings:
        if each.trial.harmless:
            yield f"| {each.trial.name} | {each.runs} | {each.falsely / each.runs:.2%} | {allowed:.2%} |"
    yield ""
    yield f"| one bad route of {ROUTES} | runs | named | its answers until then: median, p90 | another named |"
    yield "| --- | --- | --- | --- | --- |"
    for each in namings:
        if not each.trial.harmless:
            until = in_time(f"{each.quantile(0.5):,.0f}, {each.quantile(0.9):,.0f}")
            named = f"{len(each.answers) / each.runs:.1%}"
            yield f"| {each.trial.name} | {each.runs} | {named} | {until} | {each.falsely / each.runs:.2%} |"
