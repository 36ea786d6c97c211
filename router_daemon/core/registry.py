"""Who is there, what they can do, and what was measured of them.

Rules:
- A `Backend` is one registration; its `Profile` outlives it: who comes back under the same name within
  `REMEMBER_S` keeps counters and success ratio, while the latency starts afresh (another host, a cold cache).
- The deliveries open at a backend are the entries of `Backend.open`; in-flight is their number and cannot drift.
- `Backend.limit` is how many may be open there now: slots + prefetch, or 0 while nothing may be sent to it. Whoever
  changes a reason calls `refresh`.
- `Registry.epoch` rises whenever a cached decision may have become wrong: join, leave, drain, other capabilities.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Struct

from router_daemon.core.counts import OTHER, BackendCounts, Counts
from router_daemon.core.events import Registration, Revision
from router_daemon.core.settings import ProfileSettings
from router_daemon.core.types import Peer

if TYPE_CHECKING:
    from router_daemon.core.messages import Delivery

REMEMBER_S = 600.0
REMEMBER_MOST = 10_000
CAPABILITIES_SEEN = 65_536


class Profile:
    """What was measured of one backend: exponentially weighted moving averages of latency and success.

    new = alpha * observed + (1 - alpha) * old (cross-attention paper, update rule), starting from the configured
    cold-start values. Latency is fed by successes and, at full length, by timeouts; never by a failure that came
    fast, or failing fast would look fast.

    Attributes:
        latency_s: seconds from send to ACK (of a stream: to its first PART).
        success: ratio in [0, 1].
        samples: outcomes observed since the latency last started afresh.
    """

    __slots__ = ("_settings", "counts", "latency_s", "samples", "success")

    def __init__(self, settings: ProfileSettings, counts: BackendCounts) -> None:
        self._settings = settings
        self.counts = counts
        self.success = settings.initial_success
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget the latency; keep success and counters."""
        self.latency_s = self._settings.initial_latency_s
        self.samples = 0

    def observe_success(self, latency_s: float) -> None:
        """Take in a delivery that was acknowledged after that many seconds."""
        settings = self._settings
        self.latency_s += settings.latency_alpha * (latency_s - self.latency_s)
        self.success += settings.success_alpha * (1.0 - self.success)
        self.samples += 1
        self.counts.outcomes["acked"] += 1

    def observe_failure(self, cause: str, full_length_s: float | None = None) -> None:
        """Take in a failure; `full_length_s` of a timeout is a lower bound of the latency, so it only raises it."""
        settings = self._settings
        if full_length_s is not None and full_length_s > self.latency_s:
            self.latency_s += settings.latency_alpha * (full_length_s - self.latency_s)
        self.success -= settings.success_alpha * self.success
        self.samples += 1
        self.counts.outcomes[cause] += 1
        self.counts.failures[cause] += 1

    def count(self, outcome: str) -> None:
        """Count a delivery that says nothing about the backend (busy, rejected, cancelled, ...)."""
        self.counts.outcomes[outcome] += 1


class Backend(Struct, eq=False):
    """One registered backend. `limit` and `open` decide whether it has room; see the module's rules.

    Attributes:
        paused_until: after a NACK `busy`, nothing is sent before this time.
        connected: False once its connection is known to be gone while its session may still come back.
        queue: what it last reported as waiting or running there, None before it did.
        group_label: its group, bounded, as the metrics name it.
        bucket: its place in a timer wheel (silence, end of a pause).
    """

    peer: Peer
    delimited: bool
    info: Registration
    profile: Profile
    group_label: str
    registered_at: float
    last_seen: float
    open: dict[int, Delivery]
    limit: int = 0
    draining: bool = False
    connected: bool = True
    paused_until: float = 0.0
    queue: int | None = None
    bucket: dict[Any, None] | None = None

    def __repr__(self) -> str:
        return f"<Backend {self.name!r}: {len(self.open)} open>"

    @property
    def name(self) -> str:
        """The name it registered under."""
        return self.info.name

    def refresh(self, now: float) -> None:
        """Recompute `limit` after anything that it depends on has changed."""
        blocked = self.draining or not self.connected or now < self.paused_until
        self.limit = 0 if blocked else self.info.slots + self.info.prefetch

    @property
    def state(self) -> str:
        """`up`, `draining`, `disconnected` or `paused`, for people."""
        if self.draining:
            return "draining"
        if not self.connected:
            return "disconnected"
        return "paused" if self.limit == 0 else "up"


