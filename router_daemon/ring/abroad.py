"""The backends of other daemons, as registrations of the local broker under `daemon/name`.

Rules:
- Who can be reached and has told a whole roster has its backends registered here; who cannot be reached any more has
  lost them at once, and what is open there goes to other heads.
- What their daemon tells of them (PROFILES) comes as heartbeats, with their queue: while it can be reached they are not
  silent, and what others have them do is known.
- A name that a backend of our own holds stays with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET

from router_daemon.core.backends import Backend
from router_daemon.core.distant import set_way, take_over
from router_daemon.core.events import (
    Drain,
    EmptyHeader,
    Gone,
    Heartbeat,
    HeartbeatHeader,
    Register,
    Registration,
)
from router_daemon.core.registry import Registry
from router_daemon.core.types import Peer, RingPeer, Side
from router_daemon.ring.messages import Listed, Report
from router_daemon.ring.topology import Way


@dataclass(slots=True, eq=False)
class Remote:
    """One backend of another daemon; `queue`: as last told."""

    daemon: str
    name: str
    peer: RingPeer
    listed: Listed
    queue: int = 0


class Abroad:
    """Keeps the registrations of others' backends; `feed` takes what the broker is to hear.

    Attributes:
        by_daemon: the backends of each daemon that can be reached, by name. by_peer: all of them.
    """

    def __init__(self, registry: Registry, prefix: bytes, feed: Callable[[Any], None]) -> None:
        self._registry = registry
        self._prefix = prefix
        self._feed = feed
        self._registered = False
        self.by_daemon: dict[str, dict[str, Remote]] = {}
        self.by_peer: dict[Peer, Remote] = {}

    def list(self, daemon: str, roster: Mapping[str, Listed]) -> bool:
        """Have just these backends of a daemon registered; tell whether the broker has to hear of any."""
        mine = self.by_daemon.setdefault(daemon, {})
        self._registered = False
        for name in mine.keys() - roster.keys():
            self._drop(mine[name])
        for name, listed in roster.items():
            remote = mine.get(name)
            if remote is None:
                peer = RingPeer(self._prefix + f"{daemon}/{name}".encode())
                remote = mine[name] = self.by_peer[peer] = Remote(daemon, name, peer, listed)
                self._join(remote, listed)
            else:
                self._change(remote, listed)
        return self._registered

    def drop(self, daemon: str) -> None:
        """A daemon cannot be reached: its backends are not there."""
        for remote in list(self.by_daemon.get(daemon, {}).values()):
            self._drop(remote)
        self.by_daemon.pop(daemon, None)

    def set_way(self, daemon: str, way: Way) -> None:
        """Note what it takes to get to a daemon and back."""
        for remote in self.by_daemon.get(daemon, {}).values():
            backend = self.backend(remote)
            if backend is not None:
                set_way(backend, way.round_trip_s, way.hops, self._registry)

    def report(self, daemon: str, reports: Mapping[str, Report], now: float) -> None:
        """Take in what a daemon tells of its backends."""
        mine = self.by_daemon.get(daemon, {})
        for name, report in reports.items():
            remote = mine.get(name)
            backend = None if remote is None else self.backend(remote)
            if remote is None or backend is None:
                continue
            remote.queue = report.queue
            cost = None if report.cost is UNSET else report.cost
            take_over(backend, report.success, cost, report.services, self._registry, now)
            if backend.connected != report.up:
                backend.connected = report.up
                backend.refresh(now)
                if report.up and not backend.draining:  # who waits for it is served as at any registration
                    self._join(remote, remote.listed)
            self._beat(remote)

    def beat(self) -> None:
        """Say for all of them that they are there."""
        for remote in self.by_peer.values():
            self._beat(remote)

    def backend(self, remote: Remote) -> Backend | None:
        """Return what the broker has of a backend; None where it has not taken it, or it has left."""
        return self._registry.by_peer.get(remote.peer)

    def _beat(self, remote: Remote) -> None:
        if remote.peer in self._registry.by_peer:
            self._feed(Heartbeat(remote.peer, False, HeartbeatHeader(remote.queue)))

    def _join(self, remote: Remote, listed: Listed) -> None:
        remote.listed = listed
        if not listed.draining:
            self._registered = True
            self._feed(Register(remote.peer, False, registration(remote.daemon, listed)))

    def _change(self, remote: Remote, listed: Listed) -> None:
        """Bring a registration up to date, where anything is different from what the broker has."""
        backend = self.backend(remote)
        if backend is None:
            self._join(remote, listed)
        elif listed.draining:
            remote.listed = listed
            if not backend.leaving:
                self._feed(Drain(remote.peer, False, EmptyHeader()))
        elif backend.leaving or listed != remote.listed:
            self._join(remote, listed)

    def _drop(self, remote: Remote) -> None:
        del self.by_daemon[remote.daemon][remote.name]
        del self.by_peer[remote.peer]
        self._feed(Gone(Side.BACKEND, remote.peer))


def registration(daemon: str, listed: Listed) -> Registration:
    """Return what a backend of another daemon registers here."""
    return Registration(
        f"{daemon}/{listed.name}",
        listed.capabilities,
        listed.slots,
        listed.prefetch,
        embedding=listed.embedding,
        cost=listed.cost,
        zone=listed.zone,
        group=listed.group,
        resources=listed.resources,
        version=listed.version,
    )


def listing(backend: Backend, *, draining: bool) -> Listed:
    """Return what is told of a backend of our own."""
    info = backend.info
    return Listed(
        info.name,
        info.capabilities,
        info.slots,
        info.prefetch,
        embedding=info.embedding,
        cost=info.cost,
        zone=info.zone,
        group=info.group,
        resources=info.resources,
        version=info.version,
        draining=draining or backend.draining,
    )
