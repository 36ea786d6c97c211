"""What the client and the backend SDK share: the frames of CAR/1, and one DEALER socket with its monitor.

Rules:
- The SDK speaks `msgpack`, the daemon `msgspec`: two codecs that check each other. Bytes that cannot be read are
  logged and dropped here, so nothing above this file ever raises because of what a daemon sent.
- No `zmq.asyncio`: a plain socket whose file descriptor the loop watches, at a sixth of the cost. That descriptor is
  edge-triggered and any call on the socket may consume the edge, so after every wake-up and after every send the
  socket is looked at again until it has nothing left (`ClientLink._pump`).
- `ZMQ_IMMEDIATE`, and nothing leaves between a DISCONNECTED and the next HANDSHAKE_SUCCEEDED of the monitor: what was
  handed to libzmq either reached a living connection or is reported lost, and no message waits inside libzmq
  longer than its time to live. What cannot leave (no connection, or the high-water mark) waits here, in order.
- The ZeroMQ routing id stays unset: a daemon never hears a peer that sets one in use.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgpack
import zmq
from zmq.utils.monitor import parse_monitor_message

log = logging.getLogger(__name__)

PREFIX: Final = b"CAR1."
LINGER_MS: Final = 1_000
"""How long closing waits for what was already handed to libzmq (an unanswered FEEDBACK, a last ACK)."""
CONNECT_TIMEOUT_MS: Final = 3_000
"""After that libzmq tries again; the system alone would hang on an unreachable host for two minutes."""
HIGH_WATER_MARK: Final = 256
"""Messages that libzmq may hold for a daemon that does not read; what is sent beyond it waits where it can be seen."""
BATCH_MESSAGES: Final = 256
"""Messages taken from the socket before anybody else gets the loop."""

Buffer = bytes | bytearray | memoryview
Body = Buffer | Sequence[Buffer]
Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]


class Incoming(NamedTuple):
    """One message of the daemon: its verb without the version, its header, its body."""

    verb: str
    header: dict[str, Any]
    body: list[bytes]


def pack(verb: str, header: Mapping[str, Any], body: Sequence[bytes] = ()) -> list[bytes]:
    r"""Return the frames of one message.

    Example:
        >>> pack("PING", {})
        [b'CAR1.PING', b'\x80']

    Raises:
        TypeError, ValueError, OverflowError: a header value has no MessagePack form.
    """
    return [PREFIX + verb.encode("ascii"), msgpack.packb(header, use_bin_type=True), *body]


def unpack(frames: list[bytes]) -> Incoming | None:
    """Return the message in `frames`; None, and a line in the log, when it is not one of CAR/1."""
    try:
        verb = frames[0].decode("ascii").removeprefix(PREFIX.decode())
        header = msgpack.unpackb(frames[1], raw=False)
    except (ValueError, TypeError, IndexError, RecursionError, msgpack.exceptions.UnpackException) as error:
        log.warning("dropped %d frames of the daemon: no message of CAR/1: %s", len(frames), error)
        return None
    if not frames[0].startswith(PREFIX) or not isinstance(header, dict):
        log.warning("dropped %d frames of the daemon: no message of CAR/1: %r", len(frames), frames[0][:32])
        return None
    return Incoming(verb, header, frames[2:])


def body_frames(body: Body | None) -> list[bytes]:
    """Return a body as frames: one buffer is one frame, a list or tuple one frame each, None is none at all.

    Raises:
        TypeError: text, or anything else that is no buffer; the wire carries bytes, so encode text first.
    """
    if body is None:
        return []
    if isinstance(body, bytes | bytearray | memoryview):
        return [bytes(body)]
    if isinstance(body, list | tuple):
        for frame in body:
            if not isinstance(frame, bytes | bytearray | memoryview):
                raise TypeError(f"a body frame must be bytes, not {type(frame).__name__}")
        return [frame if isinstance(frame, bytes) else bytes(frame) for frame in body]
    raise TypeError(f"a body must be bytes or a list of bytes, not {type(body).__name__}")


def embedding_bytes(embedding: Any) -> bytes:
    """Return an embedding as the wire wants it: little-endian float32, whatever it was.

    Args:
        embedding: bytes (taken as they are), a numpy array of one dimension, or any iterable of numbers.

    Raises:
        ValueError: an array of another shape.
        TypeError, struct.error, OverflowError: something that is no float32.
    """
    if isinstance(embedding, bytes | bytearray | memoryview):
        return bytes(embedding)
    if hasattr(embedding, "astype"):
        if embedding.ndim != 1:
            raise ValueError(f"an embedding has one dimension, not {embedding.ndim}")
        return bytes(embedding.astype("<f4").tobytes())
    values = list(embedding)
    return struct.pack(f"<{len(values)}f", *values)


def header_of(keys: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return header keys ready to pack: without those that are None, the embedding as bytes."""
    header = {key: value for key, value in keys if value is not None}
    if "embedding" in header:
        header["embedding"] = embedding_bytes(header["embedding"])
    return header


def open_dealer(context: Context, address: str) -> Socket:
    """Return a DEALER connecting to `address` (tcp:// or ipc://); the connection may come at any time later.

    Raises:
        zmq.ZMQError: an address that libzmq cannot read.
    """
    socket: Socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS)
    if "[" in address:
        socket.setsockopt(zmq.IPV6, 1)
    return socket


