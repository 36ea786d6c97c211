"""Who is there, what they can do, and who left.

Rules:
- A `Backend` is one registration; its `Profile` outlives it: who comes back under the same name within
  `REMEMBER_S` keeps counters and success ratio, while latencies start afresh (another host, a cold cache).
- What an earlier process knew (`restore`) is taken as it was, latencies too, by the first that comes under the name.
- `Registry.epoch` rises whenever a cached decision may have become wrong: join, leave, drain, other capabilities,
  another cost. `Registry.changes` rises with every change of who is there and with what.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from msgspec import UNSET

from router_daemon.core.backends import Backend
from router_daemon.core.counts import OTHER, Counts
from router_daemon.core.drains import Drains
from router_daemon.core.events import Registration, Revision
from router_daemon.core.memory import BackendRecord, Profiles, Unclaimed, restore_profile, restored_service
from router_daemon.core.pools import Pool, make_pool
from router_daemon.core.profile import Profile
from router_daemon.core.service import Learning, Service
from router_daemon.core.settings import Settings
from router_daemon.core.types import Peer
from router_daemon.core.waiting import share_of

REMEMBER_S: Final = 600.0
REMEMBER_MOST: Final = 10_000
CAPABILITIES_SEEN: Final = 65_536

Watcher = Callable[[Backend, bool], None]
"""Told of a backend that has registered, or has registered or updated again (True), or that has left (False)."""


class Registry:
    """The registered backends by name, by connection and by capability, and the memory of those who left.

    Where `require_capability` is off, every backend may get any message: all of them are then one pool. `watch` is told
    of each change of who is there, and as what. `news`: (what, backend), for the shell to log and clear.
    """

    def __init__(self, settings: Settings, counts: Counts, watch: Watcher | None = None) -> None:
        self.settings = settings
        self._watch = watch
        self.learning = Learning(settings)
        self._counts = counts
        self.by_name: dict[str, Backend] = {}
        self.by_peer: dict[Peer, Backend] = {}
        self.epoch = 0
        self.changes = 0
        self._pools: dict[str, Pool] = {}
        self._everyone = None if settings.require_capability else make_pool("", settings)
        self._seen: dict[str, float] = {}
        self._remembered: dict[str, tuple[Profile, float]] = {}
        self.unclaimed = Unclaimed()
        self.drains = Drains()
        self.news: list[tuple[str, str]] = []

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

    def offers(self, backend: Backend) -> Iterable[str] | None:
        """Return of which capabilities a backend may get messages; None: of any."""
        return backend.info.capabilities if self._everyone is None else None

    def key(self, capability: str) -> str:
        """Return under which name records of a capability are kept.

        "" where nobody offers it and all may get it: else any client could have records made for every backend.
        """
        return "" if self._everyone is not None and capability not in self._seen else capability

    def service(self, backend: Backend, capability: str, now: float) -> Service:
        """Return what was measured of a backend for a capability, begun where nothing was."""
        capability = self.key(capability)
        service = backend.services.get(capability)
        if service is None:
            service = backend.services[capability] = self._new_service(backend, capability, now)
        return service

    def peek_service(self, backend: Backend, capability: str, now: float) -> Service:
        """Return the same without beginning anything: where nothing was measured, a record that nobody keeps."""
        key = self.key(capability)
        return backend.services.get(key) or self._new_service(backend, key, now)

    def _new_service(self, backend: Backend, capability: str, now: float) -> Service:
        service = Service(backend, self.pool(capability), 0.0, now, now)
        service.start_afresh(now, self.learning)
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
        record = self.unclaimed.backends.pop(info.name, None)
        group = self._counts.group(info.group or "")
        failures_at = deque[float](maxlen=self.settings.ejection.remembered)
        backend = Backend(peer, delimited, info, profile, group, now, now, {}, {}, failures_at, progress_at=now)
        backend.queue_alpha = self.settings.profile.queue_alpha
        backend.draining = backend.drained = info.name in self.drains.since
        self.by_name[info.name] = backend
        self.by_peer[peer] = backend
        self._index(backend, now)
        if record is not None:
            self._take_up(backend, record, now)
        if not backend.warm:
            backend.window = self._first_window(backend)
        backend.refresh(now)
        self._tell(backend, there=True)
        self._note_version(backend, now)
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
        self._tell(backend, there=False)

    def move(self, backend: Backend, peer: Peer, delimited: bool) -> None:
        """Let the registration go on over another connection."""
        self.by_peer.pop(backend.peer, None)
        backend.peer, backend.delimited = peer, delimited
        self.by_peer[peer] = backend

    def replace(self, backend: Backend, info: Registration, now: float) -> None:
        """Put a new registration of the same name in the place of the old one; this ends a drain of its own.

        Rankings stay in force where it can do the same at the same cost: of ten thousand backends each takes 20 ms to
        make, and places change often.
        """
        old, epoch = backend.info, self.epoch
        ranked_alike = not backend.draining and (info.capabilities, info.cost) == (old.capabilities, old.cost)
        stale = {pool.capability for pool in backend.pools if backend in pool.stale}
        self._unindex(backend, now)
        backend.info = info
        backend.group_label = self._counts.group(info.group or "")
        backend.leaving, backend.draining = False, backend.drained
        for capability in backend.services.keys() - set(info.capabilities):
            if self._everyone is None:
                del backend.services[capability]
        self._index(backend, now)
        for pool in backend.pools if stale else ():
            if pool.capability in stale:
                pool.stale[backend] = None
        if ranked_alike:
            self.epoch = epoch
        backend.refresh(now)
        self._tell(backend, there=True)
        self._note_version(backend, now)

    def revise(self, backend: Backend, revision: Revision, now: float) -> None:
        """Change the keys that an UPDATE names; a drain goes on."""
        changes = {key: value for key in revision.__struct_fields__ if (value := getattr(revision, key)) is not UNSET}
        fields = {key: getattr(backend.info, key) for key in backend.info.__struct_fields__}
        leaving = backend.leaving
        self.replace(backend, Registration(**{**fields, **changes}), now)
        if leaving:
            self.drain(backend, now)

    def drain(self, backend: Backend, now: float) -> None:
        """Send nothing new to it, as it says itself."""
        backend.leaving = True
        self._rest(backend, now)

    def set_drained(self, backend: Backend, drained: bool, now: float) -> None:
        """Send nothing new to it, as a person says, or end that: then it is as one that has just registered."""
        backend.drained = drained
        if drained:
            self._rest(backend, now)
        elif not backend.leaving:
            backend.draining = False
            self._index(backend, now)
            if not backend.warm:
                backend.window = self._first_window(backend)
            backend.refresh(now)
            self._note_version(backend, now)

    def _rest(self, backend: Backend, now: float) -> None:
        if not backend.draining:
            backend.draining = True
            self._unindex(backend, now)
            backend.refresh(now)

    def set_warm(self, backend: Backend, warm: bool, window: int | None, now: float) -> None:
        """Set whether a backend is warm, and how many places it has while it starts slowly (None: all)."""
        change = (int(warm) - int(backend.warm)) * backend.info.slots
        for pool in backend.pools:
            pool.warm += change
        backend.warm, backend.window = warm, window
        backend.refresh(now)

    def begin_anew(self, backend: Backend, now: float) -> None:
        """Treat a backend like one that has just come: latencies unknown, a slow start where others are warm."""
        for service in backend.services.values():
            service.start_afresh(now, self.learning)
        backend.profile.start_afresh()
        backend.version += 1
        backend.rounds = 0
        self.set_warm(backend, False, self._first_window(backend), now)

    def re_evaluate(self, backend: Backend, now: float) -> None:
        """Measure a backend anew, as it says that it is another version: what was learnt was of another program.

        It is as one that has just come: estimates, and with them attempt timeouts and hedge delays, start afresh, and
        its places grow slowly where others are warm. Half of what success was off from its start is forgotten. Until
        enough is known of it again it is explored more often (`Pool.stale`).
        """
        profile, was = backend.profile, backend.profile.version
        self.begin_anew(backend, now)
        for service in backend.services.values():
            service.own.clear()
        profile.success += 0.5 * (self.settings.profile.initial_success - profile.success)
        for pool in backend.pools:
            pool.stale[backend] = None
            if self.settings.exploration.share:
                pool.explore_from = min(pool.explore_from, pool.messages)
        self.news.append((f"backend has version {backend.info.version!r}, before {was!r}: measured anew", backend.name))

    def _note_version(self, backend: Backend, now: float) -> None:
        """Look whether a backend is another version than what is known of it; of one drained, when that ends."""
        version = backend.info.version
        if version is UNSET or backend.drained:
            return
        if backend.profile.version not in (None, version) and not backend.draining:
            self.re_evaluate(backend, now)
        backend.profile.version = version

    def set_ejected(self, backend: Backend, ejected: bool, now: float) -> None:
        """Give a backend nothing, or all again."""
        change = int(ejected) - int(backend.ejected)
        backend.ejected = ejected
        for pool in backend.pools:
            pool.ejected += change
            pool.trials.pop(backend, None)
        backend.refresh(now)

    def set_cost(self, backend: Backend, cost: float) -> None:
        """Take over a mean of what deliveries cost, as observed by its own daemon."""
        first = backend.cost is None
        backend.profile.cost = cost
        if first:
            self._first_cost(backend)

    def note_cost(self, backend: Backend, cost: float) -> bool:
        """Take in what one delivery cost, which replaces what was declared, and tell whether that makes it dearer."""
        before = backend.cost
        backend.profile.observe_cost(cost)
        if before is None:
            self._first_cost(backend)
        return before is not None and (backend.cost or 0.0) > before

    def _first_cost(self, backend: Backend) -> None:
        self.epoch += 1
        for pool in backend.pools:
            pool.costly += 1

    def restore(self, profiles: Profiles, now: float) -> None:
        """Take in what an earlier process knew; of backends that are registered, nothing."""
        unclaimed, most = self.unclaimed, max(REMEMBER_MOST, self.settings.backends)
        unclaimed.at = now
        for name, record in profiles.backends.items():
            if name in self.by_name or len(self._remembered) >= most:
                continue
            profile = Profile(self.settings.profile, self._counts.backend(name))
            restore_profile(profile, record)
            self._remembered[name] = (profile, now)
            unclaimed.backends[name] = record
        unclaimed.capabilities.update(profiles.capabilities)
        for pool in self.pools():
            unclaimed.claim_reference(pool)

    def _take_up(self, backend: Backend, record: BackendRecord, now: float) -> None:
        """Let a backend that has just come be as it was before this process began."""
        restore_profile(backend.profile, record)
        for capability, service in record.services.items():
            if self._everyone is not None or capability in backend.info.capabilities:
                pool = self.pool(capability)
                restored = restored_service(backend, pool, service, self.unclaimed.at)
                restored.expect_late(self.learning)
                backend.services[capability] = restored
        if record.warm:
            self.set_warm(backend, True, None, now)

    def remembered(self) -> Mapping[str, tuple[Profile, float]]:
        """Return the profiles of those who left, and when that was, by name."""
        return self._remembered

    def left(self) -> Iterable[Profile]:
        """Return the profiles of those who left and are remembered."""
        return [profile for profile, _ in self._remembered.values()]

    def forget(self, now: float) -> None:
        """Drop what nobody came back for within `REMEMBER_S`, with its series."""
        for name, (_, left_at) in list(self._remembered.items()):
            if now - left_at >= REMEMBER_S:
                self._forget_profile(name)
        if now - self.unclaimed.at >= REMEMBER_S:
            self.unclaimed.capabilities.clear()
        self._counts.forget_groups({backend.group_label for backend in self.by_name.values()}, now, REMEMBER_S)
        for capability, last_offered_at in self._seen.items():
            pool = self._pools.get(capability)
            gone = not (pool and pool.members) and now - last_offered_at >= REMEMBER_S
            if gone and (pool is not None or capability in self._counts.capabilities):
                self._pools.pop(capability, None)
                self._counts.capabilities.pop(capability, None)
                self.epoch += 1  # cached rankings hold the series that has just gone
        for capability in [name for name, pool in self._pools.items() if not pool.members and name not in self._seen]:
            del self._pools[capability]

    def check(self) -> None:
        """Assert what must hold between the tables."""
        for name, backend in self.by_name.items():
            assert backend.name == name
            assert self.by_peer.get(backend.peer) is backend
            assert name not in self._remembered
            assert backend.drained == (name in self.drains.since)
            backend.check()
        assert len(self.by_peer) == len(self.by_name)
        for pool in self.pools():
            pool.check()

    def _first_window(self, backend: Backend) -> int | None:
        """Return 1 where of each of its capabilities half of the others' slots are warm, else None.

        Where they are not, as after a restart of the daemon, starting slowly would be a brown-out.
        """
        if not self.settings.exploration.slow_start:
            return None
        own = backend.info.slots
        others = [(pool.warm - own * backend.warm, pool.slots - own) for pool in backend.pools]
        return 1 if others and all(slots and 2 * warm >= slots for warm, slots in others) else None

    def _forget_profile(self, name: str) -> None:
        profile, _ = self._remembered.pop(name)
        self.unclaimed.backends.pop(name, None)
        if profile.counts.label == name != OTHER:
            self._counts.backends.pop(name, None)

    def _tell(self, backend: Backend, *, there: bool) -> None:
        if self._watch is not None:
            self._watch(backend, there)

    def _index(self, backend: Backend, now: float) -> None:
        self.epoch += 1
        self.changes += 1
        for capability in backend.info.capabilities:
            if capability not in self._pools and self._everyone is None:
                pool = self._pools[capability] = make_pool(capability, self.settings)
                self.unclaimed.claim_reference(pool)
            if capability in self._seen or len(self._seen) < CAPABILITIES_SEEN:
                self._seen[capability] = now
        if backend.draining:
            return
        if self._everyone is not None:
            backend.join_pools((self._everyone,))
        else:
            backend.join_pools(tuple(self._pools[c] for c in dict.fromkeys(backend.info.capabilities)))
        self._reserve(backend)

    def _unindex(self, backend: Backend, now: float) -> None:
        self.epoch += 1
        self.changes += 1
        for capability in backend.info.capabilities:
            if capability in self._seen:
                self._seen[capability] = now
        pools = backend.pools
        backend.leave_pools()
        self._reserve(backend, pools)

    def _reserve(self, backend: Backend, pools: Iterable[Pool] | None = None) -> None:
        for pool in backend.pools if pools is None else pools:
            pool.reserved = share_of(self.settings.waiting.reserve, pool.places)
