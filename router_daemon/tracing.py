"""Traces -> OpenTelemetry: spans of messages that have ended are sent by a thread of its own; the loop only queues.

Rules:
- The loop never waits: a message that has ended is put in a queue, or dropped and counted where that is full. Spans are
  made, encoded and sent in the thread.
- What the collector does not take in time is dropped and counted, and is a warning in the log, once for each cause in a
  row: traces help, and must not cost memory when they do not.
- A DELIVER that leaves for a traced message names the delivery's span as the parent, so that what a backend records
  hangs below it; likewise a FORWARD of this daemon. Others' FORWARDs, on their way through, stay as they are.
- OpenTelemetry is loaded only where it is used, and none of its own threads runs.
"""

from __future__ import annotations

import importlib.util
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
from msgspec import UNSET

from router_daemon import __version__
from router_daemon.core.actions import Action, Deliver
from router_daemon.core.events import Event
from router_daemon.core.spans import Span, spans_of
from router_daemon.core.traces import Ended, Sampling, written
from router_daemon.errors import StartError
from router_daemon.ring.messages import Forward

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from router_daemon.config.tracing import TracingSection
    from router_daemon.transport import Transport

NEEDED: Final = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")
RESULTS: Final = ("exported", "failed", "dropped")
LINGER_S: Final = 2.0
"""What is queued at the end has so long to leave."""

_log = structlog.get_logger("router_daemon.tracing")


class Exporter(Protocol):
    """What sends spans; may wait, and says whether they have arrived."""

    def send(self, ended: Sequence[Ended]) -> str:
        """Send the spans of these messages; return why it failed, "" where it did not."""

    def close(self) -> None:
        """Give up what is being sent."""


