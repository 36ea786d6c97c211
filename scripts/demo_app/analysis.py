"""What the backends of the demo do for a living, in pure Python: cleaning, detecting, fitting, summing up, alerting.

Rules:
- Pure functions of their arguments: no clock, no randomness, no state between calls. So any backend can take any
  message, and a message that is handed to two of them is harmless.
- A window is two sequences of equal length: times in seconds and values; detectors judge only what is at or after
  `since`, against all of the window, so windows may overlap and each sample is judged once.
- Scores of all detectors are in the same unit, robust standard deviations, so that whoever answers first is comparable.
- `floor` is the smallest deviation that means anything in that series; a constant series must not alarm over noise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

ANOMALY_SCORE: Final = 6.0
"""Robust standard deviations from which on a sample is an anomaly (3.5 is customary; live metrics are not normal)."""
FENCE_IQR: Final = 3.0
"""Tukey's outer fence, in interquartile ranges."""
EWMA_WEIGHT: Final = 0.2
EWMA_MIN_SAMPLES: Final = 16
FILL_LIMIT: Final = 100
"""Most samples put into one gap; a longer silence stays a gap."""
THEIL_SEN_SAMPLES: Final = 96
"""Slopes of all pairs are quadratic: a longer window is thinned to this many samples."""
RAISE_SCORE: Final = 8.0
CLEAR_SCORE: Final = 4.0
CLEAR_SAMPLES: Final = 5
"""So long it must have been quiet before an alert is cleared."""
REPEAT_SAMPLES: Final = 12
"""A series that alarmed less than this many samples ago does not alarm again."""

MAD_TO_SIGMA: Final = 1.4826  # of a normal distribution, as are the next two
MEAN_DEVIATION_TO_SIGMA: Final = 1.2533
IQR_TO_SIGMA: Final = 1 / 1.349


class WindowTooShortError(ValueError):
    """The window holds fewer samples than the algorithm needs."""


@dataclass(slots=True)
class Cleaned:
    """A window fit for analysis: in time order, one value per time, gaps filled, and its robust normalisation."""

    times: list[float]
    values: list[float]
    normalised: list[float]
    centre: float
    scale: float
    dropped: int
    filled: int


@dataclass(slots=True)
class Point:
    """One anomalous sample; `score` in robust standard deviations."""

    time: float
    value: float
    score: float


@dataclass(slots=True)
class Verdict:
    """What a detector says of the new samples of a window: the highest score and the anomalous ones."""

    method: str
    top: Point
    points: list[Point]


@dataclass(slots=True)
class Trend:
    """A line through a window. `change` is slope times span; `strength` is its ratio to the residuals' scale."""

    method: str
    slope_per_s: float
    change: float
    strength: float
    direction: str


@dataclass(slots=True)
class Aggregate:
    """The usual five numbers of a window."""

    count: int
    p50: float
    p95: float
    mean: float
    minimum: float
    maximum: float


@dataclass(slots=True)
class AlertState:
    """What an alert generator must know of the past; it travels with the message.

    Attributes:
        raised: whether the series has not been normal since it was raised.
        announced: whether that was said.
        raised_time: of the last alert that was said.
        high_time: when the score was last above `CLEAR_SCORE`.
    """

    raised: bool = False
    announced: bool = False
    raised_time: float = -math.inf
    high_time: float = -math.inf


