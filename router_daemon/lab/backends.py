"""A simulated backend: one queue, some workers, and a line to each daemon.

Rules:
- It answers every delivery once, as the SDK does: ACK or NACK `failed` when the work is over, NACK `busy` where its
  queue is too long, NACK `cancelled` for what it stopped or found expired before it was begun.
- Deliveries of all daemons stand in the same queue; `queue`, where it is reported, counts them all.
- What it draws comes from a generator of its own, in the order in which work begins here: a change elsewhere in the
  world does not reshuffle it.
- While it is paused or crashed nothing of it happens: what is due comes when the pause is over, or never.
"""

from __future__ import annotations

from collections import Counter, deque
from enum import IntEnum
from random import Random
from typing import TYPE_CHECKING, Final

from msgspec import UNSET, UnsetType

from router_daemon.core.actions import Deliver
from router_daemon.core.events import Ack, AckHeader, Nack, NackHeader, Part, PartHeader
from router_daemon.core.types import Body
from router_daemon.lab.specs import BackendSpec
from router_daemon.lab.timeline import BrokenError, Timeline, whole

if TYPE_CHECKING:
    from router_daemon.lab.lines import Line

GIVEN_UP_AFTER_HEARTBEATS: Final = 3
WORK_BYTES: Final = 8
"""The first frame of a body: the message's number in the world."""


class State(IntEnum):
    """Of a delivery at its backend."""

    WAITING = 0
    RUNNING = 1
    OVER = 2


class Job:
    """A delivery in a backend's hands."""

    __slots__ = ("body", "capability", "expires", "fails", "id", "left", "line", "parts", "state", "step_s")

    def __init__(self, line: Line, action: Deliver, expires: float) -> None:
        self.line = line
        self.id = action.header.id
        self.capability = action.header.capability
        self.body: Body = action.body
        self.expires = expires
        self.state = State.WAITING
        self.fails = False
        self.parts = 0
        self.step_s = 0.0


