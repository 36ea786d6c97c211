"""Neighbours that say anything that a header may hold, in any order: a node takes it without a fault, and stays whole."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from core_kit import InOrder

from router_daemon.core import events
from router_daemon.core.actions import CancelDelivery, Deliver
from router_daemon.core.broker import Broker
from router_daemon.core.memory import ServiceRecord
from router_daemon.core.settings import Settings
from router_daemon.core.types import Side
from router_daemon.ring import messages
from router_daemon.ring.messages import (
    AskHeader,
    ByeHeader,
    EchoHeader,
    ForwardHeader,
    HelloHeader,
    LinksHeader,
    Listed,
    Opened,
    ProfilesHeader,
    Report,
    ResultHeader,
    RingCancelHeader,
    RingErrorHeader,
    RosterHeader,
)
from router_daemon.ring.node import Node
from router_daemon.ring.settings import RingSettings

STEPS = 150
NAMES = ("me", "a", "b", "c")
PEERS = (b"p1", b"p2", b"p3", b"p4")
WHO = tuple(zip(PEERS, NAMES[1:], strict=False))
BACKENDS = ("x", "y", "a/x")
CODES: tuple[Any, ...] = ("", "failed", "busy", "rejected", "cancelled", "gone", "unreachable", "unknown")


class Babbler:
    """Draws messages."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.newest = 2
        self.sent = 0
        often = [self.links, self.roster, self.profiles, self.forward, self.result]
        self.draws = [*(often * 8), self.cancel, self.ask, self.echoed, self.hello, *(self.known * 2)]
        self.draws += self.rarely if self.rng.random() < 0.5 else []

    @property
    def known(self) -> list[Any]:
        """Say HELLO as who one is."""
        return [lambda peer=peer, name=name: _hello(peer, name) for peer, name in WHO]

    @property
    def rarely(self) -> list[Any]:
        """End connections."""
        return [self.error, self.bye, self.opened, self.gone]

    def one_of(self, values: Any) -> Any:
        return values[self.rng.randrange(len(values))]

    def number(self) -> int:
        return self.rng.randrange(5)

    def mostly(self, value: Any, otherwise: Any) -> Any:
        return value if self.rng.random() < 0.8 else otherwise

    def peer(self) -> bytes:
        return self.one_of(PEERS)  # type: ignore[no-any-return]

    def message(self) -> Any:
        return self.one_of(self.draws)()

    def hello(self) -> Any:
        ring = "ring" if self.rng.random() < 0.95 else "other"
        return messages.Hello(self.peer(), HelloHeader(self.one_of(NAMES), ring, self.number()))

    def echoed(self) -> Any:
        kind = self.one_of((messages.Echo, messages.Echoed, messages.Echoed))
        return kind(self.peer(), EchoHeader(self.rng.randrange(60)))

    def links(self) -> Any:
        links = {name: self.rng.randrange(5000) for name in NAMES if self.rng.random() < 0.8}
        age_ms = self.one_of((0, 0, 500, 20_000))
        return messages.Links(
            self.peer(), LinksHeader(self.one_of(NAMES), self.instance(), self.rng.randrange(900), links, age_ms)
        )

    def instance(self) -> int:
        """Return the number of a process, which is seldom another one than before."""
        self.newest += self.rng.random() < 0.01
        return self.mostly(self.newest, self.number())  # type: ignore[no-any-return]

    def roster(self) -> Any:
        backends = [
            Listed(name, ["c"], 1 + self.number(), draining=self.rng.random() < 0.2)
            for name in BACKENDS
            if self.rng.random() < 0.6
        ]
        page, pages = self.one_of(((0, 1), (0, 1), (0, 2), (1, 2), (7, 2)))
        return messages.Roster(
            self.peer(),
            RosterHeader(self.one_of(NAMES), self.instance(), self.rng.randrange(900), page, pages, backends),
        )

    def profiles(self) -> Any:
        record = ServiceRecord(self.rng.random(), 0.1, 0.1, self.number(), self.rng.random())
        reports = {
            name: Report(self.number(), self.rng.random(), {"c": record, "d": record}, up=self.rng.random() < 0.8)
            for name in BACKENDS
        }
        return messages.Profiles(
            self.peer(), ProfilesHeader(self.one_of(NAMES), self.instance(), self.rng.randrange(900), reports)
        )

    def path(self) -> list[str]:
        return [self.one_of(NAMES[1:]) for _ in range(self.number())]

    def forward(self) -> Any:
        header = ForwardHeader(
            self.mostly("me", self.one_of(NAMES)),
            self.mostly(2, self.number()),
            self.mostly("own", self.one_of(BACKENDS)),
            self.one_of(NAMES[1:]),
            self.number(),
            self.rng.randrange(20),
            "m",
            self.mostly("c", "d"),
            1 + self.rng.randrange(4),
            1 + self.rng.randrange(3000),
            1 + self.number(),
            1,
            1,
            self.rng.randrange(20),
            self.path(),
        )
        return messages.Forward(self.peer(), header, (b"z",))

    def result(self) -> Any:
        header = ResultHeader(
            self.mostly("me", self.one_of(NAMES)),
            self.mostly(2, self.number()),
            self.rng.randrange(self.sent + 2),
            self.one_of(NAMES),
            self.one_of(("ack", "nack", "part")),
            self.rng.randrange(20),
            self.path(),
            self.one_of((0, 0, 0, 1, 2)),
            self.one_of(CODES[1:]),
        )
        return messages.Result(self.peer(), header, (b"z",))

    def cancel(self) -> Any:
        name, instance = self.one_of(NAMES), self.number()
        header = RingCancelHeader("me", 2, name, instance, self.rng.randrange(20), 1, self.path())
        return messages.RingCancel(self.peer(), header)

    def ask(self) -> Any:
        ids = [self.number() for _ in range(3)]
        return messages.Ask(self.peer(), AskHeader("me", 2, self.one_of(NAMES), self.number(), ids, 1, self.path()))

    def error(self) -> Any:
        return messages.RingError(self.peer(), RingErrorHeader(self.one_of(("name_taken", "not_greeted", "???"))))

    def bye(self) -> Any:
        return messages.RingBye(self.peer(), ByeHeader())

    def opened(self) -> Any:
        return Opened(self.peer(), "somewhere")

    def gone(self) -> Any:
        return events.Gone(Side.RING, self.peer())


