"""Climbing from neighbour to neighbour, and who is one."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ring_kit import SEED, asking, picked, ranking_of, ring, shown

from router_daemon.policies.layout import DaemonGraph, NameRing, climb, nearest
from router_daemon.policies.ring_greedy import RingGreedy
from router_daemon.testing import BrokerFixture

CIRCLE = [((at - 1) % 24, (at + 1) % 24) for at in range(24)]


@given(st.lists(st.floats(-10, 10), min_size=24, max_size=24), st.integers(0, 23))
def test_ring_paper_greedy_local_stops_at_a_local_best(values: list[float], start: int) -> None:
    path = climb(start, CIRCLE, values.__getitem__)
    assert path[0] == start
    assert len(set(path)) == len(path)
    assert all(other in CIRCLE[one] for one, other in pairwise(path))
    assert all(values[one] < values[other] for one, other in pairwise(path))
    assert all(values[path[-1]] >= values[other] for other in CIRCLE[path[-1]])


def test_a_climb_goes_to_the_better_neighbour_and_not_over_a_valley() -> None:
    values = [0.0, 5.0, 1.0, 2.0, 3.0, 0.0]
    neighbours = [((at - 1) % 6, (at + 1) % 6) for at in range(6)]
    assert climb(2, neighbours, values.__getitem__) == [2, 1]
    assert climb(3, neighbours, values.__getitem__) == [3, 4]
    assert climb(0, [()], values.__getitem__) == [0]


def test_the_nearest_that_suits() -> None:
    assert nearest(0, CIRCLE, lambda place: place in {5, 20}) == 20
    assert nearest(3, CIRCLE, lambda place: place == 3) == 3
    assert nearest(0, CIRCLE, lambda place: False) is None


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("a", [()]),
        ("ba", [(1,), (0,)]),
        ("cab", [(2, 1), (0, 2), (1, 0)]),
        ("dabc", [(3, 1), (0, 2), (1, 3), (2, 0)]),
    ],
)
def test_in_one_daemon_backends_are_a_ring_by_name(names: str, expected: list[tuple[int, ...]]) -> None:
    candidates = ranking_of(ring(dict.fromkeys(names, (1.0,)))).candidates
    by_name = {candidate.backend.name: candidate for candidate in candidates}
    arrangement = NameRing().arrange([by_name[name] for name in names])
    assert [tuple(sorted(around)) for around in arrangement.neighbours] == [tuple(sorted(e)) for e in expected]
    assert [names[place] for place in arrangement.starts] == sorted(names)


def test_a_message_begins_anywhere_but_those_of_one_key_at_one_place() -> None:
    arrangement = NameRing().arrange(ranking_of(ring(dict.fromkeys("abcdef", (1.0,)))).candidates)
    rng = Random(SEED)
    anywhere = Counter(arrangement.start(asking(None), rng) for _ in range(300))
    assert set(anywhere) == set(range(6))
    assert min(anywhere.values()) > 25
    assert arrangement.start(asking(None), None) is None
    sticky = {arrangement.start(asking(None, key=str(n)), rng) for n in range(100)}
    assert sticky == set(range(6))
    assert len({arrangement.start(asking(None, key="same"), rng) for _ in range(20)}) == 1


def circle(count: int, seed: int, slots: int = 4) -> BrokerFixture:
    draw = np.random.default_rng(seed)
    keys = {f"b{n:02}": draw.standard_normal(8) for n in range(count)}
    return ring(keys, policy="ring_greedy", seed=seed, slots=slots)


@pytest.mark.parametrize("seed", range(10))
def test_the_policy_ends_at_a_local_best_of_z(seed: int) -> None:
    broker = circle(24, seed)
    request = asking(np.random.default_rng(seed + 100).standard_normal(8))
    z = {name: row.logit or 0.0 for name, row in shown(broker, request).items()}
    found = picked(broker, request)
    assert found is not None
    at = int(found[1:])
    for beside in (f"b{(at - 1) % 24:02}", f"b{(at + 1) % 24:02}"):
        assert z[found] >= z[beside] - 1e-6


def test_not_always_the_best_is_found() -> None:
    broker = circle(24, SEED)
    vectors = np.random.default_rng(SEED).standard_normal((60, 8))
    best = sum(picked(broker, asking(v)) == next(iter(shown(broker, asking(v)))) for v in vectors)
    assert 5 < best < 55


def test_from_among_the_full_the_way_leads_on_to_the_nearest_with_room() -> None:
    broker = circle(8, SEED, slots=1)
    request = asking([1.0] * 8, key="k")
    order = list[str]()
    while (found := picked(broker, request, *order)) is not None:
        order.append(found)
    assert sorted(order) == [f"b{n:02}" for n in range(8)]


def test_backends_that_cannot_be_reached_are_still_used_when_no_other_has_room() -> None:
    broker = ring({"a": (1.0, 0.0), "far/b": (1.0, 0.0)}, policy="ring_greedy", slots=1)
    policy = broker.broker.policy
    assert isinstance(policy, RingGreedy)
    policy.layout = DaemonGraph("me", {"me": [], "far": []})
    request = asking((1.0, 0.0))
    assert picked(broker, request) == "a"
    assert picked(broker, request, "a") == "far/b"
    assert picked(broker, request, "a", "far/b") is None


# --- several daemons ---

LINKS = {"d0": ["d1", "d3"], "d1": ["d0", "d2"], "d2": ["d1", "d3"], "d3": ["d2", "d0"]}


def daemons(keys: dict[str, tuple[float, float] | None]) -> BrokerFixture:
    broker = ring(keys, policy="ring_greedy")
    policy = broker.broker.policy
    assert isinstance(policy, RingGreedy)
    policy.layout = DaemonGraph("d0", LINKS)
    return broker


def test_among_daemons_one_looks_at_its_own_and_at_those_beside_it() -> None:
    """d2 has the best, but d1 and d3, on the way, have nothing better than d0."""
    keys: dict[str, tuple[float, float] | None] = {
        "own": (1.0, 0.5),
        "d1/x": (0.0, 1.0),
        "d2/x": (1.0, 0.0),
        "d3/x": (-1.0, 0.0),
    }
    assert picked(daemons(keys), asking((1.0, 0.0))) == "own"
    on_the_way = keys | {"d3/x": (1.0, 0.2)}
    assert picked(daemons(on_the_way), asking((1.0, 0.0))) == "d2/x"
    assert next(iter(shown(daemons(on_the_way), asking((1.0, 0.0))))) == "d2/x"


def test_without_own_backends_a_message_begins_at_the_nearest_daemon_that_has_any() -> None:
    broker = daemons({"d2/x": (0.0, 1.0), "d1/x": (1.0, 0.0)})
    [place] = DaemonGraph("d0", LINKS).arrange(ranking_of(broker).candidates).starts
    assert ranking_of(broker).candidates[place].backend.name == "d1/x"


def test_a_slash_in_the_name_of_an_own_backend_does_not_make_it_anothers() -> None:
    broker = daemons({"team/own": (1.0, 0.0), "d1/x": (0.0, 1.0)})
    arrangement = DaemonGraph("d0", LINKS).arrange(ranking_of(broker).candidates)
    assert ranking_of(broker).candidates[arrangement.starts[0]].backend.name == "team/own"


def test_links_that_change_hold_for_a_ranking_in_force() -> None:
    broker = daemons({"own": (1.0, 0.5), "d2/x": (1.0, 0.0)})
    assert picked(broker, asking((1.0, 0.0))) == "own"
    policy = broker.broker.policy
    assert isinstance(policy, RingGreedy)
    assert isinstance(policy.layout, DaemonGraph)
    policy.layout.connect({**LINKS, "d0": ["d1", "d2", "d3"]})
    assert picked(broker, asking((1.0, 0.0))) == "d2/x"
