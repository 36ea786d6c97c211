"""News of the broker and of the ring: told to the log, and noted in the chronicle with the calendar's time.

Looked at once a batch, not once a message; mostly there are none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import structlog

from router_daemon.core.chronicle import Chronicle
from router_daemon.core.overrides import Overrides
from router_daemon.core.routing import Routes

_log = structlog.get_logger("router_daemon")
_ROLES: Final = {"backend": "backend", "link": "daemon", "stands": "daemon"}
"""How news begin that name somebody, and as what the log has him."""


class Source(Protocol):
    """Who has news: a broker, or the node around it."""

    routes: Routes
    overrides: Overrides

    def take_news(self) -> list[tuple[str, str]]:
        """Return what has happened since the last call: (what, name of a backend or of a daemon)."""


class Teller:
    """Tells what has happened.

    Args:
        chronicle: keeps it.
        calendar: seconds since 1970.
    """

    def __init__(self, chronicle: Chronicle, calendar: Callable[[], float] = time.time) -> None:
        self.chronicle = chronicle
        self._calendar = calendar

    def tell(self, source: Source) -> None:
        """Take what is news."""
        for what, name in source.take_news():
            _log.info(what, **{_ROLES.get(what.partition(" ")[0], "daemon"): name})
            self.note(what, name)
        for what, route, detail in source.routes.take_news():
            _log.warning(what, route=route, detail=detail)
            self.note(what, route, detail)
        overrides = source.overrides
        if overrides.news:
            for what, capability, detail in overrides.take_news():
                _log.info(what, capability=capability, detail=detail)
                self.note(what, capability, detail)

    def note(self, what: str, name: str = "", detail: Any = "") -> None:
        """Note what the log has already."""
        self.chronicle.note(self._calendar(), what, name, str(detail))