def _hello(peer: bytes, name: str) -> Any:
    return messages.Hello(peer, HelloHeader(name, "ring", 2))


def answer(node: Node, rng: Random, actions: list[Any], now: float) -> list[Any]:
    """Let our own backend do what it got, and some messages not leave; return what comes of it."""
    following: list[Any] = []
    for action in actions:
        if isinstance(action, messages.Echo) and rng.random() < 0.9:
            following += node.handle(messages.Echoed(action.peer, action.header), now)
        elif action.side is Side.RING and rng.random() < 0.05:
            following += node.handle(events.Undelivered(action, full=rng.random() < 0.5), now)
        elif isinstance(action, Deliver) and rng.random() < 0.7:
            number = action.header.id
            kinds: list[Any] = [
                events.Ack(action.peer, False, events.AckHeader(number), (b"y",)),
                events.Nack(action.peer, False, events.NackHeader(number, code="busy")),
                events.Part(action.peer, False, events.PartHeader(number), (b"y",)),
            ]
            following += node.handle(kinds[rng.randrange(3)], now)
        elif isinstance(action, CancelDelivery):
            following += node.handle(
                events.Nack(action.peer, False, events.NackHeader(action.header.id, code="cancelled")), now
            )
    return following


@pytest.mark.parametrize("first", range(0, 100, 10))
def test_nothing_that_neighbours_say_breaks_a_node(first: int) -> None:
    for seed in range(first, first + 10):
        babbler, rng, now = Babbler(seed), Random(f"world {seed}"), 1000.0
        broker = Broker(Settings(mode="single"), InOrder(), rng=Random(0), timer=lambda: 0.0, instance="m")
        settings = RingSettings("me", keep_results=3, remember=20, max_daemons=3, max_backends=2, forget_s=3.0)
        node = Node(broker, settings, instance=2)
        node.start(now)
        for peer, name in WHO:
            answer(node, rng, node.handle(_hello(peer, name), now), now)
        node.handle(events.Register(b"own", False, events.Registration("own", ["c"], slots=2)), now)
        for step in range(STEPS):
            babbler.sent = node.counts.forwarded
            batch = [babbler.message() for _ in range(1 + rng.randrange(3))]
            if rng.random() < 0.5:
                batch.append(events.Send(b"client", False, events.Request(step, "c", ttl_ms=3000), (b"q",)))
            actions = node.handle_all(batch, now)
            for _ in range(5):
                actions = answer(node, rng, actions, now)
            due = node.next_deadline()
            now += rng.random() * 0.1
            if due is not None and due <= now:
                answer(node, rng, node.on_timer(now), now)
            node.check()
        node.stop(now)
        node.check()
        assert node.open_messages == 0
