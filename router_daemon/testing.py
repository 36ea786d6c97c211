"""Fakes and a fixture, for this project's tests and for those of its users: no sockets, no clock, no waiting.

Rules:
- Time stands still until a test moves it; the same calls give the same actions, so a failure replays from its seed.
- `BrokerFixture` asserts the broker's invariants after every step, so a test need only state what it is about.
- What goes out is returned as a list of actions, to be compared with `==`.

Example:
    broker = BrokerFixture(mode="single")
    broker.register("fast", "translate")
    [deliver] = broker.send("translate", b"hello")
    [reply] = broker.ack(deliver, b"bonjour")
    assert reply.header.backend == "fast"
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, Final, TypeVar

from router_daemon.core import events
from router_daemon.core.actions import Action, Deliver
from router_daemon.core.backends import Backend
from router_daemon.core.broker import Broker
from router_daemon.core.decisions import Decisions
from router_daemon.core.events import Event
from router_daemon.core.ranking import Policy
from router_daemon.core.settings import Settings
from router_daemon.core.types import ClientId, Peer, Side
from router_daemon.policies.routes import named_policy, plan_routes

CLIENT: Final[Peer] = b"client"
"""The connection that `BrokerFixture.send` speaks for unless told otherwise."""
INSTANCE: Final = "m"
"""Prefix of every `message` in a `BrokerFixture`: the first SEND is message `m1`."""
SETTLE_STEPS: Final = 100_000

_Kind = TypeVar("_Kind")


def only(actions: Iterable[Action], kind: type[_Kind]) -> list[_Kind]:
    """Return the actions of one kind, in order."""
    return [action for action in actions if isinstance(action, kind)]


class FakeClock:
    """Seconds that pass only when told to, and never backwards. Call it to read it, like `time.monotonic`."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now

    def __call__(self) -> float:
        """Return the time, in seconds."""
        return self._now

    @property
    def now(self) -> float:
        """The time, in seconds."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Let time pass and return the time.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"time does not run backwards: {seconds} s")
        return self.advance_to(self._now + seconds)

    def advance_to(self, now: float) -> float:
        """Let time pass until then and return the time; a moment in the past changes nothing."""
        self._now = max(self._now, now)
        return self._now


class MemoryTransport:
    """A `transport.Transport` without sockets: a list of events in, a record of actions out.

    Attributes:
        incoming: what `receive` will return, oldest first.
        sent: what was delivered, oldest first.
        gone: connections that cannot be reached: an action for one comes back as Undelivered, with its Gone.
        full: connections that leave too much unread: an action for one comes back as Undelivered (full).
        held: connections that do not read just now: an action for one is parked until `flush` finds it released.
    """

    def __init__(self) -> None:
        self.incoming: deque[Event] = deque()
        self.sent: list[Action] = []
        self.gone: set[Peer] = set()
        self.full: set[Peer] = set()
        self.held: set[Peer] = set()
        self._parked: list[Action] = []

    def put(self, *arrived: Event) -> None:
        """Let these events arrive."""
        self.incoming.extend(arrived)

    def take(self) -> list[Action]:
        """Return what was delivered since the last call."""
        sent, self.sent = self.sent, []
        return sent

    def receive(self, limit: int, budget_s: float) -> list[Event]:  # noqa: ARG002 - memory is always in time
        """Return what has arrived, at most `limit` events."""
        return [self.incoming.popleft() for _ in range(min(limit, len(self.incoming)))]

    def send(self, actions: Iterable[Action]) -> list[Event]:
        """Record the actions; return what could not be delivered and who is gone."""
        problems: list[Event] = []
        for action in actions:
            self._send(action, problems)
        return problems

    def flush(self) -> list[Event]:
        """Deliver what was parked for connections that are not held any more."""
        parked, self._parked = self._parked, []
        return self.send(parked)

    @property
    def parked(self) -> int:
        """How many actions wait for a connection to be released."""
        return len(self._parked)

    def _send(self, action: Action, problems: list[Event]) -> None:
        if action.peer in self.gone:
            problems.append(events.Undelivered(action, full=False))
            problems.append(events.Gone(action.side, action.peer))
        elif action.peer in self.full:
            problems.append(events.Undelivered(action, full=True))
        elif action.peer in self.held:
            self._parked.append(action)
        else:
            self.sent.append(action)


class BrokerFixture:
    """A broker with a fake clock, a policy with a seed, and one method per command.

    Every method returns the actions of that step and calls `Broker.check` after it. A backend's connection is its
    name in bytes unless `peer` says otherwise; an answer is addressed by its DELIVER.

    Args:
        policy: a policy's name, or a policy.
        seed: of the policy's random source.
        decisions: makes what records them.
        settings: keys of `core.settings.Settings` that differ from its defaults.

    Attributes:
        broker: for what the methods do not cover.
        clock: moved by `advance`; set it forward directly to handle events before the timers that are due.
    """

    def __init__(
        self,
        *,
        policy: str | Policy = "paper",
        seed: int = 0,
        decisions: Callable[[Settings], Decisions] = Decisions,
        **settings: Any,
    ) -> None:
        self.settings = Settings(**settings)
        self.random = Random(seed)
        self.clock = FakeClock()
        plan = plan_routes(self.settings, self.random, policy=policy)
        self.broker = Broker(
            self.settings,
            plan.policy,
            rng=self.random,
            timer=lambda: 0.0,
            instance=INSTANCE,
            make_policy=lambda name: named_policy(name, self.settings, self.random),
            decisions=decisions(self.settings),
            **plan.extras(),
        )
        self.broker.start(self.clock.now)

    def handle(self, event: Event) -> list[Action]:
        """Hand over any event."""
        actions = self.broker.handle(event, self.clock.now)
        self.broker.check()
        return actions

    def advance(self, seconds: float) -> list[Action]:
        """Let time pass; whatever becomes due is done at its moment, as by a loop that is never late."""
        until = self.clock.now + seconds
        actions: list[Action] = []
        for _ in range(SETTLE_STEPS):
            due = self.broker.next_deadline()
            if due is None or due > until:
                self.clock.advance_to(until)
                return actions
            actions += self.broker.on_timer(self.clock.advance_to(due))
            self.broker.check()
        raise AssertionError(f"more than {SETTLE_STEPS} wake-ups within {seconds} s")

    def stop(self) -> list[Action]:
        """End everything, as at the end of the process."""
        actions = self.broker.stop(self.clock.now)
        self.broker.check()
        return actions

    # --- clients ---

    def send(
        self,
        capability: str,
        *body: Any,
        client_id: ClientId = 1,
        peer: Peer = CLIENT,
        delimited: bool = False,
        **keys: Any,
    ) -> list[Action]:
        """SEND; `client_id` is its `id`, `keys` are further header keys."""
        return self.handle(events.Send(peer, delimited, events.Request(client_id, capability, **keys), body))

    def feedback(self, client_id: ClientId = 1, score: float = 1.0, *, peer: Peer = CLIENT) -> list[Action]:
        """FEEDBACK of a client."""
        return self.handle(events.Feedback(peer, False, events.FeedbackHeader(client_id, score)))

    def cancel(self, client_id: ClientId = 1, *, peer: Peer = CLIENT) -> list[Action]:
        """CANCEL of a client."""
        return self.handle(events.Cancel(peer, False, events.CancelHeader(client_id)))

    def ping(self, *, peer: Peer = CLIENT, delimited: bool = False) -> list[Action]:
        """PING."""
        return self.handle(events.Ping(peer, delimited, events.EmptyHeader()))

    # --- backends ---

    def register(
        self, name: str, *capabilities: str, peer: Peer | None = None, delimited: bool = False, **keys: Any
    ) -> list[Action]:
        """REGISTER; `keys` are further header keys."""
        header = events.Registration(name, list(capabilities), **keys)
        return self.handle(events.Register(name.encode() if peer is None else peer, delimited, header))

    def update(self, peer: Peer, **keys: Any) -> list[Action]:
        """UPDATE."""
        return self.handle(events.Update(peer, False, events.Revision(**keys)))

    def heartbeat(self, peer: Peer, **keys: Any) -> list[Action]:
        """HEARTBEAT."""
        return self.handle(events.Heartbeat(peer, False, events.HeartbeatHeader(**keys)))

    def drain(self, peer: Peer) -> list[Action]:
        """DRAIN."""
        return self.handle(events.Drain(peer, False, events.EmptyHeader()))

    def unregister(self, peer: Peer) -> list[Action]:
        """UNREGISTER."""
        return self.handle(events.Unregister(peer, False, events.EmptyHeader()))

    def ack(self, deliver: Deliver, *body: Any, peer: Peer | None = None, **keys: Any) -> list[Action]:
        """ACK of a delivery."""
        header = events.AckHeader(deliver.header.id, **keys)
        return self.handle(events.Ack(deliver.peer if peer is None else peer, False, header, body))

    def nack(self, deliver: Deliver, code: str = "failed", *, peer: Peer | None = None, **keys: Any) -> list[Action]:
        """NACK of a delivery."""
        header = events.NackHeader(deliver.header.id, code=code, **keys)  # type: ignore[arg-type]
        return self.handle(events.Nack(deliver.peer if peer is None else peer, False, header))

    def part(self, deliver: Deliver, *body: Any, peer: Peer | None = None) -> list[Action]:
        """PART of a delivery."""
        header = events.PartHeader(deliver.header.id)
        return self.handle(events.Part(deliver.peer if peer is None else peer, False, header, body))

    def backend(self, name: str) -> Backend:
        """Return a registered backend's record."""
        return self.broker.registry.by_name[name]

    # --- news of the transport ---

    def gone(self, peer: Peer, side: Side = Side.BACKEND) -> list[Action]:
        """The connection cannot be reached any more."""
        return self.handle(events.Gone(side, peer))

    def undelivered(self, action: Action, *, full: bool = False) -> list[Action]:
        """An action never left."""
        return self.handle(events.Undelivered(action, full))
