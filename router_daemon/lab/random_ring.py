"""A random ring of daemons from a seed: a random world whose daemons see each other, and whose links fail, too.

Rules:
- Settings, backends, demand and network are drawn as for any random world; what is the ring's own is drawn from a
  generator of its own, so that neither changes the other.
- A world of a ring has its daemons crash and its links be cut, freeze and fill up, beside all that befalls backends.
  All of it ends with the demand; then everybody must find back to everybody.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from random import Random
from typing import Final

from router_daemon.lab.faults import NOTICES, Fault
from router_daemon.lab.random_world import KINDS, Plan, random_plan
from router_daemon.lab.specs import RingSpec, circle

RING_KINDS: Final = ("crash_daemon", "cut_link", "freeze_link", "full_link")
"""What befalls rings alone."""
ALL_KINDS: Final = (*KINDS, *RING_KINDS)
FAULTS_PER_S: Final = 1.0


def random_ring(
    seed: int,
    daemons: int | None = None,
    *,
    messages: int = 200,
    kinds: Collection[str] = ALL_KINDS,
    policy: str | None = None,
) -> Plan:
    """Return the ring of a seed.

    Args:
        seed: any integer.
        daemons: how many, at least 2; None: drawn, 2 to 6.
        messages: how many SENDs.
        kinds: of `ALL_KINDS`: what may go wrong.
        policy: None: drawn among all that exist.
    """
    plan = random_plan(seed, messages=messages, kinds=[kind for kind in kinds if kind in KINDS], policy=policy)
    rng = Random(f"ring/{seed}")
    drawn = 2 + rng.randrange(5)
    count = drawn if daemons is None else daemons
    latency_s = (0.00005, 0.001, 0.01)[rng.randrange(3)]
    shortcuts = _shortcuts(rng, count)
    links = circle(count, latency_s, *shortcuts)
    homes = {backend.name: rng.randrange(count) for backend in plan.backends}
    echo_s = (0.1, 0.25)[rng.randrange(2)]
    ring = RingSpec(links, homes, {"echo_s": echo_s, "keep_results": (10_000, 5)[rng.randrange(2)]})
    faults = [fault if fault.kind != "stall" else replace(fault, target=rng.randrange(count)) for fault in plan.faults]
    faults = [replace(fault, daemon=None) for fault in faults]
    faults += [fault for fault in _faults(rng, plan.seconds, count, len(links)) if fault.kind in kinds]
    demand = replace(plan.demand, connections=max(count, plan.demand.connections))
    return replace(plan, daemons=count, demand=demand, faults=tuple(faults), ring=ring)


def kinds_for(ring: int | None) -> Sequence[str]:
    """Return the kinds of faults that there are, without a ring or with one."""
    return KINDS if ring is None else ALL_KINDS


def plan_for(seed: int, ring: int | None, *, messages: int, kinds: Collection[str], policy: str | None) -> Plan:
    """Return the world of a seed, of daemons that do not see each other or of a ring of so many."""
    if ring is None:
        return random_plan(seed, messages=messages, kinds=kinds, policy=policy)
    return random_ring(seed, ring, messages=messages, kinds=kinds, policy=policy)


def _shortcuts(rng: Random, count: int) -> list[tuple[int, int]]:
    """Return some links across, between daemons that are no neighbours."""
    found = []
    for _ in range(rng.randrange(3)):
        a, b = rng.randrange(count), rng.randrange(count)
        if (a - b) % count not in (0, 1, count - 1):
            found.append((a, b))
    return found


def _faults(rng: Random, seconds: float, daemons: int, links: int) -> list[Fault]:
    faults = []
    for _ in range(1 + int(FAULTS_PER_S * seconds)):
        kind = RING_KINDS[rng.randrange(len(RING_KINDS))]
        target = rng.randrange(daemons if kind == "crash_daemon" else links)
        notice = NOTICES[rng.randrange(len(NOTICES))]
        for_s = (0.0, 0.05, 0.5, 2.0)[rng.randrange(4)]
        faults.append(Fault(kind, at_s=seconds * rng.random(), for_s=for_s, target=target, notice=notice))
    return faults
