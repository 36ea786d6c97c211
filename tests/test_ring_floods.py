"""What daemons tell each other of themselves: how soon everybody knows, what is believed, what is forgotten."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from nodes_kit import Ring

from router_daemon.core import events
from router_daemon.core.memory import ServiceRecord
from router_daemon.core.types import Side
from router_daemon.ring.counts import RingCounts
from router_daemon.ring.floods import Floods
from router_daemon.ring.messages import Links, LinksHeader, Listed, ProfilesHeader, Report, Roster, RosterHeader
from router_daemon.ring.settings import RingSettings

NAMES = "abcdefghijklmnopqrstuvwx"


def floods(**keys: Any) -> Floods:
    return Floods(RingSettings("me", **keys), RingCounts())


def listed(*names: str) -> list[Listed]:
    return [Listed(name, ["c"]) for name in names]


# --- how soon ---


def test_everybody_knows_everybody_a_few_exchanges_after_the_start() -> None:
    """24 daemons in a circle, 1 ms apart: 12 links across, so within a tenth of a second."""
    ring = Ring(*NAMES)
    for name in NAMES:
        ring.register(name, "x")
    ring.run(0.2)
    ring.link(*(f"{a}-{b}" for a, b in zip(NAMES, NAMES[1:] + NAMES[0], strict=True)))
    ring.run(0.1)
    for name in NAMES:
        others = [other for other in NAMES if other != name]
        assert sorted(ring.nodes[name].topology.ways) == others
        assert ring.known_at(name) == sorted(["x", *(f"{other}/x" for other in others)])


def test_a_backend_that_comes_is_known_everywhere_at_once_and_so_is_its_end() -> None:
    ring = Ring(*"abcdef")
    ring.circle()
    ring.register("a", "x")
    ring.run(0.06)
    assert all(ring.known_at(name) == ["a/x"] for name in "bcdef")
    ring.handle("a", events.Unregister(b"x", False, events.EmptyHeader()))
    ring.run(0.06)
    assert all(ring.known_at(name) == [] for name in "abcdef")


def test_what_a_backend_is_changes_everywhere() -> None:
    ring = Ring(*"abc")
    ring.circle()
    ring.register("a", "x", slots=1)
    ring.run(0.1)
    header = events.Revision(slots=7, capabilities=["c", "e"], cost=2.0, embedding=[1.0], zone="z", group="g")
    ring.handle("a", events.Update(b"x", False, header))
    ring.run(0.1)
    info = ring.nodes["b"].broker.registry.by_name["a/x"].info
    assert (info.slots, info.capabilities, info.cost, info.embedding) == (7, ["c", "e"], 2.0, [1.0])
    assert (info.zone, info.group) == ("z", "g")


def test_draining_is_told_and_ends() -> None:
    ring = Ring(*"abc")
    ring.circle()
    ring.register("a", "x")
    ring.run(0.1)
    ring.send("b")
    ring.run(0.01)
    taken = ring.take_one()
    ring.handle("a", events.Drain(b"x", False, events.EmptyHeader()))
    ring.run(0.1)
    assert ring.nodes["b"].broker.registry.by_name["a/x"].draining
    ring.ack(taken)
    ring.run(0.1)
    assert ring.known_at("b") == []
    ring.register("a", "x")
    ring.run(0.1)
    assert ring.known_at("b") == ["a/x"]


def test_a_new_neighbour_is_told_everything() -> None:
    ring = Ring(*"abc")
    ring.circle()
    ring.register("a", "x")
    ring.run(0.1)
    ring.start("z")
    ring.link("z-c")
    ring.run(0.02)
    assert ring.known_at("z") == ["a/x"]
    assert ring.nodes["z"].topology.ways["a"].hops == 2


def test_parts_that_were_apart_know_of_each_other_once_they_are_joined() -> None:
    ring = Ring(*"abcd")
    for name in "abcd":
        ring.register(name, "x")
    ring.link("a-b", "c-d")
    ring.run(1.0)
    assert ring.known_at("a") == ["b/x", "x"]
    ring.link("b-c")
    ring.run(0.05)
    assert ring.known_at("a") == ["b/x", "c/x", "d/x", "x"]
    ring.cut("b", "c")
    ring.run(0.05)
    assert ring.known_at("a") == ["b/x", "x"]
    assert ring.known_at("d") == ["c/x", "x"]


@pytest.mark.parametrize("seed", range(10))
def test_random_graphs_agree_after_random_cuts(seed: int) -> None:
    rng = Random(seed)
    ring = Ring(*"abcdefg")
    for name in "abcdefg":
        ring.register(name, "x")
    pairs = [f"{a}-{b}" for a in "abcdefg" for b in "abcdefg" if a < b and rng.random() < 0.4]
    for pair in pairs:
        ring.link(pair, latency_s=rng.choice([0.001, 0.005]))
        ring.run(rng.random() * 0.1)
    left = [pair for pair in pairs if rng.random() < 0.6]
    for pair in pairs:
        if pair not in left:
            ring.cut(*pair.split("-"))
            ring.run(rng.random() * 0.1)
    ring.run(0.5)
    for name in "abcdefg":
        part = {name}
        while more := {e for pair in left for e in pair.split("-") if part & set(pair.split("-"))} - part:
            part |= more
        assert ring.known_at(name) == sorted(["x", *(f"{other}/x" for other in part - {name})])
    ways = {name: ring.nodes[name].topology.ways for name in "abcdefg"}
    for name, mine in ways.items():
        for other, way in mine.items():
            assert ways[other][name].cost_us4 == way.cost_us4


# --- what is believed ---


def test_only_what_is_newer() -> None:
    known = floods()
    assert known.take_links(LinksHeader("a", 5, 3, {"b": 1}), 0.0)
    assert not known.take_links(LinksHeader("a", 5, 3, {}), 0.0)
    assert not known.take_links(LinksHeader("a", 5, 2, {}), 0.0)
    assert known.take_links(LinksHeader("a", 5, 4, {}), 0.0)
    assert not known.take_links(LinksHeader("a", 4, 9, {}), 0.0), "of an earlier process"
    assert known.replaced == []
    assert known.take_links(LinksHeader("a", 6, 0, {}), 0.0)
    assert known.replaced == ["a"]


def test_a_roster_holds_once_all_of_its_pages_have_come() -> None:
    known = floods()
    known.take_roster(RosterHeader("a", 1, 1, 0, 1, listed("x")), 0.0)
    pages = [RosterHeader("a", 1, 2, page, 3, listed(f"y{page}")) for page in range(3)]
    assert known.take_roster(pages[2], 0.0) == (True, False)
    assert known.take_roster(pages[2], 0.0) == (False, False)
    assert known.take_roster(pages[0], 0.0) == (True, False)
    assert list(known.known["a"].roster or ()) == ["x"]
    assert known.take_roster(pages[1], 0.0) == (True, True)
    assert list(known.known["a"].roster or ()) == ["y0", "y1", "y2"]
    assert known.take_roster(pages[1], 0.0) == (False, False)
    assert known.take_roster(RosterHeader("a", 1, 3, 5, 2, []), 0.0) == (False, False), "there is no such page"


def test_a_newer_roster_takes_the_place_of_one_that_is_not_whole() -> None:
    known = floods()
    known.take_roster(RosterHeader("a", 1, 1, 0, 2, listed("x")), 0.0)
    assert known.take_roster(RosterHeader("a", 1, 2, 0, 1, listed("y")), 0.0) == (True, True)
    assert known.take_roster(RosterHeader("a", 1, 1, 1, 2, listed("z")), 0.0) == (False, False)
    assert list(known.known["a"].roster or ()) == ["y"]


def test_there_is_a_limit_to_what_others_may_tell() -> None:
    known = floods(max_daemons=2, max_backends=3)
    for name in "abc":
        known.take_links(LinksHeader(name, 1, 1, {}), 0.0)
    assert list(known.known) == ["a", "b"]
    known.take_roster(RosterHeader("a", 1, 1, 0, 1, listed(*"vwxyz")), 0.0)
    assert list(known.known["a"].roster or ()) == ["v", "w", "x"]
    reports = {name: Report(0, 1.0, {}) for name in "vz"}
    known.take_profiles(ProfilesHeader("a", 1, 1, reports), 0.0)
    assert list(known.known["a"].reports) == ["v"]


def test_who_has_not_been_heard_of_for_long_is_forgotten() -> None:
    known = floods(forget_s=10.0)
    known.take_links(LinksHeader("a", 1, 1, {}), 0.0)
    known.take_links(LinksHeader("b", 1, 1, {}, age_ms=4000), 0.0)
    assert known.forget_old(7.0) == ["b"]
    assert not known.take_links(LinksHeader("b", 1, 1, {}, age_ms=11_000), 7.0), "nor is he believed to live again"
    assert known.forget_old(10.5) == ["a"]
    assert known.known == {}


def test_a_neighbour_that_echoes_and_says_nothing_of_itself_has_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring("a", "b", forget_s=3.0)
    ring.link("a-b")
    ring.register("b", "x")
    ring.run(1.0)
    assert ring.known_at("a") == ["b/x"]
    monkeypatch.setattr(ring.nodes["b"]._telling, "flood", lambda *_: None)
    ring.run(6.0)
    assert "b" in ring.nodes["a"].topology.ways
    assert ring.known_at("a") == []
    ring.send("a")
    assert ring.take() == []


def test_what_is_told_again_is_as_old_as_it_is() -> None:
    known = floods()
    known.take_links(LinksHeader("a", 1, 1, {"b": 7}, age_ms=1000), 0.0)
    known.take_roster(RosterHeader("a", 1, 2, 0, 1, listed("x")), 0.0)
    links, roster = known.all(2.0)
    assert isinstance(links, LinksHeader)
    assert (links.age_ms, links.links, links.seq) == (3000, {"b": 7}, 1)
    assert isinstance(roster, RosterHeader)
    assert (roster.age_ms, roster.backends) == (3000, listed("x"))


def test_a_report_passes_each_link_once_or_twice_and_does_not_circle() -> None:
    ring = Ring(*"abcdef", refresh_s=1000.0, profiles_s=1000.0)
    ring.circle()
    ring.run(1.0)
    ring.said.clear()
    ring.register("a", "x")
    ring.run(1.0)
    pages = ring.messages(Roster)
    assert len(pages) == 7, "six links, and the last two daemons tell each other"
    assert not ring.messages(Links)


# --- two of one name ---


def test_of_two_daemons_of_one_name_the_older_one_stands_aside() -> None:
    ring = Ring("b", "c", forget_s=4.0)
    ring.start("a", key="first")
    ring.link("first-b", "b-c")
    ring.register("first", "x")
    ring.run(1.0)
    ring.start("a", key="second")
    ring.register("second", "y")
    ring.link("second-c")
    ring.run(1.0)
    assert ring.known_at("b") == ["a/y"]
    assert ring.nodes["first"].topology.ways == {}
    assert ring.nodes["first"].reach.aside
    assert ("stands aside: a newer process has this name", "a") in ring.nodes["first"].take_news()
    ring.send("first")
    assert ring.take_one().backend == "x", "its own clients have its own backends"
    ring.crash("second")
    ring.run(10.0)
    assert ring.known_at("c") == ["a/x"], "the other one has not been heard of for long"


def test_a_restart_is_no_second_daemon() -> None:
    ring = Ring(*"abc")
    ring.circle()
    ring.crash("a")
    ring.run(0.01)
    ring.start("a")
    ring.link("a-b", "a-c")
    ring.register("a", "x")
    ring.run(0.2)
    assert not ring.nodes["a"].reach.aside
    assert ring.known_at("b") == ["a/x"]


def test_a_clock_that_was_set_back_costs_a_restart_some_seconds() -> None:
    ring = Ring(*"abc", forget_s=3.0)
    ring.circle()
    ring.crash("a")
    ring.start("a", instance=0)
    ring.link("a-b", "a-c")
    ring.register("a", "x")
    ring.run(0.5)
    assert ring.known_at("b") == []
    ring.run(8.0)
    assert ring.known_at("b") == ["a/x"]


# --- profiles ---


def served(ring: Ring, times: int) -> None:
    """Let a client of b have b's backend do some messages of 20 ms each."""
    for number in range(times):
        ring.send("b", client="local", number=number, heads=1)
        ring.run(0.02)
        ring.ack(ring.take_one())


