"""The published load balancers by hand-computed numbers, and that each can be replayed from its seed."""

from __future__ import annotations

from collections import Counter
from math import exp
from random import Random
from typing import Any

import pytest
from core_kit import ASKED

from router_daemon.core.actions import Deliver
from router_daemon.core.ranking import Ranking
from router_daemon.core.service import Service
from router_daemon.core.settings import ExplorationSettings, Settings
from router_daemon.policies.balancers import C3, LeastInFlight, P2cPeakEwma, PeakEwma
from router_daemon.policies.base import NAMES, make_policy
from router_daemon.policies.prequal import Prequal, Seen
from router_daemon.testing import BrokerFixture, only

SEED = 20_260_301
BALANCERS = ("least_in_flight", "p2c_peak_ewma", "prequal", "c3")


def fixture(policy: str, *names: str, slots: int = 8, seed: int = SEED, **keys: Any) -> BrokerFixture:
    everybody_warm = ExplorationSettings(slow_start=False)
    broker = BrokerFixture(policy=policy, seed=seed, mode="single", exploration=everybody_warm, **keys)
    for name in names:
        broker.register(name, "c", slots=slots)
    return broker


def ranking_of(broker: BrokerFixture) -> Ranking:
    return broker.broker.rankings.get("c", 2, broker.clock.now)


def service_of(broker: BrokerFixture, name: str) -> Service:
    return broker.broker.registry.service(broker.backend(name), "c", broker.clock.now)


def kept(broker: BrokerFixture, name: str) -> Any:
    """Return what the broker's policy keeps of a backend; None where it has not kept anything."""
    return service_of(broker, name).own.get(broker.broker.policy)


class Sender:
    """Sends messages with ids of their own."""

    def __init__(self, broker: BrokerFixture) -> None:
        self.broker = broker
        self.count = 0

    def __call__(self) -> Deliver:
        self.count += 1
        [delivery] = only(self.broker.send("c", client_id=self.count), Deliver)
        return delivery


# --- what they share ---


@pytest.mark.parametrize("name", BALANCERS)
def test_it_is_chosen_by_name(name: str) -> None:
    assert name in NAMES
    assert make_policy(name, Settings(), Random(SEED)).name == name


def choices(name: str, seed: int, count: int = 60) -> list[bytes]:
    broker = fixture(name, "a", "b", "d", "e", seed=seed)
    send, random, chosen, out = Sender(broker), Random(7), [], list[Deliver]()
    for _ in range(count):
        out.append(send())
        chosen.append(out[-1].peer)
        broker.advance(0.002)
        if len(out) > 3:
            done = out.pop(random.randrange(len(out)))
            broker.ack(done) if random.random() < 0.9 else broker.nack(done, "rejected")
    return chosen


@pytest.mark.parametrize("name", BALANCERS)
def test_the_same_seed_gives_the_same_choices_and_another_seed_others(name: str) -> None:
    assert choices(name, 1) == choices(name, 1)
    assert choices(name, 1) != choices(name, 2)


@pytest.mark.parametrize("name", BALANCERS)
def test_ties_are_broken_at_random(name: str) -> None:
    first = Counter(Sender(fixture(name, "a", "b", "d", seed=seed))().peer for seed in range(90))
    assert set(first) == {b"a", b"b", b"d"}
    assert min(first.values()) > 15


@pytest.mark.parametrize("name", BALANCERS)
def test_only_backends_with_room_that_were_not_tried_are_chosen(name: str) -> None:
    broker = fixture(name, "a", "b", "d", slots=1)
    send = Sender(broker)
    assert {send().peer for _ in range(3)} == {b"a", b"b", b"d"}
    policy, ranking, now = broker.broker.policy, ranking_of(broker), broker.clock.now
    assert policy.pick(ranking, ASKED, (), now) is None
    broker = fixture(name, "a", "b")
    picked = broker.broker.policy.pick(ranking_of(broker), ASKED, [broker.backend("a")], now)
    assert picked is not None
    assert picked.backend.name == "b"
    both = [broker.backend("a"), broker.backend("b")]
    assert broker.broker.policy.pick(ranking_of(broker), ASKED, both, now) is None


