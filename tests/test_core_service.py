"""What is measured of a backend, and the latency to expect there (design: routing), by the formulas."""

from __future__ import annotations

from math import exp, inf

import pytest
from core_kit import make_broker, success_after
from routing_kit import learn, make, name_of, pool, send, send_one, service, works

from router_daemon.core.settings import AttentionSettings

# --- L = (s + wait)^2 / s ---


def test_within_its_slots_a_backend_takes_its_service_time() -> None:
    fixture = make(attention=AttentionSettings(scarcity=0.0))
    fixture.register("a", "c", slots=2)
    works(fixture, 0.1)
    send_one(fixture)
    measured = service(fixture)
    assert (measured.wait_s, measured.share) == (0.0, 1.0)
    assert measured.latency_s == pytest.approx(0.1)
    assert measured.expected_s == pytest.approx(0.1 + (1 - success_after(True)) * 0.1)


def test_beyond_its_slots_work_waits_and_the_wait_counts_squared() -> None:
    fixture = make()
    fixture.register("a", "c", slots=2, prefetch=2)
    works(fixture, 0.1)
    for number in range(3):
        send_one(fixture, number)
    measured = service(fixture)
    work_s, q, slots = 3 * 0.1, 3, 2
    wait_s = work_s * (q + 1 - slots) / (q * slots)
    assert measured.wait_s == pytest.approx(wait_s) == pytest.approx(0.1)
    assert measured.latency_s == pytest.approx((0.1 + wait_s) ** 2 / 0.1) == pytest.approx(0.4)
    assert measured.share == pytest.approx(0.1 / (0.1 + wait_s))


def test_what_is_reported_from_elsewhere_counts_by_half_of_the_change() -> None:
    fixture = make()
    fixture.register("a", "c", slots=2, prefetch=2)
    works(fixture, 0.1)
    send_one(fixture)
    fixture.heartbeat(b"a", queue=5)
    other = 0.5 * (5 - 1)
    assert fixture.backend("a").other == other
    q = 1 + other
    assert service(fixture).wait_s == pytest.approx(0.1 * (q + 1 - 2) / 2)
    fixture.heartbeat(b"a", queue=1)
    assert fixture.backend("a").other == other - 0.5 * other
    fixture.heartbeat(b"a", queue=0)
    assert fixture.backend("a").other == 0.25 * other, "less than what is open here is nothing from elsewhere"


def test_the_queue_of_an_ack_includes_the_delivery_that_it_ends() -> None:
    fixture = make()
    fixture.register("a", "c", slots=2)
    fixture.ack(send_one(fixture), queue=1)
    assert fixture.backend("a").other == 0.5 * (1 + 1 - 1)


# --- samples ---


def test_a_sample_counts_for_the_share_of_it_that_was_to_be_work() -> None:
    fixture = make()
    fixture.register("a", "c", slots=1, prefetch=1)
    works(fixture, 0.1)
    first, second = send_one(fixture, 1), send_one(fixture, 2)
    fixture.advance(0.1)
    fixture.ack(first)
    fixture.advance(0.1)
    fixture.ack(second)
    measured = service(fixture)
    assert measured.service_s == pytest.approx(0.1), "0.2 s, half of which was expected to be waiting"
    assert measured.response_s == pytest.approx((0.1 + 0.1 + 0.2) / 3)


def test_mean_and_deviation_and_when_an_answer_is_late() -> None:
    fixture = make()
    fixture.register("a", "c")
    m = dev = s = 0.0
    for n in range(1, 31):
        latency_s = 0.1 if n % 2 else 0.2
        works(fixture, latency_s)
        weight = max(0.1, 1 / n)
        dev = 0.5 * latency_s if n == 1 else dev + weight * (abs(latency_s - m) - dev)
        m += weight * (latency_s - m)
        s += weight * (latency_s - s)
        late_s = m + 4 * dev if n >= 16 else inf
        measured = service(fixture)
        assert [measured.service_s, measured.response_s, measured.deviation_s] == pytest.approx([s, m, dev])
        assert measured.late_s == pytest.approx(late_s)


