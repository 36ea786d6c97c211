"""Peers for `conform` in virtual time: a backend and a client that keep to the protocol, but for what they are told.

Rules:
- No sockets, no clock: `perform` moves messages and time between a play and a peer, so a run takes milliseconds.
- A peer keeps to docs/protocol.md by itself, written from it alone. A *break* is a word that changes one thing.
"""

from __future__ import annotations

import heapq
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack

from router_daemon.conform.checks import Book
from router_daemon.conform.play import Action, Play, Restart, Scenario, Send

STEPS: Final = 50_000
_connections = itertools.count(1)


class FakePeer(ABC):
    """One DEALER socket at a time, timers, and a way to end.

    Args:
        breaks: what it does wrong.
    """

    def __init__(self, breaks: frozenset[str]) -> None:
        self.breaks = breaks
        self.delimits = "uses the delimiter" in breaks  # which is no break
        self.now = 0.0
        self.out: list[list[bytes]] = []
        self.exit_code: int | None = None
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self.connect()

    def connect(self) -> None:
        """Open a new socket; what the old one has not sent is lost."""
        number = next(_connections).to_bytes(4, "big")
        self.connection = b"mine" + number if "names itself" in self.breaks else b"\x00" + number
        self.out.clear()

    def send(self, verb: str, header: Any, body: Sequence[bytes] = ()) -> None:
        """Send a message."""
        delimiter = [b""] if self.delimits else []
        self.out.append([self.connection, *delimiter, b"CAR1." + verb.encode(), msgpack.packb(header), *body])

    def after(self, seconds: float, do: Callable[[], object]) -> None:
        """Do something later."""
        heapq.heappush(self._timers, (self.now + seconds, next(self._order), do))

    @property
    def deadline(self) -> float:
        return self._timers[0][0] if self._timers and self.exit_code is None else math.inf

    def tick(self, now: float) -> None:
        """Do what is due."""
        self.now = now
        while self.deadline <= now:
            heapq.heappop(self._timers)[2]()

    def receive(self, frames: Sequence[bytes], now: float) -> None:
        """Take a message of the daemon."""
        self.now = now
        if self.delimits:
            assert frames[0] == b"", "the delimiter comes back"
            frames = frames[1:]
        known = frames[0].startswith(b"CAR1.") or "takes any version" in self.breaks
        if not known or ("reads short maps only" in self.breaks and frames[1][0] & 0xF0 != 0x80):
            return
        header = msgpack.unpackb(frames[1])
        if "wants known keys only" in self.breaks and any(key.startswith("x_") for key in header):
            return
        verb = frames[0][5:].decode()
        if verb.startswith("X_") and "dies of unknown commands" in self.breaks:
            self.exit_code = 1
        self.on_message(verb, header, list(frames[2:]))

    @abstractmethod
    def start(self) -> None:
        """Begin to talk."""

    @abstractmethod
    def on_message(self, verb: str, header: dict[str, Any], body: list[bytes]) -> None:
        """Take a message."""

    @abstractmethod
    def disconnected(self) -> None:
        """The daemon is gone, and another one is there."""

    def terminate(self) -> None:
        """Take SIGTERM."""
        self.exit_code = -15


def perform(play: Play, scenarios: Sequence[Scenario[Any]], peer: FakePeer) -> Book:
    """Play to the end against a peer, in no time; return the verdicts."""
    told = False
    _do(play.start(scenarios, 0.0), peer)
    peer.start()
    for _ in range(STEPS):
        if play.finished:
            return play.book
        now = max(peer.now, play.now)
        if peer.exit_code is not None and not told:
            told = True
            _do(play.on_exit(peer.exit_code, now), peer)
        elif peer.out and peer.exit_code is None:
            _do(play.on_message(peer.out.pop(0), now), peer)
        else:
            now = min(play.deadline, peer.deadline)
            assert now < math.inf, "nobody has anything to do"
            peer.tick(now)
            _do(play.on_time(now), peer)
    raise AssertionError("no end")


def _do(actions: Sequence[Action], peer: FakePeer) -> None:
    for action in actions:
        if isinstance(action, Send):
            if action.peer == peer.connection and peer.exit_code is None:
                peer.receive(action.frames, peer.now)
        elif isinstance(action, Restart):
            peer.disconnected()
        else:
            peer.terminate()