class Registry:
    """The registered backends by name, by connection and by capability, and the memory of those who left."""

    def __init__(self, settings: ProfileSettings, counts: Counts) -> None:
        self._settings = settings
        self._counts = counts
        self.by_name: dict[str, Backend] = {}
        self.by_peer: dict[Peer, Backend] = {}
        self.epoch = 0
        self._able: dict[str, dict[str, Backend]] = {}
        self._seen: dict[str, float] = {}
        self._remembered: dict[str, tuple[Profile, float]] = {}

    def able(self, capability: str) -> Iterable[Backend]:
        """Return the backends that offer the capability and are not draining, in the order they came."""
        return self._able.get(capability, {}).values()

    def everyone(self) -> Iterable[Backend]:
        """Return every backend that is not draining."""
        return [backend for backend in self.by_name.values() if not backend.draining]

    def was_offered(self, capability: str) -> bool:
        """Tell whether some backend has offered the capability since the start."""
        return capability in self._seen

    def add(self, peer: Peer, delimited: bool, info: Registration, now: float) -> Backend:
        """Register a name that is free, and return the backend, not yet with room."""
        profile, _ = self._remembered.pop(info.name, (None, 0.0))
        if profile is None:
            profile = Profile(self._settings, self._counts.backend(info.name))
        profile.start_afresh()
        group = self._counts.group(info.group or "")
        backend = Backend(peer, delimited, info, profile, group, now, now, {})
        self.by_name[info.name] = backend
        self.by_peer[peer] = backend
        self._index(backend, now)
        backend.refresh(now)
        return backend

    def remove(self, backend: Backend, now: float) -> None:
        """Take a backend out and remember its profile; its deliveries are the caller's affair."""
        self._unindex(backend, now)
        del self.by_name[backend.name]
        self.by_peer.pop(backend.peer, None)
        backend.limit = 0
        while len(self._remembered) >= REMEMBER_MOST:
            self._forget_profile(next(iter(self._remembered)))
        self._remembered[backend.name] = (backend.profile, now)

    def move(self, backend: Backend, peer: Peer, delimited: bool) -> None:
        """Let the registration go on over another connection."""
        self.by_peer.pop(backend.peer, None)
        backend.peer, backend.delimited = peer, delimited
        self.by_peer[peer] = backend

    def replace(self, backend: Backend, info: Registration, now: float) -> None:
        """Put a new registration of the same name in the place of the old one; this ends a drain."""
        self._unindex(backend, now)
        backend.info = info
        backend.group_label = self._counts.group(info.group or "")
        backend.draining = False
        self._index(backend, now)
        backend.refresh(now)

    def revise(self, backend: Backend, revision: Revision, now: float) -> None:
        """Change the keys that an UPDATE names; a drain goes on."""
        changes = {key: value for key in revision.__struct_fields__ if (value := getattr(revision, key)) is not UNSET}
        fields = {key: getattr(backend.info, key) for key in backend.info.__struct_fields__}
        draining = backend.draining
        self.replace(backend, Registration(**{**fields, **changes}), now)
        if draining:
            self.drain(backend, now)

    def drain(self, backend: Backend, now: float) -> None:
        """Send nothing new to it."""
        backend.draining = True
        self._unindex(backend, now)
        backend.refresh(now)

    def left(self) -> Iterable[Profile]:
        """Return the profiles of those who left and are remembered."""
        return [profile for profile, _ in self._remembered.values()]

    def forget(self, now: float) -> None:
        """Drop what nobody came back for within `REMEMBER_S`, with its series."""
        for name, (_, left_at) in list(self._remembered.items()):
            if now - left_at >= REMEMBER_S:
                self._forget_profile(name)
        self._counts.forget_groups({backend.group_label for backend in self.by_name.values()}, now, REMEMBER_S)
        for capability, last_offered_at in self._seen.items():
            gone = capability not in self._able and now - last_offered_at >= REMEMBER_S
            if gone and capability in self._counts.capabilities:
                self._counts.capabilities.pop(capability, None)
                self.epoch += 1  # cached rankings hold the series that has just gone

    def check(self) -> None:
        """Assert what must hold between the tables."""
        for name, backend in self.by_name.items():
            assert backend.name == name
            assert self.by_peer.get(backend.peer) is backend
            assert name not in self._remembered
            able = not backend.draining
            assert all((self._able.get(c, {}).get(name) is backend) == able for c in backend.info.capabilities)
            assert backend.limit in (0, backend.info.slots + backend.info.prefetch)
        assert len(self.by_peer) == len(self.by_name)
        listed = sum(len(backends) for backends in self._able.values())
        assert listed == sum(len(set(b.info.capabilities)) for b in self.by_name.values() if not b.draining)

    def _forget_profile(self, name: str) -> None:
        profile, _ = self._remembered.pop(name)
        if profile.counts.label == name != OTHER:
            self._counts.backends.pop(name, None)

    def _index(self, backend: Backend, now: float) -> None:
        self.epoch += 1
        for capability in backend.info.capabilities:
            self._able.setdefault(capability, {})[backend.name] = backend
            if capability in self._seen or len(self._seen) < CAPABILITIES_SEEN:
                self._seen[capability] = now

    def _unindex(self, backend: Backend, now: float) -> None:
        self.epoch += 1
        for capability in backend.info.capabilities:
            if capability in self._seen:
                self._seen[capability] = now
            able = self._able.get(capability)
            if able is not None and able.get(backend.name) is backend:
                del able[backend.name]
                if not able:
                    del self._able[capability]
