"""Messages that name their backend: only that one, also against ejection, once, and who may send them."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import make_broker
from routing_kit import name_of, refusal

from router_daemon.core.actions import Action, Deliver, Error, Reply
from router_daemon.core.events import ForeignSend, Request
from router_daemon.core.settings import EjectionSettings, WaitingSettings
from router_daemon.core.types import RingPeer
from router_daemon.testing import CLIENT, BrokerFixture, only

ORIGIN = RingPeer(b"ring/other")
PATIENT = WaitingSettings(reserve=0.0, longest=1.0)


def make(*names: str, slots: int = 4, **settings: Any) -> BrokerFixture:
    """Return a broker whose clients may name backends, and prefers them in the given order."""
    return make_broker(*names, slots=slots, **({"backend_override": True, "mode": "auto"} | settings))


def foreign(fixture: BrokerFixture, number: int, backend: str, capability: str = "c", **keys: Any) -> list[Action]:
    """Take in a delivery of another daemon: the second of message "x7" there, of three."""
    request = Request(number, capability, backend=backend, **keys)
    return fixture.handle(ForeignSend(ORIGIN, False, request, (b"body",), "x7", 1, 3))


def eject(fixture: BrokerFixture, name: str) -> None:
    """Let a backend fail until it is ejected."""
    number = 1000
    while not fixture.backend(name).ejected:
        (sent,) = only(fixture.send("c", client_id=number, backend=name), Deliver)
        fixture.nack(sent)
        number += 1
        assert number < 1050


def test_clients_may_not_by_default() -> None:
    assert refusal(make_broker("a").send("c", backend="a"))[0] == "forbidden"


def test_the_named_one_gets_it_whoever_is_better() -> None:
    fixture = make("a", "b", "c")
    for mode in ("auto", "fanout", "hedge", "single"):
        (sent,) = only(fixture.send("c", b"x", client_id=mode, backend="b", mode=mode, heads=3), Deliver)
        assert (name_of(sent), sent.header.heads) == ("b", 1)
        assert only(fixture.ack(sent, b"y"), Reply)[0].header.backend == "b"


def test_no_failover_no_hedge_and_no_second_time() -> None:
    fixture = make("a", "b")
    (sent,) = only(fixture.send("c", backend="a", ttl_ms=1000), Deliver)
    assert only(fixture.advance(0.9), Deliver) == []
    assert refusal(fixture.nack(sent))[0] == "failed"
    assert fixture.broker.open_messages == 0


@pytest.mark.parametrize(
    ("name", "keys", "code"),
    [
        ("z", {}, "unknown_backend"),
        ("b", {}, "no_backend"),
        ("a", {"max_cost": 1.0}, "no_backend"),
    ],
)
def test_refused_at_once(name: str, keys: dict[str, Any], code: str) -> None:
    fixture = make("a")
    fixture.register("a", "c", cost=2.0)
    fixture.register("b", "other")
    assert refusal(fixture.send("c", backend=name, **keys))[0] == code
    assert fixture.broker.counts.capabilities["c"].outcomes[code] == 1


def test_not_while_it_drains() -> None:
    fixture = make("a", "b")
    fixture.send("c", client_id=1, backend="a")
    fixture.drain(b"a")
    assert refusal(fixture.send("c", client_id=2, backend="a"))[0] == "no_backend"


def test_it_waits_for_a_place_of_that_one_and_no_other() -> None:
    fixture = make("a", "b", slots=1, waiting=PATIENT)
    (first,) = only(fixture.send("c", client_id=1, backend="a"), Deliver)
    assert only(fixture.send("c", client_id=2, backend="a"), Deliver) == []
    (plain,) = only(fixture.send("c", client_id=3, heads=1), Deliver)
    assert name_of(plain) == "b"
    assert only(fixture.ack(plain), Deliver) == []
    (second,) = only(fixture.ack(first), Deliver)
    assert name_of(second) == "a"


def test_it_leaves_the_reserve_to_the_critical() -> None:
    fixture = make("a", "b", slots=1, waiting=WaitingSettings(reserve=0.5, longest=1.0))
    (only_common,) = only(fixture.send("c", client_id=1, backend="b"), Deliver)
    assert only(fixture.send("c", client_id=2, backend="a"), Deliver) == []
    assert only(fixture.send("c", client_id=3, backend="a", priority=4), Deliver)
    assert only(fixture.ack(only_common), Deliver) == []


def test_busy_lets_it_wait_for_the_same() -> None:
    fixture = make("a", "b", waiting=PATIENT)
    (sent,) = only(fixture.send("c", backend="a"), Deliver)
    assert fixture.nack(sent, "busy", retry_after_ms=100) == []
    (again,) = only(fixture.advance(0.2), Deliver)
    assert (name_of(again), again.header.attempt) == ("a", 2)


def test_also_against_ejection() -> None:
    fixture = make("a", "b", slots=1, waiting=PATIENT, ejection=EjectionSettings(first_s=100.0, most_s=100.0))
    eject(fixture, "a")
    (sent,) = only(fixture.send("c", client_id=1, backend="a"), Deliver)
    assert only(fixture.send("c", client_id=2, backend="a"), Deliver) == []
    (waited,) = only(fixture.nack(sent, "rejected"), Deliver)
    assert name_of(waited) == "a"
    assert fixture.backend("a").ejected
    fixture.ack(waited)
    assert not fixture.backend("a").ejected, "it works: that is what a trial would have found"


def test_who_waits_for_one_that_leaves_is_told() -> None:
    fixture = make("a", "b", slots=1, waiting=PATIENT)
    fixture.send("c", client_id=1, backend="a")
    fixture.send("c", client_id=2, backend="a")
    errors = only(fixture.unregister(b"a"), Error)
    assert [(e.header.id, e.header.code) for e in errors] == [(1, "failed"), (2, "no_backend")]


# --- deliveries of other daemons ---


def test_what_another_daemon_says_reaches_the_backend_unchanged() -> None:
    fixture = make_broker("a")
    (sent,) = only(foreign(fixture, 5, "a"), Deliver)
    header = sent.header
    assert (header.message, header.attempt, header.head, header.heads) == ("x7", 2, 2, 3)
    (reply,) = only(fixture.ack(sent, b"done"), Reply)
    assert (reply.peer, reply.header.id, reply.header.message, reply.body) == (ORIGIN, 5, "x7", (b"done",))


def test_it_has_no_quota() -> None:
    fixture = make_broker("a", slots=10, client_messages=1)
    assert all(only(foreign(fixture, number, "a"), Deliver) for number in range(3))


def test_what_a_backend_is_too_busy_for_goes_back_at_once() -> None:
    fixture = make_broker("a")
    (sent,) = only(foreign(fixture, 5, "a"), Deliver)
    assert refusal(fixture.nack(sent, "busy", retry_after_ms=200)) == ("overloaded", 201)
    assert fixture.broker.open_messages == 0


def test_it_waits_among_the_others() -> None:
    fixture = make_broker("a", slots=1, waiting=PATIENT)
    (taken,) = only(fixture.send("c", client_id=1), Deliver)
    assert foreign(fixture, 5, "a", priority=3) == []
    assert fixture.send("c", client_id=2) == []
    (following,) = only(fixture.ack(taken), Deliver)
    assert following.header.message == "x7"


def test_a_draining_daemon_takes_none() -> None:
    fixture = make_broker("a")
    fixture.broker.start_drain()
    assert refusal(foreign(fixture, 5, "a"))[0] == "draining"


def test_a_client_is_not_trusted_for_its_neighbour() -> None:
    fixture = make_broker("a")
    foreign(fixture, 5, "a")
    assert refusal(fixture.send("c", client_id=6, backend="a", peer=CLIENT))[0] == "forbidden"
