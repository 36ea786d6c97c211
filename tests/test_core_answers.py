"""What each kind of answer of a backend does: NACK busy, rejected and cancelled, malformed ones, those of losers."""

from __future__ import annotations

import pytest
from core_kit import deliver, delivery_outcomes, error, fault, make_broker, malformed, outcomes, reply, unwanted

from router_daemon.core.actions import Deliver, Error
from router_daemon.testing import BrokerFixture, only


def test_busy_sends_the_message_to_another_head_without_blame() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c")
    assert broker.nack(deliver("a", 1), "busy") == [deliver("b", 2, attempt=2)]
    profile = broker.backend("a").profile
    assert (profile.success, profile.samples, profile.latency_s) == (0.9, 0, 0.001)
    assert delivery_outcomes(broker, "a") == {"busy": 1}


def test_busy_does_not_count_towards_the_heads() -> None:
    broker = make_broker("a", "b", "z", mode="single")
    broker.send("c", heads=1)
    assert broker.nack(deliver("a", 1), "busy", retry_after_ms=10_000) == [deliver("b", 2, attempt=2)]
    assert broker.nack(deliver("b", 2), "busy", retry_after_ms=10_000) == [deliver("z", 3, attempt=3)]
    assert broker.nack(deliver("z", 3)) == [error("failed", "z: failed")]


def test_busy_everywhere_waits_and_returns_after_the_pause() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    assert broker.nack(deliver("a", 1), "busy", retry_after_ms=250) == []
    assert broker.broker.dispatcher.waiting.size == 1
    assert broker.backend("a").state == "paused"
    assert broker.advance(0.249) == []
    assert broker.advance(0.002) == [deliver("a", 2, attempt=2, ttl_ms=29_749)]
    assert broker.ack(deliver("a", 2)) == [reply("a", head=2)]


def test_a_busy_backend_gets_nothing_during_its_pause() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c")
    broker.nack(deliver("a", 1), "busy", retry_after_ms=500)
    assert broker.send("c", client_id=2) == [deliver("b", 3, message="m2")]
    broker.advance(0.501)
    assert broker.send("c", client_id=3) == [deliver("a", 4, message="m3")]


def test_the_pause_is_one_mean_service_time_where_none_is_said() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    broker.clock.advance(2.001)
    broker.ack(deliver("a", 1))
    assert broker.backend("a").profile.latency_s == pytest.approx(0.201)
    broker.send("c")
    broker.nack(deliver("a", 2), "busy")
    assert broker.advance(2.000) == []
    assert only(broker.advance(0.051), Deliver)[0].header.attempt == 2


def test_a_shorter_pause_does_not_cut_a_longer_one() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c", client_id=1)
    broker.send("c", client_id=2)
    broker.nack(deliver("a", 1), "busy", retry_after_ms=500)
    broker.nack(deliver("a", 2), "busy", retry_after_ms=100)
    assert broker.advance(0.499) == []
    assert len(only(broker.advance(0.002), Deliver)) == 2


def test_busy_until_the_time_is_up_is_expired() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c", ttl_ms=500)
    broker.nack(deliver("a", 1), "busy", retry_after_ms=60_000)
    assert broker.advance(0.55) == [error("expired", "the time is up; a: busy")]


def test_rejected_ends_the_message_without_another_head_and_without_blame() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c")
    answers = broker.nack(deliver("a", 1), "rejected", reason="not a picture")
    assert answers == [error("rejected", "a: rejected: not a picture", retry=False)]
    assert broker.backend("a").profile.success == 0.9
    assert delivery_outcomes(broker, "a") == {"rejected": 1}
    assert outcomes(broker) == {"rejected": 1}


def test_rejected_by_one_copy_leaves_it_to_the_others_that_are_out() -> None:
    broker = make_broker("a", "b")
    broker.send("c")
    assert broker.nack(deliver("a", 1), "rejected") == []
    assert broker.ack(deliver("b", 2)) == [reply("b", head=2)]


def test_rejected_by_one_copy_decides_once_none_is_out() -> None:
    broker = make_broker("a", "b", "z", heads=2)
    broker.send("c", heads=2)
    broker.nack(deliver("a", 1), "rejected")
    assert broker.nack(deliver("b", 2)) == [error("rejected", "b: failed", retry=False)]


