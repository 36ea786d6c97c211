"""Raw peers that know the wire contract and nothing else: blocking sockets, MessagePack headers, deadlines.

Rules:
- Nothing of the daemon's own code is used, neither its codec nor its clients.
- Every message received is checked against `contract`; a client also checks that each of its SENDs gets at most
  one last message, and nothing after it.
- Nothing sleeps. "Nothing came" is asserted behind a fence: a PING (client) or HEARTBEAT (backend) whose answer
  comes after everything the daemon had to say before.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterable
from typing import Any, Final

import zmq
from contract import Message, check_for_backend, check_for_client, is_id, pack, parse

WAIT_S: Final = 15.0  # for what must come: long, because it is only waited out by a failing test
LATE_S: Final = 6.0  # how much later than told a busy machine may be; what else could happen is further away
_numbers = itertools.count(1)


def unique(prefix: str) -> str:
    """Return a name nobody else uses, so that tests can share a daemon."""
    return f"{prefix}-{next(_numbers)}-{uuid.uuid4().hex[:8]}"


class RawPeer:
    """One socket, whole messages in and out; with `delimiter` it speaks as a REQ socket does."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], address: str, *, delimiter: bool = False, **options: int
    ) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.delimiter = delimiter
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDTIMEO, 10_000)
        for name, value in options.items():
            self.socket.setsockopt(getattr(zmq, name), value)
        self.socket.connect(address)

    def send_frames(self, *frames: bytes) -> None:
        """Send the frames as they are."""
        self.socket.send_multipart([b"", *frames] if self.delimiter else list(frames))

    def command(self, verb: str, header: Any = None, *body: bytes) -> None:
        """Send one command; a header of bytes goes as it is, anything else as MessagePack."""
        packed = header if isinstance(header, bytes) else pack({} if header is None else header)
        self.send_frames(b"CAR1." + verb.encode(), packed, *body)

    def poll_frames(self, timeout_s: float) -> list[bytes] | None:
        """Return the next message's frames, or None when none came in time."""
        if not self.socket.poll(max(0, int(timeout_s * 1000))):
            return None
        frames = self.socket.recv_multipart()
        if self.delimiter:
            assert frames[0] == b"", f"the delimiter did not come back: {frames!r}"
            del frames[0]
        return frames

    def poll(self, timeout_s: float) -> Message | None:
        """Return the next message, checked, or None when none came in time."""
        frames = self.poll_frames(timeout_s)
        if frames is None:
            return None
        message = parse(frames)
        self.check(message)
        return message

    def check(self, message: Message) -> None:
        """Assert that the daemon may send this message here and now."""
        raise NotImplementedError

    def recv(self, timeout_s: float = WAIT_S) -> Message:
        """Return the next message; none in time fails the test."""
        message = self.poll(timeout_s)
        assert message is not None, f"nothing came within {timeout_s} s"
        return message

    def expect(self, verb: str, *, timeout_s: float = WAIT_S, **keys: Any) -> Message:
        """Return the next message, which must be this command with these header values."""
        message = self.recv(timeout_s)
        found = {key: message.header.get(key) for key in keys}
        assert (message.verb, found) == (verb, keys), message
        return message

    def close(self) -> None:
        """Close the socket; the daemon is told nothing."""
        self.socket.close(linger=0)


