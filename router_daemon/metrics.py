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
from router_daemon.core.pools import Pool
from router_daemon.ring.counts import MOST_HOPS
from router_daemon.ring.node import Node

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
HEADS: Final = (0.0, 1.0, 2.0, 3.0, 5.0)
HOPS: Final = tuple(map(float, range(1, MOST_HOPS)))


class Series:
    """One histogram as it was at one moment."""

    __slots__ = ("buckets", "total")

    def __init__(self, histogram: Histogram) -> None:
        cumulative = accumulate(histogram.counts)
        self.buckets = [(_bound(b), n) for b, n in zip((*histogram.bounds, float("inf")), cumulative, strict=True)]
        self.total = histogram.total


def _by_number(bounds: tuple[float, ...], counts: Sequence[int]) -> Series:
    """Return the histogram of a small number (of heads, of hops) of which each value was counted."""
    histogram = Histogram(bounds)
    for number, count in enumerate(counts):
        histogram.add(number, count)
    return Series(histogram)


def _seen(counts: dict[str, int]) -> dict[str, int]:
    """Return what has happened, and the first key (the good outcome) in any case."""
    first = next(iter(counts))
    return {key: count for key, count in counts.items() if count or key == first}


def _bound(value: float) -> str:
    return "+Inf" if value == float("inf") else repr(float(f"{value:.6g}"))


class Snapshot:
    """A consistent copy of what broker and ring count at `now`; cheap, and made on the loop."""

    def __init__(self, broker: Broker, now: float, node: Node | None = None) -> None:
        counts, cache = broker.counts, broker.rankings
        self.outcomes = [(c.label, _seen(c.outcomes)) for c in counts.capabilities.values()]
        self.message_seconds = [(c.label, Series(c.message_seconds)) for c in counts.capabilities.values()]
        self.delivery_seconds = [
            (c.label, group, Series(histogram))
            for c in counts.capabilities.values()
            for group, histogram in c.delivery_seconds.items()
        ]
        self.extra = [
            (c.label, {"hedges": c.hedges, "retries": c.retries, "explorations": c.explorations}, dict(c.refusals))
            for c in counts.capabilities.values()
        ]
        self.fallbacks = [(c.label, _seen(c.fallbacks)) for c in counts.capabilities.values()]
        self.deliveries = [(b.label, _seen(b.outcomes), _seen(b.failures)) for b in counts.backends.values()]
        self.lost_messages = [(c.label, c.lost) for c in counts.capabilities.values()]
        self.ejections = [(b.label, b.ejections) for b in counts.backends.values()]
        self.decisions = {"hit": Series(counts.decision_hit), "miss": Series(counts.decision_miss)}
        self.heads = _by_number(HEADS, counts.heads)
        self.cache = {"hit": cache.hits, "miss": cache.misses, "expired": cache.expired}
        self.cache["invalidated"] = cache.invalidated
        self.protocol_errors = dict(counts.protocol_errors)
        self.stray_answers = dict(counts.stray_answers)
        self.lost_answers = dict(counts.lost_answers)
        self.label_overflow = counts.label_overflow
        self.in_flight = broker.open_messages
        self.waiting = broker.dispatcher.waiting.size
        self.waiting_by_priority = list(enumerate(broker.dispatcher.waiting.by_priority))[1:]
        self.waiting_seconds = [(p, Series(histogram)) for p, histogram in enumerate(counts.waiting_seconds)][1:]
        pools = broker.registry.pools()  # one without a name where capability is not required; else those with series
        self.pools = [_pool(p, now) for p in pools if not p.capability or p.capability in counts.capabilities]
        self.backends = _backends(broker)
        self.ring = None if node is None else RingSnapshot(node)


