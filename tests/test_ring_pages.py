"""What people are shown of a ring: /ring, its text for a terminal, its metrics; and what a configuration makes of it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from router_daemon.admin.ring import ring_view
from router_daemon.assembly import LINK_BYTES, make_broker, make_node, make_transport
from router_daemon.cli.ringing import ring_text
from router_daemon.config import Config
from router_daemon.config.ring import RingSection
from router_daemon.config.sections import LimitsSection, RoutingSection, TransportSection
from router_daemon.core.types import Side
from router_daemon.metrics import Snapshot, render
from router_daemon.native import NativeTransport
from router_daemon.ring.links import Link
from router_daemon.ring.messages import LinksHeader, RosterHeader
from router_daemon.ring.node import Node
from router_daemon.ring.settings import RingSettings
from router_daemon.ring_layout import RingLayout
from router_daemon.testing import BrokerFixture

NOW = 1000.0


def linked(peer: str, **keys: Any) -> Link:
    link = Link(peer.encode(), dialled=True, address=f"tcp://{peer}", name="b", instance=1)
    for key, value in keys.items():
        setattr(link, key, value)
    return link


def node(*links: Link) -> Node:
    made = Node(BrokerFixture().broker, RingSettings("a"), instance=1, version="1.2")
    made.start(NOW)
    for link in links:
        made.links.by_peer[link.peer] = link
    made.links.changed = True
    made.on_timer(NOW)
    return made


def test_every_state_of_a_link_is_told() -> None:
    links = [
        linked("one", rtt_s=0.002, version="1.0"),
        linked("two", rtt_s=0.003),
        linked("three", name="c", rtt_s=0.5, lost=True, unanswered=4),
        linked("four", name="d", refused="wrong_ring"),
        linked("five", name=""),
    ]
    told = ring_view(node(*links), NOW)["links"]
    assert [(row["neighbour"], row["state"], row["why"]) for row in told] == [
        ("b", "up", ""),
        ("b", "spare", ""),
        ("c", "down", ""),
        ("d", "refused", "wrong_ring"),
        ("", "greeting", ""),
    ]
    assert (told[0]["rtt_ms"], told[0]["address"], told[0]["version"]) == (2.0, "tcp://one", "1.0")
    assert (told[4]["rtt_ms"], told[2]["unanswered"]) == (None, 4)


def known_ring() -> Node:
    """Return a daemon that knows a neighbour, the one behind it, and one that cannot be reached."""
    ring = node(linked("one", rtt_s=0.002))
    ring.floods.take_links(LinksHeader("b", 1, 1, {"a": 2000, "c": 4000}), NOW)
    ring.floods.take_links(LinksHeader("c", 1, 1, {"b": 4000}), NOW)
    ring.floods.take_links(LinksHeader("lost\x1b", 1, 1, {}), NOW)
    ring.floods.take_roster(RosterHeader("c", 1, 2, 0, 1, []), NOW)
    for name, known in ring.floods.known.items():
        ring.topology.report(name, known.links)
    ring.topology.report("a", {"b": 2000})
    ring.topology.compute()
    return ring


def test_the_daemons_are_told_with_the_way_to_each() -> None:
    told = {row["name"]: row for row in ring_view(known_ring(), NOW + 2.0)["daemons"]}
    assert (told["c"]["reachable"], told["c"]["hops"], told["c"]["path"]) == (True, 2, ["b", "c"])
    assert (told["c"]["way_ms"], told["c"]["heard_s"], told["c"]["links"]) == (3.0, 2.0, ["b"])
    assert (told["lost\x1b"]["reachable"], told["lost\x1b"]["path"], told["lost\x1b"]["way_ms"]) == (False, [], None)


def test_the_text_has_it_all_and_escapes_names() -> None:
    text = ring_text(ring_view(known_ring(), NOW))
    assert "a of ring ring: 2 of 3 other daemons can be reached" in text
    assert [line.split() for line in text.splitlines() if line.startswith("c ")] == [
        ["c", "2", "3.00", "0", "0", "b", "c"]
    ]
    assert "\x1b" not in text
    assert "unreachable" in text


@pytest.mark.parametrize("answer", [{}, {"name": "a"}, {"name": "a", "links": [{}], "daemons": [{}], "counts": 3}])
def test_an_older_daemon_is_dashes_and_no_ring_is_said_so(answer: dict[str, Any]) -> None:
    text = ring_text(answer)
    assert (text == "no ring") == (answer == {})
    assert "Traceback" not in text


def test_metrics_of_a_ring() -> None:
    ring = known_ring()
    ring.counts.hops[1], ring.counts.hops[3] = 2, 1
    ring.counts.relayed = 7
    text = render(Snapshot(ring.broker, NOW, ring), openmetrics=False).decode()
    for line in (
        'router_ring_link_up{neighbour="b"} 1.0',
        'router_ring_link_rtt_seconds{neighbour="b"} 0.002',
        'router_ring_daemons{state="known"} 3.0',
        'router_ring_daemons{state="reachable"} 2.0',
        "router_ring_hops_count 3.0",
        "router_ring_hops_sum 5.0",
        'router_ring_hops_bucket{le="2.0"} 2.0',
        "router_ring_relayed_total 7.0",
        'router_ring_results_total{result="ack"} 0.0',
    ):
        assert line in text.splitlines()
    assert "router_ring_link" not in render(Snapshot(ring.broker, NOW), openmetrics=False).decode()


# --- what a configuration makes ---


def test_without_a_name_there_is_no_node_and_no_third_socket() -> None:
    config = Config()
    assert make_node(config, make_broker(config, 1)) is None
    transport = make_transport(config)
    assert isinstance(transport, NativeTransport)
    assert len(transport._sides) == 2


def test_a_node_is_what_its_section_says() -> None:
    section = RingSection(name="a", ring="r", neighbours=("tcp://h:1",), listen=("tcp://h:2", "ipc://x"), echo_ms=20)
    config = Config(ring=section, limits=LimitsSection(max_header_bytes=300, max_message_bytes=1000))
    made = make_node(config, make_broker(config, 1))
    assert made is not None
    settings = made.settings
    assert (settings.name, settings.ring, settings.neighbours) == ("a", "r", ("tcp://h:1",))
    assert (settings.address, settings.echo_s) == ("tcp://h:2", 0.02)
    defaults, shown = RingSettings("x"), RingSection()
    assert (shown.echo_ms / 1000, shown.profiles_ms / 1000) == (defaults.echo_s, defaults.profiles_s)
    for key in ("lost_after", "max_hops", "max_daemons", "max_backends", "keep_results", "keep_bytes"):
        assert getattr(shown, key) == getattr(defaults, key)
    transport = make_transport(config)
    assert isinstance(transport, NativeTransport)
    links = transport._sides[2]
    assert links.side is Side.RING
    assert links.limits.message.header_bytes == 300 + LINK_BYTES
    assert links.limits.message.message_bytes == 1000 + LINK_BYTES


@pytest.mark.parametrize("engine", ["native", "libzmq"])
def test_both_engines_listen_for_links(engine: Any) -> None:
    ring = RingSection(name="a", listen="tcp://127.0.0.1:0")
    transport = make_transport(Config(ring=ring, transport=TransportSection(engine=engine)))

    async def main() -> list[list[str]]:
        bound = await transport.start([["tcp://127.0.0.1:0"]] * 3, lambda: None)
        await transport.close(0.0)
        return bound

    assert len(asyncio.run(main())) == 3


# --- whose neighbour is who, for a policy that asks ---


def test_ring_greedy_climbs_along_the_links_of_the_ring_from_this_daemon_on() -> None:
    config = Config(ring=RingSection(name="a"), routing=RoutingSection(policy="ring_greedy"))
    made = make_node(config, make_broker(config, 1))
    assert made is not None
    layout = made.broker.policy.layout  # type: ignore[attr-defined]
    assert isinstance(layout, RingLayout)
    names = ["own", "b/far", "c/near"]
    candidates: Any = [SimpleNamespace(backend=SimpleNamespace(name=name)) for name in names]
    versions = [layout.version]
    for reports in (
        {"a": {"c": 10}, "c": {"a": 10, "b": 10}, "b": {"c": 10}},
        {"c": {"a": 20, "b": 10}},
        {"c": {"a": 9}},
    ):
        for name, links in reports.items():
            made.topology.report(name, links)
        made.topology.compute()
        versions.append(layout.version)
        assert layout.arrange(candidates).starts == [0]
        if len(versions) == 2:
            around = [[names[place] for place in places] for places in layout.arrange(candidates).neighbours]
            assert around == [["own", "c/near"], ["b/far", "c/near"], ["c/near", "own", "b/far"]]
    assert versions == [0, 1, 1, 2]  # other round trip times are no other links