class Tracer:
    """The queue between the loop and the collector, and the thread that empties it.

    Args:
        section: of the configuration.
        exporter: made of it where None is given.
        secret: 8 random bytes.

    Attributes:
        sampling: which messages are traced, and the ids of their spans.
        counts: messages whose spans were exported, have failed, or were dropped since the queue was full.

    Raises:
        StartError: the extra is not installed.
    """

    def __init__(
        self, section: TracingSection, *, exporter: Exporter | None = None, secret: bytes | None = None
    ) -> None:
        self.sampling = Sampling(section.ratio, secret or secrets.token_bytes(8))
        self.counts = dict.fromkeys(RESULTS, 0)
        self._queue: deque[Ended] = deque()
        self._most = section.queue
        self._batch = section.batch
        self._every_s = section.every_ms / 1000.0
        self._exporter = exporter or make_exporter(section, self.sampling)
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._fault = ""

    def start(self) -> None:
        """Begin to send."""
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def finish(self, linger_s: float = LINGER_S) -> None:
        """Send what is queued, for so long, and stop."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(linger_s)
            self._exporter.close()
            self._thread.join(linger_s)
            self._thread = None

    def put(self, ended: Ended) -> None:
        """Queue a message that has ended; called on the loop, never waits."""
        waiting = len(self._queue)
        if waiting >= self._most:
            self.counts["dropped"] += 1
            return
        self._queue.append(ended)
        if waiting + 1 == self._batch:
            self._wake.set()

    def mark(self, actions: Iterable[Action]) -> None:
        """Have the deliveries of traced messages name their spans as what comes before."""
        for action in actions:
            kind: type[Any] = type(action)
            header: Any = action.header
            if kind is Deliver or (kind is Forward and header.hops == 1):
                self._mark(header)

    def _mark(self, header: Any) -> None:
        given = header.traceparent
        trace = self.sampling.trace(header.message, given)
        if trace is None:
            return
        header.traceparent = written(trace, self.sampling.delivery(header.id))
        if trace.parent is None:
            header.tracestate = UNSET  # of a context that was none

    # --- in the thread ---

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self._every_s)
            self._wake.clear()
            self._empty()
        self._empty()

    def _empty(self) -> None:
        queue = self._queue
        while queue:
            batch = [queue.popleft() for _ in range(min(len(queue), self._batch))]
            self._note(self._send(batch), len(batch))

    def _send(self, batch: Sequence[Ended]) -> str:
        try:
            return self._exporter.send(batch)
        except Exception as fault:  # noqa: BLE001 - whatever a library raises must not end the thread
            return f"{type(fault).__name__}: {fault}"

    def _note(self, fault: str, count: int) -> None:
        self.counts["failed" if fault else "exported"] += count
        if fault and fault != self._fault:
            _log.warning("traces not exported", reason=fault)
        self._fault = fault


class Marking:
    """A transport whose deliveries are marked before they leave."""

    def __init__(self, transport: Transport, tracer: Tracer) -> None:
        self._transport = transport
        self._mark = tracer.mark
        self.receive = transport.receive
        self.flush = transport.flush

    def send(self, actions: Iterable[Action]) -> list[Event]:
        """Send, never waiting; return what could not be delivered and who is gone."""
        actions = list(actions)
        self._mark(actions)
        return self._transport.send(actions)

    @property
    def parked(self) -> int:
        """How many actions wait for a peer to read."""
        return self._transport.parked


def make_exporter(section: TracingSection, sampling: Sampling) -> Exporter:
    """Return what sends spans to a collector.

    Raises:
        StartError: the extra is not installed.
    """
    if not all(map(_is_there, NEEDED)):
        raise StartError("tracing.endpoint is set, and OpenTelemetry is missing: pip install 'router-daemon[otel]'")
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it says each time what we say once for each cause
    return _Otlp(section, sampling)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


class _Otlp:
    """Sends spans by OTLP over HTTP."""

    def __init__(
        self, section: TracingSection, sampling: Sampling, clock: Callable[[], float] = time.monotonic
    ) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - optional
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415

        self._exporter = OTLPSpanExporter(endpoint=section.endpoint, timeout=section.timeout_ms / 1000.0)  # type: ignore[arg-type,unused-ignore]
        self._resource = Resource.create(
            {
                "service.name": section.service_name,
                "service.version": __version__,
                "service.instance.id": secrets.token_hex(8),
            }
        )
        self._sampling = sampling
        self._clock = clock

    def send(self, ended: Sequence[Ended]) -> str:
        """Send the spans of these messages; return why it failed, "" where it did not."""
        from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415

        began_at = time.time() - self._clock()
        spans = [self._span(one, span, began_at) for one in ended for span in spans_of(one, self._sampling)]
        taken = self._exporter.export(spans) is SpanExportResult.SUCCESS
        return "" if taken else "the collector did not take them"

    def close(self) -> None:
        """Give up what is being sent."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call,unused-ignore]

    def _span(self, ended: Ended, span: Span, began_at: float) -> ReadableSpan:
        """Return a span as the library has it; `began_at`: seconds since 1970 when the core's clock was 0."""
        from opentelemetry import trace as api  # noqa: PLC0415
        from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415

        state = api.TraceState.from_header([ended.tracestate]) if ended.tracestate else None
        flags = api.TraceFlags(ended.trace.flags)

        def context(number: int, *, remote: bool = False) -> api.SpanContext:
            return api.SpanContext(ended.trace.id, number, remote, flags, state)

        code = api.StatusCode.ERROR if span.error else api.StatusCode.UNSET
        remote = span.kind == "server"
        return ReadableSpan(
            span.name,
            context=context(span.id),
            parent=None if span.parent is None else context(span.parent, remote=remote),
            resource=self._resource,
            attributes=span.attributes,
            links=() if span.link is None else (api.Link(context(span.link)),),
            kind=api.SpanKind[span.kind.upper()],
            status=api.Status(code, span.error or None),
            start_time=int((began_at + span.start) * 1e9),
            end_time=int((began_at + span.end) * 1e9),
            instrumentation_scope=InstrumentationScope("router-daemon", __version__),
        )
