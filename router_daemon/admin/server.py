"""The admin HTTP server: what may be read, what `commands` has, and POST /reload.

Rules: handlers read the broker on the loop it lives on, so they see a consistent state; of many backends a part at a
time, so that messages get their turn. What takes long (rendering) runs in a thread on a copy. Errors are JSON with one
clear sentence. /livez and /readyz say one word. Who may change something: `writes`.
"""

from __future__ import annotations

import asyncio
import base64
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from aiohttp import web

from router_daemon import __version__
from router_daemon.admin.assets import Assets, wants_page
from router_daemon.admin.commands import BODY_BYTES, Commands
from router_daemon.admin.decisions import wanted_of
from router_daemon.admin.gate import Gate
from router_daemon.admin.live import Live
from router_daemon.admin.ring import ring_view
from router_daemon.config.loaded import Loaded
from router_daemon.core import views, whys
from router_daemon.core.broker import Broker
from router_daemon.core.chronicle import MOST_AT_ONCE, Chronicle
from router_daemon.core.operating import Operator
from router_daemon.core.placement import UnknownRouteError
from router_daemon.errors import ConfigError, StartError
from router_daemon.metrics import OPENMETRICS, TEXT, Snapshot, render
from router_daemon.operating_metrics import Operations
from router_daemon.ring.node import Node

if TYPE_CHECKING:
    from router_daemon.reloading import Reloaded

SHUTDOWN_S: Final = 1.0
MOST_DIGITS: Final = 18
LINE_BYTES: Final = 131_072
"""An embedding may come in a query: of 16,000 numbers, the most a header on the wire holds, it takes 86,000 bytes."""


