"""From what is set of routes to the policies that they run with: the same for the daemon and for the simulator.

Rules:
- A route's settings are those of the daemon but for the keys that it names, of those that its policy reads (`READS`).
- `control`, where no route is named for it, is made like stable, and counted apart.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any, NamedTuple

from router_daemon.core.ranking import Policy
from router_daemon.core.routing import CONTROL, RouteSpec
from router_daemon.core.settings import RouteSettings, Settings
from router_daemon.policies.base import NAMES, READS, make_policy


class Plan(NamedTuple):
    """What a broker is made of beside its settings: see `core.broker.Broker`."""

    policy: Policy
    routes: tuple[RouteSpec, ...]
    fallback: Policy

    def extras(self) -> dict[str, Any]:
        """Return the arguments of `Broker` that are not its policy."""
        return {"routes": self.routes, "fallback": self.fallback}


def plan_routes(settings: Settings, rng: Random, *, policy: str | Policy) -> Plan:
    """Return the policies of every route.

    Args:
        settings: with `routes` and `rollout`.
        rng: for the policies.
        policy: of the stable route where `routes` does not name that.

    Raises:
        KeyError: a policy that does not exist; `config` has checked it before.
        ValueError: a key that a policy does not read.
    """
    rollout, routes = settings.rollout, dict(settings.routes)
    stable = routes.pop(rollout.stable, None)
    if stable is not None:
        policy = _policy(stable, settings, rng)
    elif isinstance(policy, str):
        policy = make_policy(policy, settings, rng)
    specs = [_spec(name, route, settings, rng) for name, route in routes.items()]
    alike = rollout.control in ("", rollout.stable) and rollout.control_percent > 0.0
    if rollout.candidate and alike and CONTROL not in routes:
        like = stable or RouteSettings(policy.name)
        specs.append(_spec(CONTROL, like, settings, rng))
    return Plan(policy, tuple(specs), make_policy(rollout.fallback, settings, rng))


def settings_of(route: RouteSettings, settings: Settings) -> Settings:
    """Return the settings that a route's policy runs with.

    Raises:
        ValueError: a key that the policy does not read.
    """
    read = READS[route.policy]
    for key, value in route.changes.items():
        if key not in read:
            raise ValueError(f"{route.policy} does not read {key}; it reads {', '.join(sorted(read))}")
        section, _, name = read[key].rpartition(".")
        change: dict[str, Any] = {name: value}
        if section:
            change = {section: replace(getattr(settings, section), **change)}
        settings = replace(settings, **change)
    return settings


def named_policy(name: str, settings: Settings, rng: Random) -> Policy | None:
    """Return a policy that a message asks for by its name; None where there is none."""
    return make_policy(name, settings, rng) if name in NAMES else None


def _policy(route: RouteSettings, settings: Settings, rng: Random) -> Policy:
    return make_policy(route.policy, settings_of(route, settings), rng)


def _spec(name: str, route: RouteSettings, settings: Settings, rng: Random) -> RouteSpec:
    ttl_s = settings_of(route, settings).cache_ttl_s
    return RouteSpec(name, _policy(route, settings, rng), ttl_s)