def test_what_was_measured_there_is_known_here_with_the_way_on_top() -> None:
    ring = Ring("a", "b", latency_s=0.005)
    ring.link("a-b")
    ring.register("b", "x", slots=4)
    ring.run(1.0)
    served(ring, 30)
    ring.run(2.5)
    here = ring.nodes["a"].broker.registry.by_name["b/x"]
    there = ring.nodes["b"].broker.registry.by_name["x"]
    assert here.path_s == pytest.approx(0.010, rel=0.01)
    assert here.hops == 1
    assert here.services["c"].service_s == pytest.approx(there.services["c"].service_s + 0.010, rel=0.01)
    assert here.services["c"].samples == 30
    assert here.profile.success == there.profile.success


def test_own_samples_come_first_while_they_are_fresh() -> None:
    ring = Ring("a", "b", latency_s=0.005)
    ring.link("a-b")
    ring.register("b", "x", slots=4)
    ring.run(1.0)
    for number in range(20):
        ring.send("a", number=number, heads=1)
        ring.run(0.1)
        ring.ack(ring.take_one())
    ring.run(0.2)
    service = ring.nodes["a"].broker.registry.by_name["b/x"].services["c"]
    assert service.samples == 20
    assert service.response_s == pytest.approx(0.105, abs=0.006)