@pytest.mark.parametrize("name", BALANCERS)
def test_peek_changes_nothing_and_names_first_what_would_be_picked(name: str) -> None:
    broker = fixture(name, "a", "b")
    send = Sender(broker)
    for seconds in (0.004, 0.002, 0.004, 0.002):
        delivery = send()
        broker.advance(seconds)
        broker.ack(delivery)
    send()
    policy, ranking, now = broker.broker.policy, ranking_of(broker), broker.clock.now
    order = [candidate.backend.name for candidate in policy.peek(ranking, ASKED, now)]
    assert order == [candidate.backend.name for candidate in policy.peek(ranking, ASKED, now)]
    picked = policy.pick(ranking, ASKED, (), now)
    assert picked is not None
    assert picked.backend.name == order[0]


@pytest.mark.parametrize("name", ["p2c_peak_ewma", "prequal", "c3"])
def test_what_it_learns_dies_with_the_registration_and_is_shared_by_the_priorities(name: str) -> None:
    broker = fixture(name, "a")
    delivery = Sender(broker)()
    broker.advance(0.002)
    broker.ack(delivery)
    assert kept(broker, "a") is not None
    service = broker.broker.rankings.get("c", 4, broker.clock.now).candidates[0].service
    assert service.own is service_of(broker, "a").own
    broker.unregister(b"a")
    broker.register("a", "c")
    assert kept(broker, "a") is None


# --- least in flight ---


def test_least_in_flight_takes_who_has_the_fewest_open() -> None:
    broker = fixture("least_in_flight", "a", "b", "d")
    send = Sender(broker)
    sent = [send() for _ in range(6)]
    assert Counter(delivery.peer for delivery in sent) == {b"a": 2, b"b": 2, b"d": 2}
    broker.ack(next(delivery for delivery in sent if delivery.peer == b"b"))
    assert send().peer == b"b"


def test_least_in_flight_knows_of_no_other_daemon() -> None:
    broker = fixture("least_in_flight", "a", "b")
    broker.heartbeat(b"a", queue=7)
    assert isinstance(broker.broker.policy, LeastInFlight)
    assert broker.broker.policy.cost(service_of(broker, "a"), broker.clock.now) == 0.0


# --- peak EWMA ---


def test_peak_ewma_takes_a_peak_at_once_and_forgets_it_with_its_time_constant() -> None:
    ewma = PeakEwma(0.010, 0.0)
    assert ewma.take(0.040, 1.0, 10.0) == 0.040
    assert ewma.take(0.010, 11.0, 10.0) == pytest.approx(0.040 * exp(-1) + 0.010 * (1 - exp(-1)))
    assert ewma.take(0.010, 11.0, 10.0) == pytest.approx(0.0210364, abs=1e-7), "no time has passed"
    assert ewma.take(0.0, 21.0, 10.0) == pytest.approx(0.0210364 * 0.3678794, abs=1e-7)


def test_peak_ewma_cost_is_the_average_times_what_would_be_open() -> None:
    broker = fixture("p2c_peak_ewma", "a")
    policy, send = broker.broker.policy, Sender(broker)
    assert isinstance(policy, P2cPeakEwma)
    service = service_of(broker, "a")
    assert policy.cost(service, broker.clock.now) == pytest.approx(0.001), "profile.initial_latency_s, none open"
    first = send()
    send()
    assert policy.cost(service, broker.clock.now) == pytest.approx(0.003)
    broker.advance(0.020)
    broker.ack(first)
    assert policy.cost(service, broker.clock.now) == pytest.approx(0.040), "a peak of 20 ms, one open"


def test_peak_ewma_takes_in_the_round_trips_of_failures() -> None:
    broker = fixture("p2c_peak_ewma", "a")
    delivery = Sender(broker)()
    broker.advance(0.030)
    broker.nack(delivery)
    assert kept(broker, "a").rtt_s == pytest.approx(0.030)


