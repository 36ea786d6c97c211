"""What the paper leaves out: the same variants where systems can be busy, in the simulator with the daemon's broker.

The cells are the comparison's (`lab.workloads`): 12 backends of 1, 2 or 4 workers with a FIFO queue, 3 of 6
capabilities each, service lognormal, a time to live of 100 ms; the load is a share of what any router could serve.

Rules:
- A variant is run as its text describes it: it decides by its ranking and no more. No retries, ejection, hedges,
  exploration or waiting room stand around it; what backends cannot take at once queues there, without a limit; and
  nobody is told that a copy has been answered, but in the line that says so.
- `attention` is run as the daemon ships it. `rr` takes only the capable here: a backend refuses what it has no handler
  for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Final

from router_daemon.core.ranking import Policy
from router_daemon.core.settings import (
    EjectionSettings,
    ExplorationSettings,
    HedgeSettings,
    RetrySettings,
    Settings,
    WaitingSettings,
)
from router_daemon.lab.compare import measure
from router_daemon.lab.contenders import OURS, PREFETCH, Contender
from router_daemon.lab.matrix import cells
from router_daemon.lab.workloads import REPORTING
from router_daemon.lab.world import World
from router_daemon.policies.base import make_policy

LOADS: Final = ("load-0.02", "load-0.3", "load-0.5", "load-0.7", "load-0.85")


@dataclass(frozen=True, slots=True)
class Contestant:
    """One line of the table: a policy and how many heads get each message at once.

    Attributes:
        cancels: a backend stops working at what somebody else has answered.
    """

    name: str
    policy: str
    heads: int = 1
    cancels: bool = False

    def settings(self) -> Settings:
        """Return the daemon's settings for it."""
        return Settings() if self.policy == OURS else as_described(self.heads)


CONTESTANTS: Final = (
    Contestant("rr", "round_robin"),
    Contestant("cap-only", "capability_only"),
    Contestant("ca-no-rel", "paper_no_reliability"),
    Contestant("ca-full", "paper"),
    Contestant("ca-full, three heads", "paper", 3),
    Contestant("ca-full, three heads, cancelled", "paper", 3, cancels=True),
    Contestant("attention", OURS, cancels=True),
)


def as_described(heads: int) -> Settings:
    """Return a daemon that ranks, sends to so many heads at once, and does nothing else."""
    return Settings(
        mode="single" if heads == 1 else "fanout",
        heads=heads,
        retry=RetrySettings(share=0.0, start=0.0, per_s=0.0, same_backend=False),
        hedge=HedgeSettings(share=0.0),
        ejection=EjectionSettings(failures=0),
        waiting=WaitingSettings(longest=1e9, reserve=0.0),
        exploration=ExplorationSettings(share=0.0, slow_start=False),
    )


def run_finite(contestant: Contestant, cell: str, number: int, messages: int) -> dict[str, float]:
    """Return the metrics of one run (`lab.compare.METRICS`) on the number-th pool of those that reports come from."""
    seed = REPORTING[number]
    scene = cells()[cell].scene(seed, messages)
    settings = contestant.settings()
    if contestant.policy == OURS:
        backends = Contender(OURS).backends(scene.backends)
    else:
        backends = [replace(s, prefetch=PREFETCH, honours_cancel=contestant.cancels) for s in scene.backends]

    def make(settings: Settings, rng: Random) -> Policy:
        return make_policy(contestant.policy, settings, rng)

    world = World(seed=seed, policy=make, settings=settings, backends=backends, demands=scene.demands)
    metrics, _ = measure(world.run().records, scene)
    return metrics
