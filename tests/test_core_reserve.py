"""What is kept for critical messages: floor(share * places) of each capability, and the same share of the room."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from core_kit import make_broker
from routing_kit import make, pool, refusal, send, send_one

from router_daemon.core.actions import Action, Deliver
from router_daemon.core.settings import ExplorationSettings, WaitingSettings
from router_daemon.testing import BrokerFixture, only


@pytest.mark.parametrize(
    ("slots", "prefetch", "share", "reserved"),
    [(9, 0, 0.1, 0), (10, 0, 0.1, 1), (9, 10, 0.1, 1), (5, 0, 0.5, 2), (100, 0, 0.57, 57)],
)
def test_the_share_of_all_places_rounded_down(slots: int, prefetch: int, share: float, reserved: int) -> None:
    fixture = make(waiting=WaitingSettings(reserve=share))
    fixture.register("a", "c", slots=slots, prefetch=prefetch)
    places = slots + prefetch
    assert [len(send(fixture, number)) for number in range(places)] == [1] * (places - reserved) + [0] * reserved
    assert [len(send(fixture, 100 + n, priority=4)) for n in range(reserved + 1)] == [1] * reserved + [0]


def test_it_is_of_the_capability_not_of_a_backend() -> None:
    fixture = make()
    for number in range(10):
        fixture.register(f"b{number}", "c")
    assert sum(len(send(fixture, number)) for number in range(10)) == 9


def test_a_place_that_comes_free_goes_to_the_critical_one_first() -> None:
    fixture = make(waiting=WaitingSettings(reserve=0.5, longest=1.0))
    fixture.register("a", "c", slots=2)
    first = send_one(fixture, 1)
    critical = send_one(fixture, 2, priority=4)
    assert send(fixture, 3) == send(fixture, 4, priority=4) == []
    (next_one,) = only(fixture.ack(critical), Deliver)
    assert next_one.header.priority == 4
    (common,) = only(fixture.ack(first), Deliver) or only(fixture.ack(next_one), Deliver)
    assert common.header.priority == 2


def test_copies_leave_it_alone() -> None:
    fixture = make(mode="fanout", waiting=WaitingSettings(reserve=0.4))
    for name in ("a", "b", "c"):
        fixture.register(name, "c")
    assert pool(fixture).reserved == 1
    assert len(send(fixture, 1)) == 2
    assert len(send(fixture, 2, priority=4)) == 1


def test_it_shrinks_with_the_members_and_lets_in_who_waits() -> None:
    fixture = make(waiting=WaitingSettings(reserve=0.5, longest=1.0))
    fixture.register("a", "c", slots=1)
    fixture.register("b", "c", slots=1)
    taken = send_one(fixture, 1)
    assert send(fixture, 2) == []
    idle = b"b" if taken.peer == b"a" else b"a"
    (served,) = only(fixture.drain(taken.peer), Deliver)
    assert served.peer == idle
    assert pool(fixture).reserved == 0


MORE_ROOM: dict[str, Callable[[BrokerFixture, Deliver], list[Action]]] = {
    "an answer": lambda fixture, taken: fixture.ack(taken),
    "a newcomer": lambda fixture, _: fixture.register("dear, too", "c", slots=1, cost=1.0),
    "one that does it now, too": lambda fixture, _: (
        fixture.register("dear, too", "other", slots=1, cost=1.0),
        fixture.update(b"dear, too", capabilities=["other", "c"]),
    )[1],
}


@pytest.mark.parametrize("cause", MORE_ROOM.values(), ids=MORE_ROOM)
def test_whoever_makes_more_room_than_that_lets_others_have_whom_it_does_not_suit(
    cause: Callable[[BrokerFixture, Deliver], list[Action]],
) -> None:
    fixture = make_broker(mode="single", waiting=WaitingSettings(reserve=0.4, longest=1.0))
    fixture.register("dear", "c", slots=2, cost=1.0)
    fixture.register("free of charge", "c", slots=1)
    taken = send_one(fixture, 1)
    assert send_one(fixture, 2).peer == taken.peer == b"dear"
    assert send(fixture, 3, max_cost=0.0) == []
    (served,) = only(cause(fixture, taken), Deliver)
    assert (served.peer, served.header.message) == (b"free of charge", "m3")


def test_who_is_let_in_where_nobody_is_left_has_room_for_its_other_capabilities() -> None:
    settings = ExplorationSettings(slow_start=False)
    fixture = make_broker(mode="single", exploration=settings, waiting=WaitingSettings(reserve=0.5, longest=1.0))
    fixture.register("both", "c", "d", slots=2)
    fixture.register("other", "c", slots=2)
    fixture.register("dear", "d", slots=1, cost=1.0)
    assert send_one(fixture, 1).peer == b"both"
    fixture.broker.registry.set_ejected(fixture.backend("both"), ejected=True, now=fixture.clock.now)
    assert send(fixture, 2, "d", max_cost=0.0) == []
    (served,) = only(fixture.unregister(b"other"), Deliver)
    assert (served.peer, served.header.message) == (b"both", "m2")


def test_of_the_waiting_room_too() -> None:
    fixture = make(queue_messages=10)
    fixture.register("a", "c")
    send_one(fixture, 0)
    codes = []
    for number in range(1, 11):
        actions = fixture.send("c", client_id=number)
        codes.append(refusal(actions)[0] if actions else "waits")
    assert codes == ["waits"] * 9 + ["overloaded"]
    assert fixture.send("c", client_id=20, priority=4) == []
    assert fixture.broker.dispatcher.waiting.size == 10


def test_where_only_the_reserve_is_left_an_update_asks_no_other_member(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten thousand members a thousand places are the reserve: each was asked for whom waits, at every UPDATE."""
    names = [f"b{number}" for number in range(20)]
    fixture = make_broker(*names, slots=1, mode="single", heartbeat_s=1000.0)
    while only(fixture.send("c", client_id=fixture.broker.open_messages), Deliver):
        pass
    asked: list[str] = []
    monkeypatch.setattr(fixture.broker.serving, "serve", lambda backend, _now: asked.append(backend.name))
    fixture.update(b"b3", slots=1)
    assert asked == ["b3"]
    assert fixture.broker.dispatcher.waiting.size == 1
