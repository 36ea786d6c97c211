"""The open messages of a client: what each is waiting for, what came, when to give up. No sockets here.

Rules:
- A `Call` is one SEND from its id being taken to its id being free. Its `outcome` may come earlier than its end: a
  cancelled call has an outcome at once and keeps its id until the daemon's last message for it.
- A call that had to wait for a connection leaves with what is left of its ttl, so a deadline is one moment for caller
  and daemon.
- `Deadlines` is one timer for all calls: a heap of moments and one handle on the loop, armed for the first of them.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from router_daemon.errors import RouterError, router_error
from router_daemon.sdk.answers import Id, Kind, Reply, error_of
from router_daemon.sdk.link import Incoming, pack

PIECE_OVERHEAD_BYTES: Final = 64
"""What one buffered frame costs beside its bytes, so that endless empty pieces are bounded too."""
STALE_DEADLINES: Final = 64
"""Deadlines of ended calls left in the heap before it is rebuilt without them."""


class Call:
    """One SEND: an `Outgoing` of the link until it left, then the place where its answers gather.

    Args:
        kind: what the caller waits for; `stream` is `reply: first` with its pieces.
        header: the keys of SEND with id and ttl_ms, ready to pack.
        body: the caller's frames.

    Attributes:
        id: taken until `freed`.
        expires_at: when the ttl is up, on the loop's clock.
        sent: whether the SEND was handed to a connection.
        freed: whether the id is free again; nothing of the daemon belongs to this call any more.
        outcome: what the caller gets; None while that is open.
    """

    __slots__ = (
        "_buffered_bytes",
        "_frames",
        "_head",
        "_header",
        "_loop",
        "_parts",
        "_replies",
        "_waiter",
        "expires_at",
        "freed",
        "id",
        "kind",
        "outcome",
        "sent",
    )

    outlives_connection = True

    def __init__(self, kind: Kind, header: dict[str, Any], body: list[bytes]) -> None:
        self._loop = asyncio.get_running_loop()
        self._header = header
        self._frames = pack("SEND", header, body)
        self._parts: deque[tuple[list[bytes], int]] = deque()
        self._buffered_bytes = 0
        self._head: tuple[Any, int] = (None, 0)
        self._replies: list[Reply | RouterError] = []
        self._waiter: asyncio.Future[None] | None = None
        self.id: Id = header["id"]
        self.kind = kind
        self.expires_at = self._loop.time() + header["ttl_ms"] / 1000
        self.sent = False
        self.freed = False
        self.outcome: Any = None

    @property
    def may_run_again(self) -> bool:
        """Return whether sending the same message again does no harm, should this one have been done."""
        return not self.sent or self._header.get("idempotent") is not False

    def frames(self) -> list[bytes]:
        """Return the SEND, with what is left of its ttl."""
        left_ms = max(1, math.ceil((self.expires_at - self._loop.time()) * 1000))
        if left_ms < self._header["ttl_ms"]:
            self._header["ttl_ms"] = left_ms
            self._frames[:2] = pack("SEND", self._header)
        return self._frames

    def departed(self) -> None:
        """Note that the SEND is on its way; its body is not needed any more."""
        self.sent = True
        self._frames = []

    def lost(self) -> None:
        """Do nothing: a link that is shut belongs to a client that ends all of its calls."""

    async def result(self) -> Any:
        """Return the outcome once there is one, or raise it."""
        while self.outcome is None:
            await self._news()
        if isinstance(self.outcome, RouterError):
            raise self.outcome
        return self.outcome

    async def next_part(self) -> list[bytes] | None:
        """Return the next piece of a stream, None after the last; raises how it ended, after all that came before."""
        while not self._parts and self.outcome is None:
            await self._news()
        if not self._parts:
            await self.result()
            return None
        part, size_bytes = self._parts.popleft()
        self._buffered_bytes -= size_bytes
        return part

    def end(self, outcome: Any) -> None:
        """Give the caller its outcome; the first one counts."""
        if self.outcome is None:
            self.outcome = outcome
            self._wake()

    def add_part(self, message: Incoming, limit_bytes: int) -> RouterError | None:
        """Buffer a piece; return why the stream must end instead, when it must. Only `stream` keeps pieces."""
        if self.kind != "stream" or self.outcome is not None:
            return None
        head, seq = message.header.get("head"), message.header.get("seq")
        known_head, next_seq = self._head
        if seq != next_seq or (next_seq and head != known_head):
            detail = f"the stream has a gap: piece {seq!r} of head {head!r} came where {next_seq} was due"
            return router_error("internal", detail, retry=self.may_run_again)
        self._head = (head, next_seq + 1)
        size_bytes = sum(map(len, message.body)) + PIECE_OVERHEAD_BYTES * (1 + len(message.body))
        if self._buffered_bytes + size_bytes > limit_bytes:
            detail = f"the reader of the stream left {self._buffered_bytes} bytes unread"
            return router_error("overloaded", detail, retry=self.may_run_again)
        self._parts.append((message.body, size_bytes))
        self._buffered_bytes += size_bytes
        self._wake()
        return None

    def add_answer(self, message: Incoming) -> None:
        """Take a REPLY, an ERROR or an ACCEPT; the last one is the outcome."""
        last = message.header.get("last") is True
        if message.verb == "ACCEPT":
            if last:
                self.end(message.header.get("message", ""))
            return
        is_reply = message.verb == "REPLY"
        result = Reply.of(message) if is_reply else error_of(message.header)
        if self.kind == "all" and (is_reply or self._is_of_one_head(message.header)):
            self._replies.append(result)
            if last:
                self.end(self._replies)
        elif last or message.header.get("code") == "duplicate_id":
            # duplicate_id has no last message. Ids open here are refused before sending, so this one is of a call
            # that this client gave up by its clock and a daemon that was away still knows.
            self.end(result)

    def _is_of_one_head(self, header: Mapping[str, Any]) -> bool:
        """Return whether an ERROR goes beside the answers of other heads, or is the end of the whole message."""
        return "head" in header or (bool(self._replies) and header.get("code") != "cancelled")

    async def _news(self) -> None:
        """Wait until something came."""
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        """Let the caller look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Plain:
    """A message that opens no call (CANCEL, FEEDBACK, PING), on its way out.

    Args:
        frames: what to send.
        outlives_connection: as in `Outgoing`.
        on_left: called when it left.

    Attributes:
        left: done once the message left; False when it never will.
    """

    def __init__(
        self,
        frames: list[bytes],
        *,
        outlives_connection: bool = False,
        on_left: Callable[[], Any] | None = None,
    ) -> None:
        self._frames = frames
        self._on_left = on_left
        self.outlives_connection = outlives_connection
        self.left: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def frames(self) -> list[bytes]:
        """Return what to send."""
        return self._frames

    def departed(self) -> None:
        """Note that it left."""
        if self._on_left is not None:
            self._on_left()
        if not self.left.done():
            self.left.set_result(True)

    def lost(self) -> None:
        """Note that it never will."""
        if not self.left.done():
            self.left.set_result(False)


