"""Reading a `timestamp,value` CSV that a stranger made.

Rules:
- The header must name both columns (any case, any order, others are ignored); without it the file is refused.
- A row that cannot be used is counted and its line and fault kept for the report; only a file without enough good
  rows is refused. Nothing is guessed: a row is good or bad.
- Timestamps: ISO 8601, or a number of seconds (above 1e11: milliseconds) since 1970. Without an offset they are UTC.
- At most `MAX_ROWS` rows are read; the report says so.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

MAX_ROWS: Final = 2_000_000
MIN_ROWS: Final = 8
FAULTS_KEPT: Final = 3
MILLISECONDS_FROM: Final = 1e11
LATEST_S: Final = 253402300799.0  # the end of the year 9999, the last that datetime can print
EARLIEST_S: Final = -62135596800.0


class InputError(Exception):
    """The file cannot be replayed; the text says why and where."""


@dataclass(slots=True)
class Table:
    """What was read: samples in time order, and what was wrong with the rest."""

    name: str
    times: list[float]
    values: list[float]
    bad_rows: int = 0
    faults: list[str] = field(default_factory=list)
    reordered: bool = False
    truncated: bool = False

    def notes(self) -> list[str]:
        """Return what the user should know of the file, one line each."""
        notes = []
        if self.bad_rows:
            rest = f"; and {self.bad_rows - len(self.faults)} more" if self.bad_rows > len(self.faults) else ""
            notes.append(f"{self.bad_rows} of the file's rows were left out: {'; '.join(self.faults)}{rest}")
        if self.reordered:
            notes.append("the file's rows were not in time order: they were sorted")
        if self.truncated:
            notes.append(f"only the file's first {MAX_ROWS:,} rows were read")
        return notes


def parse_time(text: str) -> float:
    """Return seconds since 1970 of an ISO 8601 time or a number; raises ValueError."""
    try:
        number = float(text)
    except ValueError:
        moment = datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    seconds = number / 1e3 if abs(number) > MILLISECONDS_FROM else number
    if not EARLIEST_S <= seconds <= LATEST_S:  # also false for NaN
        raise ValueError("not a time between the years 1 and 9999")
    return seconds


def read(path: Path) -> Table:
    """Read the file; raises `InputError` where there is nothing to replay."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = _parse(path.stem[:40], csv.reader(file))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8 (byte {error.start})") from error
    except (csv.Error, InputError) as error:
        raise InputError(f"{path}: {error}") from error
    if len(table.times) < MIN_ROWS:
        faults = f" ({'; '.join(table.faults)})" if table.faults else ""
        raise InputError(f"{path}: {len(table.times)} usable rows; at least {MIN_ROWS} are needed to analyse{faults}")
    return table


def _columns(header: list[str] | None) -> tuple[int, int]:
    names = [name.strip().lower() for name in header or []]
    if "timestamp" not in names or "value" not in names:
        found = ",".join(header)[:80] if header else "nothing"
        raise InputError(f"line 1: the header must name the columns timestamp and value, found: {found}")
    return names.index("timestamp"), names.index("value")


def _parse(name: str, reader: Iterable[list[str]]) -> Table:
    rows = iter(reader)
    time_column, value_column = _columns(next(rows, None))
    table = Table(name, [], [])
    for line, row in enumerate(rows, start=2):
        if len(table.times) == MAX_ROWS:
            table.truncated = True
            break
        if not row:
            continue
        try:
            time_s, value = _sample(row, time_column, value_column)
        except ValueError as error:
            table.bad_rows += 1
            if len(table.faults) < FAULTS_KEPT:
                table.faults.append(f"line {line}: {error}")
            continue
        table.times.append(time_s)
        table.values.append(value)
    _sort(table)
    return table


def _sample(row: list[str], time_column: int, value_column: int) -> tuple[float, float]:
    if len(row) <= max(time_column, value_column):
        raise ValueError(f"{len(row)} columns")
    try:
        time_s = parse_time(row[time_column])
    except (ValueError, OverflowError):
        raise ValueError(f"timestamp {row[time_column][:40]!r}") from None
    try:
        value = float(row[value_column])
    except ValueError:
        raise ValueError(f"value {row[value_column][:40]!r}") from None
    if not math.isfinite(value):
        raise ValueError(f"value {row[value_column][:40]!r}")
    return time_s, value


def _sort(table: Table) -> None:
    order = sorted(range(len(table.times)), key=table.times.__getitem__)
    table.reordered = order != list(range(len(order)))
    if table.reordered:
        table.times = [table.times[at] for at in order]
        table.values = [table.values[at] for at in order]
