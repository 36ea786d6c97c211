"""The thread of a backend that talks to the daemon: one socket, one `Registration`, frames both ways.

Rules:
- The thread owns the socket; nobody else touches it. Inwards go `LinkEvent`s, in batches, through `sink`; outwards go
  results by `put` and requests by `drain`, `abort`, `update`, each with one byte on a socket pair to wake the thread.
  Nothing here polls.
- User code has no part in this thread, so heartbeats go out while a handler blocks the event loop or computes in
  Python. (An extension that never lets go of the GIL stops them; the session then brings the registration back.)
- Per turn: requests, news of the connection, a bounded batch of messages, then the clock, then sending. So a pause of
  the machine is followed by reading what came meanwhile, not by giving the daemon up.
- Results wait in an `Outbox` until the registration is in force, and are sent again where a connection may have lost
  them.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket as sockets
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import zmq

from router_daemon.errors import RouterError, router_error
from router_daemon.sdk.link import (
    BATCH_MESSAGES,
    LINGER_MS,
    PREFIX,
    Context,
    close_dealer,
    open_dealer,
    open_monitor,
    read_monitor,
    unpack,
)
from router_daemon.sdk.outbox import Outbox
from router_daemon.sdk.registration import LinkEvent, Registration

log = logging.getLogger(__name__)

HEARTBEAT: Final = PREFIX + b"HEARTBEAT"


class BackendLink:
    """One backend's connection, kept up until drained or aborted.

    Args:
        address: of the daemon's backend socket.
        header: REGISTER's.
        sink: takes this link and events; called from the thread, must be quick, safe to call from there, and not raise.
        drain_timeout_s: how long open deliveries may take once a drain was asked for.
    """

    def __init__(
        self,
        address: str,
        header: dict[str, Any],
        sink: Callable[[BackendLink, list[LinkEvent]], object],
        drain_timeout_s: float,
    ) -> None:
        self._address = address
        self._sink = sink
        self._registration = Registration(header, drain_timeout_s)
        self._outbox = Outbox()
        self._requests: deque[Callable[[float], None]] = deque()
        self._wake_in, self._wake_out = sockets.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._woken = False
        self._connected = False
        self._more = False
        self._context: Context = zmq.Context()
        self._poller = zmq.Poller()
        self._poller.register(self._wake_in.fileno(), zmq.POLLIN)
        self._thread = threading.Thread(
            target=self._run, name=f"router-daemon backend {header.get('name')}", daemon=True
        )

    def start(self) -> None:
        """Connect and start the thread.

        Raises:
            zmq.ZMQError: an address that cannot be read.
        """
        try:
            self._open()
        except zmq.ZMQError:
            self._context.destroy(0)
            self._close_wakes()
            raise
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread to end."""
        self._thread.join()

    def put(self, delivery_id: int, frames: list[bytes]) -> bool:
        """Send a result of a delivery; return False when a stream should wait for the `room` event."""
        room = self._outbox.put(delivery_id, frames)
        self.wake()
        return room

    def discard(self, delivery_id: int) -> int:
        """Note that a delivery is over here; return how many are left."""
        working = self._registration.working
        working.discard(delivery_id)
        if self._registration.draining:
            self.wake()  # it may have been the last one
        return len(working)

    def drain(self) -> None:
        """Take no more deliveries, let the open ones finish, then close."""
        self._request(self._registration.drain)

    def abort(self) -> None:
        """Unregister and close now; open deliveries go to other backends."""
        self._request(lambda _now: self._registration.finish())

    def update(self, keys: dict[str, Any]) -> None:
        """Change keys of the registration; answered by an `updated` or a `refused` event, in order."""
        self._request(lambda _now: self._registration.update(keys))

    def wake(self) -> None:
        """Have the thread look again."""
        if not self._woken:
            self._woken = True
            with contextlib.suppress(OSError):  # a full pair wakes as well; a closed one has nobody to wake
                self._wake_out.send(b"\0")

    def _request(self, work: Callable[[float], None]) -> None:
        self._requests.append(work)
        self.wake()

    def _run(self) -> None:
        """Turn until finished; whatever ends the thread, `closed` is the last event."""
        error: RouterError | None = None
        try:
            while not self._registration.finished:
                self._turn()
        except RouterError as fault:
            error = fault
        except Exception as fault:
            log.exception("the connection of a backend failed")
            error = router_error("internal", f"{type(fault).__name__}: {fault}", retry=True)
        self._close()
        self._registration.events.append(LinkEvent("closed", error=error))
        self._tell()

    def _turn(self) -> None:
        """Wait for something to do and do all of it."""
        self._poller.poll(self._wait_ms())
        now = time.monotonic()
        self._answer_requests(now)
        self._follow_connection(now)
        self._receive(now)
        self._registration.on_time(now, results_wait=bool(self._outbox))
        if self._registration.reopen is not None:
            self._reopen(self._registration.reopen, now)
        self._flush()
        self._tell()

    def _wait_ms(self) -> int | None:
        """Return for how long there is nothing to do; None until something comes."""
        if self._more:
            return 0
        deadline = self._registration.deadline()
        return None if deadline == math.inf else max(0, math.ceil((deadline - time.monotonic()) * 1000))

    def _answer_requests(self, now: float) -> None:
        """Do what other threads asked for. The flag falls before the queues are read, so no wake-up is lost."""
        with contextlib.suppress(BlockingIOError):
            self._wake_in.recv(4096)
        self._woken = False
        while self._requests:
            self._requests.popleft()(now)

    def _tell(self) -> None:
        """Hand events over, and drop results that nobody waits for any more."""
        events = self._registration.events
        if not events:
            return
        self._registration.events = []
        if any(event.kind == "lost" for event in events):
            self._outbox.clear()
        self._sink(self, events)

    def _open(self) -> None:
        """Connect; the registration speaks first once the connection stands."""
        self._socket = open_dealer(self._context, self._address)
        self._monitor = open_monitor(self._socket)
        self._socket.connect(self._address)
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)

    def _reopen(self, why: str, now: float) -> None:
        """Give this connection up for a new one, with the same session."""
        log.warning("%s; connecting to %s again", why, self._address)
        self._close_socket(0)
        self._on_connection(began=False, now=now)
        self._open()

    def _close_socket(self, linger_ms: int) -> None:
        self._poller.unregister(self._socket)
        self._poller.unregister(self._monitor)
        close_dealer(self._socket, self._monitor, linger_ms)
        self._connected = False

    def _close(self) -> None:
        """Leave nothing behind; what libzmq has still goes out to a living connection."""
        with contextlib.suppress(zmq.ZMQError):
            self._flush()
        self._close_socket(LINGER_MS if self._connected else 0)
        self._context.term()
        self._close_wakes()

    def _close_wakes(self) -> None:
        self._wake_in.close()
        self._wake_out.close()

    def _follow_connection(self, now: float) -> None:
        while (began := read_monitor(self._monitor)) is not None:
            self._on_connection(began, now)

    def _on_connection(self, began: bool, now: float) -> None:
        """A connection began or ended."""
        self._connected = began
        if not began:
            broken = self._outbox.connection_lost()
            self._registration.events += [LinkEvent("broken", {"id": delivery_id}) for delivery_id in broken]
        self._registration.on_connection(began, now)

    def _receive(self, now: float) -> None:
        """Read a bounded batch; the poller comes back for the rest."""
        for _ in range(BATCH_MESSAGES):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if (message := unpack(frames)) is not None:
                if message.verb == "HEARTBEAT":
                    self._outbox.heartbeat_answered()
                self._registration.on_message(message, now)

    def _flush(self) -> None:
        """Send a bounded batch: control messages at any time, results under a registration in force."""
        self._more = blocked = False
        for _ in range(BATCH_MESSAGES):
            try:
                if not self._send_next():
                    break
            except zmq.Again:
                blocked = True
                break
        else:
            self._more = True
        self._poller.modify(self._socket, zmq.POLLIN | (zmq.POLLOUT if blocked else 0))

    def _send_next(self) -> bool:
        """Send one message; return False where there is none that may be sent now.

        Raises:
            zmq.Again: the daemon takes no more for now.
        """
        control = self._registration.control
        if not self._connected:
            return False
        if control:
            self._socket.send_multipart(control[0], zmq.NOBLOCK)
            if control.popleft()[0] == HEARTBEAT:
                self._outbox.heartbeat_sent()
            return True
        if self._outbox and self._registration.in_force:
            self._socket.send_multipart(self._outbox.first(), zmq.NOBLOCK)
            if self._outbox.sent():
                self._registration.events.append(LinkEvent("room"))
            return True
        return False
