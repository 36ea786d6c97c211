"""A world: daemons, the backends that they share, the clients that ask them, in virtual time, from one seed.

Rules:
- The broker and the policy are the daemon's own; nothing of them is known here but events, actions, deadlines and
  `check`.
- Everything random comes from the seed, through one generator per party named after it: a run replays exactly, and the
  demand is the same whatever the policy.
- A broken promise raises at the step that breaks it: `BrokenError`, or the assertion of `Broker.check`.

Example:
    world = World(
        seed=1,
        policy="paper",
        settings=Settings(mode="single"),
        backends=[
            BackendSpec("fast", Lognormal(0.001), ("translate",), workers=2),
            BackendSpec("slow", Lognormal(0.004), ("translate", "ocr"), workers=4, reliability=0.98),
        ],
        demands=[Demand(messages=10_000, rate_per_s=900.0, capability=zipf(["translate", "ocr"]), ttl_ms=2000)],
    )
    result = world.run(check_every=1000)
    print(result.digest, result.summary().success, result.summary().p99_ms, result.by_capability()["ocr"])

Several daemons that do not see each other: `daemons=4`, and `connections=4` (or a multiple) in the demand. A ring of
them: `ring=RingSpec(circle(4, 0.001), homes={"fast": 2})` as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any, Final, TypeAlias

from router_daemon.core.broker import Broker
from router_daemon.core.ranking import Policy
from router_daemon.core.settings import Settings
from router_daemon.lab.backends import Backend
from router_daemon.lab.clients import Client, Source
from router_daemon.lab.daemons import Daemon
from router_daemon.lab.digest import Digest
from router_daemon.lab.faults import Fault, Faults
from router_daemon.lab.ledger import GRACE_S, Ledger
from router_daemon.lab.lines import Line
from router_daemon.lab.network import Connection, FaultyConnection
from router_daemon.lab.result import Result
from router_daemon.lab.ring import RingDaemon, Wire
from router_daemon.lab.specs import BackendSpec, Demand, NetworkSpec, RingSpec
from router_daemon.lab.timeline import START_S, BrokenError, Timeline
from router_daemon.policies.base import make_policy
from router_daemon.ring.settings import RingSettings

PolicyMaker: TypeAlias = Callable[[Settings, Random], Policy]

IDS_OF_A_PROCESS: Final = 1_000_000
NEVER_ANSWERED_S: Final = 1.0
"""After so much more than the grace a SEND that is still open will not be answered any more."""


class World:
    """See the module.

    Args:
        seed: of everything random.
        policy: a name, or what makes a policy from settings and a generator (one per daemon).
        settings: of every daemon.
        backends, demands, network: see `specs`.
        faults: see `faults`.
        daemons: how many.
        ring: how they are one; None: they do not see each other.
        make_broker: for tests of this very room: a broker that breaks its promises.
    """

    def __init__(
        self,
        *,
        seed: int,
        backends: Sequence[BackendSpec],
        demands: Sequence[Demand],
        policy: str | PolicyMaker = "paper",
        settings: Settings | None = None,
        network: NetworkSpec | None = None,
        faults: Sequence[Fault] = (),
        daemons: int = 1,
        ring: RingSpec | None = None,
        make_broker: Callable[..., Broker] = Broker,
    ) -> None:
        self.seed = seed
        self.settings = Settings() if settings is None else settings
        self.timeline = Timeline()
        self.ring = ring
        self.ledger = Ledger(ring=ring is not None)
        self.digest = Digest()
        self.happened: Counter[str] = Counter()
        self._network = NetworkSpec() if network is None else network
        self._policy = policy
        self._make_broker = make_broker
        self._faulty = self._network.faulty or bool(faults)
        self._exact = self._network.faithful and not self._network.delayed and not faults and ring is None
        self._works: list[float] = []
        self.daemons = [self._daemon(index) for index in range(daemons)]
        self.wires = [] if ring is None else [self._wire(*link) for link in ring.links]
        self.backends = {spec.name: self._backend(spec) for spec in backends}
        self.clients: list[Client] = []
        self.sources = [self._source(index, demand) for index, demand in enumerate(demands)]
        Faults(self.timeline, self.daemons, self.backends, self.clients, self.happened, self.wires).plan(faults)

    # --- building ---

    def _rng(self, *party: object) -> Random:
        """Return the generator of one party; seeded by text, which `random` hashes the same everywhere."""
        return Random("/".join(map(str, (self.seed, *party))))

    def _daemon(self, index: int) -> Daemon:
        if self.ring is None:
            return Daemon(index, self._broker(index), self.timeline, self.ledger, self.digest)
        settings = RingSettings(f"d{index}", **self.ring.keys)
        make = partial(self._broker_of_process, index)
        return RingDaemon(index, make, settings, self.timeline, self.ledger, self.digest)

    def _broker(self, index: int, *life: int, **keys: Any) -> Broker:
        """Return the broker of a daemon; in a ring, of its process number `life`."""
        rng = self._rng("daemon", index, *life)
        make = self._policy
        policy = make_policy(make, self.settings, rng) if isinstance(make, str) else make(self.settings, rng)
        instance = f"d{index}-" + "".join(f"{process}-" for process in life)
        return self._make_broker(self.settings, policy, rng=rng, timer=_no_time, instance=instance, **keys)

    def _broker_of_process(self, index: int, life: int) -> Broker:
        return self._broker(index, life, first_delivery_id=1 + life * IDS_OF_A_PROCESS)

    def _wire(self, dialler: int, listener: int, latency_s: float) -> Wire:
        ends = [self.daemons[dialler], self.daemons[listener]]
        assert isinstance(ends[0], RingDaemon)
        assert isinstance(ends[1], RingDaemon)
        return Wire(ends[0], ends[1], latency_s, self.timeline)

    def _backend(self, spec: BackendSpec) -> Backend:
        backend = Backend(spec, self.timeline, self._rng("backend", spec.name), self._works, self.happened)
        backend.places = spec.places if self._exact else None
        backend.strict = self.settings.require_capability
        for daemon in self.daemons if self.ring is None else [self.daemons[self.ring.homes.get(spec.name, 0)]]:
            rng = self._rng("network", spec.name, daemon.index)
            backend.lines.append(Line(backend, self.timeline, self._connector(daemon, rng), daemon.index))
        return backend

    def _connector(self, daemon: Daemon, rng: Random) -> Callable[[Line], Connection]:
        """Return what opens a line's next connection to a daemon."""
        opened = 0

        def connect(line: Line) -> Connection:
            nonlocal opened
            opened += 1
            peer = f"{line.name}.{opened}".encode()
            connection = (
                FaultyConnection(line, daemon, peer, self._network, self.timeline, rng, self.happened)
                if self._faulty
                else Connection(line, daemon, peer, self._network, self.timeline, rng)
            )
            daemon.connections[peer] = connection
            return connection

        return connect

    def _source(self, index: int, demand: Demand) -> Source:
        clients = [
            Client(
                f"c{index}.{number}",
                self.daemons[number % len(self.daemons)],
                delimited=number >= demand.connections - demand.delimited,
            )
            for number in range(demand.connections)
        ]
        self.clients += clients
        rng = self._rng("demand", index)
        return Source(demand, clients, self.timeline, rng, self.ledger.records, self._works, self._halt, self.happened)

    # --- running ---

    def run(
        self,
        *,
        check_every: int = 0,
        until_s: float | None = None,
        settle_s: float = 0.0,
        reunite: bool = False,
        drain: bool = False,
    ) -> Result:
        """Let everything happen until the last SEND is answered, stop the daemons, and return what was seen.

        Args:
            check_every: `Broker.check` after so many steps of each daemon; 0: only at the end.
            until_s: stop then, whatever is still open; None: when every message was sent and answered.
            settle_s: go on so long after the last answer, for what is still under way at backends.
            reunite: then every backend must be registered with every daemon, which no fault may keep it from any more.
            drain: then refuse every SEND, and see that one is.

        Raises:
            BrokenError, AssertionError: a promise was broken.
        """
        self._begin(check_every)
        if until_s is None:
            self._finish_sending()
        else:
            self.timeline.run(START_S + until_s)
        seconds = self.timeline.now - START_S
        if settle_s:
            self.timeline.run(self.timeline.now + settle_s)
        if reunite:
            self._meet_all()
        if drain:
            self._drain()
        self._end()
        return Result(
            digest=self.digest.hex(),
            records=self.ledger.records,
            seconds=seconds,
            steps=sum(daemon.steps for daemon in self.daemons),
            actions=self.digest.actions,
            busy={name: backend.busy_s / (backend.spec.workers * seconds) for name, backend in self.backends.items()},
            happened=dict(self.happened),
        )

    def _begin(self, check_every: int) -> None:
        for daemon in self.daemons:
            daemon.start(check_every)
        for wire in self.wires:
            wire.open()
        for backend in self.backends.values():
            self.timeline.at(START_S + backend.spec.joins_at_s, backend.start)
        for source in self.sources:
            source.start()

    def _finish_sending(self) -> None:
        """Run until everything is sent, then until everything is answered or ought to have been."""
        while any(source.left for source in self.sources):
            self.timeline.run(float("inf"))
        self.ledger.on_empty = self._halt
        while self.ledger.open or any(daemon.stalled_until for daemon in self.daemons):
            latest = [record.deadline for record in self.ledger.open.values()]
            stalls = [*self.ledger.moved_at.values(), *(daemon.stalled_until for daemon in self.daemons)]
            late = max([*latest, *stalls]) + GRACE_S + NEVER_ANSWERED_S
            if self.timeline.now >= late:
                raise BrokenError(f"no last answer: {self.ledger.overdue(self.timeline.now)[:3]}")
            self.timeline.run(late)

    def _halt(self) -> None:
        self.timeline.halted = True

    def _meet_all(self) -> None:
        """Assert that every backend is registered with every daemon, over one connection, with nothing left open."""
        for backend in self.backends.values():
            for line in backend.lines:
                daemon = self.daemons[line.daemon_index]
                known = daemon.broker.registry.by_name.get(backend.spec.name)
                if known is None or not line.in_force or known.peer != line.peer or not known.connected:
                    raise BrokenError(
                        f"{backend.spec.name} and daemon {daemon.index} have not found each other: {known}"
                    )
                if known.open:
                    raise BrokenError(f"daemon {daemon.index} never closed {list(known.open.values())}")
                if self.ring is not None:
                    self._meet_abroad(backend.spec.name, daemon.index)

    def _meet_abroad(self, backend: str, home: int) -> None:
        """Assert that a backend is known to every other daemon of the ring, too."""
        for daemon in self.daemons:
            known = daemon.broker.registry.by_name.get(f"d{home}/{backend}")
            if daemon.index != home and (known is None or not known.connected or known.draining or known.open):
                raise BrokenError(f"daemon {daemon.index} should know d{home}/{backend}, and has {known}")

    def _drain(self) -> None:
        """Assert that a draining daemon takes nothing new."""
        for client in self.clients[: len(self.daemons)]:
            client.daemon.broker.start_drain()
            record = self.sources[0].probe(client)
            if record.outcome != "draining":
                raise BrokenError(f"a draining daemon answers {record.outcome!r}")

    def _end(self) -> None:
        for daemon in self.daemons:
            daemon.end()
            if not isinstance(daemon, RingDaemon):
                self.ledger.compare(daemon.index, daemon.broker, daemon.delivered)
            elif not daemon.crashes:  # else, much of what it has counted is gone
                counts = daemon.node.counts
                delivered = daemon.delivered + counts.forwarded
                self.ledger.compare(daemon.index, daemon.broker, delivered, foreign=counts.taken)
        if self.ledger.open:
            raise BrokenError(f"no last answer when the daemon stopped: {list(self.ledger.open.values())[:3]}")


def _no_time() -> float:
    """Decisions take no time here."""
    return 0.0
