"""Counts -> Prometheus. Everything is copied on the loop (`Snapshot`) and rendered elsewhere.

Rules: a name, its type and its labels stand in one place, here (of the ring: `ring_metrics`; of people:
`operating_metrics`); the core's counts know nothing of Prometheus. What a bounded table does not name is under the
label value `other`, a capability that nobody ever offered under `unknown`.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import zmq
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from router_daemon import __version__
from router_daemon.core.broker import Broker
from router_daemon.core.counts import OTHER, SECONDS
from router_daemon.core.pools import Pool
from router_daemon.core.rollout import ROLLED_BACK, Rollout
from router_daemon.core.routes import Route
from router_daemon.families import Series, by_number, counter, gauge, gauges, histogram, seen
from router_daemon.operating_metrics import OperatingSnapshot, Operations, operating_families
from router_daemon.ring.node import Node
from router_daemon.ring_metrics import RingSnapshot, ring_families

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
HEADS: Final = (0.0, 1.0, 2.0, 3.0, 5.0)


class Snapshot:
    """A consistent copy of what broker and ring count at `now`; cheap, and made on the loop."""

    def __init__(
        self, broker: Broker, now: float, node: Node | None = None, operations: Operations | None = None
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
            (c.label, {"hedges": c.hedges, "retries": c.retries, "explorations": c.explorations}, dict(c.refusals))
            for c in counts.capabilities.values()
        ]
        self.fallbacks = [(c.label, seen(c.fallbacks)) for c in counts.capabilities.values()]
        self.deliveries = [(b.label, seen(b.outcomes), seen(b.failures)) for b in counts.backends.values()]
        self.lost_messages = [(c.label, c.lost) for c in counts.capabilities.values()]
        self.ejections = [(b.label, b.ejections) for b in counts.backends.values()]
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
        self.in_flight = broker.open_messages
        self.waiting = broker.dispatcher.waiting.size
        self.waiting_by_priority = list(enumerate(broker.dispatcher.waiting.by_priority))[1:]
        self.waiting_seconds = [(p, Series(histogram)) for p, histogram in enumerate(counts.waiting_seconds)][1:]
        pools = broker.registry.pools()  # one without a name where capability is not required; else those with series
        self.pools = [_pool(p, now) for p in pools if not p.capability or p.capability in counts.capabilities]
        self.backends = _backends(broker)
        self.routes = [_route(route) for route in broker.routes.by_name.values()]
        self.rollout = None if broker.routes.rollout is None else _rollout(broker.routes.rollout)
        self.operating = OperatingSnapshot(broker, now, operations)
        self.feedback_ignored = counts.feedback_ignored
        self.ring = None if node is None else RingSnapshot(node)


def _pool(pool: Pool, now: float) -> tuple[str, float, float, float]:
    """Return (capability, load, retry tokens, hedge tokens)."""
    load = max(0.0, pool.busy) / pool.slots if pool.slots else 0.0
    return pool.capability, load, pool.retries.peek(pool.messages, now), pool.hedges.peek(pool.messages, now)


def _route(route: Route) -> dict[str, Any]:
    """Return what is shown of a route; of the only one, what the capabilities' series do not say anyway."""
    tally = route.tally
    return {
        "name": route.name,
        "outcomes": {} if tally is None else seen(tally.outcomes),
        "seconds": None if tally is None else Series(tally.seconds.folded(SECONDS)),
        "deliveries": None if tally is None else tally.deliveries,
        "cost": None if tally is None else tally.cost,
        "fallbacks": {reason: count for reason, count in route.fallbacks.items() if count},
        "faults": dict(route.faults),
        "quality": route.quality,
        "rated": route.rated,
        "open": float(route.opened_at is not None),
    }


def _rollout(rollout: Rollout) -> dict[str, Any]:
    shares = rollout.shares()
    stopped = float(rollout.state == ROLLED_BACK)
    return {"shares": shares, "stopped": stopped, "verdicts": dict(rollout.verdicts)}


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
        yield from _routes(snapshot)
        yield from operating_families(snapshot.operating)
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
    yield histogram(
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
    yield counter(
        "router_backend_ejections",
        "How often the backend began to get nothing because it fails.",
        ["backend"],
        (([label], n) for label, n in snapshot.ejections),
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
    info = GaugeMetricFamily("router_build_info", "Constant 1.", labels=["version", "python", "libzmq"])
    info.add_metric([__version__, platform.python_version(), zmq.zmq_version()], 1.0)
    yield info


def _routes(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield what came of each route; outcomes, times, deliveries and cost only where there are several."""
    routes = snapshot.routes
    yield counter(
        "router_route_messages",
        "Messages by the route that they took and how they ended; only where there are several routes.",
        ["route", "outcome"],
        (([r["name"], outcome], n) for r in routes for outcome, n in r["outcomes"].items()),
    )
    yield histogram(
        "router_route_seconds",
        "From reading a message to its answer, of those answered, by route.",
        ["route"],
        (([r["name"]], r["seconds"]) for r in routes if r["seconds"] is not None),
    )
    counters = (
        ("deliveries", "router_route_deliveries", "Deliveries made for the messages of a route."),
        ("cost", "router_route_cost", "What those deliveries cost, as told by backends, else as declared."),
        ("quality", "router_route_quality", "Sum of the scores from 0 to 1 that FEEDBACK and ACKs gave."),
        ("rated", "router_route_rated", "Number of those scores."),
    )
    for key, name, text in counters:
        yield counter(name, text, ["route"], (([r["name"]], r[key]) for r in routes if r[key] is not None))
    yield counter(
        "router_route_fallbacks",
        "Decisions that the fallback policy made for a route, by reason.",
        ["route", "reason"],
        (([r["name"], reason], n) for r in routes for reason, n in r["fallbacks"].items()),
    )
    yield counter(
        "router_route_faults",
        "What a route's policy did wrong: raised, nonsense, slow; told of something, or asked for its account, raised.",
        ["route", "kind"],
        (([r["name"], kind], n) for r in routes for kind, n in r["faults"].items()),
    )
    opened = ((r["name"], r["open"]) for r in routes)
    yield gauges("router_route_breaker_open", "1 while the fallback decides for a route.", "route", opened)
    yield counter(
        "router_feedback_ignored",
        "FEEDBACK about no answered message of its connection's last 1,024.",
        [],
        [([], snapshot.feedback_ignored)],
    )
    if snapshot.rollout is not None:
        shares = snapshot.rollout["shares"].items()
        yield gauges("router_rollout_percent", "Share of the messages that a route gets, in percent.", "route", shares)
        yield gauge("router_rollout_stopped", "1 while the candidate gets nothing.", snapshot.rollout["stopped"])
        yield counter(
            "router_rollout_verdicts",
            "How often the candidate was stopped, by what: success, p99, policy.",
            ["cause"],
            (([cause], n) for cause, n in snapshot.rollout["verdicts"].items()),
        )
