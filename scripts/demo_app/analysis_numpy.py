"""The vectorised twins of `analysis`: the same answers, faster on long windows, at the price of loading numpy.

Rules: as there. Each function agrees with its twin to rounding, and a test holds it to that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from demo_app import analysis
from demo_app.analysis import Aggregate, Cleaned, Point, Trend, Verdict, WindowTooShortError

Array = npt.NDArray[np.float64]


def robust_scale(values: Array, centre: float, floor: float = 0.0) -> float:
    deviations = np.abs(values - centre)
    scale = analysis.MAD_TO_SIGMA * float(np.median(deviations))
    if scale == 0.0:
        scale = analysis.MEAN_DEVIATION_TO_SIGMA * float(deviations.mean())
    return max(scale, floor) or 1.0


def clean(times: Sequence[float], values: Sequence[float], floor: float = 0.0) -> Cleaned:
    """Drop, sort, de-duplicate, fill gaps, normalise."""
    raw_times, raw_values = np.asarray(times, dtype=float), np.asarray(values, dtype=float)
    finite = np.isfinite(raw_times) & np.isfinite(raw_values)
    # The last of equal times stays: unique() reports the first of each, so it is asked in reverse.
    kept_times, first = np.unique(raw_times[finite][::-1], return_index=True)
    kept_values = raw_values[finite][::-1][first]
    if len(kept_times) < 2:
        raise WindowTooShortError(f"{len(kept_times)} usable samples of {len(times)}; at least 2 are needed")
    all_times = _with_gaps_filled(kept_times)
    all_values = np.interp(all_times, kept_times, kept_values)
    centre = float(np.median(all_values))
    scale = robust_scale(all_values, centre, floor)
    return Cleaned(
        times=all_times.tolist(),
        values=all_values.tolist(),
        normalised=((all_values - centre) / scale).tolist(),
        centre=centre,
        scale=scale,
        dropped=len(times) - len(kept_times),
        filled=len(all_times) - len(kept_times),
    )


def _with_gaps_filled(times: Array) -> Array:
    gaps_s = np.diff(times)
    missing = np.rint(gaps_s / np.median(gaps_s)).astype(int) - 1
    holes = np.flatnonzero((missing > 0) & (missing <= analysis.FILL_LIMIT))
    filled = [np.linspace(times[at], times[at + 1], missing[at] + 2)[1:-1] for at in holes]
    return np.sort(np.concatenate([times, *filled]))


def mad_zscore(times: Sequence[float], values: Sequence[float], since: float, floor: float) -> Verdict:
    """Judge by the robust z-score."""
    array = np.asarray(values, dtype=float)
    centre = float(np.median(array))
    scores = np.abs(array - centre) / robust_scale(array, centre, floor)
    new = np.flatnonzero(np.asarray(times, dtype=float) >= since)
    if not len(new):
        raise WindowTooShortError("no sample of the window is new")
    top = int(new[np.argmax(scores[new])])
    hits = new[scores[new] >= analysis.ANOMALY_SCORE]
    points = [Point(times[at], values[at], float(scores[at])) for at in hits.tolist()]
    return Verdict("z-score by MAD", Point(times[top], values[top], float(scores[top])), points)


def least_squares(times: Sequence[float], values: Sequence[float], floor: float) -> Trend:
    """Fit the line of least squares."""
    x = np.asarray(times, dtype=float)
    y = np.asarray(values, dtype=float)
    centred = x - x.mean()
    spread = float(centred @ centred)
    if spread == 0.0:
        raise WindowTooShortError("a trend needs samples of two times")
    slope_per_s = float(centred @ (y - y.mean())) / spread
    return analysis.trend_of("least squares", times, values, slope_per_s, floor)


def aggregate(values: Sequence[float]) -> Aggregate:
    array = np.asarray(values, dtype=float)
    p50, p95 = np.quantile(array, (0.5, 0.95)).tolist()
    return Aggregate(
        count=len(array),
        p50=p50,
        p95=p95,
        mean=float(array.mean()),
        minimum=float(array.min()),
        maximum=float(array.max()),
    )
