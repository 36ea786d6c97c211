"""The waiting room under load: who comes first, who is refused and when, who has to leave."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import accept, make_broker, outcomes
from routing_kit import learn, name_of, occupy, pool, refusal, send, send_one

from router_daemon.core.actions import Accept, Action, Deliver, Error
from router_daemon.core.events import Request
from router_daemon.core.settings import WaitingSettings
from router_daemon.core.waiting import WaitingRoom
from router_daemon.testing import BrokerFixture, only

PATIENT = WaitingSettings(reserve=0.0, longest=1.0)


def full(latency_s: float = 0.0, waiting: WaitingSettings = PATIENT, **settings: Any) -> tuple[BrokerFixture, Deliver]:
    """Return a broker whose one place is taken, and the delivery that has it; it takes that time, if any is known."""
    settings = {"mode": "single", "heartbeat_s": 1000.0} | settings
    fixture = make_broker("a", slots=1, waiting=waiting, **settings)
    if latency_s:
        learn(fixture, "a", latency_s, times=20)
    (taken,) = occupy(fixture, "a", 1)
    return fixture, taken


def drained(fixture: BrokerFixture, taken: Deliver) -> list[str]:
    """Answer one after the other; return the bodies in the order in which they were sent."""
    order = []
    while again := only(fixture.ack(taken), Deliver):
        (taken,) = again
        order.append(bytes(taken.body[0]).decode())
    return order


def wait(fixture: BrokerFixture, name: str, **keys: Any) -> list[Action]:
    """Send a message that is known by its body."""
    return fixture.send("c", name.encode(), client_id=name, **keys)


# --- order ---


def test_by_priority_then_age() -> None:
    fixture, taken = full()
    for name, priority in (("a1", 1), ("b2", 2), ("c4", 4), ("d2", 2), ("e3", 3), ("f4", 4)):
        wait(fixture, name, priority=priority)
    assert drained(fixture, taken) == ["c4", "f4", "e3", "b2", "d2", "a1"]


@pytest.mark.parametrize(("waited_s", "first"), [(0.9, "new"), (1.1, "old")])
def test_a_step_up_for_each_quarter_of_its_time(waited_s: float, first: str) -> None:
    """A message of 4 s and priority 2 stands at 3 after 1 s, and is older than one of priority 3."""
    fixture, taken = full()
    wait(fixture, "old", priority=2, ttl_ms=4_000)
    fixture.advance(waited_s)
    wait(fixture, "new", priority=3)
    assert drained(fixture, taken)[0] == first


@pytest.mark.parametrize(("waited_s", "first"), [(0.35, "new"), (0.45, "old")])
def test_or_for_four_services_where_that_is_shorter(waited_s: float, first: str) -> None:
    fixture, taken = full(latency_s=0.1)
    wait(fixture, "old", priority=2, ttl_ms=30_000)
    fixture.advance(waited_s)
    wait(fixture, "new", priority=3)
    assert drained(fixture, taken)[0] == first


def test_never_up_to_critical() -> None:
    fixture, taken = full()
    wait(fixture, "old", priority=1, ttl_ms=4_000)
    fixture.advance(3.9)
    wait(fixture, "new", priority=4)
    assert drained(fixture, taken) == ["new", "old"]


# --- refused at arrival ---


def test_who_would_wait_for_more_than_a_quarter_of_its_time_is_refused() -> None:
    """One slot, 0.1 s each: the n-th to wait waits n * 0.1 s; a quarter of 1 s lets two in."""
    fixture, _ = full(latency_s=0.1, waiting=WaitingSettings(reserve=0.0))
    assert wait(fixture, "first", ttl_ms=1_000) == []
    assert wait(fixture, "second", ttl_ms=1_000) == []
    code, retry_after_ms = refusal(wait(fixture, "third", ttl_ms=1_000))
    assert (code, retry_after_ms) == ("overloaded", pytest.approx(300, abs=2))
    assert wait(fixture, "patient", ttl_ms=4_000) == []
    assert fixture.broker.counts.capabilities["c"].refusals["wait"] == 1


def test_only_those_of_its_priority_and_above_are_before_it() -> None:
    fixture, _ = full(latency_s=0.1, waiting=WaitingSettings(reserve=0.0))
    for number in range(8):
        assert wait(fixture, f"low {number}", priority=1, ttl_ms=4_000) == []
    assert wait(fixture, "high", priority=3, ttl_ms=1_000) == []
    assert refusal(wait(fixture, "low", priority=1, ttl_ms=1_000))[0] == "overloaded"


def test_wait_and_work_together_must_fit_into_its_time() -> None:
    """With `longest` 1 the wait alone may take all: 0.1 s waiting and (0.1 + 0.1)^2 / 0.1 expected do not fit in 0.45."""
    fixture, _ = full(latency_s=0.1)
    assert refusal(wait(fixture, "short", ttl_ms=450))[0] == "overloaded"
    assert wait(fixture, "long", ttl_ms=550) == []


def test_completions_of_the_last_seconds_tell_the_rate() -> None:
    fixture = make_broker("a", slots=2, mode="single", heartbeat_s=1000.0, waiting=WaitingSettings(reserve=0.0))
    held: list[Deliver] = []
    for number in range(60):
        for deliver in held:
            fixture.ack(deliver)
        held = [*send(fixture, 3 * number), *send(fixture, 3 * number + 1)]
        wait(fixture, f"x{number}", ttl_ms=100_000)
        fixture.cancel(f"x{number}")
        fixture.advance(0.5)
    code, retry_after_ms = refusal(wait(fixture, "last", ttl_ms=600))
    assert (code, retry_after_ms) == ("overloaded", pytest.approx(250, rel=0.1)), "4 a second: one in 0.25 s"


def test_where_nothing_is_known_everybody_may_wait() -> None:
    fixture, _ = full(waiting=WaitingSettings(reserve=0.0))
    for number in range(50):
        assert wait(fixture, f"m{number}", ttl_ms=100) == []


# --- a full room ---


def test_the_youngest_of_the_lowest_priority_makes_room() -> None:
    fixture, taken = full(queue_messages=4)
    for name, priority in (("old low", 1), ("medium", 2), ("young low", 1), ("high", 3)):
        wait(fixture, name, priority=priority)
    (error,) = only(wait(fixture, "new", priority=2), Error)
    assert (error.header.id, error.header.code, error.header.retry) == ("young low", "overloaded", True)
    assert "a more important message" in error.header.detail
    (error,) = only(wait(fixture, "newer", priority=3), Error)
    assert error.header.id == "old low"
    (error,) = only(wait(fixture, "same", priority=2), Error)
    assert error.header.id == "same", "nobody leaves for one of the same priority"
    assert drained(fixture, taken) == ["high", "newer", "medium", "new"]
    refusals = fixture.broker.counts.capabilities["c"].refusals
    assert (refusals["room"], refusals["displaced"]) == (1, 2)


def test_as_many_leave_as_the_bytes_need() -> None:
    fixture, _ = full(queue_bytes=1000)
    for number in range(5):
        fixture.send("c", bytes(200), client_id=number, priority=1)
    left = only(fixture.send("c", bytes(500), client_id="big", priority=2), Error)
    assert [error.header.id for error in left] == [4, 3, 2]
    left = only(fixture.send("c", bytes(1001), client_id="huge", priority=4), Error)
    assert [error.header.id for error in left] == ["huge"]
    assert fixture.broker.dispatcher.waiting.size == 3, "nobody left for what does not fit anyway"


def test_one_displaced_after_its_accept_is_counted_as_lost() -> None:
    fixture, _ = full(queue_messages=1)
    assert fixture.send("c", client_id=1, reply="none", priority=1) == [accept(1, "m2")]
    actions = fixture.send("c", client_id=2, priority=2)
    assert actions == [], "it had its last answer with the ACCEPT"
    assert outcomes(fixture)["overloaded"] == 1


def test_one_refused_at_arrival_gets_no_accept() -> None:
    fixture, _ = full(queue_messages=0)
    actions = fixture.send("c", client_id=1, reply="none")
    assert only(actions, Accept) == []
    assert refusal(actions)[0] == "overloaded"


# --- too late ---


def test_one_that_comes_to_its_turn_too_late_is_refused_not_sent() -> None:
    fixture, taken = full(latency_s=0.1)
    wait(fixture, "late", ttl_ms=600)
    fixture.advance(0.52)
    actions = fixture.ack(taken)
    assert only(actions, Deliver) == []
    assert [error.header.code for error in only(actions, Error) if error.header.id == "late"] == ["overloaded"]
    assert fixture.broker.counts.capabilities["c"].refusals["late"] == 1


def test_a_busy_backend_s_message_goes_back_to_wait_inside_its_time() -> None:
    fixture, _ = full()
    fixture.update(b"a", slots=2)
    deliver = send_one(fixture, "mine", ttl_ms=500)  # type: ignore[arg-type]
    assert fixture.nack(deliver, "busy", retry_after_ms=10_000) == []
    assert fixture.broker.dispatcher.waiting.size == 1
    assert refusal(fixture.advance(0.56))[0] == "expired"


# --- how long the wait would be ---


def test_a_burst_after_a_quiet_time_is_not_refused_for_what_was_not_asked_for_meanwhile() -> None:
    """Ten places of 10 ms each do a thousand a second, though there were thirty messages in the last six seconds."""
    fixture = make_broker("a", slots=10, mode="single", heartbeat_s=1000.0)
    for burst in range(3):
        actions = [a for n in range(30) for a in fixture.send("c", client_id=f"{burst}-{n}", ttl_ms=2_000)]
        assert only(actions, Error) == [], f"burst {burst}"
        while sent := only(actions, Deliver):
            fixture.advance(0.01)
            actions = [a for deliver in sent for a in fixture.ack(deliver)]
        fixture.advance(6.0)


def test_of_several_capabilities_the_youngest_is_displaced_without_sorting_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A room of ten thousand was sorted for every newcomer, for milliseconds each."""
    monkeypatch.setattr("router_daemon.core.waiting.sorted", None, raising=False)
    room = WaitingRoom(max_messages=1_000, max_bytes=1_000_000, reserve=0.0)
    fixture = make_broker("a")
    for number in range(1_000):
        request = Request(number, f"c{number % 2}", 1)
        message = fixture.broker.probe(request, 0.0)[0]
        message.number = number
        room.add(message, 1.0, 0.0)
    newcomer = fixture.broker.probe(Request("new", "c0", 2), 0.0)[0]
    leaving = room.displaced_by(newcomer)
    assert leaving is not None
    assert [victim.request.id for victim in leaving] == [999]


