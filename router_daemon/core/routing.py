"""The routes of a broker: one where nothing else is said, several with a rollout, others that messages ask for.

Rules:
- A broker always has the route `stable`, made of its policy. What no message may be refused for is decided here: who
  stands in for a policy that fails, and that nothing which a policy does when it is told of something can stop what it
  is told of.
- Every policy that wants to know is told of all outcomes and all backends, not only of its own route's: so a candidate
  knows what it would know with all messages.
- Where `policy` of SEND is allowed it names a route, or a policy; the latter is made a route when first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from router_daemon.core.backends import Backend
from router_daemon.core.counts import Counts
from router_daemon.core.ranking import Observer, Policy, RankingCache
from router_daemon.core.retirement import Retirement
from router_daemon.core.rollout import DONE, ROLLED_BACK, Rollout
from router_daemon.core.routes import FALLBACK, FewestOpen, Route
from router_daemon.core.settings import RolloutSettings, Settings
from router_daemon.core.tally import Tally, of_everything

if TYPE_CHECKING:
    from router_daemon.core.messages import Delivery
    from router_daemon.core.registry import Registry, Watcher

MOST_ROUTES: Final = 64
CONTROL: Final = "control"
"""The name of the control group's route where none is configured for it."""


class RouteSpec(NamedTuple):
    """A route to be: its name, its policy, and how long its rankings serve."""

    name: str
    policy: Policy
    cache_ttl_s: float


def check_named(settings: RolloutSettings, names: Container[str]) -> str:
    """See that there are the routes which a rollout names; return that of its control group, "" where it has none.

    Raises:
        ValueError: one is not there.
    """
    control = (settings.control or CONTROL) if settings.control_percent else ""
    missing = [name for name in (settings.candidate, control) if name and name not in names]
    if missing:
        raise ValueError(f"the rollout names routes that are not there: {', '.join(missing)}")
    return control


