"""Counts -> Prometheus. Everything is copied on the loop (`Snapshot`) and rendered elsewhere.

Rules: a name, its type and its labels stand in one place, here (of the ring: `ring_metrics`; of people:
`operating_metrics`); the core's counts know nothing of Prometheus. What a bounded table does not name is under the
label value `other`, a capability that nobody ever offered under `unknown`.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import zmq
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from router_daemon import __version__
from router_daemon.core.broker import Broker
from router_daemon.core.counts import OTHER, SECONDS
from router_daemon.core.pools import Pool
from router_daemon.families import Series, by_number, counter, gauge, gauges, histogram, seen
from router_daemon.operating_metrics import OperatingSnapshot, Operations, operating_families
from router_daemon.ring.node import Node
from router_daemon.ring_metrics import RingSnapshot, ring_families
from router_daemon.route_metrics import RouteSnapshot, route_families

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
HEADS: Final = (0.0, 1.0, 2.0, 3.0, 5.0)
LIMITS: Final = ("open_messages", "queue_messages", "queue_bytes", "client_messages", "client_bytes", "backends")
"""Those of the configuration that something measured is to be held against."""


EXTRA: Final = {
    "hedges": "Second heads sent to because the first was late.",
    "retries": "Further heads tried after one had failed.",
    "explorations": "Messages that went to a backend unused for long, to find out about it.",
    "holds": "Messages that waited for a full backend while a much slower one had room.",
}


class Snapshot:
    """A consistent copy of what broker and ring count at `now`; cheap, and made on the loop."""

    def __init__(
        self,
        broker: Broker,
        now: float,
        node: Node | None = None,
        operations: Operations | None = None,
        traces: Mapping[str, int] | None = None,
    ) -> None:
        counts = broker.counts
        caches = [route.rankings for route in (*broker.routes.by_name.values(), broker.routes.fallback)]
        self.outcomes = [(c.label, seen(c.outcomes)) for c in counts.capabilities.values()]
        self.message_seconds = [
            (c.label, Series(c.message_seconds.folded(SECONDS))) for c in counts.capabilities.values()
        ]
        self.delivery_seconds = [
            (c.label, group, Series(histogram))
            for c in counts.capabilities.values()
            for group, histogram in c.delivery_seconds.items()
        ]
        self.extra = [
            (c.label, {what: getattr(c, what) for what in EXTRA}, dict(c.refusals))
            for c in counts.capabilities.values()
        ]
        self.fallbacks = [(c.label, seen(c.fallbacks)) for c in counts.capabilities.values()]
        self.deliveries = [(b.label, seen(b.outcomes), seen(b.failures)) for b in counts.backends.values()]
        self.lost_messages = [(c.label, c.lost) for c in counts.capabilities.values()]
        self.ejections = [(b.label, b.ejections) for b in counts.backends.values()]
        self.losses = [(b.label, b.losses) for b in counts.backends.values()]
        self.decisions = {"hit": Series(counts.decision_hit), "miss": Series(counts.decision_miss)}
        self.heads = by_number(HEADS, counts.heads)
        self.cache = {
            "hit": sum(cache.hits for cache in caches),
            "miss": sum(cache.misses for cache in caches),
            "expired": sum(cache.expired for cache in caches),
            "invalidated": sum(cache.invalidated for cache in caches),
        }
        self.protocol_errors = dict(counts.protocol_errors)
        self.stray_answers = dict(counts.stray_answers)
        self.lost_answers = dict(counts.lost_answers)
        self.label_overflow = counts.label_overflow
        self.faults = counts.faults
        self.in_flight = broker.open_messages
        self.draining = broker.draining
        self.limits = {limit: getattr(broker.settings, limit) for limit in LIMITS}
        self.waiting = broker.dispatcher.waiting.size
        self.waiting_bytes = broker.dispatcher.waiting.bytes
        self.waiting_by_priority = list(enumerate(broker.dispatcher.waiting.by_priority))[1:]
        self.waiting_seconds = [(p, Series(histogram)) for p, histogram in enumerate(counts.waiting_seconds)][1:]
        pools = broker.registry.pools()  # one without a name where capability is not required; else those with series
        self.pools = [_pool(p, now) for p in pools if not p.capability or p.capability in counts.capabilities]
        self.backends = _backends(broker)
        self.drained = broker.registry.drains.snapshot(now)
        self.routes = RouteSnapshot(broker)
        self.operating = OperatingSnapshot(broker, now, operations)
        self.traces = None if traces is None else dict(traces)
        self.ring = None if node is None else RingSnapshot(node)


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
        yield from route_families(snapshot.routes)
        yield from operating_families(snapshot.operating)
        if snapshot.traces is not None:
            yield _traces(snapshot.traces)
        if snapshot.ring is not None:
            yield from ring_families(snapshot.ring)


def render(snapshot: Snapshot, *, openmetrics: bool) -> bytes:
    """Return the exposition text; pure, so that it may run in another thread."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot))
    ProcessCollector(registry=registry)
    text: bytes = (generate_openmetrics if openmetrics else generate_latest)(registry)
    return text


