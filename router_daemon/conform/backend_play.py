"""The daemon, as a backend sees it: registers, answers heartbeats, keeps the books of deliveries.

Rules:
- It does what the daemon does, unless a script says otherwise (`mood`): so scripts hold only what is special in them.
- What must hold all the time is judged here: sound headers, signs of life, answers that belong to open deliveries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from router_daemon.conform.backend_checks import CHECKS, offering
from router_daemon.conform.checks import Book
from router_daemon.conform.messages import Message
from router_daemon.conform.play import Ended, Play, Script, Send, Unseen
from router_daemon.core.types import Side

HEARTBEAT_MS: Final = 500
GAP_S: Final = 1.5 * HEARTBEAT_MS / 1000 + 0.25
"""Longest silence that passes: half an interval and a quarter of a second for timers and machines that are late."""
TTL_MS: Final = 60_000
FIRST_ID: Final = 1_000

_CHECK_OF: Final = {
    "REGISTER": "register-header",
    "UPDATE": "register-header",
    "HEARTBEAT": "heartbeat-header",
    "ACK": "answer-header",
    "NACK": "answer-header",
    "PART": "answer-header",
}
Mood = Literal["accept", "refuse", "mute"]


@dataclass(slots=True)
class Delivery:
    """One DELIVER and what came of it."""

    id: int
    body: Sequence[bytes]
    parts: list[Sequence[bytes]] = field(default_factory=list)
    answer: Message | None = None


class BackendPlay(Play):
    """The daemon's backend socket, played against one backend.

    Args:
        book, timeout_s, can_end: see `Play`.
        capabilities: the name of the capability that has each role.

    Attributes:
        mood: `accept`: as the daemon does; `refuse`: every REGISTER gets `name_taken`; `mute`: nothing is answered.
        peer: the connection of the registration in force.
        registration: the header of the newest REGISTER.
        pulse: the check that a silence of the backend fails now.
        open: deliveries without their answer.
        unwanted: ids that must not be answered, and the check that an answer fails.
    """

    def __init__(self, book: Book, timeout_s: float, capabilities: Mapping[str, str], *, can_end: bool) -> None:
        super().__init__(book, Side.BACKEND, timeout_s, can_end=can_end)
        self._names = capabilities
        self.mood: Mood = "accept"
        self.peer: Message | None = None
        self.registration: Mapping[str, Any] = {}
        self.pulse = "heartbeat"
        self.open: dict[int, Delivery] = {}
        self._answered: set[int] = set()
        self._dropped: set[int] = set()
        self.unwanted: dict[int, str] = {}
        self._last_sign_s = math.inf
        self._draining = False
        self._heard = False
        self._next_id = FIRST_ID

    def judge(self, message: Message) -> None:
        """Hold a message of the backend against what always holds, and answer as the daemon does."""
        known = _CHECK_OF.get(message.verb, "commands")
        ours = len(message.peer) == 5 and message.peer[0] == 0  # ZeroMQ's own names begin with a zero byte
        self.check("routing-id", ours, "a connection without a routing id of its own", f"id {message.peer.hex()}")
        if not self._heard:
            self._heard = True
            self.check("register-first", message.verb == "REGISTER", "REGISTER as the first message", message)
        if message.fault is not None:
            self.check(known, False, f"no {message.fault[0]}: {message.fault[1]}", message)
        else:
            self.book.passed(known)
            self.book.passed("commands")
        if message.verb == "REGISTER" and message.fault is None:
            self._on_register(message)
        elif self.mood != "mute":
            self._on_other(message)

    def accept(self, message: Message) -> None:
        """Take a REGISTER, as the daemon does."""
        self.peer, self.registration, self._draining = message, message.header, False
        self._last_sign_s = math.inf  # counted from the next sign: REGISTERED is on its way
        self.say(message, "REGISTERED", {"name": message.header["name"], "heartbeat_ms": HEARTBEAT_MS})

    def forget(self) -> None:
        """Know the backend no more: what is open is lost."""
        self.peer, self._last_sign_s = None, math.inf
        self._dropped.update(self.open)
        self.open.clear()

    def tell(self, verb: str, header: Mapping[str, Any], body: Sequence[bytes] = (), **how: str) -> None:
        """Send a message to the registered backend."""
        assert self.peer is not None
        self.say(self.peer, verb, dict(header), body, **how)

    def tell_frames(self, frames: Sequence[bytes]) -> None:
        """Send frames to the registered backend as they are."""
        assert self.peer is not None
        self.act(Send(self.peer.peer, (b"", *frames) if self.peer.delimited else tuple(frames)))

    def registered(self) -> Script[None]:
        """Wait for a registration; without one nothing more can be seen."""
        until = self.now + self.timeout_s
        while self.peer is None:
            if self.now >= until:
                raise Ended(f"it was not registered any more, and did not REGISTER within {self.timeout_s:g} s")
            yield until

    def capability(self, role: str) -> str | None:
        """Return the capability that has a role here; for `any`, one that needs no body of a certain kind."""
        offered = self.registration.get("capabilities", ())
        if role == "any":
            echo = self.capability("echo")
            return echo or (offered[0] if offered else None)
        name = self._names.get(role, f"conform.{role}")
        return name if name in offered else None

    def offers(self, role: str) -> str:
        """Return the capability that has a role; where none has, the script cannot go on."""
        name = self.capability(role)
        if name is None:
            raise Unseen(offering(role))
        return name

    def header(self, role: str, ident: int | None = None) -> dict[str, Any]:
        """Return the header of a DELIVER to whatever has a role here, under a new id."""
        if ident is None:
            ident = self._next_id
            self._next_id += 1
        about = {"id": ident, "message": f"conform{ident}", "capability": self.offers(role), "priority": 2}
        return about | {"ttl_ms": TTL_MS, "attempt": 1, "head": 1, "heads": 1}

    def opened(self, header: Mapping[str, Any], body: Sequence[bytes]) -> Delivery:
        """Note a delivery that is about to be sent."""
        delivery = Delivery(header["id"], body)
        self.open[delivery.id] = delivery
        return delivery

    def deliver(self, role: str, body: Sequence[bytes] = (), **extra: Any) -> Delivery:
        """DELIVER a body to whatever has a role here, with further header keys."""
        header = self.header(role) | extra
        delivery = self.opened(header, body)
        self.tell("DELIVER", header, body)
        return delivery

    def answer(self, ident: str, delivery: Delivery, within_s: float | None = None) -> Script[Message]:
        """Return the ACK or NACK of a delivery."""
        if delivery.answer is not None:
            return delivery.answer

        def wanted(message: Message) -> bool:
            return delivery.answer is message

        return (yield from self.expect(ident, f"ACK or NACK of delivery {delivery.id}", wanted, within_s))

    # --- what the daemon does ---

    def _on_register(self, message: Message) -> None:
        before, now = self.registration, message.header
        if before:
            same = before["name"] == now["name"]
            self.check("same-name", same, f"name {before['name']!r}, as before", message)
            if "session" in before:
                self.check("session", before["session"] == now.get("session"), "the session of before", message)
        if self.mood == "accept":
            self.accept(message)
        elif self.mood == "refuse":
            self.registration = now
            self._error(message, "name_taken", "another connection holds the name", retry=True)

    def _on_other(self, message: Message) -> None:
        if message.verb == "REGISTER" and message.fault is not None:
            self._error(message, *message.fault, retry=False)
            return
        if self.peer is None or message.peer != self.peer.peer:
            self._error(message, "not_registered", f"{message.verb} before REGISTER", retry=False)
            return
        self._sign(message)
        if message.fault is not None:
            self._error(message, *message.fault, retry=False)
        elif message.verb in ("ACK", "NACK", "PART"):
            self._on_answer(message)
        elif message.verb == "HEARTBEAT":
            self.say(message, "HEARTBEAT", {})
        elif message.verb == "UPDATE":
            self.registration = {**self.registration, **message.header}
            self.say(message, "REGISTERED", {"name": self.registration["name"], "heartbeat_ms": HEARTBEAT_MS})
        elif message.verb == "DRAIN":
            self._draining = True
        elif message.verb == "UNREGISTER":
            self.open.clear()
            self._draining = True
        if self._draining and not self.open:
            self.say(message, "BYE", {})
            self.forget()

    def _sign(self, message: Message) -> None:
        """Every message is a sign of life."""
        gap_s = message.at - self._last_sign_s
        if gap_s > GAP_S:
            wanted = f"a sign of life every {HEARTBEAT_MS} ms; up to {GAP_S * 1000:.0f} ms pass"
            self.book.failed(self.pulse, wanted, f"nothing for {gap_s * 1000:.0f} ms")
        self._last_sign_s = message.at

    def _on_answer(self, message: Message) -> None:
        delivery = self.open.get(message.id)
        if delivery is None:
            self._on_stray(message)
            return
        self.book.passed("answer-id")
        if message.verb == "PART":
            delivery.parts.append(message.body)
            return
        del self.open[delivery.id]
        self._answered.add(delivery.id)
        delivery.answer = message
        self.book.passed("one-answer")

    def _on_stray(self, message: Message) -> None:
        """An answer to nothing that is open."""
        if message.id in self.unwanted:
            self.check(self.unwanted[message.id], False, f"nothing about delivery {message.id}", message)
        elif message.id in self._dropped:
            expected = "nothing: the registration that got this DELIVER has ended"
            self.check("drop-unfinished", False, expected, message)
        elif message.id in self._answered:
            self.check("one-answer", False, "nothing more after the ACK or NACK of a delivery", message)
        else:
            ids = ", ".join(map(str, self.open)) or "none"
            self.check("answer-id", False, f"an answer to a delivery that is open (now: {ids})", message)

    def _error(self, message: Message, code: str, detail: str, *, retry: bool) -> None:
        self.say(message, "ERROR", {"id": None, "code": code, "detail": detail, "retry": retry})


def backend_play(timeout_s: float, capabilities: Mapping[str, str], *, can_end: bool) -> BackendPlay:
    """Return a play against a backend, with an empty book."""
    return BackendPlay(Book(CHECKS), timeout_s, capabilities, can_end=can_end)
