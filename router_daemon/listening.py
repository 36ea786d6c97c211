"""Opening what the native transport listens on."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Final

from router_daemon.errors import StartError
from router_daemon.transport import free_path

BACKLOG: Final = 1024


async def open_listener(address: str, made: list[Path]) -> tuple[socket.socket, str]:
    """Listen on an address; return the socket, which does not block, and the address with the port that it got.

    Args:
        address: `tcp://HOST:PORT` or `ipc://PATH`.
        made: what is to be removed in the end is added to it.

    Raises:
        StartError: it cannot be listened on.
    """
    kind, _, place = address.partition("://")
    try:
        listener = _open_path(address, made) if kind == "ipc" else await _open_port(place)
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be looked up
        reason = getattr(error, "strerror", None) or str(error)
        raise StartError(f"cannot listen on {address}: {reason.partition(' (while')[0]}") from None
    listener.setblocking(False)
    return listener, address if kind == "ipc" else f"tcp://{place.rpartition(':')[0]}:{listener.getsockname()[1]}"


async def _open_port(place: str) -> socket.socket:
    """Listen on `HOST:PORT` as libzmq does: `*` and names are IPv4, brackets are IPv6 and `[::]` is both."""
    host, _, port = place.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    found = await asyncio.get_running_loop().getaddrinfo(
        None if host == "*" else host.strip("[]"),
        0 if port == "*" else int(port),
        family=family,
        type=socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE,
    )
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    listener = socket.create_server(found[0][4], family=family, backlog=BACKLOG, dualstack_ipv6=both)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # what is accepted inherits both
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _open_path(address: str, made: list[Path]) -> socket.socket:
    """Listen on `ipc://PATH`."""
    free_path(address)
    path = address.removeprefix("ipc://")
    abstract = path.startswith("@")  # libzmq's sign for a name outside the file system
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind("\0" + path[1:] if abstract else path)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    made += [] if abstract else [Path(path)]
    return listener
