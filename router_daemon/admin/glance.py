"""Everything that the page shows at a moment, as plain data for JSON, made in parts so that messages get their turn.

Rules:
- Attention weights come from `views.weights`, by the functions that decide and that /explain asks; of a capability all
  at one moment. Looking at all of them at once could take long where there are many, so at most `ROWS_A_LOOK` rows are
  read at a look, at least one capability, those read longest ago first; each says how old it is.
- At most `MOST_BACKENDS` backends and `MOST_CAPABILITIES` capabilities are told, the busiest; how many there are is
  said, and a filter finds the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from heapq import nlargest
from typing import Any, Final

from msgspec import UNSET, Struct

from router_daemon.admin.moments import Moment, outcomes_since
from router_daemon.core.backends import Backend
from router_daemon.core.broker import Broker
from router_daemon.core.counts import DECISION_SECONDS
from router_daemon.core.pools import Pool
from router_daemon.core.views import Weight, routes, weights

MOST_BACKENDS: Final = 64
MOST_CAPABILITIES: Final = 24
MOST_TOLD: Final = 20
ROWS_A_LOOK: Final = 512
PRIORITY: Final = 2


class Look(Struct):
    """The weights of one capability, read at `at` (seconds, the broker's clock); `fault`: why there are none."""

    at: float
    weights: dict[str, Weight]
    fault: str = ""


class Glance:
    """Looks at a broker.

    Args:
        broker: only read.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._looks: dict[str, Look] = {}

    def forget(self) -> None:
        """Keep nothing, as nobody looks."""
        self._looks.clear()

    async def refresh(self, now: float) -> None:
        """Read weights again: of all capabilities that may be shown, or of as many as one look may cost."""
        pools = self._pools()
        self._looks = {pool.capability: look for pool in pools if (look := self._looks.get(pool.capability))}
        read_at = {capability: look.at for capability, look in self._looks.items()}
        pools.sort(key=lambda pool: read_at.get(pool.capability, -1.0))
        rows = 0
        for pool in pools:
            rows += len(pool.members)
            if rows > ROWS_A_LOOK and rows > len(pool.members):
                return
            self._looks[pool.capability] = self._look(pool.capability, now)
            await asyncio.sleep(0)

    def show(self, earlier: Moment, later: Moment, wanted: str = "") -> dict[str, Any]:
        """Return what is so now, which is `later`; `wanted`: only backends whose name, group or capability has it."""
        broker, now = self._broker, later.now
        pools = self._pools()
        done = outcomes_since(earlier, later)
        shown, found = self._choice(done, wanted.casefold())
        return {
            "draining": broker.draining,
            "policy": broker.policy.name,
            "mode": broker.settings.mode,
            "priority": PRIORITY,
            "backends": [_backend(backend, now, done, later.now - earlier.now) for backend in shown],
            "backends_found": found,
            "backends_there": len(broker.registry.by_name),
            "capabilities": [self._capability(pool, shown, now) for pool in pools],
            "capabilities_there": sum(1 for pool in broker.registry.pools() if pool.members),
            "decision_seconds": {
                "bounds": DECISION_SECONDS,
                "hit": broker.counts.decision_hit.counts,
                "miss": broker.counts.decision_miss.counts,
            },
            "waiting_most": broker.settings.queue_messages,
            "refusals": later.refusals,
            "routes": _routes(broker, now),
        }

    def _pools(self) -> list[Pool]:
        there = [pool for pool in self._broker.registry.pools() if pool.members]
        busiest = nlargest(MOST_CAPABILITIES, there, key=lambda pool: pool.messages)
        return sorted(busiest, key=lambda pool: pool.capability)

    def _choice(self, done: dict[str, int], wanted: str) -> tuple[list[Backend], int]:
        """Return the backends to show, by name, and of how many they are the busiest."""
        there: Iterable[Backend] = self._broker.registry.by_name.values()
        found = [backend for backend in there if _is_wanted(backend, wanted)]
        busiest = nlargest(MOST_BACKENDS, found, key=lambda b: (b.state != "up", done.get(b.name, 0), len(b.open)))
        return sorted(busiest, key=lambda backend: backend.name), len(found)

    def _look(self, capability: str, now: float) -> Look:
        try:
            return Look(now, weights(self._broker, capability, PRIORITY, now))
        except Exception as fault:  # noqa: BLE001 - a policy may raise; then its route falls back, and the page says so
            return Look(now, {}, f"{type(fault).__name__}: {fault}")

    def _capability(self, pool: Pool, shown: Iterable[Backend], now: float) -> dict[str, Any]:
        look = self._looks.get(pool.capability) or Look(now, {})
        names = {backend.name for backend in shown}
        return {
            "name": pool.capability,
            "members": len(pool.members),
            "slots": pool.slots,
            "busy": max(0.0, pool.busy),
            "free": pool.free,
            "ejected": pool.ejected,
            "messages": pool.messages,
            "read_s": now - look.at,
            "fault": look.fault or None,
            "best": max((weight.weight for weight in look.weights.values()), default=0.0),
            "left_out": sum(1 for name in look.weights if name not in names),
            "weights": {name: [w.weight, w.head] for name, w in look.weights.items() if name in names},
        }


def _is_wanted(backend: Backend, wanted: str) -> bool:
    """Tell whether the name, the group or a capability of a backend has a text in it, in whatever case."""
    if not wanted:
        return True
    group = backend.info.group
    texts = (backend.name, "" if group is UNSET else group, *backend.info.capabilities)
    return any(wanted in text.casefold() for text in texts)


def _backend(backend: Backend, now: float, done: dict[str, int], span_s: float) -> dict[str, Any]:
    info, profile = backend.info, backend.profile
    return {
        "name": info.name,
        "state": backend.state,
        "group": None if info.group is UNSET else info.group,
        "version": None if info.version is UNSET else info.version,
        "in_flight": len(backend.open),
        "places": backend.places,
        "free": backend.free,
        "queue": backend.queue,
        "latency_ms": profile.latency_s * 1000.0,
        "success": profile.success,
        "samples": profile.samples,
        "per_s": done.get(info.name, 0) / max(1e-3, span_s),
        "ejected_s": max(0.0, backend.readmit_at - now) if backend.ejected else None,
        "paused_s": max(0.0, backend.paused_until - now),
        "window": backend.window,
    }


def _routes(broker: Broker, now: float) -> dict[str, Any]:
    """Return what /routes says, without most of what has happened to the rollout."""
    said = routes(broker, now)
    if said["rollout"] is not None:
        said["rollout"]["history"] = said["rollout"]["history"][-MOST_TOLD:]
    return said
