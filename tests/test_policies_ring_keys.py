"""The matrix of keys stays in step with who is there, whatever they do; and is bounded."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import settings as run
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from ring_kit import SEED, asking, packed, picked, ring, shown

from router_daemon.core.settings import Settings
from router_daemon.policies.keys import MOST_LENGTHS, Keys, OneHead, RandomHeads, unit
from router_daemon.policies.ring import Ring
from router_daemon.testing import BrokerFixture

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64)
VECTORS = st.one_of(
    st.none(),
    st.integers(0, 5).flatmap(lambda length: st.lists(NUMBERS, min_size=length, max_size=length)),
    st.integers(1, 5).map(lambda length: packed([1.0] * length)),
)
NAMES = st.sampled_from([f"b{n}" for n in range(6)])


def matrix_of(broker: BrokerFixture) -> Keys:
    keys = broker.broker.policy._keys  # type: ignore[attr-defined]
    assert isinstance(keys, Keys)
    return keys


def in_step(broker: BrokerFixture) -> None:
    """Assert that the rows are the keys of exactly those who are registered and have one."""
    keys = matrix_of(broker)
    keys.check()
    there = broker.broker.registry.by_name.values()
    assert keys._places.keys() | keys._empty == set(there)
    for backend in there:
        vector = keys.read(backend.info.embedding)
        length, row = keys.place(backend)
        assert (length, row >= 0) == ((0, False) if vector is None else (len(vector), True))


class Members(RuleBasedStateMachine):
    """Backends that come, change and leave in any order, with messages in between."""

    @initialize(policy=st.sampled_from(["ring", "ring_multi", "ring_greedy"]), scaling=st.sampled_from(["unit", "raw"]))
    def begin(self, policy: str, scaling: str) -> None:
        self.broker = ring({}, policy=policy, scaling=scaling)

    @rule(name=NAMES, vector=VECTORS)
    def register(self, name: str, vector: Any) -> None:
        extra: dict[str, Any] = {} if vector is None else {"embedding": vector}
        self.broker.register(name, "c", slots=2, **extra)

    @rule(name=NAMES, vector=VECTORS)
    def update(self, name: str, vector: Any) -> None:
        extra: dict[str, Any] = {"slots": 3} if vector is None else {"embedding": vector}
        self.broker.update(name.encode(), **extra)

    @rule(name=NAMES, how=st.sampled_from(["unregister", "drain", "gone"]))
    def leave(self, name: str, how: str) -> None:
        getattr(self.broker, how)(name.encode())

    @rule(vector=VECTORS)
    def ask(self, vector: Any) -> None:
        request = asking(None)
        if vector is not None:
            request.embedding = vector
        found = picked(self.broker, request)
        pool = self.broker.broker.registry.pool("c")
        assert (found is not None) == (pool.free > 0)
        assert len(shown(self.broker, request)) == len(pool.members)

    @invariant()
    def keys_are_in_step(self) -> None:
        if hasattr(self, "broker"):
            in_step(self.broker)
            self.broker.broker.check()


TestMembers = Members.TestCase
TestMembers.settings = run(max_examples=40, stateful_step_count=25, deadline=None)


def test_rows_are_used_again_and_the_matrix_grows_by_doubling() -> None:
    broker = ring({f"b{n}": (1.0, float(n)) for n in range(40)})
    matrix = matrix_of(broker).matrix(2)
    assert matrix is not None
    assert (matrix.used, matrix.rows.shape[1]) == (40, 64)
    for n in range(0, 40, 2):
        broker.unregister(f"b{n}".encode())
    for n in range(20):
        broker.register(f"c{n}", "c", embedding=[0.0, 1.0])
    assert (matrix.used, matrix.rows.shape[1]) == (40, 64)
    in_step(broker)


def test_a_key_that_changes_keeps_its_row_and_the_rankings() -> None:
    broker = ring({"a": (1.0, 0.0), "b": (0.0, 1.0)})
    assert picked(broker, asking((1.0, 0.0))) == "a"
    place, changes = matrix_of(broker).place(broker.backend("a")), matrix_of(broker).changes
    misses = broker.broker.rankings.misses
    broker.update(b"a", embedding=[-1.0, 0.0])
    assert matrix_of(broker).place(broker.backend("a")) == place
    assert matrix_of(broker).changes == changes
    assert picked(broker, asking((1.0, 0.0))) == "b"
    assert (broker.broker.rankings.misses, broker.broker.rankings.invalidated) == (misses, 0)


def test_a_key_of_another_length_is_found_by_a_ranking_in_force() -> None:
    broker = ring({"a": (1.0, 0.0), "b": (0.0, 1.0)})
    assert picked(broker, asking((1.0, 0.0))) == "a"
    broker.update(b"b", embedding=[1.0, 0.0, 0.0])
    assert shown(broker, asking((0.0, 0.0, 1.0)))["b"].terms["alignment"] == 0.0
    assert picked(broker, asking((-1.0, 0.0))) == "b"


def test_the_same_message_asked_about_again_sees_a_key_that_has_changed_since() -> None:
    broker, request = ring({"a": (1.0, 0.0), "b": (0.0, 1.0)}), asking((1.0, 0.0))
    assert picked(broker, request) == "a"
    broker.update(b"a", embedding=[-1.0, 0.0])
    assert picked(broker, request) == "b"


def test_the_last_one_that_leaves_takes_the_matrix_along() -> None:
    broker = ring({"a": (1.0, 0.0)})
    broker.unregister(b"a")
    assert matrix_of(broker).matrix(2) is None
    in_step(broker)


def test_so_many_lengths_have_a_matrix_and_no_more() -> None:
    broker = ring({f"b{n}": [1.0] * (n + 1) for n in range(MOST_LENGTHS + 2)})
    keys = matrix_of(broker)
    assert len(keys._matrices) == MOST_LENGTHS
    assert keys.place(broker.backend(f"b{MOST_LENGTHS}")) == (0, -1)
    assert picked(broker, asking([1.0] * (MOST_LENGTHS + 1))) is not None
    broker.unregister(b"b0")
    broker.register("new", "c", embedding=[1.0] * 20)
    assert keys.place(broker.backend("new"))[0] == 20


@pytest.mark.parametrize("heads", [OneHead(), RandomHeads(3, SEED)])
def test_few_rows_of_many_give_the_same_products_as_all(heads: Any) -> None:
    """Products of a few rows are taken of those rows alone, of most of them of all."""
    draw = np.random.default_rng(SEED)
    broker = ring({f"b{n}": draw.standard_normal(12) for n in range(50)})
    keys = Keys(heads, unit=True, longest=100)
    for backend in broker.broker.registry.by_name.values():
        keys.watch(backend, True)
    matrix, query = keys.matrix(12), keys.query(unit(draw.standard_normal(12)))  # type: ignore[arg-type]
    assert matrix is not None
    every = matrix.products(query, np.arange(50))
    assert every.shape == (heads.count, 50)
    assert matrix.products(query, np.array([49, 3, 17])) == pytest.approx(every[:, [49, 3, 17]], abs=1e-6)


def test_a_head_that_sees_nothing_of_a_key_is_perpendicular_to_it() -> None:
    class FirstNumber(OneHead):
        def query(self, vector: Any) -> Any:
            return vector[:1][np.newaxis]

        key = query

        def size(self, length: int) -> int:
            return 1

    keys = Keys(FirstNumber(), unit=True, longest=10)
    broker = ring({"a": (0.0, 1.0)})
    keys.watch(broker.backend("a"), True)
    matrix = keys.matrix(2)
    assert matrix is not None
    assert not matrix.rows.any()


def test_a_policy_of_its_own_takes_in_whom_it_was_not_told_of() -> None:
    broker = ring({"a": (1.0, 0.0), "b": None})
    policy = Ring(Settings(), Random(SEED))
    assert policy._keys.place(broker.backend("a")) == (2, 0)
    assert policy._keys.place(broker.backend("b")) == (0, -1)
    policy.watch(broker.backend("a"), False)
    policy.watch(broker.backend("b"), False)
    policy._keys.check()
    assert not policy._keys._places
    assert not policy._keys._empty
