"""What people may see of the broker, as plain data for JSON: every backend, and why a message would go where.

Rules:
- Pure reading: nothing here counts, draws, or changes a profile. What a decision would recompute on its way is
  recomputed on copies (`Ranking.detached`), by the decision's own code.
- Times are in milliseconds where they are services and latencies, else in seconds; ages and pauses as of now.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import UNSET

from router_daemon.core.backends import Backend
from router_daemon.core.events import Request
from router_daemon.core.outlook import Outlook
from router_daemon.core.placement import asked_route
from router_daemon.core.ranking import Candidate
from router_daemon.core.routes import Route
from router_daemon.core.service import Service

if TYPE_CHECKING:
    from router_daemon.core.broker import Broker

MOST_SHOWN: Final = 1000


def backends(broker: Broker, now: float) -> list[dict[str, Any]]:
    """Return everything known of each registered backend, by name; times in seconds ago, latency in milliseconds."""
    return [row for part in backend_parts(broker, now) for row in part]


def backend_parts(broker: Broker, now: float, size: int = 64) -> Iterator[list[dict[str, Any]]]:
    """Yield the same, some at a time; the broker may go on between two parts."""
    names, by_name = sorted(broker.registry.by_name), broker.registry.by_name
    for start in range(0, len(names), size):
        there = (by_name.get(name) for name in names[start : start + size])
        yield [_backend(broker, backend, now) for backend in there if backend is not None]


def drained(broker: Broker, now: float) -> list[dict[str, Any]]:
    """Return which names a person has drained: for how long (s), whether one is registered, and what is open there."""
    found = broker.registry.by_name
    return [
        {
            "backend": name,
            "for_s": for_s,
            "registered": name in found,
            "in_flight": len(found[name].open) if name in found else 0,
        }
        for name, for_s in broker.registry.drains.snapshot(now).items()
    ]


def routes(broker: Broker, now: float) -> dict[str, Any]:
    """Return what came of each route, the rollout with what its stage waits for, and the overrides in force."""
    return broker.routes.view(now) | {"overrides": broker.overrides.snapshot(now)}


def _backend(broker: Broker, backend: Backend, now: float) -> dict[str, Any]:
    info, profile = backend.info, backend.profile
    said = {key: value for key in ("group", "zone", "version", "cost") if (value := getattr(info, key)) is not UNSET}
    return {
        "name": info.name,
        "up": backend.connected,
        "state": backend.state,
        "drained": backend.drained,
        "capabilities": info.capabilities,
        "slots": info.slots,
        "prefetch": info.prefetch,
        "in_flight": len(backend.open),
        "queue": backend.queue,
        "other": backend.other,
        "latency_ms": profile.latency_s * 1000.0,
        "success_ratio": profile.success,
        "samples": profile.samples,
        "group": None,
        "zone": None,
        "version": None,
        "cost": None,
        **said,
        "observed_cost": profile.cost,
        "resources": [] if info.resources is UNSET else [resource.id for resource in info.resources],
        "embedding": info.embedding is not UNSET,
        "services": {
            capability: _service(broker, copy(service), now) for capability, service in backend.services.items()
        },
        "deliveries": {key: count for key, count in profile.counts.outcomes.items() if count},
        "failures": {key: count for key, count in profile.counts.failures.items() if count},
        "paused_s": max(0.0, backend.paused_until - now),
        "ejected": _ejection(backend, now),
        "ejections": profile.counts.ejections,
        "warm": backend.warm,
        "stale": any(backend in pool.stale for pool in backend.pools),
        "window": backend.window,
        "connected_s": now - backend.registered_at,
        "last_seen_s": now - backend.last_seen,
    }


def _ejection(backend: Backend, now: float) -> dict[str, Any] | None:
    """Return for how long it gets nothing, how often in a row that is, and whether others failed with it."""
    if not backend.ejected:
        return None
    return {
        "for_s": max(0.0, backend.readmit_at - now),
        "in_a_row": backend.ejections,
        "with_others": backend.correlated,
    }


def _service(broker: Broker, service: Service, now: float) -> dict[str, Any]:
    """Return what was measured and what is to be expected now; `service` is a copy that nobody else reads."""
    settings, backend = broker.settings, service.backend
    if service.version != backend.version or now >= service.fresh_until:
        service.refresh(now, settings.profile, settings.attention)
    return {
        "service_ms": service.service_s * 1000.0,
        "response_ms": service.response_s * 1000.0,
        "deviation_ms": service.deviation_s * 1000.0,
        "samples": service.samples,
        "expected_wait_ms": service.wait_s * 1000.0,
        "expected_latency_ms": service.latency_s * 1000.0,
        "expected_ms": service.expected_s * 1000.0,
        "sampled_s": now - service.sampled_at,
        "unused_s": now - service.used_at,
    }


def explain(
    broker: Broker,
    capability: str,
    priority: int,
    now: float,
    *,
    max_cost: float | None = None,
    embedding: bytes | None = None,
    route: str | None = None,
    key: str | None = None,
) -> dict[str, Any]:
    """Return, candidate by candidate and term by term, what a message of that kind would meet now.

    Of more than `MOST_SHOWN` backends, those that come first.

    Args:
        broker: asked, not changed.
        capability: of the message.
        priority: of the message.
        now: seconds.
        max_cost: of the message.
        embedding: of the message, as on the wire.
        route: that it would take; None: the one that `key` leads to, or stable.
        key: of the message.

    Raises:
        UnknownRouteError: there is no such route.
    """
    looked, about = asked_route(broker.routes, route, key)
    policy, cache, settings = looked.acting.policy, looked.acting.rankings, broker.settings
    state, cached = cache.peek(capability, priority, now)
    request = Request(0, capability, priority, mode="auto", max_cost=UNSET if max_cost is None else max_cost)
    if embedding is not None:
        request.embedding = embedding
    outlook = _outlook(broker, request, looked, now)
    shown = outlook.rows[:MOST_SHOWN]
    draining = [] if len(shown) == MOST_SHOWN else _draining(broker, capability, now)
    return {
        "capability": capability,
        "priority": priority,
        "embedding": None if embedding is None else len(embedding) // 4,
        "route": about,
        "override": _override(broker, capability, now),
        "policy": policy.name,
        "mode": settings.mode,
        "heads": settings.heads,
        "threshold": policy.threshold,
        "require_capability": settings.require_capability,
        "unsaid_idempotent": settings.unsaid_idempotent,
        "cache": {"state": state, "age_s": None if cached is None else now - cached.made_at, "ttl_s": cache.ttl_s},
        "waiting": broker.dispatcher.waiting.size,
        "error": outlook.error(),
        "admission": outlook.admission(),
        "auto": outlook.auto(),
        "pool": outlook.pool(),
        "backends": len(outlook.rows),
        "candidates": [_candidate(broker, outlook, candidate, now) for candidate in shown] + draining,
    }


class Weight(NamedTuple):
    """What one backend weighs for one kind of message: its attention weight, and its place among the heads, or None."""

    weight: float
    head: int | None


def weights(broker: Broker, capability: str, priority: int, now: float) -> dict[str, Weight]:
    """Return what each backend weighs for a message of that kind, by name: what `explain` says of route stable."""
    outlook = _outlook(broker, Request(0, capability, priority, mode="auto"), broker.routes.stable, now)
    return {
        candidate.backend.name: Weight(_weight(outlook, candidate), outlook.heads.get(candidate.backend.name))
        for candidate in outlook.rows
    }


def _outlook(broker: Broker, request: Request, route: Route, now: float) -> Outlook:
    """Look at a message of a route, with the ranking in force or what would be."""
    cache, capability, priority = route.acting.rankings, request.capability, request.priority
    state, cached = cache.peek(capability, priority, now)
    in_force = cached if cached is not None and state == "hit" else cache.preview(capability, priority, now)
    return Outlook(broker, request, route, in_force.detached(), now)


def _weight(outlook: Outlook, candidate: Candidate) -> float:
    return candidate.score / outlook.total if outlook.total else candidate.weight


def _override(broker: Broker, capability: str, now: float) -> dict[str, Any] | None:
    """Return which backend all new messages of the capability go to, whatever else is said here, and how long."""
    override = broker.overrides.in_force.get(capability)
    if override is None or now >= override.until:
        return None
    there = override.backend in broker.registry.by_name
    return {"backend": override.backend, "left_s": override.until - now, "there": there}


def _candidate(broker: Broker, outlook: Outlook, candidate: Candidate, now: float) -> dict[str, Any]:
    backend = candidate.backend
    return {
        "backend": backend.name,
        "score": candidate.score,
        "weight": _weight(outlook, candidate),
        "terms": candidate.terms,
        "logit": candidate.logit,
        "head": outlook.heads.get(backend.name),
        "reason": outlook.reason(candidate),
        **_load(broker, backend, candidate.service, now),
        "cost": backend.cost,
        "surcharge": candidate.surcharge,
    }


def _draining(broker: Broker, capability: str, now: float) -> list[dict[str, Any]]:
    """Return those that would be candidates if they were not about to leave."""
    registry, required = broker.registry, broker.settings.require_capability
    leaving = [
        backend
        for backend in registry.by_name.values()
        if backend.draining and (capability in backend.info.capabilities or not required)
    ]
    nothing: dict[str, Any] = {"score": None, "weight": None, "terms": {}, "head": None}
    return [
        {"backend": backend.name}
        | nothing
        | {"reason": backend.state}
        | _load(broker, backend, copy(registry.peek_service(backend, capability, now)), now)
        | {"cost": backend.cost, "surcharge": 0.0}
        for backend in leaving[:MOST_SHOWN]
    ]


def _load(broker: Broker, backend: Backend, service: Service, now: float) -> dict[str, Any]:
    return {
        "state": backend.state,
        "in_flight": len(backend.open),
        "places": backend.places,
        "slots": backend.info.slots,
        "free": backend.free,
        "other": backend.other,
        "latency_ms": backend.profile.latency_s * 1000.0,
        "success_ratio": backend.profile.success,
        **_service(broker, service, now),
        "silence_s": now - backend.progress_at if backend.open else None,
        "paused_s": max(0.0, backend.paused_until - now),
        "ejected": _ejection(backend, now),
        "warm": backend.warm,
        "window": backend.window,
    }
