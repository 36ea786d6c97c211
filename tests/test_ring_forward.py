"""Deliveries over the ring: what the backend and the client see of it, and what is lost, comes twice or goes astray."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET
from nodes_kit import Delivered, Ring

from router_daemon.core import events
from router_daemon.core.actions import Deliver, Error, Piece, Reply
from router_daemon.core.settings import RetrySettings, RolloutSettings, RouteSettings, WaitingSettings
from router_daemon.core.types import Side
from router_daemon.ring.messages import (
    Ask,
    Forward,
    ForwardHeader,
    Result,
    ResultHeader,
    RingCancel,
    RingCancelHeader,
)


def circle(*names: str, **keys: Any) -> Ring:
    """Return daemons in a circle that know each other."""
    ring = Ring(*names, **keys)
    ring.circle()
    return ring


def across(**keys: Any) -> Ring:
    """Return six daemons; the one backend, x, is three links away from a, at d."""
    ring = circle("a", "b", "c", "d", "e", "f", **keys)
    ring.register("d", "x", slots=4)
    ring.run(1.0)
    return ring


def answers(ring: Ring, client: str = "client") -> list[tuple[Any, Any]]:
    """Return (id, backend or code) of every last answer that a client got."""
    last = [action for action in ring.heard[client] if not isinstance(action, Piece) and action.header.last]
    return [(a.header.id, a.header.backend if isinstance(a, Reply) else a.header.code) for a in last]


def forward(ring: Ring, source: str, via: str, **keys: Any) -> None:
    """Have a FORWARD come in over a link, as its sender said it."""
    known: dict[str, Any] = {
        "to": via,
        "at": ring.nodes[via].instance if via in ring.nodes else 1,
        "backend": "x",
        "origin": source,
        "instance": ring.nodes[source].instance,
        "id": 77,
        "message": "m",
        "capability": "c",
        "priority": 2,
        "ttl_ms": 1000,
        "attempt": 1,
        "head": 1,
        "heads": 1,
        "hops": 1,
        "path": [source],
    }
    ring.handle(via, Forward(ring.wire(source, via).ends[via], ForwardHeader(**(known | keys)), (b"z",)))


def with_rollout() -> Ring:
    """Return two daemons, each with half of all messages on its candidate; the one backend, x, is at b."""
    rollout = RolloutSettings(candidate="candidate", control_percent=0.0, percent=50.0)
    ring = Ring("a", "b", settings={"routes": {"candidate": RouteSettings("round_robin")}, "rollout": rollout})
    ring.link("a-b")
    ring.run(1.0)
    ring.register("b", "x", slots=100)
    ring.run(1.0)
    return ring


def answered_by_route(ring: Ring, daemon: str) -> dict[str, int]:
    routes = ring.nodes[daemon].broker.routes.by_name.values()
    return {route.name: route.tally.outcomes["answered"] for route in routes if route.tally is not None}


def test_a_delivery_over_the_ring_is_counted_for_the_route_of_its_origin() -> None:
    ring = with_rollout()
    for number in range(40):
        ring.send("a", number=number)
        ring.run(0.1)
        ring.ack(ring.take_one())
        ring.run(0.1)
    counted = [answered_by_route(ring, name) for name in ("a", "b")]
    assert counted[0] == counted[1]
    assert sum(counted[0].values()) == 40
    assert min(counted[0].values()) > 0
    assert all(message.header.route in ("stable", "candidate") for *_, message in ring.messages(Forward))


def test_a_route_that_the_home_does_not_have_is_its_stable_one() -> None:
    ring = with_rollout()
    forward(ring, "a", "b", route="of another configuration")
    [message] = ring.nodes["b"].broker.dispatcher.messages
    assert message.route.name == "stable"


def test_a_daemon_with_one_route_says_nothing_of_it() -> None:
    ring = across()
    ring.send("a")
    ring.run(1.0)
    assert {message.header.route for *_, message in ring.messages(Forward)} == {UNSET}


def results(ring: Ring) -> list[tuple[str, int]]:
    """Return (kind or code, hops) of every RESULT said so far."""
    return [(r.header.code or r.header.kind, r.header.hops) for *_, r in ring.messages(Result)]


# --- there and back ---


def test_the_backend_of_another_daemon_answers_like_one_of_our_own() -> None:
    ring = across()
    ring.send("a", b"question", b"more", priority=3, traceparent="00-abc", tracestate="v=1", embedding=[0.5, 1.0])
    ring.run(0.01)
    taken = ring.take_one()
    header = taken.action.header
    assert (taken.daemon, taken.backend, tuple(taken.action.body)) == ("d", "x", (b"question", b"more"))
    assert (header.priority, header.traceparent, header.tracestate) == (3, "00-abc", "v=1")
    assert header.embedding == [0.5, 1.0]
    ring.ack(taken, b"answer")
    ring.run(0.01)
    (reply,) = ring.heard["client"]
    assert (reply.header.backend, tuple(reply.body), reply.header.message) == ("d/x", (b"answer",), header.message)
    assert reply.header.elapsed_ms == pytest.approx(20.0 - 7.0, abs=8.0)
    assert [r[:2] for r in ring.messages(Forward)] == [("a", "b"), ("b", "c"), ("c", "d")]
    assert ring.counts("d").hops[3] == 1
    assert (ring.counts("b").relayed, ring.counts("c").relayed) == (2, 2)


def test_message_attempt_head_and_heads_are_those_of_the_origin() -> None:
    ring = circle("a", "b", "c", settings={"mode": "fanout"})
    for name in "abc":
        ring.register(name, f"x{name}")
    ring.run(1.0)
    ring.send("a", heads=3)
    ring.run(0.01)
    headers = [taken.action.header for taken in ring.take()]
    assert len({header.message for header in headers}) == 1
    assert sorted((h.attempt, h.head, h.heads) for h in headers) == [(1, 1, 3), (2, 2, 3), (3, 3, 3)]


def test_what_is_left_of_its_time_is_without_the_way() -> None:
    ring = across(latency_s=0.1)
    ring.run(3.0)
    ring.send("a", ttl_ms=1000)
    ring.run(0.5)
    assert ring.take_one().action.header.ttl_ms == pytest.approx(700, abs=2)


def test_a_failure_there_is_one_here_and_another_backend_gets_it() -> None:
    ring = across()
    ring.register("c", "y")
    ring.run(1.0)
    ring.send("a")
    ring.run(0.01)
    ring.nack(ring.take_one(), reason="it broke")
    ring.run(0.02)
    again = ring.take_one()
    assert (again.daemon, again.action.header.attempt) == ("c", 2)
    ring.ack(again)
    ring.run(0.01)
    assert answers(ring) == [(1, "c/y")]
    assert ring.nodes["a"].broker.registry.by_name["d/x"].profile.counts.failures["failed"] == 1


def test_busy_blames_nobody_and_lets_it_go_elsewhere() -> None:
    ring = across()
    ring.register("c", "y")
    ring.run(1.0)
    ring.send("a", idempotent=False)
    ring.run(0.01)
    ring.nack(ring.take_one(), "busy", retry_after_ms=500)
    ring.run(0.02)
    assert ring.take_one().daemon == "c"
    backend = ring.nodes["a"].broker.registry.by_name["d/x"]
    assert sum(backend.profile.counts.failures.values()) == 0
    assert backend.paused_until == pytest.approx(ring.now + 0.5, abs=0.03)


def test_rejected_is_rejected() -> None:
    ring = across()
    ring.send("a")
    ring.run(0.01)
    ring.nack(ring.take_one(), "rejected", reason="no good")
    ring.run(0.01)
    assert answers(ring) == [(1, "rejected")]
    assert "no good" in ring.heard["client"][0].header.detail


def test_a_cancel_reaches_the_backend_and_frees_the_place() -> None:
    ring = across()
    ring.send("a")
    ring.run(0.01)
    taken = ring.take_one()
    ring.handle("a", events.Cancel(b"client", False, events.CancelHeader(1)))
    ring.run(0.01)
    assert [(name, cancelled.header.id) for name, cancelled in ring.cancelled] == [("d", taken.action.header.id)]
    assert not ring.nodes["a"].broker.registry.by_name["d/x"].open
    assert answers(ring) == [(1, "cancelled")]


def test_a_client_that_leaves_has_its_deliveries_cancelled_there() -> None:
    ring = across()
    ring.send("a")
    ring.run(0.01)
    ring.handle("a", events.Gone(Side.CLIENT, b"client"))
    ring.run(0.01)
    assert len(ring.cancelled) == 1
    assert ring.nodes["d"].open_messages == 0


# --- streams ---


def test_a_stream_comes_piece_by_piece() -> None:
    ring = across()
    ring.send("a")
    ring.run(0.01)
    taken = ring.take_one()
    for piece in (b"1", b"2", b"3"):
        ring.part(taken, piece)
    ring.ack(taken, b"end")
    ring.run(0.01)
    pieces = [action for action in ring.heard["client"] if isinstance(action, Piece)]
    assert [(p.header.seq, p.header.backend, tuple(p.body)) for p in pieces] == [
        (0, "d/x", (b"1",)),
        (1, "d/x", (b"2",)),
        (2, "d/x", (b"3",)),
    ]
    assert answers(ring) == [(1, "d/x")]


def stream_with_a_lost_piece(lost: int, **keys: Any) -> Ring:
    """Return a ring in which one of three pieces, 0 to 2, was lost."""
    ring = across(**keys)
    ring.send("a")
    ring.run(0.01)
    taken = ring.take_one()
    for number in range(3):
        ring.wire("c", "d").lossy = number == lost
        ring.part(taken, b"%d" % number)
    ring.wire("c", "d").lossy = False
    ring.ack(taken, b"end")
    ring.run(0.02)
    return ring


@pytest.mark.parametrize("lost", [1, 2])
def test_a_stream_with_a_gap_has_failed(lost: int) -> None:
    ring = stream_with_a_lost_piece(lost)
    assert answers(ring) == [(1, "failed")]
    assert ring.counts("a").gaps == 1
    seqs = [action.header.seq for action in ring.heard["client"] if isinstance(action, Piece)]
    assert seqs == list(range(lost))


def test_a_stream_that_has_lost_its_beginning_goes_to_another_head() -> None:
    ring = across()
    ring.register("c", "y")
    ring.run(1.0)
    ring.send("a")
    ring.run(0.01)
    taken = ring.take_one()
    ring.wire("c", "d").lossy = True
    ring.part(taken, b"0")
    ring.wire("c", "d").lossy = False
    ring.ack(taken)
    ring.run(0.02)
    ring.ack(ring.take_one())
    ring.run(0.01)
    assert answers(ring) == [(1, "c/y")]


# --- lost, and sent again ---


def test_a_lost_forward_is_sent_again_when_the_link_is_known_to_be_lost() -> None:
    ring = across()
    ring.send("a", idempotent=False)
    ring.run(0.0015)
    ring.cut("b", "c")
    ring.run(0.2)
    taken = ring.take_one()
    assert taken.daemon == "d"
    ring.ack(taken, b"answer")
    ring.run(0.2)
    assert answers(ring) == [(1, "d/x")]
    assert (ring.counts("a").resent, ring.counts("d").duplicates) == (1, 0)


def test_a_lost_result_is_said_again_and_the_work_is_not_done_twice() -> None:
    ring = across()
    ring.send("a", idempotent=False)
    ring.run(0.01)
    ring.ack(ring.take_one(), b"answer")
    ring.run(0.0015)
    ring.cut("b", "c")
    ring.run(0.2)
    assert ring.take() == []
    assert answers(ring) == [(1, "d/x")]
    assert tuple(ring.heard["client"][0].body) == (b"answer",)


def test_what_is_lost_without_anybody_noticing_is_asked_for() -> None:
    ring = across()
    ring.wire("c", "d").lossy = True
    ring.send("a")
    ring.run(0.01)
    ring.wire("c", "d").lossy = False
    ring.run(2.5)
    ring.ack(ring.take_one())
    ring.run(0.1)
    assert answers(ring) == [(1, "d/x")]


def test_what_goes_on_is_asked_for_and_left_alone() -> None:
    ring = across()
    ring.send("a")
    ring.run(5.0)
    taken = ring.take_one()
    assert len(ring.messages(Ask)) >= 3
    ring.ack(taken)
    ring.run(0.1)
    assert answers(ring) == [(1, "d/x")]
    assert ring.counts("a").resent == 0


def test_a_forward_that_comes_twice_runs_once_and_is_answered_twice() -> None:
    ring = circle("a", "b")
    ring.register("b", "x")
    forward(ring, "a", "b")
    forward(ring, "a", "b")
    taken = ring.take_one()
    assert results(ring) == [], "it is open: nothing is said"
    ring.ack(taken, b"answer")
    forward(ring, "a", "b")
    assert ring.take() == []
    assert results(ring) == [("ack", 1), ("ack", 1)]
    assert ring.counts("b").duplicates == 2


def test_an_answer_is_kept_for_a_while_and_then_its_number_alone() -> None:
    ring = circle("a", "b", keep_s=5.0)
    ring.register("b", "x")
    forward(ring, "a", "b")
    ring.ack(ring.take_one(), b"answer")
    ring.run(7.0)
    forward(ring, "a", "b")
    assert ring.take() == []
    (*_, again) = (said[2] for said in ring.messages(Result))
    assert (again.header.code, tuple(again.body)) == ("failed", ()), "it may have run"


@pytest.mark.parametrize("keys", [{"keep_results": 2}, {"keep_bytes": 20}])
def test_answers_are_kept_within_bounds(keys: dict[str, int]) -> None:
    ring = circle("a", "b", **keys)
    ring.register("b", "x", slots=9)
    for number in range(5):
        forward(ring, "a", "b", id=number)
    for taken in ring.take():
        ring.ack(taken, b"0123456789")
    for number in range(5):
        forward(ring, "a", "b", id=number)
    again = [said[2].header.code or said[2].header.kind for said in ring.messages(Result)][5:]
    assert again == ["failed"] * 3 + ["ack"] * 2


def test_numbers_are_remembered_within_bounds() -> None:
    ring = circle("a", "b", remember=3)
    for number in range(10):
        forward(ring, "a", "b", id=number, backend="nobody")
    assert len(ring.nodes["b"].home._done) == 3


# --- ways that lead nowhere ---


def test_a_forward_that_comes_back_goes_no_further() -> None:
    ring = across()
    forward(ring, "a", "b", to="d", at=ring.nodes["d"].instance, path=["a", "b", "f"], hops=3)
    assert ring.take() == []
    assert [(r.header.code, r.header.to) for *_, r in ring.messages(Result)] == [("unreachable", "a")]
    assert ring.counts("b").undeliverable["FORWARD"] == 1


def test_nor_does_one_that_has_used_up_its_hops() -> None:
    ring = across(max_hops=3)
    forward(ring, "a", "b", to="d", at=ring.nodes["d"].instance, hops=3)
    assert results(ring) == [("unreachable", 1)]


def test_a_way_that_is_too_long_excuses_the_backend_and_another_one_gets_it() -> None:
    ring = across(max_hops=2)
    ring.register("c", "y")
    ring.run(1.0)
    ring.send("a")
    ring.run(0.02)
    assert ring.take_one().daemon == "c"
    backend = ring.nodes["a"].broker.registry.by_name["d/x"]
    assert (backend.profile.counts.outcomes["undelivered"], sum(backend.profile.counts.failures.values())) == (1, 0)


def test_no_such_backend_there_is_no_fault_of_it() -> None:
    ring = circle("a", "b")
    forward(ring, "a", "b", backend="nobody")
    assert results(ring) == [("gone", 1)]
    forward(ring, "a", "b", backend="x", at=999, id=78)
    assert results(ring)[-1] == ("failed", 1), "meant for another process of that name, which may have begun it"


def test_nothing_is_passed_on_to_a_backend_of_a_third() -> None:
    ring = circle("a", "b", "c")
    ring.register("c", "x")
    ring.run(1.0)
    assert "c/x" in ring.known_at("b")
    forward(ring, "a", "b", backend="c/x")
    assert results(ring) == [("gone", 1)]


def test_a_backend_that_leaves_while_a_forward_is_on_its_way() -> None:
    ring = across()
    ring.register("a", "own")
    ring.run(1.0)
    ring.send("a")
    ring.handle("d", events.Unregister(b"x", False, events.EmptyHeader()))
    ring.run(0.1)
    assert ring.take_one().backend == "own"
    assert ring.nodes["a"].broker.counts.backends["d/x"].outcomes["lost"] == 0


def test_results_for_what_is_not_open_change_nothing() -> None:
    ring = across()
    peer = ring.wire("a", "b").ends["a"]
    mine = ring.nodes["a"].instance
    for header in (
        ResultHeader("a", mine, 4711, "d", "ack", 3, ["d", "c", "b"]),
        ResultHeader("a", mine + 1, 1, "d", "nack", 3, ["d", "c", "b"], code="failed"),
    ):
        ring.handle("a", Result(peer, header))
    assert ring.counts("a").strays == 2


def test_a_cancel_that_overtakes_its_forward_is_its_answer() -> None:
    ring = circle("a", "b")
    ring.register("b", "x")
    header = RingCancelHeader("b", ring.nodes["b"].instance, "a", ring.nodes["a"].instance, 77, 1, ["a"])
    ring.handle("b", RingCancel(ring.wire("a", "b").ends["b"], header))
    forward(ring, "a", "b")
    assert ring.take() == []
    assert results(ring) == [("cancelled", 1), ("cancelled", 1)]


def test_a_full_link_is_like_a_full_backend() -> None:
    ring = circle("a", "b", "c")
    ring.register("b", "x")
    ring.register("c", "y")
    ring.run(1.0)
    node = ring.nodes["a"]
    request = events.Request(1, "c")
    (sent,) = node.handle(events.Send(b"client", False, request, (b"z",)), ring.now)
    assert isinstance(sent, Forward)
    (again,) = node.handle(events.Undelivered(sent, full=True), ring.now)
    assert isinstance(again, Forward)
    assert again.header.to == ("c" if sent.header.to == "b" else "b")
    node.check()


def test_a_link_found_gone_when_sending_is_gone_around() -> None:
    ring = circle("a", "b", "c")
    ring.register("b", "x")
    ring.run(1.0)
    node = ring.nodes["a"]
    (sent,) = node.handle(events.Send(b"client", False, events.Request(1, "c"), (b"z",)), ring.now)
    assert sent.peer == ring.wire("a", "b").ends["a"]
    actions = node.handle(events.Undelivered(sent, full=False), ring.now)
    (again,) = [action for action in actions if isinstance(action, Forward)]
    assert again.peer == ring.wire("c", "a").ends["a"]
    assert (again.header.hops, again.header.path) == (1, ["a"])
    node.check()


def test_what_never_left_may_run_elsewhere_where_there_is_no_other_way() -> None:
    ring = Ring("a", "b")
    ring.link("a-b")
    ring.register("b", "x")
    ring.run(1.0)
    ring.register("a", "own")
    node = ring.nodes["a"]
    request = events.Request(1, "c", idempotent=False)
    (sent,) = node.handle(events.Send(b"client", False, request, (b"z",)), ring.now)
    assert isinstance(sent, Forward)
    actions = node.handle(events.Undelivered(sent, full=False), ring.now)
    assert [action.peer for action in actions if isinstance(action, Deliver)] == [b"own"]
    assert node.broker.counts.backends["b/x"].outcomes["undelivered"] == 1
    assert ring.known_at("a") == ["own"]
    node.check()


# --- daemons that die, leave and come back ---


def test_when_a_daemon_dies_what_it_had_goes_to_others() -> None:
    ring = across()
    ring.register("c", "y")
    ring.run(1.0)
    ring.send("a")
    ring.run(0.01)
    assert ring.take_one().daemon == "d"
    ring.crash("d")
    ring.run(0.1)
    ring.ack(ring.take_one())
    ring.run(0.1)
    assert answers(ring) == [(1, "c/y")]
    assert ring.known_at("a") == ["c/y"]
    assert ring.counts("a").results["lost"] == 1


def test_one_that_is_silent_is_found_out_in_less_than_a_second() -> None:
    ring = across()
    ring.register("c", "y")
    ring.run(1.0)
    ring.send("a", ttl_ms=2000)
    ring.run(0.01)
    assert ring.take_one().daemon == "d"
    for other in "ce":
        ring.cut("d", other, told=False)
    ring.run(1.1)
    ring.ack(ring.take_one())
    ring.run(0.1)
    assert answers(ring) == [(1, "c/y")]


def test_when_an_origin_dies_its_work_elsewhere_is_cancelled() -> None:
    ring = across()
    ring.send("a")
    ring.run(0.01)
    taken = ring.take_one()
    ring.crash("a")
    ring.run(0.1)
    assert [(name, c.header.id) for name, c in ring.cancelled] == [("d", taken.action.header.id)]
    assert ring.nodes["d"].open_messages == 0


def test_a_daemon_that_has_come_back_is_another_one() -> None:
    ring = across(settings={"retry": RetrySettings(start=10.0)})
    ring.send("a", ttl_ms=10_000)
    ring.run(0.01)
    old = ring.take_one()
    ring.crash("d")
    ring.run(0.5)
    assert answers(ring) == [(1, "failed")]
    ring.start("d")
    ring.link("d-c", "d-e")
    ring.register("d", "x")
    ring.run(1.0)
    ring.ack(old)  # of a delivery that this process never made
    ring.send("a", number=2)
    ring.run(0.1)
    ring.ack(ring.take_one())
    ring.run(0.1)
    assert answers(ring) == [(1, "failed"), (2, "d/x")]


def test_a_draining_daemon_gets_nothing_new_and_finishes_what_it_has() -> None:
    ring = across()
    ring.register("c", "y")
    ring.run(1.0)
    ring.send("a", number=1)
    ring.run(0.01)
    first = ring.take_one()
    ring.nodes["d"].start_drain()
    ring.run(0.5)
    ring.send("a", number=2)
    ring.run(0.01)
    second = ring.take_one()
    assert (first.daemon, second.daemon) == ("d", "c")
    assert ring.nodes["a"].broker.registry.by_name["d/x"].draining
    ring.ack(first)
    ring.run(0.1)
    assert answers(ring) == [(1, "d/x")]
    assert "d/x" not in ring.known_at("a")


def test_a_forward_that_meets_a_drain_goes_elsewhere() -> None:
    ring = across()
    ring.register("c", "y")
    ring.run(1.0)
    ring.send("a")
    ring.nodes["d"].start_drain()
    ring.run(0.02)
    assert ring.take_one().daemon == "c"


def test_a_daemon_that_stops_ends_what_it_has_and_its_clients_hear_of_it() -> None:
    ring = across()
    ring.send("a", number=1)
    ring.send("d", client="local", number=2)
    ring.run(0.01)
    ring._after("d", ring.nodes["d"].stop(ring.now))
    assert answers(ring, "local") == [(2, "draining")]
    ring.run(0.1)
    assert answers(ring) == [(1, "failed")]
    assert ring.known_at("a") == []


def test_what_may_run_only_once_is_not_run_again_when_its_daemon_stops() -> None:
    ring = across()
    ring.register("c", "y")
    ring.run(1.0)
    ring.send("a", idempotent=False)
    ring.run(0.01)
    assert ring.take_one().daemon == "d"
    ring._after("d", ring.nodes["d"].stop(ring.now))
    ring.run(0.1)
    assert ring.take() == []
    assert answers(ring) == [(1, "failed")]


# --- load ---


def test_it_waits_there_for_a_place_and_its_queue_is_told_here() -> None:
    ring = circle("a", "b", settings={"waiting": WaitingSettings(longest=1.0, reserve=0.0)})
    ring.register("b", "x", slots=1)
    ring.run(1.0)
    ring.send("b", client="local")
    first = ring.take_one()
    ring.send("a")
    ring.run(1.0)
    assert ring.take() == []
    remote = ring.nodes["a"].abroad.by_daemon["b"]["x"]
    assert remote.queue == 2, "one is open, one waits"
    assert ring.nodes["a"].broker.registry.by_name["b/x"].other > 0.5
    ring.ack(first)
    ring.ack(ring.take_one())
    ring.run(1.0)
    assert answers(ring) == [(1, "b/x")]
    assert remote.queue == 0


def test_every_message_of_many_is_answered_once_while_links_come_and_go() -> None:
    ring = across(latency_s=0.002)
    for name in "ace":
        ring.register(name, f"y{name}", slots=20)
    ring.run(1.0)
    pairs = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "f"), ("f", "a")]
    done: list[Delivered] = []
    for number in range(120):
        ring.send("abcdef"[number % 6], b"%d" % number, client="c", number=number, idempotent=False, ttl_ms=20_000)
        if number % 20 == 10:
            a, b = pairs[number // 20]
            ring.cut(a, b, told=number % 40 == 10)
        if number % 20 == 19:
            a, b = pairs[number // 20]
            ring.link(f"{a}-{b}")
        ring.run(0.01)
        for taken in ring.take():
            done.append(taken)
            ring.ack(taken, *taken.action.body)
    for _ in range(30):
        ring.run(0.2)
        for taken in ring.take():
            done.append(taken)
            ring.ack(taken, *taken.action.body)
    assert sorted(number for number, _ in answers(ring, "c")) == list(range(120))
    assert not [action for action in ring.heard["c"] if isinstance(action, Error)]
    assert len({tuple(taken.action.body) for taken in done}) == len(done) == 120, "none was done twice"
    assert all(isinstance(taken.action, Deliver) for taken in done)
