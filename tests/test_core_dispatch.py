"""From an admitted message to its answer: heads at once or one after the other, failover, attempts that time out."""

from __future__ import annotations

import pytest
from core_kit import (
    SESSION,
    accept,
    deliver,
    delivery_outcomes,
    error,
    make_broker,
    outcomes,
    reply,
    unwanted,
)

from router_daemon.core.actions import Deliver
from router_daemon.testing import only


def test_fanout_sends_to_all_heads_at_once_and_the_first_success_answers() -> None:
    broker = make_broker("a", "b", "z", "y")
    assert broker.send("c", b"x") == [
        deliver("a", 1, b"x", heads=3),
        deliver("b", 2, b"x", attempt=2, heads=3),
        deliver("z", 3, b"x", attempt=3),
    ]
    answers = broker.ack(deliver("b", 2), b"done")
    assert answers == [reply("b", b"done", head=2, heads=3), unwanted("a", 1), unwanted("z", 3)]
    assert list(broker.broker.counts.heads)[:5] == [0, 0, 0, 1, 0]


def test_single_sends_to_the_best_head_alone() -> None:
    broker = make_broker("a", "b", mode="single")
    assert broker.send("c") == [deliver("a", 1)]
    assert broker.ack(deliver("a", 1)) == [reply("a")]


def test_a_message_may_choose_its_mode() -> None:
    assert make_broker("a", "b").send("c", mode="single") == [deliver("a", 1)]
    fanned = make_broker("a", "b", mode="single").send("c", mode="fanout")
    assert fanned == [deliver("a", 1, heads=2), deliver("b", 2, attempt=2)]


def test_fanout_skips_the_full_and_takes_who_has_room() -> None:
    broker = make_broker("a", "b", slots=1)
    broker.send("c", mode="single")
    assert broker.send("c", client_id=2) == [deliver("b", 2, message="m2")]


def test_single_takes_the_next_head_after_a_nack() -> None:
    broker = make_broker("a", "b", "z", mode="single")
    broker.send("c", b"x")
    assert broker.nack(deliver("a", 1)) == [deliver("b", 2, b"x", attempt=2)]
    assert broker.nack(deliver("b", 2)) == [deliver("z", 3, b"x", attempt=3)]
    broker.clock.advance(0.5)
    assert broker.nack(deliver("z", 3), reason="out of paper") == [error("failed", "z: failed: out of paper")]
    assert outcomes(broker) == {"failed": 1}
    assert delivery_outcomes(broker, "a") == {"failed": 1}


def test_what_is_left_of_the_ttl_goes_down_with_each_attempt() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c", ttl_ms=1_000)
    broker.clock.advance(0.25)
    assert broker.nack(deliver("a", 1)) == [deliver("b", 2, attempt=2, ttl_ms=750)]


def test_failover_ends_with_the_permitted_heads() -> None:
    broker = make_broker("a", "b", "z", mode="single")
    broker.send("c", heads=2)
    assert broker.nack(deliver("a", 1)) == [deliver("b", 2, attempt=2)]
    assert broker.nack(deliver("b", 2)) == [error("failed", "b: failed")]


def test_fanout_fails_only_when_the_last_head_has() -> None:
    broker = make_broker("a", "b", heads=2)
    broker.register("z", "c")
    broker.send("c")
    assert broker.nack(deliver("a", 1)) == []
    assert broker.nack(deliver("b", 2)) == [error("failed", "b: failed")]


def test_fanout_goes_on_where_fewer_than_the_permitted_heads_had_room() -> None:
    broker = make_broker("a", "b", slots=1)
    broker.send("c", mode="single")
    broker.send("c", client_id=2)
    broker.ack(deliver("a", 1))
    assert broker.nack(deliver("b", 2)) == [deliver("a", 3, message="m2", attempt=2)]


def test_an_unregistered_backend_is_a_loss_for_its_messages() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c")
    actions = broker.unregister(b"a")
    assert only(actions, Deliver) == [deliver("b", 2, attempt=2)]
    assert delivery_outcomes(broker, "a") == {"lost": 1}


def test_each_attempt_has_an_equal_share_of_what_is_left() -> None:
    broker = make_broker("a", "b", "z", mode="single")
    broker.send("c", ttl_ms=900)
    assert broker.advance(0.300) == []
    assert broker.advance(0.002) == [unwanted("a", 1), deliver("b", 2, attempt=2, ttl_ms=598)]
    assert delivery_outcomes(broker, "a") == {"timeout": 1}
    assert broker.advance(0.299) == []
    timed_out = broker.advance(0.002)
    assert timed_out[0] == unwanted("b", 2)
    assert [sent.peer for sent in only(timed_out, Deliver)] == [b"z"]


def test_the_last_permitted_head_has_all_that_is_left() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c", ttl_ms=800, heads=2)
    broker.advance(0.401)
    assert broker.advance(0.398) == []
    assert broker.advance(0.003) == [error("expired", "the time is up; a: timed out"), unwanted("b", 2)]
    assert outcomes(broker) == {"expired": 1}
    assert delivery_outcomes(broker, "b") == {"timeout": 1}


def test_the_only_candidate_has_all_that_is_left() -> None:
    broker = make_broker("a", mode="single", heartbeat_s=60.0)
    broker.send("c", ttl_ms=800)
    assert broker.advance(0.799) == []
    assert broker.advance(0.051) == [error("expired", "the time is up"), unwanted("a", 1)]


