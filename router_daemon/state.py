"""What outlives the process: the profiles of backends in one file, written now and then and at exit, read at start.

Rules:
- The file is replaced as a whole (temporary file, fsync, rename), so a kill at any moment leaves the old one or the
  new one. Mode 0600: it names who is there.
- It carries its own version and the wall-clock time at which it was written; ages inside are as of then. What is
  damaged, of another version, from the future or too old is said in one line and not used: the daemon starts anyway.
- A directory that cannot be written is an error at the start, where somebody looks; a write that fails later (the disk
  is full) is a warning, said once, and tried again.
- Nothing of it happens on the path of a message: records are copied on the loop a few hundred at a time, encoded part
  by part and written in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec
import structlog
from msgspec import Meta, Raw, Struct

from router_daemon.core.broker import Broker
from router_daemon.core.memory import Profiles
from router_daemon.errors import StartError

NAME: Final = "profiles.json"
FORMAT: Final = "router-daemon profiles"
VERSION: Final = 1
MOST_BYTES: Final = 256 * 1024 * 1024
"""10,000 backends with all of 64 capabilities measured are a third of that."""
FUTURE_S: Final = 60.0
"""A stamp this far ahead of the clock says nothing about the file's age."""

_Kind = TypeVar("_Kind")
_log = structlog.get_logger("router_daemon.state")


class Unusable(Exception):  # noqa: N818 - caught here, and becomes a line in the log
    """The file cannot be used, and why."""


class _Head(Struct):
    """What every version of the file has."""

    format: str
    version: int
    written_at: Annotated[float, Meta(ge=0.0)]


class _File(_Head):
    parts: list[Profiles]


class _RawFile(_Head):
    parts: list[Raw]


class ProfileFile:
    """The file in one directory; `wall` is the time since 1970, in seconds."""

    def __init__(self, directory: Path, wall: Callable[[], float] = time.time) -> None:
        self.path = directory / NAME
        self._temporary = directory / f"{NAME}.tmp"
        self._wall = wall
        self._writing = threading.Lock()

    def prepare(self) -> None:
        """Make the directory where it is missing, and see that it can be written.

        Raises:
            StartError: it cannot.
        """
        directory = self.path.parent
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(self._open())
            self._temporary.unlink()
        except OSError as error:
            raise StartError(f"state.dir {directory} cannot be written: {error.strerror}") from None

    def read(self, younger_s: float) -> tuple[Profiles, float]:
        """Return what the file has, aged until now, and how old the file is in seconds.

        Raises:
            FileNotFoundError: there is none.
            Unusable: it is damaged, foreign, of another version, from the future or not younger than `younger_s`.
        """
        try:
            with self.path.open("rb") as file:
                data = file.read(MOST_BYTES + 1)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Unusable(f"cannot be read: {error.strerror}") from None
        if len(data) > MOST_BYTES:
            raise Unusable(f"larger than {MOST_BYTES} bytes")
        age_s = self._age_s(_decoded(data, _Head), younger_s)
        everything = Profiles({}, {})
        for part in _decoded(data, _File).parts:
            everything.backends.update(part.backends)
            everything.capabilities.update(part.capabilities)
        everything.grow_older(age_s, younger_s)
        return everything, age_s

    def write(self, parts: Sequence[Profiles]) -> None:
        """Replace the file.

        Raises:
            OSError: it cannot be written; the old one is as it was.
        """
        encode = msgspec.json.encode
        raw = [Raw(encode(part)) for part in parts]  # one by one: another thread gets its turn in between
        data = encode(_RawFile(FORMAT, VERSION, self._wall(), raw))
        with self._writing:
            try:
                with os.fdopen(self._open(), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                self._temporary.replace(self.path)
            except OSError:
                with contextlib.suppress(OSError):
                    self._temporary.unlink()
                raise
            self._sync_directory()

    def _age_s(self, head: _Head, younger_s: float) -> float:
        if head.format != FORMAT:
            raise Unusable("not a file of profiles")
        if head.version != VERSION:
            raise Unusable(f"of version {head.version}, and this daemon reads version {VERSION}")
        age_s = self._wall() - head.written_at
        if age_s < -FUTURE_S:
            raise Unusable(f"written {-age_s:.0f} s in the future by this machine's clock")
        if age_s >= younger_s:
            raise Unusable(f"{age_s:.0f} s old, and only what is younger than {younger_s:g} s is read")
        return max(0.0, age_s)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
        return os.open(self._temporary, flags, 0o600)

    def _sync_directory(self) -> None:
        """Let the rename itself outlive a power cut, where the system can do that."""
        with contextlib.suppress(OSError):
            directory = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)


def _decoded(data: bytes, kind: type[_Kind]) -> _Kind:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unusable(f"damaged: {error}") from None


class StateKeeper:
    """Reads the profiles into a broker at the start, and writes them out while it runs; `directory` "" for neither."""

    def __init__(
        self,
        broker: Broker,
        directory: str,
        *,
        write_every_s: float,
        read_younger_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._file = ProfileFile(Path(directory)) if directory else None
        self._write_every_s = write_every_s
        self._read_younger_s = read_younger_s
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._fault = ""

    def restore(self) -> None:
        """Read the file, before anybody has registered.

        Raises:
            StartError: the directory cannot be written.
        """
        if self._file is None:
            return
        self._file.prepare()
        try:
            profiles, age_s = self._file.read(self._read_younger_s)
        except FileNotFoundError:
            _log.info("no profiles kept yet", file=str(self._file.path))
        except Unusable as fault:
            _log.warning("profiles not read", file=str(self._file.path), why=str(fault))
        else:
            self._broker.restore_profiles(profiles, self._clock())
            _log.info(
                "profiles read", file=str(self._file.path), backends=len(profiles.backends), age_s=round(age_s, 1)
            )

    def start(self) -> None:
        """Begin to write; on the running event loop."""
        if self._file is not None:
            self._task = asyncio.create_task(self._keep())

    async def finish(self) -> Callable[[], None]:
        """Stop writing, and return what writes for the last time, as things stand now; it may run in a thread."""
        if self._file is None:
            return lambda: None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        parts = list(self._broker.export_parts(self._clock()))
        return lambda: self._write(parts)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._write_every_s)
            try:
                await self._write_now()
            except Exception:  # noqa: BLE001 - one fault must not end the keeping
                _log.exception("fault while keeping profiles")

    async def _write_now(self) -> None:
        parts = []
        for part in self._broker.export_parts(self._clock()):
            parts.append(part)
            await asyncio.sleep(0)
        await asyncio.to_thread(self._write, parts)

    def _write(self, parts: Sequence[Profiles]) -> None:
        assert self._file is not None
        try:
            self._file.write(parts)
        except OSError as error:
            fault = error.strerror or str(error)
            if fault != self._fault:
                _log.warning("profiles not written", file=str(self._file.path), why=fault)
            self._fault = fault
        else:
            self._fault = ""
