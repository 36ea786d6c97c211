"""The broker: events in, actions out, time as an argument.

Rules:
- `handle`, `handle_all` and `on_timer` return every action in the order in which it is to be sent. They never wait,
  read no clock and draw no randomness but what was injected, so a list of (event, now) replays a run.
- `next_deadline` is the only thing the shell has to remember between two events.
- `check` asserts the invariants; tests and the simulator call it after every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any

from msgspec import UNSET

from router_daemon.core.actions import Action, Deliver, Piece
from router_daemon.core.backends import Backend
from router_daemon.core.changes import Outlay, Rooms
from router_daemon.core.choosing import Chooser
from router_daemon.core.chores import Changed, Chores, Housekeeping, Look
from router_daemon.core.clients import Clients
from router_daemon.core.counts import Counts
from router_daemon.core.decisions import Decisions
from router_daemon.core.dispatch import Dispatcher
from router_daemon.core.events import (
    Ack,
    Cancel,
    Drain,
    Event,
    Feedback,
    ForeignSend,
    Gone,
    Heartbeat,
    Inbound,
    Malformed,
    Nack,
    Part,
    Ping,
    Register,
    Request,
    Send,
    Undelivered,
    Unregister,
    Update,
)
from router_daemon.core.membership import Claim, Membership
from router_daemon.core.memory import Profiles, parts
from router_daemon.core.messages import Delivery, Message
from router_daemon.core.overrides import Overrides
from router_daemon.core.pools import Pool
from router_daemon.core.ranking import Policy
from router_daemon.core.registry import Registry
from router_daemon.core.routing import Routes, RouteSpec
from router_daemon.core.serving import Serving
from router_daemon.core.settings import Settings
from router_daemon.core.settle import Settler
from router_daemon.core.timers import Timers
from router_daemon.core.types import Peer, Side


class Broker:
    """The whole of the daemon's behaviour.

    Args:
        settings: validated.
        policy: how backends are scored and chosen, by the route `stable`.
        rng: breaks ties between backends that score the same.
        timer: seconds, to time decisions; a constant in the simulator.
        instance: prefix of every `message`, unique per process (at most 16 characters).
        first_delivery_id: larger than any id used before under the same sockets.
        routes: beside `stable`; those that `settings.rollout` names must be among them.
        fallback: the policy that decides where another one fails.
        make_policy: by name, for messages that ask for one; None, or where it returns None: there is none.
        decisions: what records them, where it is to do more than that; see `traces`.

    Attributes:
        faults: of ours, for the shell to log and clear: the kind of what was at hand, and what was raised.
    """

    def __init__(
        self,
        settings: Settings,
        policy: Policy,
        *,
        rng: Random,
        timer: Callable[[], float],
        instance: str,
        first_delivery_id: int = 1,
        routes: Sequence[RouteSpec] = (),
        fallback: Policy | None = None,
        make_policy: Callable[[str], Policy | None] | None = None,
        decisions: Decisions | None = None,
    ) -> None:
        self.settings, self.policy = settings, policy
        self.counts = Counts(settings.label_values)
        self.routes = Routes(settings, self.counts, rng, make_policy if settings.policy_override else None)
        self.registry = Registry(settings, self.counts, self.routes.watch)
        stable = RouteSpec(settings.rollout.stable, policy, settings.cache_ttl_s)
        self.routes.open(self.registry, (stable, *routes), fallback)
        self.rankings = self.routes.stable.rankings
        self.overrides = Overrides()
        self._timers = Timers()
        self._actions: list[Action] = []
        emit = self._actions.append
        self.decisions = decisions or Decisions(settings)
        chooser = Chooser(settings, self.registry, self.counts, timer)
        self.dispatcher = Dispatcher(
            settings, self.registry, chooser, self._timers, self.counts, emit, rng, first_delivery_id, self.decisions
        )
        self.serving = Serving(self.registry, self.dispatcher, self.counts)
        observer = self.routes.observer
        self._settler = Settler(self.registry.learning, self.dispatcher, self.serving, observer, self.counts, emit)
        self.members = Membership(
            settings, self.registry, self.dispatcher, self.serving, self._settler, self._timers, self.counts, emit
        )
        self._clients = Clients(
            settings, self.registry, self.dispatcher, self.routes, self.overrides, self.counts, emit, instance
        )
        self._chores = Chores(self.registry, self.routes, self.overrides, self._timers)
        rooms = self.registry, self.routes, self.dispatcher, self.serving, self._settler, self.members, self._clients
        self._rooms = Rooms(*rooms, self._chores)
        self.faults: list[tuple[str, Exception]] = []
        self._handlers: dict[type[Any], Callable[[Any, float], None]] = {
            Send: self._clients.send,
            ForeignSend: self._clients.send_foreign,
            Ack: self._ack,
            Nack: self._nack,
            Part: self._part,
            Cancel: self._clients.cancel,
            Feedback: self._clients.feedback,
            Ping: self._clients.ping,
            Register: self.members.register,
            Update: self._member(self.members.update),
            Heartbeat: self._member(self.members.heartbeat),
            Drain: self._member(self.members.drain),
            Unregister: self._member(self.members.unregister),
            Malformed: self._malformed,
            Gone: self._gone,
            Undelivered: self._undelivered,
        }
        self._due = self._what_may_be_due()

    def _what_may_be_due(self) -> dict[type[Any], Callable[[Any, float], None]]:
        return {
            Message: self._settler.message_due,
            Delivery: self._delivery_due,
            Backend: self.members.backend_due,
            Claim: self.members.claim_due,
            Pool: self.serving.serve_held,
            Housekeeping: self._chores.keep_house,
            Look: self._chores.look,
            Changed: self._rooms.serve_all,
        }

    # --- what the shell calls ---

    def start(self, now: float) -> None:
        """Schedule what recurs."""
        self._chores.start(now)

    def configure(self, settings: Settings, outlay: Outlay, now: float) -> None:
        """Take over other settings and routes while messages are open; see `changes`.

        Raises:
            ValueError: a setting differs that cannot change, or a route is missing; nothing has changed.
        """
        self._rooms.configure(settings, outlay, now)
        self.settings, self.policy, self.rankings = settings, outlay.routes[0].policy, self.routes.stable.rankings

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in one event and return what is to be sent."""
        self._handlers[type(event)](event, now)
        actions = self._actions.copy()  # `_take`, without the call
        self._actions.clear()
        return actions

    def handle_all(self, events: Iterable[Event], now: float) -> list[Action]:
        """Take in a batch, as `handle` does one; a fault ends the SEND that met it and does not stop the others."""
        handlers, actions = self._handlers, self._actions
        for event in events:
            before = len(actions)
            try:
                handlers[type(event)](event, now)
            except Exception as fault:  # noqa: BLE001 - kept for the shell to log; `check` fails for it
                self.counts.faults += 1
                self.faults.append((type(event).__name__, fault))
                if isinstance(event, Send):
                    self._clients.abandon(event, actions[before:], now)
        return self._take()

    def on_timer(self, now: float) -> list[Action]:
        """Do whatever is due and return what is to be sent; a fault in one thing due does not stop the others."""
        self._forgive_a_pause(now)
        for item in self._timers.pop_due(now):
            try:
                self._due[type(item)](item, now)
            except Exception as fault:  # noqa: BLE001 - kept for the shell to log; `check` fails for it
                self.counts.faults += 1
                self.faults.append((type(item).__name__, fault))
                if isinstance(item, Message) and not item.ended:
                    self._clients.give_up(item, now)
        return self._take()

    def next_deadline(self) -> float | None:
        """Return when `on_timer` has something to do next; None while nothing is scheduled."""
        return self._timers.next_due()

    def export_profiles(self, now: float) -> Profiles:
        """Return what was measured, to be kept over a restart; see `memory`."""
        profiles = Profiles({}, {})
        for part in self.export_parts(now):
            profiles.backends.update(part.backends)
            profiles.capabilities.update(part.capabilities)
        return profiles

    def export_parts(self, now: float, size: int = 256) -> Iterator[Profiles]:
        """Yield the same, `size` backends at a time; the broker may go on between two parts."""
        return parts(self.registry, now, size)

    def restore_profiles(self, profiles: Profiles, now: float) -> None:
        """Take in what an earlier process has exported; backends that register under those names begin with it."""
        self.registry.restore(profiles, now)

    def probe(self, request: Request, now: float) -> tuple[Message, tuple[str, str] | None]:
        """Return the message that a SEND would be, for people to look at, and what it would be refused for."""
        return self._clients.probe(request, now)

    def start_drain(self) -> None:
        """Refuse new SENDs from now on; what is open goes on."""
        self._clients.draining = True

    def stop(self, now: float) -> list[Action]:
        """End every open message with `draining` and say BYE to every backend."""
        self.start_drain()
        for message in list(self.dispatcher.messages):
            message.reason = "the daemon exits"
            self.dispatcher.fail(message, "draining", now)
        self.members.stop(now)
        return self._take()

    def _forgive_a_pause(self, now: float) -> None:
        """Take the time in which this process stood still off every backend's silence: it may have spoken."""
        due = self._timers.next_due()
        if due is not None and now - due > self.settings.heartbeat_s:
            for backend in self.registry.by_name.values():
                backend.last_seen = min(now, backend.last_seen + now - due)

    def take_news(self) -> list[tuple[str, str]]:
        """Return who joined, left or was lost since the last call: (what, backend's name)."""
        news = self.members.news.copy()
        self.members.news.clear()
        return news

    @property
    def draining(self) -> bool:
        """New SENDs are refused."""
        return self._clients.draining

    @property
    def open_messages(self) -> int:
        """How many messages have not had their last answer."""
        return len(self.dispatcher.messages)

    def check(self) -> None:
        """Assert the invariants between all tables."""
        self.registry.check()
        self.dispatcher.waiting.check()
        self.decisions.shelf.check()
        assert not self._actions
        assert not self.faults, self.faults
        for message in self.dispatcher.messages:
            message.check()
        self._clients.check()
        for backend in self.registry.by_name.values():
            assert backend.bucket is not None
            assert all(d.open and d.backend is backend and d.id == key for key, d in backend.open.items())
            assert all(not d.out or not d.message.ended for d in backend.open.values())
            assert all(d.bucket is not None for d in backend.open.values() if d.message.ended)

    def _take(self) -> list[Action]:
        actions = self._actions.copy()
        self._actions.clear()
        return actions

    # --- backends ---

    def _ack(self, event: Ack, now: float) -> None:
        backend = self.registry.by_peer.get(event.peer)
        if backend is None:
            self._not_registered(event)
            return
        backend.last_seen = now
        header = event.header
        delivery = backend.open.get(header.id)
        if header.queue is not UNSET:
            backend.report(header.queue, besides=0 if delivery is None else 1)
        if delivery is None:
            self.counts.stray_answers["unknown"] += 1
            return
        dearer = header.cost is not UNSET and self.registry.note_cost(backend, header.cost)
        if header.quality is not UNSET:
            delivery.message.route.rate(header.quality)
        self._settler.acked(delivery, event.body, now)
        if dearer and self.dispatcher.waiting.size:
            self.serving.serve_dearer(backend, now)
        if backend.draining:
            self.members.end_drain(backend, now)

    def _nack(self, event: Nack, now: float) -> None:
        self._answered(event, now, lambda delivery: self._settler.nacked(delivery, event.header, now))

    def _part(self, event: Part, now: float) -> None:
        self._answered(event, now, lambda delivery: self._settler.part(delivery, event.body, now))

    def _answered(self, event: Nack | Part, now: float, settle: Callable[[Delivery], None]) -> None:
        backend = self.registry.by_peer.get(event.peer)
        if backend is None:
            self._not_registered(event)
            return
        backend.last_seen = now
        delivery = backend.open.get(event.header.id)
        if delivery is None:
            self.counts.stray_answers["unknown"] += 1
            return
        settle(delivery)
        self.members.end_drain(backend, now)

    def _member(self, act: Callable[[Backend, Any, float], None]) -> Callable[[Any, float], None]:
        """Return a handler for a command that only a registered backend may send."""

        def handle(event: Inbound, now: float) -> None:
            backend = self.registry.by_peer.get(event.peer)
            if backend is None:
                self._not_registered(event)
            else:
                backend.last_seen = now
                act(backend, event, now)

        return handle

    def _not_registered(self, event: Inbound | Malformed) -> None:
        self.members.error(event.peer, event.delimited, "not_registered", "REGISTER first")

    def _find(self, peer: Peer, delivery_id: int) -> Delivery | None:
        """Return an open delivery by the connection it was sent over, which its backend may have left since."""
        backend = self.registry.by_peer.get(peer)
        if backend is not None and delivery_id in backend.open:
            return backend.open[delivery_id]
        return next(filter(None, (other.open.get(delivery_id) for other in self.registry.by_name.values())), None)

    def _delivery_due(self, delivery: Delivery, now: float) -> None:
        self._settler.delivery_due(delivery, now)
        self.members.end_drain(delivery.backend, now)

    # --- faults of peers, news of the transport ---

    def _malformed(self, event: Malformed, now: float) -> None:
        if event.side is Side.CLIENT:
            self._clients.malformed(event)
            return
        backend = self.registry.by_peer.get(event.peer)
        if backend is None:
            if event.verb == "REGISTER":
                self.members.error(event.peer, event.delimited, event.code, event.detail)
            else:
                self._not_registered(event)
            return
        delivery = backend.open.get(event.id) if event.id is not None else None
        self.members.error(
            event.peer, event.delimited, event.code, event.detail, None if delivery is None else delivery.id
        )
        if delivery is not None:
            self._settler.malformed(delivery, event.code, now)
            self.members.end_drain(backend, now)

    def _gone(self, event: Gone, now: float) -> None:
        if event.side is Side.BACKEND:
            self.members.gone(event.peer, now)
            return
        self._clients.gone(event.peer, now)

    def _undelivered(self, event: Undelivered, now: float) -> None:
        action = event.action
        if isinstance(action, Deliver):
            delivery = self._find(action.peer, action.header.id)
            if delivery is not None:
                backend = delivery.backend
                if not event.full and backend.peer == action.peer:
                    self.members.unreachable(backend, now)
                self._settler.undelivered(delivery, now, full=event.full)
                self.members.end_drain(backend, now)
        elif action.side is Side.CLIENT:
            self.counts.lost_answers["unread" if event.full else "gone"] += 1
            if isinstance(action, Piece) and event.full:
                self._clients.piece_lost(action, now)
