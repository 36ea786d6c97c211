"""The timer wheels: nothing early, nothing later than a tick, one place per item."""

from __future__ import annotations

from typing import Any

import pytest
from fuzzing import PATIENCE_S, look
from hypothesis import given
from hypothesis import strategies as st

from router_daemon.core.timers import COARSE_S, FINE_S, NEAR_S, Timers, Wheel

pytestmark = pytest.mark.timeout(PATIENCE_S)

MOMENTS = st.floats(min_value=0.0, max_value=1e7, allow_nan=False)


class Item:
    def __init__(self, name: str = "") -> None:
        self.name = name
        self.bucket: dict[Any, None] | None = None


@look(200)
@given(now=MOMENTS, ahead=st.floats(min_value=0.0, max_value=400.0))
def test_nothing_fires_early_and_nothing_more_than_a_tick_late(now: float, ahead: float) -> None:
    timers, item, due = Timers(), Item(), now + ahead
    timers.schedule(item, due, now)
    tick_s = FINE_S if due - now < NEAR_S else COARSE_S
    rings = timers.next_due()
    assert rings is not None
    assert due <= rings <= due + tick_s * 1.001
    assert list(timers.pop_due(rings)) == [item]
    assert item.bucket is None
    assert timers.next_due() is None


@look(200)
@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.booleans()), max_size=50), st.floats(0.0, 5.0))
def test_exactly_what_is_due_and_not_cancelled_comes_out_once(plan: list[tuple[float, bool]], now: float) -> None:
    timers, kept = Timers(), []
    for ahead, cancelled in plan:
        item = Item()
        timers.schedule(item, ahead, 0.0)
        if cancelled:
            timers.cancel(item)
        else:
            kept.append((ahead, item))
    popped = list(timers.pop_due(now))
    assert len(popped) == len(set(popped))
    for ahead, item in kept:
        assert (item in popped) or ahead > now - 1.001 * COARSE_S
        assert (item not in popped) or ahead <= now
    rest = list(timers.pop_due(1e9))
    assert {id(item) for item in (*popped, *rest)} == {id(item) for _, item in kept}
    assert timers.next_due() is None


def test_an_item_has_one_place() -> None:
    timers, item = Timers(), Item()
    timers.schedule(item, 100.0, 0.0)
    timers.schedule(item, 0.5, 0.0)
    timers.schedule(item, 200.0, 0.0)
    assert list(timers.pop_due(150.0)) == []
    assert list(timers.pop_due(200.1)) == [item]


def test_cancel_takes_an_item_out_and_may_be_repeated() -> None:
    timers, item = Timers(), Item()
    timers.cancel(item)
    timers.schedule(item, 0.5, 0.0)
    timers.cancel(item)
    timers.cancel(item)
    assert timers.next_due() is None
    assert list(timers.pop_due(10.0)) == []


def test_what_was_due_long_ago_is_due_now() -> None:
    timers, item = Timers(), Item()
    timers.schedule(item, 1.0, 500.0)
    rings = timers.next_due()
    assert rings is not None
    assert rings <= 500.0
    assert list(timers.pop_due(500.0)) == [item]


def test_items_come_in_the_order_of_their_ticks() -> None:
    timers, items = Timers(), [Item(str(number)) for number in range(5)]
    for item, due in zip(items, (0.5, 0.1, 0.3, 0.2, 0.4), strict=True):
        timers.schedule(item, due, 0.0)
    assert [item.name for item in list(timers.pop_due(1.0))] == ["1", "3", "2", "4", "0"]


def test_the_next_moment_is_that_of_the_earlier_wheel() -> None:
    timers, near, far = Timers(), Item(), Item()
    timers.schedule(far, 10.0, 0.0)
    assert timers.next_due() == pytest.approx(10.05)
    timers.schedule(near, 0.5, 0.0)
    assert timers.next_due() == pytest.approx(0.501)
    timers.cancel(near)
    assert timers.next_due() == pytest.approx(10.05)


def test_empty_buckets_do_not_pile_up() -> None:
    timers = Timers()
    for number in range(1_000):
        item = Item()
        timers.schedule(item, 0.9 + number * 1e-3, number * 1e-3)
        timers.cancel(item)
        timers.next_due()
    wheels = [wheel for wheel in (timers._coarse, timers._fine) if isinstance(wheel, Wheel)]
    assert sum(len(wheel._buckets) for wheel in wheels) <= 1


def test_an_item_scheduled_while_another_is_handled_is_not_lost() -> None:
    timers, first, second = Timers(), Item(), Item()
    timers.schedule(first, 0.1, 0.0)
    [due] = list(timers.pop_due(0.2))
    assert due is first
    timers.schedule(second, 0.1, 0.2)
    timers.schedule(first, 0.1, 0.2)
    assert list(timers.pop_due(0.2)) == [second, first]


def test_what_is_due_with_something_that_has_gone_has_a_place_of_its_own() -> None:
    """Its tick may have been dropped as empty, or have ended, since the other was scheduled."""
    timers, first, second, third = Timers(), Item(), Item(), Item()
    timers.schedule(first, 0.1, 0.0)
    timers.cancel(first)
    assert timers.next_due() is None
    timers.schedule(second, 0.1, 0.0)
    assert timers.next_due() is not None
    assert list(timers.pop_due(0.2)) == [second]
    timers.schedule(third, 0.1, 0.0)
    assert list(timers.pop_due(0.2)) == [third]


@look(200)
@given(st.lists(MOMENTS.flatmap(lambda at: st.tuples(st.just(at), st.sampled_from((0.0, 1e-9, 0.049, 0.05, 0.051))))))
def test_what_was_scheduled_before_changes_nothing_about_when_something_rings(plan: list[tuple[float, float]]) -> None:
    wheel = Wheel(COARSE_S)
    for at, later in plan:
        for due in (at, at + later):
            bucket = wheel.bucket(due)
            [tick] = [tick for tick, found in wheel._buckets.items() if found is bucket]
            assert due <= tick * COARSE_S * (1 + 1e-12)
            assert tick * COARSE_S <= (due + COARSE_S) * (1 + 1e-12)
