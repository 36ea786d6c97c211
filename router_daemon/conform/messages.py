"""Frames of a peer, read as the daemon reads them; frames for it; and both as people read them.

Rules:
- What is wrong with a message is the daemon's own word (`wire.Decoder`): code and detail are what a peer would be told.
- Headers for a peer are packed from plain maps, so that a script can say what no daemon of today says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from router_daemon.core.events import Malformed
from router_daemon.core.types import Side
from router_daemon.wire import Decoder, Limits

PREFIX: Final = "CAR1."
SHOWN_BYTES: Final = 32
"""Of each frame; what is left out is told by its size."""
SHOWN_FRAMES: Final = 5
SHOWN_CHARS: Final = 400
"""Of a header as text."""


class Message(NamedTuple):
    """One message of the peer under test.

    Attributes:
        peer: its connection.
        delimited: whether it began with the empty frame.
        frames: the others, as they came.
        verb: without its version; "" where there is none of CAR/1.
        header: decoded; empty where it cannot be.
        fault: the daemon's code and detail, where it would refuse the message.
        at: when it came, in seconds.
    """

    peer: bytes
    delimited: bool
    frames: tuple[bytes, ...]
    verb: str
    header: Mapping[str, Any]
    fault: tuple[str, str] | None
    at: float

    @property
    def body(self) -> tuple[bytes, ...]:
        """The frames after the header."""
        return self.frames[2:]

    @property
    def id(self) -> Any:
        """What the header names; None where it names nothing."""
        return self.header.get("id")


class Reader:
    """Reads what comes to one of the daemon's two sockets."""

    def __init__(self, side: Side) -> None:
        self._decoder = Decoder(side, Limits())

    def read(self, frames: Sequence[bytes], now: float) -> Message:
        """Return the message in the frames of a ROUTER socket, the connection first."""
        if len(frames) < 2:
            return Message(frames[0], False, (), "", {}, ("bad_frames", "nothing after the connection"), now)
        event = self._decoder.decode(frames)
        fault = (event.code, event.detail) if isinstance(event, Malformed) else None
        delimited = len(frames[1]) == 0
        rest = tuple(frames[2:] if delimited else frames[1:])
        return Message(frames[0], delimited, rest, _verb(rest), _header(rest), fault, now)


def pack(verb: str, header: Mapping[str, Any], body: Sequence[bytes] = (), *, version: str = PREFIX) -> list[bytes]:
    """Return the frames of a message to a peer, without its connection."""
    return [f"{version}{verb}".encode(), msgspec.msgpack.encode(dict(header)), *body]


def shown(frames: Sequence[bytes]) -> str:
    """Return a message for a person: command and header in words, then each frame in hexadecimal, shortened."""
    lines = [f"{_text(frames[0]) if frames else 'no frames'} {_readable(_header(frames))}"[:SHOWN_CHARS]]
    lines += [f"  [{len(frame)}] {hexadecimal(frame)}".rstrip() for frame in frames[:SHOWN_FRAMES]]
    if len(frames) > SHOWN_FRAMES:
        rest = frames[SHOWN_FRAMES:]
        lines.append(f"  and {len(rest)} more frames, {sum(map(len, rest))} bytes")
    return "\n".join(lines)


def hexadecimal(frame: bytes) -> str:
    """Return the beginning of a frame in groups of four bytes."""
    return frame[:SHOWN_BYTES].hex(" ", -4) + (" ..." if len(frame) > SHOWN_BYTES else "")


def shown_body(body: Sequence[bytes]) -> str:
    """Return a body in a line: how many frames, how many bytes, how the first ones begin."""
    begin = ", ".join(f"[{len(frame)}] {hexadecimal(frame[:8])}".rstrip() for frame in body[:SHOWN_FRAMES])
    more = ", ..." if len(body) > SHOWN_FRAMES else ""
    count = "1 frame" if len(body) == 1 else f"{len(body)} frames"
    return f"a body of {count}, {sum(map(len, body))} bytes{': ' if body else ''}{begin}{more}"


def _verb(frames: Sequence[bytes]) -> str:
    text = _text(frames[0]) if frames else ""
    return text.removeprefix(PREFIX) if text.startswith(PREFIX) else ""


def _header(frames: Sequence[bytes]) -> dict[str, Any]:
    try:
        header = msgspec.msgpack.decode(frames[1])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, IndexError):
        return {}
    return header if isinstance(header, dict) else {}


def _text(frame: bytes) -> str:
    return ascii(frame[:64].decode("latin-1"))[1:-1]


def _readable(header: Mapping[str, Any]) -> str:
    return json.dumps({str(key): value for key, value in header.items()}, default=_plain)


def _plain(value: Any) -> str:
    return f"bin {value.hex()[:SHOWN_BYTES]}" if isinstance(value, bytes) else repr(value)
