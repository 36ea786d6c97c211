"""What every message of the daemon must look like, as docs/protocol.md says it: commands, header keys, types.

Rules:
- Written from the contract alone: nothing of the daemon's code is used, so the two check each other.
- More keys than the table's are fine (the contract may grow); a missing key or another type is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgpack  # type: ignore[import-untyped, unused-ignore]

NEVER_RETRY: Final = frozenset(
    {
        "bad_frames",
        "unsupported_version",
        "unknown_command",
        "bad_header",
        "too_large",
        "duplicate_id",
        "not_registered",
        "forbidden",
        "unknown_policy",
        "cancelled",
        "rejected",
    }
)
ALWAYS_RETRY: Final = frozenset(
    {"name_taken", "internal", "no_capability", "no_backend", "overloaded", "draining", "unknown_backend"}
)
MAY_RETRY: Final = frozenset({"expired", "failed"})  # False where the message may not run twice


class Message(NamedTuple):
    """One message as it came: the verb without its version, the decoded header, the body frames."""

    verb: str
    header: dict[str, Any]
    body: list[bytes]


def pack(header: Any) -> bytes:
    """Return `header` as MessagePack."""
    packed: bytes = msgpack.packb(header, use_bin_type=True)
    return packed


def unpack(frame: bytes) -> Any:
    """Return what `frame` holds; anything but exactly one MessagePack value raises."""
    return msgpack.unpackb(frame, raw=False, strict_map_key=True)


def parse(frames: list[bytes]) -> Message:
    """Return the frames (without a delimiter) as a message; the framing itself is checked."""
    assert len(frames) >= 2, f"a command and a header at least: {frames!r}"
    version, dot, verb = frames[0].decode("ascii").partition(".")
    assert (version, dot) == ("CAR1", "."), frames[0]
    header = unpack(frames[1])
    assert isinstance(header, dict), header
    assert all(isinstance(key, str) for key in header), header
    return Message(verb, header, frames[2:])


def is_id(value: object) -> bool:
    """Tell whether a client may name a SEND by it."""
    if type(value) is str:
        return len(value.encode()) <= 64
    return type(value) is int or (type(value) is bytes and len(value) <= 64)


def _is_message(value: object) -> bool:
    return type(value) is str and 0 < len(value) <= 32


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1


def _is_seq(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_name(value: object) -> bool:
    return type(value) is str and 1 <= len(value) <= 64


def _is_elapsed(value: object) -> bool:
    return type(value) is float and 0 <= value < 600_000


def _is_bool(value: object) -> bool:
    return type(value) is bool


def _is_text(value: object) -> bool:
    return type(value) is str


def _is_code(value: object) -> bool:
    return value in NEVER_RETRY | ALWAYS_RETRY | MAY_RETRY


def _is_features(value: object) -> bool:
    return type(value) is list and all(type(item) is str for item in value)


def _is_version(value: object) -> bool:
    return type(value) in {str, int}


def _is_delivery(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_delivery_or_nil(value: object) -> bool:
    return value is None or _is_delivery(value)


def _is_id_or_nil(value: object) -> bool:
    return value is None or is_id(value)


def _is_retry_after(value: object) -> bool:
    return type(value) in {int, float} and value >= 0  # type: ignore[operator]


Checks = dict[str, Callable[[object], bool]]

_REPLY: Final[Checks] = {
    "id": is_id,
    "message": _is_message,
    "backend": _is_name,
    "head": _is_count,
    "heads": _is_count,
    "elapsed_ms": _is_elapsed,
    "last": _is_bool,
}
_PART: Final[Checks] = {
    "id": is_id,
    "message": _is_message,
    "backend": _is_name,
    "head": _is_count,
    "seq": _is_seq,
}
_ERROR: Final[Checks] = {
    "id": _is_id_or_nil,
    "code": _is_code,
    "detail": _is_text,
    "retry": _is_bool,
    "last": _is_bool,
}
_PONG: Final[Checks] = {
    "version": _is_version,
    "features": _is_features,
    "max_ttl_ms": _is_count,
    "max_message_bytes": _is_count,
    "max_heads": _is_count,
}
_DELIVER: Final[Checks] = {
    "id": _is_delivery,
    "message": _is_message,
    "capability": _is_text,
    "priority": lambda value: type(value) is int and 1 <= value <= 4,
    "ttl_ms": _is_seq,
    "attempt": _is_count,
    "head": _is_count,
    "heads": _is_count,
}
_TO_CLIENT: Final[dict[str, Checks]] = {
    "REPLY": _REPLY,
    "PART": _PART,
    "ACCEPT": {"id": is_id, "message": _is_message, "last": _is_bool},
    "ERROR": _ERROR,
    "PONG": _PONG,
}
_TO_BACKEND: Final[dict[str, Checks]] = {
    "REGISTERED": {"name": _is_name, "heartbeat_ms": _is_count},
    "DELIVER": _DELIVER,
    "CANCEL": {"id": _is_delivery},
    "HEARTBEAT": {},
    "BYE": {},
    "ERROR": {"id": _is_delivery_or_nil, "code": _is_code, "detail": _is_text},
}
_WHERE_KNOWN: Final[Checks] = {
    "message": _is_message,
    "backend": _is_name,
    "head": _is_count,
    "retry_after_ms": _is_retry_after,
}


def check_for_client(message: Message) -> None:
    """Assert that the daemon may send `message` to a client."""
    _check(message, _TO_CLIENT)
    header = message.header
    if message.verb == "REPLY":
        assert header["heads"] >= header["head"], f"answered by a head that was never sent to: {header}"
    elif message.verb == "PART":
        assert header.get("last", False) is False, f"a PART is never the last message: {header}"
    elif message.verb == "ERROR":
        _check_error(header)
    if message.verb in {"ACCEPT", "ERROR", "PONG"}:
        assert message.body == [], message


def check_for_backend(message: Message) -> None:
    """Assert that the daemon may send `message` to a backend."""
    _check(message, _TO_BACKEND)
    if message.verb != "DELIVER":
        assert message.body == [], message


def _check(message: Message, table: dict[str, Checks]) -> None:
    assert message.verb in table, f"not a command for this side: {message}"
    checks = dict(table[message.verb])
    if message.verb == "ERROR":
        checks |= {key: check for key, check in _WHERE_KNOWN.items() if message.header.get(key) is not None}
    for key, check in checks.items():
        assert key in message.header, f"{message.verb} without {key}: {message.header}"
        value = message.header[key]
        assert check(value), f"{message.verb}: {key} = {value!r} is not what the contract says"


def _check_error(header: dict[str, Any]) -> None:
    assert header["detail"], f"a detail is for a person: {header}"
    if header["code"] not in MAY_RETRY:
        assert header["retry"] is (header["code"] in ALWAYS_RETRY), f"retry is wrong for its code: {header}"
    if header["id"] is None:
        assert header["last"] is False, f"only SENDs with a readable id have a last message: {header}"
