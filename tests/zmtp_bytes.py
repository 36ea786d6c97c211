"""ZMTP 3.1 by hand: what a peer sends, written from the specification alone (https://rfc.zeromq.org/spec/37/).

Nothing of the daemon's code is used, so the two check each other.
"""

from __future__ import annotations

from typing import Final

SIGNATURE: Final = b"\xff" + bytes(8) + b"\x7f"


def greeting(minor: int = 1, *, major: int = 3, mechanism: bytes = b"NULL") -> bytes:
    """Return the 64 bytes that open a connection."""
    return SIGNATURE + bytes((major, minor)) + mechanism.ljust(20, b"\0") + b"\0" + bytes(31)


def frame(body: bytes, *, more: bool = False, long: bool | None = None, kind: int = 0) -> bytes:
    """Return one frame; its size takes eight bytes where it must, or where that is asked for."""
    if long or (long is None and len(body) > 255):
        return bytes((kind | 2 | more,)) + len(body).to_bytes(8, "big") + body
    return bytes((kind | more, len(body))) + body


def message(*bodies: bytes) -> bytes:
    """Return a message of these frames."""
    return b"".join(frame(body, more=index < len(bodies) - 1) for index, body in enumerate(bodies))


def command(name: bytes, data: bytes = b"", *, long: bool | None = None) -> bytes:
    """Return a command."""
    return frame(bytes((len(name),)) + name + data, kind=4, long=long)


def metadata(**properties: bytes) -> bytes:
    """Return a READY's properties; `_` in a name is `-`."""
    pairs = [(name.replace("_", "-").encode(), value) for name, value in properties.items()]
    return b"".join(bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value for name, value in pairs)


def ready(kind: bytes = b"DEALER", **more: bytes) -> bytes:
    """Return the READY of such a socket."""
    return command(b"READY", metadata(Socket_Type=kind, **more))


def handshake(kind: bytes = b"DEALER", *, minor: int = 1) -> bytes:
    """Return all that a peer says before its first message."""
    return greeting(minor) + ready(kind, Identity=b"")


def ping(context: bytes = b"", ttl_ds: int = 0) -> bytes:
    """Return a PING; the time to live is in tenths of a second."""
    return command(b"PING", ttl_ds.to_bytes(2, "big") + context)


def pong(context: bytes = b"") -> bytes:
    """Return the answer to a PING."""
    return command(b"PONG", context)
