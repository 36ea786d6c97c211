"""Counts -> Prometheus. Everything is copied on the loop (`Snapshot`) and rendered elsewhere.

Rules: a name, its type and its labels stand in one place, here; the core's counts know nothing of Prometheus. What a
bounded table does not name is under the label value `other`, a capability that nobody ever offered under `unknown`.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Final

import zmq
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from router_daemon import __version__
from router_daemon.core.broker import Broker
from router_daemon.core.counts import OTHER, Histogram

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
HEADS: Final = (0.0, 1.0, 2.0, 3.0, 5.0)


class Series:
    """One histogram as it was at one moment."""

    __slots__ = ("buckets", "total")

    def __init__(self, histogram: Histogram) -> None:
        cumulative = accumulate(histogram.counts)
        self.buckets = [(_bound(b), n) for b, n in zip((*histogram.bounds, float("inf")), cumulative, strict=True)]
        self.total = histogram.total


def _heads(counts: Sequence[int]) -> Series:
    histogram = Histogram(HEADS)
    for heads, count in enumerate(counts):
        histogram.add(heads, count)
    return Series(histogram)


def _seen(counts: dict[str, int]) -> dict[str, int]:
    """Return what has happened, and the first key (the good outcome) in any case."""
    first = next(iter(counts))
    return {key: count for key, count in counts.items() if count or key == first}


def _bound(value: float) -> str:
    return "+Inf" if value == float("inf") else repr(float(f"{value:.6g}"))


class Snapshot:
    """A consistent copy of what the broker counts; cheap, and made on the loop."""

    def __init__(self, broker: Broker) -> None:
        counts, cache = broker.counts, broker.rankings
        self.outcomes = [(c.label, _seen(c.outcomes)) for c in counts.capabilities.values()]
        self.message_seconds = [(c.label, Series(c.message_seconds)) for c in counts.capabilities.values()]
        self.delivery_seconds = [
            (c.label, group, Series(histogram))
            for c in counts.capabilities.values()
            for group, histogram in c.delivery_seconds.items()
        ]
        self.deliveries = [(b.label, _seen(b.outcomes), _seen(b.failures)) for b in counts.backends.values()]
        self.decisions = {"hit": Series(counts.decision_hit), "miss": Series(counts.decision_miss)}
        self.heads = _heads(counts.heads)
        self.cache = {"hit": cache.hits, "miss": cache.misses, "expired": cache.expired}
        self.cache["invalidated"] = cache.invalidated
        self.protocol_errors = dict(counts.protocol_errors)
        self.stray_answers = dict(counts.stray_answers)
        self.lost_answers = dict(counts.lost_answers)
        self.refusals = dict(counts.refusals)
        self.label_overflow = counts.label_overflow
        self.in_flight = broker.open_messages
        self.waiting = broker.dispatcher.waiting.size
        self.backends = _backends(broker)


def _backends(broker: Broker) -> list[tuple[str, float, float, int, int]]:
    """Return (label, latency, success, in flight, up) of each; those beyond the bound as one: means, and sums."""
    rows: dict[str, list[tuple[float, float, int, int]]] = {}
    for backend in broker.registry.by_name.values():
        profile = backend.profile
        row = (profile.latency_s, profile.success, len(backend.open), int(backend.connected))
        rows.setdefault(profile.counts.label, []).append(row)
    for profile in broker.registry.left():
        if profile.counts.label != OTHER:
            rows.setdefault(profile.counts.label, [(profile.latency_s, profile.success, 0, 0)])
    return [
        (label, sum(r[0] for r in same) / len(same), sum(r[1] for r in same) / len(same), sum(r[2] for r in same),
         sum(r[3] for r in same) if label == OTHER else same[0][3])
        for label, same in rows.items()
    ]  # fmt: skip


class _Collector:
    """What prometheus_client asks for the families of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        snapshot = self._snapshot
        yield from _messages(snapshot)
        yield from _deliveries(snapshot)
        yield from _decisions(snapshot)
        yield from _protocol(snapshot)


