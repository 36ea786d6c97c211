"""The policies by hand-computed numbers; what the cross-attention paper states is named by its place there."""

from __future__ import annotations

from collections import Counter, deque
from functools import reduce
from pathlib import Path
from random import Random

import pytest
from core_kit import ASKED

from router_daemon.config.routes import RouteSection, reads
from router_daemon.core.actions import Deliver
from router_daemon.core.backends import Backend
from router_daemon.core.counts import BackendCounts, CapabilityCounts
from router_daemon.core.events import Registration
from router_daemon.core.pools import make_pool
from router_daemon.core.profile import Profile
from router_daemon.core.ranking import Candidate, Policy, Ranking
from router_daemon.core.settings import ProfileSettings, RouteSettings, Settings, Weights
from router_daemon.document import document
from router_daemon.policies.base import NAMES, READS, make_policy
from router_daemon.policies.baselines import RoundRobin
from router_daemon.policies.paper import Paper
from router_daemon.policies.routes import settings_of
from router_daemon.testing import BrokerFixture, only

SEED = 20_240_229


def backend(name: str, *capabilities: str, latency_ms: float = 1.0, success: float = 0.9) -> Backend:
    profile = Profile(ProfileSettings(), BackendCounts(name))
    profile.latency_s, profile.success = latency_ms / 1000.0, success
    info = Registration(name, list(capabilities or ("c",)))
    candidate = Backend(name.encode(), False, info, profile, "", 0.0, 0.0, {}, {}, deque())
    candidate.refresh(0.0)
    return candidate


def paper(seed: int = SEED, **settings: object) -> Policy:
    return make_policy("paper", Settings(**settings), Random(seed))  # type: ignore[arg-type]


def score_of(policy: Policy, candidate: Backend, priority: int = 2, capability: str = "c") -> Candidate:
    [scored] = policy.score(capability, priority, [candidate])
    return scored


def ranking_of(candidates: list[Candidate], capability: str = "c") -> Ranking:
    pool = make_pool(capability, Settings())
    return Ranking(
        capability, 2, candidates, candidates, CapabilityCounts(capability), pool, 0, 0.0, 30.0, RoundRobin()
    )


def picks(policy: Policy, ranking: Ranking) -> list[Candidate]:
    """Return the candidates in the order in which one message would be given to them."""
    found: list[Candidate] = []
    while (candidate := policy.pick(ranking, ASKED, [c.backend for c in found], 0.0)) is not None:
        found.append(candidate)
    return found


def test_paper_score_formula_at_the_cold_start() -> None:
    """0.4 + 0.3 / (1 + 1) + 0.2 * 0.9 + 0.1 * 2/4 = 0.78."""
    assert score_of(paper(), backend("a")).score == pytest.approx(0.78)


@pytest.mark.parametrize(
    ("latency_ms", "success", "priority", "expected"),
    [
        (0.0, 1.0, 4, 0.4 + 0.3 + 0.2 + 0.1),
        (2.0, 0.5, 1, 0.4 + 0.1 + 0.1 + 0.025),
        (9.0, 0.95, 3, 0.4 + 0.03 + 0.19 + 0.075),
        (299.0, 0.0, 1, 0.4 + 0.001 + 0.0 + 0.025),
    ],
)
def test_paper_score_formula(latency_ms: float, success: float, priority: int, expected: float) -> None:
    scored = score_of(paper(), backend("a", latency_ms=latency_ms, success=success), priority)
    assert scored.score == pytest.approx(expected)
    assert sum(scored.terms.values()) == pytest.approx(scored.score)


def test_paper_score_formula_without_the_capability() -> None:
    scored = score_of(paper(), backend("a", "other"))
    assert scored.terms["capability"] == 0.0
    assert scored.score == pytest.approx(0.38)


def test_paper_threshold_lets_incapable_systems_through() -> None:
    """As printed, 0.3 is passed without the capability: by 0.15 + 0.18 + 0.05, at the cold start."""
    broker = BrokerFixture(policy="paper", require_capability=False, seed=SEED)
    broker.register("a", "other")
    assert [sent.peer for sent in only(broker.send("c"), Deliver)] == [b"a"]


def test_paper_threshold_is_to_be_exceeded() -> None:
    weights = Weights(capability=0.25, performance=0.0, reliability=0.0, priority=0.0)
    for threshold, heads in ((0.25, 0), (0.2499, 1)):
        broker = BrokerFixture(policy="paper", weights=weights, threshold=threshold, seed=SEED)
        broker.register("a", "c")
        assert len(only(broker.send("c"), Deliver)) == heads


def test_paper_require_capability_is_a_hard_filter_and_the_published_rule_is_soft() -> None:
    for hard, expected in ((True, [b"able"]), (False, [b"able", b"quick"])):
        broker = BrokerFixture(policy="paper", require_capability=hard, seed=SEED)
        broker.register("quick", "other")
        broker.register("able", "c")
        assert [sent.peer for sent in only(broker.send("c"), Deliver)] == expected


