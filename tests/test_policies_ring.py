"""Embedding attention by hand-computed numbers; what the ring-attention paper states is named by its place there."""

from __future__ import annotations

from collections import Counter
from math import exp, log, sqrt
from random import Random
from typing import Any

import numpy as np
import pytest
from core_kit import ASKED
from ring_kit import SEED, asking, measured, packed, picked, ranking_of, ring, sent_to, shown

from router_daemon.core.actions import Deliver, DeliverHeader, Error
from router_daemon.core.events import Request
from router_daemon.core.ranking import Candidate
from router_daemon.core.settings import RingAttentionSettings, Settings
from router_daemon.policies.base import NAMES, make_policy
from router_daemon.policies.keys import LearnedHeads, RandomHeads
from router_daemon.policies.ring import ALL_UP_TO, Ring, RingMulti, softmax
from router_daemon.testing import BrokerFixture, only

VARIANTS = ("ring", "ring_multi", "ring_greedy")


@pytest.mark.parametrize("name", VARIANTS)
def test_it_is_chosen_by_name(name: str) -> None:
    assert name in NAMES
    assert make_policy(name, Settings(), Random(SEED)).name == name


# --- the formula ---


def two(**own: Any) -> BrokerFixture:
    """Keys along the axes; a answers after 2 ms with success .9, b after 1 ms with .8."""
    broker = ring({"a": (5.0, 0.0), "b": (0.0, 0.1)}, **own)
    measured(broker, "a", 2.0, 0.9)
    measured(broker, "b", 1.0, 0.8)
    return broker


def test_ring_paper_eq_z_scaled_by_the_root_of_d() -> None:
    """q = (3, 4) / 5: z = cos / (.7 sqrt 2) + .3 log(1 / (1 + ms)) + .2 log(success)."""
    rows = shown(two(), asking((3.0, 4.0)))
    z = {
        "a": 0.6 / (0.7 * sqrt(2)) + 0.3 * log(1 / (1 + 2.0)) + 0.2 * log(0.9),
        "b": 0.8 / (0.7 * sqrt(2)) + 0.3 * log(1 / (1 + 1.0)) + 0.2 * log(0.8),
    }
    assert {name: row.logit for name, row in rows.items()} == pytest.approx(z, rel=1e-6)
    assert rows["a"].terms == pytest.approx(
        {"alignment": 0.6 / (0.7 * sqrt(2)), "performance": -0.3 * log(3.0), "reliability": 0.2 * log(0.9)}, rel=1e-6
    )


