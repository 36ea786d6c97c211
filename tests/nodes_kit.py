"""A ring of nodes in memory, in virtual time: what the tests of the ring share.

Backends and clients are the test's own hands: a backend of daemon "a" is registered by `register`, what it is sent lies
in `delivered`, and `ack` answers it; what clients hear lies in `heard`. `Ring.check` runs after every step.
"""

from __future__ import annotations

from collections import defaultdict
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any, NamedTuple

from core_kit import InOrder

from router_daemon.core import events
from router_daemon.core.actions import CancelDelivery, Deliver
from router_daemon.core.broker import Broker
from router_daemon.core.settings import Settings
from router_daemon.core.types import Side
from router_daemon.ring.messages import Opened
from router_daemon.ring.node import Node
from router_daemon.ring.settings import RingSettings

START = 1000.0
STEPS = 200_000


class Wire:
    """A link that stands: its ends, and the names of the connection at each."""

    def __init__(self, a: str, b: str, number: int, latency_s: float) -> None:
        self.ends = {a: f"{a}>{b}.{number}".encode(), b: f"{b}>{a}.{number}".encode()}
        self.latency_s = latency_s
        self.alive = True
        self.lossy = False

    def other(self, name: str) -> str:
        return next(end for end in self.ends if end != name)


class Delivered(NamedTuple):
    """What a backend was sent."""

    daemon: str
    action: Deliver

    @property
    def backend(self) -> str:
        return self.action.peer.decode()


