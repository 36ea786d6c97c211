"""A real daemon sends spans to a real OTLP/HTTP receiver, and hands the context on to clients' and backends' own spans.

The receiver is a few lines of aiohttp that decode what comes with OpenTelemetry's own protobuf classes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Final

import pytest
from aiohttp import web
from conftest import Daemon, DaemonFactory, Room, free_port
from opentelemetry import propagate, trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from router_daemon import Backend, Client, __version__
from router_daemon.backend import Delivery

WAIT_S: Final = 15.0
TRACE: Final = 0x0AF7651916CD43DD8448EB211C80319C
PARENT: Final = 0xB7AD6B7169203331
GIVEN: Final = f"00-{TRACE:032x}-{PARENT:016x}-01"
OpenRoom = Callable[[Daemon], Room]


class Collector:
    """Takes spans; `status` is what it answers with."""

    def __init__(self) -> None:
        self.port = free_port()
        self.status = 200
        self.headers: dict[str, str] = {}
        self.resources: list[dict[str, Any]] = []
        self.spans: list[Span] = []
        self._came = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/traces"

    def start(self) -> None:
        self._thread.start()
        self._run(self._serve())

    def stop(self) -> None:
        self._run(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()

    def _run(self, work: Any) -> None:
        done: Future[None] = asyncio.run_coroutine_threadsafe(work, self._loop)
        done.result(WAIT_S)

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def _take(self, request: web.Request) -> web.Response:
        self.headers = dict(request.headers)
        if self.status != 200:
            return web.Response(status=self.status)
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append({each.key: each.value.string_value for each in resource.resource.attributes})
            for scope in resource.scope_spans:
                assert (scope.scope.name, scope.scope.version) == ("router-daemon", __version__)
                with self._came:
                    self.spans += scope.spans
                    self._came.notify_all()
        return web.Response()

    def until(self, *names: str) -> dict[str, Span]:
        """Return the spans by name, the last of each, once there is one of every name."""
        self.wait(lambda: set(names) <= {span.name for span in self.spans})
        return {span.name: span for span in self.spans}

    def wait(self, done: Callable[[], bool]) -> None:
        """Return once that is so, looked at whenever spans have come."""
        with self._came:
            assert self._came.wait_for(done, WAIT_S), self.spans


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    made.start()
    yield made
    made.stop()


def tracing(collector: Collector, **keys: Any) -> dict[str, Any]:
    return {"endpoint": collector.endpoint, "ratio": 0.0, "every_ms": 20, **keys}


def attributes(span: Span) -> dict[str, Any]:
    """Return a span's attributes as plain values."""
    found = {}
    for each in span.attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        found[each.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found


def test_the_spans_of_a_message_arrive_and_its_backend_hangs_below_the_delivery(
    daemon: DaemonFactory, open_room: OpenRoom, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=token")
    room = open_room(daemon(tracing=tracing(collector, service_name="front")))
    client, backend = room.client(), room.backend()
    before_ns = time.time_ns()
    ident = client.send(room.capability, b"x", priority=4, traceparent=GIVEN, tracestate="v=1")
    delivery = backend.delivery()
    backend.ack(delivery)
    client.until_last(ident)
    spans = collector.until("router.message", "router.decision", "router.delivery")
    message, decision, sent = (spans[f"router.{name}"] for name in ("message", "decision", "delivery"))
    assert {int.from_bytes(span.trace_id, "big") for span in spans.values()} == {TRACE}
    assert int.from_bytes(message.parent_span_id, "big") == PARENT
    assert decision.parent_span_id == sent.parent_span_id == message.span_id
    assert [link.span_id for link in sent.links] == [decision.span_id]
    assert (message.kind, sent.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    assert {span.trace_state for span in spans.values()} == {"v=1"}
    assert delivery.header["traceparent"] == f"00-{TRACE:032x}-{sent.span_id.hex()}-01"
    assert delivery.header["tracestate"] == "v=1"
    told = attributes(sent)
    assert (told["router.backend"], told["router.outcome"]) == (backend.name, "acked")
    assert (told["router.capability"], told["router.priority"], told["router.route"]) == (room.capability, 4, "stable")
    assert attributes(decision)["router.backends"] == [backend.name]
    assert before_ns - 10**6 <= message.start_time_unix_nano <= sent.end_time_unix_nano <= time.time_ns()
    assert collector.resources[0].items() >= {"service.name": "front", "service.version": __version__}.items()
    assert collector.headers["Authorization"] == "token"


def test_a_failure_and_its_retry_and_a_refusal_can_be_told_apart(
    daemon: DaemonFactory, open_room: OpenRoom, collector: Collector
) -> None:
    room = open_room(daemon(tracing=tracing(collector), routing={"mode": "single"}))
    client, backends = room.client(), room.backends(2)
    ident = client.send(room.capability, traceparent=GIVEN, idempotent=True)
    [(backend, delivery)] = room.sent_to(client, backends)
    backend.nack(delivery, reason="as told")
    [(other, again)] = room.sent_to(client, backends)
    other.ack(again)
    client.until_last(ident)
    client.until_last(client.send("nobody does this", traceparent=GIVEN))
    collector.wait(lambda: len(collector.spans) >= 7)
    failed, acked = (span for span in collector.spans if span.name == "router.delivery")
    assert (failed.status.code, failed.status.message) == (Status.STATUS_CODE_ERROR, "failed")
    assert acked.status.code == Status.STATUS_CODE_UNSET
    assert attributes(acked)["router.attempt"] == 2
    answered, refused = (span for span in collector.spans if span.name == "router.message")
    assert answered.status.code == Status.STATUS_CODE_UNSET
    assert attributes(refused)["error.type"] == attributes(refused)["router.outcome"] == "no_capability"


def test_what_is_not_sampled_passes_through_and_leaves_no_span(
    daemon: DaemonFactory, open_room: OpenRoom, collector: Collector
) -> None:
    room = open_room(daemon(tracing=tracing(collector)))
    client, backend = room.client(), room.backend()
    for context in (GIVEN[:-2] + "00", "no context", None, GIVEN):
        keys = {} if context is None else {"traceparent": context, "tracestate": "v=1"}
        ident = client.send(room.capability, **keys)
        delivery = backend.delivery()
        if context != GIVEN:
            assert {key: delivery.header[key] for key in keys} == keys
        backend.ack(delivery)
        client.until_last(ident)
    collector.until("router.message", "router.delivery")  # of the last one
    assert [span.name for span in collector.spans].count("router.message") == 1


def test_daemons_of_a_ring_make_one_trace(daemon: DaemonFactory, open_room: OpenRoom, collector: Collector) -> None:
    place = f"tcp://127.0.0.1:{free_port()}"
    spans = tracing(collector, ratio=1.0)
    home = daemon(tracing=spans, ring={"name": "h", "listen": place, "echo_ms": 50})
    listen = f"tcp://127.0.0.1:{free_port()}"
    links = {"name": "o", "listen": listen, "neighbours": [place], "echo_ms": 50}
    origin = daemon(tracing=spans, ring=links, admin={"bind": (admin := f"127.0.0.1:{free_port()}")})
    near, far = open_room(origin), open_room(home)
    backend = far.backend(name="worker", capabilities=["far"])
    until(lambda: 'router_backend_up{backend="h/worker"} 1.0' in metrics(admin))
    client = near.client()
    ident = client.send("far")
    delivery = backend.delivery(WAIT_S)
    backend.ack(delivery)
    client.until_last(ident, WAIT_S)
    collector.wait(lambda: len(collector.spans) == 6)
    by_id = {span.span_id: span for span in collector.spans}
    assert len({span.trace_id for span in collector.spans}) == 1
    last = by_id[bytes.fromhex(delivery.header["traceparent"].split("-")[2])]
    chain = [last]
    while chain[-1].parent_span_id:
        chain.append(by_id[chain[-1].parent_span_id])
    assert [(span.name, attributes(span).get("router.backend")) for span in chain] == [
        ("router.delivery", "worker"),
        ("router.message", None),
        ("router.delivery", "h/worker"),
        ("router.message", None),
    ]


def test_a_collector_that_fails_costs_nobody_an_answer_and_is_counted(
    daemon: DaemonFactory, open_room: OpenRoom, collector: Collector
) -> None:
    collector.status = 400
    admin = f"127.0.0.1:{free_port()}"
    room = open_room(daemon(tracing=tracing(collector, ratio=1.0, timeout_ms=200), admin={"bind": admin}))
    client, backend = room.client(), room.backend()
    ident = client.send(room.capability)
    backend.ack(backend.delivery())
    client.until_last(ident)
    until(lambda: 'router_traces_total{result="failed"} 1.0' in metrics(admin))
    assert room.daemon.printed().count("traces not exported") == 1
    collector.status = 200
    ident = client.send(room.capability)
    backend.ack(backend.delivery())
    client.until_last(ident)
    until(lambda: 'router_traces_total{result="exported"} 1.0' in metrics(admin))


def test_what_is_queued_at_the_end_leaves(daemon: DaemonFactory, open_room: OpenRoom, collector: Collector) -> None:
    served = daemon(tracing=tracing(collector, ratio=1.0, every_ms=60_000))
    room = open_room(served)
    client, backend = room.client(), room.backend()
    ident = client.send(room.capability)
    backend.ack(backend.delivery())
    client.until_last(ident)
    served.stop()
    assert [span.name for span in collector.spans] == ["router.message", "router.decision", "router.delivery"]


def test_opentelemetry_reads_and_writes_the_context_in_client_and_handler(plain_daemon: Daemon) -> None:
    state = TraceState([("vendor", "1")])
    span = NonRecordingSpan(SpanContext(TRACE, PARENT, is_remote=False, trace_flags=TraceFlags(1), trace_state=state))
    got: list[SpanContext] = []

    async def run() -> None:
        backend = Backend("traced", plain_daemon.backend)

        @backend.handler("traced work")
        async def work(delivery: Delivery) -> bytes:
            context = propagate.extract(delivery.header)
            got.append(trace.get_current_span(context).get_span_context())
            return b""

        task = asyncio.ensure_future(backend.run())
        try:
            async with Client(plain_daemon.frontend) as client:
                await asyncio.wait_for(backend.wait_registered(), WAIT_S)
                carrier: dict[str, str] = {}
                propagate.inject(carrier, trace.set_span_in_context(span))
                await client.send("traced work", **carrier)  # type: ignore[arg-type]
        finally:
            await backend.stop()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(run())
    [context] = got
    assert (context.trace_id, context.span_id, context.is_remote) == (TRACE, PARENT, True)
    assert (context.trace_flags.sampled, context.trace_state) == (True, state)


def metrics(admin: str) -> str:
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=5) as response:
        text: str = response.read().decode()
    return text


def until(done: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < deadline_s, done