def test_while_a_backend_is_hardly_known_three_references_are_late() -> None:
    fixture = make()
    fixture.register("a", "c")
    works(fixture, 0.1, times=16)
    fixture.register("b", "c")
    send(fixture)
    assert fixture.broker.registry.service(fixture.backend("b"), "c", 0.0).late_s == pytest.approx(0.3)


def test_the_reference_is_the_mean_of_successes_then_follows_slowly() -> None:
    fixture = make()
    fixture.register("a", "c")
    reference_s = 0.0
    for n in range(1, 603):
        latency_s = 0.1 if n < 600 else 1.0
        works(fixture, latency_s)
        reference_s += max(0.002, 1 / n) * (latency_s - reference_s)
        assert pool(fixture).reference_s == pytest.approx(reference_s)


@pytest.mark.parametrize("code", ["failed", "busy", "rejected", "cancelled"])
def test_failing_fast_never_looks_fast(code: str) -> None:
    fixture = make(heads=1)
    fixture.register("a", "c")
    works(fixture, 0.1)
    deliver = send_one(fixture)
    fixture.advance(0.001)
    fixture.nack(deliver, code, retry_after_ms=0)
    measured = service(fixture)
    assert [measured.service_s, measured.response_s, measured.samples] == pytest.approx([0.1, 0.1, 1])
    failed = code == "failed"
    assert measured.success == pytest.approx(success_after(True, False) if failed else success_after(True))


def test_a_timeout_raises_the_service_at_full_length() -> None:
    fixture = make(attempt_timeout_s=0.6)
    for name in ("a", "b"):
        fixture.register(name, "c")
    learn(fixture, "a", 0.1)
    learn(fixture, "b", 0.2)
    assert send_one(fixture).peer == b"a"
    fixture.advance(0.601)
    assert service(fixture).service_s == pytest.approx(0.1 + 0.1 * (0.6 - 0.1), abs=2e-4)
    assert service(fixture).response_s == pytest.approx(0.1), "an answer that never came has no latency"
    assert service(fixture).success == pytest.approx(success_after(True, False))


@pytest.mark.parametrize(("age_s", "s"), [(0.6, 0.1 + 0.1 * (0.6 - 0.1)), (0.05, 0.1)])
def test_a_loser_cancelled_late_took_at_least_so_long(age_s: float, s: float) -> None:
    fixture = make_broker("a", "b", mode="single")
    learn(fixture, "a", 0.1)
    learn(fixture, "b", 0.1)
    a, b = send(fixture, mode="fanout")
    fixture.ack(b)
    fixture.advance(age_s)
    fixture.nack(a, "cancelled")
    assert service(fixture).service_s == pytest.approx(s)
    assert service(fixture).samples == 1


def test_the_latency_of_a_stream_ends_at_its_first_part() -> None:
    fixture = make()
    fixture.register("a", "c")
    deliver = send_one(fixture)
    fixture.advance(0.1)
    fixture.part(deliver, b"piece")
    fixture.advance(2.0)
    fixture.ack(deliver)
    assert service(fixture).response_s == pytest.approx(0.1)


# --- silence and time ---


def test_silence_longer_than_five_services_is_a_lower_bound() -> None:
    fixture = make()
    fixture.register("a", "c", slots=2)
    works(fixture, 0.1)
    send_one(fixture)
    fixture.advance(0.49)
    assert service(fixture).latency_s == pytest.approx(0.1)
    fixture.advance(0.11)
    assert service(fixture).latency_s == pytest.approx(0.6)
    fixture.advance(0.3)
    assert service(fixture).latency_s == pytest.approx(0.9)


