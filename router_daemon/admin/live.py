"""What happens, to whoever watches: one stream of server-sent events for all listeners, and the last ten minutes.

Rules:
- While somebody listens, one snapshot a second is made, encoded once, and put into every listener's queue. While nobody
  does, nothing of it is made.
- Every `HISTORY_EVERY_S` one point is kept, for `HISTORY_S`, so that who comes has seen what was before: that is done
  whether somebody listens or not, since it cannot be had afterwards, and costs as much as half a scrape of /metrics.
- At most `MOST_LISTENERS`. Who does not read what comes (`QUEUE` snapshots behind, over what the socket's buffer takes)
  is dropped; a browser connects again by itself.
- Where nothing was sent for `BEAT_S` a comment is, so that a dead connection is noticed at either end.
- Nothing here is on the way of a message; what is long gives way to messages between its parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog
from aiohttp import web

from router_daemon import __version__
from router_daemon.admin.glance import Glance
from router_daemon.admin.moments import Moment, between, moment_of
from router_daemon.core.broker import Broker
from router_daemon.core.chronicle import Chronicle

EVERY_S: Final = 1.0
HISTORY_EVERY_S: Final = 5.0
HISTORY_S: Final = 600.0
SPAN: Final = 5
"""A point of the stream is about the last so many snapshots: percentiles of one second alone jump."""
MOST_LISTENERS: Final = 32
QUEUE: Final = 4
BUFFER_BYTES: Final = 262_144
BEAT_S: Final = 10.0
RETRY_MS: Final = 2000
MOST_FILTER: Final = 128
TOLD_AGAIN: Final = 40
"""So many of the latest events are in every snapshot, should one be missed."""
_log = structlog.get_logger("router_daemon.admin")


class Listener:
    """One open stream: what is still to be sent, and the connection to end where it is not read."""

    def __init__(self, transport: asyncio.Transport | None) -> None:
        self._transport = transport
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE)

    def put(self, message: bytes | None) -> bool:
        """Have something sent, None: the end; False where too much is waiting already."""
        try:
            self.queue.put_nowait(message)
        except asyncio.QueueFull:
            return False
        return True

    def drop(self) -> None:
        """End the connection without sending the rest."""
        if self._transport is not None:
            self._transport.abort()


class Live:
    """The stream and the history.

    Args:
        broker: looked at.
        chronicle: of what has happened to it.
        clock: seconds, the broker's. calendar: seconds since 1970.
        every_s: between two snapshots. history_every_s: between two points of the history.

    Attributes:
        snapshots: how many were made. dropped: listeners that did not read.
    """

    def __init__(
        self,
        broker: Broker,
        chronicle: Chronicle,
        clock: Callable[[], float],
        calendar: Callable[[], float],
        *,
        every_s: float = EVERY_S,
        history_every_s: float = HISTORY_EVERY_S,
    ) -> None:
        self._broker = broker
        self._chronicle = chronicle
        self._clock = clock
        self._calendar = calendar
        self._every_s = every_s
        self._history_every_s = history_every_s
        self._glance = Glance(broker)
        self._listeners: set[Listener] = set()
        self._history: deque[dict[str, Any]] = deque(maxlen=int(HISTORY_S / HISTORY_EVERY_S))
        self._moments: deque[Moment] = deque(maxlen=SPAN + 1)
        self._kept: Moment | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._boot = secrets.token_hex(8)
        self.snapshots = self.dropped = 0

    # --- life ---

    def start(self) -> None:
        """Begin to keep the history."""
        self._tasks["history"] = asyncio.get_running_loop().create_task(self._keep_history())

    async def stop(self) -> None:
        """Say goodbye to every listener, and end."""
        for listener in self._listeners:
            if not listener.put(None):
                listener.drop()
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)

    # --- HTTP ---

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Open /events and /snapshot."""
        router.add_get("/events", self._events)
        router.add_get("/snapshot", self._snapshot)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if len(self._listeners) >= MOST_LISTENERS:
            error = {"error": f"{MOST_LISTENERS} listen already, and no more may"}
            return web.json_response(error, status=503, headers={"Retry-After": "10"})
        listener = Listener(request.transport)
        self._listeners.add(listener)
        try:
            return await self._serve(request, listener)
        finally:
            self._listeners.discard(listener)

    async def _serve(self, request: web.Request, listener: Listener) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        if request.transport is not None:
            request.transport.set_write_buffer_limits(high=BUFFER_BYTES)
        self._look_often()
        with contextlib.suppress(ConnectionError):
            await response.write(b"retry: %d\n\n" % RETRY_MS + _event("history", self._told()))
            while (message := await _next(listener)) is not None:
                await response.write(message)
            await response.write_eof()
        return response

    async def _snapshot(self, request: web.Request) -> web.Response:
        """Answer one snapshot, of the backends that a filter finds; weights are as old as the listeners' are."""
        wanted = request.query.get("backends", "")[:MOST_FILTER]
        later = self._moment()
        if not self._listeners:
            await self._glance.refresh(later.now)
            later = self._moment()
        body = msgspec.json.encode(self._show(self._earlier(later), later, wanted))
        return web.Response(body=body, content_type="application/json", charset="utf-8")

    # --- what is kept and told ---

    def keep(self) -> None:
        """Add a point to the history: what has happened since the last one."""
        later = self._moment()
        if self._kept is not None:
            self._history.append(between(self._kept, later, self._broker))
        self._kept = later

    async def _keep_history(self) -> None:
        while True:
            self.keep()
            await asyncio.sleep(self._history_every_s)

    def _look_often(self) -> None:
        """Make snapshots from now on, until nobody listens any more."""
        task = self._tasks.get("stream")
        if task is None or task.done():
            self._tasks["stream"] = asyncio.get_running_loop().create_task(self._stream())

    async def _stream(self) -> None:
        due_s = asyncio.get_running_loop().time()
        while self._listeners:
            try:
                await self._tell_all()
            except Exception:  # noqa: BLE001 - the page must go on, and not in silence
                _log.exception("fault while making a snapshot")
            due_s = max(due_s + self._every_s, asyncio.get_running_loop().time())
            await asyncio.sleep(due_s - asyncio.get_running_loop().time())
        self._moments.clear()
        self._glance.forget()

    async def _tell_all(self) -> None:
        await self._glance.refresh(self._clock())
        later = self._moment()
        earlier = self._earlier(later)
        self._moments.append(later)
        message = _event("snapshot", self._show(earlier, later))
        self.snapshots += 1
        for listener in list(self._listeners):
            if not listener.put(message):
                self._listeners.discard(listener)
                self.dropped += 1
                listener.drop()

    def _earlier(self, later: Moment) -> Moment:
        """Return the moment with which the present one is compared."""
        if self._moments:
            return self._moments[0]
        return self._kept or later

    def _moment(self) -> Moment:
        return moment_of(self._broker, self._clock(), self._calendar())

    def _show(self, earlier: Moment, later: Moment, wanted: str = "") -> dict[str, Any]:
        return {
            "boot": self._boot,
            "version": __version__,
            "point": between(earlier, later, self._broker),
            **self._glance.show(earlier, later, wanted),
            "events": self._chronicle.since(self._chronicle.last - TOLD_AGAIN),
        }

    def _told(self) -> dict[str, Any]:
        """Return what who comes is told at first."""
        return {"boot": self._boot, "points": list(self._history), "events": self._chronicle.since()}


def _event(name: str, data: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))


async def _next(listener: Listener) -> bytes | None:
    """Return what is to be sent next, None at the end."""
    try:
        return await asyncio.wait_for(listener.queue.get(), BEAT_S)
    except TimeoutError:
        return b": still here\n\n"
