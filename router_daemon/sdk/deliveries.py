"""What a handler gets and gives back, and how that looks on the wire. No state here.

Rules:
- A handler's outcome is one of: a result (ACK), `Reject`, `Busy`, a cancellation, any other exception (NACK `failed`).
- A NACK names the type and the text of an exception, bounded; tracebacks stay in this process's log.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from router_daemon.sdk.link import Body, body_frames, header_of, pack

REASON_CHARS: Final = 500
"""Most of an exception's text that a NACK carries."""


class Reject(Exception):  # noqa: N818 - an instruction to the daemon: `raise Reject("no such account")`
    """The message is at fault: no other backend need try, and this one is not blamed."""


class Busy(Exception):  # noqa: N818
    """Not now: the work was not begun, the message goes to another backend or back to wait.

    Args:
        reason: for a person.
        retry_after_ms: how long to leave this backend alone; the daemon takes one mean service time otherwise.
    """

    def __init__(self, reason: str = "busy", *, retry_after_ms: int | None = None) -> None:
        super().__init__(reason)
        self.retry_after_ms = retry_after_ms


@dataclass(frozen=True, slots=True)
class Answer:
    """A result with what the daemon may learn from it; a handler that has nothing to add returns the body alone.

    Attributes:
        body: bytes, a list of frames, or None.
        quality: how good the result is, 0 to 1.
        cost: what it cost, in the unit of the registration's `cost`.
        timing_us: where the time went: `queue`, `compute`, `splice`.

    Example:
        ```python
        return Answer(text.encode(), quality=0.9, cost=0.002, timing_us={"compute": 1_200})
        ```
    """

    body: Body | None = None
    quality: float | None = None
    cost: float | None = None
    timing_us: Mapping[str, float] | None = None


@dataclass(slots=True, eq=False)
class Delivery:
    """One message to work on.

    Attributes:
        id: of this delivery.
        message: the daemon's name for the message, the same for every delivery of it.
        capability: what was asked for.
        priority: 1 low to 4 critical.
        ttl_ms: what was left of its time to live when it came.
        attempt: 1, plus earlier deliveries of the same message.
        body: the client's frames.
        header: all of DELIVER's keys (head, heads, embedding, traceparent, tracestate, fetch, ...);
            `opentelemetry.propagate.extract` reads the trace context off it.
        cancelled: set when the answer is no longer wanted.
    """

    id: int
    message: str
    capability: str
    priority: int
    ttl_ms: int
    attempt: int
    body: list[bytes]
    header: Mapping[str, Any] = field(repr=False)
    cancelled: threading.Event = field(default_factory=threading.Event, repr=False)
    _came: float = field(default_factory=time.monotonic, repr=False)

    @property
    def data(self) -> bytes:
        """Return the body as one run of bytes."""
        return b"".join(self.body)

    @property
    def time_left_s(self) -> float:
        """Return how long an answer is still worth something; below zero when it is not."""
        return self._came + self.ttl_ms / 1000 - time.monotonic()

    @classmethod
    def of(cls, header: Mapping[str, Any], body: list[bytes]) -> Delivery:
        """Return the delivery that a DELIVER carries."""
        get = header.get
        return cls(
            id=header["id"],
            message=get("message", ""),
            capability=get("capability", ""),
            priority=get("priority", 2),
            ttl_ms=get("ttl_ms", 30_000),
            attempt=get("attempt", 1),
            body=body,
            header=header,
        )


Function = Callable[[Delivery], Any]
Style = Literal["coroutine", "generator", "thread"]


class Handler(NamedTuple):
    """A user's function and the way to run it."""

    function: Function
    style: Style

    @classmethod
    def of(cls, function: Function) -> Handler:
        """Return the handler that a function is: `async def`, an async generator, or a plain one for a thread.

        Raises:
            TypeError: a plain generator, which would hold a thread between its pieces.
        """
        call = getattr(function, "__call__", None)  # noqa: B004 - to look at it: an object may have an async one
        if any(map(inspect.isasyncgenfunction, (function, call))):
            return cls(function, "generator")
        if any(map(inspect.iscoroutinefunction, (function, call))):
            return cls(function, "coroutine")
        if any(map(inspect.isgeneratorfunction, (function, call))):
            raise TypeError(f"{function!r} is a plain generator; to stream, make it `async def` with `yield`")
        return cls(function, "thread")


def answer_of(result: Any) -> Answer:
    """Return what a handler returned as an `Answer` with its body in frames.

    Raises:
        TypeError: it is none of the things that a handler may return.
    """
    if isinstance(result, Answer):
        return Answer(body_frames(result.body), result.quality, result.cost, result.timing_us)
    return Answer(body_frames(result))


def ack(delivery_id: int, answer: Answer, queue: int) -> list[bytes]:
    """Return the ACK for an answer; `queue` counts the other deliveries here.

    Raises:
        TypeError: a value that has no MessagePack form.
    """
    keys = ("quality", answer.quality), ("cost", answer.cost), ("timing_us", answer.timing_us)
    return pack("ACK", {"id": delivery_id, "queue": queue, **header_of(keys)}, body_frames(answer.body))


def nack(delivery_id: int, error: BaseException) -> list[bytes]:
    """Return the NACK for what a handler raised."""
    if isinstance(error, Reject):
        return refusal(delivery_id, "rejected", str(error))
    if isinstance(error, Busy):
        return refusal(delivery_id, "busy", str(error), error.retry_after_ms)
    return refusal(delivery_id, "failed", f"{type(error).__name__}: {error}")


def refusal(delivery_id: int, code: str, reason: str, retry_after_ms: int | None = None) -> list[bytes]:
    """Return a NACK; text that is no UTF-8 is made so, for the daemon would not read it."""
    text = reason[:REASON_CHARS].encode("utf-8", "replace").decode()
    keys = ("reason", text), ("code", code), ("retry_after_ms", retry_after_ms)
    return pack("NACK", {"id": delivery_id, **header_of(keys)})
