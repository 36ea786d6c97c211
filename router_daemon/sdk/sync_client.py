"""The blocking client: `Client` on an event-loop thread of its own.

Rules:
- There is one implementation of the client: every call here runs the method of the same name over there.
- Any number of threads may call at once; each waits for its own answer only.
- A caller that stops waiting (Ctrl-C) cancels its message, as a cancelled task does.

Example:
    ```python
    with SyncClient("tcp://127.0.0.1:5570") as client:
        print(client.send("data_processing", b"1,2,3").data)
    ```
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, Unpack

from router_daemon.errors import ConnectionLost, RouterError

if TYPE_CHECKING:
    from router_daemon.sdk.answers import Id, Pong, Reply, SendKeys
    from router_daemon.sdk.link import Body

T = TypeVar("T")

DEFAULT_ADDRESS: Final = "tcp://127.0.0.1:5570"


class SyncClient:
    """A connection to a router daemon for code that blocks; `Client` documents what its methods do and raise.

    Args:
        address: the daemon's frontend, `tcp://host:port` or `ipc://path`.
        ttl_ms: the time to live of messages that name none.
        stream_buffer_bytes: how much a stream may hold that its reader has not taken yet.

    Example:
        ```python
        with SyncClient() as client, ThreadPoolExecutor() as pool:
            replies = list(pool.map(lambda body: client.send("echo", body), [b"one", b"two"]))
        ```
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        ttl_ms: int = 30_000,
        stream_buffer_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        from router_daemon.client import Client  # noqa: PLC0415 - client.py exports this class beside its own

        self.address = address
        self._client = Client(address, ttl_ms=ttl_ms, stream_buffer_bytes=stream_buffer_bytes)
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Start the thread and connect in the background; `with` does that."""
        with self._guard:
            if self._loop is not None:
                return
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="router-daemon client", daemon=True)
            thread.start()
            self._loop, self._thread = loop, thread
        try:
            self._run(self._client.open())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End every open send with `ConnectionLost`, close, and wait for the thread to end."""
        with self._guard:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_close(self._client), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def send(self, capability: str, body: Body = (), **keys: Unpack[SendKeys]) -> Reply:
        """Send a message and wait for the first good answer."""
        return self._run(self._client.send(capability, body, **keys))

    def send_all(self, capability: str, body: Body = (), **keys: Unpack[SendKeys]) -> list[Reply | RouterError]:
        """Send a message to `heads` backends at once and wait for what became of each."""
        return self._run(self._client.send_all(capability, body, **keys))

    def post(self, capability: str, body: Body = (), **keys: Unpack[SendKeys]) -> str:
        """Send a message without waiting for an answer; return the daemon's name for it once it is queued there."""
        return self._run(self._client.post(capability, body, **keys))

    def stream(self, capability: str, body: Body = (), **keys: Unpack[SendKeys]) -> Generator[list[bytes], None, Reply]:
        """Yield the answer piece by piece; the generator's return value is the final reply.

        Closing the generator early, also by dropping it after a `break`, cancels the message.

        Example:
            ```python
            for piece in client.stream("chat", b"tell me"):
                print(b"".join(piece).decode(), end="")
            ```
        """
        stream = self._client.stream(capability, body, **keys)
        pieces = aiter(stream)
        try:
            while (piece := self._run(_next(pieces))) is not None:
                yield piece
            return stream.reply
        finally:
            if self._loop is not None:
                self._run(pieces.aclose())

    def cancel(self, call_id: Id) -> None:
        """Cancel the open send with that id, from another thread; of any other id nothing happens."""
        self._run(self._client.cancel(call_id))

    def feedback(self, call_id: Id, score: float) -> None:
        """Tell the daemon how good the answer to an ended send was, from 0 to 1."""
        self._run(self._client.feedback(call_id, score))

    def ping(self, timeout_s: float = 5.0) -> Pong:
        """Return what the daemon says about itself."""
        return self._run(self._client.ping(timeout_s))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine over there and wait for it; to stop waiting is to cancel it."""
        with self._guard:
            if self._loop is None:
                work.close()
                raise ConnectionLost("the client is not open: use `with`, or open()", retry=False)
            done = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return done.result()
        except BaseException:
            done.cancel()
            raise


async def _next(pieces: Any) -> list[bytes] | None:
    """Return the next piece, None after the last (a coroutine cannot raise StopAsyncIteration out of a future)."""
    piece: list[bytes] | None = await anext(pieces, None)
    return piece


async def _close(client: Any) -> None:
    """Close the client and let those who waited for it see that, before the loop stops."""
    await client.close()
    me = asyncio.current_task()
    while others := [task for task in asyncio.all_tasks() if task is not me]:
        await asyncio.wait(others)
