"""What a world is made of, as data: backends, demand, the network.

Rules:
- Everything here is frozen: one description may serve any number of worlds, and be printed to explain one.
- A `Chance` is either one value or weights by value: `2`, or `{1: 0.2, 2: 0.7, 4: 0.1}`. None stands for "not said".
- Moments (`at_s`, `from_s`) are counted from the beginning of the world.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from router_daemon.lab.chance import Constant, Duration

Chance: TypeAlias = Any
"""A value, or a mapping of values to weights."""


def weights(chance: Chance) -> Mapping[Any, float]:
    """Return a chance as weights by value."""
    return cast("Mapping[Any, float]", chance) if isinstance(chance, Mapping) else {chance: 1.0}


@dataclass(frozen=True, slots=True)
class Dependency:
    """What several backends need to work, a database say: in each window (from_s, to_s, share) so many of all fail."""

    windows: tuple[tuple[float, float, float], ...]

    def failing(self, at_s: float) -> float:
        """Return the share of deliveries that fails at that time."""
        return max((share for start, end, share in self.windows if start <= at_s < end), default=0.0)


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """One backend: what it registers, and how it really works.

    Attributes:
        name: registered.
        service: how long work takes, of every capability or by capability (whose keys are what it registers).
        capabilities: registered, where `service` is one distribution for all.
        workers: how many deliveries it works on at once; the rest waits in one queue, first come, first served.
        slots, prefetch, cost: registered; slots None: as many as it has workers.
        reliability: the share of deliveries that succeed; the others are NACKed `failed` when the work is over,
            or `fails_after_s` after it began.
        busy_over: with so many waiting here a further delivery is NACKed `busy`; None: never.
        retry_after_ms: said in that NACK.
        reports_queue: it tells `queue` in HEARTBEAT and ACK.
        parts: pieces of a stream sent before the ACK, evenly spread over the work.
        silent: it takes deliveries and never answers one, though it sends heartbeats.
        honours_cancel: it stops at CANCEL; else it works to the end.
        slowness: (from_s, factor) in order of time: from then on work takes so many times longer.
        warm_up: (for_s, factor): after each start work takes `factor` times longer, declining to 1.
        depends_on: a share of what it does fails while this is out of order.
        joins_at_s: when it starts.
        keys: further keys of REGISTER (embedding, zone, group, ...).
    """

    name: str
    service: Duration | Mapping[str, Duration]
    capabilities: tuple[str, ...] = ()
    workers: int = 1
    slots: int | None = None
    prefetch: int = 0
    cost: float | None = None
    reliability: float = 1.0
    fails_after_s: float | None = None
    busy_over: int | None = None
    retry_after_ms: int | None = None
    reports_queue: bool = False
    parts: int = 0
    silent: bool = False
    honours_cancel: bool = True
    slowness: tuple[tuple[float, float], ...] = ()
    warm_up: tuple[float, float] | None = None
    depends_on: Dependency | None = None
    joins_at_s: float = 0.0
    keys: Mapping[str, Any] = field(default_factory=dict)

    @property
    def places(self) -> int:
        """How many deliveries of one daemon may be open here at once."""
        return (self.workers if self.slots is None else self.slots) + self.prefetch

    def services(self) -> dict[str, Duration]:
        """Return how long work takes by capability."""
        if isinstance(self.service, Mapping):
            return dict(self.service)
        return dict.fromkeys(self.capabilities, self.service)


@dataclass(frozen=True, slots=True)
class Demand:
    """A stream of messages that arrive whether or not earlier ones are answered (an open system).

    Attributes:
        messages: how many, where they are drawn; None: as many as `arrivals` lists.
        rate_per_s: of a Poisson process; or steps (from_s, rate) in order of time.
        arrivals: instead: the moment of each message, or (at_s, work) with how many times longer it takes than usual.
        capability, priority, ttl_ms, heads, mode, reply, idempotent, first_ms, idle_ms, max_cost: chances, of SEND.
        work: how much longer than usual a message takes.
        size_bytes: of the body.
        connections: the clients; connection k speaks to daemon k modulo the number of daemons.
        delimited: of them, the last so many use the empty delimiter, as a REQ socket does.
        cancels: the share of messages that get a CANCEL, at a moment drawn evenly from the first `cancels_within_s`.
        repeats: the share of messages that are sent again within that time, with the same id, while they are open.
        keys: further keys of SEND.
    """

    messages: int | None = None
    rate_per_s: float | tuple[tuple[float, float], ...] = 1000.0
    arrivals: Iterable[float | tuple[float, float]] | None = None
    capability: Chance = "work"
    priority: Chance = 2
    ttl_ms: Chance = None
    heads: Chance = None
    mode: Chance = None
    reply: Chance = "first"
    idempotent: Chance = None
    first_ms: Chance = None
    idle_ms: Chance = None
    max_cost: Chance = None
    work: Duration = field(default_factory=lambda: Constant(1.0))
    size_bytes: Chance = 0
    connections: int = 1
    delimited: int = 0
    cancels: float = 0.0
    cancels_within_s: float = 0.1
    repeats: float = 0.0
    starts_at_s: float = 0.0
    keys: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RingSpec:
    """How the daemons of a world are a ring.

    Attributes:
        links: (who dials, who is dialled, seconds one way), daemons by number.
        homes: by the name of a backend, the number of the daemon it registers with; 0 where it is not said.
        keys: of `RingSettings`.
    """

    links: tuple[tuple[int, int, float], ...]
    homes: Mapping[str, int] = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)


def circle(daemons: int, latency_s: float, *shortcuts: tuple[int, int]) -> tuple[tuple[int, int, float], ...]:
    """Return the links of a ring, each to the next and the last to the first, and of shortcuts, all of one latency."""
    count = daemons if daemons > 2 else daemons - 1
    around = [(number, (number + 1) % daemons) for number in range(count)]
    return tuple((a, b, latency_s) for a, b in (*around, *shortcuts))


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """The way between each backend and each daemon, the same in both directions.

    Within a connection nothing is reordered, duplicated or lost, as on TCP, unless a share says so.

    Attributes:
        latency_s: of every message; up to `jitter_s` more is drawn evenly.
        delayed: the share that takes up to `delay_s` longer; what follows waits for it.
        reordered: the share that takes up to `delay_s` longer while what follows overtakes it.
        duplicated, dropped: shares.
        from_s, until_s: when the shares hold.
    """

    latency_s: float = 0.00005
    jitter_s: float = 0.0
    delay_s: float = 0.0
    delayed: float = 0.0
    reordered: float = 0.0
    duplicated: float = 0.0
    dropped: float = 0.0
    from_s: float = 0.0
    until_s: float = math.inf

    @property
    def faulty(self) -> bool:
        """Something may be late, lost or out of order."""
        return max(self.jitter_s, self.delayed) > 0.0 or not self.faithful

    @property
    def faithful(self) -> bool:
        """What is sent arrives once and in order."""
        return max(self.reordered, self.duplicated, self.dropped) == 0.0
