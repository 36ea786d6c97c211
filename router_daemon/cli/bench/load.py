"""The clients of one process: what they send when, and how long it takes.

Rules:
- They are the Python SDK's own (`router_daemon.Client`): what is measured is what a Python program gets, with the cost
  of the SDK in it. How busy this process was is told with it, since a client that is busy measures itself.
- Open loop: a message has its moment, drawn beforehand. Its latency counts from that moment, however late it left: a
  stall is then seen by all whom it holds up, not by one (Tene's "coordinated omission"). How late messages left is told
  beside it.
- Measured is what was to leave within the window; it is waited for beyond its end. Warm-up comes before.
- The event loop waits by select(2): epoll rounds up to milliseconds, and would make each message late by half of one.
- Who cannot send a message within its time to live gives it up (`not_sent`): else a run that asks for too much would go
  on until all of it is done.
- What fails at once because there is no connection is not tried again at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Final

from router_daemon.cli.bench.plan import Plan
from router_daemon.cli.bench.samples import Samples
from router_daemon.client import Client
from router_daemon.errors import ConnectionLost, RouterError
from router_daemon.sdk.answers import SendKeys

LOST_PAUSE_S: Final = 0.1
LAG_STEP_S: Final = 0.01
NOT_SENT: Final = "not_sent"


class Measured:
    """What the clients of a process found.

    Attributes:
        answered, failed: latencies from when a message was to leave, by how it ended.
        late: how long after that it left.
        codes: how many ended how; `answered`, or the error code. backends: who answered.
        ended: how many got an answer within the window, whenever they left.
        cpu: of one core, what the process took within the window. lag: how late timers of `LAG_STEP_S` rang in it.
        held_back: messages that could not leave at their moment, as `concurrency` of their client were open.
    """

    def __init__(self, seed: int) -> None:
        self.answered, self.failed, self.late, self.lag = (Samples(seed) for _ in range(4))
        self.codes: Counter[str] = Counter()
        self.backends: Counter[str] = Counter()
        self.ended = 0
        self.cpu = 0.0
        self.held_back = 0


class Load:
    """Sends what a plan says.

    Args:
        plan: of the whole run.
        clients: how many of its clients are here.
        rate: messages per second from here; None for a closed loop.
        seed: of the moments.
        clock: seconds, that of every process of this machine.
    """

    def __init__(
        self, plan: Plan, clients: int, rate: float | None, seed: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._plan = plan
        self._clients = [Client(plan.frontend, ttl_ms=plan.ttl_ms) for _ in range(clients)]
        self._rate = rate
        self._rng = Random(seed)
        self._clock = clock
        self._body = self._rng.randbytes(plan.size)
        self._keys = SendKeys(mode=plan.mode, priority=plan.priority)
        self._begin = self._end = 0.0
        self._stopped = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()
        self.measured = Measured(seed)

    async def run(self, begin: float) -> None:
        """Warm up from `begin` on, measure, and wait for what is open."""
        plan = self._plan
        self._begin = begin + plan.warmup_s
        self._end = self._begin + plan.seconds
        async with contextlib.AsyncExitStack() as stack:
            for client in self._clients:
                await stack.enter_async_context(client)
            watch = asyncio.create_task(self._watch_cpu())
            try:
                await self._until(begin)
                await (self._closed_loops() if self._rate is None else self._open_loop(begin, self._rate))
            finally:
                await watch

    def stop(self) -> None:
        """End the window now; what is open is waited for."""
        self._end = min(self._end, self._clock())
        self._stopped.set()

    @property
    def window_s(self) -> float:
        """For how long it has measured, once it has ended."""
        return max(0.0, self._end - self._begin)

    async def _watch_cpu(self) -> None:
        """Note what this process takes of a core within the window, and how long it waits for one."""
        await self._until(self._begin)
        began, cpu = self._clock(), time.process_time()
        while (asleep := self._clock()) < self._end:
            await self._until(asleep + LAG_STEP_S)
            self.measured.lag.add(max(0.0, self._clock() - asleep - LAG_STEP_S))
        took_s = self._clock() - began
        self.measured.cpu = (time.process_time() - cpu) / took_s if took_s > 0.0 else 0.0

    async def _until(self, moment: float) -> None:
        """Return at a moment, or when the window was ended before it."""
        left_s = moment - self._clock()
        if left_s > 0.0 and not self._stopped.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._stopped.wait()

    # --- closed ---

    async def _closed_loops(self) -> None:
        async with asyncio.TaskGroup() as group:
            for client in self._clients:
                for _ in range(self._plan.concurrency):
                    group.create_task(self._closed_loop(client))

    async def _closed_loop(self, client: Client) -> None:
        while (now := self._clock()) < self._end:
            await self._one(client, now)

    # --- open ---

    async def _open_loop(self, begin: float, rate: float) -> None:
        """Begin one message after the other, each at its moment; each client has its turn."""
        room = [asyncio.Semaphore(self._plan.concurrency) for _ in self._clients]
        due, turn = begin, 0
        while True:
            due += 1.0 / rate if self._plan.even else self._rng.expovariate(rate)
            if due >= self._end:
                break
            await self._until(due)
            if due >= self._end:  # it was stopped meanwhile
                break
            place = room[turn]
            if place.locked():
                self.measured.held_back += due >= self._begin
                await place.acquire()
            else:
                await place.acquire()  # at once
            now = self._clock()
            if now - due > self._plan.ttl_ms / 1000.0:
                place.release()
                self._note(due, now, now, NOT_SENT, "")
                continue
            task = asyncio.create_task(self._open_one(self._clients[turn], due, place))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
            turn = (turn + 1) % len(self._clients)
        while self._open:
            await asyncio.wait(self._open)

    async def _open_one(self, client: Client, due: float, place: asyncio.Semaphore) -> None:
        try:
            await self._one(client, due)
        finally:
            place.release()

    # --- one message ---

    async def _one(self, client: Client, due: float) -> None:
        sent, code, backend = self._clock(), "answered", ""
        try:
            backend = (await client.send(self._plan.capability, self._body, **self._keys)).backend
        except RouterError as error:
            code = error.code
        self._note(due, sent, self._clock(), code, backend)
        if code == ConnectionLost.code:
            await asyncio.sleep(LOST_PAUSE_S)

    def _note(self, due: float, sent: float, ended: float, code: str, backend: str) -> None:
        measured = self.measured
        if code == "answered" and self._begin <= ended < self._end:
            measured.ended += 1
        if not self._begin <= due < self._end:
            return
        measured.codes[code] += 1
        measured.late.add(sent - due)
        if code == "answered":
            measured.backends[backend] += 1
            measured.answered.add(ended - due)
        else:
            measured.failed.add(ended - due)


def precise_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop whose timers are not rounded to milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())
