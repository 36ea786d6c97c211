"""The asyncio client: send a message, await its answer.

Rules:
- Every open send ends exactly once: by the daemon's last message, by the loss of the connection, or by this client's
  own clock at ttl + 1 s (a dead daemon answers nothing).
- An id is taken until its end, also when the caller has stopped waiting: the late answer to a cancelled send must not
  be mistaken for the answer to a new one with the same id.
- Nothing blocks the loop and nothing is lost in silence: a send that cannot leave (no connection, or the daemon takes
  no more) waits up to its ttl and then fails as never sent.
- What a stream's reader leaves unread is bounded by `stream_buffer_bytes`; beyond it the stream ends with
  `overloaded`, for a stream never has a gap.

Example:
    ```python
    async with Client("tcp://127.0.0.1:5570") as client:
        reply = await client.send("data_processing", b"1,2,3", priority=3, ttl_ms=2_000)
        print(reply.data, "from", reply.backend)
    ```
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any, Final, Self, Unpack

from router_daemon.errors import ConnectionLost, RouterError, router_error
from router_daemon.sdk.answers import Id, Kind, Pong, Reply, SendKeys, check_id, check_ttl_ms, error_of, send_header
from router_daemon.sdk.calls import Call, Deadlines, Plain
from router_daemon.sdk.link import Body, ClientLink, Incoming, body_frames, pack
from router_daemon.sdk.sync_client import SyncClient

__all__ = ["Client", "Pong", "Reply", "SendKeys", "Stream", "SyncClient"]

log = logging.getLogger(__name__)

DEFAULT_ADDRESS: Final = "tcp://127.0.0.1:5570"
GRACE_S: Final = 1.0
"""How long after its ttl a send waits for the daemon to say so."""


class Client:
    """A connection to a router daemon, for one event loop; any number of tasks may send at once.

    The connection is made in the background and made again whenever it is lost, so a client may be opened before the
    daemon is up: what is sent meanwhile waits for the connection, up to its ttl.

    Args:
        address: the daemon's frontend, `tcp://host:port` or `ipc://path`.
        ttl_ms: the time to live of messages that name none; always sent, so that this client's clock and the
            daemon's agree.
        stream_buffer_bytes: how much a stream may hold that its reader has not taken yet.

    Example:
        ```python
        async with Client() as client:
            replies = await asyncio.gather(*(client.send("echo", body) for body in (b"one", b"two")))
        ```
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        ttl_ms: int = 30_000,
        stream_buffer_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.address = address
        self.ttl_ms = check_ttl_ms(ttl_ms)
        self.stream_buffer_bytes = stream_buffer_bytes
        self._link: ClientLink | None = None
        self._calls: dict[Id, Call] = {}
        self._ids = itertools.count(1)
        self._pings: deque[asyncio.Future[Pong]] = deque()
        self._max_ttl_ms = 0

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Start connecting; `async with` does that. Returns at once, whether or not there is a daemon yet.

        Raises:
            zmq.ZMQError: an address that cannot be read.
        """
        if self._link is None:
            self._deadlines = Deadlines(self._on_due)
            self._link = ClientLink(self.address, self._on_message, self._on_lost)

    async def close(self) -> None:
        """End every open send with `ConnectionLost` and close; what was already sent still leaves, within a second."""
        if self._link is None:
            return
        link, self._link = self._link, None
        self._deadlines.stop()
        for call in list(self._calls.values()):
            self._free(call, _lost(call, "the client was closed"))
        self._fail_pings("the client was closed")
        link.shut()
        await link.term()

    async def send(self, capability: str, body: Body = (), **keys: Unpack[SendKeys]) -> Reply:
        """Send a message and return the first good answer.

        Cancelling the task that waits here (also by `asyncio.timeout`) sends CANCEL to the daemon. Of an answer that
        is streamed only the final REPLY is returned: use `stream()` for its pieces.

        Args:
            capability: what a backend must offer.
            body: bytes, or a list of frames; nobody on the way looks into them.
            keys: of `SendKeys`.

        Example:
            ```python
            reply = await client.send("trend_analysis", csv, priority=4, ttl_ms=500, idempotent=True)
            ```

        Raises:
            RequestRefused: the message is at fault, or its `id` is open already.
            Unavailable: nobody can do it now; `retry_after_ms` says when, where the daemon knows.
            Failed: every backend that was tried failed.
            Expired: the time was up.
            Cancelled: `cancel()` was called with its id.
            ConnectionLost: the connection is gone, never came, or nothing was heard until ttl + 1 s.
            ValueError, TypeError: an id, ttl or body that has no form on the wire.
        """
        reply: Reply = await self._run("first", capability, body, keys)
        return reply

    async def send_all(self, capability: str, body: Body = (), **keys: Unpack[SendKeys]) -> list[Reply | RouterError]:
        """Send a message to `heads` backends at once and return what became of each, in the order of the answers.

        Raises:
            RouterError: as `send`, when the message as a whole came to nothing and no head had answered yet.
        """
        replies: list[Reply | RouterError] = await self._run("all", capability, body, keys)
        return replies

    async def post(self, capability: str, body: Body = (), **keys: Unpack[SendKeys]) -> str:
        """Send a message without waiting for an answer; return the daemon's name for it once it is queued there.

        Raises:
            RouterError: as `send`; what becomes of it after this returned is not told.
        """
        message: str = await self._run("none", capability, body, keys)
        return message

    def stream(self, capability: str, body: Body = (), **keys: Unpack[SendKeys]) -> Stream:
        """Return the answer to a message piece by piece; it is sent when the reading begins.

        Raises:
            RouterError: while reading, as `send`; after all pieces that came before.

        Example:
            ```python
            stream = client.stream("chat", b"tell me", ttl_ms=60_000, first_ms=2_000)
            async for piece in stream:
                print(b"".join(piece).decode(), end="")
            print(stream.reply.backend)
            ```
        """
        return Stream(self, capability, body, keys)

    async def cancel(self, call_id: Id) -> None:
        """Cancel the open send with that id: it ends with `Cancelled`. Of any other id nothing happens."""
        link = self._opened()
        call = self._calls.get(check_id(call_id))
        if call is None or call.outcome is not None:
            return
        if not call.sent:
            self._free(call, router_error("cancelled", "cancelled before it was sent", retry=False))
            return
        cancel = Plain(pack("CANCEL", {"id": call.id}))
        link.submit(cancel)
        await cancel.left

    async def feedback(self, call_id: Id, score: float) -> None:
        """Tell the daemon how good the answer to an ended send was, so that it learns whom to ask.

        Args:
            call_id: the `id` that was given to the send.
            score: 0 useless to 1 perfect.

        Raises:
            ConnectionLost: the connection that brought the answer is gone, and with it the daemon's memory of it.
            ValueError: a score outside 0 to 1.
        """
        if not 0 <= score <= 1:
            raise ValueError(f"a score lies between 0 and 1, not {score!r}")
        link = self._opened()
        feedback = Plain(pack("FEEDBACK", {"id": check_id(call_id), "score": score}))
        if link.connected:
            link.submit(feedback)
        else:
            feedback.lost()
        if not await feedback.left:
            raise ConnectionLost("not connected", retry=False)

    async def ping(self, timeout_s: float = 5.0) -> Pong:
        """Return what the daemon says about itself.

        Raises:
            ConnectionLost: no answer within `timeout_s`, or the connection is gone.
        """
        link = self._opened()
        pong: asyncio.Future[Pong] = asyncio.get_running_loop().create_future()
        ping = Plain(pack("PING", {}), outlives_connection=True, on_left=lambda: self._pings.append(pong))
        link.submit(ping)
        try:
            async with asyncio.timeout(timeout_s):
                if not await ping.left:
                    raise ConnectionLost("the client was closed", retry=False)
                return await pong
        except TimeoutError:
            raise ConnectionLost(f"no answer to a PING within {timeout_s} s", retry=True) from None
        finally:
            link.drop(ping)

    async def _run(self, kind: Kind, capability: str, body: Body, keys: SendKeys) -> Any:
        """Send, wait, and clean up behind a caller that stops waiting."""
        call = self._begin(kind, capability, body, keys)
        try:
            return await call.result()
        finally:
            self._leave(call)

    def _begin(self, kind: Kind, capability: str, body: Body, keys: SendKeys) -> Call:
        """Take an id and send, or queue what cannot leave yet."""
        link = self._opened()
        header = send_header(kind, capability, keys, self.ttl_ms)
        if "id" not in header:
            header["id"] = next(number for number in self._ids if number not in self._calls)
        if self._max_ttl_ms:
            header["ttl_ms"] = min(header["ttl_ms"], self._max_ttl_ms)
        call = Call(kind, header, body_frames(body))
        if call.id in self._calls:
            raise router_error("duplicate_id", f"a send with id {call.id!r} is open", retry=False)
        self._calls[call.id] = call
        link.submit(call)
        self._deadlines.add(call.expires_at + (GRACE_S if call.sent else 0.0), call)
        return call

    def _leave(self, call: Call) -> None:
        """The caller waits no more: an open call is cancelled, and keeps its id until the daemon's last message."""
        if call.outcome is None:
            self._abandon(call, router_error("cancelled", "the caller stopped waiting", retry=False))

    def _abandon(self, call: Call, outcome: RouterError) -> None:
        """Give a call its outcome before the daemon does."""
        if call.freed or self._link is None:
            return
        if not call.sent:
            self._free(call, outcome)
            return
        call.end(outcome)
        self._link.submit(Plain(pack("CANCEL", {"id": call.id})))

    def _free(self, call: Call, outcome: Any) -> None:
        """End a call for good: its id may be used again."""
        if call.freed:
            return
        call.freed = True
        self._calls.pop(call.id, None)
        self._deadlines.forget()
        if self._link is not None:
            self._link.drop(call)
        call.end(outcome)

    def _on_message(self, message: Incoming) -> None:
        """Find whose message it is; late answers of ended calls belong to nobody."""
        if message.verb == "PONG":
            self._on_pong(Pong.of(message.header))
            return
        call_id = message.header.get("id")
        if call_id is None and message.verb == "ERROR":
            log.warning("the daemon did not understand this client: %s", error_of(message.header))
        call = self._calls.get(call_id)  # type: ignore[arg-type]
        if call is None:
            return
        if message.verb == "PART":
            if (broken := call.add_part(message, self.stream_buffer_bytes)) is not None:
                self._abandon(call, broken)
        elif message.verb in ("REPLY", "ERROR", "ACCEPT"):
            call.add_answer(message)
            if message.header.get("last") is True or message.header.get("code") == "duplicate_id":
                self._free(call, _lost(call, f"the daemon ended the message with a {message.verb}"))

    def _on_pong(self, pong: Pong) -> None:
        """Answer the oldest PING; its caller may have gone."""
        self._max_ttl_ms = pong.max_ttl_ms
        if self._pings and not (waiting := self._pings.popleft()).done():
            waiting.set_result(pong)

    def _on_lost(self) -> None:
        """End what was sent over the connection that is gone; what has not left yet waits for the next one."""
        for call in [each for each in self._calls.values() if each.sent]:
            self._free(call, _lost(call, "the connection is gone"))
        self._fail_pings("the connection is gone")

    def _fail_pings(self, why: str) -> None:
        """End every PING on its way."""
        while self._pings:
            if not (waiting := self._pings.popleft()).done():
                waiting.set_exception(ConnectionLost(why, retry=True))

    def _on_due(self, call: Call) -> None:
        """End a call that never left by its ttl, or that the daemon never ended."""
        give_up_at = call.expires_at + (GRACE_S if call.sent else 0.0)
        if asyncio.get_running_loop().time() < give_up_at:
            self._deadlines.add(give_up_at, call)
            return
        why = "nothing was heard of it until ttl + 1 s" if call.sent else "it could not be sent within its ttl"
        self._free(call, _lost(call, why))

    def _opened(self) -> ClientLink:
        """Return the link of an open client."""
        if self._link is None:
            raise ConnectionLost("the client is not open: use `async with`, or open()", retry=False)
        return self._link


