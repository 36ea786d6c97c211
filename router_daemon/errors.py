"""The errors of the protocol: one table of codes, one exception for bytes from outside, one family for clients.

Rules:
- Bytes that a peer sent raise exactly `ProtocolError` (`wire` turns everything else into it), so a fault of a peer
  is never mistaken for one of ours.
- A client sees an ERROR of the daemon as a `RouterError` subclass named after its code, and what its own clock or
  socket found out as `ConnectionLost`.
- `RETRY` says, per code, whether sending the same message again may help (docs/protocol.md, "Error codes").
"""

from __future__ import annotations

from typing import Final

RETRY: Final[dict[str, bool]] = {
    "bad_frames": False,
    "unsupported_version": False,
    "unknown_command": False,
    "bad_header": False,
    "too_large": False,
    "duplicate_id": False,
    "not_registered": False,
    "name_taken": True,
    "forbidden": False,
    "unknown_policy": False,
    "cancelled": False,
    "rejected": False,
    "internal": True,
    "no_capability": True,
    "no_backend": True,
    "overloaded": True,
    "expired": True,
    "failed": True,
    "draining": True,
    "unknown_backend": True,
}
"""Code -> may the same message succeed when sent again. `expired` and `failed` are False for what may not run twice."""


class ConfigError(Exception):
    """The configuration is wrong: every fault, one per line, each with its key, value and what is allowed."""


class ProtocolError(Exception):
    """A peer broke the protocol.

    Attributes:
        code: one of `RETRY`'s keys.
        detail: for a person.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class RouterError(Exception):
    """What a client gets instead of an answer.

    Attributes:
        code: the protocol's error code.
        detail: for a person.
        retry: whether the same message may succeed when sent again.
        retry_after_ms: how long to wait before that, where the daemon knows.
        message: the daemon's name for the message, to ask `router-daemon why` about; None where it got none.
        backend: the backend at fault, where one is.
    """

    code: str = "internal"

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        retry: bool = False,
        retry_after_ms: float | None = None,
        message: str | None = None,
        backend: str | None = None,
    ) -> None:
        if code is not None:
            self.code = code
        super().__init__(f"{self.code}: {detail}")
        self.detail = detail
        self.retry = retry
        self.retry_after_ms = retry_after_ms
        self.message = message
        self.backend = backend


class ConnectionLost(RouterError):  # noqa: N818 - reads as what happened, like ConnectionResetError's siblings
    """The daemon cannot be reached, or said nothing until ttl + 1 s: the message may or may not have been done."""

    code = "connection_lost"


class RequestRefused(RouterError):  # noqa: N818
    """The message itself is at fault (bad header, too large, duplicate id, forbidden, rejected by the backend)."""


class Unavailable(RouterError):  # noqa: N818
    """Nobody can do it now: no backend, no capability, no room, or the daemon is draining."""


class Expired(RouterError):  # noqa: N818
    """The time to live was up before an answer came."""

    code = "expired"


class Failed(RouterError):  # noqa: N818
    """Every backend that was tried failed."""

    code = "failed"


class Cancelled(RouterError):  # noqa: N818
    """The message was cancelled by this client."""

    code = "cancelled"


_FAMILY: Final[dict[str, type[RouterError]]] = {
    "expired": Expired,
    "failed": Failed,
    "cancelled": Cancelled,
    "internal": Failed,
    "no_capability": Unavailable,
    "no_backend": Unavailable,
    "overloaded": Unavailable,
    "draining": Unavailable,
    "unknown_backend": Unavailable,
}


def router_error(
    code: str,
    detail: str,
    *,
    retry: bool,
    retry_after_ms: float | None = None,
    message: str | None = None,
    backend: str | None = None,
) -> RouterError:
    """Return the exception for an ERROR of the daemon; an unknown code (a newer daemon) is a plain `RouterError`."""
    family = _FAMILY.get(code, RequestRefused if code in RETRY else RouterError)
    return family(detail, code=code, retry=retry, retry_after_ms=retry_after_ms, message=message, backend=backend)


class StartError(Exception):
    """The daemon cannot start, for a reason outside of it (an address in use, no permission): one clear line."""