def _messages(snapshot: Snapshot) -> Iterator[Metric]:
    yield counter(
        "router_messages",
        "Messages by how they ended: answered, client_gone, or an error code.",
        ["capability", "outcome"],
        (([label, outcome], n) for label, outcomes in snapshot.outcomes for outcome, n in outcomes.items()),
    )
    yield histogram(
        "router_message_seconds",
        "From reading a message to its last answer.",
        ["capability"],
        (([label], series) for label, series in snapshot.message_seconds),
    )
    yield gauge("router_messages_in_flight", "Messages without their last answer.", snapshot.in_flight)
    yield histogram("router_heads_per_message", "Deliveries made for one message.", [], [([], snapshot.heads)])
    yield counter(
        "router_lost_messages",
        "Messages without reply that were accepted and then not done.",
        ["capability"],
        (([label], n) for label, n in snapshot.lost_messages),
    )
    yield counter(
        "router_lost_answers",
        "Answers that could not be handed to their client: gone, or too much left unread.",
        ["cause"],
        (([cause], n) for cause, n in snapshot.lost_answers.items()),
    )


def _waiting(snapshot: Snapshot) -> Iterator[Metric]:
    yield gauge("router_messages_waiting", "Messages that wait for a place at a backend.", snapshot.waiting)
    yield gauges(
        "router_waiting_messages",
        "Messages that wait, by priority.",
        "priority",
        ((str(priority), count) for priority, count in snapshot.waiting_by_priority),
    )
    yield gauge("router_waiting_bytes", "Bodies of the messages that wait, in bytes.", snapshot.waiting_bytes)
    limits = ((name, float(limit)) for name, limit in snapshot.limits.items())
    yield gauges("router_limit", "Limits of the configuration, by name.", "limit", limits)
    yield histogram(
        "router_waiting_seconds",
        "How long messages that waited have waited until they were sent to a backend.",
        ["priority"],
        (([str(priority)], series) for priority, series in snapshot.waiting_seconds),
    )


