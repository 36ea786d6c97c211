"""What is in a body, for the driver and the backends: the message's id, flags, the size of the answer, padding."""

from __future__ import annotations

import struct
from typing import Final

CAPABILITIES: Final = ("work", "oneway", "all", "proxied", "bulk", "leaving", "flood", "deaf")
"""`work`: ordinary; `oneway`: reply none; `all`: reply all; `proxied`: of clients behind the proxy; `bulk`: large;
`leaving`: of clients that close; `flood`: of one that floods and reads; `deaf`: of one that floods and does not."""

_BODY: Final = struct.Struct("<Q?I")
ID: Final = struct.Struct("<Q")


def body_of(ident: int, *, once: bool, size: int, answer_size: int = 0) -> bytes:
    """Return a body; `once`: the message may not run twice, so whoever runs it writes that down."""
    return _BODY.pack(ident, once, answer_size).ljust(size, b".")


def parse(body: bytes) -> tuple[int, bool, int]:
    """Return id, once, and how large the answer is to be."""
    ident, once, answer_size = _BODY.unpack_from(body)
    return ident, once, answer_size


def answer_to(ident: int, size: int) -> bytes:
    """Return the answer's body."""
    return ID.pack(ident).ljust(size, b".")


def id_in(body: bytes) -> int:
    """Return whose answer that is."""
    ident: int = ID.unpack_from(body)[0]
    return ident
