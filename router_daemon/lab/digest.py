"""A fingerprint of a run: every action of every daemon with its time, in order.

Rules:
- What is hashed is the MessagePack of (time, daemon, kind, action): the same bytes as on the wire plus peer and time,
  free of `repr` and of the order of sets. A key that is not sent leaves no trace, so a new optional key of the
  protocol does not change the digest of a run that does not use it.
- The digest covers decisions made in pure Python. Where numpy decides (large embeddings), it holds on the same machine
  with the same versions only.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from msgspec.msgpack import Encoder

from router_daemon.core.actions import Action

FLUSH_BYTES: Final = 1 << 16


class Digest:
    """Takes actions in, 128 bits of BLAKE2b out.

    Attributes:
        actions: how many were taken in.
    """

    __slots__ = ("_buffer", "_encode_into", "_hash", "actions")

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=16)
        self._encode_into = Encoder().encode_into
        self._buffer = bytearray()
        self.actions = 0

    def add(self, now: float, daemon: int, action: Action) -> None:
        """Take in one action."""
        buffer = self._buffer
        self.actions += 1
        self._encode_into((now, daemon, type(action).__name__, action), buffer, -1)
        if len(buffer) > FLUSH_BYTES:
            self._flush()

    def hex(self) -> str:
        """Return the digest of everything so far, in hexadecimal."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        self._hash.update(self._buffer)
        self._buffer.clear()
