"""PURE: the addresses of sockets as people write them: checked, compared, and turned from "bind" into "connect".

Rules:
- Every fault is a ValueError whose text says what is allowed, for a configuration fault and a command line alike.
- Nothing is resolved or opened here: a name that does not exist is the daemon's error at start.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

IPC_PATH_BYTES: Final = 107
"""What a Unix domain socket's path may be on Linux (sun_path, less its closing zero)."""

ENDPOINT_RULE: Final = f"tcp://HOST:PORT (port 0: any free one) or ipc://PATH (1 to {IPC_PATH_BYTES} bytes)"
HOST_PORT_RULE: Final = 'HOST:PORT, or "" to switch it off'

_HOST_PORT: Final = re.compile(r"(?P<host>\*|\[[^\]\s]+\]|[^\s\[\]/:;*@]+):(?P<port>[0-9]{1,5}|\*)")
_ANY: Final = frozenset({"*", "0.0.0.0", "[::]"})  # noqa: S104 - compared with, never bound to
_FREE: Final = frozenset({"*", "0"})


def split_host_port(text: str) -> tuple[str, str]:
    """Return host (IPv6 in its brackets) and port of `HOST:PORT`; a port `*` or `0` means any free one.

    Raises:
        ValueError: it is none.
    """
    match = _HOST_PORT.fullmatch(text)
    if match is None or (match["port"] != "*" and int(match["port"]) > 65_535):
        raise ValueError("must be HOST:PORT")
    if match["host"].startswith("[") and not _is_ipv6(match["host"][1:-1]):
        raise ValueError("must be HOST:PORT")
    return match["host"], match["port"]


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def check_endpoint(text: str) -> str:
    """Return `text` when it is an address of a ZeroMQ socket.

    Raises:
        ValueError: it is none; says what is allowed.
    """
    scheme, separator, rest = text.partition("://")
    try:
        if separator and scheme == "tcp":
            split_host_port(rest)
            return text
    except ValueError:
        raise ValueError(f"must be {ENDPOINT_RULE}") from None
    if separator and scheme == "ipc" and 1 <= len(rest.encode(errors="replace")) <= IPC_PATH_BYTES and "\0" not in rest:
        return text
    raise ValueError(f"must be {ENDPOINT_RULE}")


def check_host_port(text: str) -> str:
    """Return `text` when it is HOST:PORT for an HTTP server, or empty.

    Raises:
        ValueError: it is neither; says what is allowed.
    """
    try:
        if text:
            host, port = split_host_port(text)
            if "*" in (host, port):
                raise ValueError
    except ValueError:
        raise ValueError(f"must be {HOST_PORT_RULE}") from None
    return text


def clash(one: str, other: str) -> bool:
    """Tell whether two addresses to bind (endpoints, or HOST:PORT) can be told apart only by one failing."""
    if one.startswith("ipc://") or other.startswith("ipc://"):
        return one == other
    (host, port), (other_host, other_port) = _bound(one), _bound(other)
    if port in _FREE or port != other_port:
        return False
    return host == other_host or host in _ANY or other_host in _ANY


def reachable(address: str) -> str:
    """Return where a peer on this machine reaches what is bound to `address`: "every interface" becomes the loopback.

    Args:
        address: an endpoint, or HOST:PORT.

    Example:
        >>> reachable("tcp://*:5570")
        'tcp://127.0.0.1:5570'

    Raises:
        ValueError: it is neither, or "any free port".
    """
    if "://" in address:
        check_endpoint(address)
        if address.startswith("ipc://"):
            return address
    else:
        split_host_port(address)
    scheme = "tcp://" if address.startswith("tcp://") else ""
    host, port = _bound(address)
    if port in _FREE:
        raise ValueError("must name a port, to be connected to")
    if host in _ANY:
        host = "[::1]" if host == "[::]" else "127.0.0.1"
    return f"{scheme}{host}:{port}"


def _bound(address: str) -> tuple[str, str]:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host, port
