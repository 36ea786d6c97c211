"""The backend SDK: decorate a function, and the daemon routes messages to it.

Rules:
- Every delivery is answered by exactly one ACK or NACK, whatever the handler does, unless the registration it belongs
  to has ended: then the result is dropped, for the daemon has given the message to somebody else.
- Handlers run on the event loop (`async def`, async generators) or in a pool of `slots` threads (`def`); the socket
  and the heartbeats belong to a thread of their own, so a handler that blocks loses no registration.
- At most `slots` deliveries run at once; up to `prefetch` more wait here and start in order. What expired while it
  waited is not begun. Unless it is said, `prefetch` follows the length of the work (`sdk.prefetch` has the rule).
- A CANCEL ends an async handler where it awaits. A thread cannot be ended: its function may look at
  `delivery.cancelled`, and what it returns after all is sent, as the protocol allows.

Example:
    ```python
    backend = Backend("trends-1", slots=4)

    @backend.handler("trend_analysis")
    async def trend(delivery: Delivery) -> bytes:
        return slope(delivery.data)

    backend.serve()
    ```
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from router_daemon.errors import ConnectionLost
from router_daemon.sdk.backend_link import BackendLink
from router_daemon.sdk.deliveries import Answer, Busy, Delivery, Function, Handler, Reject
from router_daemon.sdk.link import header_of
from router_daemon.sdk.prefetch import AdaptivePrefetch
from router_daemon.sdk.registration import LinkEvent
from router_daemon.sdk.runner import Runner

__all__ = ["Answer", "Backend", "Busy", "Delivery", "Reject"]

DEFAULT_ADDRESS: Final = "tcp://127.0.0.1:5571"
SESSION_BYTES: Final = 16
F = TypeVar("F", bound=Function)


class Backend:
    """A backend system under a name, with a handler for each capability it offers.

    It registers by itself, again whenever the daemon comes back, and keeps its deliveries over a lost connection.

    Args:
        name: known to the daemon and in its metrics; one registration each.
        address: the daemon's backend socket, `tcp://host:port` or `ipc://path`.
        slots: how many deliveries are worked on at once.
        prefetch: how many more may wait here, which saves the round trip between two, but binds a message to this
            backend where another may be free first. None: as many as slots while work takes less than 25 ms on
            average, 0 above 50 ms, as measured here; by UPDATE at most once a second. docs/benchmarks.md says why.
        capabilities: offered beside those of the handlers; for a handler of everything (`@backend.handler()`).
        drain_timeout_s: how long open deliveries may take once `stop()` was called.
        keys: of REGISTER: `embedding` (floats, a numpy array or bytes), `cost`, `zone`, `group`, `version`,
            `resources`; None leaves one out.

    Example:
        ```python
        backend = Backend("llm-1", slots=2, cost=0.002, zone="eu-1")

        @backend.handler("chat")
        async def chat(delivery: Delivery) -> AsyncIterator[bytes]:
            async for token in model.generate(delivery.data):
                yield token                        # a PART each; an Answer as the last item ends the stream

        @backend.handler("embed", "rerank")
        def blocking(delivery: Delivery) -> bytes:  # a plain function runs in a thread
            if not delivery.data:
                raise Reject("nothing to work on")
            return encode(delivery.data)

        backend.serve()
        ```
    """

    def __init__(
        self,
        name: str,
        address: str = DEFAULT_ADDRESS,
        *,
        slots: int = 1,
        prefetch: int | None = None,
        capabilities: Sequence[str] = (),
        drain_timeout_s: float = 10.0,
        **keys: Any,
    ) -> None:
        self.name = name
        self.address = address
        self.slots = _check_count("slots", slots, 1)
        self._adapts = prefetch is None
        self.prefetch = 0 if prefetch is None else _check_count("prefetch", prefetch, 0)
        self.drain_timeout_s = drain_timeout_s
        self.session = os.urandom(SESSION_BYTES)
        self._capabilities = list(capabilities)
        self._keys = header_of(keys.items())
        self._handlers: dict[str, Handler] = {}
        self._default: Handler | None = None
        self._link: BackendLink | None = None
        self._runner: Runner | None = None
        self._stopping = False
        self._ended: asyncio.Future[None] | None = None
        self._gone = asyncio.Event()
        self._registered = asyncio.Event()
        self._updating = asyncio.Lock()
        self._update: tuple[dict[str, Any], asyncio.Future[None]] | None = None

    @property
    def capabilities(self) -> list[str]:
        """Return what this backend offers: the capabilities of its handlers, then those given at the start."""
        return list(dict.fromkeys([*self._handlers, *self._capabilities]))

    def handler(self, *capabilities: str) -> Callable[[F], F]:
        """Decorate the function that works on deliveries of these capabilities; of all others without any.

        The function takes a `Delivery` and returns bytes, a list of frames, None or an `Answer`; an async generator
        yields its pieces. `Reject` and `Busy` say why not; any other exception is a failure of this backend.

        Raises:
            ValueError: a capability has a handler already.
            TypeError: a plain generator.
        """

        def register(function: F) -> F:
            handler = Handler.of(function)
            if not capabilities:
                if self._default is not None:
                    raise ValueError("there is a handler for all other capabilities already")
                self._default = handler
            for capability in capabilities:
                if capability in self._handlers:
                    raise ValueError(f"there is a handler for {capability!r} already")
                self._handlers[capability] = handler
            return function

        return register

    def serve(self) -> None:
        """Run until SIGINT or SIGTERM, which drain; a second one ends at once, and open deliveries go elsewhere.

        Blocks. In a thread other than the main one there are no signals: use `run()` and `stop()`.

        Raises:
            RouterError: the daemon refuses the registration for good (`bad_header`, `forbidden`, ...).
        """
        asyncio.run(self._serve())

    async def run(self) -> None:
        """Register and work until `stop()`; cancelling it leaves at once.

        Raises:
            RouterError: as `serve`.
            ValueError: there is no capability to offer.
            zmq.ZMQError: an address that cannot be read.
        """
        if self._link is not None:
            raise RuntimeError(f"the backend {self.name!r} is running already")
        adaptive = AdaptivePrefetch(self.slots) if self._adapts else None
        if adaptive is not None:
            self.prefetch = adaptive.value
        link = BackendLink(self.address, self._header(), self._hand_over(), self.drain_timeout_s)
        link.start()
        self._gone, self._ended = asyncio.Event(), asyncio.get_running_loop().create_future()
        register = partial(_register_prefetch, link)
        self._runner = Runner(self.name, self.slots, self._find, link.put, link.discard, adaptive, register)
        self._link, self._stopping = link, False
        try:
            await self._ended
        finally:
            link.abort()
            await self._runner.close()
            self._link = None
            await asyncio.to_thread(link.join)
            self._release()

    async def stop(self) -> None:
        """Take no more deliveries, finish the open ones (for `drain_timeout_s` at most), and wait for the end.

        From inside a handler call `request_stop()`: this would wait for the handler itself.
        """
        if self._link is not None:
            self.request_stop()
            await self._gone.wait()

    def request_stop(self) -> None:
        """Begin to drain, and return at once; for handlers, signals and other threads."""
        if (link := self._link) is not None:
            link.drain()

    async def wait_registered(self) -> None:
        """Return once the registration is in force.

        Raises:
            ConnectionLost: the backend ended before that.
        """
        await self._registered.wait()
        if self._link is None:
            raise ConnectionLost(f"the backend {self.name!r} is not running", retry=True)

    async def update(self, **keys: Any) -> None:
        """Change keys of the registration while it is in force, such as `slots`, `cost`, `capabilities`.

        A `prefetch` stays what it is made here: the backend does not adapt it any more.

        Example:
            ```python
            await backend.update(slots=8, cost=0.001)
            ```

        Raises:
            RouterError: the daemon did not take them; then nothing has changed.
            ConnectionLost: the backend is not running, or ended meanwhile.
        """
        if "name" in keys or "session" in keys:
            raise ValueError("a backend keeps its name and its session")
        header = header_of(keys.items())
        if "slots" in header:
            _check_count("slots", header["slots"], 1)
        if "prefetch" in header:
            _check_count("prefetch", header["prefetch"], 0)
        async with self._updating:
            if self._link is None:
                raise ConnectionLost(f"the backend {self.name!r} is not running", retry=True)
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if "prefetch" in header:
                self._keep_prefetch()
            self._update = (header, done)
            self._link.update(header)
            await done

    def _keep_prefetch(self) -> None:
        """Adapt the prefetch no more: the user has said it."""
        assert self._runner is not None
        self._adapts = False
        self._runner.keep_prefetch()

    async def _serve(self) -> None:
        """Run with signal handlers."""
        loop = asyncio.get_running_loop()
        installed = []
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError, RuntimeError):  # no signals in this thread
                loop.add_signal_handler(number, self._on_signal)
                installed.append(number)
        try:
            await self.run()
        finally:
            for number in installed:
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        """The first signal drains, the second ends at once."""
        if (link := self._link) is None:
            return
        if self._stopping:
            link.abort()
        self._stopping = True
        link.drain()

    def _header(self) -> dict[str, Any]:
        """Return REGISTER's header."""
        if not (capabilities := self.capabilities):
            raise ValueError(f"the backend {self.name!r} has no handler, and no capabilities to offer")
        counts = {"slots": self.slots, "prefetch": self.prefetch}
        return {"name": self.name, "capabilities": capabilities, **counts, "session": self.session, **self._keys}

    def _find(self, capability: str) -> Handler | None:
        """Return the handler for a capability."""
        return self._handlers.get(capability, self._default)

    def _hand_over(self) -> Callable[[BackendLink, list[LinkEvent]], None]:
        """Return what the link's thread calls with its events."""
        loop = asyncio.get_running_loop()

        def hand_over(link: BackendLink, events: list[LinkEvent]) -> None:
            try:
                loop.call_soon_threadsafe(self._on_events, link, events)
            except RuntimeError:  # the loop was closed under a running backend
                link.abort()

        return hand_over

    def _on_events(self, link: BackendLink, events: list[LinkEvent]) -> None:
        """Take what the link's thread has to say; nothing of a link that this backend has left."""
        for event in events:
            if link is self._link:
                self._on_event(event)

    def _on_event(self, event: LinkEvent) -> None:
        """Pass one event to where it belongs."""
        assert self._runner is not None
        assert self._ended is not None
        if event.kind == "deliver":
            self._runner.deliver(event.header, event.body)
        elif event.kind == "cancel":
            self._runner.cancel(event.header["id"])
        elif event.kind == "broken":
            self._runner.drop(event.header["id"])
        elif event.kind == "room":
            self._runner.room()
        elif event.kind == "registered":
            self._registered.set()
        elif event.kind == "lost":
            self._registered.clear()
            self._runner.drop_all()
        elif event.kind in ("updated", "refused"):
            self._on_update(event)
        elif not self._ended.done():
            if event.error is None:
                self._ended.set_result(None)
            else:
                self._ended.set_exception(event.error)

    def _on_update(self, event: LinkEvent) -> None:
        """Take over what the daemon took, and tell who asked, if they still wait."""
        assert self._runner is not None
        if event.error is None:
            self._keys.update(event.header)
            self.prefetch = self._keys.pop("prefetch", self.prefetch)
            self.slots = self._keys.pop("slots", self.slots)
            self._runner.set_slots(self.slots)
        keys, done = self._update or ({}, None)
        if done is None or done.done() or keys is not event.header:
            return
        if event.error is None:
            done.set_result(None)
        else:
            done.set_exception(event.error)

    def _release(self) -> None:
        """Let go whoever waits for a backend that has ended."""
        if self._update is not None and not self._update[1].done():
            self._update[1].set_exception(ConnectionLost(f"the backend {self.name!r} has ended", retry=True))
        self._registered.set()
        self._registered = asyncio.Event()
        self._gone.set()


def _check_count(name: str, value: Any, least: int) -> int:
    """Return `value` when it is an int from `least` on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an int from {least} on, not {value!r}")
    return value


def _register_prefetch(link: BackendLink, prefetch: int) -> None:
    """Have a prefetch registered from now on; a refusal is not repeated, for the next one would be refused, too."""
    link.update({"prefetch": prefetch})
