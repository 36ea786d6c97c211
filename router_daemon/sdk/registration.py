"""A backend's registration with one daemon, as a state machine: messages and time in, messages and events out.

Rules:
- No sockets, no threads, no clock: `now` is an argument (seconds, monotonic), what to send gathers in `control`, what
  the event loop should know in `events`, and the next moment at which something is due is `deadline()`.
- On every new connection REGISTER goes first, with the same session, and results wait for REGISTERED (`in_force`):
  from a connection that is not registered an ACK has no effect, and would be lost.
- Silence is judged by answers, never by the clock alone: time in which this machine itself stood still does not count.
- A refusal that may pass (`name_taken`, `draining`) is tried again every second; any other ends the registration with
  that error, for only the user can mend it.
"""

from __future__ import annotations

import enum
import logging
import math
from collections import deque
from typing import Any, Final, Literal, NamedTuple

from router_daemon.errors import RETRY, RouterError, router_error
from router_daemon.sdk.link import Incoming, pack

log = logging.getLogger(__name__)

REGISTER_TIMEOUT_S: Final = 3.0
"""A REGISTER without an answer for that long: the socket is given up for a new one."""
RETRY_S: Final = 1.0
"""Until the next REGISTER after a refusal that may pass, or a BYE that nobody asked for."""
HEARTBEATS_PER_INTERVAL: Final = 2
"""Sent twice as often as the daemon asks, so one that is late costs nothing."""
SILENT_INTERVALS: Final = 3
"""Heartbeat intervals without an answer after which the daemon counts as gone: its own measure for us."""

EventKind = Literal["deliver", "cancel", "registered", "lost", "updated", "refused", "room", "broken", "closed"]


class LinkEvent(NamedTuple):
    """What the event loop of a backend is told.

    Attributes:
        kind: `deliver` and `cancel` of the daemon; `registered` (also again); `lost`: the registration ended by the
            daemon's will, and with it all open deliveries; `updated` and `refused` answer an update; `room`: go on
            after a full outbox; `broken`: a stream that lost pieces with its connection, and is answered already;
            `closed`: the last one, with the error that ended everything or None.
        header: of the daemon's message; of `updated` and `refused` the very keys that were to be changed.
        body: the client's frames of a `deliver`.
        error: of `refused` and `closed`.
    """

    kind: EventKind
    header: dict[str, Any] = {}  # noqa: RUF012 - never written to
    body: list[bytes] = []  # noqa: RUF012
    error: RouterError | None = None


class Phase(enum.Enum):
    """Where a registration stands: no connection, REGISTER sent, in force, or waiting to try again."""

    CONNECTING = enum.auto()
    REGISTERING = enum.auto()
    REGISTERED = enum.auto()
    RESTING = enum.auto()


