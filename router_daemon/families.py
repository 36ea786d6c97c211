"""What the families of /metrics are made with: one line for each kind, and a copy of a histogram."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from router_daemon.core.counts import Histogram


class Series:
    """One histogram as it was at one moment."""

    __slots__ = ("buckets", "total")

    def __init__(self, histogram: Histogram) -> None:
        cumulative = accumulate(histogram.counts)
        self.buckets = [(_bound(b), n) for b, n in zip((*histogram.bounds, float("inf")), cumulative, strict=True)]
        self.total = histogram.total


def _bound(value: float) -> str:
    return "+Inf" if value == float("inf") else repr(float(f"{value:.6g}"))


def by_number(bounds: tuple[float, ...], counts: Sequence[int]) -> Series:
    """Return the histogram of a small number (of heads, of hops) of which each value was counted."""
    histogram = Histogram(bounds)
    for number, count in enumerate(counts):
        histogram.add(number, count)
    return Series(histogram)


def seen(counts: dict[str, int]) -> dict[str, int]:
    """Return what has happened, and the first key (the good outcome) in any case."""
    first = next(iter(counts))
    return {key: count for key, count in counts.items() if count or key == first}


def counter(name: str, text: str, labels: list[str], rows: Iterable[tuple[list[str], float]]) -> Metric:
    """Return a counter; `rows`: label values with the count."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in rows:
        family.add_metric(values, float(count))
    return family


def gauge(name: str, text: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(name, text, value=value)


def gauges(name: str, text: str, label: str, rows: Iterable[tuple[str, float]]) -> Metric:
    """Return a gauge with one label; `rows`: its value with the number."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in rows:
        family.add_metric([value], number)
    return family


def histogram(name: str, text: str, labels: list[str], rows: Iterable[tuple[list[str], Any]]) -> Metric:
    """Return a histogram; `rows`: label values with a `Series`."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, series in rows:
        family.add_metric(values, buckets=series.buckets, sum_value=series.total)
    return family
