"""The daemon's default in the paper's set-up: its whole broker in virtual time, where nothing queues.

Rules:
- Each system works on as much as it gets at once, answers after its latency, and the network takes no time: what the
  set-up describes. Reliability is a NACK at the end of the work.
- The daemon starts cold: it knows of each system its capabilities and nothing else.
- Messages are drawn anew from the same distributions; pools are the same ones as the printed variants get.
"""

from __future__ import annotations

from math import fsum
from typing import Final

from router_daemon.core.settings import Settings
from router_daemon.lab.chance import Constant, Duration, Lognormal, zipf
from router_daemon.lab.papers.cross_attention.setup import CAPABILITIES, PRIORITIES, RATE_PER_S, ZIPF, System
from router_daemon.lab.papers.cross_attention.trial import Outcome
from router_daemon.lab.specs import BackendSpec, Demand, NetworkSpec
from router_daemon.lab.world import World

UNLIMITED: Final = 256
"""Workers of a system: many more than messages are ever out at `RATE_PER_S`."""
MODES: Final = {"attention": "copies", "attention, no copies": "retries"}
"""What a message may have done to it (`unsaid_idempotent`): the default sends copies while little is going on."""


def run_ours(mode: str, pool: tuple[System, ...], messages: int, seed: int, varies: float) -> Outcome:
    """Send so many messages through the daemon and return what became of them.

    Args:
        mode: a key of `MODES`.
        pool: the systems.
        messages: how many.
        seed: of the world.
        varies: sigma of a lognormal latency; 0: a latency is its base.
    """
    world = World(
        seed=seed,
        policy="attention",
        settings=Settings(unsaid_idempotent=MODES[mode]),
        backends=[_backend(system, varies) for system in pool],
        demands=[
            Demand(
                messages=messages,
                rate_per_s=RATE_PER_S,
                capability=zipf(CAPABILITIES, ZIPF),
                priority=dict.fromkeys(range(1, PRIORITIES + 1), 1.0),
            )
        ],
        network=NetworkSpec(latency_s=0.0),
    )
    records = world.run().records
    count = len(records)
    return Outcome(
        1.0,  # a backend that gets what it has not registered for raises `BrokenError`
        sum(record.outcome == "answered" for record in records) / count,
        fsum(record.latency_s for record in records) * 1000.0 / count,
        sum(record.deliveries for record in records) / count,
    )


def _backend(system: System, varies: float) -> BackendSpec:
    mean_s = system.latency_ms / 1000.0
    service: Duration = Lognormal(mean_s, varies) if varies else Constant(mean_s)
    return BackendSpec(system.name, service, system.capabilities, workers=UNLIMITED, reliability=system.reliability)
