"""Built-in backends of one process: they wait as long as the plan says and give the body back, or fail.

They are the Python SDK's (`router_daemon.Backend`), on one event loop. Names: `bench-PID-N`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from random import Random
from typing import Final

from router_daemon.backend import Backend
from router_daemon.cli.bench.plan import BENCH, Plan
from router_daemon.errors import RouterError
from router_daemon.sdk.deliveries import Delivery

REGISTER_S: Final = 10.0


def worth_a_line(record: logging.LogRecord) -> bool:
    """Tell whether a line of the log is worth one: not each failure that was asked for."""
    return not (record.exc_info and record.exc_info[0] is Fault)


class Fault(Exception):  # noqa: N818 - becomes the NACK's reason
    """What the plan wants to fail."""


class Echoes:
    """Some backends.

    Args:
        plan: of the run.
        count: how many of its backends are here.
        seed: of their work and failures.
    """

    def __init__(self, plan: Plan, count: int, seed: int) -> None:
        self._plan = plan
        self.backends = [self._make(f"{BENCH}-{os.getpid()}-{number}", seed + number) for number in range(1, count + 1)]
        self._running: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Return once all are registered.

        Raises:
            RouterError: the daemon does not take one.
            TimeoutError: it does not answer.
        """
        self._running = [asyncio.create_task(backend.run()) for backend in self.backends]
        async with asyncio.timeout(REGISTER_S):
            for backend, task in zip(self.backends, self._running, strict=True):
                registered = asyncio.create_task(backend.wait_registered())
                await asyncio.wait((registered, task), return_when=asyncio.FIRST_COMPLETED)
                if task.done():
                    registered.cancel()
                    await task
                await registered

    async def stop(self) -> None:
        """Drain all, and leave."""
        await asyncio.gather(*(backend.stop() for backend in self.backends))
        await asyncio.gather(*self._running, return_exceptions=True)

    def _make(self, name: str, seed: int) -> Backend:
        plan, rng = self._plan, Random(seed)
        backend = Backend(name, plan.backend, slots=plan.slots, group=BENCH, drain_timeout_s=2.0)

        @backend.handler(plan.capability)
        async def echo(delivery: Delivery) -> list[bytes]:
            work_s, fails = plan.work.draw(rng), rng.random() < plan.failing
            if work_s > 0.0:
                await asyncio.sleep(work_s)
            if fails:
                raise Fault("bench wants this one to fail")
            return delivery.body

        return backend


def reason_of(error: BaseException) -> str:
    """Return why backends could not be started, in a line."""
    if isinstance(error, TimeoutError):
        return f"the built-in backends were not registered within {REGISTER_S:g} s"
    return f"the daemon does not take the built-in backends: {error}" if isinstance(error, RouterError) else str(error)
