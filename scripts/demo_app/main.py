"""The demo itself: start everything, feed it, show it, tell what was found, leave nothing behind.

Rules:
- One event loop; the daemon and each backend are processes of their own. The feed ends by time, by Ctrl-C (or SIGTERM,
  SIGHUP), at the end of the file, or when the daemon dies; whatever the reason, the summary is told and all children
  are ended. A second Ctrl-C ends everything at once.
- A backend that dies is said, and nothing else happens here: the daemon routes around it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

from demo_app import csv_input, show
from demo_app.feed import Feed, FileFeed, LiveFeed
from demo_app.gauges import Gauges
from demo_app.ledger import Ledger
from demo_app.options import PLAIN_SECONDS, Options
from demo_app.pipeline import Pipeline
from demo_app.processes import Child, Troupe
from demo_app.roster import ROSTER
from demo_app.summary import WIDTH, Ending, tell
from demo_app.table import Scene
from router_daemon import Client

START_S: Final = 20.0
"""How long the daemon and the backends may take to be there, on a slow machine."""
START_POLL_S: Final = 0.1


class DemoError(Exception):
    """The demo cannot run, or ended early; the text says why."""


class Datagrams(asyncio.DatagramProtocol):
    """The other end of the syslog backend: counts what arrives."""

    def __init__(self) -> None:
        self.count = 0

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:  # noqa: ARG002 - asyncio's signature
        """Count one."""
        self.count += 1


class Demo:
    """One run."""

    def __init__(
        self, options: Options, feed: Feed, seconds: float | None, console: show.Output, directory: Path
    ) -> None:
        self._options = options
        self._feed = feed
        self._seconds = math.inf if seconds is None else seconds
        self._console = console
        self._troupe = Troupe(directory, options.seed, options.rollout or "")
        self._gauges = Gauges(self._troupe.admin)
        self._ledger = Ledger()
        self._datagrams = Datagrams()
        self._stop = asyncio.Event()
        self._why = ""
        self._fault = ""
        self._notes: list[str] = []
        self._began_s = math.nan
        self._ended_s = math.nan

    async def run(self) -> None:
        """Play from start to summary; raises `DemoError` when the daemon or the backends did not run."""
        self._listen_to_signals()
        self._console.on_closed = self._on_output_closed
        try:
            if await self._unless_stopped(self._start()):
                await self._play()
                self._tell()
            else:
                self._say(f"{self._why} before the feed began.")
        finally:
            await self._troupe.stop()
        if self._fault:
            raise DemoError(self._fault)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stop.is_set() and self._why.startswith("Stopped"):
            self._troupe.kill()
            raise SystemExit(128 + number)
        self._end("Stopped by Ctrl-C" if number == signal.SIGINT else f"Stopped by {number.name}")

    def _on_output_closed(self) -> None:
        self._fault = "nobody reads the output any more"
        self._end("The output was closed")

    def _end(self, why: str) -> None:
        if not self._stop.is_set():
            self._why = why
            self._ended_s = time.monotonic()
            self._stop.set()

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Return whether `work` finished before somebody stopped the demo."""
        task = asyncio.create_task(work)
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finished = task.done()
        await _cancel(stopped, *([] if finished else [task]))
        if finished:
            task.result()
        return finished

    async def _start(self) -> None:
        """Start the daemon, then the backends, and wait until all of them are registered."""
        self._say(f"Starting the daemon and {len(ROSTER)} backend processes ...")
        loop = asyncio.get_running_loop()
        daemon = await self._troupe.start_daemon()
        transport, _ = await loop.create_datagram_endpoint(lambda: self._datagrams, ("127.0.0.1", 0))
        await self._troupe.start_backends(transport.get_extra_info("sockname")[1])
        deadline_s = time.monotonic() + START_S
        async with self._gauges.session() as session:
            while not await self._gauges.poll(session) or self._missing():
                if not daemon.running:
                    raise DemoError(self._obituary(daemon))
                if time.monotonic() > deadline_s:
                    break
                await asyncio.sleep(START_POLL_S)
        self._report_start(daemon)

    def _missing(self) -> list[str]:
        """Return the backends that the daemon does not list as up and that may still come."""
        listed = self._gauges.last.backends
        return [
            name
            for name, child in self._troupe.backends.items()
            if child.running and not listed.get(name, {}).get("up")
        ]

    def _report_start(self, daemon: Child) -> None:
        missing = self._missing()
        if not any(entry.get("up") for entry in self._gauges.last.backends.values()):
            child = next(iter(self._troupe.backends.values()))
            raise DemoError(f"no backend registered within {START_S:.0f} s\n{_words(daemon)}\n{_words(child)}")
        pids = ", ".join(f"{child.name} {child.pid}" for child in self._troupe.backends.values())
        self._say(f"Daemon: pid {daemon.pid}, metrics at http://{self._troupe.admin}/metrics")
        self._say(f"See in a browser why messages go where they go: http://{self._troupe.admin}/")
        self._say(f"Backends by pid: {pids}")
        for name in missing:
            self._say(f"{name} did not register within {START_S:.0f} s; going on without it")

    async def _play(self) -> None:
        """Feed and show until the end."""
        self._say(f"Feeding {self._feed.title}. Ctrl-C ends it with the summary.")
        self._began_s = time.monotonic()
        async with Client(self._troupe.frontend) as client:
            feeding = asyncio.create_task(Pipeline(client, self._ledger, self._feed.when).run(self._feed))
            feeding.add_done_callback(lambda _: self._end("The file was through"))
            following = asyncio.create_task(self._gauges.follow())
            watching = asyncio.create_task(self._troupe.watch(self._on_child_end))
            try:
                await self._show()
            finally:
                await _cancel(feeding)
                await _cancel(following, watching)
        if not feeding.cancelled() and (error := feeding.exception()) is not None:
            raise error
        async with self._gauges.session() as session:
            await self._gauges.poll(session)

    def _on_child_end(self, child: Child) -> None:
        if child is self._troupe.daemon:
            self._fault = self._obituary(child)
            self._end("The daemon died")
            return
        loss = f"backend {child.name} (pid {child.pid}) was lost, {child.fate()}; its messages go to the others"
        self._notes.append(loss)
        self._ledger.news.append(loss)
        if not self._console.is_terminal:
            self._say(loss)

    def _obituary(self, daemon: Child) -> str:
        return f"the daemon is gone: {daemon.fate()}\n{_words(daemon)}"

    async def _show(self) -> None:
        """Draw until the stop."""
        stage = show.stage_for(self._console)
        due_s = self._began_s
        try:
            while not self._stop.is_set():
                stage.draw(self._scene())
                due_s = max(due_s + stage.period_s, time.monotonic())
                end_s = self._began_s + self._seconds
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), max(0.0, min(due_s, end_s) - time.monotonic()))
                if time.monotonic() >= end_s:
                    self._end("Ended")
            stage.draw(self._scene())
        finally:
            stage.close()
        if self._options.picture is not None:
            try:
                show.save_picture(self._scene(), self._options.picture)
            except OSError as error:
                self._notes.append(f"the picture was not saved: {error}")

    def _scene(self) -> Scene:
        now_s = time.monotonic() if math.isnan(self._ended_s) else self._ended_s
        elapsed_s = now_s - self._began_s
        return Scene(self._feed.title, elapsed_s, self._gauges.last, self._ledger, self._troupe.backends)

    def _tell(self) -> None:
        spool = self._troupe.spool
        notes = [*self._notes, *self._feed.notes()]
        if self._ledger.windows_delayed:
            notes.append(f"{self._ledger.windows_delayed} windows waited for earlier ones")
        ending = Ending(
            scene=self._scene(),
            why=self._why,
            when=self._feed.when,
            notes=notes,
            spooled=len(spool.read_text().splitlines()) if spool.exists() else 0,
            datagrams=self._datagrams.count,
            seed=self._options.seed,
        )
        tell(self._console, ending)
        if self._ledger.sent and not self._ledger.answered and not self._fault:
            self._fault = "not a single message was answered"

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _words(child: Child) -> str:
    return f"{child.name} said last:\n{child.last_words() or '(nothing)'}"


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _feed_for(options: Options, seconds: float | None) -> Feed:
    if options.input is None:
        return LiveFeed(options.rate)
    return FileFeed(csv_input.read(options.input), options.rate, seconds)


def run(options: Options) -> int:
    """Run the demo; returns the exit code."""
    console = show.Output(width=None if sys.stdout.isatty() else WIDTH)
    seconds = options.seconds if options.seconds is not None or console.is_terminal else PLAIN_SECONDS
    if options.picture is not None and not options.picture.parent.is_dir():
        print(f"demo: {options.picture.parent} is no directory for the picture", file=sys.stderr)
        return 2
    try:
        feed = _feed_for(options, seconds)
    except csv_input.InputError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory(prefix="router-demo-") as directory:
            asyncio.run(Demo(options, feed, seconds, console, Path(directory)).run())
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0
