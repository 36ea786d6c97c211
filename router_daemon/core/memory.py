"""What outlives a restart: what was measured of each backend, as plain records, and those read back until claimed.

Rules:
- Ages instead of times: a record is worth as much in another process, whose clock begins elsewhere.
- What was read back is taken as it was by the first backend that registers under its name: estimates, success, being
  warm. It is no new backend, so it starts neither slowly nor with its latency unknown. Ejection is not kept.
- Records are bounded by the tables they come from; what nobody claims is kept as long as the profile of one who left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

from msgspec import Meta, Struct

from router_daemon.core.backends import Backend
from router_daemon.core.pools import Pool
from router_daemon.core.profile import Profile
from router_daemon.core.service import Service

if TYPE_CHECKING:
    from router_daemon.core.registry import Registry

CENTURY_S: Final = 3.2e9
Seconds: TypeAlias = Annotated[float, Meta(ge=0.0, le=CENTURY_S)]
Ratio: TypeAlias = Annotated[float, Meta(ge=0.0, le=1.0)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**62)]
Cost: TypeAlias = Annotated[float, Meta(ge=0.0)]


class ServiceRecord(Struct, array_like=True, gc=False):
    """What was measured of one backend for one capability; `age_s` since the last sample. See `service.Service`."""

    service_s: Seconds
    response_s: Seconds
    deviation_s: Seconds
    samples: Count
    age_s: Seconds


class BackendRecord(Struct, gc=False):
    """One backend; `age_s` since it was last registered, `samples` 0: its latency is unknown. See `profile.Profile`."""

    success: Ratio
    latency_s: Seconds
    samples: Count
    cost: Cost | None = None
    warm: bool = False
    age_s: Seconds = 0.0
    services: dict[str, ServiceRecord] = {}


class ReferenceRecord(Struct, array_like=True, gc=False):
    """The mean latency of a capability, and of how many successes."""

    reference_s: Seconds
    samples: Count


class Profiles(Struct):
    """All of it, or a part: backends by name, capabilities by name."""

    backends: dict[str, BackendRecord] = {}
    capabilities: dict[str, ReferenceRecord] = {}

    def grow_older(self, by_s: float, most_s: float) -> None:
        """Add to every age, and drop the backends that are then older than `most_s`."""
        for name, record in list(self.backends.items()):
            record.age_s += by_s
            if record.age_s > most_s:
                del self.backends[name]
            for service in record.services.values():
                service.age_s += by_s


class Unclaimed:
    """What was read back and nobody has come for yet; ages are as of `at`."""

    def __init__(self) -> None:
        self.backends: dict[str, BackendRecord] = {}
        self.capabilities: dict[str, ReferenceRecord] = {}
        self.at = 0.0

    def claim_reference(self, pool: Pool) -> None:
        """Let a capability that has just got its first member begin with the mean latency it had."""
        record = self.capabilities.pop(pool.capability, None)
        if record is not None and not pool.samples:
            pool.reference_s, pool.samples = record.reference_s, record.samples

    def aged(self, name: str, now: float) -> BackendRecord | None:
        """Return a copy of a record, as old as it is now."""
        record = self.backends.get(name)
        if record is None:
            return None
        by_s = now - self.at
        services = {
            capability: ServiceRecord(s.service_s, s.response_s, s.deviation_s, s.samples, s.age_s + by_s)
            for capability, s in record.services.items()
        }
        return BackendRecord(
            record.success, record.latency_s, record.samples, record.cost, record.warm, record.age_s + by_s, services
        )


def restore_profile(profile: Profile, record: BackendRecord) -> None:
    """Let a profile be as it was."""
    profile.success, profile.cost = record.success, record.cost
    if record.samples:
        profile.latency_s, profile.samples = record.latency_s, record.samples


def restored_service(backend: Backend, pool: Pool, record: ServiceRecord, at: float) -> Service:
    """Return what was measured of a backend for a capability, as it was `record.age_s` before `at`."""
    sampled_at = at - record.age_s
    return Service(
        backend,
        pool,
        record.service_s,
        sampled_at,
        sampled_at,
        response_s=record.response_s,
        deviation_s=record.deviation_s,
        samples=record.samples,
    )


def parts(registry: Registry, now: float, size: int) -> Iterator[Profiles]:
    """Yield all that is known, `size` backends at a time; the registry may change between two parts."""
    unclaimed = registry.unclaimed
    references = {
        pool.capability: ReferenceRecord(pool.reference_s, pool.samples) for pool in registry.pools() if pool.samples
    }
    yield Profiles({}, {**unclaimed.capabilities, **references})
    names = [*registry.by_name, *registry.remembered()]
    for start in range(0, len(names), size):
        yield Profiles(dict(_records(registry, names[start : start + size], now)), {})


def _records(registry: Registry, names: Iterable[str], now: float) -> Iterator[tuple[str, BackendRecord]]:
    remembered = registry.remembered()
    for name in names:
        backend = registry.by_name.get(name)
        if backend is not None:
            yield name, record_of(backend, now)
        elif (unclaimed := registry.unclaimed.aged(name, now)) is not None:
            yield name, unclaimed
        elif name in remembered:
            profile, left_at = remembered[name]
            yield name, BackendRecord(profile.success, profile.latency_s, 0, profile.cost, False, now - left_at)


def record_of(backend: Backend, now: float) -> BackendRecord:
    """Return what was measured of a backend that is registered."""
    profile = backend.profile
    services = {
        capability: ServiceRecord(s.service_s, s.response_s, s.deviation_s, s.samples, max(0.0, now - s.sampled_at))
        for capability, s in backend.services.items()
        if s.samples or s.sampled_at > s.used_at
    }
    return BackendRecord(profile.success, profile.latency_s, profile.samples, profile.cost, backend.warm, 0.0, services)