class Ring:
    """Nodes by name, and the links between them.

    Attributes:
        said: every message on a link: (from, to, message), in order.
    """

    def __init__(
        self, *names: str, latency_s: float = 0.001, settings: dict[str, Any] | None = None, **ring: Any
    ) -> None:
        self.now = START
        self.latency_s = latency_s
        self.nodes: dict[str, Node] = {}
        self.delivered: list[Delivered] = []
        self.cancelled: list[tuple[str, CancelDelivery]] = []
        self.heard: dict[str, list[Any]] = defaultdict(list)
        self.said: list[tuple[str, str, Any]] = []
        keys: dict[str, Any] = {"mode": "single", "heartbeat_s": 1000.0}
        self._settings = Settings(**(keys | (settings or {})))
        self._ring = ring
        self._wires: dict[bytes, Wire] = {}
        self._standing: dict[frozenset[str], Wire] = {}
        self._todo: list[tuple[float, int, str, Any]] = []
        self._number = count(1)
        for name in names:
            self.start(name)

    def start(self, name: str, *, key: str | None = None, instance: int | None = None, **ring: Any) -> Node:
        """Start a daemon; `key`: what it is called here, where another one has its name."""
        settings = RingSettings(name, **(self._ring | ring))
        broker = Broker(
            self._settings, InOrder(), rng=Random(0), timer=lambda: 0.0, instance=f"{key or name}-{next(self._number)}-"
        )
        number = int((self.now - START) * 1e6) + 1 if instance is None else instance
        node = self.nodes[key or name] = Node(broker, settings, instance=number)
        node.start(self.now)
        return node

    # --- links ---

    def link(self, *pairs: str, latency_s: float | None = None) -> None:
        """Let links stand; "a-b": a has dialled b."""
        for pair in pairs:
            a, b = pair.split("-")
            wire = Wire(a, b, next(self._number), self.latency_s if latency_s is None else latency_s)
            self._standing[frozenset((a, b))] = wire
            self._wires.update(dict.fromkeys(wire.ends.values(), wire))
            self.handle(a, Opened(wire.ends[a], f"address of {b}"))

    def circle(self) -> None:
        """Link each daemon with the next, the last with the first, and let them get to know each other."""
        names = list(self.nodes)
        self.link(*(f"{a}-{b}" for a, b in zip(names, [*names[1:], names[0]], strict=True)))
        self.run(1.0)

    def wire(self, a: str, b: str) -> Wire:
        return self._standing[frozenset((a, b))]

    def cut(self, a: str, b: str, *, told: bool = True) -> None:
        """End a link; what is under way is lost."""
        wire = self.wire(a, b)
        wire.alive = False
        for end, peer in wire.ends.items():
            if told and end in self.nodes:
                self.handle(end, events.Gone(Side.RING, peer))

    def crash(self, name: str) -> None:
        """End a daemon at once."""
        del self.nodes[name]
        for ends in [ends for ends in self._standing if name in ends]:
            self.cut(*ends)

    # --- time ---

    def handle(self, name: str, event: Any) -> None:
        """Let a daemon take in an event."""
        self._after(name, self.nodes[name].handle(event, self.now))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        for _ in range(STEPS):
            due = {name: node.next_deadline() for name, node in self.nodes.items()}
            timers = [(at, name) for name, at in due.items() if at is not None]
            at, name = min(timers, default=(until + 1.0, ""))
            if self._todo and self._todo[0][0] <= at:
                at, _, receiver, message = self._todo[0]
                if at > until:
                    break
                heappop(self._todo)
                self.now = max(self.now, at)
                self._arrive(receiver, message)
            elif at > until:
                break
            else:
                self.now = max(self.now, at)
                self._after(name, self.nodes[name].on_timer(self.now))
        else:
            raise AssertionError(f"more than {STEPS} steps in {seconds} s")
        self.now = until

    def _after(self, name: str, actions: list[Any]) -> None:
        node = self.nodes[name]
        assert not node.faults, node.faults
        node.check()
        for action in actions:
            if action.side is Side.RING:
                self._send(name, action)
            elif isinstance(action, Deliver):
                self.delivered.append(Delivered(name, action))
            elif isinstance(action, CancelDelivery):
                self.cancelled.append((name, action))
            elif action.side is Side.CLIENT:
                self.heard[action.peer.decode()].append(action)

    def _send(self, name: str, action: Any) -> None:
        wire = self._wires[action.peer]
        other = wire.other(name)
        self.said.append((name, other, action))
        if wire.alive and not wire.lossy:
            body = [action.body] if action.has_body else []
            message = type(action)(wire.ends[other], action.header, *body)
            heappush(self._todo, (self.now + wire.latency_s, next(self._number), other, (wire, message)))

    def _arrive(self, receiver: str, travelling: tuple[Wire, Any]) -> None:
        wire, message = travelling
        if wire.alive and receiver in self.nodes:
            self.handle(receiver, message)

    # --- backends and clients ---

    def register(self, daemon: str, name: str, capability: str = "c", **keys: Any) -> None:
        """Register a backend with a daemon; its connection is its name."""
        self.handle(daemon, events.Register(name.encode(), False, events.Registration(name, [capability], **keys)))

    def send(self, daemon: str, *body: bytes, client: str = "client", number: int = 1, **keys: Any) -> None:
        """SEND of a client of a daemon."""
        request = events.Request(number, keys.pop("capability", "c"), **keys)
        self.handle(daemon, events.Send(client.encode(), False, request, body))

    def ack(self, delivered: Delivered, *body: bytes, **keys: Any) -> None:
        """Let a backend answer."""
        header = events.AckHeader(delivered.action.header.id, **keys)
        self.handle(delivered.daemon, events.Ack(delivered.action.peer, False, header, body))

    def nack(self, delivered: Delivered, code: Any = "failed", **keys: Any) -> None:
        """Let a backend refuse."""
        header = events.NackHeader(delivered.action.header.id, code=code, **keys)
        self.handle(delivered.daemon, events.Nack(delivered.action.peer, False, header))

    def part(self, delivered: Delivered, *body: bytes) -> None:
        """Let a backend answer with a piece."""
        header = events.PartHeader(delivered.action.header.id)
        self.handle(delivered.daemon, events.Part(delivered.action.peer, False, header, body))

    def take(self) -> list[Delivered]:
        """Return what backends were sent since the last call."""
        taken, self.delivered = self.delivered, []
        return taken

    def take_one(self) -> Delivered:
        """Return the one delivery since the last call."""
        (taken,) = self.take()
        return taken

    def known_at(self, name: str) -> list[str]:
        """Return the backends that a daemon knows, by name."""
        return sorted(self.nodes[name].broker.registry.by_name)

    def counts(self, name: str) -> Any:
        return self.nodes[name].counts

    def messages(self, kind: type[Any]) -> list[tuple[str, str, Any]]:
        """Return what was said of one kind."""
        return [said for said in self.said if isinstance(said[2], kind)]