class Deadlines:
    """One timer for all calls.

    Args:
        on_due: called with a call whose moment has come and that is not freed.
    """

    def __init__(self, on_due: Callable[[Call], None]) -> None:
        self._on_due = on_due
        self._loop = asyncio.get_running_loop()
        self._heap: list[tuple[float, int, Call]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._stale = 0

    def add(self, when: float, call: Call) -> None:
        """Call `on_due` with `call` at `when`, on the loop's clock."""
        heapq.heappush(self._heap, (when, next(self._order), call))
        self._arm()

    def forget(self) -> None:
        """Note that a call with a deadline was freed; with too many of them the heap is rebuilt."""
        self._stale += 1
        if self._stale > STALE_DEADLINES and 2 * self._stale > len(self._heap):
            self._heap = [entry for entry in self._heap if not entry[2].freed]
            heapq.heapify(self._heap)
            self._stale = 0

    def stop(self) -> None:
        """Forget everything."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        """Have the timer go off at the first deadline; one that goes off too early does no harm."""
        when = self._heap[0][0]
        if self._timer is None or when < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(when, self._go)

    def _go(self) -> None:
        """Handle all that is due."""
        self._timer = None
        now = self._loop.time()
        while self._heap and self._heap[0][0] <= now:
            call = heapq.heappop(self._heap)[2]
            if call.freed:
                self._stale = max(0, self._stale - 1)
            else:
                self._on_due(call)
        if self._heap:
            self._arm()
