"""Backends that nobody has heard of for a while, and new ones: exploration and slow start."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import make_broker
from routing_kit import learn, name_of, occupy, pool, send, send_one, service

from router_daemon.core.actions import Deliver
from router_daemon.core.settings import ExplorationSettings, WaitingSettings
from router_daemon.testing import BrokerFixture, only

NO_RESERVE = WaitingSettings(reserve=0.0)


def unused(messages: int = 100, exploration: ExplorationSettings | None = None) -> BrokerFixture:
    """Return a broker whose second backend was not used for 1.1 s, and that has had so many messages of 0.01 s."""
    exploration = exploration or ExplorationSettings()
    fixture = make_broker("a", "b", mode="single", heartbeat_s=1000.0, waiting=NO_RESERVE, exploration=exploration)
    learn(fixture, "b", 0.01)
    learn(fixture, "a", 0.01, times=messages - 1)
    fixture.advance(1.1 - (messages - 1) * 0.01)
    return fixture


# --- exploration ---


def test_one_message_goes_to_whom_nobody_used() -> None:
    fixture = unused()
    assert [name_of(send_one(fixture, number)) for number in range(3)] == ["b", "a", "a"]
    assert fixture.broker.counts.capabilities["c"].explorations == 1


def test_from_a_bucket_that_starts_empty_and_holds_one_of_a_hundred_messages() -> None:
    assert send_one(unused(messages=99)).peer == b"a"
    fixture = unused(messages=100)
    explored = []
    for number in range(300):
        deliver = send_one(fixture, number)
        fixture.advance(0.01)
        fixture.ack(deliver)
        fixture.advance(1.2)
        if deliver.peer == b"b":
            explored.append(number)
    assert explored == [0, 100, 200]


@pytest.mark.parametrize(
    ("latency_s", "idle_s", "explores"),
    [(0.001, 0.99, False), (0.001, 1.01, True), (0.1, 4.99, False), (0.1, 5.01, True)],
    ids=["under 1 s", "over 1 s", "under 50 references", "over 50 references"],
)
def test_unused_for_a_second_and_fifty_references(latency_s: float, idle_s: float, explores: bool) -> None:
    fixture = make_broker("a", "b", mode="single", heartbeat_s=1000.0, exploration=ExplorationSettings(share=0.5))
    learn(fixture, "b", latency_s)
    used_at = service(fixture, "b").used_at
    fixture.advance(idle_s - 5 * latency_s)
    learn(fixture, "a", latency_s, times=3)
    fixture.advance(used_at + idle_s - fixture.clock.now)
    assert (send_one(fixture).peer == b"b") == explores


@pytest.mark.parametrize("keys", [{"priority": 4}, {"idempotent": False}, {"heads": 1}])
def test_never_with_what_is_critical_or_cannot_go_on_elsewhere(keys: dict[str, Any]) -> None:
    assert send_one(unused(), **keys).peer == b"a"


def test_only_where_it_is_idle() -> None:
    fixture = unused()
    fixture.heartbeat(b"b", queue=2)
    assert fixture.backend("b").other == 1.0
    assert send_one(fixture).peer == b"a"


@pytest.mark.parametrize(("cost", "explores"), [(2.0, True), (2.1, False)])
def test_never_one_that_is_more_than_twice_as_dear(cost: float, explores: bool) -> None:
    fixture = unused()
    fixture.update(b"a", cost=1.0)
    fixture.update(b"b", cost=cost)  # the order is that of the last registrations: a, b
    assert (send_one(fixture).peer == b"b") == explores


def test_none_where_it_is_switched_off() -> None:
    assert send_one(unused(exploration=ExplorationSettings(share=0.0))).peer == b"a"


def test_it_finds_out_that_a_slow_one_has_recovered() -> None:
    fixture = BrokerFixture(
        policy="attention", mode="single", heartbeat_s=1000.0, exploration=ExplorationSettings(share=0.1)
    )
    for name in ("a", "b"):
        fixture.register(name, "c", slots=4)
    learn(fixture, "a", 0.02, times=20)
    learn(fixture, "b", 0.5, times=3)
    chosen: list[str] = []
    while chosen[-20:] != ["b"] * 20 and len(chosen) < 5_000:
        deliver = send_one(fixture, len(chosen))
        chosen.append(name_of(deliver))
        fixture.advance(0.02 if deliver.peer == b"a" else 0.005)
        fixture.ack(deliver)
        fixture.advance(0.02)
    assert "b" not in chosen[:9]
    assert len(chosen) < 5_000, "it had a minute and a half"


# --- slow start ---


def grown(slots: int, answers: int) -> list[int]:
    """Let a new backend beside a warm one answer so many messages; return its places after each."""
    fixture = make_broker("old", slots=10, mode="single", waiting=NO_RESERVE)
    learn(fixture, "old", 0.01, times=10)
    fixture.register("new", "c", slots=slots)
    seen = [fixture.backend("new").limit]
    for _ in range(answers):
        learn(fixture, "new", 0.01)
        seen.append(fixture.backend("new").limit)
    return seen


def test_one_place_then_two_then_four_by_rounds_answered() -> None:
    assert grown(8, 15) == [1, 2, 2, 4, 4, 4, 4, 8, 8, 8, 8, 8, 8, 8, 8, 8]
    assert grown(3, 4) == [1, 2, 2, 3, 3]


def test_it_never_gets_more_than_its_places_meanwhile() -> None:
    fixture = make_broker("old", slots=1, mode="single", waiting=NO_RESERVE)
    learn(fixture, "old", 0.01)
    fixture.register("new", "c", slots=8)
    assert [len(send(fixture, number)) for number in range(3)] == [1, 1, 0]
    assert [len(fixture.backend(name).open) for name in ("old", "new")] == [1, 1]


def test_who_waits_gets_the_places_that_a_round_adds() -> None:
    fixture = make_broker("old", slots=1, mode="single", waiting=WaitingSettings(reserve=0.0, longest=1.0))
    learn(fixture, "old", 0.01)
    fixture.register("new", "c", slots=8)
    send_one(fixture, 1)
    first = send_one(fixture, 2)
    assert first.peer == b"new"
    for number in range(3, 7):
        assert send(fixture, number) == []
    assert len(only(fixture.ack(first), Deliver)) == 2


@pytest.mark.parametrize(("cold", "window"), [(2, 1), (3, None)])
def test_only_while_half_of_the_others_slots_are_warm(cold: int, window: int | None) -> None:
    fixture = make_broker(mode="single", waiting=NO_RESERVE)
    fixture.register("cold", "c", slots=cold)
    fixture.register("warm", "c", slots=2)
    learn(fixture, "warm", 0.01, times=2)
    assert (pool(fixture).warm, pool(fixture).slots) == (2, 2 + cold)
    fixture.register("new", "c", slots=8)
    assert fixture.backend("new").window == window


def test_after_a_restart_of_the_daemon_nobody_starts_slowly() -> None:
    fixture = make_broker("a", "b", "d", slots=8)
    assert [fixture.backend(name).window for name in ("a", "b", "d")] == [None] * 3


def test_nor_in_a_pool_of_one() -> None:
    fixture = make_broker("a", slots=8)
    learn(fixture, "a", 0.01, times=8)
    fixture.unregister(b"a")
    fixture.register("a", "c", slots=8)
    assert fixture.backend("a").window is None


def test_nor_where_it_is_switched_off() -> None:
    fixture = make_broker("a", slots=1, exploration=ExplorationSettings(slow_start=False))
    learn(fixture, "a", 0.01)
    fixture.register("b", "c", slots=8)
    assert fixture.backend("b").window is None


def test_a_backend_is_warm_once_it_has_answered_a_round() -> None:
    fixture = make_broker("a", slots=3)
    warm = []
    for _ in range(4):
        warm.append(pool(fixture).warm)
        learn(fixture, "a", 0.01)
    assert warm == [0, 0, 0, 3]


def test_after_a_loss_latency_starts_as_new_and_success_does_not() -> None:
    fixture = make_broker("a", "b", slots=1, mode="single", heartbeat_s=1000.0)
    learn(fixture, "b", 0.1, times=3)
    learn(fixture, "a", 0.5)
    occupy(fixture, "a", 1)
    success = fixture.backend("a").profile.success
    fixture.unregister(b"a")
    fixture.register("a", "c")
    send(fixture, 9)
    assert service(fixture).samples == 0
    assert service(fixture).service_s == pytest.approx((3 * 0.1 + 0.5) / 4)
    assert service(fixture).success == pytest.approx(success * 0.95), "the loss counts"