def test_the_attempt_timeout_may_be_configured() -> None:
    broker = make_broker("a", "b", mode="single", attempt_timeout_s=0.125)
    broker.send("c")
    assert broker.advance(0.124) == []
    assert broker.advance(0.002)[0] == unwanted("a", 1)


def test_fanout_has_no_attempt_timeout() -> None:
    broker = make_broker("a", "b", "z", heads=2, heartbeat_s=60.0)
    broker.send("c", ttl_ms=800)
    assert broker.advance(0.799) == []


def test_a_head_with_no_alternative_any_more_is_waited_for() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c", ttl_ms=800)
    broker.unregister(b"b")
    assert broker.advance(0.799) == []
    assert broker.ack(deliver("a", 1)) == [reply("a", elapsed_ms=pytest.approx(799.0))]


def test_a_busy_head_leaves_the_next_one_an_attempt_timeout() -> None:
    """NACK busy is outside the count of heads, so the next head is not the last permitted one."""
    broker = make_broker("a", "b", mode="single", heartbeat_s=60.0)
    broker.send("c", ttl_ms=1_000, heads=2)
    assert broker.nack(deliver("a", 1), "busy", retry_after_ms=10) == [deliver("b", 2, attempt=2, ttl_ms=1_000)]
    assert broker.advance(0.501) == [unwanted("b", 2), deliver("a", 3, attempt=3, ttl_ms=499)]


def test_a_head_that_timed_out_may_still_answer_first() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c", ttl_ms=800)
    broker.advance(0.401)
    answers = broker.ack(deliver("a", 1), b"late")
    assert answers == [reply("a", b"late", heads=2, elapsed_ms=pytest.approx(401.0)), unwanted("b", 2)]
    assert delivery_outcomes(broker, "a") == {"timeout": 1}


def test_a_head_that_timed_out_and_then_fails_changes_nothing() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c", ttl_ms=800)
    broker.advance(0.401)
    assert broker.nack(deliver("a", 1), "cancelled") == []
    assert delivery_outcomes(broker, "a") == {"timeout": 1}
    assert broker.ack(deliver("b", 2)) == [reply("b", head=2)]


def test_first_ms_times_a_head_out_even_without_an_alternative() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c", first_ms=100)
    assert broker.advance(0.100) == []
    assert broker.advance(0.002) == [unwanted("a", 1), error("failed", "a: timed out")]


def test_first_ms_times_all_copies_out() -> None:
    broker = make_broker("a", "b")
    broker.send("c", first_ms=100)
    assert broker.advance(0.102) == [unwanted("a", 1), unwanted("b", 2), error("failed", "b: timed out")]
    assert delivery_outcomes(broker, "a") == {"timeout": 1}


def test_first_ms_of_the_first_head_lets_the_next_one_begin() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c", first_ms=100, ttl_ms=1_000)
    assert broker.advance(0.101) == [unwanted("a", 1), deliver("b", 2, attempt=2, ttl_ms=899)]


def test_a_place_is_free_again_long_after_its_message_has_expired() -> None:
    broker = make_broker("a", mode="single", slots=1, heartbeat_s=1.0)
    broker.register("b", "other")
    broker.send("c", ttl_ms=500)
    for _ in range(3):
        broker.advance(1.0)
        broker.heartbeat(b"a")
    assert len(broker.backend("a").open) == 1
    assert broker.send("c", client_id=2, ttl_ms=60_000) == []
    assert broker.advance(0.501 + 0.05) == [deliver("a", 2, message="m2", ttl_ms=59_450)]
    assert delivery_outcomes(broker, "a") == {"timeout": 1}


def test_answers_to_what_is_not_open_change_nothing() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c")
    assert broker.ack(deliver("a", 99)) == []
    assert broker.ack(deliver("a", 1), peer=b"b") == []
    assert broker.nack(deliver("a", 1), peer=b"b") == []
    assert broker.part(deliver("a", 1), peer=b"b") == []
    assert broker.ack(deliver("a", 1)) == [reply("a")]
    assert broker.ack(deliver("a", 1)) == []
    assert broker.nack(deliver("a", 1)) == []
    assert broker.broker.counts.stray_answers == {"unknown": 6}
    assert broker.backend("a").profile.samples == 1
    assert broker.backend("b").profile.samples == 0


def test_delivery_ids_rise_over_messages_and_attempts() -> None:
    broker = make_broker("a", "b", mode="single")
    sent = only(broker.send("c"), Deliver)
    sent += only(broker.send("c", client_id=2), Deliver)
    sent += only(broker.nack(sent[0]), Deliver)
    assert [delivery.header.id for delivery in sent] == [1, 2, 3]


def test_a_lost_message_without_reply_is_counted() -> None:
    broker = make_broker("a", mode="single")
    assert broker.send("c", reply="none") == [accept(), deliver("a", 1)]
    assert broker.nack(deliver("a", 1)) == []
    assert outcomes(broker) == {"failed": 1}


def test_a_session_keeps_a_place_while_its_connection_is_away() -> None:
    broker = make_broker(mode="single")
    broker.register("a", "c", session=SESSION)
    broker.send("c")
    assert broker.gone(b"a") == []
    assert broker.send("c", client_id=2) == []
    assert broker.backend("a").limit == 0