def test_estimates_move_with_the_way() -> None:
    ring = Ring("a", "b", "c", latency_s=0.005)
    ring.circle()
    ring.register("b", "x", slots=4)
    ring.run(1.0)
    served(ring, 30)
    ring.run(3.0)
    backend = ring.nodes["a"].broker.registry.by_name["b/x"]
    before_s = backend.services["c"].service_s
    ring.cut("a", "b")
    assert backend.hops == 2
    assert backend.path_s == pytest.approx(0.020, rel=0.01)
    assert backend.services["c"].service_s == pytest.approx(before_s + 0.010, rel=0.01)
    ring.nodes["a"].check()


def test_a_backend_that_is_away_there_gets_nothing_from_here() -> None:
    ring = Ring("a", "b")
    ring.link("a-b")
    ring.register("b", "x", session=b"session-of-x")
    ring.run(1.0)
    ring.handle("b", events.Gone(Side.BACKEND, b"x"))
    ring.run(1.0)
    assert not ring.nodes["a"].broker.registry.by_name["b/x"].connected
    ring.send("a")
    header = events.Registration("x", ["c"], session=b"session-of-x")
    ring.handle("b", events.Register(b"x again", False, header))
    ring.run(1.0)
    assert ring.take_one().backend == "x again"


def test_costs_that_were_told_are_known_here() -> None:
    ring = Ring("a", "b")
    ring.link("a-b")
    ring.register("b", "x")
    ring.run(1.0)
    ring.send("b", client="local")
    ring.ack(ring.take_one(), cost=3.5)
    ring.run(1.0)
    assert ring.nodes["a"].broker.registry.by_name["b/x"].cost == 3.5
    ring.nodes["a"].check()


