"""Where settings come from: a TOML file, the environment, flags; each with the place to name when it is wrong.

Rules:
- Nothing here knows which settings there are: it yields key paths with values and origins, later ones win.
- A source that cannot be read is a fault, never an exception, so that one run shows the faults of all sources.
- Values of the environment and of `--set` are read as TOML values where they are some, else as plain text: `2`,
  `true`, `["tcp://a:1", "ipc://b"]`, but also `info` without quotes.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from router_daemon.config.lines import KeyPath, key_lines

ENV_PREFIX: Final = "ROUTER_DAEMON__"


class Origin(NamedTuple):
    """Where a setting was made, ordered as the sources are; `label` is what a fault begins with."""

    rank: int
    line: int
    label: str


class Given(NamedTuple):
    """One setting as one source made it; an empty table is one with the value `{}`."""

    path: KeyPath
    value: Any
    origin: Origin


class Flag(NamedTuple):
    """A command line option of its own for one setting: its text is taken as it is."""

    name: str
    key: str
    text: str


class Fault(NamedTuple):
    """One thing that is wrong: where, and what."""

    origin: Origin
    text: str

    def __str__(self) -> str:
        return f"{self.origin.label}: {self.text}"


@dataclass(slots=True)
class Sources:
    """All that was given, in the order in which it takes effect.

    Attributes:
        given: every setting of every source.
        faults: sources, or parts of them, that could not be read.
        file_lines: of the TOML file, for tables that have no value of their own.
    """

    given: list[Given] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    file_lines: dict[KeyPath, Origin] = field(default_factory=dict)

    def tree(self) -> dict[str, Any]:
        """Return the settings in force, as nested tables."""
        tree: dict[str, Any] = {}
        for path, value, _ in self.given:
            _put(tree, path, value)
        return tree

    def origin(self, path: KeyPath) -> Origin | None:
        """Return where the value in force at `path` was made: there exactly, else in or around it; None: a default."""
        exact = [given.origin for given in self.given if given.path == path]
        found = exact or [given.origin for given in self.given if _related(given.path, path)]
        return found[-1] if found else None

    def made(self, path: KeyPath) -> list[Given]:
        """Return each way in which `path` came to be: given itself, or (the value is `{}`) by something inside it."""
        found: dict[Origin, Given] = {}
        for given in self.given:
            if given.path[: len(path)] == path:
                origin = self.file_lines[path] if given.origin.rank == 0 else given.origin
                found.setdefault(origin, Given(path, given.value if given.path == path else {}, origin))
        return list(found.values())


def read_sources(
    path: Path | None, environ: Mapping[str, str], overrides: Sequence[str], flags: Sequence[Flag]
) -> Sources:
    """Read all sources; what cannot be read is in the result's faults."""
    sources = Sources()
    if path is not None:
        _read_file(sources, path)
    _read_environ(sources, environ)
    _read_overrides(sources, overrides)
    for number, flag in enumerate(flags):
        origin = Origin(3, number, flag.name)
        sources.given.append(Given(tuple(flag.key.split(".")), flag.text, origin))
    return sources


def _put(tree: dict[str, Any], path: KeyPath, value: Any) -> None:
    """Set one setting; below something that is no table it has no effect (that something is the fault)."""
    table: Any = tree
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            return
    is_empty_table = value == {}
    if not (is_empty_table and isinstance(table.get(path[-1]), dict)):
        table[path[-1]] = {} if is_empty_table else value


def _related(one: KeyPath, other: KeyPath) -> bool:
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]


def _leaves(path: KeyPath, value: Any) -> Iterable[tuple[KeyPath, Any]]:
    """Yield what is no table, and empty tables, with the path to each."""
    if not isinstance(value, dict) or not value:
        yield path, value
        return
    for key, inner in value.items():
        yield from _leaves((*path, key), inner)


def _read_file(sources: Sources, path: Path) -> None:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        table = tomllib.loads(text)
        lines = key_lines(text)
    except (OSError, ValueError, RecursionError) as error:
        sources.faults.append(_file_fault(path, error))
        return
    sources.file_lines = {key: Origin(0, line, f"{path}:{line}") for key, line in lines.items()}
    for name, value in table.items():
        for leaf, inner in _leaves((name,), value):
            sources.given.append(Given(leaf, inner, sources.file_lines[leaf]))


_AT_LINE: Final = re.compile(r"(?P<what>.*) \(at line (?P<line>\d+), column (?P<column>\d+)\)", re.DOTALL)


def _file_fault(path: Path, error: Exception) -> Fault:
    """Say why a file cannot be read, with the line where that is known."""
    if isinstance(error, OSError):
        return Fault(Origin(0, 0, str(path)), f"cannot be read: {error.strerror or error}")
    if isinstance(error, UnicodeDecodeError):
        line = error.object[: error.start].count(b"\n") + 1
        return Fault(Origin(0, line, f"{path}:{line}"), "not UTF-8, which TOML must be")
    if isinstance(error, RecursionError):
        return Fault(Origin(0, 0, str(path)), "nested too deeply")
    if (match := _AT_LINE.fullmatch(str(error))) is None:
        return Fault(Origin(0, 0, str(path)), f"not TOML: {error}")
    label = f"{path}:{match['line']}"
    return Fault(Origin(0, int(match["line"]), label), f"not TOML: {match['what']} (column {match['column']})")


def _read_environ(sources: Sources, environ: Mapping[str, str]) -> None:
    for number, name in enumerate(sorted(name for name in environ if name.startswith(ENV_PREFIX))):
        origin = Origin(1, number, name)
        parts = tuple(name[len(ENV_PREFIX) :].lower().split("__"))
        if all(parts):
            _read_value(sources, parts, environ[name], origin)
        else:
            sources.faults.append(Fault(origin, f"must be {ENV_PREFIX}SECTION__KEY"))


def _read_overrides(sources: Sources, overrides: Sequence[str]) -> None:
    for number, override in enumerate(overrides):
        key, equals, text = override.partition("=")
        parts = tuple(part.strip() for part in key.split("."))
        if equals and all(parts):
            _read_value(sources, parts, text.strip(), Origin(2, number, "--set"))
        else:
            sources.faults.append(Fault(Origin(2, number, f"--set {override}"), "must be SECTION.KEY=VALUE"))


def _read_value(sources: Sources, path: KeyPath, text: str, origin: Origin) -> None:
    for leaf, value in _leaves(path, toml_value(text)):
        sources.given.append(Given(leaf, value, origin))


def toml_value(text: str) -> Any:
    """Return `text` as the TOML value it is, else as it is.

    Example:
        >>> toml_value("2"), toml_value("[1, 2]"), toml_value("info")
        (2, [1, 2], 'info')
    """
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return table["value"] if len(table) == 1 else text
