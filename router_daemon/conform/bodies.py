"""The bodies that are sent: made for what readers get wrong."""

from __future__ import annotations

from typing import Final

MANY: Final = tuple(bytes([number]) * number for number in range(64))
"""As many frames as may be, the first one empty, each of another size."""
NONE: Final[tuple[bytes, ...]] = ()
EMPTY: Final = (b"",)
BIG: Final = (bytes(range(256)) * 16_384,)
"""4 MiB in a frame, every byte in it."""
SMALL: Final = (b"conform", b"\x00\xff")
UNKNOWN_KEYS: Final = {"x_later": {"deep": [1, None, 2.5, {"er": b"\x00"}]}, "x_more": "é"}
"""Header keys that no daemon of today sends."""