def test_rejected_by_a_head_that_timed_out_lets_no_further_head_begin() -> None:
    broker = make_broker("a", "b", mode="single", slots=1)
    broker.send("c", client_id=1)
    broker.send("c", client_id=2, ttl_ms=60_000)
    broker.ack(deliver("a", 1))
    broker.send("c", client_id=3, ttl_ms=1_000)
    assert broker.advance(0.502) == [unwanted("a", 3)]
    answers = broker.nack(deliver("a", 3), "rejected")
    answers += broker.ack(deliver("b", 2))
    assert only(answers, Deliver) == []
    assert [sent.header.code for sent in only(answers, Error)] == ["rejected"]


def test_a_nack_of_a_loser_frees_its_place_and_nothing_else() -> None:
    broker = make_broker("a", "b", slots=1)
    broker.send("c")
    broker.ack(deliver("a", 1))
    assert len(broker.backend("b").open) == 1
    assert broker.nack(deliver("b", 2), "cancelled") == []
    assert len(broker.backend("b").open) == 0
    assert delivery_outcomes(broker, "b") == {"cancelled": 1}


def test_a_failure_of_a_loser_after_the_cancel_is_not_blamed() -> None:
    broker = make_broker("a", "b")
    broker.send("c")
    broker.ack(deliver("a", 1))
    broker.nack(deliver("b", 2), "failed")
    assert broker.backend("b").profile.success == 0.9


def test_a_loser_that_acks_after_all_is_measured_and_not_passed_on() -> None:
    broker = make_broker("a", "b")
    broker.send("c")
    broker.clock.advance(0.101)
    broker.ack(deliver("a", 1), b"first")
    broker.clock.advance(0.100)
    assert broker.ack(deliver("b", 2), b"second") == []
    profile = broker.backend("b").profile
    assert profile.latency_s == pytest.approx(0.1 * 0.201 + 0.9 * 0.001)
    assert profile.success == pytest.approx(0.05 + 0.95 * 0.9)
    assert broker.broker.counts.stray_answers == {"late": 1}


def test_cancelled_without_a_cancel_counts_as_a_head_that_failed_without_blame() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c")
    assert broker.nack(deliver("a", 1), "cancelled") == [deliver("b", 2, attempt=2)]
    assert broker.backend("a").profile.success == 0.9


@pytest.mark.parametrize("verb", ["ACK", "NACK", "PART"])
def test_a_malformed_answer_fails_its_delivery(verb: str) -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c")
    answers = broker.handle(malformed(b"a", verb, 1))
    assert answers == [fault(b"a", "bad_header", "what is wrong", delivery_id=1), deliver("b", 2, attempt=2)]
    assert delivery_outcomes(broker, "a") == {"malformed": 1}
    assert broker.broker.counts.backends["a"].failures["malformed"] == 1
    assert broker.broker.counts.protocol_errors == {"bad_header": 1}


def test_a_malformed_answer_to_what_is_not_open_only_gets_an_error() -> None:
    broker = make_broker("a", "b", mode="single")
    broker.send("c")
    assert broker.handle(malformed(b"a", "ACK", 77)) == [fault(b"a", "bad_header", "what is wrong")]
    assert broker.handle(malformed(b"b", "ACK", 1)) == [fault(b"b", "bad_header", "what is wrong")]
    assert broker.handle(malformed(b"a", "", code="bad_frames")) == [fault(b"a", "bad_frames", "what is wrong")]
    assert broker.ack(deliver("a", 1)) == [reply("a")]


def test_malformed_is_no_heartbeat() -> None:
    broker = make_broker("a")
    broker.advance(2.0)
    broker.handle(malformed(b"a", "HEARTBEAT"))
    broker.advance(1.1)
    assert "a" not in broker.broker.registry.by_name


