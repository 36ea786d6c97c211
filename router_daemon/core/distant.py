"""What another daemon has measured of a backend, taken over where this one knows less, and what the way there adds.

Rules:
- Latencies of a backend of another daemon are measured from end to end, so the way is part of them. What its own daemon
  tells is of the backend alone: to that the way there and back is added.
- Own samples come first: what is told counts for what has not been used from here for `OWN_S`, since it is newer then.
- When the way changes, every estimate moves by the change at once: none has to be learnt anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from router_daemon.core.backends import Backend
from router_daemon.core.memory import ServiceRecord
from router_daemon.core.registry import Registry
from router_daemon.core.service import LEAST_S, Service

OWN_S: Final = 1.0
"""How long what was measured from here is better than what is told; a few intervals of telling."""


def set_way(backend: Backend, path_s: float, hops: int, registry: Registry) -> None:
    """Note what the way to a backend and back takes now (s), over how many links."""
    change_s = path_s - backend.path_s
    backend.path_s, backend.hops = path_s, hops
    if not change_s:
        return
    backend.version += 1
    for service in backend.services.values():
        if service.samples:
            service.service_s = max(LEAST_S, service.service_s + change_s)
            service.response_s = max(0.0, service.response_s + change_s)
            service.expect_late(registry.learning)


def take_over(
    backend: Backend,
    success: float,
    cost: float | None,
    services: Mapping[str, ServiceRecord],
    registry: Registry,
    now: float,
) -> None:
    """Take in what a backend's own daemon has measured of it, where that is newer than what is known here."""
    settings, mine = registry.settings, False
    for capability, record in services.items():
        if settings.require_capability and capability not in backend.info.capabilities:
            continue
        service = registry.service(backend, capability, now)
        if service.samples and now - service.used_at < OWN_S:
            mine = True
        elif record.samples:
            _replace(service, record, backend.path_s, registry, now)
    if not mine and success != backend.profile.success:
        backend.profile.success = success
        backend.version += 1
    if cost is not None and cost != backend.cost:
        registry.set_cost(backend, cost)


def _replace(service: Service, record: ServiceRecord, path_s: float, registry: Registry, now: float) -> None:
    service.service_s = record.service_s + path_s
    service.response_s = record.response_s + path_s
    service.deviation_s = record.deviation_s
    service.samples = record.samples
    service.sampled_at = now - record.age_s
    service.version = -1
    service.expect_late(registry.learning)