def test_peak_ewma_begins_with_the_mean_of_the_capability() -> None:
    broker = fixture("p2c_peak_ewma", "a")
    delivery = Sender(broker)()
    broker.advance(0.007)
    broker.ack(delivery)
    broker.register("late", "c")
    policy = broker.broker.policy
    assert isinstance(policy, P2cPeakEwma)
    assert policy.cost(service_of(broker, "late"), broker.clock.now) == pytest.approx(0.007)


def test_power_of_two_choices_looks_at_two() -> None:
    """Of 5 the worst is never taken, the second worst only when drawn with it: in 1 of 10 pairs."""
    broker = fixture("p2c_peak_ewma", *"abdef", slots=64)
    policy, ranking, now = broker.broker.policy, ranking_of(broker), broker.clock.now
    for rank, candidate in enumerate(ranking.candidates):
        candidate.service.own[policy] = PeakEwma(0.001 * (rank + 1), now)
    picked = Counter[str]()
    for _ in range(2000):
        candidate = policy.pick(ranking, ASKED, (), now)  # type: ignore[assignment]
        picked[candidate.backend.name] += 1
    assert picked["f"] == 0
    assert {name: round(picked[name] / 200) for name in "abde"} == {"a": 4, "b": 3, "d": 2, "e": 1}


# --- C3 ---


def test_c3_psi() -> None:
    """psi = R - 1/mu + (1 + os w + qbar)^3 / mu: 6 - 2 + 3^3 * 2 = 58 ms."""
    broker = fixture("c3", "a")
    policy = broker.broker.policy
    assert isinstance(policy, C3)
    service = service_of(broker, "a")
    assert policy.cost(service, 0.0) == pytest.approx(0.001), "unmeasured: (0 + 1^3) profile.initial_latency_s"
    own = service.own[policy]
    own.response_s, own.work_s, own.queue = 0.006, 0.002, 1.0
    Sender(broker)()
    assert policy.cost(service, 0.0) == pytest.approx(0.058)


def test_c3_weighs_what_is_open_by_the_number_of_clients() -> None:
    """w = 4: 6 - 2 + (1 + 1 * 4 + 1)^3 * 2 = 436 ms."""
    broker = fixture("c3", "a")
    Sender(broker)()
    policy, service = C3(Settings(), Random(SEED), clients=4), service_of(broker, "a")
    policy.cost(service, 0.0)
    own = service.own[policy]
    own.response_s, own.work_s, own.queue = 0.006, 0.002, 1.0
    assert policy.cost(service, 0.0) == pytest.approx(0.436)


def test_c3_means_move_by_nine_tenths() -> None:
    broker = fixture("c3", "a")
    delivery = Sender(broker)()
    broker.advance(0.011)
    broker.ack(delivery)
    own = kept(broker, "a")
    assert own.response_s == pytest.approx(0.001 + 0.9 * 0.010)
    assert own.work_s == pytest.approx(0.010), "nothing waited: all of it was work"
    assert own.queue == 0.0


def test_c3_queue_is_what_waited_there_as_reported() -> None:
    """2 slots, 7 there after the answer: 5 wait, qbar = 0.9 * 5."""
    broker = fixture("c3", "a", slots=2)
    delivery = Sender(broker)()
    broker.ack(delivery, queue=7)
    assert kept(broker, "a").queue == pytest.approx(4.5)


def test_c3_queue_is_what_waits_of_its_own_where_nothing_is_reported() -> None:
    broker = BrokerFixture(policy="c3", seed=SEED, mode="single")
    broker.register("a", "c", slots=2, prefetch=10)
    send = Sender(broker)
    sent = [send() for _ in range(6)]
    broker.ack(sent[0])
    assert kept(broker, "a").queue == pytest.approx(0.9 * 3), "5 open, 2 of them run"


