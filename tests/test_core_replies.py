"""`reply` all and none, and streams of PARTs under every `reply`."""

from __future__ import annotations

import pytest
from core_kit import accept, deliver, delivery_outcomes, error, make_broker, outcomes, piece, reply, unwanted

from router_daemon.core.actions import CancelDelivery, Deliver, Error, Piece, Reply
from router_daemon.testing import only


def test_reply_all_gives_one_answer_per_head_and_marks_the_final_one() -> None:
    broker = make_broker("a", "b", "z")
    assert len(broker.send("c", reply="all")) == 3
    assert broker.ack(deliver("b", 2), b"2") == [reply("b", b"2", head=2, heads=3, last=False)]
    assert broker.nack(deliver("a", 1), reason="no") == [
        error("failed", "a: failed: no", last=False, backend="a", head=1)
    ]
    assert broker.ack(deliver("z", 3), b"3") == [reply("z", b"3", head=3)]
    assert outcomes(broker) == {"answered": 1}


def test_reply_all_that_fails_altogether_is_failed() -> None:
    broker = make_broker("a", "b")
    broker.send("c", reply="all")
    broker.nack(deliver("a", 1))
    assert broker.nack(deliver("b", 2)) == [error("failed", "b: failed", backend="b", head=2)]
    assert outcomes(broker) == {"failed": 1}


def test_reply_all_has_no_failover() -> None:
    broker = make_broker("a", "b", "z", heads=2)
    broker.send("c", reply="all")
    assert only(broker.nack(deliver("a", 1)), Deliver) == []
    assert only(broker.unregister(b"b"), Deliver) == []
    assert broker.broker.open_messages == 0


def test_reply_all_goes_out_at_once_whatever_the_configured_mode() -> None:
    broker = make_broker("a", "b", mode="single")
    assert len(broker.send("c", reply="all")) == 2


@pytest.mark.parametrize(("code", "said", "retry"), [("rejected", "rejected", False), ("busy", "failed", True)])
def test_reply_all_names_why_a_head_gave_none(code: str, said: str, retry: bool) -> None:
    broker = make_broker("a", "b")
    broker.send("c", reply="all")
    answer = error(said, f"a: {code}", retry=retry, last=False, backend="a", head=1)
    assert broker.nack(deliver("a", 1), code) == [answer]


def test_reply_all_expires_with_an_error_for_each_head_that_is_out() -> None:
    broker = make_broker("a", "b", "z")
    broker.send("c", reply="all", ttl_ms=400)
    broker.ack(deliver("b", 2))
    assert broker.advance(0.45) == [
        error("expired", "the time is up", last=False, backend="a", head=1),
        error("expired", "the time is up", backend="z", head=3),
        unwanted("a", 1),
        unwanted("z", 3),
    ]
    assert outcomes(broker) == {"answered": 1}


def test_reply_all_that_waits_until_its_time_is_up_expires_once() -> None:
    broker = make_broker("a", slots=1)
    broker.send("c", client_id=1)
    broker.send("c", client_id=2, reply="all", ttl_ms=400)
    assert broker.advance(0.45) == [error("expired", "the time is up", client_id=2, message="m2")]


def test_reply_all_ignores_an_answer_of_a_head_that_timed_out() -> None:
    broker = make_broker("a", "b")
    broker.send("c", reply="all", first_ms=100)
    broker.clock.advance(0.05)
    broker.part(deliver("b", 2), b"1")
    assert broker.advance(0.052) == [
        unwanted("a", 1),
        error("failed", "a: timed out", last=False, backend="a", head=1),
    ]
    assert broker.ack(deliver("a", 1)) == []
    assert broker.ack(deliver("b", 2)) == [reply("b", head=2, elapsed_ms=pytest.approx(50.0))]


def test_reply_none_is_accepted_and_nothing_more_is_said() -> None:
    broker = make_broker("a")
    assert broker.send("c", b"x", reply="none", client_id="n") == [accept("n"), deliver("a", 1, b"x")]
    assert broker.ack(deliver("a", 1), b"result") == []
    assert outcomes(broker) == {"answered": 1}


def test_reply_none_is_accepted_where_it_waits() -> None:
    broker = make_broker("a", slots=1)
    broker.send("c")
    assert broker.send("c", client_id=2, reply="none") == [accept(2, "m2")]
    assert broker.ack(deliver("a", 1)) == [reply("a"), deliver("a", 2, message="m2")]


def test_reply_none_is_refused_like_any_other() -> None:
    broker = make_broker("a", slots=1, queue_messages=0)
    broker.send("c")
    detail = "c: every backend is full and the waiting room too"
    assert broker.send("c", client_id=2, reply="none") == [error("overloaded", detail, client_id=2, message="m2")]


def test_reply_none_expires_in_silence() -> None:
    broker = make_broker("a")
    broker.send("c", reply="none", ttl_ms=400)
    assert broker.advance(0.45) == [unwanted("a", 1)]
    assert outcomes(broker) == {"expired": 1}


def test_a_stream_passes_through_in_order() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    assert broker.part(deliver("a", 1), b"one", b"") == [piece("a", 0, b"one", b"")]
    assert broker.part(deliver("a", 1)) == [piece("a", 1)]
    assert broker.ack(deliver("a", 1), b"end") == [reply("a", b"end")]
    assert broker.part(deliver("a", 1), b"late") == []


