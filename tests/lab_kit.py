"""What the tests of the simulator share: the smallest worlds."""

from __future__ import annotations

from typing import Any

from router_daemon.core.settings import Settings
from router_daemon.lab.chance import Constant
from router_daemon.lab.specs import BackendSpec, Demand, NetworkSpec
from router_daemon.lab.world import World

INSTANT = NetworkSpec(latency_s=0.0)


def one(name: str = "b", seconds: float = 0.25, **keys: Any) -> BackendSpec:
    """Return a backend for "work" that takes a quarter of a second (whole ticks, so that sums are exact)."""
    return BackendSpec(name, Constant(seconds), ("work",), **keys)


def at(*moments: float, **keys: Any) -> Demand:
    """Return a demand of messages for "work" at these moments."""
    return Demand(arrivals=moments, **{"ttl_ms": 5000, **keys})


def world(*backends: BackendSpec, demand: Demand, settings: dict[str, Any] | None = None, **keys: Any) -> World:
    """Return a world of these backends, without latency, in mode `single` unless told otherwise."""
    chosen = Settings(**{"mode": "single", **(settings or {})})
    keys = {"seed": 1, "policy": "round_robin", "network": INSTANT, **keys}
    return World(backends=backends, demands=[demand], settings=chosen, **keys)