class RingSnapshot:
    """The same of the ring; of neighbours, no more than may have series of their own."""

    def __init__(self, node: Node) -> None:
        counts, known = node.counts, node.floods.known
        links = {link.name: link for link in node.links.by_peer.values() if link.name and not link.up}
        links |= node.links.neighbours()
        names = sorted(links)[: node.broker.settings.label_values]
        self.up = [(name, float(links[name].up)) for name in names]
        self.rtt_s = [(name, rtt_s) for name in names if (rtt_s := links[name].rtt_s) is not None]
        self.daemons = {"known": len(known), "reachable": len(node.topology.ways)}
        self.backends = len(node.abroad.by_peer)
        self.results = _seen(counts.results)
        self.hops = _by_number(HOPS, counts.hops)
        self.undeliverable = dict(counts.undeliverable)
        self.errors = dict(counts.errors)
        self.totals = {name: getattr(counts, name) for name in RING_TOTALS}


def _pool(pool: Pool, now: float) -> tuple[str, float, float, float]:
    """Return (capability, load, retry tokens, hedge tokens)."""
    load = max(0.0, pool.busy) / pool.slots if pool.slots else 0.0
    return pool.capability, load, pool.retries.peek(pool.messages, now), pool.hedges.peek(pool.messages, now)


def _backends(broker: Broker) -> list[tuple[str, float, float, int, int, int]]:
    """Return (label, latency, success, in flight, up, ejected) of each; those beyond the bound: means, and sums."""
    rows: dict[str, list[tuple[float, float, int, int, int]]] = {}
    for backend in broker.registry.by_name.values():
        profile = backend.profile
        row = (profile.latency_s, profile.success, len(backend.open), int(backend.connected), int(backend.ejected))
        rows.setdefault(profile.counts.label, []).append(row)
    for profile in broker.registry.left():
        if profile.counts.label != OTHER:
            rows.setdefault(profile.counts.label, [(profile.latency_s, profile.success, 0, 0, 0)])
    return [_together(label, same) for label, same in rows.items()]


def _together(
    label: str, rows: Sequence[tuple[float, float, int, int, int]]
) -> tuple[str, float, float, int, int, int]:
    latency_s, success, in_flight, up, ejected = map(sum, zip(*rows, strict=True))
    return label, latency_s / len(rows), success / len(rows), in_flight, up, ejected


class _Collector:
    """What prometheus_client asks for the families of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        snapshot = self._snapshot
        yield from _messages(snapshot)
        yield from _waiting(snapshot)
        yield from _extra(snapshot)
        yield from _deliveries(snapshot)
        yield from _decisions(snapshot)
        yield from _protocol(snapshot)
        if snapshot.ring is not None:
            yield from _ring(snapshot.ring)


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
    yield _histogram("router_heads_per_message", "Deliveries made for one message.", [], [([], snapshot.heads)])
    yield _counter(
        "router_lost_messages",
        "Messages without reply that were accepted and then not done.",
        ["capability"],
        (([label], n) for label, n in snapshot.lost_messages),
    )
    yield _counter(
        "router_lost_answers",
        "Answers that could not be handed to their client: gone, or too much left unread.",
        ["cause"],
        (([cause], n) for cause, n in snapshot.lost_answers.items()),
    )


def _waiting(snapshot: Snapshot) -> Iterator[Metric]:
    yield _gauge("router_messages_waiting", "Messages that wait for a place at a backend.", snapshot.waiting)
    yield _gauges(
        "router_waiting_messages",
        "Messages that wait, by priority.",
        "priority",
        ((str(priority), count) for priority, count in snapshot.waiting_by_priority),
    )
    yield _histogram(
        "router_waiting_seconds",
        "How long messages that waited have waited until they were sent to a backend.",
        ["priority"],
        (([str(priority)], series) for priority, series in snapshot.waiting_seconds),
    )


def _extra(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield what was done beyond one delivery per message, what was not, and what the budgets still allow."""
    texts = {
        "hedges": "Second heads sent to because the first was late.",
        "retries": "Further heads tried after one had failed.",
        "explorations": "Messages that went to a backend unused for long, to find out about it.",
    }
    for what, text in texts.items():
        rows = (([label], extra[what]) for label, extra, _ in snapshot.extra)
        yield _counter(f"router_{what}", text, ["capability"], rows)
    yield _counter(
        "router_refusals",
        "Messages answered with overloaded, by cause.",
        ["capability", "cause"],
        (([label, cause], n) for label, _, refusals in snapshot.extra for cause, n in refusals.items()),
    )
    yield _counter(
        "router_ring_fallbacks",
        "Messages that embedding attention could not hold against the backends' keys, or (partial) not against all.",
        ["capability", "reason"],
        (([label, reason], n) for label, fallbacks in snapshot.fallbacks for reason, n in fallbacks.items()),
    )
    gauges = (
        ("router_capability_load", "Busy slots over slots.", 1),
        ("router_retry_budget_tokens", "Retries that the budget allows now.", 2),
        ("router_hedge_budget_tokens", "Hedges that the budget allows now.", 3),
    )
    for name, text, column in gauges:
        yield _gauges(name, text, "capability", ((row[0], float(row[column])) for row in snapshot.pools))


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
        ("router_backend_ejected", "1 while the backend gets nothing because it fails.", 5),
    )
    for name, help_text, column in gauges:
        yield _gauges(name, help_text, "backend", ((row[0], float(row[column])) for row in snapshot.backends))
    yield _counter(
        "router_backend_ejections",
        "How often the backend began to get nothing because it fails.",
        ["backend"],
        (([label], n) for label, n in snapshot.ejections),
    )


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


