"""From what is set of routes to the policies that they run with: the same for the daemon and for the simulator.

Rules:
- A route's settings are those of the daemon but for the keys that it names, of those that its policy reads (`READS`).
- `control`, where no route is named for it, is made like stable, and counted apart.
- Over a change of settings a route keeps its policy, with what that has learnt, where it would be made alike (`alike`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any, NamedTuple

from router_daemon.core.changes import Outlay
from router_daemon.core.ranking import Policy
from router_daemon.core.routing import CONTROL, RouteSpec
from router_daemon.core.settings import RouteSettings, Settings
from router_daemon.policies.base import NAMES, READS, alike, make_policy


class Plan(NamedTuple):
    """What a broker is made of beside its settings: see `core.broker.Broker`."""

    policy: Policy
    routes: tuple[RouteSpec, ...]
    fallback: Policy

    def extras(self) -> dict[str, Any]:
        """Return the arguments of `Broker` that are not its policy."""
        return {"routes": self.routes, "fallback": self.fallback}


class Kept(NamedTuple):
    """Policies at work, and how they were made, for those to keep that would be made alike.

    Attributes:
        settings: of the daemon. policy: the name of the stable route's where `settings.routes` does not name that.
        by_route: the policies. asked_for: those of them that are no configured routes, but were asked for by name.
        fallback: the policy that stands in for others.
    """

    settings: Settings
    policy: str
    by_route: Mapping[str, Policy]
    asked_for: frozenset[str]
    fallback: Policy


def plan_again(settings: Settings, rng: Random, *, policy: str, kept: Kept) -> Outlay:
    """Return what a broker takes over with other settings; arguments and errors as of `plan_routes`."""
    before, after = routes_of(kept.settings, kept.policy), routes_of(settings, policy)
    if settings.policy_override:
        asked_for = {name: RouteSettings(name) for name in kept.by_route if name in kept.asked_for}
        before, after = before | asked_for, asked_for | after
        after = {settings.rollout.stable: after.pop(settings.rollout.stable)} | after  # the first is stable
    specs = []
    for name, route in after.items():
        mine, was = settings_of(route, settings), before.get(name)
        same = was is not None and alike(was.policy, settings_of(was, kept.settings), route.policy, mine)
        chosen = kept.by_route[name] if same else make_policy(route.policy, mine, rng)
        specs.append(RouteSpec(name, chosen, mine.cache_ttl_s))
    old, new = kept.settings.rollout.fallback, settings.rollout.fallback
    same = alike(old, kept.settings, new, settings)
    fallback = kept.fallback if same else make_policy(new, settings, rng)
    make = (lambda name: named_policy(name, settings, rng)) if settings.policy_override else None
    return Outlay(specs, fallback, make)


def routes_of(settings: Settings, policy: str) -> dict[str, RouteSettings]:
    """Return every route that is configured or follows from what is, stable first."""
    rollout, routes = settings.rollout, dict(settings.routes)
    stable = routes.pop(rollout.stable, RouteSettings(policy))
    found = {rollout.stable: stable} | routes
    alike_stable = rollout.control in ("", rollout.stable) and rollout.control_percent > 0.0
    if rollout.candidate and alike_stable and CONTROL not in routes:
        found[CONTROL] = stable
    return found


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
    rollout = settings.rollout
    routes = routes_of(settings, policy if isinstance(policy, str) else policy.name)
    stable = routes.pop(rollout.stable)
    if isinstance(policy, str) or rollout.stable in settings.routes:
        policy = _policy(stable, settings, rng)
    specs = [_spec(name, route, settings, rng) for name, route in routes.items()]
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
