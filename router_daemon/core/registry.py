"""Who is there, what they can do, and who left.

Rules:
- A `Backend` is one registration; its `Profile` outlives it: who comes back under the same name within
  `REMEMBER_S` keeps counters and success ratio, while latencies start afresh (another host, a cold cache).
- The deliveries open at a backend are the entries of `Backend.open`; in-flight is their number and cannot drift.
- `Backend.limit` is how many may be open there now, or 0 while nothing may be sent to it; `free` is what is left of
  that. Whoever changes a reason calls `refresh`. The sums in `pools` follow in the same call.
- `Registry.epoch` rises whenever a cached decision may have become wrong: join, leave, drain, other capabilities.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET, Struct

from router_daemon.core.counts import OTHER, Counts
from router_daemon.core.events import Registration, Revision
from router_daemon.core.pools import Pool, make_pool
from router_daemon.core.profile import Profile
from router_daemon.core.service import Service
from router_daemon.core.settings import Settings
from router_daemon.core.types import Peer

if TYPE_CHECKING:
    from router_daemon.core.messages import Delivery

REMEMBER_S: Final = 600.0
REMEMBER_MOST: Final = 10_000
CAPABILITIES_SEEN: Final = 65_536
NEW_QUEUE_WEIGHT: Final = 0.5


class Backend(Struct, eq=False):
    """One registered backend.

    Attributes:
        limit, free: deliveries that may be open at once now, and how many more; see the module's rules.
        paused_until: after a NACK `busy`, nothing is sent before this time.
        connected: False once its connection is known to be gone while its session may still come back.
        queue: what it last reported as waiting or running there, None before it did.
        other: load from elsewhere: other += 0.5 (max(0, queue - open) - other) (design: routing).
        said_busy: it has answered `busy`.
        work_s: sum of the expected services of what is open.
        progress_at: when it last answered, or became busy.
        version: rises with all that may change what is to be expected of it.
        window: places while it starts slowly, doubled per round of `rounds` answers; None once it is warm.
        failed: its last outcomes as bits, 1 a failure, the newest lowest; settled: how many there were.
        failures_at: when the last failures were.
        ejected, ejections, readmit_at: it gets nothing; how often in a row; and until when. correlated: not alone.
        group_label: its group, bounded, as the metrics name it.
        bucket: its place in a timer wheel (silence, end of a pause or of an ejection).
    """

    peer: Peer
    delimited: bool
    info: Registration
    profile: Profile
    group_label: str
    registered_at: float
    last_seen: float
    open: dict[int, Delivery]
    services: dict[str, Service]
    failures_at: deque[float]
    pools: tuple[Pool, ...] = ()
    limit: int = 0
    free: int = 0
    draining: bool = False
    connected: bool = True
    paused_until: float = 0.0
    queue: int | None = None
    other: float = 0.0
    said_busy: bool = False
    work_s: float = 0.0
    progress_at: float = 0.0
    version: int = 0
    window: int | None = None
    rounds: int = 0
    failed: int = 0
    settled: int = 0
    ejected: bool = False
    ejections: int = 0
    readmit_at: float = 0.0
    correlated: bool = False
    bucket: dict[Any, None] | None = None

    def __repr__(self) -> str:
        return f"<Backend {self.name!r}: {len(self.open)} open>"

    @property
    def name(self) -> str:
        """The name it registered under."""
        return self.info.name

    @property
    def places(self) -> int:
        """How many deliveries it takes at once: slots + prefetch."""
        return self.info.slots + self.info.prefetch

    @property
    def cost(self) -> float | None:
        """What a delivery costs there, as observed, else as declared; None where it said nothing."""
        if self.profile.cost is not None:
            return self.profile.cost
        return None if self.info.cost is UNSET else self.info.cost

    def refresh(self, now: float) -> None:
        """Recompute `limit` after anything that it depends on has changed."""
        if self.draining or self.ejected or not self.connected or now < self.paused_until:
            self.limit = 0
        else:
            self.limit = self.places if self.window is None else min(self.window, self.places)
        self._recount()

    def take(self, delivery: Delivery, now: float) -> None:
        """Give a place to a delivery."""
        if not self.open:
            self.progress_at = now
        self.open[delivery.id] = delivery
        self.work_s += delivery.work_s
        self.version += 1
        taken = 1 if self.free else 0
        self.free -= taken
        for pool in self.pools:
            pool.busy += 1.0
            pool.free -= taken

    def release(self, delivery: Delivery, now: float) -> None:
        """Take the place back; that it answers at all is progress."""
        del self.open[delivery.id]
        self.work_s = self.work_s - delivery.work_s if self.open else 0.0
        self.progress_at = now
        self.version += 1
        given = 1 if self.limit > len(self.open) else 0
        self.free += given
        for pool in self.pools:
            pool.busy -= 1.0
            pool.free += given

    def report(self, queue: int) -> None:
        """Take in what it says that it has to do, from whoever it got it."""
        self.queue = queue
        elsewhere = queue - len(self.open)
        change = NEW_QUEUE_WEIGHT * ((elsewhere if elsewhere > 0 else 0.0) - self.other)
        if change:
            self.other += change
            self.version += 1
            for pool in self.pools:
                pool.busy += change

    @property
    def state(self) -> str:
        """`up`, `draining`, `disconnected`, `ejected` or `paused`, for people."""
        if self.draining:
            return "draining"
        if not self.connected:
            return "disconnected"
        if self.ejected:
            return "ejected"
        return "paused" if self.limit == 0 else "up"

    def join_pools(self, pools: tuple[Pool, ...]) -> None:
        """Become a member of these capabilities, and add to their sums."""
        self.pools = pools
        for pool in pools:
            pool.members[self.name] = self
        self._add(1)

    def leave_pools(self) -> None:
        """Be a member nowhere, and take what it added out of the sums."""
        self._add(-1)
        for pool in self.pools:
            del pool.members[self.name]
            pool.trials.pop(self, None)
        self.pools = ()

    def _add(self, sign: int) -> None:
        info, warm = self.info, self.window is None
        for pool in self.pools:
            pool.slots += sign * info.slots
            pool.places += sign * self.places
            pool.free += sign * self.free
            pool.busy += sign * (len(self.open) + self.other)
            pool.warm += sign * info.slots * warm
            pool.costly += sign * (self.cost is not None)
            pool.ejected += sign * self.ejected

    def _recount(self) -> None:
        free = self.limit - len(self.open)
        free = max(free, 0)
        change = free - self.free
        if change:
            self.free = free
            for pool in self.pools:
                pool.free += change


class Registry:
    """The registered backends by name, by connection and by capability, and the memory of those who left.

    Where `require_capability` is off, every backend may get any message: all of them are then one pool.
    """

    def __init__(self, settings: Settings, counts: Counts) -> None:
        self.settings = settings
        self._counts = counts
        self.by_name: dict[str, Backend] = {}
        self.by_peer: dict[Peer, Backend] = {}
        self.epoch = 0
        self._pools: dict[str, Pool] = {}
        self._everyone = None if settings.require_capability else make_pool("", settings)
        self._seen: dict[str, float] = {}
        self._remembered: dict[str, tuple[Profile, float]] = {}

    def pool(self, capability: str) -> Pool:
        """Return those who may get a message of that capability; an empty one where nobody ever offered it."""
        if self._everyone is not None:
            return self._everyone
        return self._pools.get(capability) or make_pool(capability, self.settings)

    def pools(self) -> Iterable[Pool]:
        """Return every pool that somebody is or was a member of."""
        return self._pools.values() if self._everyone is None else [self._everyone]

    def able(self, capability: str) -> Iterable[Backend]:
        """Return the backends that may get a message of that capability, in the order they came."""
        return self.pool(capability).members.values()

    def service(self, backend: Backend, capability: str, now: float) -> Service:
        """Return what was measured of a backend for a capability, begun where nothing was."""
        if self._everyone is not None and capability not in self._seen:
            capability = ""  # or any client could make records at every backend
        service = backend.services.get(capability)
        if service is None:
            service = Service(backend, self.pool(capability), 0.0, now, now)
            service.start_afresh(now, self.settings.profile)
            backend.services[capability] = service
        return service

    def was_offered(self, capability: str) -> bool:
        """Tell whether some backend has offered the capability since the start."""
        return capability in self._seen

    def add(self, peer: Peer, delimited: bool, info: Registration, now: float) -> Backend:
        """Register a name that is free, and return the backend, not yet with room."""
        profile, _ = self._remembered.pop(info.name, (None, 0.0))
        if profile is None:
            profile = Profile(self.settings.profile, self._counts.backend(info.name))
        profile.start_afresh()
        group = self._counts.group(info.group or "")
        failures_at = deque[float](maxlen=max(1, self.settings.ejection.failures))
        backend = Backend(peer, delimited, info, profile, group, now, now, {}, {}, failures_at, progress_at=now)
        self.by_name[info.name] = backend
        self.by_peer[peer] = backend
        self._index(backend, now)
        backend.window = self._first_window(backend)
        self._reindex(backend, now)
        return backend

    def remove(self, backend: Backend, now: float) -> None:
        """Take a backend out and remember its profile; its deliveries are the caller's affair."""
        self._unindex(backend, now)
        del self.by_name[backend.name]
        self.by_peer.pop(backend.peer, None)
        backend.limit = backend.free = 0
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
        for capability in backend.services.keys() - set(info.capabilities):
            if self._everyone is None:
                del backend.services[capability]
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

    def warm_up(self, backend: Backend, window: int | None, now: float) -> None:
        """Set how many places a backend that starts slowly has now; None: all, it is warm."""
        if (backend.window is None) != (window is None):
            sign = 1 if window is None else -1
            for pool in backend.pools:
                pool.warm += sign * backend.info.slots
        backend.window = window
        backend.refresh(now)

    def begin_anew(self, backend: Backend, now: float) -> None:
        """Treat a backend like one that has just come: latencies unknown, a slow start where others are warm."""
        for service in backend.services.values():
            service.start_afresh(now, self.settings.profile)
        backend.profile.start_afresh()
        backend.version += 1
        backend.rounds = 0
        self.warm_up(backend, self._first_window(backend), now)

    def set_ejected(self, backend: Backend, ejected: bool, now: float) -> None:
        """Give a backend nothing, or all again."""
        change = int(ejected) - int(backend.ejected)
        backend.ejected = ejected
        for pool in backend.pools:
            pool.ejected += change
            pool.trials.pop(backend, None)
        backend.refresh(now)

    def note_cost(self, backend: Backend, cost: float) -> None:
        """Take in what one delivery cost; the observed cost replaces the declared one."""
        first = backend.cost is None
        backend.profile.observe_cost(cost)
        if first:
            self.epoch += 1
            for pool in backend.pools:
                pool.costly += 1

    def left(self) -> Iterable[Profile]:
        """Return the profiles of those who left and are remembered."""
        return [profile for profile, _ in self._remembered.values()]

    def forget(self, now: float) -> None:
        """Drop what nobody came back for within `REMEMBER_S`, with its series."""
        for name, (_, left_at) in list(self._remembered.items()):
            if now - left_at >= REMEMBER_S:
                self._forget_profile(name)
        for capability, last_offered_at in self._seen.items():
            pool = self._pools.get(capability)
            gone = not (pool and pool.members) and now - last_offered_at >= REMEMBER_S
            if gone and (pool is not None or capability in self._counts.capabilities):
                self._pools.pop(capability, None)
                self._counts.capabilities.pop(capability, None)
                self.epoch += 1  # cached rankings hold the series that has just gone

    def check(self) -> None:
        """Assert what must hold between the tables."""
        for name, backend in self.by_name.items():
            assert backend.name == name
            assert self.by_peer.get(backend.peer) is backend
            assert name not in self._remembered
            able = not backend.draining
            assert bool(backend.pools) == able
            assert all(pool.members.get(name) is backend for pool in backend.pools)
            assert 0 <= backend.limit <= backend.places
            assert backend.free == max(0, backend.limit - len(backend.open))
            assert not (backend.ejected and backend.limit)
        assert len(self.by_peer) == len(self.by_name)
        for pool in self.pools():
            _check_sums(pool)

    def _first_window(self, backend: Backend) -> int | None:
        """Return 1 where half of the slots of each of its capabilities, others' than its own, are warm; else None."""
        if not self.settings.exploration.slow_start:
            return None
        own = backend.info.slots
        others = [(pool.warm - own * (backend.window is None), pool.slots - own) for pool in backend.pools]
        return 1 if others and all(slots and 2 * warm >= slots for warm, slots in others) else None

    def _forget_profile(self, name: str) -> None:
        profile, _ = self._remembered.pop(name)
        if profile.counts.label == name != OTHER:
            self._counts.backends.pop(name, None)

    def _reindex(self, backend: Backend, now: float) -> None:
        """Bring the sums in step with a window that has just been set."""
        for pool in backend.pools:
            pool.warm -= backend.info.slots * (backend.window is not None)
        backend.refresh(now)

    def _index(self, backend: Backend, now: float) -> None:
        self.epoch += 1
        for capability in backend.info.capabilities:
            if capability not in self._pools and self._everyone is None:
                self._pools[capability] = make_pool(capability, self.settings)
            if capability in self._seen or len(self._seen) < CAPABILITIES_SEEN:
                self._seen[capability] = now
        if self._everyone is not None:
            backend.join_pools((self._everyone,))
        else:
            backend.join_pools(tuple(self._pools[c] for c in dict.fromkeys(backend.info.capabilities)))
        self._reserve(backend)

    def _unindex(self, backend: Backend, now: float) -> None:
        self.epoch += 1
        for capability in backend.info.capabilities:
            if capability in self._seen:
                self._seen[capability] = now
        pools = backend.pools
        backend.leave_pools()
        self._reserve(backend, pools)

    def _reserve(self, backend: Backend, pools: Iterable[Pool] | None = None) -> None:
        for pool in backend.pools if pools is None else pools:
            pool.reserved = int(self.settings.waiting.reserve * pool.places)


def _check_sums(pool: Pool) -> None:
    members = pool.members.values()
    assert all(pool in backend.pools for backend in members)
    assert pool.slots == sum(backend.info.slots for backend in members)
    assert pool.places == sum(backend.places for backend in members)
    assert pool.free == sum(backend.free for backend in members)
    assert abs(pool.busy - sum(len(backend.open) + backend.other for backend in members)) < 1e-6 * (1 + pool.busy)
    assert pool.warm == sum(backend.info.slots for backend in members if backend.window is None)
    assert pool.costly == sum(backend.cost is not None for backend in members)
    assert pool.ejected == sum(backend.ejected for backend in members)
    assert all(backend.ejected and backend in members for backend in pool.trials)
