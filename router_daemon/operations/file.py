"""The database of operations: the rollout, overrides, drains and what was said, in SQLite with a write-ahead log.

Rules:
- Each write is one transaction with everything, on disk before it returns (`synchronous = FULL`): a kill at any moment
  leaves the state before or after it. Everything is bounded, so that is less than three thousand short rows.
- A table that is new is added to a file of the same version: an older daemon, after a step back, leaves it alone.
- Times in it are seconds since 1970, since the next process has another monotonic clock.
- A file that is damaged, foreign or of another version is set aside (`operations.db.broken`, in place of an older one)
  with a line in the log; the daemon starts with a new one. One that cannot be written ends the start, where somebody
  looks.
- Mode 0600: it names who is there.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
import structlog
from msgspec import Meta, Struct

from router_daemon.core.drains import MOST_DRAINS
from router_daemon.core.operating import MOST_ACTS, Act
from router_daemon.core.overrides import MOST_OVERRIDES
from router_daemon.core.rollout import MOST_EVENTS
from router_daemon.errors import StartError

NAME: Final = "operations.db"
VERSION: Final = 1
MOST_BYTES: Final = 64 * 1024 * 1024
BUSY_S: Final = 2.0
SCHEMA: Final = (
    "CREATE TABLE rollout (record TEXT NOT NULL)",
    "CREATE TABLE happened (at REAL NOT NULL, what TEXT NOT NULL, route TEXT NOT NULL, detail TEXT NOT NULL)",
    "CREATE TABLE overrides (capability TEXT PRIMARY KEY, backend TEXT NOT NULL, until REAL NOT NULL)",
    "CREATE TABLE acts (at REAL NOT NULL, what TEXT NOT NULL, detail TEXT NOT NULL, by TEXT NOT NULL)",
    f"PRAGMA user_version = {VERSION}",
)
LATER: Final = ("CREATE TABLE IF NOT EXISTS drains (backend TEXT PRIMARY KEY, since REAL NOT NULL)",)
_ENVIRONMENT: Final = frozenset(
    {
        *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY),
        *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN),
    }
)
"""Errors of the place, not of the file."""

_Kind = TypeVar("_Kind")
_log = structlog.get_logger("router_daemon.operations")
Count = Annotated[int, Meta(ge=0)]


class RolloutRecord(Struct):
    """`Rollout.snapshot`, without what happened."""

    format: int
    name: str
    candidate: str
    state: Literal["running", "rolled back", "done"]
    reason: str
    percent: Annotated[float, Meta(ge=0.0, le=100.0)]
    stage_age_s: Annotated[float, Meta(ge=0.0)]
    windows: Count
    verdicts: dict[Literal["success", "p99", "policy"], Count]
    retired: list[str]
    elsewhere: bool = False


class HappenedRow(Struct, array_like=True):
    """As `Happened`, by the calendar."""

    at: float
    what: str
    route: str
    detail: str


class OverrideRow(Struct, array_like=True):
    """An override, and until when it holds."""

    capability: str
    backend: str
    until: float


class DrainRow(Struct, array_like=True):
    """A backend that a person has drained, and since when."""

    backend: str
    since: float


class ActRow(Struct, array_like=True):
    """As `Act`."""

    at: float
    what: str
    detail: str
    by: str


class Kept(Struct):
    """Everything that the database has."""

    rollout: RolloutRecord | None
    happened: list[HappenedRow]
    overrides: list[OverrideRow]
    drains: list[DrainRow]
    acts: list[ActRow]


def act_row(act: Act) -> ActRow:
    """Return what is written of it."""
    return ActRow(act.at, act.what, act.detail, act.by)


class Broken(Exception):  # noqa: N818 - caught here, and becomes a line in the log
    """The file cannot be used, and why."""


class OperationsFile:
    """The database in one directory; its methods may be called from several threads, one at a time."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def open(self) -> Kept:
        """Open or make it, and return what it has; a broken one is set aside.

        Raises:
            StartError: it cannot be written.
        """
        try:
            try:
                return self._opened()
            except Broken as fault:
                _log.error("operations not read: set aside", file=str(self.path), why=str(fault))
                self._set_aside()
            return self._opened()
        except (OSError, sqlite3.Error, Broken) as error:
            self.close()
            raise StartError(f"{self.path} cannot be written: {_text(error)}") from None

    def write(self, kept: Kept) -> None:
        """Replace what it has.

        Raises:
            sqlite3.Error: it cannot be written; it has what it had.
        """
        with self._lock:
            connection = self._connection
            assert connection is not None
            with _transaction(connection):
                for table in ("rollout", "happened", "overrides", "drains", "acts"):
                    connection.execute(f"DELETE FROM {table}")  # noqa: S608 - names of this file
                if kept.rollout is not None:
                    record = msgspec.json.encode(_encodable(msgspec.to_builtins(kept.rollout))).decode()
                    connection.execute("INSERT INTO rollout VALUES (?)", (record,))
                connection.executemany("INSERT INTO happened VALUES (?, ?, ?, ?)", _rows(kept.happened))
                connection.executemany("INSERT INTO overrides VALUES (?, ?, ?)", _rows(kept.overrides))
                connection.executemany("INSERT INTO drains VALUES (?, ?)", _rows(kept.drains))
                connection.executemany("INSERT INTO acts VALUES (?, ?, ?, ?)", _rows(kept.acts))

    def close(self) -> None:
        """Let go of it."""
        with self._lock:
            if self._connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.close()
                self._connection = None

    def _opened(self) -> Kept:
        """Raise Broken for what is wrong with the file, sqlite3.Error or OSError for what is with its place."""
        self._connect()
        try:
            return self._read()
        except sqlite3.Error as error:
            if _is_of_the_place(error):
                raise
            raise Broken(_text(error)) from None
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Broken(f"damaged: {error}") from None

    def _connect(self) -> None:
        self.close()
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
        size = self.path.stat().st_size
        if size > MOST_BYTES:
            raise Broken(f"larger than {MOST_BYTES} bytes")
        self._connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)

    def _read(self) -> Kept:
        connection = self._connection
        assert connection is not None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        self._prepare(connection)
        record = connection.execute("SELECT record FROM rollout LIMIT 1").fetchone()
        return Kept(
            None if record is None else _decoded(record[0]),
            _of(list[HappenedRow], connection, "SELECT * FROM happened ORDER BY rowid LIMIT ?", MOST_EVENTS),
            _of(list[OverrideRow], connection, "SELECT * FROM overrides LIMIT ?", MOST_OVERRIDES),
            _of(list[DrainRow], connection, "SELECT * FROM drains LIMIT ?", MOST_DRAINS),
            _of(list[ActRow], connection, "SELECT * FROM acts ORDER BY rowid LIMIT ?", MOST_ACTS),
        )

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the tables of a new file, and see that one which is there is whole, ours and can be written."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version not in (0, VERSION):
            raise Broken(f"of version {version}, and this daemon reads version {VERSION}")
        if version == 0 and tables:
            raise Broken("not a file of operations")
        (checked,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if checked != "ok":
            raise Broken(f"damaged: {checked}")
        with _transaction(connection):
            for statement in (*(SCHEMA if version == 0 else ()), *LATER):
                connection.execute(statement)

    def _set_aside(self) -> None:
        self.close()
        for suffix in ("", "-wal", "-shm"):
            part = self.path.with_name(f"{NAME}{suffix}")
            aside = self.path.with_name(f"{NAME}.broken{suffix}")
            aside.unlink(missing_ok=True)
            if part.exists():
                part.replace(aside)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Any:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _of(kind: type[_Kind], connection: sqlite3.Connection, query: str, most: int) -> _Kind:
    return msgspec.convert(connection.execute(query, (most,)).fetchall(), kind)


def _decoded(record: Any) -> RolloutRecord:
    return msgspec.json.decode(msgspec.convert(record, str), type=RolloutRecord)


def _rows(structs: Any) -> list[Any]:
    return [_encodable(msgspec.to_builtins(each)) for each in structs]


def _encodable(value: Any) -> Any:
    """Return a value whose texts are all UTF-8: what a policy says when it fails need not be."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _encodable(each) for key, each in value.items()}
    return [_encodable(each) for each in value] if isinstance(value, list | tuple) else value


def _is_of_the_place(error: sqlite3.Error) -> bool:
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _ENVIRONMENT


def _text(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
