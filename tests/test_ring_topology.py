"""The graph of a ring and the shortest ways through it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_daemon.ring.topology import Topology

Links = Mapping[str, Mapping[str, int]]


def topology(links: Links, me: str = "a") -> Topology:
    made = Topology(me)
    for name, mine in links.items():
        made.report(name, mine)
    made.compute()
    return made


def both(*links: tuple[str, str, int]) -> dict[str, dict[str, int]]:
    """Return links that both ends report with one round trip time (us)."""
    found: dict[str, dict[str, int]] = {}
    for a, b, rtt_us in links:
        found.setdefault(a, {})[b] = rtt_us
        found.setdefault(b, {})[a] = rtt_us
    return found


def circle(count: int, rtt_us: int = 1000) -> dict[str, dict[str, int]]:
    names = "abcdefghijklmnopqrstuvwx"[:count]
    return both(*((names[k], names[(k + 1) % count], rtt_us) for k in range(count)))


def test_the_way_there_is_half_of_the_round_trip() -> None:
    way = topology(both(("a", "b", 1000))).ways["b"]
    assert (way.one_way_s, way.round_trip_s, way.hops) == (0.0005, 0.001, 1)


def test_both_ends_have_their_say() -> None:
    links = {"a": {"b": 1000}, "b": {"a": 3000}}
    assert topology(links).ways["b"].round_trip_s == topology(links, "b").ways["a"].round_trip_s == 0.002


def test_in_a_circle_the_shorter_side() -> None:
    ways = topology(circle(6)).ways
    assert {name: way.path for name, way in ways.items()} == {
        "b": ("b",),
        "c": ("b", "c"),
        "d": ("b", "c", "d"),  # either side is as long: by name
        "e": ("f", "e"),
        "f": ("f",),
    }


def test_a_fast_detour_is_shorter_than_a_slow_link_and_of_equals_fewer_links() -> None:
    assert topology(both(("a", "b", 100), ("b", "c", 100), ("a", "c", 500))).ways["c"].path == ("b", "c")
    assert topology(both(("a", "b", 100), ("b", "c", 100), ("a", "c", 200))).ways["c"].path == ("c",)


def test_a_link_that_one_end_alone_reports_is_none() -> None:
    links = both(("a", "b", 100)) | {"c": {"b": 100}}
    assert set(topology(links).ways) == {"b"}


def test_ones_own_link_counts_before_its_other_end_is_heard() -> None:
    assert topology({"a": {"b": 100}}).ways["b"].round_trip_s == 0.0001
    assert topology({"b": {"a": 100}}).ways == {}, "the other end may not know yet that it is down"


def test_what_is_forgotten_is_not_there() -> None:
    made = topology(circle(4))
    made.forget("b")
    assert made.compute(), "a link is gone"
    assert made.ways["c"].path == ("d", "c")
    assert not made.compute(), "nothing has changed"


def test_a_new_or_slower_link_is_no_loss() -> None:
    made = topology(circle(4))
    made.report("a", {"b": 9000, "d": 1000, "c": 50})
    assert not made.compute()


@pytest.mark.parametrize(("daemons", "shortcuts", "most"), [(8, 0, 4), (24, 0, 12), (24, 4, 8)])
def test_how_far_it_is_across(daemons: int, shortcuts: int, most: int) -> None:
    """Chords of half the circle: no way is longer than a third of it."""
    links = circle(daemons)
    names = list(links)
    for k in range(shortcuts):
        a, b = names[k * 3], names[k * 3 + daemons // 2]
        links[a][b] = links[b][a] = 1000
    assert max(way.hops for name in names for way in topology(links, name).ways.values()) <= most


names = st.sampled_from("abcde")
graphs = st.dictionaries(names, st.dictionaries(names, st.integers(0, 5), max_size=5), max_size=5)


@given(graphs)
def test_every_way_is_the_shortest_and_there_is_no_other(links: dict[str, dict[str, int]]) -> None:
    """Compared with all simple paths."""

    def weight(x: str, y: str) -> int | None:
        there, back = links.get(x, {}).get(y), links.get(y, {}).get(x)
        if there is None or (back is None and x != "a"):
            return None
        return max(1, there + (there if back is None else back))

    best: dict[str, tuple[int, int, tuple[str, ...]]] = {}
    for length in range(1, 5):
        for path in permutations("bcde", length):
            weights = [weight(x, y) for x, y in zip("a" + "".join(path), path, strict=False)]
            if None not in weights:
                found = (sum(w for w in weights if w is not None), length, path)
                best[path[-1]] = min(found, best.get(path[-1], found))
    ways = topology(links).ways
    assert {name: (way.cost_us4, way.hops, way.path) for name, way in ways.items()} == best


@given(graphs)
def test_where_all_links_have_both_ends_ways_cost_the_same_both_ways(links: dict[str, dict[str, int]]) -> None:
    mutual = {x: {y: rtt for y, rtt in mine.items() if x in links.get(y, {})} for x, mine in links.items()}
    for name, way in topology(mutual).ways.items():
        assert topology(mutual, name).ways["a"].cost_us4 == way.cost_us4
