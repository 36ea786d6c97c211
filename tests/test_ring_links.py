"""Links: who may be a neighbour, how far away it is, when it is lost and when it is back."""

from __future__ import annotations

import pytest
from nodes_kit import START, Ring

from router_daemon.core.events import Gone, Malformed
from router_daemon.core.types import Side
from router_daemon.ring.links import Link
from router_daemon.ring.messages import Echo, EchoHeader, Hello, HelloHeader, Links, LinksHeader, RingError


def up(ring: Ring, name: str) -> list[str]:
    return sorted(ring.nodes[name].links.neighbours())


def link(ring: Ring, name: str, other: str) -> Link:
    return ring.nodes[name].links.neighbours()[other]


def errors(ring: Ring, source: str) -> list[str]:
    return [said[2].header.code for said in ring.messages(RingError) if said[0] == source]


def test_the_dialler_greets_first_and_both_measure() -> None:
    ring = Ring("a", "b", latency_s=0.002)
    ring.link("a-b")
    ring.run(0.1)
    assert [(said[0], said[1]) for said in ring.messages(Hello)] == [("a", "b"), ("b", "a")]
    for name, other in ("ab", "ba"):
        assert link(ring, name, other).rtt_s == pytest.approx(0.004)
    assert ("link up", "b") in ring.nodes["a"].take_news()


def test_the_round_trip_time_is_smoothed() -> None:
    """RFC 6298: new = 7/8 old + 1/8 sample."""
    ring = Ring("a", "b", latency_s=0.002)
    ring.link("a-b")
    ring.run(0.1)
    ring.wire("a", "b").latency_s = 0.010
    ring.run(0.25)
    assert link(ring, "a", "b").rtt_s == pytest.approx(0.004 * 7 / 8 + 0.020 / 8)


def test_a_link_that_takes_another_time_is_told_again() -> None:
    ring = Ring("a", "b", latency_s=0.002)
    ring.link("a-b")
    ring.run(3.0)
    ring.wire("a", "b").latency_s = 0.020
    ring.run(10.0)
    assert ring.nodes["b"].floods.known["a"].links["b"] == pytest.approx(40_000, rel=0.3)


def test_a_link_is_lost_with_its_connection_at_once() -> None:
    ring = Ring("a", "b")
    ring.link("a-b")
    ring.run(0.1)
    ring.cut("a", "b")
    assert up(ring, "a") == []
    assert ring.nodes["a"].topology.ways == {}
    assert ring.counts("a").links_lost == 1
    assert ("link down", "b") in ring.nodes["a"].take_news()


def test_one_that_is_silent_after_three_echoes_and_back_with_the_first_answer() -> None:
    ring = Ring("a", "b")
    ring.link("a-b")
    ring.run(0.1)
    ring.wire("a", "b").lossy = True
    ring.run(0.7)
    assert up(ring, "a") == ["b"]
    ring.run(0.3)
    assert up(ring, "a") == []
    ring.wire("a", "b").lossy = False
    ring.run(0.3)
    assert (up(ring, "a"), up(ring, "b")) == (["b"], ["a"])


def test_a_daemon_that_stood_still_does_not_take_its_neighbours_for_lost() -> None:
    ring = Ring("a", "b")
    ring.link("a-b")
    ring.run(0.1)
    node = ring.nodes.pop("a")
    ring.run(5.0)
    assert up(ring, "b") == []
    ring.nodes["a"] = node
    ring.run(0.6)
    assert (up(ring, "a"), up(ring, "b")) == (["b"], ["a"])
    assert ring.counts("a").links_lost == 0


