"""A reload: read the configuration again, and go on under it, or under the old one where it is wrong.

Rules:
- Files are read in a thread, while messages move; then all that has changed takes effect between two batches, at once.
- What is wrong is refused as a whole, in the words of `router-daemon check`; nothing has changed then.
- What can only take effect with a restart is named and kept as it is; everything else takes effect.
- A projections file is part of the configuration: its content may change under the same name.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import structlog

from router_daemon.assembly import make_settings
from router_daemon.config import Config
from router_daemon.config.changes import Change, Changes, changes
from router_daemon.config.loaded import Loaded
from router_daemon.core.settings import Settings
from router_daemon.errors import ConfigError

_log = structlog.get_logger("router_daemon")

Apply = Callable[[Changes, Settings], None]
Note = Callable[[str, str, str], None]


class Reloaded(NamedTuple):
    """What took effect, and what needs a restart for that."""

    changed: tuple[Change, ...]
    restart: tuple[Change, ...]

    def view(self) -> dict[str, Any]:
        """Return it as plain data for JSON."""
        return {
            "changed": [change._asdict() for change in self.changed],
            "needs_restart": [change._asdict() for change in self.restart],
        }


class Reloader:
    """Reloads, one reload after the other.

    Args:
        config: in force.
        read: returns the configuration as its sources have it now; may block, and raise ConfigError. None: there is
            nothing that could be read again.
        apply: makes a change take effect, on the loop.
        note: told what came of it: (what, of whom, in detail).

    Attributes:
        config: in force. loaded: what monitoring is told of it.
    """

    def __init__(self, config: Config, read: Callable[[], Config] | None, apply: Apply, note: Note) -> None:
        self.config = config
        self.loaded = Loaded(config, time.time())
        self._note = note
        self._read = read
        self._apply = apply
        self._one = asyncio.Lock()

    async def reload(self) -> Reloaded:
        """Read and apply.

        Raises:
            ConfigError: it is wrong, and the old one is in force; logged already.
        """
        async with self._one:
            try:
                found, settings = await asyncio.to_thread(self._prepared)
                self._apply(found, settings)
            except ConfigError as error:
                faults = str(error).splitlines()
                _log.error("reload refused, the configuration stays as it was", faults=faults)
                self.loaded.refused()
                self._note("reload refused", "", "; ".join(faults))
                raise
            self.config = found.config
            self.loaded.took(found.config, len(found.restart), time.time())
        for change in found.restart:
            _log.warning("needs a restart", **change._asdict())
        changed = [str(change) for change in found.changed]
        _log.info("reloaded", changed=changed)
        self._note("reloaded", "", "; ".join(changed) or "nothing has changed")
        return Reloaded(found.changed, found.restart)

    async def reload_at_signal(self) -> None:
        """Do the same where nobody waits for the answer: the log has it."""
        try:
            await self.reload()
        except ConfigError:
            return

    def _prepared(self) -> tuple[Changes, Settings]:
        if self._read is None:
            raise ConfigError("this daemon was started without anything that could be read again")
        found = changes(self.config, self._read())
        return found, make_settings(found.config)
