"""Daemons that are a ring: the very `Node` around each broker, and the links between them in virtual time.

Rules:
- A link carries what it is given in order and loses nothing while it stands, as TCP does. What is under way when it is
  cut is lost; both ends hear of it, or find out when they send, or hear nothing until it is healed.
- A daemon that crashes is gone with all that it knew. Its clients hear nothing more of what they have sent it, and get
  nothing in until another process has taken its place, under the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from router_daemon.core.broker import Broker
from router_daemon.core.events import Gone, Undelivered
from router_daemon.core.types import Peer, Side
from router_daemon.lab.daemons import Daemon
from router_daemon.lab.digest import Digest
from router_daemon.lab.ledger import Ledger, Record
from router_daemon.lab.timeline import START_S, Timeline, whole
from router_daemon.ring.messages import Opened
from router_daemon.ring.node import Node
from router_daemon.ring.settings import RingSettings


class Wire:
    """One link between two daemons.

    Attributes:
        dialler, listener: its ends.
    """

    def __init__(self, dialler: RingDaemon, listener: RingDaemon, latency_s: float, timeline: Timeline) -> None:
        self.dialler = dialler
        self.listener = listener
        self._latency_s = whole(latency_s)
        self._timeline = timeline
        self._opened = 0
        self._alive = False
        self._notice = ""
        self._cut_until = 0.0
        self._frozen_until = 0.0
        self._full_until = 0.0
        self._peers: dict[int, Peer] = {}

    def open(self, _: object = None) -> None:
        """Stand, where nothing is in the way."""
        if self._alive or self._timeline.now < self._cut_until or self.dialler.down or self.listener.down:
            return
        self._forget()
        self._opened += 1
        self._alive = True
        name = f"{self.dialler.index}-{self.listener.index}.{self._opened}"
        for end, other in ((self.dialler, self.listener), (self.listener, self.dialler)):
            peer = self._peers[end.index] = f"{name} to {other.index}".encode()
            end.wires[peer] = self
        self.dialler.take(Opened(self._peers[self.dialler.index], f"daemon {self.listener.index}"))

    def send(self, sender: RingDaemon, message: Any) -> Undelivered | None:
        """Carry a message to the other end, or say that it does not leave."""
        if message.peer != self._peers.get(sender.index) or (not self._alive and self._notice != "silence"):
            return Undelivered(message, full=False)
        if self._timeline.now < self._full_until:
            return Undelivered(message, full=True)
        if self._alive:
            self._timeline.after(self._latency_s, self._arrive, (self._opened, self._other(sender), message))
        return None

    def cut(self, for_s: float, notice: str = "gone") -> None:
        """Let nothing more through for a while, nor what is under way."""
        self._cut_until = max(self._cut_until, self._timeline.now + for_s)
        self._timeline.at(self._cut_until, self.open)
        if self._alive:
            self._alive = False
            self._notice = notice
            if notice == "gone":
                self._forget()

    def freeze(self, for_s: float) -> None:
        """Let what is under way, and what comes now, arrive only after a while."""
        self._frozen_until = max(self._frozen_until, self._timeline.now + for_s)

    def fill(self, for_s: float) -> None:
        """Take nothing more for a while: whoever is at the other end reads too slowly."""
        self._full_until = max(self._full_until, self._timeline.now + for_s)

    def _forget(self) -> None:
        """Let both ends hear that the connection has ended."""
        for daemon in (self.dialler, self.listener):
            peer = self._peers.pop(daemon.index, None)
            if peer is not None and not daemon.down:
                daemon.take(Gone(Side.RING, peer))

    def _other(self, daemon: RingDaemon) -> RingDaemon:
        return self.listener if daemon is self.dialler else self.dialler

    def _arrive(self, travelling: tuple[int, RingDaemon, Any]) -> None:
        opened, receiver, message = travelling
        if self._timeline.now < self._frozen_until:
            self._timeline.at(self._frozen_until, self._arrive, travelling)
        elif opened == self._opened and self._alive and not receiver.down:
            body = [message.body] if message.has_body else []
            receiver.take(type(message)(self._peers[receiver.index], message.header, *body))


class RingDaemon(Daemon):
    """A daemon of a ring.

    Attributes:
        down: it has crashed, and nothing is in its place.
        crashes: how often.
        wires: its links, by the names of their connections.
    """

    def __init__(
        self,
        index: int,
        make_broker: Callable[[int], Broker],
        settings: RingSettings,
        timeline: Timeline,
        ledger: Ledger,
        digest: Digest,
    ) -> None:
        super().__init__(index, make_broker(0), timeline, ledger, digest)
        self._make_broker = make_broker
        self._settings = settings
        self.down = False
        self.crashes = 0
        self.wires: dict[Peer, Wire] = {}
        self.node = self.core = self._node()

    def _node(self) -> Node:
        instance = int((self._timeline.now - START_S) * 1e6) + 1
        return Node(self.broker, self._settings, instance=instance)

    @property
    def name(self) -> str:
        """Its name in the ring."""
        return self._settings.name

    # --- its life ---

    def crash(self) -> None:
        """Be gone at once."""
        now = self._timeline.now
        self.down = True
        self.crashes += 1
        self._stalled_until = 0.0
        self._wake_at = None
        for connection in self.connections.values():
            connection.alive = False
        for record in [waiting for waiting in self._backlog if isinstance(waiting, Record)]:
            self._turn_away(record)
        self._backlog.clear()
        self._ledger.crashed(self.index, now)

    def restart(self, _: object = None) -> None:
        """Let another process take its place."""
        self.down = False
        self.broker = self._make_broker(self.crashes)
        self.node = self.core = self._node()
        self.delivered = self._newest = 0
        self.core.start(self._timeline.now)
        self._arm(self._timeline.now)
        for wire in list(dict.fromkeys(self.wires.values())):
            self._timeline.after(0.0, wire.open)

    def take(self, event: Any) -> None:
        """Handle an event, unless nobody is there."""
        if not self.down:
            super().take(event)

    def read_send(self, record: Record) -> None:
        """Handle a SEND, unless nobody is there."""
        if self.down:
            self._turn_away(record)
        else:
            super().read_send(record)

    def _turn_away(self, record: Record) -> None:
        """The client cannot get its SEND in."""
        self._ledger.sent(record, self._timeline.now, 1)
        self._ledger.crashed(self.index, self._timeline.now)

    def read_again(self, record: Record) -> bool:
        """Handle a SEND with the id of an open one."""
        return not self.down and super().read_again(record)

    def read_garbled(self, peer: Peer, client_id: str) -> None:
        """Handle a SEND that cannot be read but for its id."""
        if not self.down:
            super().read_garbled(peer, client_id)

    def lose_client(self, peer: Peer) -> None:
        """Hear that a client's connection has ended."""
        if self.down:
            del self._clients[peer]
        else:
            super().lose_client(peer)

    def wake(self, due: float) -> None:
        """Do what is due."""
        if not self.down:
            super().wake(due)

    def end(self) -> None:
        """Stop, as at the end of the process."""
        if not self.down:
            super().end()

    # --- what goes out ---

    def _send_elsewhere(self, action: Any) -> None:
        """Send a message of the ring over its link."""
        wire = self.wires.get(action.peer) if action.side is Side.RING else None
        if wire is None:
            super()._send_elsewhere(action)
            return
        problem = wire.send(self, action)
        if problem is not None:
            self._problems.append(problem)
            if not problem.full:
                self._problems.append(Gone(Side.RING, action.peer))