RING_TOTALS: Final = {
    "forwarded": "Deliveries sent to backends of other daemons.",
    "resent": "Deliveries sent to another daemon again, as they had not arrived.",
    "taken": "Deliveries of other daemons, begun here.",
    "duplicates": "Deliveries of other daemons that came again, and were not begun again.",
    "relayed": "Messages passed on from one other daemon to another.",
    "asked": "Questions to other daemons what became of deliveries.",
    "gaps": "Streams from other daemons that lost a piece, and failed.",
    "strays": "Results from other daemons for what is not open.",
    "flooded": "Reports on links, backends and profiles sent to neighbours, those passed on too.",
    "links_lost": "Links to neighbours that went down.",
    "ignored": "Daemons and backends that others told of, beyond a limit.",
}


def _ring(ring: RingSnapshot) -> Iterator[Metric]:
    """Yield what only a daemon in a ring has."""
    yield _gauges("router_ring_link_up", "1 while the neighbour answers.", "neighbour", ring.up)
    yield _gauges("router_ring_link_rtt_seconds", "Round trip time to the neighbour.", "neighbour", ring.rtt_s)
    rows = ((state, float(count)) for state, count in ring.daemons.items())
    yield _gauges("router_ring_daemons", "Other daemons: known, and of them reachable.", "state", rows)
    yield _gauge("router_ring_backends", "Backends of other daemons that can be reached.", ring.backends)
    yield _histogram("router_ring_hops", "Links that deliveries took that came here.", [], [([], ring.hops)])
    for name, text in RING_TOTALS.items():
        yield _counter(f"router_ring_{name}", text, [], [([], ring.totals[name])])
    counters = (
        ("results", "Deliveries to other daemons by how they ended.", "result", ring.results),
        ("undeliverable", "Messages that could not be passed on, by verb.", "verb", ring.undeliverable),
        ("errors", "What neighbours were told is wrong, or told us, by code.", "code", ring.errors),
    )
    for name, text, label, counts in counters:
        yield _counter(f"router_ring_{name}", text, [label], (([value], n) for value, n in counts.items()))


def _counter(name: str, text: str, labels: list[str], rows: Iterable[tuple[list[str], int]]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in rows:
        family.add_metric(values, float(count))
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _gauges(name: str, text: str, label: str, rows: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in rows:
        family.add_metric([value], number)
    return family


def _histogram(name: str, text: str, labels: list[str], rows: Iterable[tuple[list[str], Any]]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, series in rows:
        family.add_metric(values, buckets=series.buckets, sum_value=series.total)
    return family
