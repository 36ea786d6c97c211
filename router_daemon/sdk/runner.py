"""Runs deliveries: handlers on the event loop and in threads, at most `slots` at once.

Rules:
- Every delivery that came is settled exactly once, in `_settle`: by the end of its task, by a CANCEL before it began,
  or by having expired while it waited. A delivery whose registration has ended is `dropped`: it still ends here, and
  holds its slot until then, but nothing is sent for it.
- The task of a delivery only computes; what becomes of it is read from the finished task, so a task that is cancelled
  before its first step is settled like any other.
- A thread cannot be ended: a cancelled plain function goes on, holds its slot, and what it returns is sent.
- Where `prefetch` adapts, it is told of every start and end, and one timer at most asks it what comes without either.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from router_daemon.sdk.deliveries import (
    Answer,
    Busy,
    Delivery,
    Function,
    Handler,
    Reject,
    ack,
    answer_of,
    nack,
    refusal,
)
from router_daemon.sdk.link import body_frames, pack
from router_daemon.sdk.prefetch import AdaptivePrefetch

log = logging.getLogger(__name__)

END_TIMEOUT_S: Final = 1.0
"""How long closing waits for handlers that were cancelled to clean up."""


class Job:
    """A delivery in work.

    Attributes:
        delivery: what to work on.
        dropped: nobody waits for the result any more.
        task: computes the answer; None while the delivery waits for a slot.
        thread: the plain function's part of the task.
    """

    __slots__ = ("delivery", "dropped", "task", "thread")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.dropped = False
        self.task: asyncio.Task[Answer] | None = None
        self.thread: Future[Any] | None = None


class Runner:
    """The deliveries of one backend.

    Args:
        name: for the names of threads.
        slots: how many run at once.
        find: returns the handler for a capability, None where there is none.
        put: sends frames of a delivery; returns False when a stream should wait for `room`.
        discard: called with the id of each delivery that is over here, before its result is sent; returns how many
            are left.
        prefetch: adapts to the work; None where it is the user's.
        register: called with the prefetch to register from now on.
    """

    def __init__(
        self,
        name: str,
        slots: int,
        find: Callable[[str], Handler | None],
        put: Callable[[int, list[bytes]], bool],
        discard: Callable[[int], int],
        prefetch: AdaptivePrefetch | None,
        register: Callable[[int], None],
    ) -> None:
        self._name = name
        self._find = find
        self._put = put
        self._discard = discard
        self._prefetch = prefetch
        self._register = register
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._jobs: dict[int, Job] = {}
        self._waiting: deque[Job] = deque()
        self._room = asyncio.Event()
        self._threads: ThreadPoolExecutor | None = None
        self._slots = slots

    def deliver(self, header: Mapping[str, Any], body: list[bytes]) -> None:
        """Take a delivery: run it when a slot is free, in the order of arrival."""
        job = Job(Delivery.of(header, body))
        self._jobs[job.delivery.id] = job
        self._waiting.append(job)
        self._fill()

    def cancel(self, delivery_id: int) -> None:
        """The answer is no longer wanted; of a delivery that is settled already nothing happens."""
        if (job := self._jobs.get(delivery_id)) is not None:
            self._stop(job)

    def drop(self, delivery_id: int) -> None:
        """Stop a delivery that is answered already, and send nothing more for it."""
        if (job := self._jobs.get(delivery_id)) is not None:
            job.dropped = True
            self._stop(job)

    def drop_all(self) -> None:
        """The registration has ended: stop everything and send nothing for it."""
        for delivery_id in list(self._jobs):
            self.drop(delivery_id)

    def set_slots(self, slots: int) -> None:
        """Change how many run at once; what runs goes on."""
        self._slots = slots
        if self._prefetch is not None:
            self._prefetch.slots = slots
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None
        self._fill()

    def keep_prefetch(self) -> None:
        """Adapt it no more: the user has said it."""
        self._prefetch = None

    def room(self) -> None:
        """Let streams go on that waited for the daemon to take what they produced."""
        self._room.set()

    async def close(self) -> None:
        """Stop everything; handlers get a moment to clean up, threads are left to their functions."""
        self.keep_prefetch()
        if self._timer is not None:
            self._timer.cancel()
        self.drop_all()
        tasks = [job.task for job in self._jobs.values() if job.task is not None and job.thread is None]
        if tasks:
            await asyncio.wait(tasks, timeout=END_TIMEOUT_S)
        for job in self._jobs.values():
            if job.task is not None:
                job.task.cancel()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _fill(self) -> None:
        """Begin what waits, while there are slots."""
        while self._waiting and len(self._jobs) - len(self._waiting) < self._slots:
            job = self._waiting.popleft()
            if job.delivery.time_left_s <= 0:
                self._settle(job, refusal(job.delivery.id, "cancelled", "expired before it was begun"))
                continue
            job.task = self._loop.create_task(self._compute(job))
            job.task.add_done_callback(partial(self._on_end, job))
            if self._prefetch is not None:
                self._prefetch.begin(job.delivery.id, time.monotonic())
        self._adapt()

    def _stop(self, job: Job) -> None:
        """Cancel a delivery as far as it can be."""
        job.delivery.cancelled.set()
        if job.task is None:
            self._waiting.remove(job)
            self._settle(job, refusal(job.delivery.id, "cancelled", "cancelled before it was begun"))
            self._fill()
        elif job.thread is not None:
            job.thread.cancel()  # only where no thread has begun with it
        else:
            job.task.cancel()

    async def _compute(self, job: Job) -> Answer:
        """Run the handler."""
        handler = self._find(job.delivery.capability)
        if handler is None:
            raise LookupError(f"no handler for {job.delivery.capability!r}")
        if handler.style == "generator":
            return await self._stream(job, handler.function)
        if handler.style == "coroutine":
            return answer_of(await handler.function(job.delivery))
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._slots, f"router-daemon {self._name}")
        job.thread = self._threads.submit(_call, handler.function, job.delivery)
        result, error = await asyncio.wrap_future(job.thread)
        if error is not None:
            raise error
        return answer_of(result)

    async def _stream(self, job: Job, function: Function) -> Answer:
        """Send what an async generator yields, piece by piece, no faster than the daemon takes it."""
        header = {"id": job.delivery.id}
        async with contextlib.aclosing(function(job.delivery)) as items:
            async for item in items:
                if isinstance(item, Answer):
                    return answer_of(item)
                frames = pack("PART", header, body_frames(item))
                if not job.dropped and not self._put(job.delivery.id, frames):
                    self._room.clear()
                    await self._room.wait()
        return Answer()

    def _on_end(self, job: Job, task: asyncio.Task[Answer]) -> None:
        """The task is over: send what it came to, and begin with the next."""
        if self._prefetch is not None:
            busy = not task.cancelled() and isinstance(task.exception(), Busy)
            cancelled = job.delivery.cancelled.is_set()
            self._prefetch.end(job.delivery.id, time.monotonic(), cancelled=cancelled, busy=busy)
        self._settle(job, self._verdict(job, task))
        self._fill()

    def _adapt(self) -> None:
        """Register another prefetch where the work asks for it, now or when that is due."""
        if self._prefetch is None:
            return
        now = time.monotonic()
        if (prefetch := self._prefetch.change(now)) is not None:
            self._register(prefetch)
        if self._timer is None and (due := self._prefetch.due(now)) != math.inf:
            self._timer = self._loop.call_later(due - now, self._on_timer)

    def _on_timer(self) -> None:
        """Ask again; where what was due has moved on meanwhile, the timer goes with it."""
        self._timer = None
        self._adapt()

    def _settle(self, job: Job, frames: list[bytes]) -> None:
        """Be done with a delivery."""
        self._jobs.pop(job.delivery.id, None)
        self._discard(job.delivery.id)
        if not job.dropped:
            self._put(job.delivery.id, frames)

    def _verdict(self, job: Job, task: asyncio.Task[Answer]) -> list[bytes]:
        """Return the ACK or the NACK for a finished task."""
        delivery = job.delivery
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            try:
                return ack(delivery.id, task.result(), queue=self._discard(delivery.id))
            except (TypeError, ValueError, OverflowError) as fault:
                error = fault
        if delivery.cancelled.is_set():
            return refusal(delivery.id, "cancelled", "cancelled")
        if not isinstance(error, Reject | Busy):
            log.warning("delivery %d (%s) failed", delivery.id, delivery.capability, exc_info=error)
        return nack(delivery.id, error)


def _call(function: Function, delivery: Delivery) -> tuple[Any, Exception | None]:
    """Call a plain function in a thread; what it raises is a value, for not every exception fits into a future."""
    try:
        return function(delivery), None
    except Exception as error:  # noqa: BLE001 - it becomes a NACK
        return None, error
    except BaseException as error:  # noqa: BLE001 - sys.exit() in a thread ends this delivery, not the backend
        return None, RuntimeError(f"{type(error).__name__}: {error}")
