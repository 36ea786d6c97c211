"""A policy is never trusted with a message: it may raise, choose whom it may not, or take too long, and none is lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from rollout_kit import Choice, odd, route

from router_daemon.core.actions import Deliver, Error, Reply
from router_daemon.core.backends import Backend
from router_daemon.core.broker import Broker
from router_daemon.core.events import Register, Registration, Request, Send
from router_daemon.core.ranking import Candidate, Ranking
from router_daemon.core.routes import BREAKER_S, PAUSE_MESSAGES, FewestOpen
from router_daemon.core.settings import RolloutSettings, Settings
from router_daemon.testing import BrokerFixture, only


def raises(*_: Any) -> Candidate:
    raise ZeroDivisionError("a policy of little thought")


def foreign(ranking: Ranking, _: Sequence[Backend]) -> Candidate:
    """Return a candidate that looks like one of the ranking and is none."""
    first = ranking.candidates[0]
    return Candidate(first.backend, 1.0, {}, service=first.service, rank=first.rank)


NONSENSE: dict[str, Choice] = {
    "none of the candidates": foreign,
    "another thing": lambda *_: "b",
    "a rank beyond the end": lambda ranking, _: Candidate(ranking.candidates[0].backend, 1.0, {}, rank=99),
}


def serve(fixture: BrokerFixture, number: int) -> str:
    """Let a message be answered, and return by whom."""
    [deliver] = only(fixture.send("c", client_id=number), Deliver)
    [reply] = only(fixture.ack(deliver), Reply)
    return reply.header.backend


@pytest.mark.parametrize("choose", [raises, *NONSENSE.values()], ids=["raises", *NONSENSE])
def test_a_message_whose_policy_fails_is_decided_by_the_fallback(choose: Choice) -> None:
    broker, policy = odd("a", "b")
    policy.choose = choose
    assert serve(broker, 1) == "a"
    assert sum(route(broker).fallbacks.values()) == 1
    policy.choose = None
    assert serve(broker, 2) == "a"
    assert sum(route(broker).fallbacks.values()) == 1, "the next one is the policy's again"


def test_fallbacks_and_faults_are_counted_by_reason() -> None:
    broker, policy = odd("a")
    policy.choose = raises
    serve(broker, 1)
    policy.choose = None
    serve(broker, 2)
    policy.choose = foreign
    serve(broker, 3)
    assert route(broker).fallbacks == {"raised": 1, "nonsense": 1, "paused": 0, "breaker": 0}
    assert route(broker).faults["raised"] == 1
    news = broker.broker.routes.take_news()
    assert [(what, name) for what, name, _ in news] == [
        ("route's policy raised", "stable"),
        ("route's policy chose whom it may not", "stable"),
    ]
    assert "a policy of little thought" in news[0][2]


def test_a_full_backend_is_nonsense() -> None:
    broker, policy = odd("a", "b", slots=1)
    only(broker.send("c", client_id=1), Deliver)
    policy.choose = lambda ranking, _: ranking.candidates[0]
    [deliver] = only(broker.send("c", client_id=2), Deliver)
    assert deliver.peer == b"b"


def test_who_was_tried_already_is_nonsense() -> None:
    broker, policy = odd("a", "b", attempt_timeout_s=1.0)
    policy.choose = lambda ranking, _: ranking.candidates[0]
    [deliver] = only(broker.send("c"), Deliver)
    [second] = only(broker.nack(deliver), Deliver)
    assert (deliver.peer, second.peer) == (b"a", b"b")
    assert route(broker).fallbacks["nonsense"] == 1


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_nonsense(score: float) -> None:
    broker, policy = odd("a")
    policy.scores = lambda backends: [Candidate(backend, score, {}) for backend in backends]
    assert serve(broker, 1) == "a"
    assert route(broker).fallbacks["nonsense"] == 1


@pytest.mark.parametrize("count", [0, 2])
def test_a_ranking_has_every_backend_once(count: int) -> None:
    broker, policy = odd("a", "b")
    policy.scores = lambda backends: [Candidate(backends[0], 1.0, {}) for _ in range(count)]
    assert serve(broker, 1) == "a"
    assert route(broker).fallbacks["nonsense"] == 1


def test_a_policy_that_cannot_score_cannot_stop_who_waits() -> None:
    broker, policy = odd("a", slots=1)
    [first] = only(broker.send("c", client_id=1), Deliver)
    assert not only(broker.send("c", client_id=2), Error)
    policy.scores = raises  # type: ignore[assignment]
    broker.register("b", "c")
    broker.drain(b"a")
    assert len(broker.broker.dispatcher.messages) == 2
    assert only(broker.ack(first), Reply)
    assert serve_waiting(broker)


def serve_waiting(broker: BrokerFixture) -> bool:
    """Tell whether nobody waits any more."""
    return broker.broker.dispatcher.waiting.size == 0


def test_a_hedge_is_given_up_where_the_policy_fails() -> None:
    broker, policy = odd("a", "b")
    for number in range(20):
        serve(broker, number)
    only(broker.send("c", client_id=99, mode="hedge"), Deliver)
    policy.choose = raises
    assert broker.advance(0.04) == [], "before the head times out"
    assert route(broker).faults["raised"] == 1
    assert route(broker).fallbacks["raised"] == 0, "nobody decided instead"


def test_three_faults_in_a_row_open_the_breaker_and_one_good_decision_closes_it() -> None:
    broker, policy = odd("a")
    policy.choose = raises
    for number in range(5):
        serve(broker, number)
    assert policy.picked == 3
    assert route(broker).fallbacks == {"raised": 3, "nonsense": 0, "paused": 0, "breaker": 2}
    broker.clock.advance(BREAKER_S)
    serve(broker, 5)
    serve(broker, 6)
    assert policy.picked == 4, "it had its chance and failed: the breaker stays open"
    broker.clock.advance(BREAKER_S)
    policy.choose = None
    serve(broker, 7)
    serve(broker, 8)
    serve(broker, 9)
    assert policy.picked == 6
    assert route(broker).opened_at is None
    assert [what for what, *_ in broker.broker.routes.take_news()] == [
        "route's policy raised",
        "route's breaker has opened",
        "route's breaker has closed",
    ]


class Slow:
    """A broker whose decisions take as long as a test says."""

    def __init__(self, **rollout: Any) -> None:
        self.now_s = 0.0
        self.lasts_s = 0.0
        settings = Settings(mode="single", rollout=RolloutSettings(**rollout))
        self.broker = Broker(settings, FewestOpen(), rng=None, timer=self.timer, instance="m")  # type: ignore[arg-type]
        self.broker.handle(Register(b"a", False, Registration("a", ["c"], slots=10_000)), 1.0)
        self.number = 0

    def timer(self) -> float:
        self.now_s += 0.5 * self.lasts_s
        return self.now_s

    def send(self, times: int = 1) -> None:
        for _ in range(times):
            self.number += 1
            [deliver] = self.broker.handle(Send(b"client", False, Request(self.number, "c")), 1.0)
            assert isinstance(deliver, Deliver)


def test_what_a_slow_policy_says_is_used_and_the_next_hundred_are_the_fallbacks() -> None:
    slow = Slow(budget_s=0.05)
    stable = slow.broker.routes.stable
    slow.lasts_s = 0.2
    slow.send()
    assert stable.fallbacks["paused"] == 0
    assert stable.faults == {"slow": 1}
    slow.lasts_s = 0.0
    slow.send(PAUSE_MESSAGES)
    assert stable.fallbacks["paused"] == PAUSE_MESSAGES
    slow.send(10)
    assert stable.fallbacks["paused"] == PAUSE_MESSAGES
    assert stable.rankings.hits + stable.rankings.misses == 11


def test_three_slow_decisions_in_a_row_open_the_breaker_others_do_not() -> None:
    slow = Slow(budget_s=0.05)
    stable = slow.broker.routes.stable
    for good in (1, 0, 0):
        slow.lasts_s = 0.2
        slow.send()
        slow.lasts_s = 0.0
        slow.send(PAUSE_MESSAGES + good)
    assert stable.opened_at is None, "the first was followed by a good one"
    slow.lasts_s = 0.2
    slow.send()
    assert stable.opened_at is not None


def test_a_decision_within_the_budget_costs_nothing() -> None:
    slow = Slow(budget_s=0.05)
    slow.lasts_s = 0.05
    slow.send(5)
    assert slow.broker.routes.stable.faults == {}


def test_what_a_policy_raises_when_told_of_an_outcome_does_not_stop_the_answer() -> None:
    broker, policy = odd("a")
    policy.told = raises  # type: ignore[assignment]
    assert serve(broker, 1) == "a"
    assert serve(broker, 2) == "a"
    assert route(broker).faults["told"] == 2
    assert len(broker.broker.routes.take_news()) == 1, "said once"


def test_where_the_fallback_fails_too_the_fault_is_ours() -> None:
    broker, policy = odd("a")
    policy.choose = raises
    broker.broker.routes.fallback.policy.pick = raises  # type: ignore[method-assign, assignment]
    [error] = broker.broker.handle_all([Send(b"client", False, Request(1, "c"))], broker.clock.now)
    assert isinstance(error, Error)
    assert error.header.code == "internal"
    assert [type(fault) for _, fault in broker.broker.faults] == [ZeroDivisionError]
    broker.broker.faults.clear()


def test_the_fallback_takes_the_one_with_the_fewest_open() -> None:
    broker, policy = odd("a", "b")
    broker.send("c", client_id=1)
    policy.choose = raises
    [deliver] = only(broker.send("c", client_id=2), Deliver)
    assert deliver.peer == b"b"
