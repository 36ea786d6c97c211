"""What differs between two configurations, and what of it a running daemon can take over.

Rules:
- What other processes were told, what is bound, and how memory is laid out stays until a restart (`RESTART`); a change
  of it is named, and does not keep the rest from taking effect.
- What is in force then is one configuration again, checked as any other: never half of one.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from router_daemon.config import Config, section_types
from router_daemon.config.text import toml_value_text
from router_daemon.errors import ConfigError

RESTART: Final = frozenset(
    {
        *("frontend", "backend", "transport", "admin", "state", "ring", "tracing"),
        *("routing.require_capability", "routing.seed", "rollout.rollback_file"),
        *("limits.max_message_bytes", "limits.max_header_bytes", "limits.max_body_frames"),
        *("limits.client_unread_bytes", "limits.backend_unread_bytes", "limits.high_water_mark"),
        "limits.label_values",
    }
)
"""Sections, and keys of others, that are read once: addresses, the engine and its limits, who this daemon is in a ring,
where it keeps profiles and sends traces; `require_capability`, which decides what pools there are; which file means
rollback; series of the metrics."""
ABSENT: Final = "absent"
HIDDEN: Final = "(hidden)"


class Change(NamedTuple):
    """A key, and its values as TOML writes them, `absent` where there is none."""

    key: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


class Changes(NamedTuple):
    """What a reload does.

    Attributes:
        config: to be in force: the new one, but for what needs a restart.
        changed: takes effect. restart: does not.
    """

    config: Config
    changed: tuple[Change, ...]
    restart: tuple[Change, ...]


def changes(old: Config, new: Config) -> Changes:
    """Return what becomes of `old` when `new` is read while the daemon runs.

    Raises:
        ConfigError: what can change does not agree with what cannot.
    """
    tree = new.model_dump(exclude_none=True)
    kept = old.model_dump(exclude_none=True)
    for name in RESTART:
        section, _, key = name.partition(".")
        if not key:
            tree[section] = kept[section]
        elif key in kept[section]:
            tree[section][key] = kept[section][key]
        else:
            tree[section].pop(key, None)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"does not agree with what needs a restart: {error.errors()[0]['msg']}") from None
    return Changes(config, _differences(old, config), _differences(config, new))


def _differences(old: Config, new: Config) -> tuple[Change, ...]:
    before, after = _flat(old), _flat(new)
    keys = list(dict.fromkeys((*before, *after)))
    pairs = ((key, before.get(key), after.get(key)) for key in keys)
    return tuple(Change(key, _text(key, was), _text(key, now)) for key, was, now in pairs if was != now)


def _text(key: str, value: Any) -> str:
    """Return a value for people; one that no `repr` shows (a token) is hidden here, too: it goes to the log."""
    section, _, name = key.partition(".")
    field = section_types()[section].model_fields.get(name)
    if field is not None and not field.repr:
        return HIDDEN
    return ABSENT if value is None else toml_value_text(value)


def _flat(config: Config) -> dict[str, Any]:
    """Return every value by `section.key`, of tables by name by `section.name.key`."""
    found = {}
    for section, settings in config:
        tables = {section: settings}
        if isinstance(settings, dict):
            tables = {f"{section}.{name}": table for name, table in settings.items()}
        for name, table in tables.items():
            found.update({f"{name}.{key}": value for key, value in table})
    return found
