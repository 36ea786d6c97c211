"""A backend that a person has drained: it gets nothing new, keeps its registration, and no command of its own ends it."""

from __future__ import annotations

import pytest
from core_kit import SESSION, bye, deliver, error, make_broker, registered, reply
from nodes_kit import Ring

from router_daemon.core.actions import Action, Bye, Deliver, Error
from router_daemon.core.drains import MOST_DRAINS, Drains
from router_daemon.core.operating import Operator, Refused
from router_daemon.core.registry import REMEMBER_S
from router_daemon.core.timers import FINE_S
from router_daemon.core.views import backends, drained, explain
from router_daemon.testing import BrokerFixture, only


def drain(fixture: BrokerFixture, name: str) -> list[Action]:
    """Drain a backend as a person does, and return what is sent because of it."""
    Operator(fixture.broker).drain(name, fixture.clock.now)
    fixture.broker.check()
    return fixture.advance(FINE_S)


def undrain(fixture: BrokerFixture, name: str) -> list[Action]:
    Operator(fixture.broker).undrain(name, fixture.clock.now)
    fixture.broker.check()
    return fixture.advance(FINE_S)


def answered(name: str, drains: int = 1) -> Action:
    """REPLY, after the moments that so many drains and ends of drains take."""
    return reply(name, elapsed_ms=pytest.approx(1000.0 * FINE_S * drains, abs=1e-6))


def taken_by(fixture: BrokerFixture, number: int) -> list[bytes]:
    sent = only(fixture.send("c", client_id=number), Deliver)
    for each in sent:
        fixture.ack(each)
    return [each.peer for each in sent]


def test_it_gets_nothing_new_and_finishes_what_it_has_without_a_bye() -> None:
    broker = make_broker("a", "b", mode="single")
    assert broker.send("c") == [deliver("a", 1)]
    assert drain(broker, "a") == []
    assert broker.backend("a").state == "drained"
    assert taken_by(broker, 2) == [b"b"]
    assert broker.ack(deliver("a", 1)) == [answered("a")]
    assert only(broker.advance(1.0), Bye) == []
    assert undrain(broker, "a") == []
    assert broker.backend("a").state == "up"
    broker.unregister(b"b")
    assert taken_by(broker, 3) == [b"a"]


def test_a_retry_goes_elsewhere_too() -> None:
    broker = make_broker("a", "b", mode="single", unsaid_idempotent="retries")
    [first] = only(broker.send("c"), Deliver)
    drain(broker, "b")
    assert only(broker.nack(first), Deliver) == []


@pytest.mark.parametrize("how", ["register", "same session", "update", "back after a loss", "again after it left"])
def test_nothing_that_a_backend_does_ends_it(how: str) -> None:
    broker = BrokerFixture(mode="single")
    broker.register("b", "c")
    broker.register("a", "c", session=SESSION)
    drain(broker, "a")
    if how == "register":
        assert broker.register("a", "c", session=SESSION) == [registered("a")]
    elif how == "same session":
        assert broker.register("a", "c", session=SESSION, peer=b"new") == [registered("a", peer=b"new")]
    elif how == "update":
        broker.update(b"a", slots=8)
    elif how == "back after a loss":
        broker.gone(b"a")
        broker.register("a", "c", session=b"another-session", peer=b"new")
    else:
        broker.unregister(b"a")
        broker.register("a", "c", peer=b"new")
    assert broker.backend("a").state == "drained"
    assert taken_by(broker, 1) == [b"b"]
    undrain(broker, "a")
    broker.unregister(b"b")
    assert taken_by(broker, 2) == [broker.backend("a").peer]


def test_it_may_drain_itself_as_well_and_then_leaves() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c")
    drain(broker, "a")
    assert broker.drain(b"a") == []
    assert broker.backend("a").state == "draining"
    assert undrain(broker, "a") == []
    assert broker.backend("a").state == "draining", "its own drain is not a person's to end"
    assert broker.ack(deliver("a", 1)) == [answered("a", drains=2), bye("a")]


def test_a_register_ends_its_own_drain_and_not_a_persons() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    broker.drain(b"a")
    drain(broker, "a")
    broker.register("a", "c")
    assert broker.backend("a").state == "drained"
    assert broker.ack(deliver("a", 1)) == [answered("a")]
    assert "a" in broker.broker.registry.by_name


def test_who_waits_for_the_last_one_hears_at_once_that_nobody_is_left() -> None:
    broker = make_broker("a", slots=1, mode="single")
    broker.send("c")
    broker.send("c", client_id=2)
    [told] = drain(broker, "a")
    assert isinstance(told, Error)
    assert (told.header.id, told.header.code) == (2, "no_backend")
    detail = "c: no backend offers it now"
    assert broker.send("c", client_id=3) == [error("no_backend", detail, client_id=3, message="m3")]


def test_who_waits_gets_a_backend_whose_drain_has_ended() -> None:
    broker = make_broker("a", "b", slots=1, mode="single")
    drain(broker, "b")
    broker.send("c")
    assert only(broker.send("c", client_id=2), Deliver) == []
    assert [each.peer for each in only(undrain(broker, "b"), Deliver)] == [b"b"]


def test_a_trial_that_was_due_is_due_again() -> None:
    broker = make_broker("a", "b", "d", mode="single", unsaid_idempotent="retries")
    now = broker.clock.now
    broker.broker.registry.set_ejected(broker.backend("a"), ejected=True, now=now)
    broker.backend("a").readmit_at = now
    broker.broker.dispatcher.health.due(broker.backend("a"), now)
    assert broker.backend("a").trial_due
    drain(broker, "a")
    assert not broker.backend("a").trial_due
    undrain(broker, "a")
    assert broker.backend("a").trial_due


