"""One message from the command line: body in, answer out, byte for byte.

Rules:
- A daemon that is not there is noticed by a PING first, not by the message's time to live.
- stdout gets the answer and nothing else; what went wrong goes to stderr, and the exit code says which way.
"""

from __future__ import annotations

import os
import sys
from io import BufferedReader
from typing import BinaryIO, Final, cast

import zmq

from router_daemon.cli.exits import NO_DAEMON, USAGE, CommandError, complain, exit_code_of
from router_daemon.errors import ConnectionLost, RouterError
from router_daemon.sdk.answers import Reply, SendKeys
from router_daemon.sdk.sync_client import SyncClient

PING_TIMEOUT_S: Final = 2.0
CHUNK_BYTES: Final = 64 * 1024


def body_of(text: str | None) -> list[bytes]:
    """Return the frames of a message: none without a text, all of standard input for `-`, else the text."""
    if text is None:
        return []
    if text != "-":
        return [os.fsencode(text)]
    stdin = cast("BufferedReader", sys.stdin.buffer)
    return [b"".join(iter(lambda: stdin.read1(CHUNK_BYTES), b""))]  # in pieces: in one read() Ctrl-C goes unheard


def send(address: str, capability: str, body: list[bytes], keys: SendKeys, *, every: bool, stream: bool) -> int:
    """Send one message, write what comes back to stdout, and return the exit code.

    Args:
        address: of the daemon's frontend.
        capability: what a backend must offer.
        body: the message's frames.
        keys: of SEND.
        every: wait for the answer of every head; those that failed are named on stderr.
        stream: write pieces as they come.

    Raises:
        CommandError: no daemon there, or no such address.
        RouterError: what the daemon answered instead of a result.
    """
    out = sys.stdout.buffer
    try:
        with SyncClient(address) as client:
            _ping(client, address)
            if every:
                return _write_all(out, client.send_all(capability, body, **keys))
            if stream:
                _write_stream(out, client, capability, body, keys)
            else:
                _write(out, client.send(capability, body, **keys).data)
    except zmq.ZMQError as error:
        raise CommandError(USAGE, f"{address}: {error.strerror}") from None
    return 0


def _ping(client: SyncClient, address: str) -> None:
    try:
        client.ping(PING_TIMEOUT_S)
    except ConnectionLost:
        raise CommandError(NO_DAEMON, f"no daemon at {address}") from None


def _write(out: BinaryIO, data: bytes) -> None:
    out.write(data)
    out.flush()


def _write_stream(out: BinaryIO, client: SyncClient, capability: str, body: list[bytes], keys: SendKeys) -> None:
    pieces = client.stream(capability, body, **keys)
    while True:
        try:
            _write(out, b"".join(next(pieces)))
        except StopIteration as end:
            reply: Reply = end.value
            _write(out, reply.data)
            return


def _write_all(out: BinaryIO, replies: list[Reply | RouterError]) -> int:
    """Write each answer, each from the beginning of a line; return the exit code of the first head that failed."""
    exit_code = 0
    for index, reply in enumerate(replies):
        if isinstance(reply, RouterError):
            complain(f"error: {reply.backend or 'a head'}: {reply}")
            exit_code = exit_code or exit_code_of(reply)
        else:
            more = index < len(replies) - 1
            _write(out, reply.data + (b"\n" if more and not reply.data.endswith(b"\n") else b""))
    return exit_code
