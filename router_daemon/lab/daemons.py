"""A simulated daemon: the very `Broker`, and in place of sockets the lines of backends and the connections of clients.

Rules:
- It is the daemon's loop without its batches: an event is handled when it arrives, at that time; what is due is done at
  the broker's own deadline; what cannot be delivered comes back as Undelivered before anything else is handled.
- Every action goes into the digest and past the ledger before it goes anywhere.
- While it stands still (`stall`), events queue up; they are handled when it goes on, then what was due meanwhile.
- An action for a connection that nobody knows, and steps without end while time stands still, are faults of the broker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from msgspec import UNSET, UnsetType

from router_daemon.core.actions import Accept, Action, Deliver, Error, Piece, Pong, Reply
from router_daemon.core.broker import Broker
from router_daemon.core.events import Gone, Malformed, Nack, Send, Undelivered
from router_daemon.core.types import Peer, Side
from router_daemon.lab.digest import Digest
from router_daemon.lab.ledger import Ledger, Record
from router_daemon.lab.network import Connection, Trouble
from router_daemon.lab.timeline import BrokenError, Timeline

MOST_STEPS: Final = 100_000
"""So many steps at one moment are a loop that leads nowhere."""


class Daemon:
    """See the module.

    Attributes:
        core: what events are handed to: the broker, or in a ring the node around it.
        steps: how many events and wake-ups it has handled.
        connections: of backends, by the name under which the daemon knows them.
    """

    def __init__(self, index: int, broker: Broker, timeline: Timeline, ledger: Ledger, digest: Digest) -> None:
        self.index = index
        self.broker = broker
        self.core: Any = broker
        self.steps = 0
        self.delivered = 0
        self._newest = 0
        self.connections: dict[Peer, Connection] = {}
        self._clients: dict[Peer, bool] = {}
        self._timeline = timeline
        self._ledger = ledger
        self._digest = digest
        self._check_every = 0
        self._next_check = -1
        self._wake_at: float | None = None
        self._moment = 0.0
        self._steps_then = 0
        self._stalled_until = 0.0
        self._backlog: deque[Any] = deque()
        self._problems: deque[Undelivered | Gone] = deque()
        self._to_clients: dict[type[Any], Callable[[Any, float], None]] = {
            Reply: ledger.replied,
            Piece: ledger.piece,
            Accept: ledger.accepted,
            Error: ledger.refused,
            Pong: _heard,
        }

    def start(self, check_every: int) -> None:
        """Start the broker, to be checked after so many steps (0: never)."""
        self._check_every = check_every
        self._next_check = self.steps + check_every if check_every else -1
        self.core.start(self._timeline.now)
        self._arm(self._timeline.now)

    # --- what comes in ---

    def take(self, event: Any) -> None:
        """Handle an event now, or when the daemon goes on."""
        if self._stalled_until:
            self._backlog.append(event)
            return
        if type(event) is Nack and event.header.code == "busy":
            self._ledger.not_begun(self.index, event.header.id)
        now = self._timeline.now
        self._after(self.core.handle(event, now), now)

    def read_send(self, record: Record) -> None:
        """Handle a SEND."""
        if self._stalled_until:
            self._backlog.append(record)
            return
        now = self._timeline.now
        request, settings = record.request, self.broker.settings
        ttl_ms = settings.default_ttl_ms if request.ttl_ms is UNSET else min(request.ttl_ms, settings.max_ttl_ms)
        record.once = not _may_run_again(request.idempotent, settings.unsaid_idempotent)
        self._ledger.sent(record, now, ttl_ms)
        event = Send(record.connection, self._clients[record.connection], request, record.body)
        self._after(self.core.handle(event, now), now)

    def read_again(self, record: Record) -> bool:
        """Handle a SEND with the id of an open one; False where it will not be open when the daemon reads it."""
        if self._stalled_until:
            return False
        self._ledger.repeated(record)
        self.take(Send(record.connection, self._clients[record.connection], record.request, record.body))
        return True

    def read_garbled(self, peer: Peer, client_id: str) -> None:
        """Handle a SEND that cannot be read but for its id."""
        self._ledger.garbled(peer, client_id)
        self.take(Malformed(Side.CLIENT, peer, self._clients[peer], "SEND", "bad_header", "what is wrong", client_id))

    def know_client(self, peer: Peer, *, delimited: bool) -> None:
        """A client has connected, which uses the empty delimiter or not."""
        self._clients[peer] = delimited

    def lose_client(self, peer: Peer) -> None:
        """Hear that a client's connection has ended."""
        if self._stalled_until:
            self._backlog.append(Gone(Side.CLIENT, peer))
            return
        now = self._timeline.now
        self._ledger.gone(peer, now)
        del self._clients[peer]
        self._after(self.core.handle(Gone(Side.CLIENT, peer), now), now)

    def stall(self, seconds: float) -> None:
        """Stand still for a while."""
        until = self._timeline.now + seconds
        if until > self._stalled_until:
            self._stalled_until = until
            self._timeline.at(until, self._go_on, until)

    def _go_on(self, until: float) -> None:
        if until != self._stalled_until:
            return
        self._stalled_until = 0.0
        self._ledger.moved_at[self.index] = until
        while self._backlog:
            event = self._backlog.popleft()
            if isinstance(event, Record):
                self.read_send(event)
            elif isinstance(event, Gone) and event.side is Side.CLIENT:
                self.lose_client(event.peer)
            else:
                self.take(event)

    # --- the clock ---

    def wake(self, due: float) -> None:
        """Do what is due, where this wake-up is still the one that counts."""
        if due != self._wake_at:
            return
        now = self._timeline.now
        self._wake_at = None
        if self._stalled_until:
            self._wake_at = self._stalled_until
            self._timeline.at(self._wake_at, self.wake, self._wake_at)
            return
        deadline = self.core.next_deadline()
        if deadline is not None and deadline <= now:
            self._after(self.core.on_timer(now), now)
        else:
            self._arm(now)

    def _arm(self, now: float) -> None:
        due = self.core.next_deadline()
        if due is not None and (self._wake_at is None or due < self._wake_at):
            self._wake_at = due = max(due, now)
            self._timeline.at(due, self.wake, due)

    # --- what goes out ---

    def _after(self, actions: list[Action], now: float) -> None:
        """Send what the broker says after one step, and what it says about what could not be sent."""
        self._send(actions, now)
        while self._problems:
            problem = self._problems.popleft()
            self._send(self.core.handle(problem, now), now)
        self.steps += 1
        if self.core.faults:
            what, fault = self.core.faults[0]
            raise BrokenError(f"a fault of daemon {self.index} at {what}: {fault!r}") from fault
        if now > self._moment:
            self._moment, self._steps_then = now, self.steps
        elif self.steps - self._steps_then > MOST_STEPS:
            raise BrokenError(f"daemon {self.index} has made {MOST_STEPS} steps at {now}, and has more to do")
        if self.steps == self._next_check:
            self._next_check += self._check_every
            self.core.check()
        self._arm(now)

    def _send(self, actions: list[Action], now: float) -> None:
        for action in actions:
            self._digest.add(now, self.index, action)
            if type(action) is Deliver:
                self.delivered += 1
                if action.header.id <= self._newest:
                    raise BrokenError(f"delivery {action.header.id} after {self._newest}")
                self._newest = action.header.id
                self._ledger.delivered(self.index, action, now)
            elif action.side is Side.CLIENT:
                if self._clients.get(action.peer) is not action.delimited:
                    raise BrokenError(f"nobody is at {action.peer!r}, in this way, to hear {action}")
                self._to_clients[type(action)](action, now)
                continue
            connection = self.connections.get(action.peer)
            if connection is None:
                self._send_elsewhere(action)
            elif not connection.trouble:
                connection.send_down(action)
            else:
                self._fail_to_send(action, connection)

    def _send_elsewhere(self, action: Any) -> None:
        """Send what is for no backend that there has ever been."""
        raise BrokenError(f"no backend has ever been at {action.peer!r}: {action}")

    def _fail_to_send(self, action: Action, connection: Connection) -> None:
        """Note that an action never left, and with it that its connection is gone where that is news."""
        full = connection.trouble is Trouble.FULL
        if isinstance(action, Deliver):
            self._ledger.not_begun(self.index, action.header.id)
        self._problems.append(Undelivered(action, full=full))
        if not full and not connection.told:
            connection.told = True
            self._problems.append(Gone(Side.BACKEND, connection.peer))

    def end(self) -> None:
        """Stop the broker, as at the end of the process."""
        now = self._timeline.now
        self._after(self.core.stop(now), now)
        self.core.check()

    @property
    def stalled_until(self) -> float:
        """The end of the time in which it stands still; 0.0 while it does not."""
        return self._stalled_until


def _may_run_again(idempotent: bool | UnsetType, unsaid: str) -> bool:
    return unsaid != "never" if idempotent is UNSET else idempotent


def _heard(action: Action, now: float) -> None:
    """Nothing follows from a PONG."""
