"""ZMTP 3.1 as a ROUTER speaks it, or a DEALER, without sockets: bytes in, messages out; messages in, bytes out. Pure.

Source: https://rfc.zeromq.org/spec/37/ (ZMTP 3.1), NULL mechanism. What libzmq (DEALER and REQ, 4.0 and later) sends
and expects, and no more.

Rules:
- Bytes of a peer raise exactly `ProtocolError`; the connection is closed then, as the specification asks. Messages that
  were whole before the fault are not lost.
- Memory is bounded whatever comes: a frame over `4 x message_bytes` ends the connection, a message over
  `message_bytes` is skipped as it arrives and shows up with a `Skipped` frame in place of what was dropped, and frames
  beyond the most that are allowed are counted, not kept. libzmq cannot promise that: a message whose frames
  never end grows in its memory, unseen by the application.
- The routing id that a peer may announce is ignored: connections have names of our own, so nobody can take another's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

from router_daemon.errors import ProtocolError
from router_daemon.wire import Limits

GREETING: Final = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
GREETING_BYTES: Final = 64
FRAME_LIMIT_FACTOR: Final = 4
MAX_COMMAND_BYTES: Final = 4_096
LARGE_BYTES: Final = 16_384
PEERS_OF: Final = {b"ROUTER": frozenset({b"DEALER", b"REQ", b"ROUTER"}), b"DEALER": frozenset({b"ROUTER"})}
"""Whom a socket of ours talks to: one that listens says ROUTER, one that dials DEALER."""

_MORE, _LONG, _COMMAND = 1, 2, 4
_LEGAL_FLAGS: Final = frozenset({0, _MORE, _LONG, _LONG | _MORE, _COMMAND, _COMMAND | _LONG})
_LONG_HEAD: Final = struct.Struct(">BQ")
_size: Final = struct.Struct(">Q").unpack_from
SHORT: Final = 256
"""From so many bytes on a frame's size takes eight bytes."""
_SHORT_LAST: Final = tuple(bytes((0, size)) for size in range(SHORT))
_SHORT_MORE: Final = tuple(bytes((_MORE, size)) for size in range(SHORT))


class Skipped:
    """Stands for bytes that were too many to keep; its length is theirs."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


def frame_head(size: int, *, more: bool) -> bytes:
    """Return what stands before a frame's body."""
    if size < SHORT:
        return (_SHORT_MORE if more else _SHORT_LAST)[size]
    return _LONG_HEAD.pack(_LONG | more, size)


LAST_HEADS: Final = tuple(frame_head(size, more=False) for size in range(2_048))
"""The heads of last frames that are not large, by size: to look one up costs a third of making it."""


def heads_after(first: bytes) -> tuple[bytes, ...]:
    """Return what stands before the second of three or more frames, by its size below `SHORT`: the first, and its head.

    As one piece, because each piece costs where pieces are collected and joined.
    """
    return tuple(frame_head(len(first), more=True) + first + head for head in _SHORT_MORE)


def append_frames(out: list[Any], first: bytes, frames: Sequence[Any]) -> int:
    """Append a message, each frame behind its head; return the bytes of all frames but the first."""
    out += (frame_head(len(first), more=True), first)
    total = 0
    last = len(frames) - 1
    for index, frame in enumerate(frames):
        size = len(frame)
        out += (frame_head(size, more=index < last), frame)
        total += size
    return total


def command(name: bytes, data: bytes) -> bytes:
    """Return a command frame."""
    body = bytes((len(name),)) + name + data
    if len(body) < 256:
        return bytes((_COMMAND, len(body))) + body
    return bytes((_COMMAND | _LONG,)) + len(body).to_bytes(8, "big") + body


PING: Final = command(b"PING", bytes(2))
"""Asks for a sign of life, and with a time to live of 0 for nothing else."""


def ready(kind: bytes = b"ROUTER") -> bytes:
    """Return the READY of such a socket without a routing id."""
    return command(b"READY", _properties({b"Socket-Type": kind, b"Identity": b""}))


def _properties(values: dict[bytes, bytes]) -> bytes:
    return b"".join(bytes((len(k),)) + k + len(v).to_bytes(4, "big") + v for k, v in values.items())


def parse_properties(data: bytes) -> dict[bytes, bytes]:
    """Return a READY's properties, their names in lower case.

    Raises:
        ProtocolError: a length leads beyond the end.
    """
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        name_end = at + 1 + data[at]
        value_at = name_end + 4
        value_end = value_at + int.from_bytes(data[name_end:value_at], "big")
        if value_end > len(data) or value_at > len(data):
            raise ProtocolError("bad_frames", "ZMTP: malformed metadata")
        found[bytes(data[at + 1 : name_end]).lower()] = bytes(data[value_at:value_end])
        at = value_end
    return found


