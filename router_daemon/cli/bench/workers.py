"""The processes of a run: built-in backends first, then the clients, all measuring the same window.

Rules:
- Each is a fresh process with a pipe. It says that it is ready, then now and then how far it is, and at the end what it
  found; the parent says when to begin, and when to stop.
- Ctrl-C is the parent's: it ends the window early, and what was measured until then is told. A second one ends all.
- A process ends with its parent, however that ends, and the parent kills what does not end.
- The clock (CLOCK_MONOTONIC) is the same for all processes of a machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final, NamedTuple

from router_daemon.cli.bench.echo import Echoes, reason_of, worth_a_line
from router_daemon.cli.bench.load import Load, Measured, precise_loop
from router_daemon.cli.bench.plan import Plan, shares
from router_daemon.cli.bench.samples import Samples, merged
from router_daemon.cli.exits import NO_DAEMON, REFUSED, CommandError
from router_daemon.cli.processes import end_with_parent
from router_daemon.errors import RouterError

START_S: Final = 30.0
LEAD_S: Final = 0.2
TICK_S: Final = 0.25
STOP_S: Final = 10.0
BACKENDS_EACH: Final = 8

Progress = Callable[[float, int, int], None]
"""Told now and then: seconds since the beginning of the warm-up, messages answered, and not answered."""


class Outcome(NamedTuple):
    """What a run found.

    Attributes:
        seconds: for which it measured.
        lag: how late timers of the clients rang.
        client_cpu, backend_cpu: of one core, of the busiest process of each kind within the window.
        interrupted: by Ctrl-C.
    """

    answered: Samples
    failed: Samples
    late: Samples
    lag: Samples
    codes: Counter[str]
    backends: Counter[str]
    seconds: float
    ended: int
    held_back: int
    client_cpu: float
    backend_cpu: float
    interrupted: bool


class Unable(NamedTuple):
    """What a process says that cannot go on: the exit code, and why."""

    exit_code: int
    why: str


class Child(NamedTuple):
    """A process and the pipe to it."""

    process: BaseProcess
    pipe: Connection

    def receive(self, timeout_s: float) -> Any:
        """Return what it says next.

        Raises:
            CommandError: it said nothing, has ended, or says why it cannot go on.
        """
        try:
            said = self.pipe.recv() if self.pipe.poll(timeout_s) else None
        except EOFError:
            said = None
        if said is None:
            raise CommandError(NO_DAEMON, f"a process of the run ended or hangs: {self.process.name}")
        if isinstance(said, Unable):
            raise CommandError(*said)
        return said


def run(plan: Plan, progress: Progress) -> Outcome:
    """Do what a plan says.

    Raises:
        CommandError: the daemon does not take the built-in backends, or a process ended early.
    """
    with _children("backends", _be_backends, plan, _parts(plan.backends)) as backends:
        for child in backends:
            child.receive(START_S)
        rates = [
            None if plan.rate is None else plan.rate * n / plan.clients for n in shares(plan.clients, plan.processes)
        ]
        jobs = list(zip(shares(plan.clients, plan.processes), rates, strict=True))
        with _children("clients", _be_clients, plan, jobs) as clients:
            for child in clients:
                child.receive(START_S)
            begin = time.monotonic() + LEAD_S
            for child in (*backends, *clients):
                child.pipe.send(begin)
            found, interrupted = _follow(clients, progress, plan, begin)
            for child in backends:
                child.pipe.send("stop")
            busy = [child.receive(STOP_S) for child in backends]
    return _outcome(plan, found, interrupted, busy)


def _parts(backends: int) -> list[int]:
    return shares(backends, -(-backends // BACKENDS_EACH)) if backends else []


@contextmanager
def _children(what: str, job: Callable[..., None], plan: Plan, parts: Sequence[Any]) -> Iterator[list[Child]]:
    """Start a process for each part; at the end, none is left."""
    context = get_context("spawn")
    children: list[Child] = []
    try:
        for number, part in enumerate(parts):
            ours, theirs = context.Pipe()
            name = f"bench {what} {number + 1}"
            process = context.Process(target=job, args=(theirs, plan, part, number), name=name, daemon=True)
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: it imports for a while before `_prepare`
            try:
                process.start()
            finally:
                signal.signal(signal.SIGINT, before)
            theirs.close()
            children.append(Child(process, ours))
        yield children
    finally:
        for child in children:
            child.pipe.close()  # which ends it where it is well
        for child in children:
            child.process.join(STOP_S if child.process.exitcode is None else 0.0)
            if child.process.is_alive():
                child.process.kill()
                child.process.join()


def _follow(
    clients: Sequence[Child], progress: Progress, plan: Plan, begin: float
) -> tuple[list[tuple[Measured, float]], bool]:
    """Return what each process of clients found and when its window ended; tell how they do until then."""
    latest = dict.fromkeys(range(len(clients)), (0, 0))
    found: dict[int, tuple[Measured, float]] = {}
    interrupted = False
    most_s = plan.warmup_s + plan.seconds + plan.ttl_ms / 1000.0 + START_S
    while len(found) < len(clients):
        try:
            if time.monotonic() - begin > most_s:
                raise CommandError(NO_DAEMON, "the clients got no end of it")
            open_ = [child.pipe for number, child in enumerate(clients) if number not in found]
            wait(open_, TICK_S)
            for number, child in enumerate(clients):
                while number not in found and child.pipe.poll():
                    said = child.receive(0.0)
                    if isinstance(said[0], Measured):
                        found[number] = said
                    else:
                        latest[number] = said
            answered, others = map(sum, zip(*latest.values(), strict=True))
            progress(time.monotonic() - begin, answered, others)
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            for child in clients:
                child.pipe.send("stop")
    return [found[number] for number in range(len(clients))], interrupted


def _outcome(plan: Plan, found: Sequence[tuple[Measured, float]], interrupted: bool, busy: Sequence[float]) -> Outcome:
    measured = [each for each, _ in found]
    codes, backends = Counter[str](), Counter[str]()
    for each in measured:
        codes.update(each.codes)
        backends.update(each.backends)
    return Outcome(
        merged(each.answered for each in measured),
        merged(each.failed for each in measured),
        merged(each.late for each in measured),
        merged(each.lag for each in measured),
        codes,
        backends,
        max((seconds for _, seconds in found), default=plan.seconds),
        sum(each.ended for each in measured),
        sum(each.held_back for each in measured),
        max((each.cpu for each in measured), default=0.0),
        max(busy, default=0.0),
        interrupted,
    )


# --- in the processes ---


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def _be_clients(pipe: Connection, plan: Plan, part: tuple[int, float | None], number: int) -> None:
    _prepare()
    clients, rate = part
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(_clients(pipe, Load(plan, clients, rate, plan.seed * 1000 + number)))


async def _clients(pipe: Connection, load: Load) -> None:
    begin = await _begin(pipe)
    if begin is None:
        return
    stopping = asyncio.create_task(_on_word(pipe, load.stop))
    telling = asyncio.create_task(_tell(pipe, load.measured))
    await load.run(begin)
    for task in (stopping, telling):
        task.cancel()
    await asyncio.wait((stopping, telling))
    _say(pipe, (load.measured, load.window_s))


async def _begin(pipe: Connection) -> float | None:
    """Say that this process is ready, and return when to begin; None where the parent will not say so any more."""
    _say(pipe, "ready")
    try:
        moment: float = await asyncio.to_thread(pipe.recv)
    except EOFError:
        return None
    return moment


def _say(pipe: Connection, what: Any) -> None:
    with contextlib.suppress(OSError):  # the parent has ended, or does not want to know
        pipe.send(what)


async def _tell(pipe: Connection, measured: Measured) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        answered = measured.codes["answered"]
        _say(pipe, (answered, measured.codes.total() - answered))


async def _on_word(pipe: Connection, stop: Callable[[], None]) -> None:
    """Stop when the parent says so, or has ended."""
    came = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(pipe.fileno(), came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(pipe.fileno())
    stop()


def _be_backends(pipe: Connection, plan: Plan, count: int, number: int) -> None:
    _prepare()
    logging.getLogger("router_daemon.sdk.runner").addFilter(worth_a_line)
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(_backends(pipe, plan, Echoes(plan, count, plan.seed * 1000 + 500 + 50 * number)))


async def _backends(pipe: Connection, plan: Plan, echoes: Echoes) -> None:
    try:
        await echoes.start()
    except (RouterError, TimeoutError) as error:
        _say(pipe, Unable(REFUSED if isinstance(error, RouterError) else NO_DAEMON, reason_of(error)))
        return
    begin = await _begin(pipe)
    if begin is None:
        await echoes.stop()
        return
    await asyncio.sleep(max(0.0, begin + plan.warmup_s - time.monotonic()))
    began, cpu = time.monotonic(), time.process_time()
    over = asyncio.Event()
    word = asyncio.create_task(_on_word(pipe, over.set))
    await over.wait()
    await word
    busy = (time.process_time() - cpu) / max(1e-3, time.monotonic() - began)
    await echoes.stop()
    _say(pipe, busy)
