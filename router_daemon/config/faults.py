"""What is wrong with a configuration, in words: one line per fault, with place, key, value and what is allowed.

Rules:
- What is allowed is read off the field (`config_text.allowed`), never written a second time.
- An unknown name is answered with the nearest right one, also one that stands in another section.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from router_daemon.config.lines import KeyPath
from router_daemon.config.sources import Fault, Given, Origin, Sources
from router_daemon.config.text import allowed, plain_type, tables_of, toml_value_text

SHOWN_CHARACTERS: Final = 80
"""The most of a wrong value that a fault repeats."""
NAMED: Final = "routes"
"""The section of tables by name: its keys are no place to send somebody to who has forgotten a section."""


Setting = tuple[str, Any]


class Broken(NamedTuple):
    """A relation between fields that does not hold: these settings, the rule, what it compares with."""

    settings: tuple[Setting, ...]
    rule: str
    other: Setting | None = None

    @property
    def keys(self) -> list[str]:
        """Every key involved."""
        return [key for key, _ in (*self.settings, *([self.other] if self.other else []))]


class Unrelated(ValueError):  # noqa: N818 - never seen by a user: pydantic wraps it
    """Fields that are right by themselves and wrong together."""

    def __init__(self, broken: Sequence[Broken]) -> None:
        super().__init__("; ".join(_relation_text(relation, None) for relation in broken))
        self.broken = broken


def field_faults(errors: Sequence[ErrorDetails], model: type[BaseModel], sources: Sources) -> list[Fault]:
    """Return the faults of single keys among pydantic's errors."""
    return [fault for error in errors if error["loc"] for fault in _faults_of(error, model, sources)]


def relation_faults(
    errors: Sequence[ErrorDetails], field_errors: Sequence[ErrorDetails], model: type[BaseModel], sources: Sources
) -> list[Fault]:
    """Return the faults between keys, without those in which a key takes part that is at fault itself."""
    faulty = [_path(error, model) for error in field_errors if error["loc"]]
    return [
        Fault(_relation_origin(relation, sources), _relation_text(relation, sources))
        for error in errors
        for relation in _broken(error)
        if not any(tuple(key.split("."))[: len(path)] == path for key in relation.keys for path in faulty)
    ]


def without_faulty(tree: dict[str, Any], errors: Sequence[ErrorDetails], model: type[BaseModel]) -> dict[str, Any]:
    """Return a copy of `tree` without what pydantic refused, so that the rest can be looked at."""
    rest = copy.deepcopy(tree)
    for error in errors:
        *parents, last = _path(error, model) or ("",)
        table = rest
        for part in parents:
            table = table.get(part, {})
        table.pop(last, None)
    return rest


def _path(error: ErrorDetails, model: type[BaseModel]) -> KeyPath:
    """Return section and key of an error, of a table by name its name, too; what lies deeper belongs to the key."""
    loc = [str(part) for part in error["loc"] if part != "[key]"]
    named = bool(loc) and loc[0] in model.model_fields and tables_of(model.model_fields[loc[0]]) is not None
    return tuple(loc[: 3 if named else 2])


def _field(model: type[BaseModel], path: KeyPath) -> FieldInfo:
    """Return what is allowed at a path; of a table by name as a whole, and of all of them: the rule of all."""
    field = model.model_fields[path[0]]
    entry = tables_of(field)
    if entry is not None:
        return entry.model_fields[path[2]] if len(path) == 3 else field
    section = plain_type(field.annotation)
    return section.model_fields[path[1]] if len(path) == 2 else field


def _faults_of(error: ErrorDetails, model: type[BaseModel], sources: Sources) -> Iterator[Fault]:
    path = _path(error, model)
    if error["type"] == "extra_forbidden":
        for given in sources.made(path):
            yield Fault(given.origin, _unknown(given, model))
        return
    field = _field(model, path)
    must = f"must be {allowed(field)}{_nearest_choice(error['input'], field)}"
    shown = _shown(error["input"]) if field.repr else "..."  # a secret with a slip in it is still one
    yield Fault(_origin(path, sources), f"{'.'.join(path)} = {shown}: {must}")


def _origin(path: KeyPath, sources: Sources) -> Origin:
    origin = sources.origin(path)
    assert origin is not None, f"a default is at fault: {path}"
    return origin


def _shown(value: Any) -> str:
    text = "a table" if isinstance(value, dict) else toml_value_text(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _nearest_choice(value: Any, field: FieldInfo) -> str:
    kinds = [field.annotation, *get_args(field.annotation)]  # itself, or what may also be absent
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    near = difflib.get_close_matches(value, choices, 1) if isinstance(value, str) else []
    return f"; did you mean {toml_value_text(near[0])}?" if near else ""


def _unknown(given: Given, model: type[BaseModel]) -> str:
    """Say that a section or key is unknown, and what it may have been meant to be."""
    sections = {
        name: list((tables_of(field) or plain_type(field.annotation)).model_fields)
        for name, field in model.model_fields.items()
    }
    path = given.path
    if isinstance(given.value, dict):
        what = f"{'.'.join(path)}: unknown {'section' if len(path) == 1 else 'table'}"
    else:
        what = (
            f"{'.'.join(path)} = {_shown(given.value)}: {'outside of any section' if len(path) == 1 else 'unknown key'}"
        )
    near = _nearest_names(path, sections)
    if near:
        return f"{what}; did you mean {' or '.join(near)}?"
    known = sections if len(path) == 1 else sections[path[0]]
    return f"{what}; known are {', '.join(known)}"


def _nearest_names(path: KeyPath, sections: dict[str, list[str]]) -> list[str]:
    """Return the names most like an unknown one: in its place first, else the same or nearly the same elsewhere.

    A key without a section is looked for by its very name first: `heads` is not `hedge`.
    """
    name = path[-1]
    elsewhere_of = {section: keys for section, keys in sections.items() if section != NAMED}
    if len(path) == 1:
        if same := [f"{section}.{name}" for section, keys in elsewhere_of.items() if name in keys]:
            return same
        near = difflib.get_close_matches(name, sections, 1)
    else:
        near = [f"{'.'.join(path[:-1])}.{key}" for key in difflib.get_close_matches(name, sections[path[0]], 1)]
    if near:
        return near
    elsewhere = {key for keys in elsewhere_of.values() for key in keys}
    wanted = difflib.get_close_matches(name, sorted(elsewhere), 1, 0.8)
    return [f"{section}.{key}" for section, keys in elsewhere_of.items() for key in keys if key in wanted]


def _broken(error: ErrorDetails) -> Sequence[Broken]:
    cause = error.get("ctx", {}).get("error")
    return cause.broken if isinstance(cause, Unrelated) else ()


def _relation_origin(relation: Broken, sources: Sources) -> Origin:
    """Return one origin that names every place where a key of the relation was set."""
    found = [sources.origin(tuple(key.split("."))) for key in relation.keys]
    places = sorted({origin for origin in found if origin is not None})
    labels = dict.fromkeys(place.label for place in places)
    return places[-1]._replace(label=", ".join(labels))


def _relation_text(relation: Broken, sources: Sources | None) -> str:
    def shown(setting: Setting) -> str:
        key, value = setting
        default = sources is not None and sources.origin(tuple(key.split("."))) is None
        return f"{key} = {_shown(value)}{' (default)' if default else ''}"

    text = f"{', '.join(map(shown, relation.settings))}: {relation.rule}"
    return f"{text} {shown(relation.other)}" if relation.other else text
