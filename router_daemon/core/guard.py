"""Is the candidate worse than stable by more than allowed? A sequential test, right whenever one looks.

Two sides are compared over the same window: how many answers failed, and how long the others took. Both comparisons
are e-processes by universal inference with a mixture: for what was counted on a side, x of n, under a rate p,

    e = mixture(x_c, n_c) mixture(x_s, n_s) / sup_H0 [p_c^x_c (1-p_c)^(n_c-x_c) p_s^x_s (1-p_s)^(n_s-x_s)],
    mixture(x, n) = integral p^x (1-p)^(n-x) dBeta(a, b)(p) = B(a + x, b + n - x) / B(a, b).

The numerator over the likelihood of the true rates is a nonnegative martingale with mean 1 (Robbins 1970), and the sup
is no less than that likelihood under H0; so, by Ville's inequality, P(e >= 1/alpha at any time) <= alpha under H0,
however often one looks and however the two sides alternate. Sources: Wasserman, Ramdas and Balakrishnan, "Universal
inference", PNAS 117 (2020), the part on anytime p-values; Ramdas, Gruenwald, Vovk and Shafer, "Game-theoretic
statistics and safe anytime-valid inference", Statistical Science 38 (2023); Howard, Ramdas, McAuliffe and Sekhon,
Annals of Statistics 49 (2021), for the beta-binomial mixture.

- Success. H0 of `worse`: p_c <= p_s + margin, of failure rates. H0 of `fine`: p_c >= p_s + margin.
- p99. H0 of `worse`: Q_c <= ratio Q_s, of 0.99-quantiles, by exceedances. Where Q_s lies in the bucket (b_k-1, b_k], H0
  says that stable exceeds b_k-1 with a rate of 0.01 at least, and the candidate exceeds ratio b_k with 0.01 at most.
  These are two tests of one rate each; their e-values are multiplied, as the sides are independent; the least product
  over all k is the e-value, as H0 is the union over k. A bucket is 6 % wide, so what is tested is a ratio up to 12 %
  above the one asked for: less is detected, nothing is alarmed falsely. `fine` is the mirror image.

What a side counts are answers to messages admitted in the window, so that what takes long is missing on both alike. The
rates need not be constant: assignment is by hash, so what happens to all happens to both sides in their shares.
Assumed is that messages fail independently given that; with few sticky keys of great weight a side is not a sample.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import inf, lgamma, log
from typing import Final, NamedTuple

from router_daemon.core.counts import FINE_SECONDS, quantile

A: Final = 0.5
B: Final = 10.0
"""Of the mixture: most of it below 10 %, where failure rates and exceedances are; a few percent for all above."""
TAIL: Final = 0.01
"""The share of answers that take longer than the 0.99-quantile."""
SLACK: Final = 10.0
"""A mixture is below the likelihood that fits by half the logarithm of n and a constant where rates are low, and by b
times that where they are near 1; this is more than both constants."""
BISECTIONS: Final = 60


class Side:
    """What is counted of one route in one window.

    Attributes:
        began_at: of what was admitted before, nothing is counted.
        failed, answered: how many.
        seconds: of those answered, per bucket of `FINE_SECONDS`.
    """

    __slots__ = ("answered", "began_at", "failed", "seconds")

    def __init__(self, began_at: float) -> None:
        self.began_at = began_at
        self.failed = self.answered = 0
        self.seconds = [0] * (len(FINE_SECONDS) + 1)

    def take(self, seconds: float | None) -> None:
        """Count an answer: how long it took, None where it was a failure."""
        if seconds is None:
            self.failed += 1
        else:
            self.answered += 1
            self.seconds[bisect_left(FINE_SECONDS, seconds)] += 1

    def plus(self, other: Side) -> Side:
        """Return both as one."""
        both = Side(self.began_at)
        both.failed, both.answered = self.failed + other.failed, self.answered + other.answered
        both.seconds = [mine + its for mine, its in zip(self.seconds, other.seconds, strict=True)]
        return both

    @property
    def answers(self) -> int:
        """How many were counted."""
        return self.failed + self.answered

    @property
    def success(self) -> float | None:
        """The share that was answered; None where nothing was."""
        return self.answered / self.answers if self.answers else None

    @property
    def p99_s(self) -> float | None:
        """The 0.99-quantile of the answered, in seconds."""
        return quantile(FINE_SECONDS, self.seconds, 1.0 - TAIL)


def alarm_needed(confidence: float, windows: int) -> float:
    """Return the log e-value of "worse" that stops a candidate in that window (1, 2, ...), for success and p99 each.

    log(1 / (alpha / 2 / (j (j + 1)))), which spends alpha = 1 - confidence over both and over all windows.
    """
    return log(2.0 * windows * (windows + 1.0) / (1.0 - confidence))


def naming_needed(confidence: float, windows: int, place: int) -> float:
    """Return the log e-value of "worse" that names a route for retirement, for success and p99 each.

    As `alarm_needed`, and spent over all routes as well, of which this is the i-th: alpha / (i (i + 1) j (j + 1)).
    """
    return alarm_needed(confidence, windows) + log(place * (place + 1.0))


def fine_needed(confidence: float) -> float:
    """Return the log e-value of "not worse" that a stage ends with; both tests must have it, so nothing is divided."""
    return -log(1.0 - confidence)


class Evidence(NamedTuple):
    """Natural logarithms of e-values against "not worse" (`worse`) and against "worse" (`fine`)."""

    worse: float
    fine: float


def success_evidence(candidate: Side, stable: Side, margin: float) -> Evidence:
    """Return what the failures say; `margin`: by how much a rate may be worse, 0 to 1."""
    x_c, n_c, x_s, n_s = candidate.failed, candidate.answers, stable.failed, stable.answers
    if not n_c or not n_s:
        return Evidence(0.0, 0.0)
    above = log_mixture(x_c, n_c) + log_mixture(x_s, n_s)
    free = log_likelihood(x_c, n_c, x_c / n_c) + log_likelihood(x_s, n_s, x_s / n_s)
    p_s = _boundary(x_c, n_c, x_s, n_s, margin)
    bound = log_likelihood(x_c, n_c, p_s + margin) + log_likelihood(x_s, n_s, p_s)
    worse_now = x_c / n_c > x_s / n_s + margin
    return Evidence(above - (bound if worse_now else free), above - (free if worse_now else bound))


def _boundary(x_c: int, n_c: int, x_s: int, n_s: int, margin: float) -> float:
    """Return the most likely p_s where p_c = p_s + margin: the root of the derivative, which falls."""

    def slope(p: float) -> float:
        return _slope(x_s, n_s, p) + _slope(x_c, n_c, p + margin)

    low, high = 0.0, 1.0 - margin
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        if slope(middle) > 0.0:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _slope(x: int, n: int, p: float) -> float:
    return (x / p if x else 0.0) - ((n - x) / (1.0 - p) if n > x else 0.0)


def p99_evidence(candidate: Side, stable: Side, ratio: float) -> Evidence:
    """Return what the latencies say; `ratio`: how many times stable's 0.99-quantile the candidate's may be."""
    if not candidate.answered or not stable.answered:
        return Evidence(0.0, 0.0)
    over_c, over_s = _exceedances(candidate), _exceedances(stable)
    n_c, n_s = candidate.answered, stable.answered

    def worse(k: int) -> tuple[float, float]:
        often = over_c[bisect_left(FINE_SECONDS, ratio * _bound(k)) + 1]
        return _test(over_s[k], n_s, at_most=False), _test(often, n_c, at_most=True)

    def fine(k: int) -> tuple[float, float]:
        rare = over_c[bisect_right(FINE_SECONDS, ratio * _bound(k - 1))]
        return _test(rare, n_c, at_most=False), _test(over_s[k + 1], n_s, at_most=True)

    start = next(k for k, over in enumerate(over_s) if over <= TAIL * n_s) - 1
    last = 1 + max(over.index(0) for over in (over_c, over_s))
    most = log(n_c + n_s)
    worst = (0.5 * most + SLACK, B * most + SLACK)
    return Evidence(_least(worse, start, last, worst), _least(fine, start, last, worst))


def _exceedances(side: Side) -> Sequence[int]:
    """Return how many of the answered took longer than each bound; all, before the first; none, after the last."""
    below = [0, *accumulate(side.seconds)]
    return [side.answered - count for count in below]


def _bound(k: int) -> float:
    """Return the upper bound of a bucket; 0 before the first, infinite after the last."""
    if k < 0:
        return 0.0
    return FINE_SECONDS[k] if k < len(FINE_SECONDS) else inf


def _least(parts: Callable[[int], tuple[float, float]], start: int, last: int, worst: tuple[float, float]) -> float:
    """Return the least sum over all buckets; where that of `start` is no evidence, just that.

    Args:
        parts: of a bucket, the evidence that grows with the bucket from some on, and the one that grows backwards.
        start: where stable's quantile seems to be.
        last: from there on nothing changes any more.
        worst: more than the other part can be below zero, forwards and backwards: a part that has grown so far beyond
            the least sum ends the walk in its direction.
    """
    least = sum(parts(start))
    if least <= 0.0:
        return least
    for step, growing in ((1, 0), (-1, 1)):
        k = start + step
        while 0 <= k <= min(last, len(FINE_SECONDS)):
            both = parts(k)
            if both[growing] - worst[growing] > least:
                break
            least = min(least, sum(both))
            k += step
    return least


def _test(x: int, n: int, *, at_most: bool) -> float:
    """Return the log e-value against a rate of `TAIL` at most, or at least, for x of n."""
    seen = x / n
    likely = min(seen, TAIL) if at_most else max(seen, TAIL)
    return log_mixture(x, n) - log_likelihood(x, n, likely)


def log_mixture(x: int, n: int) -> float:
    """Return log [B(a + x, b + n - x) / B(a, b)]."""
    return _log_beta(A + x, B + n - x) - _log_beta(A, B)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def log_likelihood(x: int, n: int, p: float) -> float:
    """Return x log p + (n - x) log(1 - p), with 0 log 0 = 0."""
    hits = x * log(p) if x and p > 0.0 else (-inf if x else 0.0)
    misses = (n - x) * log(1.0 - p) if n > x and p < 1.0 else (-inf if n > x else 0.0)
    return hits + misses