class Stream:
    """An answer that comes in pieces; read it once, with `async for`.

    Leaving the loop early cancels the message: at once by `await stream.aclose()` or `async with`, and as soon as the
    loop runs again after a plain `break`.

    Example:
        ```python
        async with client.stream("chat", b"tell me") as stream:
            async for piece in stream:
                if b"".join(piece).endswith(b"."):
                    break
        ```
    """

    def __init__(self, client: Client, capability: str, body: Body, keys: SendKeys) -> None:
        self._client = client
        self._request = (capability, body, keys)
        self._call: Call | None = None
        self._reply: Reply | None = None

    @property
    def reply(self) -> Reply:
        """Return the final answer: what the backend said after the last piece.

        Raises:
            RuntimeError: the stream has not come to its end.
        """
        if self._reply is None:
            raise RuntimeError("the final reply is there once the stream was read to its end")
        return self._reply

    async def __aiter__(self) -> AsyncGenerator[list[bytes], None]:
        if self._call is not None:
            raise RuntimeError("a stream is read once")
        call = self._call = self._client._begin("stream", *self._request)  # noqa: SLF001 - the client's other half
        try:
            while (piece := await call.next_part()) is not None:
                yield piece
            self._reply = await call.result()
        finally:
            await self.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop: an answer still on its way is cancelled. Does nothing once the stream has ended."""
        if self._call is not None:
            self._client._leave(self._call)  # noqa: SLF001


def _lost(call: Call, why: str) -> ConnectionLost:
    """Return the end of a call that the daemon did not end."""
    return ConnectionLost(why, retry=call.may_run_again)
