"""What recurs without anybody asking: forgetting what nobody came back for, and looking how routes and a rollout do."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from router_daemon.core.overrides import Overrides
from router_daemon.core.registry import Registry
from router_daemon.core.rollout import TICK_S
from router_daemon.core.routing import Routes
from router_daemon.core.timers import Timers

HOUSEKEEPING_S: Final = 60.0


class Housekeeping(Struct, eq=False):
    """The moment to forget."""

    bucket: dict[Any, None] | None = None


class Look(Struct, eq=False):
    """The moment to look how the rollout does."""

    bucket: dict[Any, None] | None = None


class Changed(Struct, eq=False):
    """The moment to look again for those who wait, as settings or somebody's drain have changed."""

    bucket: dict[Any, None] | None = None


class Chores:
    """Does them, and schedules the next time."""

    def __init__(self, registry: Registry, routes: Routes, overrides: Overrides, timers: Timers) -> None:
        self._registry = registry
        self._routes = routes
        self._overrides = overrides
        self._timers = timers
        self._looks = False

    def start(self, now: float) -> None:
        """Schedule what recurs."""
        self._timers.schedule(Housekeeping(), now + HOUSEKEEPING_S, now)
        if self._routes.rollout is not None:
            self._routes.rollout.begin(now)
        self._look_on(now)

    def configure(self, now: float) -> None:
        """Settings and routes have changed: look for those who wait, and how the rollout does that there is now."""
        self._timers.schedule(Changed(), now, now)
        self._look_on(now)

    def _look_on(self, now: float) -> None:
        if self._routes.rollout is not None and not self._looks:
            self._looks = True
            self._timers.schedule(Look(), now + TICK_S, now)

    def keep_house(self, item: Housekeeping, now: float) -> None:
        """Forget, and see which routes are to be retired."""
        self._timers.schedule(item, now + HOUSEKEEPING_S, now)
        self._registry.forget(now)
        self._overrides.forget(now)
        self._routes.review(now)

    def look(self, item: Look, now: float) -> None:
        """See how the rollout does."""
        rollout = self._routes.rollout
        self._looks = rollout is not None
        if rollout is not None:
            self._timers.schedule(item, now + TICK_S, now)
            rollout.tick(now)
