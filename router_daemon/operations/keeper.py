"""Keeps what people have said over a restart, and looks once a second whether the rollback file is there.

Rules:
- A change is written when it is made through the admin room (before the answer), else within a second, in a thread; a
  write that fails is a warning, said once for each cause, and tried again.
- At the start the file is read before anybody is served, and so is the rollback file looked at: no message takes a
  candidate that was rolled back.
- A stage's time is the time served in it: what passed while no daemon ran does not count. After a kill it is as when
  the last change was written, so that a stage lasts too long rather than not long enough.
- A rollback file that cannot be looked at is a warning, and not a rollback.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from router_daemon.core.broker import Broker
from router_daemon.core.operating import Act, Operator
from router_daemon.operations.file import (
    DrainRow,
    HappenedRow,
    Kept,
    OperationsFile,
    OverrideRow,
    RolloutRecord,
    act_row,
)

LOOK_S: Final = 1.0
_log = structlog.get_logger("router_daemon.operations")


class OperationsKeeper:
    """Reads and writes the file of operations, and looks at the rollback file.

    Args:
        broker: whose rollout, overrides and drains are kept.
        operator: who remembers what was said, and holds the rollout.
        directory: where the file is, "" for none.
        rollback_file: "" for none.
        wake: called when there may be news.
        clock: seconds, the broker's. wall: seconds since 1970.
    """

    def __init__(
        self,
        broker: Broker,
        operator: Operator,
        *,
        directory: str,
        rollback_file: str,
        wake: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._broker = broker
        self._operator = operator
        self._file = OperationsFile(Path(directory)) if directory else None
        self._rollback_file = rollback_file
        self._wake = wake
        self._clock = clock
        self._wall = wall
        self._task: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._written: tuple[int, ...] | None = None
        self._fault = ""
        self._unseen = ""

    def restore(self) -> None:
        """Read the file, in a directory that is there, and look at the rollback file.

        Raises:
            StartError: the file cannot be written.
        """
        if self._file is not None:
            self._apply(self._file.open())
        if self._rollback_file:
            self._hold(*_there(self._rollback_file))

    def start(self) -> None:
        """Begin to look; on the running event loop."""
        if self._file is not None or self._rollback_file:
            self._task = asyncio.create_task(self._keep())

    async def finish(self, *, write: bool = True) -> None:
        """Stop looking, write for the last time if there was a start, and let go of the file."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if write:
                self._written = None  # the stage's time has gone on
                await self.save()
            self._task = None
        if self._file is not None:
            await asyncio.to_thread(self._file.close)

    async def save(self) -> None:
        """Write what has changed since the last time, if anything; returns when it is on disk, or a warning is said."""
        if self._file is None:
            return
        async with self._writing:
            revision = self._operator.revision()
            if revision != self._written and await asyncio.to_thread(self._write, self._kept()):
                self._written = revision

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
                await self.save()
            except Exception:  # noqa: BLE001 - one fault must not end the keeping
                _log.exception("fault while keeping operations")

    async def _look(self) -> None:
        if self._rollback_file:
            self._hold(*await asyncio.to_thread(_there, self._rollback_file))

    def _hold(self, there: bool, fault: str) -> None:
        if fault and fault != self._unseen:
            _log.warning("rollback file cannot be looked at", file=self._rollback_file, why=fault)
        self._unseen = fault
        if self._operator.hold(f"the file {self._rollback_file} is there" if there else "", self._clock()):
            what = "rollback file is there" if there else "rollback file is gone: the rollout can be resumed"
            _log.warning(what, file=self._rollback_file)
            self._wake()

    # --- what is written and read ---

    def _kept(self) -> Kept:
        """Return what must outlive a restart, as things stand now."""
        now, wall = self._clock(), self._wall()
        rollout = self._broker.routes.rollout
        record: dict[str, Any] = {} if rollout is None else rollout.snapshot(now)
        happened = [
            HappenedRow(wall - each["age_s"], each["what"], each["route"], each["detail"])
            for each in record.pop("history", ())
        ]
        overrides = [
            OverrideRow(each["capability"], each["backend"], wall + each["left_s"])
            for each in self._broker.overrides.snapshot(now)
        ]
        drained = self._broker.registry.drains.snapshot(now)
        drains = [DrainRow(name, wall - for_s) for name, for_s in drained.items()]
        acts = [act_row(act) for act in self._operator.acts]
        return Kept(msgspec.convert(record, RolloutRecord) if record else None, happened, overrides, drains, acts)

    def _apply(self, kept: Kept) -> None:
        now, wall = self._clock(), self._wall()
        self._operator.recall(Act(act.at, act.what, act.detail, act.by) for act in kept.acts)
        overrides = [
            {"capability": each.capability, "backend": each.backend, "left_s": each.until - wall}
            for each in kept.overrides
        ]
        self._broker.overrides.restore(overrides, now)
        drained = {each.backend: max(0.0, wall - each.since) for each in kept.drains}
        self._broker.members.restore_drains(drained, now)
        if kept.rollout is not None:
            self._apply_rollout(kept.rollout, kept.happened, now, wall)

    def _apply_rollout(self, record: RolloutRecord, happened: list[HappenedRow], now: float, wall: float) -> None:
        rollout = self._broker.routes.rollout
        history = [
            {"age_s": max(0.0, wall - each.at), "what": each.what, "route": each.route, "detail": each.detail}
            for each in happened
        ]
        if rollout is None or not rollout.restore(msgspec.to_builtins(record) | {"history": history}, now):
            _log.info("kept rollout is another one, and not gone on with", name=record.name, candidate=record.candidate)
            return
        _log.info("rollout goes on", name=record.name, state=record.state, percent=record.percent, reason=record.reason)

    def _write(self, kept: Kept) -> bool:
        """Write, in a thread, and tell whether it is on disk."""
        assert self._file is not None
        try:
            self._file.write(kept)
        except Exception as error:  # noqa: BLE001 - a disk that is full, and whatever else: the daemon goes on
            if (fault := str(error)) != self._fault:
                _log.warning("operations not written", file=str(self._file.path), why=fault)
            self._fault = fault
            return False
        self._fault = ""
        return True


def _there(path: str) -> tuple[bool, str]:
    """Return whether a file exists, and why that cannot be said."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False, ""
    except (OSError, ValueError) as error:
        return False, str(error)
    return True, ""
