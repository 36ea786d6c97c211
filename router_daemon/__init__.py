"""router-daemon: routes each message to the backends that can do it, by cross-attention over measured profiles.

What users import from here: `Client` and `SyncClient` to send messages, `Backend` to serve them, and the errors
of the protocol (`router_daemon.errors`). They are loaded on first use, so the daemon never pays for the SDK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["Backend", "Client", "SyncClient", "__version__"]

if TYPE_CHECKING:
    from router_daemon.backend import Backend
    from router_daemon.client import Client, SyncClient

_HOMES = {"Backend": "router_daemon.backend", "Client": "router_daemon.client", "SyncClient": "router_daemon.client"}


def __getattr__(name: str) -> Any:
    """Load a public class on first use."""
    import importlib  # noqa: PLC0415 - only needed on the first use of a name

    if (home := _HOMES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