def test_two_connections_are_one_link() -> None:
    ring = Ring("a", "b")
    ring.link("a-b")
    ring.run(0.1)
    first = ring.wire("a", "b")
    ring.link("b-a")
    ring.run(0.1)
    assert up(ring, "a") == ["b"]
    assert link(ring, "a", "b").peer == first.ends["a"]
    second = ring.wire("a", "b")
    ring.register("a", "x")
    ring.run(1.0)
    for end, peer in first.ends.items():
        ring.handle(end, Gone(Side.RING, peer))
    assert link(ring, "a", "b").peer == second.ends["a"]
    assert ring.known_at("b") == ["a/x"], "the other connection has taken over before anything was missed"


def test_another_ring_is_refused() -> None:
    ring = Ring("a")
    ring.start("b", ring="other")
    ring.link("a-b")
    ring.run(3.0)
    assert errors(ring, "b")[0] == "wrong_ring"
    assert (up(ring, "a"), up(ring, "b")) == ([], [])
    assert ring.nodes["a"].take_news().count(("link refused: wrong_ring", "address of b")) == 1
    assert 3 <= len(ring.messages(Hello)) <= 5, "it is tried again once a second: the other one may be corrected"


def test_a_neighbour_of_our_own_name_is_refused() -> None:
    ring = Ring("a")
    ring.start("a", key="twin")
    ring.link("a-twin")
    ring.run(0.5)
    assert errors(ring, "twin") == ["name_taken"]
    assert (up(ring, "a"), up(ring, "twin")) == ([], [])


def test_of_two_neighbours_of_one_name_the_newer_process_is_believed() -> None:
    ring = Ring("a", "b")
    ring.link("a-b")
    ring.run(0.1)
    ring.start("b", key="newer")
    ring.link("newer-a")
    ring.run(0.1)
    assert link(ring, "a", "b").instance == ring.nodes["newer"].instance
    assert errors(ring, "a") == ["name_taken"]
    ring.start("b", key="older", instance=0)
    ring.link("older-a")
    ring.run(0.1)
    assert link(ring, "a", "b").instance == ring.nodes["newer"].instance


def test_nothing_counts_before_hello() -> None:
    ring = Ring("a", "b")
    ring.link("a-b")
    stranger = b"a stranger"
    said = ring.nodes["a"].handle(Echo(stranger, EchoHeader(1)), START)
    assert [message.header.code for message in said] == ["not_greeted"]
    said = ring.nodes["a"].handle(Links(stranger, LinksHeader("z", 1, 1, {})), START)
    assert [message.header.code for message in said] == ["not_greeted"]
    assert "z" not in ring.nodes["a"].floods.known


def test_what_breaks_the_protocol_is_answered_but_for_an_error() -> None:
    node = Ring("a").nodes["a"]
    unknown = Malformed(Side.RING, b"p", False, "", "unsupported_version", "this is RING1, got RING2")
    (said,) = node.handle(unknown, START)
    assert (type(said), said.peer, said.header.code) == (RingError, b"p", "unsupported_version")
    assert node.handle(Malformed(Side.RING, b"p", False, "ERROR", "bad_header", ""), START) == []
    assert node.counts.errors["unsupported_version"] == 1


def test_a_daemon_of_another_version_of_the_program_is_welcome() -> None:
    node = Ring("a").nodes["a"]
    said = node.handle(Hello(b"p", HelloHeader("b", "ring", 7, "99.0")), START)
    assert [type(message) for message in said] == [Hello, Echo]


def test_there_are_only_so_many_links() -> None:
    ring = Ring("a", max_daemons=1)
    node = ring.nodes["a"]
    for number in range(4):
        node.handle(Hello(b"%d" % number, HelloHeader(f"n{number}", "ring", 1)), START)
    (refused,) = node.handle(Hello(b"5", HelloHeader("n5", "ring", 1)), START)
    assert refused.header.code == "overloaded"


def test_who_says_bye_is_gone() -> None:
    ring = Ring("a", "b")
    ring.link("a-b")
    ring.run(0.1)
    ring._after("b", ring.nodes["b"].stop(ring.now))
    ring.run(0.01)
    assert up(ring, "a") == []