class Routes:
    """All routes.

    Args:
        settings: of the daemon.
        counts: of the daemon.
        rng: breaks ties.
        make: returns a policy by name, where messages may ask for one.

    Attributes:
        by_name: every route, `stable` first.
        stable: what messages take that nothing else is said of.
        fallback: who decides where a policy fails.
        rollout: None where there is none. retirement: names the routes that are to be retired.
        news: for the shell to log and to clear: (what, route, detail).
        prepare: called with every policy before it decides anything, for what the shell gives it; None: nothing. It is
            called again with each change of routes.
    """

    stable: Route
    fallback: Route

    def __init__(
        self, settings: Settings, counts: Counts, rng: Random, make: Callable[[str], Policy | None] | None
    ) -> None:
        self._settings = settings
        self._make = make
        self._counts = counts
        self._rng = rng
        self._registry: Registry | None = None
        self._observers: list[tuple[Policy, Observer]] = []
        self._watchers: list[tuple[Policy, Watcher]] = []
        self.by_name: dict[str, Route] = {}
        self.rollout: Rollout | None = None
        self.retirement = Retirement()
        self.prepare: Callable[[Policy], None] | None = None
        self.news: list[tuple[str, str, str]] = []

    def open(self, registry: Registry, specs: Sequence[RouteSpec], fallback: Policy | None) -> None:
        """Make the routes, the first of which is stable.

        Raises:
            ValueError: a route that the rollout names is not there.
        """
        self._registry = registry
        ttl_s = self._settings.cache_ttl_s
        self.fallback = self._route(RouteSpec(FALLBACK, fallback or FewestOpen(), ttl_s), None)
        self._arrange(specs)
        if self._settings.rollout.candidate:
            self.rollout = self._rollout()

    def configure(
        self,
        settings: Settings,
        specs: Sequence[RouteSpec],
        fallback: Policy,
        make: Callable[[str], Policy | None] | None,
        now: float,
    ) -> None:
        """Have other routes, the first of which is stable; one of a name that there is goes on.

        A route whose spec has the very policy that it has keeps what that has learnt. What is open on a route that
        is no more is decided by the fallback. The caller sees to it that those are there which the rollout names.
        """
        assert self._registry is not None
        before, policies = self.by_name, {route.name: route.policy for route in self.by_name.values()}
        self._settings, self._make = settings, make
        self.fallback.configure(fallback, settings.cache_ttl_s, inf)
        self._arrange(specs)
        for route in before.values():
            if route.name not in self.by_name:
                route.retire()
        drop_own(self._registry, self._policies())
        changed = {name for name, route in self.by_name.items() if policies.get(name) is not route.policy}
        self._judge_anew(changed, before.keys() - self.by_name.keys())
        self._go_on(changed, now)

    def _judge_anew(self, changed: set[str], gone: set[str]) -> None:
        """Count anew for what are other policies; what was said of them, and of who was held against them, is over."""
        self.retirement.forget(self.by_name if self.stable.name in changed else changed | gone)
        for name in changed:
            tally = self.by_name[name].tally
            if tally is not None:
                tally.side = None

    def _go_on(self, changed: set[str], now: float) -> None:
        """Begin, change or end the rollout, by the settings; one that they do not touch goes on as it was."""
        before = self.rollout
        if (
            before is not None
            and before.settings == self._settings.rollout
            and all(route is self.by_name.get(route.name) and route.name not in changed for route in before.routes())
        ):
            return
        self.rollout = None
        for route in self.by_name.values():
            if route.tally is not None:
                route.tally.side = None
        if not self._settings.rollout.candidate:
            return
        self.rollout = self._rollout()
        if before is None:
            self.rollout.begin(now)
        else:
            _take_over(self.rollout, before, self.rollout.candidate.name in changed, now)

    def _arrange(self, specs: Sequence[RouteSpec]) -> None:
        """Make or change the routes, so that there are these and no others."""
        before, self.by_name = self.by_name, {}
        for spec in specs:
            route = before.get(spec.name)
            if route is None:
                route = self._route(spec, self.fallback)
            else:
                route.configure(spec.policy, spec.cache_ttl_s, self._settings.rollout.budget_s)
            self.by_name[spec.name] = route
        self.stable = next(iter(self.by_name.values()))
        self._listen()
        if len(self.by_name) > 1:
            self._count_apart()

    def _rollout(self) -> Rollout:
        settings = self._settings.rollout
        control = check_named(settings, self.by_name)
        return Rollout(
            settings,
            self.stable,
            self.by_name[settings.candidate],
            self.by_name[control] if control else None,
            twin=settings.control in ("", settings.stable),
            everyone=self._everyone,
        )

    def _everyone(self) -> Iterable[Route]:
        return self.by_name.values()

    def _route(self, spec: RouteSpec, stand_in: Route | None) -> Route:
        assert self._registry is not None
        policy = spec.policy
        rankings = RankingCache(self._registry, policy, self._counts, self._rng, ttl_s=spec.cache_ttl_s)
        if stand_in is None:
            return Route(spec.name, policy, rankings, self.news)
        budget_s = self._settings.rollout.budget_s
        return Route(spec.name, policy, rankings, self.news, budget_s=budget_s, stand_in=stand_in)

    def _count_apart(self) -> None:
        for route in self.by_name.values():
            route.tally = route.tally or Tally()

    def named(self, name: str) -> Route | None:
        """Return the route that a message asks for, by its name or by that of a policy; None where there is none."""
        route = self.by_name.get(name)
        if route is not None or self._make is None or len(self.by_name) >= MOST_ROUTES:
            return route
        policy = self._make(name)
        if policy is None:
            return None
        route = self.by_name[name] = self._route(RouteSpec(name, policy, self._settings.cache_ttl_s), self.fallback)
        self._listen()
        self._count_apart()
        return route

    # --- what policies are told ---

    def _policies(self) -> dict[Policy, None]:
        return dict.fromkeys(route.policy for route in (self.fallback, *self.by_name.values()))

    def _listen(self) -> None:
        """Tell every policy in use what it wants to know, and those that are new to that who is there."""
        assert self._registry is not None
        policies = self._policies()
        if self.prepare is not None:
            for policy in policies:
                self.prepare(policy)
        know = {policy for policy, _ in self._watchers}
        self._observers = [(policy, policy.observe) for policy in policies if policy.observe is not None]
        self._watchers = [(policy, policy.watch) for policy in policies if policy.watch is not None]
        for policy, watch in self._watchers:
            for backend in self._registry.by_name.values() if policy not in know else ():
                self._introduce(policy, watch, backend, there=True)

    @property
    def observer(self) -> Observer | None:
        """What is to be told of the outcomes of deliveries; None while nobody will ever want to know."""
        return self._observe if self._observers or self._make is not None else None

    def _observe(self, delivery: Delivery, latency_s: float, ok: bool, now: float) -> None:
        for policy, observe in self._observers:
            try:
                observe(delivery, latency_s, ok, now)
            except Exception as fault:  # noqa: BLE001 - whatever a policy raises must not cost the answer
                self._failed(policy, fault)

    def watch(self, backend: Backend, there: bool) -> None:
        """Tell the policies who is there."""
        for policy, watch in self._watchers:
            self._introduce(policy, watch, backend, there=there)

    def _introduce(self, policy: Policy, watch: Watcher, backend: Backend, *, there: bool) -> None:
        try:
            watch(backend, there)
        except Exception as fault:  # noqa: BLE001 - whatever a policy raises must not cost the registration
            self._failed(policy, fault)

    def _failed(self, policy: Policy, fault: Exception) -> None:
        for route in self.by_name.values():
            if route.policy is policy:
                route.failed_aside("told", fault)

    # --- for people ---

    def review(self, now: float) -> None:
        """Look which routes are to be retired."""
        settings = self._settings
        found = self.retirement.review(self, settings.rollout, now, askable=settings.policy_override)
        self.news += [("route to be retired", each.route, each.why) for each in found]

    def take_news(self) -> list[tuple[str, str, str]]:
        """Return what has happened to routes since the last call: (what, route, detail)."""
        news = self.news.copy()
        self.news.clear()
        if self.rollout is not None:
            news += [(each.what, each.route, each.detail) for each in self.rollout.news]
            self.rollout.news.clear()
        return news

    def view(self, now: float) -> dict[str, Any]:
        """Return the routes, what came of them, and the rollout, as plain data for JSON."""
        return {
            "routes": [self._shown(route, now) for route in self.by_name.values()],
            "fallback": self.fallback.policy.name,
            "rollout": None if self.rollout is None else self.rollout.view(now),
            "to_be_retired": [each.view() for each in self.retirement.named(self.rollout)],
        }

    def _shown(self, route: Route, now: float) -> dict[str, Any]:
        counts = self._counts
        if route.tally is None:
            figures = of_everything(counts.capabilities.values(), counts.heads)
        else:
            figures = route.tally.figures()
        open_s = None if route.opened_at is None else now - route.opened_at
        return {
            "name": route.name,
            "policy": route.policy.name,
            **figures,
            "quality": route.quality / route.rated if route.rated else None,
            "rated": route.rated,
            "breaker_open_s": open_s,
            "decides": route.acting.name,
            "faults": dict(route.faults),
            "fallbacks": dict(route.fallbacks),
        }


def drop_own(registry: Registry, keep: Container[Policy]) -> None:
    """Drop what policies have kept of backends, but for those of `keep`."""
    for backend in registry.by_name.values():
        for service in backend.services.values():
            for policy in [policy for policy in service.own if policy not in keep]:
                del service.own[policy]


def _take_over(rollout: Rollout, before: Rollout, other: bool, now: float) -> None:
    """Let a rollout go on where it was under other settings, in a new window; one of another name begins.

    What was rolled back stays so until a person says `resume`. A candidate that is another policy by now (`other`)
    begins anew, as nothing is known of it; so it does where its first percentage was changed.
    """
    if not rollout.restore(before.snapshot(now), now):
        rollout.begin(now)
        return
    rollout.news += before.news
    settings = rollout.settings
    if rollout.state == ROLLED_BACK:
        return
    if other or settings.percent != before.settings.percent:
        rollout.set_percent(settings.first_percent, now)
    elif rollout.state == DONE and any(stage > rollout.percent for stage in settings.stages):
        rollout.set_percent(rollout.percent, now)
