"""What people may see of the broker, as plain data for JSON: every backend, and why a message would go where.

Pure reading: nothing here counts as a decision or changes a profile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from router_daemon.core.backends import Backend
from router_daemon.core.ranking import Candidate, Ranking

if TYPE_CHECKING:
    from router_daemon.core.broker import Broker


def backends(broker: Broker, now: float) -> list[dict[str, Any]]:
    """Return everything known of each registered backend, by name; times in seconds ago, latency in milliseconds."""
    return [_backend(backend, now) for _, backend in sorted(broker.registry.by_name.items())]


def _backend(backend: Backend, now: float) -> dict[str, Any]:
    info, profile = backend.info, backend.profile
    said = {key: value for key in ("group", "zone", "version", "cost") if (value := getattr(info, key)) is not UNSET}
    return {
        "name": info.name,
        "up": backend.connected,
        "state": backend.state,
        "capabilities": info.capabilities,
        "slots": info.slots,
        "prefetch": info.prefetch,
        "in_flight": len(backend.open),
        "queue": backend.queue,
        "latency_ms": profile.latency_s * 1000.0,
        "success_ratio": profile.success,
        "samples": profile.samples,
        "group": None,
        "zone": None,
        "version": None,
        "cost": None,
        **said,
        "resources": [] if info.resources is UNSET else [resource.id for resource in info.resources],
        "embedding": info.embedding is not UNSET,
        "deliveries": {key: count for key, count in profile.counts.outcomes.items() if count},
        "failures": {key: count for key, count in profile.counts.failures.items() if count},
        "paused_s": max(0.0, backend.paused_until - now),
        "connected_s": now - backend.registered_at,
        "last_seen_s": now - backend.last_seen,
    }


def explain(broker: Broker, capability: str, priority: int, now: float) -> dict[str, Any]:
    """Return, candidate by candidate and term by term, what a message of that kind would meet now."""
    cache, settings = broker.rankings, broker.settings
    state, cached = cache.peek(capability, priority, now)
    in_force = cached if cached is not None and state == "hit" else cache.preview(capability, priority, now)
    heads = _heads(broker, in_force, now)
    error = _error(broker, capability, in_force)
    return {
        "capability": capability,
        "priority": priority,
        "policy": broker.policy.name,
        "mode": settings.mode,
        "heads": settings.heads,
        "threshold": broker.policy.threshold,
        "require_capability": settings.require_capability,
        "cache": {"state": state, "age_s": None if cached is None else now - cached.made_at, "ttl_s": cache.ttl_s},
        "waiting": broker.dispatcher.waiting.size,
        "error": error,
        "candidates": [_candidate(candidate, in_force, heads) for candidate in in_force.scored],
    }


def _heads(broker: Broker, ranking: Ranking, now: float) -> dict[str, int]:
    """Return backend name -> place, of those who would be sent to or tried next, as their order stands now."""
    with_room = [c.backend.name for c in broker.policy.peek(ranking, now) if c.backend.free > 0]
    return {name: place for place, name in enumerate(with_room[: broker.settings.heads], 1)}


def _error(broker: Broker, capability: str, ranking: Ranking) -> dict[str, str] | None:
    if ranking.candidates:
        return None
    if not broker.registry.was_offered(capability):
        return {"code": "no_capability", "detail": "no backend has offered it since the start"}
    return {"code": "no_backend", "detail": "no registered backend that is not draining offers it"}


def _candidate(candidate: Candidate, ranking: Ranking, heads: dict[str, int]) -> dict[str, Any]:
    backend = candidate.backend
    return {
        "backend": backend.name,
        "score": candidate.score,
        "weight": candidate.weight,
        "terms": candidate.terms,
        "head": heads.get(backend.name),
        "reason": _reason(candidate, ranking, heads),
        "state": backend.state,
        "in_flight": len(backend.open),
        "places": backend.info.slots + backend.info.prefetch,
        "latency_ms": backend.profile.latency_s * 1000.0,
        "success_ratio": backend.profile.success,
    }


def _reason(candidate: Candidate, ranking: Ranking, heads: dict[str, int]) -> str:
    backend = candidate.backend
    if backend.name in heads:
        return f"head {heads[backend.name]} by rank"
    if candidate not in ranking.candidates:
        return "score not over the threshold"
    if backend.limit == 0:
        return backend.state
    if len(backend.open) >= backend.limit:
        return "all its places are taken"
    return "others rank higher"
