"""A backend's line to one daemon: its connection, its registration there, its deliveries from there.

Rules:
- REGISTER goes first on every connection. Who has no REGISTERED within 3 s opens a new connection; who is told
  `name_taken` asks again after a second; who is told `not_registered` or BYE registers again.
- Answers wait until the registration is in force, and are sent then: the session is the same, so the deliveries are
  still ours. After a crash there is nothing left to send.
- A heartbeat goes out as often as REGISTERED has asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from router_daemon.core.actions import (
    Action,
    BackendError,
    Bye,
    CancelDelivery,
    Deliver,
    HeartbeatReply,
    Registered,
)
from router_daemon.core.events import (
    Ack,
    Drain,
    EmptyHeader,
    Heartbeat,
    HeartbeatHeader,
    Nack,
    Part,
    Register,
    Registration,
    Unregister,
    Update,
)
from router_daemon.core.types import Peer
from router_daemon.lab.timeline import BrokenError, Timeline

if TYPE_CHECKING:
    from router_daemon.lab.backends import Backend, Job
    from router_daemon.lab.network import Connection

Answer = Ack | Nack | Part

REGISTER_TIMEOUT_S: Final = 3.0
NAME_TAKEN_PAUSE_S: Final = 1.0
AFTER_BYE_S: Final = 0.1


class Line:
    """See the module.

    Attributes:
        peer: the present connection, as the daemon knows it.
        in_force: the daemon has said REGISTERED on this connection.
        jobs: deliveries from this daemon that are not answered.
        daemon_index: which daemon it is to.
        leaving: it has been told to go, and does not register again by itself.
    """

    __slots__ = (
        "_backend",
        "_beats",
        "_connect",
        "_cut_until",
        "_handlers",
        "_held",
        "_timeline",
        "_tries",
        "connection",
        "daemon_index",
        "heartbeat_s",
        "in_force",
        "jobs",
        "leaving",
        "peer",
    )

    def __init__(
        self, backend: Backend, timeline: Timeline, connect: Callable[[Line], Connection], daemon_index: int
    ) -> None:
        self.daemon_index = daemon_index
        self._backend = backend
        self._timeline = timeline
        self._connect = connect
        self._held: list[Answer] = []
        self.heartbeat_s = 1.0
        self._tries = 0
        self._beats = 0
        self._cut_until = 0.0
        self.connection: Connection | None = None
        self.peer: Peer = b""
        self.in_force = False
        self.leaving = False
        self.jobs: dict[int, Job] = {}
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            Deliver: self._deliver,
            CancelDelivery: self._cancel,
            Registered: self._registered,
            HeartbeatReply: self._nothing,
            Bye: self._bye,
            BackendError: self._error,
        }

    @property
    def name(self) -> str:
        """The backend's name."""
        return self._backend.spec.name

    # --- its life ---

    def start(self) -> None:
        """The process has started: connect and register."""
        self._held.clear()
        self.jobs.clear()
        self.leaving = False
        self.open()

    def die(self) -> None:
        """The process is gone."""
        self._fall_silent()
        self._held.clear()
        self.jobs.clear()
        self.connection = None

    def cut(self, seconds: float) -> None:
        """The connection has ended, and for a while there is no other."""
        self._cut_until = max(self._cut_until, self._timeline.now + seconds)
        self._fall_silent()
        self.connection = None
        self._timeline.at(self._cut_until, self._reconnect, self._tries)

    def _reconnect(self, tries: int) -> None:
        if tries == self._tries and self._backend.up:
            self.open()

    def _fall_silent(self) -> None:
        """The registration is not in force any more: no heartbeats, and nothing that was planned for it."""
        self.in_force = False
        self._tries += 1
        self._beats += 1

    def open(self, _: object = None) -> None:
        """Open a new connection and register there, with the session of this process."""
        self._fall_silent()
        if self._timeline.now < self._cut_until:
            self.connection = None
            self._timeline.at(self._cut_until, self._reconnect, self._tries)
            return
        self.connection = self._connect(self)
        self.peer = self.connection.peer
        self.register()

    def register(self, _: object = None) -> None:
        """REGISTER, and look after a while whether anybody has answered."""
        if not self._backend.up:
            return
        spec = self._backend.spec
        header = Registration(
            spec.name,
            list(self._backend.capabilities),
            spec.workers if spec.slots is None else spec.slots,
            spec.prefetch,
            cost=UNSET if spec.cost is None else spec.cost,
            session=f"{spec.name}.{self._backend.life}".encode().ljust(8, b".")[-32:],
            **spec.keys,
        )
        self._tries += 1
        self.send(Register(self.peer, False, header))
        self._timeline.after(REGISTER_TIMEOUT_S, self._unanswered, self._tries)

    def send(self, event: Any) -> None:
        """Put something on the connection, whatever the daemon knows of us."""
        if self.connection is not None:
            self.connection.send_up(event)

    def answer(self, event: Answer) -> None:
        """Answer a delivery: at once, or when the registration is in force again."""
        connection = self.connection
        if self.in_force and connection is not None:
            connection.send_up(event)
        else:
            self._held.append(event)

    def forget(self, job: Job) -> None:
        """A delivery is over."""
        if self.jobs.get(job.id) is job:
            del self.jobs[job.id]

    def update(self, event: Update) -> None:
        """UPDATE."""
        self.send(event)

    def drain(self) -> None:
        """DRAIN; BYE comes when nothing is open."""
        self.leaving = True
        self.send(Drain(self.peer, False, EmptyHeader()))

    def unregister(self) -> None:
        """UNREGISTER: leave now."""
        self.leaving = True
        self.send(Unregister(self.peer, False, EmptyHeader()))

    def come_back(self, _: object = None) -> None:
        """Register again after having left."""
        self.leaving = False
        if self._backend.up and not self.in_force:
            self.open()

    # --- what the daemon says ---

    def receive(self, action: Action) -> None:
        """Take one message of the daemon."""
        if self._timeline.now < self._backend.paused_until:
            self._timeline.at(self._backend.paused_until, self.receive_late, (self.connection, action))
        else:
            self._handlers[type(action)](action)

    def receive_late(self, waiting: tuple[Connection | None, Action]) -> None:
        """Take what came while the process stood still."""
        connection, action = waiting
        if connection is self.connection and connection is not None:
            self.receive(action)

    def _deliver(self, action: Deliver) -> None:
        if not self.in_force:
            # After a drop or a reordering REGISTERED may be missing though the daemon has registered us.
            self._take_force()
        self._backend.take(self, action)

    def _cancel(self, action: CancelDelivery) -> None:
        job = self.jobs.get(action.header.id)
        if job is not None:
            self._backend.cancel(job)

    def _registered(self, action: Registered) -> None:
        if action.header.name != self.name:
            raise BrokenError(f"{self.name} is registered as {action.header.name}")
        self.heartbeat_s = action.header.heartbeat_ms / 1000.0
        self._take_force()

    def _take_force(self) -> None:
        self._tries += 1
        if self.in_force:
            return
        self.in_force = True
        self._beats += 1
        self._timeline.after(self.heartbeat_s, self._beat, self._beats)
        held, self._held = self._held, []
        for event in held:
            event.peer = self.peer
            self.send(event)

    def _bye(self, action: Bye) -> None:  # noqa: ARG002 - one shape for all
        self.in_force = False
        self._beats += 1
        self._held.clear()
        for job in list(self.jobs.values()):
            self._backend.drop(job)
        self.jobs.clear()
        if not self.leaving:
            self._timeline.after(AFTER_BYE_S, self._register_if, self._tries)

    def _error(self, action: BackendError) -> None:
        code = action.header.code
        if code == "not_registered" and not self.leaving and self.in_force:
            self.in_force = False
            self._beats += 1
            self.register()
        elif code == "name_taken":
            self._tries += 1
            self._timeline.after(NAME_TAKEN_PAUSE_S, self._register_if, self._tries)

    def _nothing(self, action: Action) -> None:
        pass

    # --- what the clock says ---

    def _unanswered(self, tries: int) -> None:
        if tries == self._tries and not self.in_force and self._backend.up and not self.leaving:
            self.open()

    def _register_if(self, tries: int) -> None:
        if tries == self._tries and self._backend.up and not self.leaving:
            self.register()

    def _beat(self, beats: int) -> None:
        if beats != self._beats or not self._backend.up:
            return
        if self._timeline.now < self._backend.paused_until:
            self._timeline.at(self._backend.paused_until, self._beat, beats)
            return
        self.send(Heartbeat(self.peer, False, HeartbeatHeader(self._backend.reported_queue)))
        self._timeline.after(self.heartbeat_s, self._beat, beats)
