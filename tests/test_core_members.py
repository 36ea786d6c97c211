"""Backends come, change and leave: REGISTER in all its cases, UPDATE, HEARTBEAT, DRAIN, UNREGISTER, sessions, claims."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import SESSION, beat, bye, deliver, error, fault, make_broker, registered, reply

from router_daemon.core.actions import Bye, Deliver, Registered
from router_daemon.testing import BrokerFixture, only

HELD = "'a' is registered over another connection"


def taken(peer: bytes) -> list[object]:
    return [fault(peer, "name_taken", HELD, retry=True)]


def test_register_says_how_often_to_beat() -> None:
    broker = BrokerFixture(heartbeat_s=0.25)
    assert broker.register("a", "c") == [registered("a", heartbeat_ms=250)]


def test_register_again_replaces_everything_and_open_deliveries_stay() -> None:
    broker = make_broker("a", mode="single", slots=1)
    broker.register("a", "c", slots=2, group="blue")
    broker.send("c")
    assert broker.register("a", "d") == [registered("a")]
    info = broker.backend("a").info
    assert (info.capabilities, info.slots) == (["d"], 1)
    assert broker.backend("a").group_label == ""
    assert broker.ack(deliver("a", 1)) == [reply("a")]
    assert broker.send("c") == [error("no_backend", "c: no backend offers it now", message="m2")]


def test_register_again_keeps_the_profile() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    broker.clock.advance(1.0)
    broker.ack(deliver("a", 1))
    profile = broker.backend("a").profile
    broker.register("a", "c")
    assert broker.backend("a").profile is profile
    assert profile.samples == 1


def test_register_under_another_name_is_refused() -> None:
    broker = make_broker("a")
    detail = "this connection is registered as 'a'"
    assert broker.register("b", "c", peer=b"a") == [fault(b"a", "bad_header", detail)]
    assert list(broker.broker.registry.by_name) == ["a"]


def test_register_under_another_name_is_counted_as_a_protocol_error() -> None:
    broker = make_broker("a")
    broker.register("b", "c", peer=b"a")
    assert broker.broker.counts.protocol_errors == {"bad_header": 1}


def test_backends_are_bounded() -> None:
    broker = make_broker("a", backends=1)
    detail = "1 backends are registered, and no more are allowed"
    assert broker.register("b", "c") == [fault(b"b", "overloaded", detail, retry=True)]
    assert broker.register("a", "c") == [registered("a")]
    broker.unregister(b"a")
    assert broker.register("b", "c") == [registered("b")]


def test_update_changes_what_it_names_and_nothing_else() -> None:
    broker = BrokerFixture()
    broker.register("a", "c", slots=2, zone="z1", cost=1.5)
    assert broker.update(b"a", slots=3, zone="z2") == [registered("a")]
    info = broker.backend("a").info
    assert (info.capabilities, info.slots, info.zone, info.cost) == (["c"], 3, "z2", 1.5)
    assert broker.update(b"a") == [registered("a")]
    assert broker.backend("a").info == info


def test_fewer_slots_let_open_deliveries_go_on() -> None:
    broker = make_broker("a", mode="single", slots=3)
    for number in range(3):
        broker.send("c", client_id=number)
    broker.update(b"a", slots=1)
    assert broker.send("c", client_id=9) == []
    assert broker.ack(deliver("a", 1)) == [reply("a", client_id=0)]
    assert broker.ack(deliver("a", 2)) == [reply("a", client_id=1, message="m2")]
    assert len(broker.ack(deliver("a", 3))) == 2


def test_an_update_of_the_session_is_in_force_at_once() -> None:
    broker = make_broker("a", mode="single")
    broker.update(b"a", session=SESSION)
    assert broker.register("a", "c", session=SESSION, peer=b"x") == [registered("a", peer=b"x")]


def test_heartbeat_is_answered_and_reports_the_queue() -> None:
    broker = make_broker("a")
    assert broker.heartbeat(b"a") == [beat(b"a")]
    assert broker.backend("a").queue is None
    broker.heartbeat(b"a", queue=7)
    assert broker.backend("a").queue == 7
    broker.send("c")
    broker.ack(deliver("a", 1), queue=3)
    assert broker.backend("a").queue == 3


def test_drain_says_bye_at_once_where_nothing_is_open() -> None:
    broker = make_broker("a")
    assert broker.drain(b"a") == [bye("a")]
    assert broker.heartbeat(b"a") == [fault(b"a", "not_registered", "REGISTER first")]


def test_drain_says_bye_after_the_last_answer() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c", client_id=1)
    broker.send("c", client_id=2)
    assert broker.drain(b"a") == []
    assert broker.drain(b"a") == []
    assert broker.backend("a").state == "draining"
    assert broker.send("c", client_id=3) == [deliver("b", 3, message="m3")]
    assert broker.ack(deliver("a", 1)) == [reply("a")]
    assert broker.nack(deliver("a", 2)) == [deliver("b", 4, message="m2", attempt=2), bye("a")]
    assert "a" not in broker.broker.registry.by_name


def test_drain_waits_for_cancelled_deliveries_too() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    broker.drain(b"a")
    assert only(broker.cancel(), Bye) == []
    assert broker.nack(deliver("a", 1), "cancelled") == [bye("a")]


def test_drain_ends_though_a_delivery_is_never_answered() -> None:
    broker = make_broker("a", mode="single", heartbeat_s=1.0)
    broker.send("c", ttl_ms=500)
    broker.drain(b"a")
    farewells = []
    for _ in range(4):
        farewells += only(broker.advance(0.9), Bye)
        if not farewells:
            broker.heartbeat(b"a")
    assert farewells == [bye("a")]


def test_register_ends_a_drain_and_update_does_not() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    broker.drain(b"a")
    assert broker.update(b"a", slots=8) == [registered("a")]
    assert broker.backend("a").state == "draining"
    assert broker.register("a", "c", slots=2) == [registered("a")]
    assert broker.send("c", client_id=2) == [deliver("a", 2, message="m2")]
    assert broker.ack(deliver("a", 1)) == [reply("a")]


def test_unregister_says_bye_and_moves_what_is_open() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c")
    assert broker.unregister(b"a") == [bye("a"), deliver("b", 2, attempt=2)]
    assert broker.ack(deliver("a", 1)) == [fault(b"a", "not_registered", "REGISTER first")]


def test_the_same_session_moves_at_once_with_its_open_deliveries() -> None:
    broker = BrokerFixture(mode="single")
    broker.register("a", "c", session=SESSION)
    broker.send("c")
    assert broker.register("a", "c", session=SESSION, peer=b"new") == [registered("a", peer=b"new")]
    assert broker.ack(deliver("a", 1)) == [fault(b"a", "not_registered", "REGISTER first")]
    assert broker.gone(b"a") == []
    assert broker.ack(deliver("a", 1), peer=b"new") == [reply("a")]
    assert broker.send("c") == [deliver("a", 2, message="m2", peer=b"new")]


def test_the_delimiter_follows_the_connection() -> None:
    broker = BrokerFixture(mode="single")
    broker.register("a", "c", session=SESSION)
    broker.register("a", "c", session=SESSION, peer=b"new", delimited=True)
    [sent] = broker.send("c")
    assert (sent.peer, sent.delimited) == (b"new", True)


def test_a_delivery_parked_for_the_old_connection_comes_back_after_a_move() -> None:
    """A pause of the machine: the pipe is full, the backend reconnects with its session, the old connection ends."""
    broker = BrokerFixture(mode="single")
    broker.register("a", "c", session=SESSION, slots=1)
    [parked] = broker.send("c")
    broker.register("a", "c", session=SESSION, peer=b"new")
    answers = broker.undelivered(parked) + broker.gone(b"a") + broker.advance(0.2)
    assert [sent.peer for sent in only(answers, Deliver)] == [b"new"]


def test_a_taken_name_is_refused_and_the_holder_undisturbed() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    assert broker.register("a", "c", peer=b"x") == []
    assert broker.advance(0.125) == taken(b"x")
    assert broker.ack(deliver("a", 1)) == [reply("a", elapsed_ms=125.0)]
    assert broker.send("c") == [deliver("a", 2, message="m2")]


@pytest.mark.parametrize("session", [SESSION, None])
def test_another_session_does_not_take_the_name(session: bytes | None) -> None:
    broker = BrokerFixture()
    broker.register("a", "c", session=b"another one")
    keys: dict[str, Any] = {} if session is None else {"session": session}
    assert broker.register("a", "c", peer=b"x", **keys) == []
    assert broker.advance(0.2) == taken(b"x")


def test_news_that_the_holder_is_gone_grants_a_claim() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c")
    assert broker.register("a", "c", peer=b"x") == []
    assert broker.gone(b"a") == [deliver("b", 2, attempt=2), registered("a", peer=b"x")]
    assert broker.advance(0.2) == []


def test_a_claim_is_granted_where_the_holder_had_a_session() -> None:
    broker = BrokerFixture()
    broker.register("a", "c", session=SESSION)
    broker.register("a", "c", peer=b"x")
    assert broker.gone(b"a") == [registered("a", peer=b"x")]


def test_a_claim_is_granted_when_the_holder_unregisters() -> None:
    broker = make_broker("a")
    broker.register("a", "c", peer=b"x")
    assert broker.unregister(b"a") == [bye("a"), registered("a", peer=b"x")]


def test_a_claim_ends_with_its_connection() -> None:
    broker = make_broker("a")
    assert broker.register("a", "c", peer=b"other") == []
    assert broker.gone(b"other") == []
    assert broker.unregister(b"a") == [bye("a")]
    assert broker.broker.registry.by_name == {}


def test_a_claim_is_forgotten_where_its_connection_comes_with_the_session() -> None:
    """The older REGISTER was granted when the connection ended: a backend that nobody could reach."""
    broker = make_broker()
    broker.register("a", "c", session=SESSION)
    assert broker.register("a", "other", session=b"another", peer=b"again") == []
    broker.register("a", "c", session=SESSION, peer=b"again")
    assert broker.gone(b"again") == []
    assert broker.backend("a").info.capabilities == ["c"]
    assert broker.backend("a").state == "disconnected"


def test_the_later_of_two_claims_replaces_the_earlier() -> None:
    broker = make_broker("a")
    broker.register("a", "c", peer=b"x")
    assert broker.register("a", "c", peer=b"y") == taken(b"x")
    assert broker.register("a", "c", peer=b"y") == []
    assert broker.gone(b"a") == [registered("a", peer=b"y")]


def test_a_name_whose_holder_cannot_be_reached_is_free_at_once() -> None:
    broker = BrokerFixture(mode="single")
    broker.register("a", "c", session=SESSION)
    broker.gone(b"a")
    assert broker.register("a", "c", peer=b"x") == [registered("a", peer=b"x")]
    assert broker.send("c") == [deliver("a", 1, peer=b"x")]


@pytest.mark.parametrize("again", [b"x", b"y"])
def test_a_claim_and_a_register_meet_when_the_holder_turns_out_unreachable(again: bytes) -> None:
    """A DELIVER that could not leave tells of the holder's end before the news of its connection does."""
    broker = make_broker("a", mode="single")
    [sent] = broker.send("c")
    broker.register("a", "c", peer=b"x")
    broker.undelivered(sent)
    answers = broker.register("a", "c", peer=again)
    answers += broker.advance(10.0)
    assert len(only(answers, Registered)) <= 2
    assert "a" not in broker.broker.registry.by_name


def test_a_connection_that_left_may_register_under_another_name() -> None:
    broker = make_broker("a")
    broker.unregister(b"a")
    assert broker.register("b", "c", peer=b"a") == [registered("b", peer=b"a")]
