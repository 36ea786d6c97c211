"""From hop to hop: what is for another daemon goes to the neighbour on the shortest way as it is known now.

Rules:
- A message says how many links it has been sent over and which daemons it has left. One that has used up its hops,
  comes back to a daemon that it has left, or has no way, goes no further (`stuck`): reports of a change take a moment
  to reach everybody, and until then two daemons may each think the other one nearer.
- What a message says of its way is written into a copy: whoever keeps the message may send it again.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from router_daemon.ring.counts import RingCounts
from router_daemon.ring.links import Links
from router_daemon.ring.messages import Routed
from router_daemon.ring.settings import RingSettings
from router_daemon.ring.topology import Topology


class Relay:
    """Sends messages on; `arrived` takes what is for us, `stuck` what can go no further."""

    def __init__(
        self,
        settings: RingSettings,
        links: Links,
        topology: Topology,
        counts: RingCounts,
        emit: Callable[[Any], None],
        arrived: Callable[[Routed], None],
        stuck: Callable[[Routed], None],
    ) -> None:
        self._settings = settings
        self._links = links
        self._topology = topology
        self._counts = counts
        self._emit = emit
        self._arrived = arrived
        self._stuck = stuck

    def take(self, message: Routed) -> None:
        """A neighbour has sent this."""
        if message.header.to == self._settings.name:
            self._arrived(message)
        else:
            self._counts.relayed += 1
            self.send(message)

    def send(self, message: Routed) -> None:
        """Send a message to the next hop."""
        header, me = copy(message.header), self._settings.name
        hop = self._topology.next_hop(header.to)
        link = None if hop is None else self._links.neighbours().get(hop)
        if link is None or header.hops >= self._settings.max_hops or me in header.path:
            self._stuck(message)
            return
        header.hops += 1
        header.path = [*header.path, me]
        self._emit(type(message)(link.peer, header, *([message.body] if message.has_body else [])))  # type: ignore[arg-type]

    def send_again(self, message: Routed) -> None:
        """Send what has not left by another way, as if it had not been sent."""
        header = copy(message.header)
        header.hops -= 1
        header.path = header.path[:-1]
        self.send(type(message)(b"", header, *([message.body] if message.has_body else [])))  # type: ignore[arg-type]
