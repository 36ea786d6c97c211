"""A rollout that one daemon has stopped is stopped at all daemons of the ring that have it, by its name.

Rules:
- Who has stopped a rollout himself (his guard, or a person there) says so in his ROSTER for as long as it stays so: by
  the rollout's name, with the number of the window that began then, which is another one each time.
- A daemon acts on each such number once, the first time it hears it. So a person may resume the rollout at one daemon
  while others still tell that it is stopped with them; and who was away at the time hears of it when he is back.
- Who was stopped by another's word does not tell it on his own behalf: it would come back to who resumes first.
- Only stopping spreads. It is the safe direction; to go on is said at each daemon.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from router_daemon.core.rollout import ROLLED_BACK
from router_daemon.core.routing import Routes

MOST_HEARD: Final = 4096


class Stops:
    """What is told of it, and what was heard; `routes`: of the broker."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._heard: dict[tuple[str, str], int] = {}

    def told(self) -> dict[str, int]:
        """Return what others are to know: the rollout that was stopped here, and the number of its window."""
        rollout = self._routes.rollout
        if rollout is None or rollout.state != ROLLED_BACK or rollout.elsewhere:
            return {}
        return {rollout.name: rollout.windows}

    def hear(self, origin: str, stopped: Mapping[str, int], now: float) -> None:
        """Stop what another daemon has stopped, unless that was heard before."""
        for name, number in stopped.items():
            if self._heard.get((origin, name)) == number:
                continue
            if len(self._heard) >= MOST_HEARD:
                del self._heard[next(iter(self._heard))]
            self._heard[origin, name] = number
            rollout = self._routes.rollout
            if rollout is not None and rollout.name == name and rollout.state != ROLLED_BACK:
                rollout.stop_elsewhere(origin, now)