class RawClient(RawPeer):
    """A client that keeps the books of its own SENDs."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], address: str, *, delimiter: bool = False, **options: int
    ) -> None:
        super().__init__(context, address, delimiter=delimiter, **options)
        self.open: set[tuple[type, Any]] = set()
        self._ids = itertools.count(1)

    def send(self, capability: str, *body: bytes, **keys: Any) -> Any:
        """SEND; returns the id, a fresh int unless one is given."""
        ident = keys.setdefault("id", next(self._ids))
        self.track(ident)
        self.command("SEND", {"capability": capability, **keys}, *body)
        return ident

    def send_raw(self, ident: Any, header: Any, *body: bytes) -> None:
        """SEND with a header of its own making whose id can be read as `ident` (None: cannot be read)."""
        if ident is not None:
            self.track(ident)
        self.command("SEND", header, *body)

    def track(self, ident: Any) -> None:
        """Take note that a SEND of this id is on its way."""
        if is_id(ident):
            self.open.add((type(ident), ident))

    def check(self, message: Message) -> None:
        check_for_client(message)
        ident = message.header.get("id")
        if ident is None:
            return
        key = (type(ident), ident)
        assert key in self.open, f"about a SEND that is not open here: {message}"
        if message.header.get("last"):
            self.open.remove(key)

    def error(self, code: str, ident: Any, *, last: bool = True, timeout_s: float = WAIT_S) -> Message:
        """Return the next message, which must be this ERROR; its id is compared with its type."""
        message = self.expect("ERROR", code=code, last=last, timeout_s=timeout_s)
        assert (type(message.header["id"]), message.header["id"]) == (type(ident), ident), message
        return message

    def pending(self) -> list[Message]:
        """Return all the daemon had to say to this client until now."""
        self.command("PING")
        messages = []
        while (message := self.recv()).verb != "PONG":
            messages.append(message)
        return messages

    def until_last(self, ident: Any, timeout_s: float = WAIT_S) -> list[Message]:
        """Return the messages up to the last one of this SEND; this client must have no other open."""
        messages = [self.expect_about(ident, timeout_s)]
        while not messages[-1].header.get("last"):
            messages.append(self.expect_about(ident, timeout_s))
        return messages

    def expect_about(self, ident: Any, timeout_s: float = WAIT_S) -> Message:
        """Return the next message, which must be about this SEND."""
        message = self.recv(timeout_s)
        assert message.header.get("id") == ident, message
        return message


class RawBackend(RawPeer):
    """A backend that answers nothing by itself."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        name: str,
        *,
        delimiter: bool = False,
        **options: int,
    ) -> None:
        super().__init__(context, address, delimiter=delimiter, **options)
        self.name = name
        self._beats = 0  # HEARTBEATs whose answers are still to come

    def check(self, message: Message) -> None:
        check_for_backend(message)

    def poll(self, timeout_s: float) -> Message | None:
        """Return the next message that is no answer to a HEARTBEAT, or None when none came in time."""
        deadline_s = time.monotonic() + timeout_s
        while (message := super().poll(max(0.0, deadline_s - time.monotonic()))) is not None:
            if message.verb != "HEARTBEAT":
                return message
            self._beats -= 1
            assert self._beats >= 0, "a HEARTBEAT nobody asked for"
        return None

    def register(self, *capabilities: str, **keys: Any) -> Message:
        """REGISTER and return the REGISTERED."""
        self.ask_register(*capabilities, **keys)
        return self.expect("REGISTERED", name=keys.get("name", self.name))

    def ask_register(self, *capabilities: str, **keys: Any) -> None:
        """REGISTER without waiting for the answer."""
        self.command("REGISTER", {"name": self.name, "capabilities": list(capabilities), **keys})

    def beat(self, **keys: Any) -> None:
        """Send a HEARTBEAT; its answer is dropped when it comes."""
        self._beats += 1
        self.command("HEARTBEAT", keys)

    def pending(self) -> list[Message]:
        """Return all the daemon had to say to this backend until now."""
        self.beat()
        messages = []
        while self._beats:
            message = super().poll(WAIT_S)
            assert message is not None, "a HEARTBEAT was not answered"
            if message.verb == "HEARTBEAT":
                self._beats -= 1
            else:
                messages.append(message)
        return messages

    def delivery(self, timeout_s: float = WAIT_S, **keys: Any) -> Message:
        """Return the next message, which must be a DELIVER with these header values."""
        return self.expect("DELIVER", timeout_s=timeout_s, **keys)

    def ack(self, delivery: Message, *body: bytes, **keys: Any) -> None:
        """ACK the delivery."""
        self.command("ACK", {"id": delivery.header["id"], **keys}, *body)

    def nack(self, delivery: Message, **keys: Any) -> None:
        """NACK the delivery."""
        self.command("NACK", {"id": delivery.header["id"], **keys})

    def part(self, delivery: Message, *body: bytes, **keys: Any) -> None:
        """Stream one piece."""
        self.command("PART", {"id": delivery.header["id"], **keys}, *body)

    def cancelled(self, delivery: Message, timeout_s: float = WAIT_S) -> None:
        """Assert that the next message is the CANCEL of this delivery."""
        self.expect("CANCEL", id=delivery.header["id"], timeout_s=timeout_s)


def recv_while_beating(peer: RawPeer, beating: Iterable[RawBackend], timeout_s: float = WAIT_S) -> Message:
    """Return the peer's next message while these backends give their signs of life."""
    backends = list(beating)
    deadline_s = time.monotonic() + timeout_s
    while True:
        for backend in backends:
            backend.beat()
        message = peer.poll(0.08)
        if message is not None:
            return message
        assert time.monotonic() < deadline_s, f"nothing came within {timeout_s} s"


class Stopwatch:
    """Time since it was made, by the test's own clock."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._start_s