class Registration:
    """Registers, heartbeats, drains.

    Args:
        header: REGISTER's; updates that the daemon took change it.
        drain_timeout_s: how long open deliveries may take once a drain was asked for.

    Attributes:
        working: ids of deliveries that wait or run here: DELIVER adds, whoever finishes one discards it (from any
            thread: both are one step of the interpreter).
        control: messages to send before any result.
        events: what the event loop should know, in order.
        reopen: why the connection should be given up for a new one; None while it is good.
        finished: nothing more is to be done here; what `control` holds is still sent, where it can be.
    """

    def __init__(self, header: dict[str, Any], drain_timeout_s: float) -> None:
        self._header = header
        self._drain_timeout_s = drain_timeout_s
        self._phase = Phase.CONNECTING
        self._due = math.inf
        self._drain_until = math.inf
        self._heartbeat_s = 1.0
        self._unanswered_since = math.inf
        self._updates: deque[dict[str, Any]] = deque()
        self.working: set[int] = set()
        self.control: deque[list[bytes]] = deque()
        self.events: list[LinkEvent] = []
        self.reopen: str | None = None
        self.finished = False

    @property
    def in_force(self) -> bool:
        """Return whether the daemon takes results now."""
        return self._phase is Phase.REGISTERED

    @property
    def draining(self) -> bool:
        """Return whether a drain was asked for."""
        return self._drain_until != math.inf

    def deadline(self) -> float:
        """Return when `on_time` has something to do, infinity for never."""
        return min(self._due, self._drain_until)

    def on_connection(self, began: bool, now: float) -> None:
        """Take the news that a connection began or ended."""
        if began:
            self._register(now)
        else:
            self._enter(Phase.CONNECTING, math.inf)

    def on_message(self, message: Incoming, now: float) -> None:
        """Take one message of the daemon; verbs that a newer daemon may know are skipped."""
        self._unanswered_since = math.inf
        verb, header, body = message
        if verb in ("DELIVER", "CANCEL"):
            self._on_delivery(verb, header, body)
        elif verb == "REGISTERED":
            self._on_registered(header, now)
        elif verb == "BYE":
            self._on_bye(now)
        elif verb == "ERROR":
            self._on_error(header, now)

    def on_time(self, now: float, *, results_wait: bool) -> None:
        """Do what is due; `results_wait` says that something is still to be sent."""
        if now >= self._due:
            self._on_due(now)
        if not self.draining:
            return
        if now >= self._drain_until:
            log.warning("%d deliveries were not finished within the drain timeout", len(self.working))
            self.finish()
        elif not self.in_force and not self.working and not results_wait:
            self.finish()  # there is nobody to say BYE, and nothing to finish

    def drain(self, now: float) -> None:
        """Take no more deliveries; finished by BYE. Where no registration is in force DRAIN follows the next one."""
        if not self.draining:
            self._drain_until = now + self._drain_timeout_s
            if self.in_force:
                self.control.append(pack("DRAIN", {}))

    def finish(self) -> None:
        """Leave at once; open deliveries go to other backends."""
        self.control.clear()
        self.control.append(pack("UNREGISTER", {}))
        self.finished = True

    def update(self, keys: dict[str, Any]) -> None:
        """Change keys of the registration, one update at a time: a REGISTERED does not say what it answers."""
        self._updates.append(keys)
        if len(self._updates) == 1:
            self._send_update()

    def _send_update(self) -> None:
        if self._updates and self.in_force:
            self.control.append(pack("UPDATE", self._updates[0]))

    def _enter(self, phase: Phase, due: float) -> None:
        """Enter a phase with its timer; control messages of the phase before are void."""
        self._phase, self._due = phase, due
        self._unanswered_since = math.inf
        self.reopen = None
        self.control.clear()

    def _register(self, now: float) -> None:
        self._enter(Phase.REGISTERING, now + REGISTER_TIMEOUT_S)
        self.control.append(pack("REGISTER", self._header))

    def _on_delivery(self, verb: str, header: dict[str, Any], body: list[bytes]) -> None:
        """Pass a DELIVER or a CANCEL on."""
        delivery_id = header.get("id")
        if not isinstance(delivery_id, int):
            log.warning("the daemon sent a %s without an id", verb)
        elif verb == "CANCEL":
            self.events.append(LinkEvent("cancel", header))
        else:
            self.working.add(delivery_id)
            self.events.append(LinkEvent("deliver", header, body))

    def _on_registered(self, header: dict[str, Any], now: float) -> None:
        """The answer to REGISTER, or to the oldest update."""
        heartbeat_ms = header.get("heartbeat_ms")
        if isinstance(heartbeat_ms, int) and heartbeat_ms > 0:
            self._heartbeat_s = heartbeat_ms / 1000
        if self._phase is Phase.REGISTERING:
            self._enter(Phase.REGISTERED, now + self._heartbeat_s / HEARTBEATS_PER_INTERVAL)
            self.events.append(LinkEvent("registered", header))
            if self.draining:
                self.control.append(pack("DRAIN", {}))
            self._send_update()
        elif self.in_force and self._updates:
            keys = self._updates.popleft()
            self._header.update(keys)
            self.events.append(LinkEvent("updated", keys))
            self._send_update()

    def _on_bye(self, now: float) -> None:
        """The registration is over: as asked for, or because the daemon leaves, and then everything open is lost."""
        if self.draining:
            self.control.clear()
            self.finished = True
            return
        log.info("the daemon said good-bye; registering again until one is there")
        self.events.append(LinkEvent("lost"))
        self._enter(Phase.RESTING, now + RETRY_S)

    def _on_error(self, header: dict[str, Any], now: float) -> None:
        """An ERROR is about the registration (acted on), an update (its answer), or a delivery (logged)."""
        code, detail = str(header.get("code", "internal")), str(header.get("detail", ""))
        about_delivery = header.get("id") is not None
        if code == "not_registered":
            if self.in_force:
                log.warning("the daemon has forgotten this backend; registering again")
                self.events.append(LinkEvent("lost"))
                self._register(now)
        elif self._phase is Phase.REGISTERING and not about_delivery:
            self._on_refused(code, detail, now)
        elif self.in_force and not about_delivery and self._updates:
            keys = self._updates.popleft()
            self.events.append(LinkEvent("refused", keys, error=router_error(code, detail, retry=False)))
            self._send_update()
        else:
            log.warning("the daemon did not take a message of this backend: %s: %s", code, detail)

    def _on_refused(self, code: str, detail: str, now: float) -> None:
        """REGISTER was refused: try again where that may help, else raise."""
        if not RETRY.get(code, False):
            raise router_error(code, detail, retry=False)
        log.warning("not registered yet: %s: %s", code, detail)
        self._enter(Phase.RESTING, now + RETRY_S)

    def _on_due(self, now: float) -> None:
        """The timer of the phase went off."""
        if self._phase is Phase.REGISTERING:
            self.reopen = f"no answer to REGISTER within {REGISTER_TIMEOUT_S:g} s"
        elif self._phase is Phase.RESTING:
            self._register(now)
        else:
            self._unanswered_since += now - self._due  # late: so long nobody here could have read an answer
            if now - self._unanswered_since > SILENT_INTERVALS * self._heartbeat_s:
                self.reopen = f"the daemon answered no heartbeat for {SILENT_INTERVALS} intervals"
            self._heartbeat(now)

    def _heartbeat(self, now: float) -> None:
        self._due = now + self._heartbeat_s / HEARTBEATS_PER_INTERVAL
        self._unanswered_since = min(self._unanswered_since, now)
        if not self.control:  # a daemon that takes nothing needs no pile of them
            self.control.append(pack("HEARTBEAT", {"queue": len(self.working)}))
