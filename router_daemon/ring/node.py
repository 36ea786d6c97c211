"""A broker in a ring: the same calls as the broker's, towards the loop; see the package.

Rules:
- What the ring says to the broker it says as a peer would: a backend of another daemon is a registration, a delivery of
  another daemon a SEND, and what the broker says to such peers becomes messages on links.
- A message for another daemon goes to the next hop as the topology is now. One that comes back to a daemon that it has
  left, that has used up its hops, or that has no next hop goes no further: a FORWARD's origin is told (`unreachable`).
- One timer for everything: `next_deadline`. What recurs is a few moments, not one for each message.
- A fault in handling one thing is noted (`faults`) and does not stop the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, Final

from router_daemon.core.actions import CancelDelivery, Deliver, Error, Piece, Reply
from router_daemon.core.broker import Broker
from router_daemon.core.events import Gone, Malformed, Undelivered
from router_daemon.core.types import RingPeer, Side
from router_daemon.ring import messages
from router_daemon.ring.abroad import Abroad
from router_daemon.ring.counts import RingCounts
from router_daemon.ring.floods import Floods
from router_daemon.ring.home import Home
from router_daemon.ring.links import Links
from router_daemon.ring.messages import Ask, ByeHeader, Forward, Result, ResultHeader, RingBye, RingCancel, Routed
from router_daemon.ring.outbound import Outbound
from router_daemon.ring.reach import Reach
from router_daemon.ring.relay import Relay
from router_daemon.ring.settings import RingSettings
from router_daemon.ring.stops import Stops
from router_daemon.ring.telling import Telling
from router_daemon.ring.topology import Topology

LINKS_APART_S: Final = 0.02
"""Changes of links within so short a time are told together: one that flaps must not flood the ring."""


class Node:
    """A daemon of a ring.

    Args:
        broker: this daemon's.
        settings: validated.
        instance: larger than that of any earlier process of the same name; microseconds since 1970, say.
        secret: what no peer can guess, part of the names under which the broker knows the ring's peers.
        version: of the program, for people.

    Attributes:
        counts, links, floods, topology, reach, abroad, outbound, home: its parts, for people to look at.
        routes, overrides: the broker's.
        faults: of ours, for the shell to log and clear: the kind of what was at hand, and what was raised.
    """

    def __init__(
        self, broker: Broker, settings: RingSettings, *, instance: int, secret: bytes = b"", version: str = ""
    ) -> None:
        self.broker, self.routes, self.overrides = broker, broker.routes, broker.overrides
        self.settings = settings
        self.instance = instance
        self.counts = RingCounts()
        self._out: list[Any] = []
        self._feed: deque[Any] = deque()
        feed, registry, stops = self._feed.append, broker.registry, Stops(broker.routes)
        prefix = b"ring/" + secret + b"/" if secret else b"ring/"
        links = self.links = Links(settings, instance, version, self.counts, self._out.append)
        self.floods = Floods(settings, self.counts)
        self.topology = Topology(settings.name)
        self.abroad = Abroad(registry, prefix, feed)
        self.relay = Relay(
            settings, self.links, self.topology, self.counts, self._out.append, self._arrived, self._stuck
        )
        self.outbound = Outbound(settings, instance, self.abroad, self.counts, self.relay.send, feed)
        self.home = Home(settings, instance, registry, prefix, self.counts, self.relay.send, feed)
        self._telling = Telling(settings, instance, registry, self.home, links, stops, self.counts, self._out.append)
        self.reach = Reach(
            instance,
            self.floods,
            self.topology,
            self.abroad,
            self.outbound,
            self.home,
            pass_on=self._telling.flood,
            link_lost=self._link_lost,
            hear_stops=stops.hear,
        )
        self._now = 0.0
        self._told_at = -inf
        self._stopped = False
        self._changes = registry.changes
        self._due: dict[str, float] = {}
        self._due_at = inf
        self._jobs: dict[str, Callable[[Any, float], None]] = {
            "echo": self._echo,
            "links": self._tell_links,
            "roster": self._tell_roster,
            "profiles": self._tell_profiles,
            "beat": self._beat,
            "ask": self._ask,
            "ask all": lambda _, now: self.outbound.ask(0.0, now),
            "refresh": self._refresh,
        }
        relayed = links.greeted(lambda message, _: self.relay.take(message))
        self._handlers: dict[type[Any], Callable[[Any, float], None]] = {
            messages.Opened: links.opened,
            messages.Hello: links.hello,
            messages.RingError: lambda message, _: links.error(message),
            messages.RingBye: lambda message, _: links.bye(message),
            messages.Echo: links.greeted(lambda message, _: links.echo(message)),
            messages.Echoed: links.greeted(links.echoed),
            messages.Links: links.greeted(self.reach.hear_links),
            messages.Roster: links.greeted(self.reach.hear_roster),
            messages.Profiles: links.greeted(self.reach.hear_profiles),
            **dict.fromkeys((Forward, Result, RingCancel, Ask), relayed),
            Gone: self._gone,
            Malformed: self._malformed,
            Undelivered: self._undelivered,
        }
        self._kinds = frozenset(self._handlers)

    # --- what the shell calls ---

    def handle(self, event: Any, now: float) -> list[Any]:
        """Take in one event and return what is to be sent."""
        return self.handle_all((event,), now)

    def handle_all(self, events: Iterable[Any], now: float) -> list[Any]:
        """Take in a batch, in order, and return what is to be sent; see `Broker.handle_all`."""
        self._now = now
        events = list(events)
        if self._kinds.isdisjoint(map(type, events)):  # nothing of the ring, nothing that ends a connection
            self._sort(self.broker.handle_all(events, now))
        else:
            for event in events:
                handler = self._handlers.get(type(event))
                if handler is None:
                    self._sort(self.broker.handle_all((event,), now))
                else:
                    self._try(type(event).__name__, handler, event)
        return self._settle()

    def on_timer(self, now: float) -> list[Any]:
        """Do whatever is due and return what is to be sent."""
        self._now = now
        broker_due = self.broker.next_deadline()
        if broker_due is not None and broker_due <= now:
            self._sort(self.broker.on_timer(now))
        if self._due_at <= now:
            for job in [job for job, due in self._due.items() if due <= now]:
                del self._due[job]
                self._try(job, self._jobs[job], None)
            self._due_at = min(self._due.values(), default=inf)
        return self._settle()

    def next_deadline(self) -> float | None:
        """Return when `on_timer` has something to do next; None while nothing is scheduled."""
        due = self.broker.next_deadline()
        if self._due_at == inf:
            return due
        return self._due_at if due is None or self._due_at < due else due

    def start(self, now: float) -> None:
        """Schedule what recurs."""
        self.broker.start(now)
        for job in ("echo", "links", "roster", "profiles", "beat", "ask", "refresh"):
            self._plan(job, now)

    def start_drain(self) -> None:
        """Refuse new SENDs from now on, of clients and of other daemons; what is open goes on."""
        self.broker.start_drain()
        self._plan("roster", self._now)

    def stop(self, now: float) -> list[Any]:
        """End every open message with `draining`, and say BYE to every backend and every neighbour."""
        self._now = now
        self.home.close()
        self._sort(self.broker.stop(now))
        actions = self._settle()
        self._stopped = True
        self._due.clear()
        self._due_at = inf
        actions += [RingBye(link.peer, ByeHeader()) for link in self.links.by_peer.values() if link.greeted]
        return actions

    def take_news(self) -> list[tuple[str, str]]:
        """Return what happened since the last call: (what, name of a backend or of a daemon)."""
        news = self.broker.take_news() + self.links.news + self.reach.news
        self.links.news.clear()
        self.reach.news.clear()
        return news

    @property
    def faults(self) -> list[tuple[str, Exception]]:
        """Faults of ours: the broker's list."""
        return self.broker.faults

    @property
    def draining(self) -> bool:
        """New SENDs are refused."""
        return self.broker.draining

    @property
    def open_messages(self) -> int:
        """How many messages, of clients and of other daemons, have not had their last answer."""
        return self.broker.open_messages

    def check(self) -> None:
        """Assert the invariants, those of the broker too."""
        self.broker.check()
        assert not self._out
        assert not self._feed
        assert self.settings.name not in self.topology.ways
        assert self.abroad.by_daemon.keys() <= self.topology.ways.keys(), "a backend that cannot be reached"
        assert self.reach.names.keys() == self.topology.ways.keys()
        clients = self.broker.dispatcher.messages
        held = {(m.client.peer, m.request.id) for m in clients if m.client.trusted}
        self.home.check(lambda peer, number: (peer, number) in held)
        assert len(held) == sum(len(guest.open) for guest in self.home.guests.values())
        if not self._stopped:
            self.outbound.check()

    # --- one step ---

    def _try(self, what: str, act: Callable[[Any, float], None], argument: Any) -> None:
        try:
            act(argument, self._now)
        except Exception as fault:  # noqa: BLE001 - kept for the shell to log; `check` fails for it
            self.broker.counts.faults += 1
            self.faults.append((what, fault))
        self._follow()

    def _follow(self) -> None:
        """Let the broker hear what has come of the last thing, until nothing more comes of it."""
        while True:
            self._look_at_links()
            self.reach.update(self._now)
            if self._feed:
                self._sort(self.broker.handle_all((self._feed.popleft(),), self._now))
            elif self.reach.joined:
                self.reach.acquaint(self._now)
            else:
                return

    def _settle(self) -> list[Any]:
        self._follow()
        changes = self.broker.registry.changes
        if changes != self._changes:
            self._changes = changes
            self._plan("roster", self._now + self.settings.roster_s)
        actions = self._out.copy()
        self._out.clear()
        return actions

    def _sort(self, actions: list[Any]) -> None:
        """Pass on what goes to connections; what goes to the ring's peers goes to whom they stand for."""
        out = self._out
        for action in actions:
            if type(action.peer) is not RingPeer:
                out.append(action)
            elif isinstance(action, Deliver):
                self._deliver(action)
            elif isinstance(action, CancelDelivery):
                self.outbound.cancel(action.header.id)
            elif isinstance(action, Reply | Piece | Error):
                self.home.answer(action, self._now)

    def _plan(self, job: str, at: float) -> None:
        at = min(at, self._due.get(job, inf))
        self._due[job] = at
        self._due_at = min(self._due_at, at)

    # --- messages for other daemons, and for us ---

    def _deliver(self, action: Deliver) -> None:
        """Send a delivery of our broker to a backend of another daemon."""
        remote = self.abroad.by_peer.get(action.peer)
        if remote is None:  # the broker is about to hear that it is gone: it must first hear that this never left
            self._feed.appendleft(Undelivered(action, full=False))
            self.counts.forwarded += 1
            self.counts.results["unreachable"] += 1
            return
        daemon = remote.daemon
        self.outbound.deliver(action, self.floods.known[daemon].instance, self._one_way_s(daemon), self._now)

    def _one_way_s(self, daemon: str) -> float:
        way = self.topology.ways.get(daemon)
        return 0.0 if way is None else way.one_way_s

    def _arrived(self, message: Routed) -> None:
        if isinstance(message, Forward):
            self.home.forward(message, self._now)
        elif isinstance(message, Result):
            self.outbound.result(message, self._one_way_s(message.header.home), self._now)
        elif isinstance(message, RingCancel):
            self.home.cancel(message, self._now)
        else:
            self.home.ask(message)

    def _stuck(self, message: Routed, *, full: bool = True) -> None:
        """A message can go no further: a FORWARD's origin is told, of the others the origin asks again."""
        self.counts.undeliverable[message.verb.decode()] += 1
        if not isinstance(message, Forward):
            return
        header, me = message.header, self.settings.name
        if header.origin == me:
            self.outbound.undelivered(message, full=full)
            return
        answer = ResultHeader(header.origin, header.instance, header.id, me, "nack", 0, [], code="unreachable")
        self.relay.send(Result(b"", answer))

    # --- who can be reached ---

    def _look_at_links(self) -> None:
        """Take in what has become of our own links."""
        if self.links.changed:
            self.links.changed = False
            self.reach.stale |= self.topology.report(self.settings.name, self.links.told())
            self._plan("links", max(self._now, self._told_at + LINKS_APART_S))
        for link in self.links.fresh:
            self._telling.introduce(link.peer, self.floods.all(self._now))
        self.links.fresh.clear()

    def _link_lost(self) -> None:
        if self.outbound.open:
            self._plan("ask all", self._now + LINKS_APART_S)

    # --- news of the transport ---

    def _gone(self, event: Gone, now: float) -> None:
        if event.side is Side.RING:
            self.links.gone(event.peer)
        else:
            self._sort(self.broker.handle_all((event,), now))

    def _malformed(self, event: Malformed, now: float) -> None:
        if event.side is not Side.RING:
            self._sort(self.broker.handle_all((event,), now))
        elif event.verb != "ERROR":
            self.links.refuse(event.peer, event.code, event.detail)

    def _undelivered(self, event: Undelivered, now: float) -> None:
        message: Any = event.action
        if message.side is not Side.RING:
            self._sort(self.broker.handle_all((event,), now))
            return
        if not event.full:
            mine = self.outbound.withdraw(message) if isinstance(message, Forward) else None
            self.links.unreachable(message.peer)
            self._look_at_links()
            self.reach.update(self._now)
            if mine is not None and not self.outbound.resume(mine):
                self._feed.rotate(1)  # that it never left, the broker must hear before that its backend is gone
                return
        if isinstance(message, Forward | Result | RingCancel | Ask):
            if event.full:
                self._stuck(message)
            else:
                self.relay.send_again(message)

    # --- what recurs ---

    def _echo(self, _: None, now: float) -> None:
        self.links.tick(now)
        self._plan("echo", now + self.settings.echo_s)

    def _tell_links(self, _: None, now: float) -> None:
        if not self.reach.aside:
            self._told_at = now
            self._telling.tell_links()

    def _tell_roster(self, _: None, now: float) -> None:  # noqa: ARG002 - one shape for all
        if not self.reach.aside:
            self._telling.tell_roster(draining=self.draining)

    def _tell_profiles(self, _: None, now: float) -> None:
        if not self.reach.aside:
            self._telling.tell_profiles(now)
            self._telling.tell_stops(draining=self.draining)
        self._plan("profiles", now + self.settings.profiles_s)

    def _refresh(self, _: None, now: float) -> None:
        self.reach.forget_old(now)
        self.links.changed = True  # have them told again, with what they take now
        if not self.reach.aside:
            self._telling.tell_roster(draining=self.draining, refresh=True)
            self._telling.tell_profiles(now, everything=True)
        self._plan("refresh", now + self.settings.refresh_s)

    def _beat(self, _: None, now: float) -> None:
        self.abroad.beat()
        self._plan("beat", now + min(self.broker.settings.heartbeat_s, self.settings.profiles_s))

    def _ask(self, _: None, now: float) -> None:
        self.outbound.ask(self.settings.ask_s, now)
        self.home.forget_old(now)
        self._plan("ask", now + self.settings.ask_s)
