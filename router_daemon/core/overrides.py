"""What a person says for a time: all new messages of a capability go to one backend.

Rules:
- It is as if each message had named the backend: that one alone, also against its ejection, without failover.
- While the backend is not registered, drains or does not offer the capability, the override has no effect: it is there
  to help in trouble, and must not make any. A message that names a backend itself goes where it says.
- The number of overrides is bounded; an old one for the same capability is replaced.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

MOST_OVERRIDES: Final = 1000
MOST_S: Final = 604_800.0


class Override(Struct, frozen=True):
    """One capability's: which backend, and until when (seconds, the broker's clock)."""

    backend: str
    until: float


class Overrides:
    """The overrides in force, by capability; `in_force` is empty nearly always, and then costs a look.

    `applied` counts messages that went where one says, `changes` how often one was made or ended by a person; `news` is
    for the shell to log and clear: (what, capability, detail).
    """

    def __init__(self) -> None:
        self.in_force: dict[str, Override] = {}
        self.applied = 0
        self.changes = 0
        self.news: list[tuple[str, str, str]] = []

    def set(self, capability: str, backend: str, for_s: float, now: float) -> None:
        """Send a capability's new messages to one backend for so long.

        Raises:
            ValueError: the time is not above 0 and up to a week, or there are too many.
        """
        if not 0.0 < for_s <= MOST_S:
            raise ValueError(f"an override lasts up to {MOST_S:g} s, got {for_s:g}")
        self.forget(now)
        if capability not in self.in_force and len(self.in_force) >= MOST_OVERRIDES:
            raise ValueError(f"{MOST_OVERRIDES} overrides are in force, and no more are allowed")
        self.in_force[capability] = Override(backend, now + for_s)
        self.changes += 1
        self.news.append(("override set", capability, f"to {backend} for {for_s:g} s"))

    def clear(self, capability: str) -> bool:
        """End one, and tell whether there was one."""
        ended = self.in_force.pop(capability, None)
        if ended is not None:
            self.changes += 1
            self.news.append(("override ended", capability, f"to {ended.backend}: a person says so"))
        return ended is not None

    def backend(self, capability: str, now: float) -> str | None:
        """Return the backend that a new message is to go to, None where nothing is said."""
        override = self.in_force.get(capability)
        if override is None or now < override.until:
            return None if override is None else override.backend
        self._expire(capability)
        return None

    def forget(self, now: float) -> None:
        """Drop those whose time is over."""
        for capability in [name for name, override in self.in_force.items() if now >= override.until]:
            self._expire(capability)

    def _expire(self, capability: str) -> None:
        override = self.in_force.pop(capability)
        self.news.append(("override ended", capability, f"to {override.backend}: its time is over"))

    def take_news(self) -> list[tuple[str, str, str]]:
        """Return what has happened since the last call: (what, capability, detail)."""
        news, self.news = self.news, []
        return news

    def snapshot(self, now: float) -> list[dict[str, Any]]:
        """Return them as plain data, with what is left of their time (seconds)."""
        return [
            {"capability": capability, "backend": override.backend, "left_s": override.until - now}
            for capability, override in self.in_force.items()
            if override.until > now
        ]

    def restore(self, kept: list[dict[str, Any]], now: float) -> None:
        """Take in what an earlier process has written; what is not valid any more is left out."""
        for each in kept[:MOST_OVERRIDES]:
            if 0.0 < each["left_s"] <= MOST_S:
                self.in_force[each["capability"]] = Override(each["backend"], now + each["left_s"])