class AdminServer:
    """Serves one broker.

    Args:
        broker: whose state is shown.
        bind: HOST:PORT, or "" for no server.
        clock: seconds, the broker's. calendar: seconds since 1970.
        node: where the broker is one of a ring.
        operator: does what the pages that write are asked. token: for those, "" for none. changed: awaited after each.
        chronicle: of what has happened. loaded: what is known of the configuration.
        traces: what became of traced messages, by result; None where none are.
    """

    def __init__(
        self,
        broker: Broker,
        bind: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        calendar: Callable[[], float] = time.time,
        node: Node | None = None,
        operator: Operator | None = None,
        token: str = "",
        changed: Callable[[], Awaitable[None]] | None = None,
        traces: Mapping[str, int] | None = None,
        reload: Callable[[], Awaitable[Reloaded]] | None = None,
        chronicle: Chronicle | None = None,
        loaded: Loaded | None = None,
    ) -> None:
        self._broker = broker
        self._chronicle = chronicle or Chronicle()
        self._operator = operator or Operator(broker)
        self._operations = Operations(self._operator, self._chronicle, loaded)
        self._gate = Gate(bind, token)
        self._commands = Commands(
            self._operator,
            self._gate,
            self._routes_view,
            self._drained_view,
            _json,
            clock=clock,
            calendar=calendar,
            done=changed,
        )
        self._live = Live(broker, self._chronicle, clock, calendar)
        self._node = node
        self._traces = traces
        self._reload = reload
        self._bind = bind
        self._clock = clock
        self._calendar = calendar
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            StartError: the address cannot be listened on.
        """
        if not self._bind:
            return
        host, _, port = self._bind.rpartition(":")
        self._runner = web.AppRunner(
            self._app(), access_log=None, shutdown_timeout=SHUTDOWN_S, max_line_size=LINE_BYTES
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host.strip("[]"), int(port)).start()
        except OSError as error:
            await self.stop()
            raise StartError(f"cannot listen on {self._bind} (admin): {error.strerror}") from None
        self._live.start()

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._live.stop()
            await self._runner.cleanup()
            self._runner = None

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES)
        self._assets = Assets()
        self._assets.add_to(app.router)
        self._live.add_to(app.router)
        app.router.add_get("/", self._index)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/backends", self._backends)
        app.router.add_get("/backends/drain", self._drained)
        app.router.add_get("/routes", self._routes)
        app.router.add_get("/explain", self._explain)
        app.router.add_get("/decisions", self._decisions)
        app.router.add_get("/decisions/{id:.+}", self._why)
        app.router.add_get("/events/recent", self._events)
        app.router.add_get("/ring", self._ring)
        self._commands.add_to(app.router)
        if self._reload is not None:
            app.router.add_post("/reload", self._reloaded)
        return app

    async def _index(self, request: web.Request) -> web.Response:
        if wants_page(request.headers.get("Accept", "")):
            return self._assets.index(request)
        pages = ["/metrics", "/backends", "/routes", "/explain", "/decisions", "/events/recent", "/snapshot", "/ring"]
        return await _json({"router-daemon": __version__, "see": [*pages, "/livez", "/readyz"], "stream": "/events"})

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if self._broker.draining:
            return web.Response(text="draining\n", status=503)
        return web.Response(text="ok\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        openmetrics = "application/openmetrics-text" in request.headers.get("Accept", "")
        snapshot = Snapshot(self._broker, self._clock(), self._node, self._operations, self._traces)
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(None, lambda: render(snapshot, openmetrics=openmetrics))
        return web.Response(body=body, headers={"Content-Type": OPENMETRICS if openmetrics else TEXT})

    async def _backends(self, _: web.Request) -> web.Response:
        rows = []
        for part in views.backend_parts(self._broker, self._clock()):
            rows += part
            await asyncio.sleep(0)
        return await _json({"backends": rows} | self._drained_view())

    async def _drained(self, _: web.Request) -> web.Response:
        return await _json(self._drained_view())

    async def _ring(self, _: web.Request) -> web.Response:
        return await _json({} if self._node is None else ring_view(self._node, self._clock()))

    async def _routes(self, _: web.Request) -> web.Response:
        return await _json(self._routes_view())

    def _drained_view(self) -> dict[str, Any]:
        return {"drained": views.drained(self._broker, self._clock())}

    def _routes_view(self) -> dict[str, Any]:
        return views.routes(self._broker, self._clock()) | self._operator.view()

    async def _explain(self, request: web.Request) -> web.Response:
        capability = request.query.get("capability", "")
        priority = request.query.get("priority", "2")
        if not capability:
            return await _json({"error": "capability is missing: /explain?capability=NAME&priority=1..4"}, 400)
        if priority not in {"1", "2", "3", "4"}:
            return await _json({"error": f"priority must be 1, 2, 3 or 4, got {priority!r}"}, 400)
        max_cost = _cost(request.query.get("max_cost"))
        if max_cost is not None and not 0.0 <= max_cost < math.inf:
            return await _json(
                {"error": f"max_cost must be a number from 0 on, got {request.query['max_cost']!r}"}, 400
            )
        try:
            embedding = _embedding(request.query.get("embedding"))
        except ValueError as error:
            return await _json({"error": f"embedding must be finite numbers between commas, or float32: {error}"}, 400)
        asked = {name: request.query.get(name) for name in ("route", "key")}
        now = self._clock()
        try:
            view = views.explain(
                self._broker, capability, int(priority), now, max_cost=max_cost, embedding=embedding, **asked
            )
        except UnknownRouteError as error:
            return await _json({"error": str(error)}, 404)
        return await _json(view)

    async def _decisions(self, request: web.Request) -> web.Response:
        now = self._clock()
        try:
            wanted, limit = wanted_of(request.query, now)
        except ValueError as error:
            return await _json({"error": str(error)}, 400)
        return await _json(whys.search(self._broker, wanted, limit, now, self._calendar()))

    async def _events(self, request: web.Request) -> web.Response:
        since, limit = request.query.get("since", "0"), request.query.get("limit", str(MOST_AT_ONCE))
        for name, text in (("since", since), ("limit", limit)):
            if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
                return await _json({"error": f"{name} must be a whole number from 0 on, got {text!r}"}, 400)
        return await _json(self._chronicle.view(int(since), min(int(limit), MOST_AT_ONCE)))

    async def _why(self, request: web.Request) -> web.Response:
        text, now = request.match_info["id"], self._clock()
        found = whys.why(self._broker, text, now, self._calendar())
        if not found:
            return await _json({"error": whys.nothing(self._broker, text, now)}, 404)
        return await _json({"decisions": found})

    async def _reloaded(self, request: web.Request) -> web.Response:
        assert self._reload is not None
        objection = self._gate.objection(request.headers, request.content_type)
        if objection is not None:
            return await _json({"error": objection.why}, objection.status)
        try:
            reloaded = await self._reload()
        except ConfigError as error:
            return await _json({"error": str(error)}, 422)
        return await _json(reloaded.view())


def _cost(text: str | None) -> float | None:
    """Return a number, None where nothing was said; what is none becomes one that is out of bounds."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return math.nan


def _embedding(text: str | None) -> bytes | None:
    """Return an embedding as on the wire, from numbers between commas or from little-endian float32 in base64url.

    Raises:
        ValueError: it is neither, or not finite.
    """
    if text is None:
        return None
    if "," in text or _is_number(text):
        numbers = np.array([float(number) for number in text.split(",")])
        if not (np.abs(numbers) <= np.finfo(np.float32).max).all():
            raise ValueError("a number is none, or too large")
        return numbers.astype("<f4").tobytes()
    packed = base64.b64decode(text, altchars=b"-_", validate=True)
    if len(packed) % 4 or not np.isfinite(np.frombuffer(packed, "<f4")).all():
        raise ValueError("no multiple of 4 bytes, or not finite")
    return packed


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


async def _json(data: Any, status: int = 200) -> web.Response:
    body = await asyncio.get_running_loop().run_in_executor(None, _encoded, data)
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8")


def _encoded(data: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(data), indent=2) + b"\n"