def test_those_ejected_are_let_in_where_the_last_other_one_is_drained() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.broker.registry.set_ejected(broker.backend("a"), ejected=True, now=broker.clock.now)
    broker.backend("a").readmit_at = broker.clock.now + 60.0
    drain(broker, "b")
    assert taken_by(broker, 1) == [b"a"]


def test_another_version_that_came_meanwhile_is_measured_anew_at_the_end() -> None:
    broker = BrokerFixture(mode="single")
    broker.register("a", "c", version="1")
    drain(broker, "a")
    broker.register("a", "c", version="2")
    broker.broker.take_news()
    undrain(broker, "a")
    told = [("backend undrained by a person", "a"), ("backend has version '2', before '1': measured anew", "a")]
    assert broker.broker.take_news() == told


def test_who_came_while_drained_starts_slowly_at_the_end() -> None:
    broker = make_broker("b", slots=2, mode="single")
    for number in range(8):
        broker.ack(only(broker.send("c", client_id=number), Deliver)[0])
    assert broker.backend("b").warm
    broker.register("a", "c", slots=4)
    assert broker.backend("a").window == 1
    drain(broker, "a")
    broker.unregister(b"a")
    broker.register("a", "c", slots=4)
    undrain(broker, "a")
    assert broker.backend("a").window == 1


def test_what_makes_no_sense_is_refused_and_saying_it_twice_is_not() -> None:
    broker = make_broker("a", mode="single")
    operator, now = Operator(broker.broker), broker.clock.now
    with pytest.raises(Refused, match="no backend 'x' is registered"):
        operator.drain("x", now)
    with pytest.raises(Refused, match="not drained by anybody"):
        operator.undrain("a", now)
    assert operator.drain("a", now) == "a"
    assert operator.drain("a", now) == "a had been drained already"
    with pytest.raises(Refused, match="'a' is drained: undrain it first"):
        operator.override("c", "a", 60.0, now)
    assert operator.undrain("a", now) == "a"


def test_who_has_just_left_can_be_drained_and_who_is_forgotten_undrained() -> None:
    broker = make_broker("a", mode="single")
    broker.unregister(b"a")
    drain(broker, "a")
    broker.advance(REMEMBER_S + 61.0)
    assert drained(broker.broker, broker.clock.now) == [
        {"backend": "a", "for_s": pytest.approx(REMEMBER_S + 61.0, abs=0.01), "registered": False, "in_flight": 0}
    ]
    undrain(broker, "a")
    assert drained(broker.broker, broker.clock.now) == []


def test_people_see_it() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c")
    drain(broker, "a")
    broker.clock.advance(2.0)
    now = broker.clock.now
    assert [(row["name"], row["state"], row["drained"]) for row in backends(broker.broker, now)] == [
        ("a", "drained", True),
        ("b", "up", False),
    ]
    assert drained(broker.broker, now) == [
        {"backend": "a", "for_s": pytest.approx(2.0, abs=0.01), "registered": True, "in_flight": 1}
    ]
    reasons = {row["backend"]: row["reason"] for row in explain(broker.broker, "c", 2, now)["candidates"]}
    assert reasons["a"] == "drained"


def test_drains_are_bounded() -> None:
    drains = Drains()
    for number in range(MOST_DRAINS):
        assert drains.set(f"b{number}", 100.0)
    assert not drains.set("b0", 101.0)
    with pytest.raises(ValueError, match="no more are allowed"):
        drains.set("one more", 100.0)
    assert drains.snapshot(103.0) == {f"b{number}": 3.0 for number in range(MOST_DRAINS)}
    assert drains.clear("b0")
    assert not drains.clear("b0")


def test_who_registers_after_a_restart_is_drained_still() -> None:
    broker = BrokerFixture(mode="single")
    broker.register("d", "c")
    broker.broker.members.restore_drains({"a": 60.0, "d": 1.0}, broker.clock.now)
    broker.register("a", "c")
    broker.register("b", "c")
    assert [row["for_s"] for row in drained(broker.broker, broker.clock.now)] == [60.0, 1.0]
    assert broker.backend("a").state == "drained"
    assert taken_by(broker, 1) == [b"b"]


# --- in a ring ---


def test_other_daemons_are_told_and_a_drain_of_theirs_holds_here_alone() -> None:
    ring = Ring("a", "b", "c")
    ring.circle()
    ring.register("c", "x", "work")
    ring.run(1.0)
    here, home = ring.nodes["a"].broker, ring.nodes["c"].broker
    assert here.registry.by_name["c/x"].state == "up"

    Operator(home).drain("x", ring.now)
    ring.run(3.0)
    assert "c/x" not in here.registry.by_name, "told like a backend that drains: nothing of it is open here"
    Operator(home).undrain("x", ring.now)
    ring.run(3.0)
    assert here.registry.by_name["c/x"].state == "up"

    Operator(here).drain("c/x", ring.now)
    ring.run(5.0)
    epoch = here.registry.epoch
    ring.run(20.0)
    assert here.registry.by_name["c/x"].state == "drained"
    assert here.registry.epoch == epoch, "what the home tells again changes nothing"
    assert home.registry.by_name["x"].state == ring.nodes["b"].broker.registry.by_name["c/x"].state == "up"