def _extra(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield what was done beyond one delivery per message, what was not, and what the budgets still allow."""
    for what, text in EXTRA.items():
        rows = (([label], extra[what]) for label, extra, _ in snapshot.extra)
        yield counter(f"router_{what}", text, ["capability"], rows)
    yield counter(
        "router_refusals",
        "Messages answered with overloaded, by cause.",
        ["capability", "cause"],
        (([label, cause], n) for label, _, refusals in snapshot.extra for cause, n in refusals.items()),
    )
    yield counter(
        "router_ring_fallbacks",
        "Messages that embedding attention could not hold against the backends' keys, or (partial) not against all.",
        ["capability", "reason"],
        (([label, reason], n) for label, fallbacks in snapshot.fallbacks for reason, n in fallbacks.items()),
    )
    shown = (
        ("router_capability_load", "Busy slots over slots.", 1),
        ("router_retry_budget_tokens", "Retries that the budget allows now.", 2),
        ("router_hedge_budget_tokens", "Hedges that the budget allows now.", 3),
    )
    for name, text, column in shown:
        yield gauges(name, text, "capability", ((row[0], float(row[column])) for row in snapshot.pools))


def _deliveries(snapshot: Snapshot) -> Iterator[Metric]:
    yield counter(
        "router_deliveries",
        "Deliveries by how they ended.",
        ["backend", "outcome"],
        (([label, outcome], n) for label, outcomes, _ in snapshot.deliveries for outcome, n in outcomes.items()),
    )
    yield counter(
        "router_delivery_failures",
        "Deliveries that failed and count against their backend, by cause.",
        ["backend", "cause"],
        (([label, cause], n) for label, _, failures in snapshot.deliveries for cause, n in failures.items()),
    )
    yield histogram(
        "router_delivery_seconds",
        "From sending a delivery to its ACK, of a stream to its first PART.",
        ["capability", "group"],
        (([label, group], series) for label, group, series in snapshot.delivery_seconds),
    )
    shown = (
        ("router_backend_latency_ewma_seconds", "Moving average of the delivery latency.", 1),
        ("router_backend_success_ratio", "Moving average of delivery success.", 2),
        ("router_backend_in_flight", "Deliveries open at the backend.", 3),
        ("router_backend_up", "1 while the backend is registered and its connection stands.", 4),
        ("router_backend_ejected", "1 while the backend gets nothing because it fails.", 5),
    )
    for name, help_text, column in shown:
        yield gauges(name, help_text, "backend", ((row[0], float(row[column])) for row in snapshot.backends))
    drained = snapshot.drained
    yield gauge("router_backends_drained", "Names of backends that a person has drained.", len(drained))
    oldest_s = max(drained.values(), default=0.0)
    yield gauge("router_backend_oldest_drain_seconds", "For how long the first of those has been drained.", oldest_s)
    yield counter(
        "router_backend_ejections",
        "How often the backend began to get nothing because it fails.",
        ["backend"],
        (([label], n) for label, n in snapshot.ejections),
    )
    yield counter(
        "router_backend_losses",
        "How often the backend went without saying so: it fell silent, or its connection ended.",
        ["backend"],
        (([label], n) for label, n in snapshot.losses),
    )


def _decisions(snapshot: Snapshot) -> Iterator[Metric]:
    yield histogram(
        "router_decision_seconds",
        "Choosing the heads of one message, by whether its ranking came from the cache.",
        ["cache"],
        (([cache], series) for cache, series in snapshot.decisions.items()),
    )
    yield counter(
        "router_decision_cache_requests",
        "Look-ups of the decision cache: hit, miss (never ranked), expired, invalidated (the backends have changed).",
        ["result"],
        (([result], n) for result, n in snapshot.cache.items()),
    )
    requests = sum(snapshot.cache.values())
    ratio = snapshot.cache["hit"] / requests if requests else 0.0
    yield gauge("router_decision_cache_hit_ratio", "Hits over look-ups since the start.", ratio)


def _protocol(snapshot: Snapshot) -> Iterator[Metric]:
    yield counter(
        "router_protocol_errors",
        "Messages of peers that broke the protocol, by error code.",
        ["code"],
        (([code], n) for code, n in snapshot.protocol_errors.items()),
    )
    yield counter(
        "router_stray_answers",
        "Answers of backends without effect on a message: late (already decided), or to no open delivery (unknown).",
        ["kind"],
        (([kind], n) for kind, n in snapshot.stray_answers.items()),
    )
    yield counter(
        "router_label_overflow",
        "Look-ups of a label value beyond the bound, counted under other.",
        [],
        [([], snapshot.label_overflow)],
    )
    yield counter(
        "router_faults", "Faults of the daemon itself, each with a traceback in the log.", [], [([], snapshot.faults)]
    )
    yield gauge("router_draining", "1 from the first signal on: new messages are refused.", float(snapshot.draining))
    info = GaugeMetricFamily("router_build_info", "Constant 1.", labels=["version", "python", "libzmq"])
    info.add_metric([__version__, platform.python_version(), zmq.zmq_version()], 1.0)
    yield info


def _traces(traces: dict[str, int]) -> Metric:
    return counter(
        "router_traces",
        "Traced messages by what became of their spans: exported, failed (not taken in time), dropped (a full queue).",
        ["result"],
        (([result], n) for result, n in traces.items()),
    )
