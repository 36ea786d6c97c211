"""Who falls silent, whose connection ends, what never left, and the end of the daemon."""

from __future__ import annotations

from collections.abc import Callable

from core_kit import (
    SESSION,
    accept,
    bye,
    deliver,
    delivery_outcomes,
    error,
    make_broker,
    outcomes,
    piece,
    registered,
    reply,
    success_after,
    unwanted,
)

from router_daemon.core.actions import CancelDelivery, Deliver, Error, Registered
from router_daemon.core.types import Side
from router_daemon.testing import CLIENT, BrokerFixture, only


def test_three_silent_heartbeats_are_a_loss() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    assert broker.advance(2.999) == []
    assert broker.advance(0.052) == [error("failed", "a: lost")]
    assert delivery_outcomes(broker, "a") == {"lost": 1}
    assert broker.broker.counts.backends["a"].failures["lost"] == 1


def test_any_valid_command_is_a_heartbeat() -> None:
    broker = make_broker("a", mode="single", slots=8)
    steps: list[Callable[[], object]] = [
        lambda: broker.heartbeat(b"a"),
        lambda: broker.update(b"a"),
        lambda: broker.ack(deliver("a", 77)),
        lambda: broker.nack(deliver("a", 77)),
        lambda: broker.part(deliver("a", 77)),
        lambda: broker.register("a", "c"),
    ]
    for step in steps:
        broker.advance(2.9)
        step()
    broker.advance(2.9)
    assert "a" in broker.broker.registry.by_name
    broker.advance(0.2)
    assert "a" not in broker.broker.registry.by_name


def test_a_pause_of_the_daemon_is_no_silence_of_its_backends() -> None:
    broker = make_broker("a", mode="single")
    broker.advance(2.5)
    broker.heartbeat(b"a")
    broker.clock.advance(60.0)
    broker.broker.on_timer(broker.clock.now)
    assert "a" in broker.broker.registry.by_name
    broker.advance(3.1)
    assert "a" not in broker.broker.registry.by_name


def test_who_beats_right_after_a_pause_of_the_daemon_is_missed_as_soon_as_ever() -> None:
    broker = make_broker("a", mode="single")
    broker.clock.advance(60.0)
    broker.heartbeat(b"a")
    broker.broker.on_timer(broker.clock.now)
    assert broker.backend("a").last_seen <= broker.clock.now
    broker.advance(3.1)
    assert "a" not in broker.broker.registry.by_name


def test_a_loss_sends_everything_open_elsewhere() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c", client_id=1)
    broker.send("c", client_id=2)
    broker.clock.advance(1.0)
    broker.heartbeat(b"b")
    assert broker.advance(2.1) == [
        deliver("b", 3, attempt=2, ttl_ms=26_950),
        deliver("b", 4, message="m2", attempt=2, ttl_ms=26_950),
    ]


def test_a_connection_that_ends_without_a_session_is_a_loss_at_once() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c")
    assert broker.gone(b"a") == [deliver("b", 2, attempt=2)]
    assert broker.gone(b"a") == []


def test_a_session_has_three_heartbeats_to_come_back() -> None:
    broker = make_broker(mode="single")
    broker.register("a", "c", session=SESSION)
    broker.send("c")
    assert broker.gone(b"a") == []
    assert broker.backend("a").state == "disconnected"
    assert only(broker.advance(3.1), Error) == [error("failed", "a: lost")]


def test_news_of_a_connection_that_nobody_registered_changes_nothing() -> None:
    broker = make_broker("a")
    assert broker.gone(b"stranger") == []
    assert broker.gone(b"stranger", Side.CLIENT) == []


def test_a_client_that_is_gone_has_its_deliveries_cancelled() -> None:
    broker = make_broker("a", slots=1)
    broker.send("c", client_id=1)
    broker.send("c", client_id=2)
    broker.send("c", client_id=1, peer=b"other")
    assert broker.gone(CLIENT, Side.CLIENT) == [unwanted("a", 1)]
    assert outcomes(broker) == {"client_gone": 2}
    assert broker.nack(deliver("a", 1), "cancelled") == [deliver("a", 2, message="m3")]


def test_what_a_gone_client_posted_goes_on() -> None:
    broker = make_broker("a")
    broker.send("c", reply="none")
    assert broker.gone(CLIENT, Side.CLIENT) == []
    assert broker.ack(deliver("a", 1)) == []
    assert outcomes(broker) == {"answered": 1}


def test_the_same_connection_name_on_the_other_side_is_another_peer() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c", peer=b"a")
    assert broker.gone(b"a", Side.CLIENT) == [unwanted("a", 1)]
    assert "a" in broker.broker.registry.by_name


def test_a_delivery_that_never_left_goes_elsewhere_and_counts_for_nothing() -> None:
    broker = make_broker("a", "b", mode="single")
    [sent] = broker.send("c", heads=1)
    assert broker.undelivered(sent) == [deliver("b", 2, attempt=2)]
    assert broker.backend("a").profile.success == 0.9
    assert delivery_outcomes(broker, "a") == {"undelivered": 1}
    assert broker.gone(b"a") == []
    assert broker.nack(deliver("b", 2)) == [error("failed", "b: failed")]


