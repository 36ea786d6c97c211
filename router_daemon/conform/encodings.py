"""MessagePack in its widest encodings: what a reader made for the shortest ones stumbles over."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any


def wide(value: Any) -> bytes:
    """Return a map, list, text, bin, bool, nil, float or non-negative int with every size and number at full width.

    Raises:
        TypeError: anything else.
    """
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        return b"\xcf" + struct.pack(">Q", value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str | bytes):
        data = value.encode() if isinstance(value, str) else value
        return (b"\xdb" if isinstance(value, str) else b"\xc6") + struct.pack(">I", len(data)) + data
    if isinstance(value, Mapping):
        pairs = b"".join(wide(key) + wide(item) for key, item in value.items())
        return b"\xdf" + struct.pack(">I", len(value)) + pairs
    if isinstance(value, list):
        return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(wide, value))
    raise TypeError(f"no wide encoding of {type(value).__name__}")
