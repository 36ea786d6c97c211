"""The shell around the broker: receive a batch, handle it, send, arm one timer; and the life cycle of the process.

Rules:
- `turn` is the only place where messages move. It reads the clock once per batch and never waits; while input may
  remain it asks to be called again, so that timers, HTTP and signals get their turn between two batches.
- One loop timer serves all deadlines. It is armed again only for an earlier one: a wake-up for nothing is cheaper than
  re-arming per message.
- An exception while handling an event is a fault of ours: it is logged, a SEND is answered with `internal`, and the
  daemon goes on.
- First signal: no new SENDs, the open ones have `drain_timeout_s`. Second signal: exit at once.
- SIGHUP, and POST /reload: read the configuration again, see `reloading`.
- In a ring the loop calls the node, which calls the broker; without one nothing of it is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, Final

import structlog

from router_daemon import __version__
from router_daemon.admin.server import AdminServer
from router_daemon.assembly import make_broker, make_node, make_tracer, make_transport, microseconds, reconfigure
from router_daemon.config import Config
from router_daemon.config.changes import Changes
from router_daemon.config.tokens import admin_token
from router_daemon.core.actions import Action
from router_daemon.core.broker import Broker
from router_daemon.core.chronicle import Chronicle
from router_daemon.core.events import Event
from router_daemon.core.operating import Operator
from router_daemon.core.settings import Settings
from router_daemon.logs import configure_logging
from router_daemon.news import Teller
from router_daemon.operations.keeper import OperationsKeeper
from router_daemon.reloading import Reloader
from router_daemon.ring.node import Node
from router_daemon.state import StateKeeper
from router_daemon.tracing import Marking
from router_daemon.transport import LINGER_S, Transport

FLUSH_EVERY_S: Final = 0.005
GC_YOUNG_OBJECTS: Final = 20_000
"""Per message a dozen short-lived objects; the default of 700 would scan every open message many times a second."""

_log = structlog.get_logger("router_daemon")


class Loop:
    """Moves messages between a transport and a broker, on an event loop.

    Args:
        broker: decides; in a ring, the node around it.
        transport: receives and sends.
        batch_messages, batch_s: a batch ends with whichever comes first.
        clock: seconds, monotonic.
        teller: takes the news.
    """

    def __init__(
        self,
        broker: Broker | Node,
        transport: Transport,
        *,
        batch_messages: int,
        batch_s: float,
        clock: Callable[[], float] = time.monotonic,
        teller: Teller | None = None,
    ) -> None:
        self.broker = broker
        self._teller = teller or Teller(Chronicle())
        self._transport = transport
        self.configure(batch_messages=batch_messages, batch_s=batch_s)
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._again = False

    def configure(self, *, batch_messages: int, batch_s: float) -> None:
        """Set when a batch ends."""
        self._batch_messages = batch_messages
        self._batch_s = batch_s

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to look at the clock, and at what has come."""
        self._loop = loop
        self.broker.start(self._clock())
        self.wake()

    def wake(self) -> None:
        """Something may have come."""
        if self._loop is not None and not self._again:
            self._again = True
            self._loop.call_soon(self.turn)

    def turn(self) -> None:
        """Receive one batch, handle it, send what comes of it, and arm the timer."""
        self._again = False
        if self._loop is None:
            return
        events = self._transport.receive(self._batch_messages, self._batch_s)
        now = self._clock()
        actions = self._handle(events, now)
        deadline = self.broker.next_deadline()
        if deadline is not None and deadline <= now:
            actions += self.broker.on_timer(now)
            self._log_faults("fault while doing what is due")
        self._send(actions, now)
        self._teller.tell(self.broker)
        if events or actions:  # sending may have consumed the edge of what has come meanwhile
            self.wake()
        else:
            self._arm(now)

    def stop(self) -> None:
        """End everything open and say goodbye; nothing is handled after this."""
        now = self._clock()
        self._send(self.broker.stop(now), now)
        if self._timer is not None:
            self._timer.cancel()
        self._loop = None

    def _handle(self, events: list[Event], now: float) -> list[Action]:
        actions = self.broker.handle_all(events, now)
        self._log_faults("fault while handling an event")
        return actions

    def _log_faults(self, what: str) -> None:
        for kind, fault in self.broker.faults:
            _log.error(what, kind=kind, exc_info=fault)
        self.broker.faults.clear()

    def _send(self, actions: list[Action], now: float) -> None:
        problems = self._transport.flush() if self._transport.parked else []
        problems += self._transport.send(actions)
        while problems:
            problems = self._transport.send(self._handle(problems, now))

    def _arm(self, now: float) -> None:
        """Set the one timer to the next moment at which something is due, unless it rings before that anyway."""
        deadline = self.broker.next_deadline()
        due = float("inf") if deadline is None else deadline
        if self._transport.parked:
            due = min(due, now + FLUSH_EVERY_S)
        if due >= self._timer_at or self._loop is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_later(max(0.0, due - now), self._rang)

    def _rang(self) -> None:
        self._timer = None
        self._timer_at = float("inf")
        self.turn()


