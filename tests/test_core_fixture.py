"""The fakes that the package ships for tests: what they promise their users."""

from __future__ import annotations

import pytest
from core_kit import deliver, make_broker, reply

from router_daemon.core.actions import Deliver, Reply
from router_daemon.core.events import Cancel, CancelHeader, Gone, Undelivered
from router_daemon.core.types import Side
from router_daemon.testing import BrokerFixture, FakeClock, MemoryTransport, only
from router_daemon.transport import Transport


def test_the_clock_moves_only_when_told_to_and_never_back() -> None:
    clock = FakeClock(5.0)
    assert (clock(), clock.now) == (5.0, 5.0)
    assert clock.advance(0.5) == 5.5
    assert clock.advance_to(7.0) == 7.0
    assert clock.advance_to(6.0) == 7.0
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-0.1)
    assert clock() == 7.0


def test_the_memory_transport_gives_what_was_put_in_and_records_what_was_sent() -> None:
    memory = MemoryTransport()
    transport: Transport = memory
    arrived = [Cancel(b"x", False, CancelHeader(number)) for number in range(3)]
    memory.put(*arrived)
    assert transport.receive(2, 0.0) == arrived[:2]
    assert transport.receive(2, 0.0) == arrived[2:]
    assert transport.receive(2, 0.0) == []
    assert transport.send([reply("a")]) == []
    assert memory.take() == [reply("a")]
    assert memory.take() == []


def test_the_memory_transport_may_be_told_who_cannot_be_reached() -> None:
    transport = MemoryTransport()
    transport.gone.add(b"a")
    transport.full.add(b"b")
    lost, refused, fine = deliver("a", 1), deliver("b", 2), deliver("d", 3)
    assert transport.send([lost, refused, fine]) == [
        Undelivered(lost, full=False),
        Gone(Side.BACKEND, b"a"),
        Undelivered(refused, full=True),
    ]
    assert transport.take() == [fine]


def test_the_memory_transport_parks_for_who_does_not_read() -> None:
    transport = MemoryTransport()
    transport.held.add(b"a")
    assert transport.send([deliver("a", 1)]) == []
    assert transport.parked == 1
    assert transport.flush() == []
    assert transport.take() == []
    transport.held.clear()
    transport.flush()
    assert transport.parked == 0
    assert transport.take() == [deliver("a", 1)]


def test_what_a_parked_action_waits_for_may_leave() -> None:
    transport = MemoryTransport()
    transport.held.add(b"a")
    transport.send([deliver("a", 1)])
    transport.gone.add(b"a")
    assert transport.flush() == [Undelivered(deliver("a", 1), full=False), Gone(Side.BACKEND, b"a")]


def test_the_example_of_the_module_holds() -> None:
    broker = BrokerFixture(mode="single")
    broker.register("fast", "translate")
    [sent] = only(broker.send("translate", b"hello"), Deliver)
    [answer] = only(broker.ack(sent, b"bonjour"), Reply)
    assert answer.header.backend == "fast"


def test_the_same_seed_and_steps_give_the_same_actions() -> None:
    def play(seed: int) -> list[object]:
        broker = BrokerFixture(policy="capability_only", seed=seed, mode="single")
        for name in "abcd":
            broker.register(name, "c", slots=20)
        return [action for number in range(20) for action in broker.send("c", client_id=number)]

    assert play(1) == play(1)
    assert play(1) != play(2)


def test_advance_does_what_is_due_at_its_moment_and_stops_there() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c", ttl_ms=400)
    before = broker.clock.now
    [answer, _] = broker.advance(2.0)
    assert answer.peer == b"client"
    assert broker.clock.now == before + 2.0


def test_every_step_checks_the_invariants() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    broker.backend("a").limit = 77
    with pytest.raises(AssertionError):
        broker.ping()
