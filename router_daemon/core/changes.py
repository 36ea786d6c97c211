"""Other settings for a broker at work: what cannot change, and the moment at which whoever waits is looked at again.

Every room that keeps settings, or numbers made of them, takes over others by its `configure`, which its constructor
uses too; `Broker.configure` calls them all. Nothing in the path of a message looks whether settings have changed.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Final

from msgspec import Struct

from router_daemon.core.routing import check_named
from router_daemon.core.settings import Settings

FIXED: Final = ("require_capability", "heartbeat_s", "label_values", "max_message_bytes", "version")
"""What pools there are; what backends, clients and monitoring have been told."""


class Changed(Struct, eq=False):
    """The moment to look again for those who wait."""

    bucket: dict[Any, None] | None = None


def check_change(before: Settings, after: Settings, routes: Container[str]) -> None:
    """See that a broker can take over other settings while it runs; `routes`: the names of those it will have.

    Raises:
        ValueError: it cannot.
    """
    for key in FIXED:
        if getattr(before, key) != getattr(after, key):
            raise ValueError(f"{key} cannot change while the broker runs")
    if after.rollout.candidate:
        check_named(after.rollout, routes)