def render(snapshot: Snapshot, *, openmetrics: bool) -> bytes:
    """Return the exposition text; pure, so that it may run in another thread."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot))
    ProcessCollector(registry=registry)
    text: bytes = (generate_openmetrics if openmetrics else generate_latest)(registry)
    return text


def _messages(snapshot: Snapshot) -> Iterator[Metric]:
    yield _counter(
        "router_messages",
        "Messages by how they ended: answered, client_gone, or an error code.",
        ["capability", "outcome"],
        (([label, outcome], n) for label, outcomes in snapshot.outcomes for outcome, n in outcomes.items()),
    )
    yield _histogram(
        "router_message_seconds",
        "From reading a message to its last answer.",
        ["capability"],
        (([label], series) for label, series in snapshot.message_seconds),
    )
    yield _gauge("router_messages_in_flight", "Messages without their last answer.", snapshot.in_flight)
    yield _gauge("router_messages_waiting", "Messages that wait for a place at a backend.", snapshot.waiting)
    yield _histogram("router_heads_per_message", "Deliveries made for one message.", [], [([], snapshot.heads)])
    yield _counter(
        "router_lost_answers",
        "Answers that could not be handed to their client: gone, or too much left unread.",
        ["cause"],
        (([cause], n) for cause, n in snapshot.lost_answers.items()),
    )
    yield _counter(
        "router_refusals",
        "SENDs refused as overloaded at a limit on what is open, by that limit.",
        ["cause"],
        (([cause], n) for cause, n in snapshot.refusals.items()),
    )


def _deliveries(snapshot: Snapshot) -> Iterator[Metric]:
    yield _counter(
        "router_deliveries",
        "Deliveries by how they ended.",
        ["backend", "outcome"],
        (([label, outcome], n) for label, outcomes, _ in snapshot.deliveries for outcome, n in outcomes.items()),
    )
    yield _counter(
        "router_delivery_failures",
        "Deliveries that failed and count against their backend, by cause.",
        ["backend", "cause"],
        (([label, cause], n) for label, _, failures in snapshot.deliveries for cause, n in failures.items()),
    )
    yield _histogram(
        "router_delivery_seconds",
        "From sending a delivery to its ACK, of a stream to its first PART.",
        ["capability", "group"],
        (([label, group], series) for label, group, series in snapshot.delivery_seconds),
    )
    gauges = (
        ("router_backend_latency_ewma_seconds", "Moving average of the delivery latency.", 1),
        ("router_backend_success_ratio", "Moving average of delivery success.", 2),
        ("router_backend_in_flight", "Deliveries open at the backend.", 3),
        ("router_backend_up", "1 while the backend is registered and its connection stands.", 4),
    )
    for name, help_text, column in gauges:
        family = GaugeMetricFamily(name, help_text, labels=["backend"])
        for row in snapshot.backends:
            family.add_metric([row[0]], float(row[column]))
        yield family


def _decisions(snapshot: Snapshot) -> Iterator[Metric]:
    yield _histogram(
        "router_decision_seconds",
        "Choosing the heads of one message, by whether its ranking came from the cache.",
        ["cache"],
        (([cache], series) for cache, series in snapshot.decisions.items()),
    )
    yield _counter(
        "router_decision_cache_requests",
        "Look-ups of the decision cache: hit, miss (never ranked), expired, invalidated (the backends have changed).",
        ["result"],
        (([result], n) for result, n in snapshot.cache.items()),
    )
    requests = sum(snapshot.cache.values())
    ratio = snapshot.cache["hit"] / requests if requests else 0.0
    yield _gauge("router_decision_cache_hit_ratio", "Hits over look-ups since the start.", ratio)


def _protocol(snapshot: Snapshot) -> Iterator[Metric]:
    yield _counter(
        "router_protocol_errors",
        "Messages of peers that broke the protocol, by error code.",
        ["code"],
        (([code], n) for code, n in snapshot.protocol_errors.items()),
    )
    yield _counter(
        "router_stray_answers",
        "Answers of backends without effect on a message: late (already decided), or to no open delivery (unknown).",
        ["kind"],
        (([kind], n) for kind, n in snapshot.stray_answers.items()),
    )
    yield _counter(
        "router_label_overflow",
        "Look-ups of a label value beyond the bound, counted under other.",
        [],
        [([], snapshot.label_overflow)],
    )
    info = GaugeMetricFamily("router_build_info", "Constant 1.", labels=["version", "python", "libzmq"])
    info.add_metric([__version__, platform.python_version(), zmq.zmq_version()], 1.0)
    yield info


def _counter(name: str, text: str, labels: list[str], rows: Iterable[tuple[list[str], int]]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in rows:
        family.add_metric(values, float(count))
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _histogram(name: str, text: str, labels: list[str], rows: Iterable[tuple[list[str], Any]]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, series in rows:
        family.add_metric(values, buckets=series.buckets, sum_value=series.total)
    return family
