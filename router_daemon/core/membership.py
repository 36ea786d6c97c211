"""Backends come, change, fall silent and leave.

Rules:
- A name belongs to one connection. Another connection gets it at once with the same `session` (the registration moves,
  open deliveries stay), or where the holder's connection is gone; else it waits `CLAIM_S`, in which news of a
  connection just closed may still arrive, and is then told `name_taken`.
- A backend whose connection is gone is lost at once where it gave no session (nobody could answer for it any more),
  else after three silent heartbeats like any other: until then it may come back with its session.
- Who is drained by a person (`drains`) is a backend like any other, but in no capability: it gets nothing new, and no
  BYE.
- Whatever makes room (join, update, end of a pause, a move) serves the waiting room; whatever removes the last
  backend for somebody who waits fails him at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from msgspec import UNSET, Struct

from router_daemon.core.actions import (
    Action,
    BackendError,
    Bye,
    ErrorHeader,
    HeartbeatReply,
    Registered,
    RegisteredHeader,
)
from router_daemon.core.backends import Backend
from router_daemon.core.chores import Changed
from router_daemon.core.counts import Counts
from router_daemon.core.dispatch import Dispatcher
from router_daemon.core.events import Drain, EmptyHeader, Heartbeat, Register, Registration, Unregister, Update
from router_daemon.core.places import LOST_AFTER_HEARTBEATS
from router_daemon.core.pools import Pool
from router_daemon.core.registry import Registry
from router_daemon.core.serving import Serving
from router_daemon.core.settings import Settings
from router_daemon.core.settle import Settler
from router_daemon.core.timers import Timers
from router_daemon.core.types import Peer, RingPeer
from router_daemon.errors import RETRY

CLAIM_S: Final = 0.1
LEFT: Final = "left"


class Claim(Struct, eq=False):
    """A REGISTER for a name that another connection holds."""

    event: Register
    bucket: dict[Any, None] | None = None


class Membership:
    """The registration side of the broker; `news` is for the shell to log and to clear: (what, backend's name)."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        dispatcher: Dispatcher,
        serving: Serving,
        settler: Settler,
        timers: Timers,
        counts: Counts,
        emit: Callable[[Action], None],
    ) -> None:
        self._counts = counts
        self.configure(settings)
        self._registry = registry
        self._dispatcher = dispatcher
        self._serving = serving
        self._settler = settler
        self._timers = timers
        self._emit = emit
        self._claims: dict[str, Claim] = {}
        self.news = registry.news

    def configure(self, settings: Settings) -> None:
        """Take over other settings; who is registered stays."""
        self._settings = settings

    # --- commands ---

    def register(self, event: Register, now: float) -> None:
        """REGISTER: a new name, the same again, one whose holder may be replaced, or a claim."""
        info = event.header
        own = self._registry.by_peer.get(event.peer)
        holder = self._registry.by_name.get(info.name)
        if own is not None and own.name != info.name:
            self.error(event.peer, event.delimited, "bad_header", f"this connection is registered as {own.name!r}")
        elif holder is None:
            self._join(event, now)
        elif holder is own:
            holder.delimited = event.delimited
            self._replace(holder, info, now)
        elif info.session is not UNSET and info.session == holder.info.session:
            self._withdraw(event.peer, (info.name,))
            self._registry.move(holder, event.peer, event.delimited)
            holder.connected = True
            self._replace(holder, info, now)
        elif not holder.connected:
            self.leave(holder, now, why="lost: its connection is gone")
            self.register(event, now)  # again, as leaving may have granted another's claim
        else:
            self._claim(event, now)

    def update(self, backend: Backend, event: Update, now: float) -> None:
        """UPDATE: open deliveries go on; new and waiting messages see the new values."""
        pools = backend.pools
        self._registry.revise(backend, event.header, now)
        self._welcome(backend, pools, now)

    def heartbeat(self, backend: Backend, event: Heartbeat, now: float) -> None:  # noqa: ARG002 - one shape for all
        """HEARTBEAT: answered by one."""
        if event.header.queue is not UNSET:
            backend.report(event.header.queue)
        elif backend.other:
            backend.report(
                len(backend.open)
            )  # who got nothing more for what it once told would never tell anything else
        self._emit(HeartbeatReply(backend.peer, backend.delimited, EmptyHeader()))

    def drain(self, backend: Backend, event: Drain, now: float) -> None:  # noqa: ARG002
        """DRAIN: nothing new, and BYE once nothing is open."""
        if not backend.leaving:
            pools = backend.pools
            self._registry.drain(backend, now)
            let_in = self._dispatcher.health.let_in_where_needed(now)
            self._serving.give_up_hopeless(now)
            self._serving.serve_others((*pools, *let_in), now)
        self.end_drain(backend, now)

    def unregister(self, backend: Backend, event: Unregister, now: float) -> None:  # noqa: ARG002
        """UNREGISTER: leave now; what is open counts as lost."""
        self.bye(backend)
        self.leave(backend, now)

    # --- what a person says ---

    def set_drained(self, name: str, drained: bool, now: float) -> bool:
        """Give whoever has the name nothing new, or end that, and tell whether it is new.

        Who waits is looked at with what is due next: here, nothing can be sent.

        Raises:
            ValueError: too many names are drained.
        """
        drains, backend = self._registry.drains, self._registry.by_name.get(name)
        if not (drains.set(name, now) if drained else drains.clear(name)):
            return False
        self.news.append(("backend drained by a person" if drained else "backend undrained by a person", name))
        if backend is not None:
            self._registry.set_drained(backend, drained, now)
            self._dispatcher.health.let_in_where_needed(now)
            self._dispatcher.health.due(backend, now)  # resting dropped its trial
        self._timers.schedule(Changed(), now, now)
        return True

    def restore_drains(self, kept: Mapping[str, float], now: float) -> None:
        """Take in what an earlier process had: who was drained, and for how long (seconds)."""
        for name, for_s in kept.items():
            if self.set_drained(name, True, now):
                self.news.pop()  # it was told when it was done
            self._registry.drains.since[name] = now - for_s

    # --- what happens to backends ---

    def end_drain(self, backend: Backend, now: float) -> None:
        """Say BYE to a draining backend once its last delivery is settled."""
        if backend.leaving and not backend.open:
            self.bye(backend)
            self.leave(backend, now)

    def bye(self, backend: Backend) -> None:
        """Tell a backend that it is not registered any more."""
        self._emit(Bye(backend.peer, backend.delimited, EmptyHeader()))

    def leave(self, backend: Backend, now: float, *, why: str = LEFT) -> None:
        """Take a backend out; what is open there goes to other heads; a claim for its name is granted."""
        self.news.append((f"backend {why}", backend.name))
        if why != LEFT and not isinstance(backend.peer, RingPeer):  # of those, their own daemon knows it
            backend.profile.counts.losses += 1
        self._timers.cancel(backend)
        pools = backend.pools
        self._registry.remove(backend, now)
        let_in = self._dispatcher.health.let_in_where_needed(now)
        self._settler.lose(backend, now)
        self._serving.serve_others((*pools, *let_in), now)
        claim = self._claims.pop(backend.name, None)
        if claim is not None:
            self._timers.cancel(claim)
            self.register(claim.event, now)

    def stop(self, now: float) -> None:
        """Say BYE to all; nobody gets a name any more."""
        for claim in self._claims.values():
            self._timers.cancel(claim)
        self._claims.clear()
        for backend in list(self._registry.by_name.values()):
            self.bye(backend)
            self.leave(backend, now)

    def gone(self, peer: Peer, now: float) -> None:
        """The connection cannot be reached any more."""
        self._withdraw(peer, list(self._claims))
        backend = self._registry.by_peer.get(peer)
        if backend is None:
            return
        self.unreachable(backend, now)
        if backend.info.session is UNSET or backend.name in self._claims:
            self.leave(backend, now, why="lost: its connection is gone")

    def unreachable(self, backend: Backend, now: float) -> None:
        """Send nothing to a backend until it comes back over another connection."""
        backend.connected = False
        backend.refresh(now)

    def backend_due(self, backend: Backend, now: float) -> None:
        """Look at a backend whose silence may have become too long, or whose pause ends."""
        if now >= backend.last_seen + LOST_AFTER_HEARTBEATS * self._settings.heartbeat_s:
            self.leave(backend, now, why="lost: silent for three heartbeats")
            return
        backend.refresh(now)
        self._dispatcher.health.due(backend, now)
        self._dispatcher.places.watch(backend, now)
        self._serving.serve(backend, now)

    def claim_due(self, claim: Claim, now: float) -> None:  # noqa: ARG002
        """Nothing has freed the name in time."""
        del self._claims[claim.event.header.name]
        self._taken(claim.event)

    def error(self, peer: Peer, delimited: bool, code: str, detail: str, delivery_id: int | None = None) -> None:
        """Answer a backend's fault."""
        self._counts.protocol_errors[code] += 1
        header = ErrorHeader(delivery_id, code, detail, retry=RETRY[code])
        self._emit(BackendError(peer, delimited, header))

    # --- registering ---

    def _join(self, event: Register, now: float) -> None:
        if len(self._registry.by_name) >= self._settings.backends:
            detail = f"{self._settings.backends} backends are registered, and no more are allowed"
            self.error(event.peer, event.delimited, "overloaded", detail)
            return
        self.news.append(("backend joined", event.header.name))
        self._welcome(self._registry.add(event.peer, event.delimited, event.header, now), (), now)

    def _replace(self, backend: Backend, info: Registration, now: float) -> None:
        pools = backend.pools
        self._registry.replace(backend, info, now)
        self._welcome(backend, pools, now)

    def _welcome(self, backend: Backend, pools: Iterable[Pool], now: float) -> None:
        """Give a backend, and what it was a member of before, to those who wait."""
        header = RegisteredHeader(backend.name, round(self._settings.heartbeat_s * 1000))
        self._emit(Registered(backend.peer, backend.delimited, header))
        backend.last_seen = now
        let_in = self._dispatcher.health.let_in_where_needed(now)
        self._dispatcher.health.due(backend, now)  # joining again dropped its trial, and the watch begins anew
        self._dispatcher.places.watch(backend, now)
        self._serving.give_up_hopeless(now)
        self._serving.serve(backend, now)
        self._serving.serve_others((*pools, *let_in), now)

    def _claim(self, event: Register, now: float) -> None:
        earlier = self._claims.get(event.header.name)
        if earlier is not None:
            self._timers.cancel(earlier)
            if earlier.event.peer != event.peer:
                self._taken(earlier.event)
        claim = self._claims[event.header.name] = Claim(event)
        self._timers.schedule(claim, now + CLAIM_S, now)

    def _withdraw(self, peer: Peer, names: Iterable[str]) -> None:
        """Forget a connection's claims for these names: it has the name, or nobody could use it."""
        for name in names:
            claim = self._claims.get(name)
            if claim is not None and claim.event.peer == peer:
                self._timers.cancel(claim)
                del self._claims[name]

    def _taken(self, event: Register) -> None:
        detail = f"{event.header.name!r} is registered over another connection"
        self.error(event.peer, event.delimited, "name_taken", detail)
