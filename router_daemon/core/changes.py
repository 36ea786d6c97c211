"""Other settings for a broker at work.

Rules:
- Every room that keeps settings, or numbers made of them, takes over others by its `configure`; `Rooms.configure` calls
  them all. Nothing in the path of a message looks whether settings have changed.
- Open messages go on as they were admitted, with their deadlines; every further decision is made anew, since cached
  ones are void. Whoever waits is looked at again at once, and nobody is turned out by a lower limit.
- What was measured stays. What was only assumed is assumed anew.
- A route that has the same policy as before keeps what that has learnt; what others have kept of backends is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from router_daemon.core.chores import Changed, Chores
from router_daemon.core.clients import Clients
from router_daemon.core.dispatch import Dispatcher
from router_daemon.core.membership import Membership
from router_daemon.core.ranking import Policy
from router_daemon.core.registry import Registry
from router_daemon.core.routing import Routes, RouteSpec, check_named
from router_daemon.core.serving import Serving
from router_daemon.core.settings import Settings
from router_daemon.core.settle import Settler
from router_daemon.core.waiting import share_of

FIXED: Final = ("require_capability", "heartbeat_s", "label_values", "max_message_bytes", "version")
"""What pools there are; what backends, clients and monitoring have been told."""


class Outlay(NamedTuple):
    """The routes to be, stable first; who decides where a policy fails; what messages may ask for, as of `Broker`."""

    routes: Sequence[RouteSpec]
    fallback: Policy
    make_policy: Callable[[str], Policy | None] | None = None


class Rooms(NamedTuple):
    """The rooms of a broker that keep settings."""

    registry: Registry
    routes: Routes
    dispatcher: Dispatcher
    serving: Serving
    settler: Settler
    members: Membership
    clients: Clients
    chores: Chores

    def configure(self, settings: Settings, outlay: Outlay, now: float) -> None:
        """Take over other settings and routes.

        Raises:
            ValueError: one of `FIXED` differs, or a route that the rollout names is not there; nothing has changed.
        """
        for key in FIXED:
            if getattr(self.registry.settings, key) != getattr(settings, key):
                raise ValueError(f"{key} cannot change while the broker runs")
        if settings.rollout.candidate:
            check_named(settings.rollout, {spec.name for spec in outlay.routes})
        _configure_registry(self.registry, settings, now)
        self.routes.configure(settings, outlay.routes, outlay.fallback, outlay.make_policy, now)
        self.dispatcher.configure(settings)
        self.settler.configure(self.routes.observer)
        self.members.configure(settings)
        self.clients.configure(settings)
        self.chores.configure(now)

    def serve_all(self, _: Changed, now: float) -> None:
        """Look again for all who wait: other settings may let them go, or leave them nobody."""
        self.serving.give_up_hopeless(now)
        self.serving.serve_others(list(self.registry.pools()), now)


def _configure_registry(registry: Registry, settings: Settings, now: float) -> None:
    """Take over other settings for who is there and who is remembered."""
    before, registry.settings = registry.settings, settings
    registry.learning.configure(settings)
    for pool in registry.pools():
        pool.configure(settings, before, now)
        pool.reserved = share_of(settings.waiting.reserve, pool.places)
    for profile in registry.left():
        profile.configure(settings.profile)
    for backend in registry.by_name.values():
        backend.profile.configure(settings.profile)
        backend.queue_alpha = settings.profile.queue_alpha
        backend.failures_at = deque(backend.failures_at, maxlen=settings.ejection.remembered)
        backend.version += 1  # so that estimates are computed anew
        for service in backend.services.values():
            if not service.samples and service.service_s == before.profile.initial_latency_s:
                service.service_s = settings.profile.initial_latency_s
            service.expect_late(registry.learning)
    registry.epoch += 1
