"""What the query of /decisions means: which entries are wanted, and how many."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from router_daemon.core.whys import Wanted

LIMIT: Final = 50
MOST: Final = 1000
_TEXTS: Final = ("capability", "outcome", "backend", "route", "kept")


def wanted_of(query: Mapping[str, str], now: float) -> tuple[Wanted, int]:
    """Return which entries a query asks for, and how many at most; `now`: seconds, of the core's clock.

    Raises:
        ValueError: it has a key that does not exist, or a value that is none; the text says which.
    """
    known = (*_TEXTS, "since", "limit")
    for key in query:
        if key not in known:
            raise ValueError(f"{key} is unknown: /decisions takes {', '.join(known)}")
    wanted = Wanted()
    for key in _TEXTS:
        setattr(wanted, key, query.get(key))
    if "since" in query:
        wanted.ended_since = now - _seconds(query["since"])
    limit = query.get("limit", str(LIMIT))
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= MOST:
        raise ValueError(f"limit must be an integer from 1 to {MOST}, got {limit!r}")
    return wanted, int(limit)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds < math.inf:
        raise ValueError(f"since must be a number of seconds from 0 on, how long ago, got {text!r}")
    return seconds