def test_c3_response_is_not_lowered_by_a_failure_and_raised_by_a_slow_one() -> None:
    broker = fixture("c3", "a")
    send = Sender(broker)
    own = None
    for seconds, response_s in ((0.0001, 0.001), (0.101, 0.001 + 0.9 * 0.1)):
        delivery = send()
        broker.advance(seconds)
        broker.nack(delivery)
        own = kept(broker, "a")
        assert own.response_s == pytest.approx(response_s)
    assert own is not None
    assert own.work_s == pytest.approx(0.001)


# --- Prequal ---


def test_prequal_theta_is_the_nearest_rank_of_what_was_seen_last() -> None:
    seen = Seen()
    assert seen.quantile(0.84) == float("inf")
    for rif in range(1, 11):
        seen.add(float(rif))
    assert seen.quantile(0.84) == 9.0, "the 9th of 10: ceil(8.4)"
    for _ in range(128):
        seen.add(2.0)
    assert seen.quantile(1.0) == 2.0, "the first ones are forgotten"


def prequal(**latencies_ms: float) -> tuple[BrokerFixture, Prequal, Ranking]:
    """Backends that have answered once after so long each."""
    broker = fixture("prequal", *latencies_ms, slots=64)
    policy, ranking = broker.broker.policy, ranking_of(broker)
    assert isinstance(policy, Prequal)
    for candidate in ranking.candidates:
        policy._note(candidate.service, broker.clock.now)
        candidate.service.own[policy].add(0, latencies_ms[candidate.backend.name] / 1000.0)
    return broker, policy, ranking


def open_at(broker: BrokerFixture, name: str, count: int) -> None:
    """Have so many in flight there, as from elsewhere."""
    broker.backend(name).other = float(count)


def test_prequal_takes_the_fastest_of_the_cold() -> None:
    """theta 2: a (RIF 3) is hot; of b (4 ms, RIF 2) and d (5 ms, RIF 0) b is faster."""
    broker, policy, ranking = prequal(a=1.0, b=4.0, d=5.0)
    open_at(broker, "a", 3)
    open_at(broker, "b", 2)
    seen = policy._seen["c"] = Seen()
    for _ in range(100):
        seen.add(2.0)
    picked = policy.pick(ranking, ASKED, (), 0.0)
    assert picked is not None
    assert picked.backend.name == "b"


def test_prequal_takes_the_least_busy_when_all_are_hot() -> None:
    broker, policy, ranking = prequal(a=1.0, b=4.0, d=5.0)
    for name, rif in (("a", 9), ("b", 8), ("d", 7)):
        open_at(broker, name, rif)
    seen = policy._seen["c"] = Seen()
    for _ in range(100):
        seen.add(2.0)
    picked = policy.pick(ranking, ASKED, (), 0.0)
    assert picked is not None
    assert picked.backend.name == "d"


def test_prequal_estimates_by_the_median_at_the_nearest_rif() -> None:
    _, policy, ranking = prequal(a=1.0)
    own = ranking.candidates[0].service.own[policy]
    for latency_s in (0.002, 0.009):
        own.add(0, latency_s)
    own.add(4, 0.020)
    estimates = {rif: own.estimate_s(rif) for rif in range(6)}
    assert estimates == {0: 0.002, 1: 0.002, 2: 0.002, 3: 0.020, 4: 0.020, 5: 0.020}, "2 is as near to 0: the lower"
    own.add(4, 0.030)
    assert own.estimate_s(4) == pytest.approx(0.025)


def test_prequal_files_a_latency_under_the_rif_it_was_sent_at() -> None:
    broker = fixture("prequal", "a")
    send = Sender(broker)
    first = send()
    broker.advance(0.001)
    second = send()
    broker.advance(0.002)
    broker.ack(second)
    broker.ack(first)
    recent = kept(broker, "a").recent
    assert {rif: [pytest.approx(latency) for latency in latencies] for rif, latencies in recent.items()} == {
        1: [pytest.approx(0.002)],
        0: [pytest.approx(0.003)],
    }


def test_prequal_does_not_take_a_failure_for_a_latency() -> None:
    broker = fixture("prequal", "a")
    broker.nack(Sender(broker)())
    own = kept(broker, "a")
    assert own.recent == {}
    assert own.sent == {}, "and forgets that it was sent"