def test_a_full_pipe_pauses_the_backend() -> None:
    broker = make_broker("a", mode="single")
    [sent] = broker.send("c")
    assert broker.undelivered(sent, full=True) == []
    assert broker.backend("a").state == "paused"
    assert broker.advance(0.099) == []
    assert broker.advance(0.002) == [deliver("a", 2, attempt=2, ttl_ms=29_899)]


def test_a_delivery_of_a_decided_message_that_never_left_frees_its_place() -> None:
    broker = make_broker("a", "b")
    sent = only(broker.send("c"), Deliver)
    broker.ack(sent[0])
    assert broker.undelivered(sent[1]) == []
    assert len(broker.backend("b").open) == 0


def test_a_delivery_that_never_left_ends_a_drain() -> None:
    broker = make_broker("a", "b", mode="single")
    [sent] = broker.send("c")
    broker.drain(b"a")
    assert broker.undelivered(sent, full=True) == [deliver("b", 2, attempt=2), bye("a")]


def test_other_things_that_never_left_for_a_backend_change_nothing() -> None:
    broker = make_broker("a")
    assert broker.undelivered(registered("a")) == []
    assert broker.undelivered(unwanted("a", 1)) == []
    assert broker.undelivered(deliver("a", 77)) == []
    assert broker.undelivered(deliver("stranger", 77)) == []


def test_lost_answers_are_counted() -> None:
    broker = make_broker("a")
    assert broker.undelivered(reply("a"), full=True) == []
    assert broker.undelivered(error("failed", "x")) == []
    assert broker.undelivered(accept()) == []
    assert broker.broker.counts.lost_answers == {"unread": 1, "gone": 2}


def test_a_part_for_a_client_that_is_gone_ends_as_its_going_does() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    assert broker.part(deliver("a", 1), b"x") == [piece("a", 0, b"x")]
    broker.undelivered(piece("a", 0, b"x"))
    broker.gone(CLIENT, Side.CLIENT)
    assert outcomes(broker) == {"client_gone": 1}


def test_who_comes_back_within_ten_minutes_keeps_success_and_counters_but_not_latency() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    broker.clock.advance(0.5)
    broker.nack(deliver("a", 1))
    broker.send("c")
    broker.clock.advance(0.5)
    broker.ack(deliver("a", 2))
    broker.unregister(b"a")
    broker.advance(599.0)
    broker.register("a", "c")
    profile = broker.backend("a").profile
    assert profile.success == success_after(False, True)
    assert (profile.latency_s, profile.samples) == (0.001, 0)
    assert delivery_outcomes(broker, "a") == {"failed": 1, "acked": 1}


def test_who_comes_back_later_is_new() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    broker.nack(deliver("a", 1))
    broker.unregister(b"a")
    broker.advance(661.0)
    assert "a" not in broker.broker.counts.backends
    broker.register("a", "c")
    assert broker.backend("a").profile.success == 0.9
    assert delivery_outcomes(broker, "a") == {}


def test_who_left_is_remembered_under_a_name_taken_over_by_another_connection() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    broker.nack(deliver("a", 1))
    broker.gone(b"a")
    broker.register("a", "c", peer=b"elsewhere")
    assert broker.backend("a").profile.success == success_after(False)


def test_a_late_answer_feeds_the_profile_it_was_charged_to() -> None:
    broker = BrokerFixture(mode="single")
    broker.register("a", "c", session=SESSION)
    broker.send("c")
    broker.register("a", "c", session=SESSION, peer=b"new")
    broker.ack(deliver("a", 1), peer=b"new")
    assert broker.backend("a").profile.samples == 1


def test_stop_ends_everything_with_draining_and_bye() -> None:
    broker = make_broker("a", mode="single", slots=1)
    broker.register("b", "other")
    broker.send("c", client_id=1)
    broker.send("c", client_id=2)
    broker.send("other", client_id=3, reply="none")
    assert broker.stop() == [
        error("draining", "the daemon exits"),
        unwanted("a", 1),
        error("draining", "the daemon exits", client_id=2, message="m2"),
        unwanted("b", 2),
        bye("a"),
        bye("b"),
    ]
    assert broker.broker.open_messages == 0
    assert [e.header.code for e in only(broker.send("c"), Error)] == ["draining"]


def test_stop_of_reply_all_is_one_error() -> None:
    broker = make_broker("a", "b")
    broker.send("c", reply="all")
    assert only(broker.stop(), Error) == [error("draining", "the daemon exits")]


def test_stop_grants_no_claims() -> None:
    broker = make_broker("a")
    broker.register("a", "c", peer=b"x")
    assert only(broker.stop(), Registered) == []
    assert broker.broker.registry.by_name == {}


def test_a_backend_that_leaves_gets_no_cancel_for_what_it_had() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    assert only(broker.unregister(b"a"), CancelDelivery) == []
