"""What the tests of routes and rollouts share: policies that misbehave at will, and brokers with a candidate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from router_daemon.core.actions import Deliver, Reply
from router_daemon.core.backends import Backend
from router_daemon.core.events import Request
from router_daemon.core.ranking import Candidate, Ranking, first_free
from router_daemon.core.rollout import Rollout
from router_daemon.core.routes import Route
from router_daemon.core.settings import RolloutSettings, RouteSettings
from router_daemon.testing import BrokerFixture, only

Choice = Callable[[Ranking, Sequence[Backend]], Any]


class Odd:
    """A policy that does what a test says: `choose` instead of picking, `scores` instead of equal ones."""

    name = "odd"
    threshold = 0.0
    random_ties = False
    watch = None
    objection = None

    def __init__(self) -> None:
        self.choose: Choice | None = None
        self.scores: Callable[[Sequence[Backend]], list[Candidate]] | None = None
        self.told: Callable[[], None] | None = None
        self.picked = 0

    def observe(self, *_: Any) -> None:
        if self.told is not None:
            self.told()

    def score(self, capability: str, priority: int, backends: Sequence[Backend]) -> list[Candidate]:
        if self.scores is not None:
            return self.scores(backends)
        return [Candidate(backend, 1.0, {"order": 1.0}) for backend in backends]

    def pick(self, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float) -> Any:
        self.picked += 1
        if self.choose is not None:
            return self.choose(ranking, tried)
        return first_free(ranking.candidates, tried)

    def peek(self, ranking: Ranking, request: Request, now: float) -> Iterable[Candidate]:
        return ranking.candidates


def odd(*names: str, slots: int = 4, **settings: Any) -> tuple[BrokerFixture, Odd]:
    """Return a broker whose stable policy is odd, with these backends for "c"."""
    policy = Odd()
    fixture = BrokerFixture(policy=policy, **({"mode": "single"} | settings))
    for name in names:
        fixture.register(name, "c", slots=slots)
    return fixture, policy


def with_candidate(*names: str, settings: dict[str, Any] | None = None, **rollout: Any) -> BrokerFixture:
    """Return a broker with a rollout of round robin against the paper's rule, with these backends for "c"."""
    keys: dict[str, Any] = {"candidate": "candidate", "control_percent": 0.0} | rollout
    routes = {"candidate": RouteSettings("round_robin"), "baseline": RouteSettings("capability_only")}
    fixture = BrokerFixture(
        mode="single", routes=routes, rollout=RolloutSettings(**keys), **{"heartbeat_s": 1000.0} | (settings or {})
    )
    for name in names:
        fixture.register(name, "c", slots=1000)
    return fixture


def rollout_of(fixture: BrokerFixture) -> Rollout:
    """Return the rollout that there is."""
    found = fixture.broker.routes.rollout
    assert found is not None
    return found


def route(fixture: BrokerFixture, name: str = "stable") -> Route:
    """Return a route by name."""
    return fixture.broker.routes.by_name[name]


def send_and_answer(fixture: BrokerFixture, number: int, *, ok: bool = True, after_s: float = 0.0, **keys: Any) -> str:
    """Let one message be done, or fail, and return the route that it took."""
    [deliver] = only(fixture.send("c", client_id=number, **keys), Deliver)
    (message,) = fixture.broker.dispatcher.messages
    fixture.clock.advance(after_s)
    if ok:
        assert only(fixture.ack(deliver), Reply)
    else:
        fixture.nack(deliver, "failed")
    return message.route.name
