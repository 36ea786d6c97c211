"""What is left to chance: durations and choices, described as data and drawn from a given generator.

Rules:
- A description is frozen and holds no state; `sampler(rng)` returns the function that draws. Two samplers never share
  a generator, so that one backend's draws do not depend on what another is asked.
- Only methods of `Random` that give the same on every supported Python are used: `random`, `expovariate`,
  `lognormvariate`, `randrange`. Sums are accumulated in a stated order, never by `sum`, which rounds differently
  from Python 3.12 on.
- A distribution is named by its mean, so that loads can be computed: `mean_s`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle
from random import Random
from typing import Protocol, TypeVar

from router_daemon.lab.timeline import whole

_T = TypeVar("_T", bound=Hashable)


class Duration(Protocol):
    """A distribution of durations, in seconds."""

    @property
    def mean_s(self) -> float:
        """The mean, in seconds."""

    def sampler(self, rng: Random) -> Callable[[], float]:
        """Return a function that draws one."""


@dataclass(frozen=True, slots=True)
class Constant:
    """Always the same."""

    mean_s: float

    def sampler(self, rng: Random) -> Callable[[], float]:  # noqa: ARG002 - one shape for all
        """Return a function that draws one."""
        seconds = whole(self.mean_s)
        return lambda: seconds


@dataclass(frozen=True, slots=True)
class Exponential:
    """Memoryless."""

    mean_s: float

    def sampler(self, rng: Random) -> Callable[[], float]:
        """Return a function that draws one."""
        rate, draw = 1.0 / self.mean_s, rng.expovariate
        return lambda: whole(draw(rate))


@dataclass(frozen=True, slots=True)
class Lognormal:
    """exp of a normal variable with standard deviation `sigma`; mu = ln mean - sigma^2 / 2."""

    mean_s: float
    sigma: float = 0.5

    def sampler(self, rng: Random) -> Callable[[], float]:
        """Return a function that draws one."""
        sigma, draw = self.sigma, rng.lognormvariate
        mu = math.log(self.mean_s) - sigma * sigma / 2.0
        return lambda: whole(draw(mu, sigma))


@dataclass(frozen=True, slots=True)
class Pareto:
    """P(X > x) = (x_min / x)^alpha with x_min = mean (alpha - 1) / alpha, alpha over 1; cut off at `most_s`."""

    mean_s: float
    alpha: float = 1.5
    most_s: float = math.inf

    def sampler(self, rng: Random) -> Callable[[], float]:
        """Return a function that draws one."""
        least, power = self.mean_s * (self.alpha - 1.0) / self.alpha, -1.0 / self.alpha
        draw, most = rng.random, self.most_s
        return lambda: whole(min(most, least * (1.0 - draw()) ** power))


@dataclass(frozen=True, slots=True)
class Mix:
    """One of several distributions, each with its share: short requests and a few long ones."""

    parts: tuple[tuple[float, Duration], ...]

    @property
    def mean_s(self) -> float:
        """The mean, in seconds."""
        return math.fsum(share * part.mean_s for share, part in self.parts) / math.fsum(s for s, _ in self.parts)

    def sampler(self, rng: Random) -> Callable[[], float]:
        """Return a function that draws one."""
        pick = chooser([(part.sampler(rng), share) for share, part in self.parts], rng)

        def draw() -> float:
            part = pick()
            return part()

        return draw


@dataclass(frozen=True, slots=True)
class InTurn:
    """These durations one after the other, for ever: nothing is left to chance."""

    seconds: tuple[float, ...]

    @property
    def mean_s(self) -> float:
        """The mean, in seconds."""
        return math.fsum(self.seconds) / len(self.seconds)

    def sampler(self, rng: Random) -> Callable[[], float]:  # noqa: ARG002 - one shape for all
        """Return a function that draws one."""
        return cycle([whole(seconds) for seconds in self.seconds]).__next__


def chooser(weighted: Mapping[_T, float] | Sequence[tuple[_T, float]], rng: Random) -> Callable[[], _T]:
    """Return a function that draws one of the values by its weight; nothing is drawn where there is only one."""
    pairs = list(weighted.items()) if isinstance(weighted, Mapping) else list(weighted)
    values = [value for value, _ in pairs]
    if len(values) == 1:
        only = values[0]
        return lambda: only
    sums = list(accumulate(weight for _, weight in pairs))
    total, last, draw = sums[-1], len(values) - 1, rng.random
    return lambda: values[min(last, bisect_right(sums, draw() * total))]


def zipf(values: Iterable[_T], exponent: float = 1.2) -> dict[_T, float]:
    """Return weights by Zipf's law: the k-th value has 1 / k^exponent."""
    return {value: 1.0 / (rank**exponent) for rank, value in enumerate(values, 1)}
