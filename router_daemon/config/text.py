"""A configuration in words and as TOML: what a field allows, what is in force, the default with each key explained."""

from __future__ import annotations

import json
import math
import textwrap
import types
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

COLUMNS: Final = 110

PREAMBLE: Final = """\
#:schema ./schema.json

# The configuration of router-daemon, with every key at its default: delete what you do not change.
# Check it with `router-daemon check --config FILE`. Each key can also be set by the environment
# (ROUTER_DAEMON__ROUTING__HEADS=2) and, stronger still, by a flag (--set routing.heads=2).
# Written by `python -m router_daemon.config toml`.
"""


class Rule(NamedTuple):
    """Stands in a field's annotation and says what is allowed, where type and bounds do not."""

    text: str


def toml_value_text(value: Any) -> str:
    """Return a value as TOML writes it; what TOML has no form for, as Python writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key, ensure_ascii=False)} = {toml_value_text(item)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value_text, value))}]"
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    return str(value)


def allowed(field: FieldInfo) -> str:
    """Return what may be given for a field, to be read after "must be".

    Example:
        >>> from pydantic import Field
        >>> allowed(FieldInfo.from_annotated_attribute(int, Field(3, ge=1, le=3)))
        'an integer from 1 to 3'
    """
    for item in field.metadata:
        if isinstance(item, Rule):
            return item.text
    kind = plain_type(field.annotation)
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(toml_value_text(choice) for choice in get_args(kind))
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}
    return " ".join(filter(None, [names.get(kind, "a table"), _bounds(field.metadata)]))


def plain_type(annotation: Any) -> Any:
    """Return the type without its `| None`."""
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (kind for kind in get_args(annotation) if kind is not type(None))
    return annotation


def tables_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return what each table is where a field is tables by name (`[routes.NAME]`), else None."""
    kind = plain_type(field.annotation)
    if get_origin(kind) is not dict:
        return None
    entry: Any = get_args(kind)[1]
    return entry if isinstance(entry, type) and issubclass(entry, BaseModel) else None


def _bounds(metadata: Sequence[Any]) -> str:
    """Return the bounds in words."""
    found = {name: getattr(item, name) for item in metadata for name in ("ge", "gt", "le") if hasattr(item, name)}
    if "ge" in found and "le" in found:
        return f"from {found['ge']} to {found['le']}"
    words = {"ge": "from", "gt": "above", "le": "up to"}
    return ", ".join(f"{words[name]} {bound}" for name, bound in found.items())


def _setting_text(name: str, value: Any) -> str:
    return f"{name} = {toml_value_text(value)}"


def _shown(table: BaseModel, name: str, value: Any) -> str:
    if value and not type(table).model_fields[name].repr:
        return f"# {name} is set, and not shown"
    return _setting_text(name, value)


def effective_text(config: BaseModel) -> str:
    """Return every setting in force as TOML; absent ones are left out, so that it reads back as the same.

    What is not to be shown (`repr=False`) is a comment.
    """
    lines = []
    for section, settings in config:
        tables = {section: settings}
        if isinstance(settings, dict):
            tables = {f"{section}.{name}": table for name, table in settings.items()}
        for header, table in tables.items():
            lines.append(f"[{header}]")
            lines += [_shown(table, name, value) for name, value in table if value is not None]
            lines.append("")
    return "\n".join(lines)


def commented_default(config: BaseModel) -> str:
    """Return the defaults as TOML, each key under its explanation; absent ones commented out, with an example."""
    return "\n".join([PREAMBLE, *_commented_lines(config)])


def _commented_lines(config: BaseModel) -> Iterator[str]:
    for section, field in type(config).model_fields.items():
        kind = tables_of(field) or plain_type(field.annotation)
        yield from _comment((kind.__doc__ or "").split("\n")[0])
        if tables_of(field):
            yield from _example(section, kind)
        else:
            yield f"[{section}]"
            for name, inner in kind.model_fields.items():
                yield from _field_lines(name, inner)
        yield ""


def _example(section: str, kind: type[BaseModel]) -> Iterator[str]:
    """Yield a table that may be given under any name, commented out as a whole."""
    yield f"# [{section}.NAME]"
    for name, field in kind.model_fields.items():
        yield from _comment(f"{field.description} Allowed: {allowed(field)}.")
        value = field.default if field.default is not None else field.examples[0] if field.examples else None
        assert value is not None, f"{name} has no default and needs an example"
        yield f"#   {_setting_text(name, value)}"


def _field_lines(name: str, field: FieldInfo) -> Iterator[str]:
    yield from _comment(f"{field.description} Allowed: {allowed(field)}.")
    if field.default is None:
        assert field.examples, f"{name} has no default and needs an example"
        yield f"# {_setting_text(name, field.examples[0])}"
    else:
        yield _setting_text(name, field.get_default(call_default_factory=True))


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, COLUMNS - 2)]