def test_what_is_refused_adds_nothing_to_the_budgets() -> None:
    """Five times as many messages as can be done would pay for a retry of each that is."""
    fixture, _ = full(queue_messages=0)
    capability = pool(fixture)
    before = capability.messages
    for number in range(50):
        assert refusal(fixture.send("c", client_id=number))[0] == "overloaded"
    assert capability.messages == before


def test_those_whom_a_backend_does_not_suit_keep_nobody_from_it() -> None:
    """Of a line whose messages may not go to all the first few were looked at, whoever had room."""
    fixture = make_broker("cheap", "dear", slots=1, mode="single", heartbeat_s=1000.0, waiting=PATIENT)
    fixture.update(b"cheap", cost=1.0)
    fixture.update(b"dear", cost=50.0)
    _, at_dear = send_one(fixture, 1), send_one(fixture, 2)
    for number in range(100):
        assert send(fixture, 1000 + number, max_cost=1.0) == []
    assert send(fixture, 3, max_cost=100.0) == []
    [served] = only(fixture.ack(at_dear), Deliver)
    assert name_of(served) == "dear"
    assert fixture.broker.dispatcher.waiting.size == 100


def test_who_would_wait_for_streams_is_refused_by_how_long_they_hold_their_slots() -> None:
    """The latency of a stream ends at its first piece: by that, two slots would do twenty of these a second."""
    fixture = make_broker("a", slots=2, mode="single", heartbeat_s=1000.0)
    for number in range(10):
        deliver = send_one(fixture, number)
        fixture.advance(0.1)
        fixture.part(deliver)
        fixture.advance(20.0)
        fixture.ack(deliver)
    assert pool(fixture).reference_s == pytest.approx(0.1)
    send_one(fixture, 100)
    send_one(fixture, 101)
    code, retry_after_ms = refusal(fixture.send("c", client_id=102, ttl_ms=30_000))
    assert code == "overloaded"
    assert retry_after_ms == pytest.approx(10_050, abs=10)