class Daemon:
    """One process: sockets, broker, admin HTTP, signals.

    Args:
        config: to begin with.
        read: returns it as its sources have it at the time, for a reload; None: there is none.

    Raises:
        StartError: OpenTelemetry is missing; from `start`, where an address cannot be listened on, or the state's
            directory not written.
    """

    def __init__(self, config: Config, read: Callable[[], Config] | None = None) -> None:
        self.chronicle = Chronicle(microseconds())
        self._teller = Teller(self.chronicle)
        self.reloader = Reloader(config, read, self._apply, self._teller.note)
        seed = config.routing.seed
        self.seed = secrets.randbits(32) if seed is None else seed
        self.tracer = make_tracer(config)
        self.broker = make_broker(config, self.seed, self.tracer)
        self.node = make_node(config, self.broker)
        self.transport = make_transport(config)
        self.loop = Loop(
            self.node or self.broker,
            self.transport if self.tracer is None else Marking(self.transport, self.tracer),
            **_batches(config),
            teller=self._teller,
        )
        self.operator = Operator(self.broker)
        self.admin = AdminServer(
            self.broker,
            config.admin.bind,
            node=self.node,
            operator=self.operator,
            token=admin_token(config.admin),
            changed=self._changed,
            traces=None if self.tracer is None else self.tracer.counts,
            reload=self.reloader.reload,
            chronicle=self.chronicle,
            loaded=self.reloader.loaded,
        )
        state = config.state
        self.state = StateKeeper(
            self.broker, state.dir, write_every_s=state.write_every_s, read_younger_s=state.read_younger_s
        )
        self.operations = OperationsKeeper(
            self.broker,
            self.operator,
            directory=state.dir,
            rollback_file=config.rollout.rollback_file,
            wake=self.loop.wake,
        )
        self._signals = 0
        self._drained = asyncio.Event()
        self._reloads: set[asyncio.Task[None]] = set()

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.reloader.config

    async def run(self, *, signals: bool = True) -> int:
        """Serve until a signal, or until `stop` where several daemons share a process; return the exit code."""
        try:
            await self._start(signals=signals)
            await self._until_drained()
            write = await self.state.finish()
            self.loop.stop()
            if self._signals < 2:
                await asyncio.to_thread(write)
        finally:
            await self._close()
        _log.info("stopped", forced=self._signals > 1)
        return 0 if self._signals < 2 else 1

    async def _start(self, *, signals: bool) -> None:
        loop = asyncio.get_running_loop()
        self.state.restore()
        self.operations.restore()
        config = self.config
        addresses = [config.frontend.addresses, config.backend.addresses]
        addresses += [config.ring.addresses] if self.node else []
        bound = await self.transport.start(addresses, self.loop.wake)
        await self.admin.start()
        for number in (signal.SIGTERM, signal.SIGINT) if signals else ():
            loop.add_signal_handler(number, self.stop)
        if signals:
            loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        if self.tracer is not None:
            self.tracer.start()
        self.loop.start(loop)
        self.state.start()
        self.operations.start()
        gc.freeze()
        gc.set_threshold(GC_YOUNG_OBJECTS, 20, 50)
        notify_systemd("READY=1")
        self._log_start(*bound)

    async def _changed(self) -> None:
        self.loop.wake()  # there may be news to log
        await self.operations.save()

    async def _close(self) -> None:
        await self.admin.stop()
        await self.operations.finish(write=self._signals < 2)
        await self.transport.close(LINGER_S if self._signals < 2 else 0.0)
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.finish, LINGER_S if self._signals < 2 else 0.0)

    def stop(self) -> None:
        """Drain, and then exit; called again: exit at once."""
        self._signals += 1
        if self._signals == 1:
            notify_systemd("STOPPING=1")
            _log.info("draining", open_messages=self.loop.broker.open_messages)
            self.loop.broker.start_drain()
            self.loop.wake()  # others may have to be told
        self._drained.set()

    def _hang_up(self) -> None:
        """Reload, as SIGHUP says to daemons."""
        task = asyncio.get_running_loop().create_task(self.reloader.reload_at_signal())
        self._reloads.add(task)  # the loop itself does not keep it
        task.add_done_callback(self._reloads.discard)

    def _apply(self, found: Changes, settings: Settings) -> None:
        """Have everything go on under another configuration."""
        before, config = self.config, found.config
        reconfigure(self.broker, before, config, settings, time.monotonic())
        self.loop.configure(**_batches(config))
        if config.log != before.log:
            configure_logging(config.log.level, config.log.format)
        self.loop.wake()

    async def _until_drained(self) -> None:
        """Wait for the first signal, then until nothing is open, the time is up, or a second signal comes."""
        await self._drained.wait()
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self.config.limits.drain_timeout_s
        while (self.loop.broker.open_messages or self.transport.parked) and self._signals == 1:
            if loop.time() >= give_up_at:
                _log.warning("drain timeout", open_messages=self.loop.broker.open_messages)
                return
            await asyncio.sleep(0.01)

    def _log_start(self, frontend: list[str], backend: list[str], ring: list[str] | None = None) -> None:
        config = self.config
        more: dict[str, Any] = {"ring": ring, "name": config.ring.name} if ring else {}
        _log.info(
            "serving",
            version=__version__,
            engine=config.transport.engine,
            frontend=frontend,
            backend=backend,
            admin=config.admin.bind,
            policy=config.routing.policy,
            mode=config.routing.mode,
            seed=self.seed,
            loop=type(asyncio.get_running_loop()).__module__,
            **more,
        )
        self._teller.note("daemon started", config.ring.name, f"version {__version__}, policy {config.routing.policy}")


def _batches(config: Config) -> dict[str, Any]:
    return {"batch_messages": config.limits.batch_messages, "batch_s": config.limits.batch_ms / 1000.0}


def notify_systemd(state: str) -> None:
    """Tell systemd (`Type=notify`), where it started us; see sd_notify(3)."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
            notifier.connect("\0" + path[1:] if path.startswith("@") else path)
            notifier.sendall(state.encode())


def run(config: Config, read: Callable[[], Config] | None = None) -> int:
    """Run a daemon in this thread until a signal; return the exit code. Arguments as of `Daemon`.

    Raises:
        StartError: it cannot listen.
    """
    _raise_open_files()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_main(config, read))


def _raise_open_files() -> None:
    """Allow as many open files as we may: a connection is one.

    The soft limit is 1024 in many containers and shells, for programs that use select(2); nothing here does.
    """
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # what the kernel calls unlimited may be more than it gives
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _main(config: Config, read: Callable[[], Config] | None) -> int:
    return await Daemon(config, read).run()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory, or None (asyncio's own) where there is no uvloop."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None
    factory: Any = uvloop.new_event_loop
    return factory  # type: ignore[no-any-return]
