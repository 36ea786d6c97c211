"""Names for what the core's records are made of, with the ranges that the wire allows."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, Any, TypeAlias

from msgspec import Meta, Struct

FLOAT_MAX = 1.7976931348623157e308

Peer: TypeAlias = bytes
"""The transport's name for one connection; opaque here."""


class RingPeer(bytes):
    """A peer that is no connection: another daemon, or a backend of one. Made by this process alone."""


Body: TypeAlias = Sequence[Any]
"""Opaque frames: whatever the transport received and can send again; `len(frame)` is its size in bytes."""
ClientId: TypeAlias = str | int | bytes
"""A client's own id of a message, echoed unchanged."""

Capability: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
Count: TypeAlias = Annotated[int, Meta(ge=0)]
Milliseconds: TypeAlias = Annotated[int, Meta(gt=0)]
Finite: TypeAlias = Annotated[float, Meta(ge=-FLOAT_MAX, le=FLOAT_MAX)]
NonNegative: TypeAlias = Annotated[float, Meta(ge=0, le=FLOAT_MAX)]
Ratio: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Embedding: TypeAlias = list[Finite] | bytes


class Record(Struct, gc=False):
    """Something that holds nothing that could lead back to it, so that the garbage collector need not know of it."""


class Side(IntEnum):
    """Which of the sockets: of clients, of backends, of other daemons."""

    CLIENT = 0
    BACKEND = 1
    RING = 2
