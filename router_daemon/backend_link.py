"""The thread of a backend that talks to the daemon: registers, heartbeats, and carries frames both ways.

Rules:
- The thread owns the socket; nobody else touches it. Inwards go `LinkEvent`s, in batches, through `sink`; outwards go
  frames by `put` and requests by `drain`, `abort`, `update`, each with one byte on a socket pair to wake the thread.
  Nothing here polls.
- User code has no part in this thread, so heartbeats go out while a handler blocks the event loop or computes in
  Python. (An extension that never lets go of the GIL stops them; the session then brings the registration back.)
- On every new connection REGISTER goes first, with the same session, and results wait for REGISTERED: from a
  connection that is not registered an ACK has no effect, and would be lost.
- Silence is judged by answers, never by the clock alone: after a pause of the whole machine the answers that came
  meanwhile are read first.
- What handlers produce faster than the daemon takes it is bounded: `put` says when to wait, a `room` event when to go
  on.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import socket as sockets
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import zmq

from router_daemon.errors import RETRY, RouterError, router_error
from router_daemon.link import (
    BATCH_MESSAGES,
    LINGER_MS,
    Context,
    Incoming,
    Socket,
    close_dealer,
    events_of,
    open_dealer,
    open_monitor,
    pack,
    read_monitor,
    unpack,
)

log = logging.getLogger(__name__)

REGISTER_TIMEOUT_S: Final = 3.0
"""A REGISTER without an answer for that long: the socket is given up for a new one."""
RETRY_S: Final = 1.0
"""Until the next REGISTER after `name_taken`, `draining` or a BYE that nobody asked for."""
HEARTBEATS_PER_INTERVAL: Final = 2
"""Sent twice as often as the daemon asks, so one that is late costs nothing."""
SILENT_HEARTBEATS: Final = 3
"""Intervals without an answer after which the daemon counts as gone, the same measure as it applies to us."""
OUTBOX_BYTES: Final = 8 * 1024 * 1024
"""What may wait for the daemon before streaming handlers have to; ACKs and NACKs are let in beyond it."""
FRAME_OVERHEAD_BYTES: Final = 64

Kind = Literal["deliver", "cancel", "registered", "lost", "updated", "refused", "room", "closed"]


class LinkEvent(NamedTuple):
    """What the thread tells the event loop.

    Attributes:
        kind: `deliver` and `cancel` of the daemon; `registered` (also again); `lost`: the registration ended by the
            daemon's will, and with it all open deliveries; `updated` and `refused` answer an update; `room`: go on
            after a full `put`; `closed`: the last one, with the error that ended the thread or None.
        header: of the daemon's message; of `updated` the keys that hold now.
        body: the client's frames of a `deliver`.
        error: of `refused` and `closed`.
    """

    kind: Kind
    header: dict[str, Any] = {}  # noqa: RUF012 - never written to
    body: list[bytes] = []  # noqa: RUF012
    error: RouterError | None = None


class Phase(enum.Enum):
    """Where a registration stands: no connection, REGISTER sent, in force, or waiting to try again."""

    CONNECTING = enum.auto()
    REGISTERING = enum.auto()
    REGISTERED = enum.auto()
    RESTING = enum.auto()


class BackendLink:
    """One backend's registration with one daemon, kept up until drained or aborted.

    Args:
        address: of the daemon's backend socket.
        registration: REGISTER's header; updates change it.
        sink: takes events; called from the thread, must be quick and safe to call from there.
        drain_timeout_s: how long open deliveries may take once a drain was asked for.

    Attributes:
        working: ids of deliveries that wait or run here; the thread adds, whoever finishes one discards it.
    """

    def __init__(
        self,
        address: str,
        registration: dict[str, Any],
        sink: Callable[[list[LinkEvent]], object],
        drain_timeout_s: float,
    ) -> None:
        self._address = address
        self._registration = registration
        self._sink = sink
        self._drain_timeout_s = drain_timeout_s
        self.working: set[int] = set()
        self._guard = threading.Lock()
        self._outbox: deque[list[bytes]] = deque()
        self._outbox_bytes = 0
        self._starved = False
        self._requests: deque[Callable[[], None]] = deque()
        self._wake_in, self._wake_out = sockets.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._woken = False
        self._control: deque[list[bytes]] = deque()
        self._updates: deque[dict[str, Any]] = deque()
        self._events: list[LinkEvent] = []
        self._phase = Phase.CONNECTING
        self._due = math.inf
        self._drain_until = math.inf
        self._heartbeat_s = 1.0
        self._unanswered_since = math.inf
        self._connected = False
        self._blocked = False
        self._more = False
        self._finished = False
        self._context: Context = zmq.Context()
        self._poller = zmq.Poller()
        self._poller.register(self._wake_in.fileno(), zmq.POLLIN)
        self._thread = threading.Thread(
            target=self._run, name=f"router-daemon backend {registration.get('name')}", daemon=True
        )

    def start(self) -> None:
        """Connect and start the thread.

        Raises:
            zmq.ZMQError: an address that cannot be read.
        """
        try:
            self._open()
        except zmq.ZMQError:
            self._wake_in.close()
            self._wake_out.close()
            self._context.destroy(0)
            raise
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread to end."""
        self._thread.join()

    def put(self, frames: list[bytes]) -> bool:
        """Send frames as soon as the registration is in force; return False when a stream should wait for `room`."""
        with self._guard:
            self._outbox.append(frames)
            self._outbox_bytes += _size_bytes(frames)
            full = self._outbox_bytes > OUTBOX_BYTES
            self._starved |= full
        self.wake()
        return not full

    def drain(self) -> None:
        """Take no more deliveries, let the open ones finish, then close."""
        self._request(self._drain)

    def abort(self) -> None:
        """Unregister and close now; open deliveries go to other backends."""
        self._request(self._finish)

    def update(self, keys: dict[str, Any]) -> None:
        """Change keys of the registration; answered by an `updated` or a `refused` event, in order."""
        self._request(lambda: self._queue_update(keys))

    def wake(self) -> None:
        """Have the thread look again."""
        if not self._woken:
            self._woken = True
            with contextlib.suppress(OSError):  # a full pair wakes as well; a closed one has nobody to wake
                self._wake_out.send(b"\0")

    # From here on: the thread.

    def _request(self, work: Callable[[], None]) -> None:
        self._requests.append(work)
        self.wake()

    def _run(self) -> None:
        """Turn until finished; whatever ends the thread, `closed` is the last event."""
        error: RouterError | None = None
        try:
            while not self._finished:
                self._turn()
        except RouterError as fault:
            error = fault
        except Exception as fault:
            log.exception("the backend's connection failed")
            error = router_error("internal", f"{type(fault).__name__}: {fault}", retry=True)
        self._close()
        self._events.append(LinkEvent("closed", error=error))
        with contextlib.suppress(RuntimeError):  # the event loop is gone
            self._sink(self._events)

    def _turn(self) -> None:
        """Wait for something to do and do all of it, what came in before what the clock says."""
        self._poller.poll(self._wait_ms())
        now = time.monotonic()
        self._answer_requests()
        self._follow_connection(now)
        self._receive(now)
        self._on_time(now)
        self._flush()
        if self._events:
            events, self._events = self._events, []
            self._sink(events)

    def _wait_ms(self) -> int | None:
        """Return how long there is nothing to do."""
        if self._more:
            return 0
        until = min(self._due, self._drain_until)
        return None if until == math.inf else max(0, math.ceil((until - time.monotonic()) * 1000))

    def _answer_requests(self) -> None:
        """Do what other threads asked for. The flag falls before the queues are read, so no wake-up is lost."""
        with contextlib.suppress(BlockingIOError):
            self._wake_in.recv(4096)
        self._woken = False
        while self._requests:
            self._requests.popleft()()

    def _open(self) -> None:
        """Connect; REGISTER goes out when the connection stands."""
        self._socket = open_dealer(self._context, self._address)
        self._monitor = open_monitor(self._socket)
        self._socket.connect(self._address)
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._blocked = False
        self._set_phase(Phase.CONNECTING, math.inf)

    def _reopen(self, why: str) -> None:
        """Give this connection up for a new one, with the same session."""
        log.warning("%s; connecting to %s again", why, self._address)
        self._close_socket(0)
        self._open()

    def _close_socket(self, linger_ms: int) -> None:
        self._poller.unregister(self._socket)
        self._poller.unregister(self._monitor)
        close_dealer(self._socket, self._monitor, linger_ms)
        self._connected = False

    def _close(self) -> None:
        """Leave nothing behind; what libzmq has still goes out to a living connection."""
        self._finished = True
        self._close_socket(LINGER_MS if self._connected else 0)
        self._context.term()
        self._wake_in.close()
        self._wake_out.close()

    def _set_phase(self, phase: Phase, due: float) -> None:
        """Enter a phase; `due` is when its timer goes off. Control messages of the phase before are void."""
        self._phase, self._due = phase, due
        self._control.clear()

    def _follow_connection(self, now: float) -> None:
        """Follow the monitor: REGISTER is the first message of every connection."""
        while (began := read_monitor(self._monitor)) is not None:
            self._connected = began
            if began:
                self._register(now)
            else:
                self._set_phase(Phase.CONNECTING, math.inf)

    def _register(self, now: float) -> None:
        self._set_phase(Phase.REGISTERING, now + REGISTER_TIMEOUT_S)
        self._control.append(pack("REGISTER", self._registration))

    def _receive(self, now: float) -> None:
        """Read a bounded batch."""
        for _ in range(BATCH_MESSAGES):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._unanswered_since = math.inf
            if (message := unpack(frames)) is not None:
                self._on_message(message, now)

    def _on_message(self, message: Incoming, now: float) -> None:
        """Take one message of the daemon; verbs that a newer daemon may know are skipped."""
        verb, header, body = message
        if verb in ("DELIVER", "CANCEL"):
            if not isinstance(delivery_id := header.get("id"), int):
                log.warning("the daemon sent a %s without an id", verb)
            elif verb == "CANCEL":
                self._events.append(LinkEvent("cancel", header))
            else:
                self.working.add(delivery_id)
                self._events.append(LinkEvent("deliver", header, body))
        elif verb == "REGISTERED":
            self._on_registered(header, now)
        elif verb == "BYE":
            self._on_bye(now)
        elif verb == "ERROR":
            self._on_error(header, now)

    def _on_registered(self, header: dict[str, Any], now: float) -> None:
        """The answer to REGISTER, or to the oldest update."""
        heartbeat_ms = header.get("heartbeat_ms")
        if isinstance(heartbeat_ms, int) and heartbeat_ms > 0:
            self._heartbeat_s = heartbeat_ms / 1000
        if self._phase is Phase.REGISTERING:
            self._set_phase(Phase.REGISTERED, now + self._heartbeat_s / HEARTBEATS_PER_INTERVAL)
            self._unanswered_since = math.inf
            self._events.append(LinkEvent("registered", header))
            if self._draining:
                self._control.append(pack("DRAIN", {}))
        elif self._phase is Phase.REGISTERED and self._updates:
            keys = self._updates.popleft()
            self._registration.update(keys)
            self._events.append(LinkEvent("updated", keys))
        else:
            return
        if self._updates:
            self._control.append(pack("UPDATE", self._updates[0]))

    def _on_bye(self, now: float) -> None:
        """The registration is over: as asked for, or because the daemon leaves; then everything open is lost."""
        if self._draining:
            self._finished = True
            return
        log.info("the daemon at %s said good-bye", self._address)
        with self._guard:
            self._outbox.clear()
            self._outbox_bytes = 0
        self._events.append(LinkEvent("lost"))
        self._set_phase(Phase.RESTING, now + RETRY_S)

    def _on_error(self, header: dict[str, Any], now: float) -> None:
        """An ERROR is about a delivery (logged), the registration (acted on), or an update (its answer)."""
        code, detail = str(header.get("code", "internal")), str(header.get("detail", ""))
        if header.get("id") is None and self._phase is Phase.REGISTERING:
            if code != "not_registered":  # that one is about something sent before the REGISTER
                self._on_refused(code, detail, now)
        elif code == "not_registered" and self._phase is Phase.REGISTERED:
            log.warning("the daemon at %s has forgotten this backend; registering again", self._address)
            self._register(now)
        elif header.get("id") is None and self._phase is Phase.REGISTERED and self._updates:
            self._updates.popleft()
            self._events.append(LinkEvent("refused", error=router_error(code, detail, retry=False)))
            if self._updates:
                self._control.append(pack("UPDATE", self._updates[0]))
        else:
            log.warning("the daemon did not take a message of this backend: %s: %s", code, detail)

    def _on_refused(self, code: str, detail: str, now: float) -> None:
        """REGISTER was refused: try again where that may help, else it is the user's to mend."""
        if not RETRY.get(code, False):
            raise router_error(code, detail, retry=False)
        log.warning("not registered yet: %s: %s", code, detail)
        self._set_phase(Phase.RESTING, now + RETRY_S)

    def _on_time(self, now: float) -> None:
        """Do what is due."""
        if now >= self._due:
            if self._phase is Phase.REGISTERING:
                self._reopen(f"no answer to REGISTER within {REGISTER_TIMEOUT_S:g} s")
            elif self._phase is Phase.RESTING:
                self._register(now)
            elif now - self._unanswered_since > SILENT_HEARTBEATS * self._heartbeat_s:
                self._reopen(f"the daemon left {SILENT_HEARTBEATS} heartbeats unanswered")
            else:
                self._heartbeat(now)
        if self._draining:
            self._look_whether_drained(now)

    def _heartbeat(self, now: float) -> None:
        self._due = now + self._heartbeat_s / HEARTBEATS_PER_INTERVAL
        self._unanswered_since = min(self._unanswered_since, now)
        if not self._blocked:  # a daemon that takes nothing needs no pile of them
            self._control.append(pack("HEARTBEAT", {"queue": len(self.working)}))

    @property
    def _draining(self) -> bool:
        return self._drain_until != math.inf

    def _drain(self) -> None:
        """Begin to drain. Where no registration is in force DRAIN follows the next one."""
        if not self._draining:
            self._drain_until = time.monotonic() + self._drain_timeout_s
            if self._phase is Phase.REGISTERED:
                self._control.append(pack("DRAIN", {}))

    def _look_whether_drained(self, now: float) -> None:
        """Close without a BYE when the time is up, or when there is nobody to say it and nothing to finish."""
        if now >= self._drain_until:
            log.warning("%d deliveries were not finished within the drain timeout", len(self.working))
            self._finish()
        elif self._phase is not Phase.REGISTERED and not self.working and not self._outbox:
            self._finish()

    def _finish(self) -> None:
        """Unregister, where that can be said, and end the thread."""
        self._control.clear()
        self._control.append(pack("UNREGISTER", {}))
        self._flush()
        self._finished = True

    def _queue_update(self, keys: dict[str, Any]) -> None:
        """Send an update, one at a time: a REGISTERED does not say what it answers."""
        self._updates.append(keys)
        if len(self._updates) == 1 and self._phase is Phase.REGISTERED:
            self._control.append(pack("UPDATE", keys))

    def _flush(self) -> None:
        """Send what may be sent now: control messages at any time, results under a registration in force."""
        self._more = self._blocked = False
        for _ in range(BATCH_MESSAGES):
            if not self._connected:
                break
            if self._control:
                queue = self._control
            elif self._outbox and self._phase is Phase.REGISTERED:
                queue = self._outbox
            else:
                break
            try:
                self._socket.send_multipart(queue[0], zmq.NOBLOCK)
            except zmq.Again:
                self._blocked = True
                break
            self._sent(queue)
        else:
            self._more = True
        if not self._finished:
            self._poller.modify(self._socket, zmq.POLLIN | (zmq.POLLOUT if self._blocked else 0))

    def _sent(self, queue: deque[list[bytes]]) -> None:
        """Take the first message off its queue; tell waiting streams when there is room again."""
        with self._guard:
            frames = queue.popleft()
            if queue is not self._outbox:
                return
            self._outbox_bytes -= _size_bytes(frames)
            if not self._starved or self._outbox_bytes > OUTBOX_BYTES // 2:
                return
            self._starved = False
        self._events.append(LinkEvent("room"))


def _size_bytes(frames: list[bytes]) -> int:
    return sum(map(len, frames)) + FRAME_OVERHEAD_BYTES * len(frames)
