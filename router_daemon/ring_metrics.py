"""What is counted of the ring -> Prometheus, as `metrics` does the rest: names, types and labels stand here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import Metric

from router_daemon.families import by_number, counter, gauge, gauges, histogram, seen
from router_daemon.ring.counts import MOST_HOPS
from router_daemon.ring.node import Node

HOPS: Final = tuple(map(float, range(1, MOST_HOPS)))
RING_TOTALS: Final = {
    "forwarded": "Deliveries sent to backends of other daemons.",
    "resent": "Deliveries sent to another daemon again, as they had not arrived.",
    "taken": "Deliveries of other daemons, begun here.",
    "duplicates": "Deliveries of other daemons that came again, and were not begun again.",
    "relayed": "Messages passed on from one other daemon to another.",
    "asked": "Questions to other daemons what became of deliveries.",
    "gaps": "Streams from other daemons that lost a piece, and failed.",
    "strays": "Results from other daemons for what is not open.",
    "flooded": "Reports on links, backends and profiles sent to neighbours, those passed on too.",
    "links_lost": "Links to neighbours that went down.",
    "ignored": "Daemons and backends that others told of, beyond a limit.",
}


class RingSnapshot:
    """A consistent copy of what the ring counts; of neighbours, no more than may have series of their own."""

    def __init__(self, node: Node) -> None:
        counts, known = node.counts, node.floods.known
        links = {link.name: link for link in node.links.by_peer.values() if link.name and not link.up}
        links |= node.links.neighbours()
        names = sorted(links)[: node.broker.settings.label_values]
        self.up = [(name, float(links[name].up)) for name in names]
        self.rtt_s = [(name, rtt_s) for name in names if (rtt_s := links[name].rtt_s) is not None]
        self.daemons = {"known": len(known), "reachable": len(node.topology.ways)}
        self.backends = len(node.abroad.by_peer)
        self.results = seen(counts.results)
        self.hops = by_number(HOPS, counts.hops)
        self.undeliverable = dict(counts.undeliverable)
        self.errors = dict(counts.errors)
        self.totals = {name: getattr(counts, name) for name in RING_TOTALS}


def ring_families(ring: RingSnapshot) -> Iterator[Metric]:
    """Yield what only a daemon in a ring has."""
    yield gauges("router_ring_link_up", "1 while the neighbour answers.", "neighbour", ring.up)
    yield gauges("router_ring_link_rtt_seconds", "Round trip time to the neighbour.", "neighbour", ring.rtt_s)
    rows = ((state, float(count)) for state, count in ring.daemons.items())
    yield gauges("router_ring_daemons", "Other daemons: known, and of them reachable.", "state", rows)
    yield gauge("router_ring_backends", "Backends of other daemons that can be reached.", ring.backends)
    yield histogram("router_ring_hops", "Links that deliveries took that came here.", [], [([], ring.hops)])
    for name, text in RING_TOTALS.items():
        yield counter(f"router_ring_{name}", text, [], [([], ring.totals[name])])
    counters = (
        ("results", "Deliveries to other daemons by how they ended.", "result", ring.results),
        ("undeliverable", "Messages that could not be passed on, by verb.", "verb", ring.undeliverable),
        ("errors", "What neighbours were told is wrong, or told us, by code.", "code", ring.errors),
    )
    for name, text, label, counts in counters:
        yield counter(f"router_ring_{name}", text, [label], (([value], n) for value, n in counts.items()))
