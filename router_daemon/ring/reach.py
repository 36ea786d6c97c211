"""What other daemons tell of themselves, who can be reached now, and what follows for the broker when that changes.

Rules:
- What is news is passed on to all neighbours but the one it came from.
- Who cannot be reached is gone at once, both as a home (its backends are unregistered) and as an origin (what it has
  open here is cancelled). Waiting whether he comes back would cost every message sent to him its time.
- The same holds for another process under a name: nothing of the one before it is answered any more.
- A daemon that hears of a newer process under its own name stands aside: it is alone until that one has not been heard
  of for `forget_s`. Two that go by one name would take each other's answers.
- After a link is lost, what may have been lost with it is asked for at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import UNSET, UnsetType

from router_daemon.core.types import Peer
from router_daemon.ring.abroad import Abroad
from router_daemon.ring.floods import Floods
from router_daemon.ring.home import Home
from router_daemon.ring.messages import Flooded, Links, Profiles, Roster
from router_daemon.ring.outbound import Outbound
from router_daemon.ring.topology import Topology


class Reach:
    """See the module; `link_lost` is called when one has gone from the graph, `hear_stops` when others stop a rollout.

    Attributes:
        news: (what, name of a daemon).
        stale: the graph has changed since the ways were worked out.
        aside: alone, since a newer process has our name.
        names: who can be reached. joined: whose backends the broker has just taken, and knows nothing of yet.
    """

    def __init__(
        self,
        instance: int,
        floods: Floods,
        topology: Topology,
        abroad: Abroad,
        outbound: Outbound,
        home: Home,
        *,
        pass_on: Callable[[Flooded, Peer], None],
        link_lost: Callable[[], None],
        hear_stops: Callable[[str, Mapping[str, int], float], None],
    ) -> None:
        self._instance = instance
        self._floods = floods
        self._topology = topology
        self._abroad = abroad
        self._outbound = outbound
        self._home = home
        self._pass_on = pass_on
        self._link_lost = link_lost
        self._stopped = hear_stops
        self.news: list[tuple[str, str]] = []
        self.stale = False
        self.aside = False
        self.names: dict[str, None] = {}
        self.joined: list[str] = []

    def hear_links(self, message: Links, now: float) -> None:
        """LINKS."""
        header = message.header
        if self._floods.take_links(header, now):
            self._pass_on(message, message.peer)
            self.stale |= self._topology.report(header.origin, header.links)
        self._stand_aside()

    def hear_roster(self, message: Roster, now: float) -> None:
        """ROSTER."""
        news, whole = self._floods.take_roster(message.header, now)
        if news:
            self._pass_on(message, message.peer)
        if whole:
            origin = message.header.origin
            self.list(origin)
            self._hear_stops(origin, self._floods.known[origin].pages[0].stopped, now)

    def _hear_stops(self, origin: str, stopped: Mapping[str, int] | UnsetType, now: float) -> None:
        if stopped is not UNSET:
            self._stopped(origin, stopped, now)

    def hear_profiles(self, message: Profiles, now: float) -> None:
        """PROFILES."""
        header = message.header
        if self._floods.take_profiles(header, now):
            self._pass_on(message, message.peer)
            self._abroad.report(header.origin, header.backends, now)

    def update(self, now: float) -> None:
        """Work out the ways anew where that is due, and have the broker know who can be reached, and at what cost."""
        for name in self._floods.replaced:
            self._lose(name, now)
            self.stale = True
        self._floods.replaced.clear()
        if not self.stale:
            return
        self.stale = False
        if self._topology.compute():
            self._link_lost()
        if self.aside:
            self._topology.ways.clear()
        ways = self._topology.ways
        for name in [name for name in self.names if name not in ways]:
            self._lose(name, now)
        for name, way in ways.items():
            if name not in self.names:
                self.names[name] = None
                self.list(name)
            self._abroad.set_way(name, way)

    def list(self, name: str) -> None:
        """Have the backends of a daemon registered, as it has listed them."""
        known = self._floods.known.get(name)
        if known is None or known.roster is None or name not in self.names:
            return
        if self._abroad.list(name, known.roster):
            self.joined.append(name)

    def acquaint(self, now: float) -> None:
        """Tell the broker what is known of backends that it has just taken."""
        for name in self.joined:
            known, way = self._floods.known.get(name), self._topology.ways.get(name)
            if known is not None and way is not None:
                self._abroad.set_way(name, way)
                self._abroad.report(name, known.reports, now)
        self.joined.clear()

    def _stand_aside(self) -> None:
        """Be alone where a newer process has our name."""
        if not self.aside and self._floods.rival[0] > self._instance:
            self.aside = self.stale = True
            self.news.append(("stands aside: a newer process has this name", self._topology.me))

    def forget_old(self, now: float) -> None:
        """Forget who has not been heard of for long, and him who had our name."""
        if self._floods.forget_rival(now) and self.aside:
            self.aside, self.stale = False, True
        for name in self._floods.forget_old(now):
            self._topology.forget(name)
            self._lose(name, now)  # also where it is a neighbour: what it has is not known any more
            self.stale = True

    def _lose(self, name: str, now: float) -> None:
        self.names.pop(name, None)
        self._outbound.lose(name)
        self._abroad.drop(name)
        self._home.leave(name, now)