class Reader:
    """What one connection has sent, turned into messages.

    `feed` appends whole messages, each `[peer, frame, ...]`; `replies` collects what has to be sent back (READY, PONG).
    `large`: it sends large messages, so a view is better fed than bytes, which are copied once more: what a view costs
    more is paid per frame.
    """

    __slots__ = (
        "_buffer",
        "_first",
        "_frames",
        "_greeted",
        "_kept",
        "_kind",
        "_limits",
        "_most_frames",
        "_needed",
        "_peer",
        "_ready",
        "_skip",
        "_skip_more",
        "_usual",
        "answers_ping",
        "large",
        "replies",
    )  # fmt: skip

    def __init__(self, peer: bytes, limits: Limits, kind: bytes = b"ROUTER") -> None:
        self._peer = peer
        self._kind = kind
        self._limits = limits
        self._most_frames = limits.body_frames + 5
        self._buffer = bytearray()
        self._first = b""  # the first frame of its last message of the common shape, and how that message began
        self._usual = bytes((_MORE, 0, _MORE))
        self._needed = 0  # bytes that the buffer must hold before looking at it again is worth it; while it has some
        self._greeted = False
        self._ready = False
        self._frames: list[Any] = [peer]
        self._kept = 0
        self._skip = 0
        self._skip_more = False
        self.replies: list[bytes] = []
        self.answers_ping = False
        self.large = False

    @property
    def ready(self) -> bool:
        """The handshake is done."""
        return self._ready

    def feed(self, data: bytes | memoryview, into: list[list[Any]]) -> None:
        """Take in bytes (at least one) and append the messages that they complete; nothing of a view is kept.

        Raises:
            ProtocolError: this is no ZMTP peer of a ROUTER, or a frame is beyond all limits. It is not fed again.
        """
        at, before = 0, len(into)
        while buffer := self._buffer:  # take only what that lacks: what follows need not be copied once more
            rest = self._needed - len(buffer)
            buffer += memoryview(data)[at : at + rest]
            if len(buffer) < self._needed:
                return
            at += rest
            self._buffer = bytearray()
            self._look(memoryview(buffer) if len(buffer) > LARGE_BYTES else bytes(buffer), 0, into)
        if at < len(data):
            self._look(data, at, into)
        self.large = len(data) > LARGE_BYTES * (len(into) - before + 1)

    def _look(self, data: bytes | memoryview, at: int, into: list[list[Any]]) -> None:
        """Read from there on, and keep what is incomplete at the end."""
        if not self._greeted:
            at = self._greet(bytes(data))
        if self._greeted:
            at = self._parse(data, at, into)
        if at < len(data):
            self._buffer += memoryview(data)[at:]

    def _greet(self, data: bytes) -> int:
        """Check the greeting as far as it has come; return how much of the data it was."""
        if data[0] != 0xFF or (len(data) >= 10 and data[9] & 0x01 == 0):
            raise ProtocolError("bad_frames", "ZMTP: not a greeting")
        if len(data) > 10 and data[10] < 3:
            raise ProtocolError("bad_frames", "ZMTP: version below 3")
        if len(data) < GREETING_BYTES:
            self._needed = next(size for size in (10, 11, GREETING_BYTES) if len(data) < size)
            return 0
        if data[12:32].rstrip(b"\0") != b"NULL":
            raise ProtocolError("bad_frames", "ZMTP: only the NULL mechanism is offered")
        self._greeted = True
        self.answers_ping = data[10] > 3 or data[11] >= 1
        self.replies.append(ready(self._kind))
        return GREETING_BYTES

    def _parse(self, data: bytes | memoryview, at: int, messages: list[list[Any]]) -> int:
        """Append whole messages; return where the first incomplete frame begins."""
        end = len(data)
        if self._skip:
            at = self._skip_on(at, end, messages)
        elif self._ready and len(self._frames) == 1 and isinstance(data, bytes):
            at = self._parse_common(data, at, end, messages)
        frames, most, limit = self._frames, self._most_frames, self._limits.message_bytes
        resumed = len(frames) > 1
        while at + 2 <= end:
            flags = data[at]
            if flags <= _MORE and self._ready:
                body_at = at + 2
                stop = body_at + data[at + 1]
            elif (
                flags <= _MORE | _LONG
                and at + 9 <= end
                and self._ready
                and self._kept + (size := _size(data, at + 1)[0]) <= limit
            ):
                body_at = at + 9
                stop = body_at + size
                if stop <= end:
                    self._kept += size
            else:
                body_at, stop = self._head(data, at, end)
                if stop < 0:
                    at = self._skip_on(body_at, end, messages)
                    frames = self._frames
                    continue
                if flags & _COMMAND and stop <= end:
                    self._command(bytes(data[body_at:stop]))
                    at = stop
                    continue
            if stop > end:
                self._needed = stop - at
                return at
            if len(frames) < most:
                frames.append(bytes(data[body_at:stop]))
            at = stop
            if not flags & _MORE:
                messages.append(frames)
                frames = self._frames = [self._peer]
                self._kept = 0
                if resumed and isinstance(data, bytes):  # that one came in pieces: those behind it may be common
                    resumed = False
                    at = self._parse_common(data, at, end, messages)
        self._needed = 2
        return at

    def _parse_common(self, data: bytes, at: int, end: int, messages: list[list[Any]]) -> int:
        """Append messages as long as they are whole and of the common shape; return where the first other one begins.

        That shape, two short frames and a last one within all limits, is what `_parse` would make of it frame by frame.
        A peer's messages mostly begin like its last one: one comparison stands for looking at the first frame and
        copying it, and the same object as before is looked up faster.
        """
        peer, limit = self._peer, self._limits.message_bytes
        usual, first = self._usual, self._first
        usual_size = len(usual)
        try:
            while at < end:
                size_at = at + usual_size
                if data[at:size_at] != usual:
                    size_at = at + 3 + data[at + 1]
                    if data[at] != _MORE or data[size_at - 1] != _MORE:
                        return at
                    self._usual, self._first = usual, first = data[at:size_at], data[at + 2 : size_at - 1]
                    usual_size = len(usual)
                header_at = size_at + 1
                last_at = header_at + data[size_at]
                flags = data[last_at]
                if not flags:
                    body_at = last_at + 2
                    stop = body_at + data[last_at + 1]
                elif flags == _LONG and (size := _size(data, last_at + 1)[0]) <= limit:
                    body_at = last_at + 9
                    stop = body_at + size
                else:
                    return at
                if stop > end:
                    return at
                messages.append([peer, first, data[header_at:last_at], data[body_at:stop]])
                at = stop
        except (IndexError, struct.error):  # a head has not come as a whole
            pass
        return at

    def _head(self, data: bytes | memoryview, at: int, end: int) -> tuple[int, int]:
        """Return where the body of a long frame or a command begins and ends; a negative end: skip it as it comes."""
        flags = data[at]
        if flags not in _LEGAL_FLAGS:
            raise ProtocolError("bad_frames", f"ZMTP: a frame with the flags {flags:#04x}")
        if not flags & _LONG:
            body_at, size = at + 2, data[at + 1]
        elif at + 9 > end:
            return at, end + 1
        else:
            body_at, size = at + 9, int.from_bytes(data[at + 1 : at + 9], "big")
        if flags & _COMMAND or not self._ready:
            if size > MAX_COMMAND_BYTES or not flags & _COMMAND:
                raise ProtocolError("bad_frames", "ZMTP: expected a short command")
            return body_at, body_at + size
        limit = self._limits.message_bytes
        if size > FRAME_LIMIT_FACTOR * limit:
            raise ProtocolError("too_large", "a frame over four times the limit of a message")
        if self._kept + size > limit:
            self._begin_skip(size, more=bool(flags & _MORE))
            return body_at, -1
        if body_at + size <= end:
            self._kept += size
        return body_at, body_at + size

    def _skip_on(self, at: int, end: int, messages: list[list[Any]]) -> int:
        """Pass over bytes of a frame that is not kept; return where to go on."""
        step = min(self._skip, end - at)
        self._skip -= step
        if not self._skip and not self._skip_more:
            messages.append(self._frames)
            self._frames = [self._peer]
            self._kept = 0
        return at + step

    def _begin_skip(self, size: int, *, more: bool) -> None:
        if len(self._frames) < self._most_frames:
            self._frames.append(Skipped(size))
        self._skip, self._skip_more = size, more

    def _command(self, body: bytes) -> None:
        name_end = 1 + body[0] if body else 1
        if name_end > len(body):
            raise ProtocolError("bad_frames", "ZMTP: malformed command")
        name, data = body[1:name_end], body[name_end:]
        if not self._ready:
            if name != b"READY":
                raise ProtocolError("bad_frames", f"ZMTP: expected READY, got {name[:20]!r}")
            kind = parse_properties(data).get(b"socket-type", b"")
            if kind not in PEERS_OF[self._kind]:
                named = kind[:20].decode("ascii", "replace")
                raise ProtocolError("bad_frames", f"ZMTP: a {named} cannot talk to a {self._kind.decode()}")
            self._ready = True
        elif name == b"PING":
            self.replies.append(command(b"PONG", data[2:18]))
