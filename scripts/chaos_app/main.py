"""One run: start everything, measure the capacity, act under half of it, wait for the last answers, tell.

Rules:
- Whatever happens, Ctrl-C included, every child is ended; the ledger is printed as far as it got.
- The seed is printed first; the schedule and all choices are drawn from it (what the machine does is not).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

import zmq

from chaos_app.acts import ACTS, ENDS_DAEMON
from chaos_app.books import FATES, Books
from chaos_app.load import Load
from chaos_app.options import Options, parse
from chaos_app.report import Finding, findings, ledger, wrapped
from chaos_app.scene import Scene
from chaos_app.schedule import Schedule
from chaos_app.stage import SPECS, Stage, StageError

SHARE: Final = 0.5
"""Of the capacity, that the ordinary clients offer."""
BETWEEN_S: Final = 0.5
LAST_ANSWERS_S: Final = 12.0
ACT_S: Final = 60.0
LOOK_S: Final = 0.2
_RATE_FLOOR: Final = 20.0


class Run:
    """One run; `say` prints a line. After `play`, `scene` has everything that was counted."""

    def __init__(self, options: Options, directory: Path, say: Callable[[str], None]) -> None:
        self.options = options
        self._say = say
        self._directory = directory
        self._began_s = time.monotonic()
        self.scene: Scene
        self.capacity = 0.0

    async def play(self) -> list[Finding]:
        """Run and return what was found.

        Raises:
            StageError: a process did not do what it must.
        """
        options = self.options
        self._say(wrapped(f"seed {options.seed}: {options.seconds:.0f} s of {', '.join(options.acts)}", 10))
        async with self._staged() as scene:
            self.capacity = await scene.load.capacity(options.capacity_seconds)
            scene.load.rate = max(_RATE_FLOOR, SHARE * self.capacity)
            self._note(f"capacity {self.capacity:.0f} messages/s; the load from now on is {scene.load.rate:.0f}/s")
            await self._act(scene)
            await self._finish(scene)
            return findings(scene, options.goodput)

    @contextlib.asynccontextmanager
    async def _staged(self) -> AsyncIterator[Scene]:
        """Start all, and end all."""
        options = self.options
        stage = Stage(self._directory, options.seed, options.settings)
        books = Books(options.slack_ms / 1000.0)
        with zmq.Context() as context:
            rng = random.Random(f"load {options.seed}")
            load = Load(context, stage.frontend, f"tcp://127.0.0.1:{stage.front_proxy_port}", books, rng)
            scene = self.scene = Scene(stage, books, load, context, random.Random(f"acts {options.seed}"))
            scene.flood_seconds, scene.pace = options.flood_seconds, options.pace
            scene.say = self._note
            tasks = [asyncio.create_task(load.run()), asyncio.create_task(scene.memory.watch())]
            try:
                await self._start(scene)
                yield scene
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                load.close()
                if sys.exc_info()[0] is not None:
                    stage.kill()
                await asyncio.shield(_ended(scene))
        for task in tasks:
            if not task.cancelled() and (fault := task.exception()) is not None:
                raise fault

    async def _start(self, scene: Scene) -> None:
        await scene.front.start()
        await scene.back.start()
        await scene.start_daemon()
        for spec in SPECS:
            await scene.stage.start_backend(spec)
        await scene.all_back()
        self._note(f"daemon pid {scene.daemon.pid}, {len(SPECS)} backends registered")

    async def _act(self, scene: Scene) -> None:
        schedule = Schedule(self.options)
        began_s = time.monotonic()
        while (name := schedule.next(time.monotonic() - began_s)) is not None:
            before = scene.counts()
            told = await self._perform(scene, name)
            await asyncio.sleep(BETWEEN_S * scene.pace)
            self._note(f"{name}: {told}")
            self._say(wrapped(f"{'':10}{_difference(before, scene.counts())}", 10))

    async def _perform(self, scene: Scene, name: str) -> str:
        """Play one act, unless it takes too long or the daemon dies in it."""
        act = asyncio.ensure_future(ACTS[name](scene))
        until_s = time.monotonic() + ACT_S
        try:
            while not (await asyncio.wait({act}, timeout=LOOK_S))[0]:
                if not scene.daemon.running and name not in ENDS_DAEMON:
                    raise StageError(f"the daemon died in {name}: {scene.daemon.fate()}\n{scene.daemon.last_words()}")
                if time.monotonic() > until_s:
                    raise StageError(f"{name} did not end within {ACT_S:.0f} s")
            return act.result()
        finally:
            act.cancel()
            await asyncio.gather(act, return_exceptions=True)

    async def _finish(self, scene: Scene) -> None:
        """Wait for the last answers, read the daemon's books for the last time, and have it drain."""
        scene.load.rate = 0.0
        if not await scene.load.settle(LAST_ANSWERS_S):
            self._note(f"{len(scene.books.open)} messages are still open")
        page = await scene.page()
        until_s = time.monotonic() + LAST_ANSWERS_S
        while page.value("router_messages_in_flight") and time.monotonic() < until_s:  # those with `reply: none`
            await asyncio.sleep(LOOK_S)
            page = await scene.page()
        scene.pages.append(page)
        await scene.stage.stop_backends()
        daemon = scene.daemon
        daemon.signal(signal.SIGTERM)
        code = await scene.stage.ended(daemon)
        self._note(f"nothing more is sent; the daemon drained, exit code {code}")
        if code != 0:
            raise StageError(f"the daemon ended with exit code {code}\n{daemon.last_words()}")

    def _note(self, text: str) -> None:
        self._say(wrapped(f"{time.monotonic() - self._began_s:7.1f} s {text}", 10))


async def _ended(scene: Scene) -> None:
    await scene.stage.stop()
    await scene.front.stop()
    await scene.back.stop()


def _difference(before: Counter[str], after: Counter[str]) -> str:
    changes = [f"{after[name] - before[name]:+d} {name}" for name in ("sent", *FATES) if after[name] != before[name]]
    return ", ".join(changes) or "no message"


def tell(run: Run, found: list[Finding], say: Callable[[str], None]) -> bool:
    """Print the end and return whether all is well."""
    say("")
    say(ledger(run.scene.books))
    say("")
    for finding in found:
        say(wrapped(f"{'FAILED' if finding.wrong else 'ok':<6}  {finding.name}: {finding.found}", 8))
        for text in finding.wrong:
            say(f"{'':8}- {text}")
    well = not any(finding.wrong for finding in found)
    say(f"\nseed {run.options.seed}: {'everything balances' if well else 'it does NOT balance'}")
    return well


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and return the exit code."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="router-chaos-") as directory:
        return asyncio.run(_main(options, Path(directory)))


async def _main(options: Options, directory: Path) -> int:
    run = Run(options, directory, lambda text: print(text, flush=True))
    playing = asyncio.create_task(run.play())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, playing.cancel)
    try:
        found = await playing
    except asyncio.CancelledError:
        print("\nstopped; the ledger as far as it got:")
        print(ledger(run.scene.books) if hasattr(run, "scene") else "nothing was sent")
        return 130
    except StageError as error:
        print(f"\n{error}\n", file=sys.stderr)
        print(ledger(run.scene.books) if hasattr(run, "scene") else "nothing was sent")
        return 1
    return 0 if tell(run, found, print) else 1
