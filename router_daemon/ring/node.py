"""A broker in a ring: the same calls as the broker's, towards the loop; see the package.

Rules:
- What the ring says to the broker it says as a peer would: a backend of another daemon is a registration, a message of
  another daemon a SEND, and what the broker says to such peers becomes messages on links.
- One timer for everything: `next_deadline`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from router_daemon.core.broker import Broker
from router_daemon.ring.settings import RingSettings


class Node:
    """A daemon of a ring.

    Args:
        broker: this daemon's.
        settings: validated.
        instance: larger than that of any earlier process of the same name; microseconds since 1970, say.
        secret: what no peer can guess, part of the names under which the broker knows the ring's peers.
        version: of the program, for people.
    """

    def __init__(
        self, broker: Broker, settings: RingSettings, *, instance: int, secret: bytes = b"", version: str = ""
    ) -> None:
        self.broker = broker
        self.settings = settings

    def handle(self, event: Any, now: float) -> list[Any]:
        """Take in one event and return what is to be sent."""
        return self.broker.handle(event, now)

    def handle_all(self, events: Iterable[Any], now: float) -> list[Any]:
        """Take in a batch, as `Broker.handle_all` does."""
        return list(self.broker.handle_all(events, now))

    def on_timer(self, now: float) -> list[Any]:
        """Do whatever is due and return what is to be sent."""
        return list(self.broker.on_timer(now))

    def next_deadline(self) -> float | None:
        """Return when `on_timer` has something to do next; None while nothing is scheduled."""
        return self.broker.next_deadline()

    def start(self, now: float) -> None:
        """Schedule what recurs."""
        self.broker.start(now)

    def start_drain(self) -> None:
        """Refuse new SENDs from now on, of clients and of other daemons; what is open goes on."""
        self.broker.start_drain()

    def stop(self, now: float) -> list[Any]:
        """End every open message with `draining`, and say BYE to every backend and every neighbour."""
        return list(self.broker.stop(now))

    def take_news(self) -> list[tuple[str, str]]:
        """Return what happened since the last call: (what, name of a backend or of a daemon)."""
        return self.broker.take_news()

    @property
    def faults(self) -> list[tuple[str, Exception]]:
        """Faults of ours, for the shell to log and clear: the broker's list."""
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