def test_strangers_get_not_registered_for_everything_but_a_bad_register() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    stranger, refusal = b"x", [fault(b"x", "not_registered", "REGISTER first")]
    assert broker.ack(deliver("a", 1), peer=stranger) == refusal
    assert broker.nack(deliver("a", 1), peer=stranger) == refusal
    assert broker.part(deliver("a", 1), peer=stranger) == refusal
    assert broker.heartbeat(stranger) == refusal
    assert broker.update(stranger, slots=3) == refusal
    assert broker.drain(stranger) == refusal
    assert broker.unregister(stranger) == refusal
    assert broker.handle(malformed(stranger, "ACK", 1)) == refusal
    assert broker.handle(malformed(stranger, "REGISTER")) == [fault(stranger, "bad_header", "what is wrong")]
    assert broker.broker.counts.protocol_errors["not_registered"] == 8
    assert broker.ack(deliver("a", 1)) == [reply("a")]


def test_a_long_reason_is_cut() -> None:
    broker = make_broker("a", mode="single")
    broker.send("c")
    [answer] = only(broker.nack(deliver("a", 1), reason="x" * 10_000), Error)
    assert len(answer.header.detail) < 300


def never_twice() -> BrokerFixture:
    return make_broker("a", "b", "z", unsaid_idempotent="never")


def test_what_may_not_run_twice_goes_to_one_head_and_fails_with_it() -> None:
    broker = make_broker("a", "b")
    assert broker.send("c", idempotent=False) == [deliver("a", 1)]
    assert broker.nack(deliver("a", 1)) == [error("failed", "a: failed", retry=False)]
    broker = never_twice()
    assert broker.send("c") == [deliver("a", 1)]
    assert broker.nack(deliver("a", 1)) == [error("failed", "a: failed", retry=False)]


def test_what_may_not_run_twice_may_be_sent_again_after_busy() -> None:
    broker = never_twice()
    broker.send("c")
    assert broker.nack(deliver("a", 1), "busy") == [deliver("b", 2, attempt=2)]
    assert broker.nack(deliver("b", 2)) == [error("failed", "b: failed", retry=False)]


def test_what_may_not_run_twice_may_be_sent_again_where_it_never_left() -> None:
    broker = never_twice()
    [sent] = broker.send("c")
    assert broker.undelivered(sent) == [deliver("b", 2, attempt=2)]
    broker = never_twice()
    [sent] = broker.send("c", ttl_ms=500)
    broker.undelivered(sent, full=True)
    assert only(broker.nack(deliver("b", 2), "busy"), Deliver) == [deliver("z", 3, attempt=3, ttl_ms=500)]


@pytest.mark.parametrize("cause", ["lost", "malformed", "first_ms"])
def test_what_may_not_run_twice_is_not_sent_again(cause: str) -> None:
    broker = never_twice()
    broker.send("c", first_ms=100)
    if cause == "lost":
        answers = broker.unregister(b"a")
    elif cause == "malformed":
        answers = broker.handle(malformed(b"a", "ACK", 1))
    else:
        answers = broker.advance(0.102)
    assert only(answers, Deliver) == []
    [answer] = only(answers, Error)
    assert (answer.header.code, answer.header.retry) == ("failed", False)


def test_what_may_not_run_twice_has_no_attempt_timeout_and_expires_without_retry() -> None:
    broker = make_broker("a", "b", mode="single", heartbeat_s=60.0)
    broker.send("c", ttl_ms=800, idempotent=False)
    assert broker.advance(0.799) == []
    assert broker.advance(0.06) == [error("expired", "the time is up", retry=False), unwanted("a", 1)]


def test_what_waited_only_may_be_retried_though_it_may_not_run_twice() -> None:
    broker = make_broker("a", slots=1)
    broker.send("c", ttl_ms=60_000)
    broker.send("c", client_id=2, ttl_ms=400, idempotent=False)
    assert broker.advance(0.45) == [error("expired", "the time is up", client_id=2, message="m2")]


def test_unsaid_retries_means_one_after_the_other() -> None:
    broker = make_broker("a", "b", unsaid_idempotent="retries")
    assert broker.send("c") == [deliver("a", 1)]
    assert broker.nack(deliver("a", 1)) == [deliver("b", 2, attempt=2)]
    assert broker.nack(deliver("b", 2)) == [error("failed", "b: failed")]


def test_said_idempotent_overrides_what_the_unsaid_means() -> None:
    broker = never_twice()
    assert len(broker.send("c", idempotent=True)) == 3
