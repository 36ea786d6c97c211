"""A random world from a seed: settings, backends, demand, and whatever may go wrong.

Rules:
- `(seed, kinds, messages, policy)` is the whole of a world: the same four give the same run, action by action.
- Worlds are small and troubled: a few backends with load between idle and twice what they can do, and faults so
  dense that they meet each other. All faults end with the demand; then everybody must find back to each other.
- What a kind of fault does not allow is drawn all the same and left out, so that leaving kinds out changes as little
  of the rest as possible.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, TypeVar

from router_daemon.core.settings import (
    AttentionSettings,
    EjectionSettings,
    ExplorationSettings,
    HedgeSettings,
    RetrySettings,
    Settings,
    WaitingSettings,
)
from router_daemon.lab.chance import Constant, Duration, Exponential, InTurn, Lognormal, Mix, Pareto, zipf
from router_daemon.lab.faults import NOTICES, Fault
from router_daemon.lab.result import Result
from router_daemon.lab.specs import BackendSpec, Demand, Dependency, NetworkSpec, RingSpec
from router_daemon.lab.world import World
from router_daemon.policies.base import NAMES

NETWORK: Final = ("delay", "reorder", "duplicate", "drop")
WAYS: Final = ("fail", "busy", "dependency", "late")
CLIENTS: Final = ("cancel", "repeat")
AT_LINES: Final = ("drain", "unregister", "update", "garble", "cut", "freeze", "full")
AT_BACKENDS: Final = ("crash", "pause", "slow", "mute")
ELSEWHERE: Final = ("leave", "garble_send", "stall")
KINDS: Final = (*NETWORK, *WAYS, *CLIENTS, *AT_BACKENDS, *AT_LINES, *ELSEWHERE)
"""Every kind of fault that may be asked for."""

MODES: Final = ("auto", "fanout", "hedge", "single")
CAPABILITIES: Final = ("read", "write", "draw", "count")
FIRST: Final = "b0"
"""The name of the backend that can do everything."""
SETTLE_S: Final = 15.0
"""After the last fault: three silent heartbeats, a REGISTER that is not answered, and one more that is."""
FAULTS_PER_S: Final = 1.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a random world is made of, to build it and to tell about it."""

    seed: int
    policy: str
    settings: Settings
    backends: tuple[BackendSpec, ...]
    demand: Demand
    network: NetworkSpec
    faults: tuple[Fault, ...]
    daemons: int
    seconds: float
    ring: RingSpec | None = None

    def world(self) -> World:
        """Return the world, not yet run."""
        return World(
            seed=self.seed,
            policy=self.policy,
            settings=self.settings,
            backends=self.backends,
            demands=[self.demand],
            network=self.network,
            faults=self.faults,
            daemons=self.daemons,
            ring=self.ring,
        )

    def run(self, *, check_every: int = 1) -> Result:
        """Run the world to its end: all faults over, everybody registered again, the daemons drained.

        Raises:
            BrokenError, AssertionError: a promise was broken.
        """
        return self.world().run(check_every=check_every, settle_s=SETTLE_S, reunite=True, drain=True)


def random_plan(seed: int, *, messages: int = 200, kinds: Collection[str] = KINDS, policy: str | None = None) -> Plan:
    """Return the world of a seed.

    Args:
        seed: any integer.
        messages: how many SENDs.
        kinds: of `KINDS`: what may go wrong.
        policy: None: drawn among all that exist.
    """
    if policy is None:  # drawn apart, so that a new policy changes no other part of any world
        policy = NAMES[Random(f"policy/{seed}").randrange(len(NAMES))]
    return _Planner(Random(f"world/{seed}"), frozenset(kinds), messages).plan(seed, policy)


