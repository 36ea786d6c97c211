"""The way between a backend and a daemon: one connection, both directions, in virtual time.

Rules:
- Within a connection each direction keeps its order and loses nothing, as TCP does; only the shares of a
  `NetworkSpec` break that, which is stronger than anything a real network does to ZeroMQ.
- What is under way when a connection ends is lost with it.
- How the daemon learns of the end is the fault's affair: by `Gone`, by `Undelivered` when it next sends, or not at all.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from router_daemon.core.actions import Action
from router_daemon.core.types import Peer
from router_daemon.lab.specs import NetworkSpec
from router_daemon.lab.timeline import Timeline, whole

if TYPE_CHECKING:
    from router_daemon.lab.daemons import Daemon
    from router_daemon.lab.lines import Line


class Connection:
    """One connection of a line to its daemon.

    Attributes:
        alive: messages get through.
        reachable: the daemon may still believe that they do; where not, what it sends comes back as Undelivered.
    """

    __slots__ = (
        "_daemon",
        "_jitter_s",
        "_latency_s",
        "_line",
        "_ready_down",
        "_ready_up",
        "_rng",
        "_timeline",
        "alive",
        "peer",
        "reachable",
    )

    def __init__(
        self, line: Line, daemon: Daemon, peer: Peer, spec: NetworkSpec, timeline: Timeline, rng: Random
    ) -> None:
        self._line = line
        self._daemon = daemon
        self._timeline = timeline
        self._rng = rng
        self._latency_s = whole(spec.latency_s)
        self._jitter_s = spec.jitter_s
        self._ready_up = self._ready_down = 0.0
        self.peer = peer
        self.alive = True
        self.reachable = True

    def send_up(self, event: Any) -> None:
        """Carry something to the daemon."""
        when = self._timeline.now + self._latency_s
        if self._jitter_s:
            when = self._ready_up = max(self._ready_up, when + whole(self._jitter_s * self._rng.random()))
        self._timeline.at(when, self._up, event)

    def send_down(self, action: Action) -> None:
        """Carry something to the backend."""
        when = self._timeline.now + self._latency_s
        if self._jitter_s:
            when = self._ready_down = max(self._ready_down, when + whole(self._jitter_s * self._rng.random()))
        self._timeline.at(when, self._down, action)

    def _up(self, event: Any) -> None:
        if self.alive:
            self._daemon.take(event)

    def _down(self, action: Action) -> None:
        if self.alive:
            self._line.receive(action)