class Backend:
    """See the module.

    Attributes:
        up: its process runs. life: how often it has been started.
        waiting, running: deliveries in its hands.
        stretch: how much longer work takes by fault of the world (see `faults`).
        done: deliveries that ran to their end.
        strict: nothing may be sent to it but what it has registered for.
        places: no daemon may have more open here at once; None where the network blurs what is open.
    """

    def __init__(
        self, spec: BackendSpec, timeline: Timeline, rng: Random, works: list[float], happened: Counter[str]
    ) -> None:
        self.spec = spec
        self.lines: list[Line] = []
        self.up = False
        self.life = 0
        self.waiting = 0
        self.running = 0
        self.stretch = 1.0
        self.silent = spec.silent
        self.strict = False
        self.places: int | None = None
        self.done = 0
        self.busy_s = 0.0
        self._timeline = timeline
        self._rng = rng
        self._works = works
        self._happened = happened
        self._samplers = {name: service.sampler(rng) for name, service in spec.services().items()}
        self.capabilities = list(self._samplers)
        self._queue: deque[Job] = deque()
        self._paused_until = 0.0
        self._began_at = timeline.now
        self._started_at = timeline.now
        self._steady = not spec.slowness and spec.warm_up is None

    # --- its life ---

    def start(self, _: object = None) -> None:
        """Start the process: nothing is remembered, every daemon is told anew."""
        if self.up:
            return
        self.up = True
        self.life += 1
        self._started_at = self._timeline.now
        if self.life == 1 and self._started_at > self._began_at:
            self._happened["late"] += 1
        for line in self.lines:
            line.start()

    def crash(self, _: object = None) -> None:
        """End the process at once: what it had is gone."""
        self.up = False
        self._queue.clear()
        self.waiting = self.running = 0
        self._paused_until = 0.0
        for line in self.lines:
            for job in line.jobs.values():
                job.state = State.OVER
            line.die()

    def pause(self, seconds: float) -> None:
        """Stand still, as a stopped process does."""
        self._paused_until = max(self._paused_until, self._timeline.now + seconds)

    @property
    def paused_until(self) -> float:
        """Before this time nothing happens here."""
        return self._paused_until

    # --- deliveries ---

    def take(self, line: Line, action: Deliver) -> None:
        """DELIVER: begin, queue, or refuse."""
        spec = self.spec
        if action.header.capability not in self._samplers:
            if self.strict:
                raise BrokenError(f"{spec.name} cannot do what it was sent: {action}")
            line.answer(Nack(line.peer, False, NackHeader(action.header.id, "no handler for that")))
            return
        if spec.busy_over is not None and self.running >= spec.workers and self.waiting >= spec.busy_over:
            self._happened["busy"] += 1
            pause = UNSET if spec.retry_after_ms is None else spec.retry_after_ms
            line.answer(Nack(line.peer, False, NackHeader(action.header.id, "queue is full", "busy", pause)))
            return
        job = Job(line, action, self._timeline.now + action.header.ttl_ms / 1000.0)
        line.jobs[job.id] = job
        if self.places is not None and len(line.jobs) > self.places:
            self._count_places(line)
        if self.silent:
            job.state = State.OVER
        elif self.running < spec.workers:
            self._begin(job)
        else:
            self._queue.append(job)
            self.waiting += 1

    def _count_places(self, line: Line) -> None:
        """Assert that no more is open than there are places, but for what the daemon may have given up by now."""
        kept_s = GIVEN_UP_AFTER_HEARTBEATS * line.heartbeat_s
        wanted = [job.id for job in line.jobs.values() if self._timeline.now < job.expires + kept_s]
        if self.places is not None and len(wanted) > self.places:
            raise BrokenError(f"{self.spec.name} has {self.places} places, and is to hold deliveries {wanted}")

    def cancel(self, job: Job) -> None:
        """CANCEL: stop, free the worker, say so."""
        if job.state is State.OVER or not self.spec.honours_cancel:
            return
        self.drop(job)
        job.line.answer(Nack(job.line.peer, False, NackHeader(job.id, "", "cancelled")))

    def drop(self, job: Job) -> None:
        """Stop a delivery without a word."""
        was, job.state = job.state, State.OVER
        job.line.forget(job)
        if was is State.WAITING:
            self.waiting -= 1
        elif was is State.RUNNING:
            self.running -= 1
            self._next()

    @property
    def reported_queue(self) -> int | UnsetType:
        """What it tells a daemon: deliveries waiting or running here, where it reports that at all."""
        return self.waiting + self.running if self.spec.reports_queue else UNSET

    def _next(self) -> None:
        """Begin with whatever waits and still wants to be done."""
        queue = self._queue
        while queue and self.running < self.spec.workers:
            job = queue.popleft()
            if job.state is State.OVER:
                continue
            self.waiting -= 1
            if self._timeline.now >= job.expires:
                job.state = State.OVER
                job.line.forget(job)
                job.line.answer(Nack(job.line.peer, False, NackHeader(job.id, "expired", "cancelled")))
            else:
                self._begin(job)

    def _begin(self, job: Job) -> None:
        spec, timeline = self.spec, self._timeline
        job.state = State.RUNNING
        self.running += 1
        seconds = self._samplers[job.capability]()
        factor = self._works[int.from_bytes(job.body[0], "big")] * self.stretch
        if not self._steady:
            factor *= self._slowness(timeline.now)
        if factor != 1.0:
            seconds = whole(seconds * factor)
        if self._fails():
            job.fails = True
            if spec.fails_after_s is not None:
                seconds = min(seconds, whole(spec.fails_after_s))
        self.busy_s += seconds
        if spec.parts and not job.fails:
            job.parts = spec.parts
            job.step_s = whole(seconds / (spec.parts + 1))
            timeline.after(job.step_s, self._piece, job)
        else:
            timeline.after(seconds, self._finish, job)

    def _fails(self) -> bool:
        """Draw whether a delivery that begins now will fail."""
        spec, cause, share = self.spec, "fail", 1.0 - self.spec.reliability
        if spec.depends_on is not None:
            outage = spec.depends_on.failing(self._timeline.now - self._began_at)
            if outage > share:
                cause, share = "dependency", outage
        if share <= 0.0 or self._rng.random() >= share:
            return False
        self._happened[cause] += 1
        return True

    def _slowness(self, now: float) -> float:
        factor, at_s = 1.0, now - self._began_at
        for from_s, slower in self.spec.slowness:
            if at_s >= from_s:
                factor = slower
        if self.spec.warm_up is not None:
            for_s, at_first = self.spec.warm_up
            cold = 1.0 - (now - self._started_at) / for_s
            factor *= 1.0 + (at_first - 1.0) * max(0.0, cold)
        return factor

    def _piece(self, job: Job) -> None:
        timeline = self._timeline
        if timeline.now < self._paused_until:
            timeline.at(self._paused_until, self._piece, job)
        elif job.state is State.RUNNING:
            job.parts -= 1
            job.line.answer(Part(job.line.peer, False, PartHeader(job.id), job.body))
            timeline.after(job.step_s, self._piece if job.parts else self._finish, job)

    def _finish(self, job: Job) -> None:
        if self._timeline.now < self._paused_until:
            self._timeline.at(self._paused_until, self._finish, job)
            return
        if job.state is not State.RUNNING:
            return
        job.state = State.OVER
        self.running -= 1
        self.done += 1
        line = job.line
        line.forget(job)
        if self.waiting:
            self._next()
        if job.fails:
            line.answer(Nack(line.peer, False, NackHeader(job.id, "it did not work")))
        else:
            line.answer(Ack(line.peer, False, AckHeader(job.id, self.reported_queue), job.body))
