"""What goes wrong in a world at stated moments, to whom, and for how long.

Rules:
- A fault is data: a list of them, with the seed, replays. Shares of messages that go wrong stand in `NetworkSpec`,
  the ways of a backend in `BackendSpec`, those of clients in `Demand`; here is what happens at a moment.
- Each fault that has really happened is counted under its kind, by the one who did it: a test that a fault is survived
  is worth nothing if the fault never struck.
- Everything ends: what was cut is healed, what has crashed restarts, what has left comes back, after `for_s`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from router_daemon.core.events import Gone, Malformed, Revision, Update
from router_daemon.core.types import Side
from router_daemon.lab.backends import Backend
from router_daemon.lab.clients import Client
from router_daemon.lab.daemons import Daemon
from router_daemon.lab.lines import Line
from router_daemon.lab.network import Connection, FaultyConnection, Trouble
from router_daemon.lab.ring import RingDaemon, Wire
from router_daemon.lab.timeline import START_S, Timeline

NOTICES: Final = ("gone", "undelivered", "silence")
"""How a daemon learns that a connection has ended: it is told, it finds out when it next sends, or not at all."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        kind: a key of `Faults.acts`.
        at_s: when, from the beginning of the world. for_s: how long.
        target: the backend's name; or the number of the daemon (stall, crash_daemon), of the client (leave, garble) or
            of the link of a ring (cut_link, freeze_link, full_link).
        daemon: for faults between a backend and a daemon: which one; None: all.
        factor: of `slow`; the new number of slots of `update`.
        notice: one of `NOTICES`; notice_after_s: how much later.
    """

    kind: str
    at_s: float
    for_s: float = 0.0
    target: str | int = ""
    daemon: int | None = None
    factor: float = 1.0
    notice: str = "gone"
    notice_after_s: float = 0.0


class Faults:
    """Makes faults happen.

    Attributes:
        acts: what each kind does.
    """

    def __init__(
        self,
        timeline: Timeline,
        daemons: Sequence[Daemon],
        backends: Mapping[str, Backend],
        clients: Sequence[Client],
        happened: Counter[str],
        wires: Sequence[Wire] = (),
    ) -> None:
        self._timeline = timeline
        self._wires = wires
        self._daemons = daemons
        self._backends = backends
        self._clients = clients
        self._happened = happened
        self.acts: dict[str, Callable[[Fault], bool]] = {
            "crash": self._crash,
            "pause": self._pause,
            "slow": self._slow,
            "mute": self._mute,
            "drain": self._drain,
            "unregister": self._unregister,
            "update": self._update,
            "cut": self._cut,
            "freeze": self._freeze,
            "full": self._full,
            "garble": self._garble,
            "garble_send": self._garble_send,
            "leave": self._leave,
            "stall": self._stall,
            "crash_daemon": self._crash_daemon,
            "cut_link": self._cut_link,
            "freeze_link": self._freeze_link,
            "full_link": self._full_link,
        }

    def plan(self, faults: Sequence[Fault]) -> None:
        """Put the faults on the timeline."""
        for fault in faults:
            self._timeline.at(START_S + fault.at_s, self._strike, fault)

    def _strike(self, fault: Fault) -> None:
        if self.acts[fault.kind](fault):
            self._happened[fault.kind] += 1

    # --- backends ---

    def _crash(self, fault: Fault) -> bool:
        backend = self._backends[str(fault.target)]
        if not backend.up:
            return False
        for line in backend.lines:
            if line.connection is not None:
                self._lose(line.connection, fault)
        backend.crash()
        self._timeline.after(fault.for_s, backend.start)
        return True

    def _pause(self, fault: Fault) -> bool:
        backend = self._backends[str(fault.target)]
        backend.pause(fault.for_s)
        return backend.up

    def _slow(self, fault: Fault) -> bool:
        backend = self._backends[str(fault.target)]
        backend.stretch = fault.factor
        self._timeline.after(fault.for_s, self._at_full_speed, backend)
        return True

    def _at_full_speed(self, backend: Backend) -> None:
        backend.stretch = 1.0

    def _mute(self, fault: Fault) -> bool:
        backend = self._backends[str(fault.target)]
        backend.silent = True
        self._timeline.after(fault.for_s, self._speaks_again, backend)
        return True

    def _speaks_again(self, backend: Backend) -> None:
        backend.silent = backend.spec.silent

    # --- registrations ---

    def _drain(self, fault: Fault) -> bool:
        return self._for_each_line(fault, Line.drain)

    def _unregister(self, fault: Fault) -> bool:
        return self._for_each_line(fault, Line.unregister)

    def _for_each_line(self, fault: Fault, leave: Callable[[Line], None]) -> bool:
        struck = False
        for line in self._lines(fault):
            if line.in_force:
                leave(line)
                self._timeline.after(fault.for_s, line.come_back)
                struck = True
        return struck

    def _update(self, fault: Fault) -> bool:
        struck = False
        for line in self._lines(fault):
            if line.in_force:
                line.send(Update(line.peer, False, Revision(slots=int(fault.factor))))
                struck = True
        return struck

    def _garble(self, fault: Fault) -> bool:
        """An answer to an open delivery arrives as what no decoder can read; the true one follows, too late."""
        struck = False
        for line in self._lines(fault):
            if line.in_force:
                number = next(iter(line.jobs), None)
                line.send(Malformed(Side.BACKEND, line.peer, False, "ACK", "bad_header", "what is wrong", number))
                struck = True
        return struck

    # --- connections ---

    def _cut(self, fault: Fault) -> bool:
        """The connection ends; the backend opens another one, with the same session, once the way is free."""
        struck = False
        for line in self._lines(fault):
            if line.connection is not None:
                self._lose(line.connection, fault)
                line.cut(fault.for_s)
                struck = True
        return struck

    def _freeze(self, fault: Fault) -> bool:
        struck = False
        for line in self._lines(fault):
            if isinstance(line.connection, FaultyConnection):
                line.connection.freeze(fault.for_s)
                struck = True
        return struck

    def _full(self, fault: Fault) -> bool:
        struck = False
        for line in self._lines(fault):
            if line.connection is not None and line.connection.trouble is Trouble.NONE:
                line.connection.trouble = Trouble.FULL
                self._timeline.after(fault.for_s, self._read_again, line.connection)
                struck = True
        return struck

    def _read_again(self, connection: Connection) -> None:
        if connection.trouble is Trouble.FULL:
            connection.trouble = Trouble.NONE

    def _lose(self, connection: Connection, fault: Fault) -> None:
        """Let nothing more through; have the daemon notice in the fault's way."""
        connection.alive = False
        if fault.notice == "gone":
            self._timeline.after(fault.notice_after_s, self._tell, connection)
        elif fault.notice == "undelivered":
            self._timeline.after(fault.notice_after_s, self._be_unreachable, connection)

    def _be_unreachable(self, connection: Connection) -> None:
        connection.trouble = Trouble.GONE

    def _tell(self, connection: Connection) -> None:
        connection.trouble = Trouble.GONE
        if not connection.told:
            connection.told = True
            connection.daemon.take(Gone(Side.BACKEND, connection.peer))

    # --- clients and daemons ---

    def _leave(self, fault: Fault) -> bool:
        self._clients[int(fault.target)].leave()
        return True

    def _garble_send(self, fault: Fault) -> bool:
        self._clients[int(fault.target)].garble()
        return True

    def _stall(self, fault: Fault) -> bool:
        self._daemons[int(fault.target)].stall(fault.for_s)
        return True

    # --- a ring ---

    def _crash_daemon(self, fault: Fault) -> bool:
        """The process ends at once; another one takes its place, and knows nothing of it."""
        daemon = self._daemons[int(fault.target)]
        if not isinstance(daemon, RingDaemon) or daemon.down:
            return False
        for wire in self._wires:
            if daemon in (wire.dialler, wire.listener):
                wire.cut(fault.for_s)
        for backend in self._backends.values():
            for line in backend.lines:
                if line.daemon_index == daemon.index and backend.up:
                    line.cut(fault.for_s)
        daemon.crash()
        self._timeline.after(fault.for_s, daemon.restart)
        return True

    def _cut_link(self, fault: Fault) -> bool:
        wire = self._wires[int(fault.target)]
        wire.cut(fault.for_s, fault.notice)
        return True

    def _freeze_link(self, fault: Fault) -> bool:
        self._wires[int(fault.target)].freeze(fault.for_s)
        return True

    def _full_link(self, fault: Fault) -> bool:
        self._wires[int(fault.target)].fill(fault.for_s)
        return True

    def _lines(self, fault: Fault) -> Iterator[Line]:
        backend = self._backends[str(fault.target)]
        for line in backend.lines:
            if backend.up and fault.daemon in (None, line.daemon_index):
                yield line