def test_ring_paper_eq_z_as_printed() -> None:
    """q.k / tau of the vectors as they are, without the root."""
    rows = shown(two(scaling="raw"), asking((3.0, 4.0)))
    assert rows["a"].terms["alignment"] == pytest.approx(3.0 * 5.0 / 0.7, rel=1e-6)
    assert rows["b"].terms["alignment"] == pytest.approx(4.0 * 0.1 / 0.7, rel=1e-6)
    assert rows["a"].logit == pytest.approx(15.0 / 0.7 - 0.3 * log(3.0) + 0.2 * log(0.9), rel=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_ring_paper_eq_a_is_a_softmax(name: str) -> None:
    broker = ring({f"b{n}": np.random.default_rng(n).standard_normal(8) for n in range(9)}, policy=name)
    rows = shown(broker, asking([1.0, -2.0, 0.5, 0.0, 3.0, 1.0, 0.25, -1.0]))
    assert sum(row.weight for row in rows.values()) == pytest.approx(1.0)
    assert all(row.weight == row.score > 0.0 for row in rows.values())
    if name != "ring_multi":  # there it is the mean of several
        total = sum(exp(row.logit or 0.0) for row in rows.values())
        assert all(row.weight == pytest.approx(exp(row.logit or 0.0) / total) for row in rows.values())


def test_the_ranking_itself_is_the_softmax_for_a_query_that_fits_nobody() -> None:
    ranking = ranking_of(two())
    scores = {c.backend.name: c.score for c in ranking.candidates}
    assert scores == pytest.approx({"a": 3.0**-0.3 * 0.9**0.2, "b": 2.0**-0.3 * 0.8**0.2})
    assert sum(c.weight for c in ranking.candidates) == pytest.approx(1.0)


@pytest.mark.parametrize("scaling", ["unit", "raw"])
@pytest.mark.parametrize("name", ["ring", "ring_greedy"])
def test_ring_paper_figure_7_a_low_tau_leaves_alignment_alone(name: str, scaling: str) -> None:
    broker = ring({"fits": (1.0, 0.1), "fast": (0.9, 0.4), "far": (0.0, 1.0)}, policy=name, scaling=scaling)
    measured(broker, "fits", 5000.0, 0.1)
    measured(broker, "fast", 0.1, 1.0)
    assert picked(broker, asking((1.0, 0.0))) == "fast"
    sharp = ring(
        {"fits": (1.0, 0.1), "fast": (0.9, 0.4), "far": (0.0, 1.0)}, policy=name, scaling=scaling, temperature=1e-6
    )
    measured(sharp, "fits", 5000.0, 0.1)
    measured(sharp, "fast", 0.1, 1.0)
    assert picked(sharp, asking((1.0, 0.0))) == "fits"
    assert shown(sharp, asking((1.0, 0.0)))["fits"].weight == pytest.approx(1.0)


def test_ring_paper_figure_7_a_high_tau_leaves_latency_and_reliability() -> None:
    broker = two(temperature=1e6)
    assert picked(broker, asking((1.0, 0.0))) == "b"
    assert picked(two(), asking((1.0, 0.0))) == "a"


def test_in_vectors_of_any_size_unit_scaling_sees_the_direction_alone() -> None:
    sizes = [5e-324, 1e-200, 1e-30, 1.0, 1e30, 1.7e308]
    rows = [shown(two(), asking((0.6 * size, 0.8 * size if size > 1e-300 else 0.0))) for size in sizes]
    assert [row["a"].terms["alignment"] * 0.7 * sqrt(2) for row in rows[1:]] == pytest.approx([0.6] * 5, rel=1e-6)
    broker = ring({"a": (3e38, 3e38), "b": (-1e-40, 1e-40)})
    assert shown(broker, asking((1.0, 1.0)))["a"].terms["alignment"] == pytest.approx(1 / 0.7 / sqrt(2))
    for size in (1e-45, 1e-20, 3e38):
        request = Request(1, "c", embedding=packed((size, size)))
        assert shown(broker, request)["a"].terms["alignment"] == pytest.approx(1 / 0.7 / sqrt(2))


def test_raw_scaling_stays_finite() -> None:
    broker = ring({"a": (1e300, -1e300), "b": (1e300, 1e300)}, scaling="raw", temperature=1e-6)
    assert picked(broker, asking((1.7e308, 1.7e308))) == "b"
    assert all(np.isfinite(row.logit or 0.0) for row in shown(broker, asking((1.7e308, 1.7e308))).values())


def test_a_list_and_its_float32_are_the_same_query() -> None:
    broker = two()
    other = Request(1, "c", embedding=packed((3.0, 4.0)))
    assert shown(broker, other)["a"].logit == shown(broker, asking((3.0, 4.0)))["a"].logit
    broker.update(b"a", embedding=packed((5.0, 0.0)))
    assert shown(broker, other)["a"].terms["alignment"] == pytest.approx(0.6 / (0.7 * sqrt(2)), rel=1e-6)


# --- latency, with the load and the way ---


def test_latency_is_what_is_to_be_expected_with_the_work_that_is_there() -> None:
    """One open and slots 1: wait 2 ms, L = (2 + 2)^2 / 2 = 8 ms; the published mean of 2 ms says nothing of it."""
    live, mean = ring({"a": (1.0, 0.0)}, slots=1), ring({"a": (1.0, 0.0)}, slots=1, latency="profile")
    for broker in (live, mean):
        broker.update(b"a", prefetch=3)
        measured(broker, "a", 2.0)
        broker.send("c", client_id=1, embedding=[1.0, 0.0])
    assert shown(live, asking((1.0, 0.0)))["a"].terms["performance"] == pytest.approx(-0.3 * log(9.0))
    assert shown(mean, asking((1.0, 0.0)))["a"].terms["performance"] == pytest.approx(-0.3 * log(3.0))


@pytest.mark.parametrize("latency", ["live", "profile"])
def test_the_way_counts_as_latency_unless_path_cost_is_off(latency: str) -> None:
    """b is 2 ms away and answers after 3: its own part is 1, less than the 2 of a."""
    chosen = []
    for path_cost in (True, False):
        broker = ring({"a": (1.0, 0.0), "b": (1.0, 0.0)}, latency=latency, path_cost=path_cost)
        measured(broker, "a", 2.0)
        measured(broker, "b", 3.0)
        broker.backend("b").path_s = 0.002
        chosen.append(picked(broker, asking((1.0, 0.0))))
        performance = shown(broker, asking((1.0, 0.0)))["b"].terms["performance"]
        assert performance == pytest.approx(-0.3 * log(4.0 if path_cost else 2.0))
    assert chosen == ["a", "b"]


def test_success_of_zero_is_finite() -> None:
    broker = two()
    broker.backend("a").profile.success = 0.0
    assert picked(broker, asking((1.0, 0.0))) == "b"
    assert shown(broker, asking((1.0, 0.0)))["a"].terms["reliability"] == pytest.approx(0.2 * log(1e-9))


# --- masks, ties ---


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("count", [3, ALL_UP_TO + 30])
def test_who_has_no_room_or_was_tried_is_masked_out(name: str, count: int) -> None:
    broker = ring({f"b{n:03}": (1.0, n / count) for n in range(count)}, policy=name, slots=1)
    request, tried = asking((1.0, 0.0)), list[str]()
    while (found := picked(broker, request, *tried)) is not None:
        assert found not in tried
        tried.append(found)
    assert sorted(tried) == [f"b{n:03}" for n in range(count)]
    left = count
    while left > 0:
        assert ranking_of(broker).pool.free == left
        sent_to(broker, client_id=left, embedding=[1.0, 0.0], priority=4)
        left -= 1
    assert picked(broker, request) is None


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("count", [4, ALL_UP_TO + 6])
def test_ties_are_broken_at_random(name: str, count: int) -> None:
    keys = {f"b{n:03}": (1.0, 0.0) for n in range(count)}
    first = Counter(picked(ring(keys, policy=name, seed=seed), asking((1.0, 0.0))) for seed in range(60))
    assert len(first) >= min(count, 20)


def test_heads_at_once_are_the_best_ones() -> None:
    broker = ring({"a": (1.0, 0.0), "b": (1.0, 0.5), "d": (1.0, 1.0), "e": (0.0, 1.0)})
    deliveries = only(broker.send("c", mode="fanout", embedding=[1.0, 0.0]), Deliver)
    assert [delivery.peer for delivery in deliveries] == [b"a", b"b", b"d"]


def test_a_failed_head_is_followed_by_the_next_best() -> None:
    broker = ring({"a": (1.0, 0.0), "b": (1.0, 0.5), "d": (1.0, 1.0)})
    [first] = only(broker.send("c", embedding=[1.0, 0.0]), Deliver)
    [second] = only(broker.nack(first), Deliver)
    assert (first.peer, second.peer) == (b"a", b"b")


def test_max_cost_leaves_out_who_costs_more() -> None:
    broker = ring({"a": (1.0, 0.0), "b": (0.0, 1.0)})
    broker.update(b"a", cost=5.0)
    broker.update(b"b", cost=1.0)
    assert sent_to(broker, embedding=[1.0, 0.0]) == "a"
    assert sent_to(broker, 2, embedding=[1.0, 0.0], max_cost=2.0) == "b"


@pytest.mark.parametrize("name", ["ring", "ring_multi", "ring_greedy"])
def test_whether_a_key_fits_is_asked_of_all_not_of_those_that_the_message_may_go_to(name: str) -> None:
    """The first message of a ranking left its columns without the dearer ones' keys: it was neither sent nor refused."""
    broker = ring({"keyless": None, "dear": (1.0, 0.0)}, policy=name, without_embedding="refuse")
    broker.update(b"dear", cost=5.0)
    assert sent_to(broker, embedding=[1.0, 0.0], max_cost=2.0) == "keyless"


# --- many candidates ---


def many(count: int, seed: int, **own: Any) -> BrokerFixture:
    draw = np.random.default_rng(seed)
    broker = ring({f"b{n:04}": draw.standard_normal(8) for n in range(count)}, seed=seed, slots=2, **own)
    for n in range(count):
        measured(broker, f"b{n:04}", float(draw.uniform(0.5, 4.0)), float(draw.uniform(0.9, 1.0)))
    return broker


@pytest.mark.parametrize("name", ["ring", "ring_multi"])
@pytest.mark.parametrize("seed", range(5))
def test_of_many_the_best_is_found_while_deliveries_come_and_go(name: str, seed: int) -> None:
    broker = many(ALL_UP_TO + 40, seed, policy=name)
    draw = np.random.default_rng(seed)
    for client_id in range(1, 150):
        vector = draw.standard_normal(8)
        rows = shown(broker, asking(vector))
        best = max(row.weight for row in rows.values() if row.backend.free > 0)
        chosen = sent_to(broker, client_id, embedding=list(map(float, vector)))
        assert rows[chosen].weight == pytest.approx(best, rel=1e-4), f"seed {seed}, message {client_id}"
        broker.advance(0.0005)
        held = [d for backend in broker.broker.registry.by_name.values() for d in backend.open.values()]
        if len(held) > 60:
            done = held[int(draw.integers(len(held)))]
            broker.ack(_deliver(done.backend.peer, done.id))


def _deliver(peer: bytes, delivery_id: int) -> Deliver:
    return Deliver(peer, False, DeliverHeader(delivery_id, "m", "c", 2, 1, 1, 1, 1), ())


def test_of_many_one_that_freed_up_unnoticed_is_found() -> None:
    """The columns say that nobody has room; one has, and nothing told of it."""
    broker = many(ALL_UP_TO + 10, SEED)
    request = asking([1.0] * 8)
    assert picked(broker, request) is not None
    for backend in broker.broker.registry.by_name.values():
        backend.free = 0
    assert picked(broker, request) is None
    broker.backend("b0007").free = 1
    assert picked(broker, request) == "b0007"
    for backend in broker.broker.registry.by_name.values():
        backend.refresh(broker.clock.now)


def test_of_many_a_subset_is_looked_at_alone() -> None:
    broker = many(ALL_UP_TO + 10, SEED)
    ranking, request = ranking_of(broker), asking([1.0] * 8)
    assert picked(broker, request) is not None
    some = ranking.only(lambda candidate: candidate.backend.name in {"b0003", "b0004"})
    found = broker.broker.policy.pick(some, request, [], broker.clock.now)
    assert found is not None
    other = broker.broker.policy.pick(some, request, [found.backend], broker.clock.now)
    assert other is not None
    assert {found.backend.name, other.backend.name} == {"b0003", "b0004"}
    assert broker.broker.policy.pick(some, request, [found.backend, other.backend], broker.clock.now) is None


# --- several heads ---


def test_ring_paper_multi_head_is_the_mean_of_the_heads_weights() -> None:
    """Head 1 sees the first number, head 2 the second; cosines in one dimension are 1, 0 or -1."""
    heads = LearnedHeads(np.array([[[1.0, 0.0]], [[0.0, 1.0]]]))
    settings = Settings(ring_attention=RingAttentionSettings(temperature=0.7, performance=0.0, reliability=0.0))
    policy = RingMulti(settings, Random(SEED), heads)
    broker = BrokerFixture(policy=policy, mode="single")
    for name, key in {"a": (2.0, -1.0), "b": (3.0, 4.0), "d": (-1.0, 0.0)}.items():
        broker.register(name, "c", slots=4, embedding=list(key))
    rows = shown(broker, asking((1.0, 1.0)))
    first, second = softmax(np.array([1.0, 1.0, -1.0]) / 0.7), softmax(np.array([-1.0, 1.0, 0.0]) / 0.7)
    expected = dict(zip("abd", (first + second) / 2, strict=True))
    assert {name: row.weight for name, row in rows.items()} == pytest.approx(expected, rel=1e-6)
    assert picked(broker, asking((1.0, 1.0))) == "b"


def test_a_mean_of_weights_is_not_the_softmax_of_mean_logits() -> None:
    """One head is sure of a, two lean a little against it: the mean of logits would send to b."""
    logits = np.array([[4.0, 0.0], [-2.5, 0.0], [-2.5, 0.0]])
    weights = softmax(logits).mean(axis=0)
    assert logits.mean(axis=0).argmax() == 1
    policy = RingMulti(Settings(), Random(SEED))
    merged = policy._merged(logits, np.zeros(2), np.ones(2, dtype=bool))
    assert np.exp(merged) / 3 == pytest.approx(weights)


@pytest.mark.parametrize("low", [0.0, -800.0, -2000.0])
def test_weights_too_small_for_a_float_still_have_an_order(low: float) -> None:
    policy = RingMulti(Settings(), Random(SEED))
    logits = np.array([[0.0, low, low - 1.0], [0.0, low - 0.5, low - 2.0]])
    live = np.array([0.0, -0.1, 0.0])
    everybody, without = np.ones(3, dtype=bool), np.array([False, True, True])
    assert (policy._merged(logits, live, everybody) + live).argmax() == 0
    z = policy._merged(logits, live, without) + live
    expected = np.log(softmax(logits[:, 1:] + live[1:]).sum(axis=0))
    assert z[1:] == pytest.approx(expected)
    assert np.isfinite(policy._merged(logits, live, np.zeros(3, dtype=bool))).all()


def test_random_heads_are_orthonormal_and_the_same_for_the_same_seed() -> None:
    heads, again, other = RandomHeads(4, 7), RandomHeads(4, 7), RandomHeads(4, 8)
    identity = np.eye(32, dtype=np.float32)
    seen = np.stack([heads.key(row) for row in identity], axis=-1)
    assert seen.shape == (4, 8, 32)
    for head in seen:
        assert head @ head.T == pytest.approx(np.eye(8), abs=1e-6)
    vector = np.arange(32, dtype=np.float32)
    assert np.array_equal(heads.query(vector), again.key(vector))
    assert not np.allclose(heads.query(vector), other.query(vector))
    assert not np.allclose(seen[0], seen[1])
    assert (heads.size(2), heads.size(3), heads.size(4096)) == (1, 1, 64)


def test_ring_multi_prefers_whom_it_fits() -> None:
    draw = np.random.default_rng(SEED)
    keys = {f"b{n}": draw.standard_normal(64) for n in range(12)}
    broker = ring(keys, policy="ring_multi", temperature=0.1)
    found = [picked(broker, asking(key + 0.3 * draw.standard_normal(64))) for key in keys.values()]
    assert sum(name == key for name, key in zip(found, keys, strict=True)) >= 10


def test_learned_heads_fit_one_length() -> None:
    given = np.random.default_rng(1).standard_normal((2, 3, 4, 8))
    broker = ring({"a": [1.0] * 8, "b": [1.0] * 4}, policy="ring_multi", projections=given)
    assert shown(broker, asking([1.0] * 8))["a"].logit is not None
    assert shown(broker, asking([1.0] * 8))["b"].terms["alignment"] == 0.0
    assert shown(broker, asking([1.0] * 4))["a"].logit is None  # no key that fits is so long
    heads, vector = LearnedHeads(given), np.arange(8, dtype=np.float32)
    assert heads.query(vector) == pytest.approx(given[0] @ vector, rel=1e-5)
    assert heads.key(vector) == pytest.approx(given[1] @ vector, rel=1e-5)


# --- what cannot be held against keys ---

UNFIT = [
    (None, "missing", "bad_header", "c: the policy ring needs an embedding"),
    ([], "missing", "bad_header", "c: the policy ring needs an embedding"),
    ([0.0, 0.0], "zero", "bad_header", "c: the policy ring needs an embedding that is not all zeros"),
    (
        [1.0, 2.0, 3.0],
        "dimension",
        "bad_header",
        "c: the policy ring needs an embedding as long as keys are: got 3, keys: 2 (2 backends)",
    ),
]


@pytest.mark.parametrize(("vector", "reason", "code", "detail"), UNFIT)
@pytest.mark.parametrize("scaling", ["unit", "raw"])
def test_a_message_that_no_key_fits_goes_by_attention(
    vector: list[float] | None, reason: str, code: str, detail: str, scaling: str
) -> None:
    broker = ring({"slow": (1.0, 0.0), "fast": (0.0, 1.0)}, scaling=scaling)
    measured(broker, "slow", 50.0)
    measured(broker, "fast", 1.0)
    extra: dict[str, Any] = {} if vector is None else {"embedding": vector}
    assert sent_to(broker, **extra) == "fast"
    counts = broker.broker.counts.capabilities["c"].fallbacks
    assert {key: count for key, count in counts.items() if count} == {reason: 1}
    reference = BrokerFixture(policy="attention", mode="single")
    for name in ("slow", "fast"):
        reference.register(name, "c", slots=4)
        measured(reference, name, 50.0 if name == "slow" else 1.0)
    broker.ack(_deliver(b"fast", 1))
    reference.send("c")
    reference.ack(_deliver(b"fast", 1))
    ours, theirs = shown(broker, asking(vector)), shown(reference, ASKED)
    assert {n: r.terms for n, r in ours.items()} == {n: r.terms for n, r in theirs.items()}


@pytest.mark.parametrize(("vector", "reason", "code", "detail"), UNFIT)
def test_a_message_that_no_key_fits_is_refused_where_that_is_set(
    vector: list[float] | None, reason: str, code: str, detail: str
) -> None:
    broker = ring({"a": (1.0, 0.0), "b": (0.0, 1.0)}, without_embedding="refuse")
    extra: dict[str, Any] = {} if vector is None else {"embedding": vector}
    [answer] = only(broker.send("c", **extra), Error)
    assert (answer.header.code, answer.header.detail, answer.header.last) == (code, detail, True)
    assert answer.header.retry is False
    assert not any(broker.broker.counts.capabilities["c"].fallbacks.values())
    assert broker.broker.open_messages == 0
    assert sent_to(broker, 2, embedding=[1.0, 0.0]) == "a"


def test_without_any_key_a_message_is_refused_with_no_backend() -> None:
    broker = ring({"a": None}, without_embedding="refuse")
    [answer] = only(broker.send("c", embedding=[1.0]), Error)
    assert (answer.header.code, answer.header.retry) == ("no_backend", True)
    broker = ring({"a": None})
    assert sent_to(broker, embedding=[1.0]) == "a"
    assert broker.broker.counts.capabilities["c"].fallbacks["no_keys"] == 1


def test_a_message_is_refused_at_once_where_nobody_has_room_either() -> None:
    broker = ring({"a": (1.0, 0.0)}, slots=1, without_embedding="refuse")
    assert sent_to(broker, embedding=[1.0, 0.0]) == "a"
    [answer] = only(broker.send("c", client_id=2), Error)
    assert answer.header.code == "bad_header"


def test_a_message_that_waits_is_refused_when_the_keys_change_under_it() -> None:
    broker = ring({"a": (1.0, 0.0)}, slots=1, without_embedding="refuse")
    [delivery] = only(broker.send("c", embedding=[1.0, 0.0]), Deliver)
    assert not only(broker.send("c", client_id=2, embedding=[0.0, 1.0]), Error)
    assert broker.broker.open_messages == 2
    broker.update(b"a", embedding=[1.0, 0.0, 0.0])
    [answer] = only(broker.ack(delivery), Error)
    assert (answer.header.id, answer.header.code) == (2, "bad_header")
    assert broker.broker.open_messages == 0


def test_a_retry_is_refused_when_the_keys_change_under_it() -> None:
    broker = ring({"a": (1.0, 0.0), "b": (0.0, 1.0)}, without_embedding="refuse")
    [delivery] = only(broker.send("c", embedding=[1.0, 0.0]), Deliver)
    for name in (b"a", b"b"):
        broker.update(name, embedding=[1.0, 0.0, 0.0])
    [answer] = only(broker.nack(delivery), Error)
    assert (answer.header.code, answer.header.last) == ("bad_header", True)


def test_one_whose_key_does_not_fit_counts_as_perpendicular() -> None:
    keys = {"fits": (1.0, 0.0), "against": (-1.0, 0.0), "longer": (1.0, 0.0, 0.0), "none": None, "zero": (0.0, 0.0)}
    broker = ring(keys)
    rows = shown(broker, asking((1.0, 0.0)))
    cosine = 1.0 / (0.7 * sqrt(2))
    expected = {"fits": cosine, "against": -cosine, "longer": 0.0, "none": 0.0, "zero": 0.0}
    assert {name: row.terms["alignment"] for name, row in rows.items()} == pytest.approx(expected)
    assert sent_to(broker, embedding=[1.0, 0.0]) == "fits"
    assert broker.broker.counts.capabilities["c"].fallbacks["partial"] == 1
    assert picked(broker, asking((1.0, 0.0)), "fits") in {"longer", "none", "zero"}


def test_a_longer_embedding_than_allowed_is_none() -> None:
    broker = ring({"a": [1.0] * 8, "b": [1.0] * 9}, dimensions=8, without_embedding="refuse")
    assert sent_to(broker, embedding=[1.0] * 8) == "a"
    [answer] = only(broker.send("c", client_id=2, embedding=[1.0] * 9), Error)
    assert answer.header.detail.endswith("got 9, keys: 8 (1 backends)")


def test_nothing_is_asked_of_a_policy_without_candidates() -> None:
    for name in VARIANTS:
        broker = ring({"a": (1.0, 0.0)}, policy=name, without_embedding="refuse")
        ranking = ranking_of(broker).only(lambda candidate: False)
        assert broker.broker.policy.pick(ranking, ASKED, [], 0.0) is None
        assert list(broker.broker.policy.peek(ranking, ASKED, 0.0)) == []
        assert broker.broker.policy.objection is not None
        assert broker.broker.policy.objection(ranking, ASKED) is None


# --- looking on ---


@pytest.mark.parametrize("name", VARIANTS)
def test_peek_changes_nothing_and_names_first_what_would_be_picked(name: str) -> None:
    draw = np.random.default_rng(SEED)
    broker = ring({name: draw.standard_normal(16) for name in "abdefg"}, policy=name)
    request = asking(draw.standard_normal(16), key="sticky")
    order = list(shown(broker, request))
    assert list(shown(broker, request)) == order
    assert picked(broker, request) == order[0]


def test_plain_objects_will_do() -> None:
    """Without a broker: backends that nobody told the policy of are taken in when they are ranked."""
    broker = ring({"a": (1.0, 0.0), "b": (0.0, 1.0)})
    policy = Ring(Settings(), Random(SEED))
    ranking = ranking_of(broker)
    ranking.own = None
    found = policy.pick(ranking, asking((0.0, 1.0)), (), broker.clock.now)
    assert found is not None
    assert found.backend.name == "b"


def test_of_few_only_those_to_whom_something_happened_are_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = ring({"a": (1.0, 0.0), "b": (0.6, 0.8), "d": (0.0, 1.0)})
    policy = broker.broker.policy
    assert isinstance(policy, Ring)
    looked: list[str] = []
    live = policy._live

    def spy(candidate: Candidate, now: float) -> float:
        looked.append(candidate.backend.name)
        return live(candidate, now)

    monkeypatch.setattr(policy, "_live", spy)
    assert picked(broker, asking((1.0, 0.0))) == "a"
    assert looked == ["a", "b", "d"]
    assert picked(broker, asking((0.0, 1.0))) == "d"
    assert looked == ["a", "b", "d"]
    measured(broker, "d", 10_000.0)
    assert picked(broker, asking((0.0, 1.0))) == "b"
    assert looked == ["a", "b", "d", "d"]