def test_paper_soft_rule_ranks_a_slow_capable_system_above_a_fast_incapable_one() -> None:
    ranked = paper().score("c", 2, [backend("fast", "other", latency_ms=0.0), backend("slow", latency_ms=50.0)])
    assert [candidate.backend.name for candidate in ranked] == ["slow", "fast"]


def test_paper_ranking_is_by_score() -> None:
    backends = [
        backend("slow", latency_ms=4.0),
        backend("fast", latency_ms=0.5),
        backend("unreliable", latency_ms=0.5, success=0.1),
        backend("middling", latency_ms=1.0),
    ]
    ranked = paper().score("c", 2, backends)
    assert [candidate.backend.name for candidate in ranked] == ["fast", "middling", "slow", "unreliable"]
    assert picks(paper(), ranking_of(ranked)) == ranked


def test_paper_top_heads_are_the_three_best() -> None:
    broker = BrokerFixture(policy="paper", seed=SEED)
    for number, name in enumerate(("w", "x", "y", "z")):
        broker.register(name, "c")
        broker.backend(name).profile.latency_s = 0.001 * (4 - number)
    broker.broker.registry.epoch += 1
    assert [sent.peer for sent in only(broker.send("c"), Deliver)] == [b"z", b"y", b"x"]


def test_paper_attention_weights_are_the_scores_over_their_sum() -> None:
    broker = BrokerFixture(policy="paper", seed=SEED)
    broker.register("a", "c")
    broker.register("b", "c")
    broker.backend("b").profile.latency_s = 0.002
    ranking = broker.broker.rankings.preview("c", 2, broker.clock.now)
    weights = {candidate.backend.name: candidate.weight for candidate in ranking.candidates}
    assert weights == {"a": pytest.approx(0.78 / 1.51), "b": pytest.approx(0.73 / 1.51)}


def test_paper_weights_are_configurable() -> None:
    weights = Weights(capability=1.0, performance=2.0, reliability=3.0, priority=4.0)
    scored = score_of(paper(weights=weights), backend("a", latency_ms=3.0, success=0.5), priority=1)
    assert scored.score == pytest.approx(1.0 + 0.5 + 1.5 + 1.0)


def test_paper_without_reliability_ignores_the_success_ratio() -> None:
    policy = make_policy("paper_no_reliability", Settings(), Random(SEED))
    assert policy.name == "paper_no_reliability"
    scores = [score_of(policy, backend("a", success=success)).score for success in (0.0, 0.5, 1.0)]
    assert scores == [pytest.approx(0.6)] * 3


def test_ties_are_broken_at_random_and_alike_by_the_same_seed() -> None:
    def firsts(seed: int) -> list[str]:
        broker = BrokerFixture(policy="paper", seed=seed, cache_ttl_s=0.0)
        for name in "abcd":
            broker.register(name, "c")
        rankings = (broker.broker.rankings.get("c", 2, broker.clock.now) for _ in range(400))
        return [ranking.scored[0].backend.name for ranking in rankings]

    assert firsts(SEED) == firsts(SEED)
    assert firsts(SEED) != firsts(SEED + 1)
    shares = Counter(firsts(SEED))
    assert set(shares) == set("abcd")
    assert chi_square(list(shares.values())) < 16.3, f"seed {SEED}: {shares}"  # 3 degrees of freedom, p = .001


def test_a_tie_does_not_outrank_a_better_score() -> None:
    policy = paper()
    for _ in range(50):
        ranked = policy.score("c", 2, [backend("a"), backend("b"), backend("best", success=1.0)])
        assert ranked[0].backend.name == "best"


def chi_square(counts: list[int]) -> float:
    """Return the test statistic against equal shares."""
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 / expected for count in counts)


def sent_to(broker: BrokerFixture, capability: str, messages: int) -> Counter[bytes]:
    """Return how many messages each backend got, one after the other."""
    shares: Counter[bytes] = Counter()
    for _ in range(messages):
        [sent] = only(broker.send(capability), Deliver)
        shares[sent.peer] += 1
        broker.ack(sent)
    return shares


def test_round_robin_is_even() -> None:
    broker = BrokerFixture(policy="round_robin", mode="single", seed=SEED)
    for name in "abcde":
        broker.register(name, "c")
    assert sent_to(broker, "c", 500) == Counter(dict.fromkeys((b"a", b"b", b"c", b"d", b"e"), 100))


def test_round_robin_takes_turns_per_capability() -> None:
    broker = BrokerFixture(policy="round_robin", mode="single", seed=SEED)
    for name in "ab":
        broker.register(name, "c", "d")
    order = []
    for capability in ("c", "d", "c", "d"):
        [sent] = only(broker.send(capability), Deliver)
        order.append(sent.peer)
        broker.ack(sent)
    assert order == [b"a", b"a", b"b", b"b"]


