"""Backends that a person has drained: they get nothing new until somebody says otherwise.

Rules:
- A drain is of a name, not of a registration: whoever registers under it, over whatever connection and however often,
  gets nothing either. Who works on a host restarts what runs there, and does not want messages for it in between.
- What is open goes on, and the registration stays in force: the backend is told nothing, and none of its own commands
  (REGISTER, UPDATE, DRAIN) ends it. That tells it from a backend that drains itself, which leaves at the end.
- The number of names is bounded. One is kept while nobody has it, since it may come back.
"""

from __future__ import annotations

from typing import Final

MOST_DRAINS: Final = 1000


class Drains:
    """The names, and since when (seconds, the broker's clock); `changes` counts what a person has said."""

    def __init__(self) -> None:
        self.since: dict[str, float] = {}
        self.changes = 0

    def set(self, name: str, now: float) -> bool:
        """Drain a name, and tell whether that is new.

        Raises:
            ValueError: there are too many.
        """
        if name in self.since:
            return False
        if len(self.since) >= MOST_DRAINS:
            raise ValueError(f"{MOST_DRAINS} backends are drained, and no more are allowed")
        self.since[name] = now
        self.changes += 1
        return True

    def clear(self, name: str) -> bool:
        """End it, and tell whether there was one."""
        there = self.since.pop(name, None) is not None
        self.changes += there
        return there

    def snapshot(self, now: float) -> dict[str, float]:
        """Return for how long each is drained (seconds)."""
        return {name: now - since for name, since in self.since.items()}