def test_a_silent_backend_gets_nothing_more_where_there_is_another() -> None:
    fixture = make(attempt_timeout_s=100.0)
    fixture.register("fast", "c", slots=4)
    fixture.register("slow", "c", slots=4)
    learn(fixture, "fast", 0.01, times=20)
    learn(fixture, "slow", 0.02, times=20)
    assert send_one(fixture, 1).peer == b"fast"
    fixture.advance(0.06)
    assert send_one(fixture, 2).peer == b"slow", "0.06 s of silence against 0.02 s"


@pytest.mark.parametrize(("s", "tau_s"), [(0.02, 3.0), (1.0, 100.0)])
def test_an_estimate_above_the_reference_is_forgotten(s: float, tau_s: float) -> None:
    fixture = make()
    for name in ("good", "bad"):
        fixture.register(name, "c")
    learn(fixture, "good", 0.01, times=9)
    learn(fixture, "bad", s)
    reference_s = pool(fixture).reference_s
    assert reference_s == pytest.approx((9 * 0.01 + s) / 10)
    fixture.clock.advance(tau_s / 30 - 0.001)
    assert service(fixture, "bad").latency_s == pytest.approx(s), "not before a thirtieth"
    fixture.clock.advance(0.001 + tau_s / 2)
    assert service(fixture, "bad").latency_s == pytest.approx(reference_s + (s - reference_s) * exp(-0.5), rel=1e-3)
    assert service(fixture, "good").latency_s == pytest.approx(0.01), "what is below does not drift"


# --- per capability ---


def test_services_a_thousandfold_apart_on_one_backend_do_not_mix() -> None:
    fixture = make(default_ttl_ms=300_000)
    for name in ("a", "b"):
        fixture.register(name, "short", "long", slots=2)
    for _ in range(30):
        for capability, latency_s in (("short", 0.002), ("long", 2.0)):
            deliver = send_one(fixture, 7, capability)
            fixture.advance(latency_s)
            fixture.ack(deliver)
    for capability, latency_s in (("short", 0.002), ("long", 2.0)):
        assert pool(fixture, capability).reference_s == pytest.approx(latency_s)
        for name in ("a", "b"):
            found = fixture.backend(name).services.get(capability)
            assert found is None or found.samples == 0 or found.service_s == pytest.approx(latency_s)


def test_a_long_delivery_is_waited_for_at_its_own_length() -> None:
    """W is what is open, whatever it is: a short message behind a long one waits for the long one."""
    fixture = make()
    fixture.register("a", "short", "long", slots=1, prefetch=1)
    works(fixture, 0.002, capability="short")
    works(fixture, 2.0, capability="long")
    send_one(fixture, 1, "long")
    measured = service(fixture, "a", "short")
    assert measured.wait_s == pytest.approx(2.0)
    assert measured.latency_s == pytest.approx((0.002 + 2.0) ** 2 / 0.002)


# --- books ---


def test_nothing_is_left_of_what_was_open() -> None:
    """After the last answer the sums are those of idle backends, whatever came before."""
    fixture = make()
    names = ("a", "b", "c")
    for name in names:
        fixture.register(name, "c", slots=4, prefetch=2)
    for number in range(60):
        for deliver in send(fixture, number, mode=("auto", "hedge", "single", "fanout")[number % 4], ttl_ms=400):
            fixture.advance(0.02)
            if deliver.header.id in fixture.backend(name_of(deliver)).open and number % 7 != 3:
                how = ("ack", "failed", "busy", "rejected", "cancelled")[deliver.header.id % 5]
                fixture.ack(deliver, queue=number % 3) if how == "ack" else fixture.nack(deliver, how)
        if number % 10 == 9:
            fixture.unregister(names[number % 3].encode())
            fixture.register(names[number % 3], "c", slots=4, prefetch=2)
    fixture.advance(5_000.0)
    for name in names:
        fixture.register(name, "c", slots=4, prefetch=2)
        assert fixture.backend(name).work_s == 0.0
    assert fixture.broker.open_messages == 0
    assert (pool(fixture).slots, pool(fixture).free) == (12, sum(fixture.backend(name).free for name in names))
    assert pool(fixture).busy == pytest.approx(sum(fixture.backend(name).other for name in names))