@dataclass(slots=True)
class Alert:
    """One line for a person. The id depends on series, kind and time alone, so copies of it can be told."""

    id: str
    kind: str
    text: str


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the quantile of sorted values, linear between neighbours (numpy's default, too)."""
    if not ordered:
        raise WindowTooShortError("no values")
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def median(values: Sequence[float]) -> float:
    return quantile(sorted(values), 0.5)


def robust_scale(values: Sequence[float], centre: float, floor: float = 0.0) -> float:
    """Return a standard deviation that outliers do not inflate: from the MAD, or the mean deviation where that is 0.

    Never below `floor`; 1.0 for a constant series without a floor, so that dividing by it is safe.
    """
    deviations = sorted(abs(value - centre) for value in values)
    scale = MAD_TO_SIGMA * quantile(deviations, 0.5)
    if scale == 0.0:
        scale = MEAN_DEVIATION_TO_SIGMA * math.fsum(deviations) / len(deviations)
    return max(scale, floor) or 1.0


def clean(times: Sequence[float], values: Sequence[float], floor: float = 0.0) -> Cleaned:
    """Drop what is not finite, sort, keep the last of equal times, fill gaps linearly, normalise by median and MAD."""
    latest = {
        time: value for time, value in zip(times, values, strict=True) if math.isfinite(time) and math.isfinite(value)
    }
    if len(latest) < 2:
        raise WindowTooShortError(f"{len(latest)} usable samples of {len(times)}; at least 2 are needed")
    ordered = sorted(latest.items())
    kept_times, kept_values = _fill_gaps(ordered)
    centre = median(kept_values)
    scale = robust_scale(kept_values, centre, floor)
    return Cleaned(
        times=kept_times,
        values=kept_values,
        normalised=[(value - centre) / scale for value in kept_values],
        centre=centre,
        scale=scale,
        dropped=len(times) - len(ordered),
        filled=len(kept_times) - len(ordered),
    )


def _fill_gaps(ordered: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Put evenly spaced samples where steps of the usual length are missing."""
    step = median([after[0] - before[0] for before, after in itertools.pairwise(ordered)])
    times, values = [ordered[0][0]], [ordered[0][1]]
    for (time_a, value_a), (time_b, value_b) in itertools.pairwise(ordered):
        missing = round((time_b - time_a) / step) - 1
        if 0 < missing <= FILL_LIMIT:
            for index in range(1, missing + 1):
                part = index / (missing + 1)
                times.append(time_a + (time_b - time_a) * part)
                values.append(value_a + (value_b - value_a) * part)
        times.append(time_b)
        values.append(value_b)
    return times, values


def mad_zscore(times: Sequence[float], values: Sequence[float], since: float, floor: float) -> Verdict:
    """Judge by the robust z-score |x - median| / (1.4826 MAD) (Iglewicz and Hoaglin, 1993)."""
    centre = median(values)
    scale = robust_scale(values, centre, floor)
    scores = [abs(value - centre) / scale for value in values]
    return _verdict("z-score by MAD", times, values, scores, since)


def ewma_band(times: Sequence[float], values: Sequence[float], since: float, floor: float) -> Verdict:
    """Judge by a control band around an exponentially weighted mean (Roberts, 1959).

    The mean starts at the window's median and takes in at most three scales per sample, so that a spike does not drag
    it along; the band is scaled by the residuals' own robust scale.
    """
    if len(values) < EWMA_MIN_SAMPLES:
        raise WindowTooShortError(f"the control band needs {EWMA_MIN_SAMPLES} samples, got {len(values)}")
    level = median(values)
    limit = 3 * robust_scale(values, level, floor)
    residuals = []
    for value in values:
        residual = value - level
        residuals.append(residual)
        level += EWMA_WEIGHT * max(-limit, min(limit, residual))
    scale = robust_scale(residuals, 0.0, floor)
    return _verdict("EWMA band", times, values, [abs(residual) / scale for residual in residuals], since)


def tukey_fences(times: Sequence[float], values: Sequence[float], since: float, floor: float) -> Verdict:
    """Judge by Tukey's outer fences: three interquartile ranges beyond the quartiles (Tukey, 1977)."""
    ordered = sorted(values)
    low, centre, high = (quantile(ordered, share) for share in (0.25, 0.5, 0.75))
    scale = (high - low) * IQR_TO_SIGMA
    scale = max(scale, floor) if scale else robust_scale(values, centre, floor)
    reach = FENCE_IQR * scale / IQR_TO_SIGMA
    scores = [abs(value - centre) / scale if value < low - reach or value > high + reach else 0.0 for value in values]
    return _verdict("Tukey fences", times, values, scores, since)


def _verdict(
    method: str, times: Sequence[float], values: Sequence[float], scores: Sequence[float], since: float
) -> Verdict:
    judged = [Point(*row) for row in zip(times, values, scores, strict=True) if row[0] >= since]
    if not judged:
        raise WindowTooShortError("no sample of the window is new")
    points = [point for point in judged if point.score >= ANOMALY_SCORE]
    return Verdict(method, max(judged, key=lambda point: point.score), points)


def least_squares(times: Sequence[float], values: Sequence[float], floor: float) -> Trend:
    """Fit the line of least squares."""
    mean_time = math.fsum(times) / len(times)
    mean_value = math.fsum(values) / len(values)
    spread = math.fsum((time - mean_time) ** 2 for time in times)
    if spread == 0.0:
        raise WindowTooShortError("a trend needs samples of two times")
    product = math.fsum((time - mean_time) * (value - mean_value) for time, value in zip(times, values, strict=True))
    return trend_of("least squares", times, values, product / spread, floor)


def theil_sen(times: Sequence[float], values: Sequence[float], floor: float) -> Trend:
    """Take the median slope of all pairs of samples (Theil 1950, Sen 1968): up to 29 % outliers do not move it."""
    stride = -(-len(times) // THEIL_SEN_SAMPLES)
    picked = list(zip(times[::stride], values[::stride], strict=True))
    slopes = [
        (value_b - value_a) / (time_b - time_a)
        for index, (time_a, value_a) in enumerate(picked)
        for time_b, value_b in picked[index + 1 :]
        if time_b != time_a
    ]
    if not slopes:
        raise WindowTooShortError("a trend needs samples of two times")
    return trend_of("Theil-Sen", times, values, median(slopes), floor)


def trend_of(method: str, times: Sequence[float], values: Sequence[float], slope_per_s: float, floor: float) -> Trend:
    """Say what a slope means: a change of less than twice the residuals' scale is no trend."""
    residuals = [value - slope_per_s * (time - times[0]) for time, value in zip(times, values, strict=True)]
    scale = robust_scale(residuals, median(residuals), floor)
    change = slope_per_s * (times[-1] - times[0])
    strength = abs(change) / scale
    direction = "flat" if strength < 2 else "rising" if change > 0 else "falling"
    return Trend(method, slope_per_s, change, strength, direction)


def aggregate(values: Sequence[float]) -> Aggregate:
    ordered = sorted(values)
    return Aggregate(
        count=len(ordered),
        p50=quantile(ordered, 0.5),
        p95=quantile(ordered, 0.95),
        mean=math.fsum(ordered) / len(ordered),
        minimum=ordered[0],
        maximum=ordered[-1],
    )


def short(value: float) -> str:
    """Return a number in at most seven characters, for finite values below 1e15."""
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if suffix == 'k' else size):.3g}{suffix}"
    return f"{value:.4g}"


def judge_alert(
    state: AlertState, series: str, point: Point, when: str, step_s: float
) -> tuple[AlertState, Alert | None]:
    """Decide whether the newest top score raises, clears, or changes nothing worth a word.

    Hysteresis: raised at `RAISE_SCORE`, cleared after `CLEAR_SAMPLES` steps at or below `CLEAR_SCORE`. A series that
    comes back within `REPEAT_SAMPLES` steps of its last alert is raised without a word, then cleared without a word.
    """
    if not state.raised and point.score >= RAISE_SCORE:
        if point.time - state.raised_time < REPEAT_SAMPLES * step_s:
            return replace(state, raised=True, announced=False, high_time=point.time), None
        text = f"{series} = {short(point.value)} at {when}, {point.score:.1f} sigma off"
        return AlertState(True, True, point.time, point.time), _alert(series, "RAISED", point, text)
    if state.raised and point.score > CLEAR_SCORE:
        return replace(state, high_time=max(state.high_time, point.time)), None
    if state.raised and point.time - state.high_time >= CLEAR_SAMPLES * step_s * 0.99:  # live steps vary a little
        after = replace(state, raised=False, announced=False)
        if not state.announced:
            return after, None
        return after, _alert(series, "CLEARED", point, f"{series} is back to normal at {when}")
    return state, None


def _alert(series: str, kind: str, point: Point, text: str) -> Alert:
    return Alert(id=f"{series}/{kind.lower()}/{point.time:.3f}", kind=kind, text=f"{kind} {text}")
