"""The way between a backend and a daemon: one connection, both directions, in virtual time.

Rules:
- Within a connection each direction keeps its order and loses nothing, as TCP does; only the shares of a
  `NetworkSpec` break that, which is stronger than anything a real network does to ZeroMQ.
- What is under way when a connection ends is lost with it. How the daemon learns of the end is the fault's affair: by
  `Gone`, by `Undelivered` when it next sends, or not at all.
- A frozen connection lets nothing through and loses nothing: what it was given arrives, in order, when it thaws.
- The plain connection is a class of its own, because in most worlds nothing ever happens to one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import IntEnum
from random import Random
from typing import TYPE_CHECKING, Any

from router_daemon.core.actions import Action
from router_daemon.core.types import Peer
from router_daemon.lab.specs import NetworkSpec
from router_daemon.lab.timeline import START_S, Timeline, whole

if TYPE_CHECKING:
    from router_daemon.lab.daemons import Daemon
    from router_daemon.lab.lines import Line


class Trouble(IntEnum):
    """What keeps the daemon from sending: nothing, a peer that leaves too much unread, one that is gone."""

    NONE = 0
    FULL = 1
    GONE = 2


class Connection:
    """One connection of a line to its daemon, on which nothing is late or lost.

    Attributes:
        peer: its name at the daemon.
        alive: messages get through.
        trouble: what the daemon knows to be in the way of sending.
        told: the daemon has heard that it is gone.
    """

    __slots__ = (
        "_latency_s",
        "_line",
        "_ready_down",
        "_ready_up",
        "_rng",
        "_spec",
        "_timeline",
        "alive",
        "daemon",
        "peer",
        "told",
        "trouble",
    )

    def __init__(
        self, line: Line, daemon: Daemon, peer: Peer, spec: NetworkSpec, timeline: Timeline, rng: Random
    ) -> None:
        self._line = line
        self._spec = spec
        self._timeline = timeline
        self._rng = rng
        self._latency_s = whole(spec.latency_s)
        self._ready_up = self._ready_down = 0.0
        self.daemon = daemon
        self.peer = peer
        self.alive = True
        self.trouble = Trouble.NONE
        self.told = False

    def send_up(self, event: Any) -> None:
        """Carry something to the daemon."""
        self._timeline.after(self._latency_s, self._up, event)

    def send_down(self, action: Action) -> None:
        """Carry something to the backend."""
        self._timeline.after(self._latency_s, self._down, action)

    def _up(self, event: Any) -> None:
        if self.alive:
            self.daemon.take(event)

    def _down(self, action: Action) -> None:
        if self.alive:
            self._line.receive(action)


class FaultyConnection(Connection):
    """A connection to which everything happens that a `NetworkSpec` or a fault says; counted in `happened`."""

    __slots__ = ("_frozen_until", "_happened")

    def __init__(
        self,
        line: Line,
        daemon: Daemon,
        peer: Peer,
        spec: NetworkSpec,
        timeline: Timeline,
        rng: Random,
        happened: Counter[str],
    ) -> None:
        super().__init__(line, daemon, peer, spec, timeline, rng)
        self._happened = happened
        self._frozen_until = 0.0

    def send_up(self, event: Any) -> None:
        """Carry something to the daemon, or not."""
        arrivals, self._ready_up = self._arrivals(self._ready_up)
        for when in arrivals:
            self._timeline.at(when, self._up, event)

    def send_down(self, action: Action) -> None:
        """Carry something to the backend, or not."""
        arrivals, self._ready_down = self._arrivals(self._ready_down)
        for when in arrivals:
            self._timeline.at(when, self._down, action)

    def freeze(self, seconds: float) -> None:
        """Let nothing through for a while."""
        self._frozen_until = max(self._frozen_until, self._timeline.now + seconds)

    def _arrivals(self, ready: float) -> tuple[list[float], float]:
        """Return when a message arrives, if at all and how often, and when the next one may at the earliest."""
        spec, rng, now = self._spec, self._rng, self._timeline.now
        when = now + self._latency_s
        if spec.jitter_s:
            when += whole(spec.jitter_s * rng.random())
        if not spec.from_s <= now - START_S < spec.until_s:
            when = max(when, ready)
            return [when], when
        if self._strikes("drop", spec.dropped):
            return [], ready
        if self._strikes("delay", spec.delayed):
            when += whole(spec.delay_s * rng.random())
        when = ready = max(when, ready)
        if self._strikes("reorder", spec.reordered):
            when += whole(spec.delay_s * rng.random())
        if self._strikes("duplicate", spec.duplicated):
            return [when, when + whole(spec.delay_s * rng.random())], ready
        return [when], ready

    def _strikes(self, kind: str, share: float) -> bool:
        """Draw whether a fault happens to this message, and count it."""
        if share > 0.0 and self._rng.random() < share:
            self._happened[kind] += 1
            return True
        return False

    def _up(self, event: Any) -> None:
        if not self._is_frozen(self._up, event):
            super()._up(event)

    def _down(self, action: Action) -> None:
        if not self._is_frozen(self._down, action):
            super()._down(action)

    def _is_frozen(self, arrive: Callable[[Any], None], thing: Any) -> bool:
        """Tell whether something that would arrive now has to wait, and see that it arrives later."""
        if self._timeline.now >= self._frozen_until:
            return False
        self._timeline.at(self._frozen_until, arrive, thing)
        return True
