"""Which configuration is in force, since when, and how the reloads went that led to it: counts for monitoring."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any, Final

from router_daemon.config import Config

OUTCOMES: Final = ("ok", "refused")
_HASH_BYTES: Final = 6
"""48 bits are exact in the floats of /metrics."""
_OWN: Final[Any] = {
    **dict.fromkeys(("admin", "ring", "state"), True),
    "frontend": {"bind"},
    "backend": {"bind"},
    "rollout": {"rollback_file"},
}
"""What says where a daemon is and who, in which daemons that do the same differ; the token is in it."""


class Loaded:
    """What is known of the configuration in force.

    Args:
        config: in force from the start.
        now: seconds since 1970.

    Attributes:
        at: when what is in force was read, seconds since 1970. hash: see `fingerprint`.
        reloads: by outcome. ok: whether the last one was, True before the first.
        waiting: how many of its keys need a restart to take effect.
    """

    def __init__(self, config: Config, now: float) -> None:
        self.at = now
        self.hash = fingerprint(config)
        self.reloads = dict.fromkeys(OUTCOMES, 0)
        self.ok = True
        self.waiting = 0

    def took(self, config: Config, waiting: int, now: float) -> None:
        """Note a reload that went well."""
        self.at, self.hash, self.waiting, self.ok = now, fingerprint(config), waiting, True
        self.reloads["ok"] += 1

    def refused(self) -> None:
        """Note a reload that did not, so that what was in force still is."""
        self.ok = False
        self.reloads["refused"] += 1


def fingerprint(config: Config) -> int:
    """Return a number that is the same for daemons that do the same; see `_OWN` for what is left out."""
    plain = config.model_dump(mode="json", exclude=_OWN)
    text = json.dumps(plain, sort_keys=True)
    return int.from_bytes(blake2b(text.encode(), digest_size=_HASH_BYTES).digest(), "big")