def test_many_backends_go_in_pages() -> None:
    ring = Ring("a", "b", page_bytes=2000)
    for number in range(200):
        ring.register("b", f"backend-{number:03}", capability=f"capability-{number:03}")
    ring.link("a-b")
    ring.run(3.0)
    assert len(ring.known_at("a")) == 200
    assert max(len(said[2].header.backends) for said in ring.messages(Roster)) < 60


def test_a_name_that_is_taken_here_stays_with_its_holder() -> None:
    ring = Ring("a", "b")
    ring.register("a", "b/x")
    ring.register("b", "x")
    ring.link("a-b")
    ring.run(1.0)
    assert ring.nodes["a"].broker.registry.by_name["b/x"].peer == b"b/x"
    ring.handle("a", events.Unregister(b"b/x", False, events.EmptyHeader()))
    ring.run(3.0)
    assert ring.nodes["a"].broker.registry.by_name["b/x"].hops == 1


def test_records_of_services_that_are_not_registered_are_left_out() -> None:
    ring = Ring("a", "b")
    ring.link("a-b")
    ring.register("b", "x")
    ring.run(1.0)
    record = ServiceRecord(0.1, 0.1, 0.0, 9, 0.0)
    report = Report(0, 0.5, {"c": record, "other": record})
    ring.nodes["a"].abroad.report("b", {"x": report, "unknown": report}, ring.now)
    assert list(ring.nodes["a"].broker.registry.by_name["b/x"].services) == ["c"]
