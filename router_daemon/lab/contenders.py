"""Who is compared: a policy, and the settings of the broker around it.

Rules:
- `attention` runs as the daemon does by default.
- Every baseline runs twice. As a ranking inside our shell: the same settings, the same registrations, only the policy
  is another; that tells what the score is worth. As published, with retries and breaker: what its source describes,
  without what is ours; that tells what the whole is worth.
- As published means: one head at a time (`mode` single) and no hedges; nothing is kept for critical messages, no
  exploration, no slow start, for those are ours; backends take any number of deliveries (`PREFETCH`), so that the queue
  is at the server and the waiting room never used or asked for a refusal. Kept are up to three heads with the retry
  budget and the attempt timeouts, and ejection: every balancer of today has retries and a breaker beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from random import Random
from typing import Any, Final, TypeAlias

from router_daemon.core.ranking import Policy
from router_daemon.core.settings import (
    ExplorationSettings,
    HedgeSettings,
    Settings,
    WaitingSettings,
)
from router_daemon.lab.specs import BackendSpec
from router_daemon.lab.world import PolicyMaker
from router_daemon.policies.balancers import C3
from router_daemon.policies.base import make_policy

Changes: TypeAlias = Sequence[tuple[str, Any]]
"""Settings to be tried: name and value."""

PREFETCH: Final = 10_000
QUICK_S: Final = 0.025
"""Our SDK takes messages ahead while its work is shorter than this."""
OURS: Final = "attention"
BASELINES: Final = ("least_in_flight", "p2c_peak_ewma", "prequal", "c3")
FURTHER: Final = ("round_robin", "capability_only", "paper", "paper_no_reliability")
"""Not in the matrix unless asked for: what they do under load is known."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One policy in one of the two ways."""

    policy: str
    published: bool = False

    @property
    def name(self) -> str:
        """As in tables: `c3`, or `c3 +retries` as published."""
        return f"{self.policy} +retries" if self.published else self.policy

    def settings(self, changes: Changes = ()) -> Settings:
        """Return the broker's settings; what is to be tried is tried in our shell only."""
        return as_published() if self.published else changed(in_our_shell(), changes)

    def backends(self, specs: Sequence[BackendSpec], prefetch: int | None = None) -> list[BackendSpec]:
        """Return the backends with the places that they register for this contender; `prefetch`: in our shell.

        None: as our SDK does by itself, one for each slot where work is not much longer than the way to it, else none.
        """
        if self.published:
            return [replace(spec, prefetch=PREFETCH) for spec in specs]
        return [replace(spec, prefetch=_by_itself(spec) if prefetch is None else prefetch) for spec in specs]

    def maker(self, daemons: int) -> PolicyMaker:
        """Return what makes the policy of each daemon; C3 alone wants to know how many there are."""

        def make(settings: Settings, rng: Random) -> Policy:
            if self.policy == C3.name:
                return C3(settings, rng, clients=daemons)
            return make_policy(self.policy, settings, rng)

        return make


def _by_itself(spec: BackendSpec) -> int:
    quick = max(service.mean_s for service in spec.services().values()) < QUICK_S
    return spec.workers if quick else 0


def in_our_shell() -> Settings:
    """Return the defaults: waiting room, hedges, limits, ejection, exploration, slow start, mode auto."""
    return Settings()


def as_published() -> Settings:
    """Return what a load balancer has beside it: retries and a breaker; see the module."""
    return Settings(
        mode="single",
        heads=3,
        hedge=HedgeSettings(share=0.0),
        exploration=ExplorationSettings(share=0.0, slow_start=False),
        waiting=WaitingSettings(longest=1e9, reserve=0.0),
    )


def changed(settings: Settings, changes: Changes) -> Settings:
    """Return settings with some fields changed, each named as `waiting.reserve` or `heads`.

    Raises:
        ValueError: there is no such field, or the value is of another kind.
    """
    for name, value in changes:
        section, _, field = name.rpartition(".")
        part: Any = getattr(settings, section, None) if section else settings
        known = {known.name: getattr(part, known.name) for known in fields(part)} if is_dataclass(part) else {}
        if field not in known or is_dataclass(known[field]):
            raise ValueError(f"{name}: there is no such setting")
        old = known[field]
        if old is not None and type(value) is not type(old) and not (isinstance(old, float) and type(value) is int):
            raise ValueError(f"{name} = {value!r}: it is {old!r}, of another kind")
        new = type(part)(**{**known, field: value})
        settings = replace(settings, **{section: new}) if section else new
    return settings


def contenders(policies: Sequence[str] = (OURS, *BASELINES)) -> list[Contender]:
    """Return those of these policies: `attention` as it is, every other one both ways."""
    found: list[Contender] = []
    for policy in policies:
        found += [Contender(policy)] if policy == OURS else [Contender(policy), Contender(policy, published=True)]
    return found