def test_the_first_head_to_send_a_part_is_the_answering_one() -> None:
    broker = make_broker("a", "b", "z")
    broker.send("c")
    assert broker.part(deliver("b", 2), b"1") == [unwanted("a", 1), unwanted("z", 3), piece("b", 0, b"1", head=2)]
    assert broker.part(deliver("a", 1), b"other") == []
    assert broker.ack(deliver("z", 3), b"other") == []
    assert broker.ack(deliver("b", 2), b"end") == [reply("b", b"end", head=2, heads=3)]
    assert broker.broker.counts.stray_answers == {"late_part": 1, "late": 1}


def test_a_broken_stream_is_failed_without_another_head() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c")
    broker.part(deliver("a", 1), b"1")
    assert broker.nack(deliver("a", 1), reason="broke") == [error("failed", "a: failed: broke")]
    broker.send("c")
    broker.part(deliver("a", 2), b"1")
    assert only(broker.unregister(b"a"), Error) == [error("failed", "a: lost", message="m2")]


def test_a_stream_that_rejects_is_failed() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c")
    broker.part(deliver("a", 1), b"1")
    assert broker.nack(deliver("a", 1), "rejected") == [error("failed", "a: rejected")]


def test_a_stream_has_no_attempt_timeout_once_it_has_begun() -> None:
    broker = make_broker("a", "b", mode="single", heartbeat_s=60.0)
    broker.send("c", ttl_ms=800, first_ms=300)
    broker.advance(0.2)
    broker.part(deliver("a", 1), b"1")
    assert broker.advance(0.55) == []
    assert only(broker.advance(0.1), Error) == [error("expired", "the time is up")]


def test_idle_ms_bounds_the_time_between_parts() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c", idle_ms=100)
    broker.part(deliver("a", 1), b"1")
    broker.advance(0.09)
    broker.part(deliver("a", 1), b"2")
    assert broker.advance(0.099) == []
    assert broker.advance(0.003) == [unwanted("a", 1), error("failed", "a: timed out")]


def test_idle_ms_does_not_bound_the_time_to_the_first_part() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c", idle_ms=100)
    assert broker.advance(1.0) == []


def test_streams_of_reply_all_interleave() -> None:
    broker = make_broker("a", "b")
    broker.send("c", reply="all")
    pieces = [broker.part(deliver(name, number), b"x") for name, number in (("a", 1), ("b", 2), ("a", 1))]
    assert pieces == [[piece("a", 0, b"x")], [piece("b", 0, b"x", head=2)], [piece("a", 1, b"x")]]
    assert broker.ack(deliver("a", 1)) == [reply("a", heads=2, last=False)]
    assert broker.part(deliver("b", 2)) == [piece("b", 1, head=2)]
    assert broker.ack(deliver("b", 2)) == [reply("b", head=2)]


def test_reply_none_and_req_peers_get_no_parts() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c", reply="none")
    assert broker.part(deliver("a", 1), b"x") == []
    broker.send("c", delimited=True)
    assert broker.part(deliver("a", 2), b"x") == []
    assert broker.ack(deliver("a", 2), b"end") == [reply("a", b"end", message="m2", delimited=True)]


def test_a_part_that_cannot_be_queued_ends_the_message() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    [lost] = broker.part(deliver("a", 1), b"x")
    assert broker.undelivered(lost, full=True) == [
        error("overloaded", "the client reads too slowly for this stream"),
        unwanted("a", 1),
    ]
    assert broker.part(deliver("a", 1), b"y") == []
    assert broker.broker.counts.lost_answers == {"unread": 1}


def test_a_part_lost_of_an_earlier_message_of_the_same_id_ends_nothing() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    [lost] = broker.part(deliver("a", 1), b"x")
    broker.ack(deliver("a", 1))
    broker.send("c")
    assert broker.undelivered(lost, full=True) == []
    assert broker.broker.open_messages == 1


def test_a_stream_latency_ends_at_its_first_part() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    broker.clock.advance(0.101)
    broker.part(deliver("a", 1), b"x")
    broker.clock.advance(5.0)
    [answer] = broker.ack(deliver("a", 1))
    assert isinstance(answer, Reply)
    assert answer.header.elapsed_ms == pytest.approx(101.0)
    assert broker.backend("a").profile.latency_s == pytest.approx(0.1 * 0.101 + 0.9 * 0.001)


def test_a_losing_stream_that_acks_after_all_is_measured_to_its_first_part() -> None:
    broker = make_broker("a", "b")
    broker.send("c")
    broker.clock.advance(0.101)
    broker.part(deliver("a", 1), b"x")
    broker.part(deliver("b", 2), b"y")
    broker.clock.advance(5.0)
    broker.ack(deliver("b", 2))
    assert broker.backend("b").profile.latency_s == pytest.approx(0.1 * 0.101 + 0.9 * 0.001)


def test_a_stream_that_stops_is_a_failure_but_not_a_slow_beginning() -> None:
    """A stream's latency ended at its first PART; what came after says nothing about it."""
    broker = make_broker("a", mode="single")
    broker.send("c", idle_ms=2_000)
    broker.clock.advance(0.001)
    broker.part(deliver("a", 1), b"x")
    broker.advance(2.051)
    assert delivery_outcomes(broker, "a") == {"timeout": 1}
    assert broker.backend("a").profile.latency_s == pytest.approx(0.001)


def test_cancel_ends_a_stream() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    broker.part(deliver("a", 1), b"x")
    assert only(broker.cancel(), CancelDelivery) == [unwanted("a", 1)]
    assert only(broker.part(deliver("a", 1), b"y"), Piece) == []
