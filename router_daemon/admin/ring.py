"""The ring as one daemon sees it, for people: its links, the other daemons, the ways to them, what was counted.

Read on the loop, so it is one moment's; bounded by the limits of the ring.
"""

from __future__ import annotations

from typing import Any

from router_daemon.ring.links import Link
from router_daemon.ring.node import Node


def ring_view(node: Node, now: float) -> dict[str, Any]:
    """Return what /ring answers; times in milliseconds, ages in seconds."""
    settings = node.settings
    return {
        "name": settings.name,
        "ring": settings.ring,
        "instance": node.instance,
        "draining": node.draining,
        "links": [_link(link, node) for link in node.links.by_peer.values()],
        "daemons": [_daemon(name, node, now) for name in sorted(node.floods.known)],
        "counts": _counts(node),
    }


def _link(link: Link, node: Node) -> dict[str, Any]:
    in_use = node.links.neighbours().get(link.name) is link
    return {
        "neighbour": link.name,
        "address": link.address,
        "dialled": link.dialled,
        "state": _state(link, in_use=in_use),
        "why": link.refused,
        "rtt_ms": None if link.rtt_s is None else link.rtt_s * 1000.0,
        "unanswered": link.unanswered,
        "version": link.version,
    }


def _state(link: Link, *, in_use: bool) -> str:
    """Return `up`, `spare` (a second connection to the same neighbour), `down`, `refused` or `greeting`."""
    if link.up:
        return "up" if in_use else "spare"
    if link.refused:
        return "refused"
    return "down" if link.lost else "greeting"


def _daemon(name: str, node: Node, now: float) -> dict[str, Any]:
    known, way = node.floods.known[name], node.topology.ways.get(name)
    return {
        "name": name,
        "reachable": way is not None,
        "hops": None if way is None else way.hops,
        "way_ms": None if way is None else way.one_way_s * 1000.0,
        "path": [] if way is None else list(way.path),
        "heard_s": now - known.heard_at,
        "links": sorted(known.links),
        "backends": sorted(known.roster or ()),
    }


def _counts(node: Node) -> dict[str, Any]:
    counts = node.counts
    found = {name: getattr(counts, name) for name in sorted(counts.__slots__)}
    return {name: dict(value) if isinstance(value, dict) else value for name, value in found.items()}