class _Planner:
    """Draws the parts of one plan."""

    def __init__(self, rng: Random, kinds: frozenset[str], messages: int) -> None:
        self._rng = rng
        self._kinds = kinds
        self._messages = messages
        self._seconds = self._between(3.0, 10.0) * max(1.0, messages / 500.0)

    def plan(self, seed: int, policy: str) -> Plan:
        """Draw everything, in one order."""
        settings = self._settings()
        daemons = 1 + self._rng.randrange(3) * self._rng.randrange(2)
        offered = CAPABILITIES[: 1 + self._rng.randrange(len(CAPABILITIES))]
        count = 1 + self._rng.randrange(6)
        workers = [self._one_of((1, 1, 2, 4)) for _ in range(count)]
        rate = self._messages / self._seconds
        mean_s = self._between(0.05, 1.5) * sum(workers) / rate
        outage = Dependency(((0.3 * self._seconds, 0.6 * self._seconds, self._between(0.2, 1.0)),))
        backends = [self._backend(f"b{k}", mean_s, workers[k], offered, outage) for k in range(count)]
        demand = self._demand(rate, mean_s, offered, daemons)
        network = self._network()
        faults = tuple(self._faults([backend.name for backend in backends], daemons, demand.connections))
        return Plan(seed, policy, settings, tuple(backends), demand, network, faults, daemons, self._seconds)

    # --- drawing ---

    def _between(self, least: float, most: float) -> float:
        return least + (most - least) * self._rng.random()

    def _one_of(self, values: Sequence[_T]) -> _T:
        return values[self._rng.randrange(len(values))]

    def _if(self, kind: str, value: _T, otherwise: _T) -> _T:
        """Return a value of a fault that may happen, half of the time."""
        struck = self._rng.random() < 0.5
        return value if struck and kind in self._kinds else otherwise

    # --- the parts ---

    def _settings(self) -> Settings:
        return Settings(
            mode=self._one_of(MODES),
            heads=1 + self._rng.randrange(3),
            cache_ttl_s=self._one_of((0.0, 0.1, 1.0, 30.0)),
            require_capability=self._rng.random() < 0.9,
            unsaid_idempotent=self._one_of(("copies", "retries", "never")),
            attempt_timeout_s=self._one_of((None, None, 0.05, 0.5)),
            default_ttl_ms=self._one_of((500, 2000, 10_000)),
            max_ttl_ms=10_000,
            heartbeat_s=self._one_of((0.1, 0.5, 1.0)),
            auto_idle=self._one_of((0.15, 0.9)),
            attention=AttentionSettings(scan_most=self._one_of((50, 2)), sample=2),
            retry=RetrySettings(share=self._one_of((0.1, 1.0)), most=self._one_of((10.0, 100.0))),
            hedge=HedgeSettings(
                share=self._one_of((0.05, 1.0)), deviations=self._one_of((4.0, 0.0)), samples=self._one_of((16, 1))
            ),
            ejection=EjectionSettings(failures=self._one_of((5, 2, 0)), most_s=self._one_of((10.0, 0.5))),
            waiting=WaitingSettings(longest=self._one_of((0.25, 1.0)), reserve=self._one_of((0.1, 0.0, 0.5))),
            exploration=ExplorationSettings(
                share=self._one_of((0.01, 0.5)), after_s=self._one_of((1.0, 0.05)), slow_start=self._rng.random() < 0.5
            ),
            queue_messages=self._one_of((0, 5, 100, 100, 10_000, 10_000)),
            open_messages=self._one_of((20, *[100_000] * 5)),
        )

    def _duration(self, mean_s: float) -> Duration:
        short, long = Exponential(0.5 * mean_s), Constant(5.5 * mean_s)
        kinds: tuple[Duration, ...] = (
            Constant(mean_s),
            Exponential(mean_s),
            Lognormal(mean_s, 0.7),
            Pareto(mean_s, 1.8, 50.0 * mean_s),
            Mix(((0.9, short), (0.1, long))),
            InTurn((0.5 * mean_s, 1.5 * mean_s)),
        )
        return self._one_of(kinds)

    def _backend(
        self, name: str, mean_s: float, workers: int, offered: Sequence[str], outage: Dependency
    ) -> BackendSpec:
        rng = self._rng
        chosen = [capability for capability in offered if rng.random() < 0.7]
        if name == FIRST or not chosen:
            chosen = list(offered)
        mine = mean_s * self._between(0.3, 1.7)
        return BackendSpec(
            name,
            {capability: self._duration(mine * self._one_of((0.5, 1.0, 1.0, 3.0))) for capability in chosen},
            workers=workers,
            slots=self._one_of((None, 1, workers + 2)),
            prefetch=self._one_of((0, 0, 1, 8)),
            cost=self._one_of((None, None, 1.0, 5.0)),
            reliability=self._if("fail", self._one_of((0.98, 0.98, 0.9, 0.9, 0.5, 0.0)), 1.0),
            fails_after_s=self._one_of((None, 0.0)),
            busy_over=self._if("busy", rng.randrange(3), None),
            retry_after_ms=self._one_of((None, 1, 20, 200)),
            reports_queue=rng.random() < 0.5,
            parts=self._one_of((0, 0, 0, 3)),
            honours_cancel=rng.random() < 0.8,
            depends_on=self._if("dependency", outage, None),
            joins_at_s=self._if("late", self._between(0.0, 0.5 * self._seconds), 0.0),
            warm_up=self._one_of((None, None, (1.0, 5.0))),
        )

    def _demand(self, rate: float, mean_s: float, offered: Sequence[str], daemons: int) -> Demand:
        patience_ms = max(1, int(mean_s * 1000.0))
        return Demand(
            messages=self._messages,
            rate_per_s=((0.0, rate), (0.4 * self._seconds, rate * self._one_of((1.0, 3.0)))),
            capability=zipf(offered) | {"unknown": 0.02},
            priority={1: 1.0, 2: 3.0, 3: 1.0, 4: 0.5},
            ttl_ms={None: 1.0, patience_ms: 1.0, 4 * patience_ms: 2.0, 30 * patience_ms: 2.0},
            heads={None: 4.0, 1: 1.0, 2: 1.0, 3: 1.0},
            mode={None: 6.0, "fanout": 1.0, "single": 1.0, "hedge": 1.0, "auto": 1.0},
            reply={"first": 8.0, "all": 1.0, "none": 1.0},
            idempotent={None: 4.0, True: 1.0, False: 1.0},
            size_bytes={0: 9.0, 5000: 1.0},
            first_ms={None: 9.0, patience_ms: 1.0},
            idle_ms={None: 9.0, patience_ms: 1.0},
            max_cost={None: 9.0, 2.0: 1.0},
            connections=daemons * (1 + self._rng.randrange(3)),
            delimited=self._rng.randrange(2),
            cancels=self._if("cancel", 0.1, 0.0),
            repeats=self._if("repeat", 0.1, 0.0),
            cancels_within_s=2.0 * mean_s,
        )

    def _network(self) -> NetworkSpec:
        return NetworkSpec(
            latency_s=self._one_of((0.000001, 0.00005, 0.002)),
            jitter_s=self._one_of((0.0, 0.0001, 0.005)),
            delay_s=self._one_of((0.01, 0.2, 2.0)),
            delayed=self._if("delay", 0.02, 0.0),
            reordered=self._if("reorder", 0.02, 0.0),
            duplicated=self._if("duplicate", 0.02, 0.0),
            dropped=self._if("drop", 0.02, 0.0),
            until_s=self._seconds,
        )

    def _faults(self, backends: list[str], daemons: int, clients: int) -> list[Fault]:
        count = 1 + int(FAULTS_PER_S * self._seconds)
        targets: dict[str, Callable[[], str | int]] = {
            "leave": lambda: self._rng.randrange(clients),
            "garble_send": lambda: self._rng.randrange(clients),
            "stall": lambda: self._rng.randrange(daemons),
        }
        faults = []
        for _ in range(count):
            kind = self._one_of((*AT_BACKENDS, *AT_LINES, *ELSEWHERE))
            fault = Fault(
                kind,
                at_s=self._between(0.0, self._seconds),
                for_s=self._one_of((0.0, 0.05, 0.5, 2.0, 4.0)),
                target=targets.get(kind, lambda: self._one_of(backends))(),
                daemon=self._one_of((None, self._rng.randrange(daemons))),
                factor=float(self._one_of((1, 2, 3, 10))),
                notice=self._one_of(NOTICES),
                notice_after_s=self._one_of((0.0, 0.0, 0.3)),
            )
            if kind in self._kinds:
                faults.append(fault)
        return faults