def test_round_robin_goes_on_to_who_has_room_and_to_the_next_after_a_failure() -> None:
    broker = BrokerFixture(policy="round_robin", mode="single", seed=SEED)
    for name in "abc":
        broker.register(name, "c")
    [first] = only(broker.send("c", client_id=1), Deliver)
    [second] = only(broker.send("c", client_id=2), Deliver)
    assert (first.peer, second.peer) == (b"a", b"b")
    [retry] = only(broker.nack(first), Deliver)
    assert retry.peer == b"c"


def test_round_robin_knows_no_better_or_worse() -> None:
    policy = make_policy("round_robin", Settings(), Random(SEED))
    scored = policy.score("c", 2, [backend("a", latency_ms=500.0), backend("b")])
    assert [candidate.score for candidate in scored] == [0.5, 0.5]
    assert policy.score("c", 2, []) == []
    assert policy.pick(ranking_of([]), ASKED, [], 0.0) is None


def test_table_1_capability_only_is_uniform_among_the_capable() -> None:
    broker = BrokerFixture(policy="capability_only", mode="single", seed=SEED)
    for name in ("a", "b", "d", "e"):
        broker.register(name, "c")
    broker.register("other", "x")
    shares = sent_to(broker, "c", 2_000)
    assert set(shares) == {b"a", b"b", b"d", b"e"}
    assert chi_square(list(shares.values())) < 16.3, f"seed {SEED}: {shares}"


def test_table_1_capability_only_takes_the_capable_alone_whatever_the_switch_says() -> None:
    broker = BrokerFixture(policy="capability_only", mode="single", require_capability=False, seed=SEED)
    broker.register("able", "c")
    broker.register("other", "x")
    assert set(sent_to(broker, "c", 50)) == {b"able"}


def test_capability_only_yields_a_permutation_alike_by_the_same_seed() -> None:
    def orders(seed: int) -> list[list[str]]:
        policy = make_policy("capability_only", Settings(), Random(seed))
        ranking = ranking_of(policy.score("c", 2, [backend(name) for name in "abcd"]))
        return [[candidate.backend.name for candidate in picks(policy, ranking)] for _ in range(20)]

    assert all(sorted(order) == list("abcd") for order in orders(SEED))
    assert orders(SEED) == orders(SEED)
    assert orders(SEED) != orders(SEED + 1)


def test_round_robin_reaches_the_incapable_where_capability_is_not_required() -> None:
    """Table I's `rr` ignores capability."""
    broker = BrokerFixture(policy="round_robin", mode="single", require_capability=False, seed=SEED)
    broker.register("able", "c")
    broker.register("other", "x")
    assert sent_to(broker, "c", 10) == Counter({b"able": 5, b"other": 5})


def test_policies_are_chosen_by_name() -> None:
    published = {"paper", "paper_no_reliability", "round_robin", "capability_only"}
    assert set(NAMES) == published | {"attention", "least_in_flight", "p2c_peak_ewma", "prequal", "c3"} | {
        "ring",
        "ring_multi",
        "ring_greedy",
    }
    for name in NAMES:
        assert make_policy(name, Settings(), Random(SEED)).name == name
    with pytest.raises(KeyError):
        make_policy("nobody knows", Settings(), Random(SEED))
    assert isinstance(paper(), Paper)


# --- what is said of them ---


def test_the_document_of_the_policies_is_in_step() -> None:
    path = Path(__file__).resolve().parent.parent / "docs" / "routing-policies.md"
    assert path.read_text() == document(), f"write it anew: python -m router_daemon.document > docs/{path.name}"


@pytest.mark.parametrize("name", NAMES)
def test_what_a_route_may_set_is_what_its_policy_reads(name: str) -> None:
    assert set(reads(name)) == set(READS[name])
    assert {*READS[name]} <= {*RouteSection.model_fields}


@pytest.mark.parametrize("name", NAMES)
def test_each_key_of_a_route_reaches_its_policy(name: str) -> None:
    """Every key changes the one setting that it names, and nothing else."""
    for key, path in READS[name].items():
        value: object = {"scaling": "raw", "latency": "profile", "without_embedding": "refuse"}.get(key, 7)
        changed = settings_of(RouteSettings(name, {key: value}), Settings())  # type: ignore[dict-item]
        assert reduce(getattr, path.split("."), changed) == value
        assert settings_of(RouteSettings(name), Settings()) == Settings()


def test_a_key_that_a_policy_does_not_read_is_refused() -> None:
    with pytest.raises(ValueError, match="round_robin does not read tau; it reads cache_ttl_s"):
        settings_of(RouteSettings("round_robin", {"tau": 0.5}), Settings())