def open_monitor(socket: Socket) -> Socket:
    """Return the monitor of `socket`, reporting connections that began or ended and nothing else."""
    return socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)


def read_monitor(monitor: Socket) -> bool | None:
    """Return True for a connection that began, False for one that ended, None when there is no news."""
    try:
        frames = monitor.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None
    return bool(parse_monitor_message(frames)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED)


def events_of(socket: Socket) -> int:
    """Return what a socket is ready for, `zmq.POLLIN` and `zmq.POLLOUT`; libzmq does its housekeeping meanwhile."""
    events = socket.getsockopt(zmq.EVENTS)
    assert isinstance(events, int)
    return events


def close_dealer(socket: Socket, monitor: Socket, linger_ms: int) -> None:
    """Close a monitored socket; libzmq goes on sending for `linger_ms`."""
    socket.disable_monitor()
    monitor.close(0)
    socket.close(linger_ms)


class Outgoing(Protocol):
    """One message on its way out of a `ClientLink`.

    Attributes:
        outlives_connection: whether it may still leave over the next connection when this one is lost before it left.
    """

    outlives_connection: bool

    def frames(self) -> list[bytes]:
        """Return what to send now."""

    def departed(self) -> None:
        """Note that the frames were handed to a living connection."""

    def lost(self) -> None:
        """Note that it never will be: the connection went first, or the link was closed."""


class ClientLink:
    """One DEALER connection on the event loop; knows frames and connections, nothing of ids, answers or time.

    Args:
        address: of the daemon's frontend.
        on_message: called with each message of the daemon.
        on_lost: called when the connection is gone, after everything it still brought was handed to `on_message`.
    """

    def __init__(self, address: str, on_message: Callable[[Incoming], None], on_lost: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._waiting: OrderedDict[Outgoing, None] = OrderedDict()
        self._pump_due = False
        self._closed = False
        self.connected = False
        self._context: Context = zmq.Context()
        try:
            self._socket = open_dealer(self._context, address)
            self._monitor = open_monitor(self._socket)
            self._socket.connect(address)
        except zmq.ZMQError:
            self._context.destroy(0)
            raise
        self._loop.add_reader(self._socket.FD, self._pump)
        self._loop.add_reader(self._monitor.FD, self._look_at_connection)
        self._look_at_connection()
        self._pump_soon()

    def submit(self, message: Outgoing) -> None:
        """Send `message` now, or as soon as there is a connection with room; order is kept."""
        if events_of(self._monitor) & zmq.POLLIN:
            self._look_at_connection()  # else a send right after a reconnect would count as lost with the old one
        if self._waiting or not self.connected or not self._try(message):
            self._waiting[message] = None
        self._pump_soon()

    def drop(self, message: Outgoing) -> None:
        """Forget a message that has not left yet."""
        self._waiting.pop(message, None)

    def shut(self) -> None:
        """Stop at once: nothing is received any more, what waits here is lost, what libzmq has still leaves."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket.FD)
        self._loop.remove_reader(self._monitor.FD)
        self._forget_waiting(everything=True)
        close_dealer(self._socket, self._monitor, LINGER_MS if self.connected else 0)

    async def term(self) -> None:
        """Wait until what libzmq had when `shut` was called has left, `LINGER_MS` at most."""
        await self._loop.run_in_executor(None, self._context.term)

    def _try(self, message: Outgoing) -> bool:
        """Return whether `message` left; a full pipe takes all of its frames or none."""
        try:
            self._socket.send_multipart(message.frames(), zmq.NOBLOCK)
        except zmq.Again:
            return False
        message.departed()
        return True

    def _pump_soon(self) -> None:
        """Look at the socket once the caller is done: sending may have consumed the edge of arriving messages."""
        if not self._pump_due:
            self._pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Receive a bounded batch, send what waits, and come back while libzmq says that there is more."""
        self._pump_due = False
        if self._closed:
            return
        if events_of(self._socket) & zmq.POLLIN:  # cheaper than the exception of an empty receive
            self._receive(BATCH_MESSAGES)
        while self.connected and self._waiting:
            message = next(iter(self._waiting))
            if not self._try(message):
                break
            self._waiting.pop(message, None)
        events = events_of(self._socket)
        if events & zmq.POLLIN or (events & zmq.POLLOUT and self._waiting and self.connected):
            self._pump_soon()

    def _receive(self, limit: float) -> None:
        """Hand over up to `limit` messages."""
        taken = 0
        while taken < limit:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            taken += 1
            if (message := unpack(frames)) is None:
                continue
            try:
                self._on_message(message)
            except Exception:  # one odd message must not cost the edge of those behind it
                log.exception("a %s of the daemon was not understood", message.verb)

    def _look_at_connection(self) -> None:
        """Follow the monitor; what a dying connection brought is still read before it counts as lost."""
        while not self._closed and (began := read_monitor(self._monitor)) is not None:
            self.connected = began
            if not began:
                self._receive(float("inf"))
                self._forget_waiting(everything=False)
                self._on_lost()
            self._pump_soon()

    def _forget_waiting(self, *, everything: bool) -> None:
        """Drop what may not leave over another connection."""
        for message in [each for each in self._waiting if everything or not each.outlives_connection]:
            self._waiting.pop(message, None)
            message.lost()
