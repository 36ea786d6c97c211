"""Frames <-> events and actions: CAR/1 and, between daemons, RING/1; their versions and limits. Pure.

Rules:
- Bytes from outside become an event or a `Malformed` event, never another exception (`_header` turns whatever the
  codec raises into `ProtocolError`).
- The types in `core.events` say what a header may hold; msgspec checks them in C. What they cannot say (an id is str,
  int or bin; a binary embedding holds finite numbers; nesting) is checked here.
- The body is never looked into: its frames are passed on as the transport gave them.
- The commands between daemons are those of `ring.messages`, each the same class in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, get_type_hints

import msgspec
import numpy as np

from router_daemon.core import actions, events
from router_daemon.core.actions import Action
from router_daemon.core.events import Event, Malformed
from router_daemon.core.types import ClientId, Peer, Side
from router_daemon.errors import ProtocolError
from router_daemon.ring.messages import MESSAGES, ForwardHeader, Listed, Message, RosterHeader

PREFIX: Final = b"CAR1."
RING_PREFIX: Final = b"RING1."
MAX_ID_BYTES: Final = 64
MAX_NESTING: Final = 64
MAX_DETAIL_CHARS: Final = 256
MAX_COMMAND_BYTES: Final = 32

_VERSIONED: Final = {PREFIX: re.compile(rb"CAR\d+\."), RING_PREFIX: re.compile(rb"RING\d+\.")}
_NOT_CONTAINERS: Final = bytes(b for b in range(256) if not (0x80 <= b <= 0x9F or 0xDC <= b <= 0xDF))


class Limits(NamedTuple):
    """What a message may be at most."""

    body_frames: int = 64
    header_bytes: int = 65_536
    message_bytes: int = 16_777_216


class _IdOnly(msgspec.Struct):
    """What is read of a header that is wrong otherwise."""

    id: Any


class _Command:
    """How one verb is read."""

    __slots__ = ("check", "decode", "delimited", "event", "has_body", "verb")

    def __init__(
        self,
        verb: str,
        event: Callable[..., Event],
        header: type[msgspec.Struct],
        *,
        has_body: bool = False,
        check: Callable[[Any], None] | None = None,
        delimited: bool = True,
    ) -> None:
        self.verb = verb
        self.event = event
        self.decode: Callable[[Any], Any] = msgspec.msgpack.Decoder(header).decode
        self.has_body = has_body
        self.check = check
        self.delimited = delimited


def _check_request(request: events.Request) -> None:
    if type(request.id) is not int:
        _check_id(request.id)
    if request.embedding is not msgspec.UNSET:
        _check_embedding(request.embedding)


def _check_key(header: events.CancelHeader | events.FeedbackHeader) -> None:
    _check_id(header.id)


def _check_profile(header: events.Registration | events.Revision | ForwardHeader | Listed) -> None:
    if header.embedding is not msgspec.UNSET:
        _check_embedding(header.embedding)


def _check_roster(header: RosterHeader) -> None:
    for listed in header.backends:
        _check_profile(listed)


def _check_id(value: object) -> None:
    kind = type(value)
    if kind is int:
        return
    if kind is str:
        size = len(value.encode()) if len(value) * 4 > MAX_ID_BYTES else 0  # type: ignore[attr-defined,arg-type]
    elif kind is bytes:
        size = len(value)  # type: ignore[arg-type]
    else:
        raise ProtocolError("bad_header", f"id: expected str, int or bin, got {kind.__name__}")
    if size > MAX_ID_BYTES:
        raise ProtocolError("bad_header", f"id: at most {MAX_ID_BYTES} bytes, got {size}")


def _check_embedding(value: list[float] | bytes) -> None:
    if isinstance(value, bytes):
        if len(value) % 4:
            raise ProtocolError("bad_header", "embedding: a bin is little-endian float32, a multiple of 4 bytes")
        if not np.isfinite(np.frombuffer(value, "<f4")).all():
            raise ProtocolError("bad_header", "embedding: NaN or infinity")


def _of_a_daemon(kind: type[Any]) -> _Command:
    """Return how a command of another daemon is read; without the delimiter, as daemons are no REQ."""
    header = get_type_hints(kind)["header"]

    def event(peer: Peer, delimited: bool, *parts: Any) -> Event:  # noqa: ARG001 - as the others are called
        return kind(peer, *parts)  # type: ignore[no-any-return]

    checks: dict[Any, Callable[[Any], None]] = {ForwardHeader: _check_profile, RosterHeader: _check_roster}
    return _Command(
        kind.verb.decode(), event, header, has_body=kind.has_body, check=checks.get(header), delimited=False
    )


_COMMANDS: Final[dict[Side, dict[bytes, _Command]]] = {
    side: {PREFIX + command.verb.encode(): command for command in commands}
    for side, commands in {
        Side.CLIENT: (
            _Command("SEND", events.Send, events.Request, has_body=True, check=_check_request),
            _Command("CANCEL", events.Cancel, events.CancelHeader, check=_check_key, delimited=False),
            _Command("FEEDBACK", events.Feedback, events.FeedbackHeader, check=_check_key, delimited=False),
            _Command("PING", events.Ping, events.EmptyHeader),
        ),
        Side.BACKEND: (
            _Command("REGISTER", events.Register, events.Registration, check=_check_profile),
            _Command("UPDATE", events.Update, events.Revision, check=_check_profile),
            _Command("HEARTBEAT", events.Heartbeat, events.HeartbeatHeader),
            _Command("ACK", events.Ack, events.AckHeader, has_body=True),
            _Command("NACK", events.Nack, events.NackHeader),
            _Command("PART", events.Part, events.PartHeader, has_body=True),
            _Command("DRAIN", events.Drain, events.EmptyHeader),
            _Command("UNREGISTER", events.Unregister, events.EmptyHeader),
        ),
    }.items()
} | {Side.RING: {RING_PREFIX + kind.verb: _of_a_daemon(kind) for kind in MESSAGES}}

COMMANDS: Final[dict[type[Any], bytes]] = {
    kind: PREFIX + verb
    for kind, verb in (
        (actions.Reply, b"REPLY"),
        (actions.Piece, b"PART"),
        (actions.Accept, b"ACCEPT"),
        (actions.Error, b"ERROR"),
        (actions.Pong, b"PONG"),
        (actions.Registered, b"REGISTERED"),
        (actions.Deliver, b"DELIVER"),
        (actions.CancelDelivery, b"CANCEL"),
        (actions.HeartbeatReply, b"HEARTBEAT"),
        (actions.Bye, b"BYE"),
        (actions.BackendError, b"ERROR"),
    )
} | {kind: RING_PREFIX + kind.verb for kind in MESSAGES}

_WITH_DELIVERY_ID: Final = frozenset({"ACK", "NACK", "PART"})

_CODEC_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_FAULTS: Final = (*_CODEC_ERRORS, ProtocolError)
_decode_id = msgspec.msgpack.Decoder(_IdOnly).decode
encode_header: Final = msgspec.msgpack.Encoder().encode
"""Returns the bytes of a header alone, for a transport that frames by itself."""


def encode(action: Action | Message) -> list[Any]:
    """Return the frames of an action, its peer first."""
    if action.delimited:
        return [action.peer, b"", COMMANDS[type(action)], encode_header(action.header), *action.body]
    return [action.peer, COMMANDS[type(action)], encode_header(action.header), *action.body]


class Decoder:
    """Reads what one side sends, within the limits."""

    def __init__(self, side: Side, limits: Limits) -> None:
        self._side = side
        self._limits = limits
        self._commands = _COMMANDS[side]
        # One body frame of at most this is within the limit whatever the header.
        self._surely_bytes = limits.message_bytes - limits.header_bytes - MAX_COMMAND_BYTES

    def decode(self, frames: Sequence[Any]) -> Event:
        """Return the event for one message: its peer, an empty delimiter or none, command, header, body frames."""
        events: list[Event] = []
        self.decode_all((frames,), events)
        return events[0]

    def decode_all(self, messages: Iterable[Sequence[Any]], into: list[Event]) -> None:
        """Append the event for each message; see `decode`."""
        commands, surely_bytes, append = self._commands, self._surely_bytes, into.append
        for frames in messages:
            if len(frames) == 4:
                peer, name, head, piece = frames  # the common shape, one body frame
                command = commands.get(name)
                if command is not None and len(head) <= MAX_NESTING and len(piece) <= surely_bytes:
                    try:  # nothing in it can exceed a limit
                        header = command.decode(head)
                        check = command.check
                        if check is not None:
                            check(header)
                    except _FAULTS:
                        pass  # `_decode_any` meets it again and says what it is
                    else:
                        if command.has_body:
                            append(command.event(peer, False, header, [piece]))
                        else:
                            append(command.event(peer, False, header))
                        continue
            append(self._decode_any(frames))

    def _decode_any(self, frames: Sequence[Any]) -> Event:
        at = 1 if len(frames[1]) else 2
        command = self._commands.get(frames[at]) if len(frames) >= at + 2 else None
        if command is None:
            code, detail = _unreadable(frames, at, RING_PREFIX if self._side is Side.RING else PREFIX)
            return Malformed(self._side, frames[0], at == 2, "", code, detail)
        try:
            self._check_size(frames, at + 2)
            header = command.decode(frames[at + 1])
            if len(frames[at + 1]) > MAX_NESTING and _nests_too_deep(frames[at + 1]):
                raise ProtocolError("bad_header", f"nested deeper than {MAX_NESTING}")
            if command.check is not None:
                command.check(header)
            if at == 2 and not command.delimited:
                raise ProtocolError("bad_frames", f"{command.verb} is not for peers with the empty delimiter")
        except _CODEC_ERRORS as error:
            return self._malformed(frames, at, command, "bad_header", str(error))
        except ProtocolError as error:
            return self._malformed(frames, at, command, error.code, error.detail)
        if command.has_body:
            return command.event(frames[0], at == 2, header, frames[at + 2 :])
        return command.event(frames[0], at == 2, header)

    def _check_size(self, frames: Sequence[Any], body_at: int) -> None:
        limits = self._limits
        if len(frames) - body_at > limits.body_frames:
            raise ProtocolError("too_large", f"at most {limits.body_frames} body frames")
        if sum(map(len, frames)) - len(frames[0]) > limits.message_bytes:
            raise ProtocolError("too_large", f"at most {limits.message_bytes} bytes in all")
        if len(frames[body_at - 1]) > limits.header_bytes:
            raise ProtocolError("too_large", f"at most {limits.header_bytes} bytes of header")

    def _malformed(self, frames: Sequence[Any], at: int, command: _Command, code: str, detail: str) -> Malformed:
        found: Any = None
        if command.verb == "SEND":
            found = _readable_id(frames[at + 1])
        elif command.verb in _WITH_DELIVERY_ID:
            found = _readable_id(frames[at + 1])
            found = found if type(found) is int else None
        return Malformed(self._side, frames[0], at == 2, command.verb, code, detail[:MAX_DETAIL_CHARS], found)


def _unreadable(frames: Sequence[Any], at: int, prefix: bytes) -> tuple[str, str]:
    """Return code and detail for frames that hold no known command of that protocol."""
    if len(frames) < at + 2:
        return "bad_frames", "a message is a command, a header, and body frames"
    try:
        command = bytes(memoryview(frames[at])[:64])
    except TypeError:  # a transport's stand-in for what was too large to keep
        return "too_large", "a command of that size"
    if not command.isascii():
        return "bad_frames", f"a command is ASCII, got {command!r}"
    if _VERSIONED[prefix].match(command) and not command.startswith(prefix):
        return "unsupported_version", f"this is {prefix[:-1].decode()}, got {command!r}"
    return "unknown_command", f"got {command!r}"


def _readable_id(frame: Any) -> ClientId | None:
    """Return the id of a header that is one whole map with a legal id, whatever else is wrong with it."""
    try:
        try:
            found = _decode_id(frame).id
        except _CODEC_ERRORS:  # nested beyond what the codec follows, or keys that are no strings
            found = _walk_to_id(memoryview(frame))
        _check_id(found)
    except (*_CODEC_ERRORS, ProtocolError, TypeError, IndexError):
        return None
    return found  # type: ignore[no-any-return]


def _walk_to_id(data: memoryview) -> Any:
    """Return the value of the key `id` of a map, without recursion; IndexError where the map is not whole."""
    if not (0x80 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF)):
        raise IndexError("not a map")
    at, items = _step(data, 0)
    found = None
    for _ in range((items or 0) // 2):
        key_end = _skip(data, at)
        value_end = _skip(data, key_end)
        if bytes(data[at:key_end]) in _ID_KEYS:
            found = msgspec.msgpack.decode(data[key_end:value_end])
        at = value_end
    if at != len(data):
        raise IndexError("trailing bytes")
    return found


_ID_KEYS: Final = (b"\xa2id", b"\xd9\x02id", b"\xda\x00\x02id", b"\xdb\x00\x00\x00\x02id")


def _skip(data: memoryview, at: int) -> int:
    """Return where the value that begins at that place ends; IndexError where it is cut short or malformed."""
    left = 1
    while left:
        if data[at] == 0xC1:
            raise IndexError("not MessagePack")
        size, items = _step(data, at)
        at += size
        left += (items or 0) - 1
        if at > len(data):
            raise IndexError("cut short")
    return at


def _nests_too_deep(header: Any) -> bool:
    """Tell whether a well-formed header nests deeper than `MAX_NESTING`.

    Only a header with more than `MAX_NESTING` bytes that could open a container can; most end there, for one pass in
    C. The others are walked: typed keys nest at most four deep, so it is a key we skipped, or an innocent long value.
    """
    if len(bytes(header).translate(None, _NOT_CONTAINERS)) <= MAX_NESTING:
        return False
    return _depth(memoryview(header)) > MAX_NESTING


def _depth(data: memoryview) -> int:
    """Return how deep a well-formed MessagePack value nests; a scalar is 0 deep."""
    left = [1]
    deepest = at = 0
    while left:
        if left[-1] == 0:
            left.pop()
            continue
        left[-1] -= 1
        size, items = _step(data, at)
        at += size
        if items is not None:
            left.append(items)
            deepest = max(deepest, len(left) - 1)
    return deepest


_FIXED: Final = {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9} | {
    0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9, 0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18,
}  # fmt: skip
_SIZED: Final = {0xC4: (1, 2), 0xC5: (2, 3), 0xC6: (4, 5), 0xC7: (1, 3), 0xC8: (2, 4), 0xC9: (4, 6)} | {
    0xD9: (1, 2), 0xDA: (2, 3), 0xDB: (4, 5),
}  # fmt: skip
_COUNTED: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def _step(data: memoryview, at: int) -> tuple[int, int | None]:
    """Return how many bytes the token at that place takes, and of a container how many values follow (MessagePack)."""
    tag = data[at]
    if tag < 0x80 or tag >= 0xE0:
        return 1, None
    if tag < 0x90:
        return 1, 2 * (tag & 0x0F)
    if tag < 0xA0:
        return 1, tag & 0x0F
    if tag < 0xC0:
        return 1 + (tag & 0x1F), None
    if tag in _FIXED:
        return _FIXED[tag], None
    if tag in _SIZED:
        width, head = _SIZED[tag]
        return head + int.from_bytes(data[at + 1 : at + 1 + width], "big"), None
    width, factor = _COUNTED[tag]
    return 1 + width, factor * int.from_bytes(data[at + 1 : at + 1 + width], "big")
