"""Traces without a collector: which messages, under which ids, which spans of them; and the queue, which never waits."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from msgspec import UNSET
from structlog.testing import capture_logs

from router_daemon.config.tracing import TracingSection
from router_daemon.core.actions import Action, Deliver, DeliverHeader
from router_daemon.core.decisions import Decisions
from router_daemon.core.settings import Settings
from router_daemon.core.spans import Span, spans_of
from router_daemon.core.traces import Ended, Sampling, Trace, Traced, parse, written
from router_daemon.core.types import Side
from router_daemon.errors import StartError
from router_daemon.ring.messages import Forward, ForwardHeader
from router_daemon.testing import CLIENT, BrokerFixture, only
from router_daemon.tracing import Marking, Tracer

TRACE: Final = 0x0AF7651916CD43DD8448EB211C80319C
PARENT: Final = 0xB7AD6B7169203331
GIVEN: Final = f"00-{TRACE:032x}-{PARENT:016x}-01"
UNSAMPLED: Final = GIVEN[:-2] + "00"
SECRET: Final = bytes(range(1, 9))


# --- which ---


@pytest.mark.parametrize(
    ("text", "trace"),
    [  # W3C Trace Context, 3.2
        (GIVEN, Trace(TRACE, PARENT, 1)),
        (UNSAMPLED, Trace(TRACE, PARENT, 0)),
        (GIVEN[:-2] + "03", Trace(TRACE, PARENT, 3)),
        ("cc" + GIVEN[2:] + "-what-comes-later", Trace(TRACE, PARENT, 1)),
        (GIVEN + "-more", None),
        ("ff" + GIVEN[2:], None),
        (GIVEN.upper(), None),
        (f"00-{0:032x}-{PARENT:016x}-01", None),
        (f"00-{TRACE:032x}-{0:016x}-01", None),
        (GIVEN[:-1], None),
        ("", None),
    ],
)
def test_a_context_is_read_as_the_standard_has_it(text: str, trace: Trace | None) -> None:
    assert parse(text) == trace


def test_the_clients_flag_decides_whatever_the_ratio() -> None:
    for ratio in (0.0, 1.0):
        sampling = Sampling(ratio, SECRET)
        assert sampling.trace("m", GIVEN) == Trace(TRACE, PARENT, 1)
        assert sampling.trace("m", UNSAMPLED) is None


@pytest.mark.parametrize("context", [UNSET, "no context"])
def test_without_a_context_the_ratio_decides(context: Any) -> None:
    assert Sampling(0.0, SECRET).trace("m", context) is None
    names = [f"5f0c2a9be1d34786{number}" for number in range(4000)]
    found = [Sampling(0.25, SECRET).trace(name, context) for name in names]
    begun = [trace for trace in found if trace is not None]
    assert 850 < len(begun) < 1150
    assert len({trace.id for trace in begun}) == len(begun)
    assert {(trace.parent, trace.flags) for trace in begun} == {(None, 1)}
    assert found == [Sampling(0.25, b"another!").trace(name, context) for name in names]  # another daemon of the ring


def test_spans_have_ids_of_their_own() -> None:
    one, other = Sampling(1.0, SECRET), Sampling(1.0, b"another!")
    ids = [sampling.delivery(number) for sampling in (one, other) for number in range(1, 1000)]
    ids += [sampling.span(number, place) for sampling in (one, other) for number in range(1, 100) for place in range(4)]
    assert len(set(ids)) == len(ids)
    assert all(0 < span < 1 << 64 for span in ids)
    assert Sampling(1.0, (5).to_bytes(8, "big")).delivery(5) == 1  # never 0, which is no id


# --- what ---


class Book:
    """A broker whose traced messages are written down."""

    def __init__(self, *names: str, ratio: float = 0.0, **settings: Any) -> None:
        self.sampling = Sampling(ratio, SECRET)
        self.ended: list[Ended] = []
        self.broker = BrokerFixture(
            policy="round_robin",
            decisions=lambda settings: Traced(settings, self.sampling, self.ended.append),
            **({"mode": "single"} | settings),
        )
        for name in names:
            self.broker.register(name, "c")

    def spans(self) -> list[Span]:
        """Return the spans of the only message that has ended."""
        [ended] = self.ended
        return spans_of(ended, self.sampling)


def named(spans: Sequence[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == f"router.{name}"]


def test_a_message_that_went_well_is_three_spans() -> None:
    book = Book("a")
    began = book.broker.clock.now
    [delivery] = only(book.broker.send("c", b"body", traceparent=GIVEN, tracestate="v=1", priority=3), Deliver)
    book.broker.advance(0.25)
    book.broker.ack(delivery)
    assert book.ended[0].tracestate == "v=1"
    message, decision, sent = book.spans()
    assert (message.name, message.kind, message.parent, message.error) == ("router.message", "server", PARENT, "")
    assert (decision.name, decision.kind, decision.parent) == ("router.decision", "internal", message.id)
    assert (sent.name, sent.kind, sent.parent, sent.link) == ("router.delivery", "client", message.id, decision.id)
    assert sent.id == book.sampling.delivery(delivery.header.id)
    assert [(span.start, span.end) for span in (message, decision, sent)] == [
        (began, began + 0.25),
        (began, began),
        (began, began + 0.25),
    ]
    common = {
        "router.message": delivery.header.message,
        "router.capability": "c",
        "router.priority": 3,
        "router.mode": "single",
        "router.route": "stable",
    }
    assert message.attributes == common | {
        "router.policy": "round_robin",
        "router.outcome": "answered",
        "router.mode_asked": "single",
        "router.reply": "first",
        "router.body_bytes": 4,
        "router.waited_ms": 0.0,
        "router.deliveries": 1,
    }
    told = {key: value for key, value in decision.attributes.items() if key not in common}
    assert told == {
        "router.decision": "first",
        "router.policy": "round_robin",
        "router.backends": ["a"],
        "router.candidates": 1,
        "router.cache": "miss",
        "router.free_places": 1,
        "router.places": 1,
    }
    assert sent.attributes == common | {
        "router.backend": "a",
        "router.outcome": "acked",
        "router.delivery": delivery.header.id,
        "router.attempt": 1,
        "router.answered": True,
        "router.trial": False,
        "router.parts": 0,
    }


def test_a_retry_is_a_second_decision_with_the_failure_before_it() -> None:
    book = Book("a", "b", heads=2)
    began = book.broker.clock.now
    [first] = only(book.broker.send("c", traceparent=GIVEN), Deliver)
    book.broker.advance(0.1)
    [second] = only(book.broker.nack(first), Deliver)
    book.broker.advance(0.1)
    book.broker.ack(second)
    spans = book.spans()
    one, other = named(spans, "delivery")
    assert (one.error, one.attributes["error.type"], one.end) == ("failed", "failed", began + 0.1)
    assert (other.error, other.attributes["router.attempt"], other.start) == ("", 2, began + 0.1)
    decisions = named(spans, "decision")
    assert [span.attributes["router.decision"] for span in decisions] == ["first", "retry"]
    assert [one.link, other.link] == [span.id for span in decisions]
    assert decisions[1].start == decisions[1].end == began + 0.1
    assert spans[0].error == ""


def test_a_wait_is_the_length_of_its_decision() -> None:
    book = Book("a")
    began = book.broker.clock.now
    [held] = only(book.broker.send("c", client_id=1), Deliver)
    book.broker.send("c", client_id=2, traceparent=GIVEN)
    book.broker.advance(0.5)
    [served] = only(book.broker.ack(held), Deliver)
    book.broker.ack(served)
    [decision] = named(book.spans(), "decision")
    assert decision.attributes["router.decision"] == "served"
    assert (decision.start, decision.end) == (began, began + 0.5)
    assert book.spans()[0].attributes["router.waited_ms"] == pytest.approx(500.0)


def test_heads_of_one_moment_have_one_decision_and_the_losers_end_with_the_message() -> None:
    book = Book("a", "b", mode="fanout", heads=2)
    sent = only(book.broker.send("c", traceparent=GIVEN), Deliver)
    book.broker.part(sent[0], b"piece")
    book.broker.advance(0.1)
    book.broker.ack(sent[0])
    spans = book.spans()
    [decision] = named(spans, "decision")
    assert decision.attributes["router.backends"] == [action.peer.decode() for action in sent]
    winner, loser = named(spans, "delivery")
    assert (winner.attributes["router.first_part_ms"], winner.attributes["router.parts"]) == (0.0, 1)
    assert (loser.attributes["router.outcome"], loser.error, winner.link) == ("cancelled", "", loser.link)
    assert {span.end for span in (winner, loser)} <= {spans[0].start, spans[0].end}


def test_a_hedge_is_told_from_a_retry() -> None:
    book = Book("a", "b", mode="hedge", heads=2)
    broker = book.broker
    for number in range(100):  # until it is known how long answers take
        for delivery in only(broker.send("c", client_id=number), Deliver):
            broker.advance(0.01)
            broker.ack(delivery)
    [first] = only(broker.send("c", client_id=1000, traceparent=GIVEN), Deliver)
    [second] = only(broker.advance(1.0), Deliver)
    broker.ack(second)
    decisions = named(book.spans(), "decision")
    assert [span.attributes["router.decision"] for span in decisions] == ["first", "hedge"]
    assert decisions[1].start == decisions[1].end > decisions[0].end
    assert first.peer != second.peer


@pytest.mark.parametrize("ended", ["refused", "expired", "cancelled", "client_gone"])
def test_a_message_that_nobody_got_has_a_decision_for_nobody(ended: str) -> None:
    book = Book(*([] if ended == "refused" else ["a"]))
    if ended != "refused":
        book.broker.send("c", client_id=1, ttl_ms=10_000)
    book.broker.send("c", client_id=2, traceparent=GIVEN, ttl_ms=1_000)
    if ended == "expired":
        book.broker.advance(1.1)
    elif ended == "cancelled":
        book.broker.cancel(2)
    elif ended == "client_gone":
        book.broker.gone(CLIENT, Side.CLIENT)
    message, decision = book.spans()
    outcome = "no_capability" if ended == "refused" else ended
    assert message.attributes["router.outcome"] == outcome
    assert bool(message.error) == (ended in ("refused", "expired"))
    assert message.attributes.get("error.type") == (outcome if message.error else None)
    assert (decision.attributes["router.backends"], decision.end) == ([], message.end)


def test_nothing_is_handed_on_of_what_is_not_sampled() -> None:
    book = Book("a")
    for number, context in enumerate((UNSET, UNSAMPLED, "none")):
        [delivery] = only(book.broker.send("c", client_id=number, traceparent=context), Deliver)
        book.broker.ack(delivery)
    assert book.ended == []


def test_a_context_that_was_none_has_no_state() -> None:
    book = Book("a", ratio=1.0)
    [delivery] = only(book.broker.send("c", traceparent="broken", tracestate="v=1"), Deliver)
    book.broker.ack(delivery)
    [ended] = book.ended
    assert (ended.trace.parent, ended.tracestate) == (None, "")


@pytest.mark.parametrize("entries", [0, 100])
def test_tracing_changes_nothing_of_what_is_decided_or_kept(entries: int) -> None:
    ended: list[Ended] = []
    runs = [
        _run(Decisions, entries),
        _run(lambda settings: Traced(settings, Sampling(1.0, SECRET), ended.append), entries),
    ]
    assert runs[0] == runs[1]
    assert len(ended) == 300


def _run(make: Callable[[Settings], Decisions], entries: int) -> tuple[list[Action], list[tuple[str, str]]]:
    """Return what a broker did in a run with failures, and what it keeps of it."""
    why = Settings().why
    broker = BrokerFixture(
        policy="attention", seed=1, decisions=make, why=type(why)(entries=entries, sample_every_s=0.05)
    )
    for name in "abc":
        broker.register(name, "c", slots=2)
    rng, actions = Random(2), []
    for number in range(300):
        step = broker.send("c", client_id=number, priority=1 + number % 4, ttl_ms=2_000)
        actions += step
        broker.advance(rng.random() * 0.02)
        for delivery in only(step, Deliver):
            if delivery.header.id in broker.backend(delivery.peer.decode()).open:
                actions += broker.nack(delivery) if rng.random() < 0.2 else broker.ack(delivery)
    actions += broker.stop()
    return actions, [(entry.name, entry.kept) for entry in broker.broker.decisions.shelf]


def test_every_attribute_is_described() -> None:
    text = (Path(__file__).resolve().parent.parent / "docs/monitoring.md").read_text()
    book = Book("a", "b", heads=2)
    [first] = only(book.broker.send("c", traceparent=GIVEN), Deliver)
    [second] = only(book.broker.nack(first), Deliver)
    book.broker.part(second, b"piece")
    book.broker.ack(second)
    names = {name for span in book.spans() for name in span.attributes}
    assert names == set(re.findall(r"`(router\.\w+|error\.type)`", text))  # the names of spans are among them


# --- the parent that backends see ---


def header(**keys: Any) -> DeliverHeader:
    return DeliverHeader(77, "m1", "c", 2, 1000, 1, 1, 1, **keys)


def tracer(**keys: Any) -> Tracer:
    exporter = keys.pop("exporter", None) or Exporter()
    return Tracer(TracingSection(endpoint="http://127.0.0.1:1/v1/traces", **keys), exporter=exporter, secret=SECRET)


def test_a_delivery_of_a_traced_message_names_its_span() -> None:
    marked, plain = header(traceparent=GIVEN, tracestate="v=1"), header(traceparent=UNSAMPLED, tracestate="v=1")
    made = tracer(ratio=0.0)
    made.mark([Deliver(b"", False, marked), Deliver(b"", False, plain)])
    span = made.sampling.delivery(77)
    assert (marked.traceparent, marked.tracestate) == (written(Trace(TRACE, PARENT, 1), span), "v=1")
    assert (plain.traceparent, plain.tracestate) == (UNSAMPLED, "v=1")
    made.mark([Deliver(b"", False, marked)])  # where it did not leave at first
    assert marked.traceparent == f"00-{TRACE:032x}-{span:016x}-01"


def test_a_trace_that_begins_here_is_handed_on() -> None:
    begun, broken = header(), header(traceparent="broken", tracestate="v=1")
    made = tracer(ratio=1.0)
    made.mark([Deliver(b"", False, begun), Deliver(b"", False, broken)])
    assert begun.traceparent == broken.traceparent
    assert parse(str(begun.traceparent)) is not None
    assert broken.tracestate is UNSET


@pytest.mark.parametrize(("hops", "changed"), [(1, True), (2, False)])
def test_only_the_origin_marks_what_goes_to_another_daemon(hops: int, changed: bool) -> None:
    path = ["a", "b"][:hops]
    forward = ForwardHeader("h", 1, "b", "a", 1, 77, "m1", "c", 2, 900, 1, 1, 1, hops, path, traceparent=GIVEN)
    tracer().mark([Forward(b"", forward)])  # type: ignore[list-item]
    assert (forward.traceparent != GIVEN) is changed


def test_what_leaves_is_marked_and_all_else_is_the_transports() -> None:
    class Transport:
        parked = 3

        def __init__(self) -> None:
            self.sent: list[Action] = []

        def receive(self, limit: int, budget_s: float) -> list[Any]:
            return [limit, budget_s]

        def flush(self) -> list[Any]:
            return ["flushed"]

        def send(self, actions: Any) -> list[Any]:
            self.sent += actions
            return ["problem"]

    inner = Transport()
    marking = Marking(inner, tracer(ratio=1.0))
    assert (marking.parked, marking.receive(1, 0.5), marking.flush()) == (3, [1, 0.5], ["flushed"])  # type: ignore[comparison-overlap]
    assert marking.send(iter([Deliver(b"", False, header())])) == ["problem"]  # type: ignore[comparison-overlap]
    [sent] = inner.sent
    assert isinstance(sent, Deliver)
    assert sent.header.traceparent is not UNSET


# --- the queue ---


class Exporter:
    """Sends nothing: it waits while it is `held`, and fails as it is told."""

    def __init__(self, *faults: str | Exception) -> None:
        self.faults = list(faults)
        self.batches: list[int] = []
        self.busy = threading.Event()
        self.held = threading.Event()
        self.held.set()

    def send(self, ended: Sequence[Ended]) -> str:
        self.batches.append(len(ended))
        self.busy.set()
        self.held.wait(10)
        fault = self.faults.pop(0) if self.faults else ""
        if isinstance(fault, Exception):
            raise fault
        return fault

    def close(self) -> None:
        self.held.set()


def some(count: int) -> list[Ended]:
    book = Book("a", ratio=1.0)
    for number in range(count):
        [delivery] = only(book.broker.send("c", client_id=number), Deliver)
        book.broker.ack(delivery)
    return book.ended


def test_a_full_queue_drops_and_counts_and_never_waits() -> None:
    exporter = Exporter()
    exporter.held.clear()
    made = tracer(exporter=exporter, queue=4, batch=2, every_ms=60_000)
    made.start()
    for ended in some(2):
        made.put(ended)
    assert exporter.busy.wait(10)  # the thread waits for the collector now
    for ended in some(6):
        made.put(ended)
    assert made.counts == {"exported": 0, "failed": 0, "dropped": 2}
    exporter.held.set()
    made.finish()
    assert made.counts == {"exported": 6, "failed": 0, "dropped": 2}
    assert exporter.batches == [2, 2, 2]


def test_what_fails_is_counted_and_said_once_for_each_cause() -> None:
    made = tracer(exporter=Exporter("down", "down", OSError("no way"), ""), queue=8, batch=1, every_ms=60_000)
    for ended in some(4):
        made.put(ended)
    with capture_logs() as said:
        made.start()
        made.finish()
    assert made.counts == {"exported": 1, "failed": 3, "dropped": 0}
    assert [line["reason"] for line in said] == ["down", "OSError: no way"]


def test_the_end_does_not_wait_for_a_collector_that_hangs() -> None:
    exporter = Exporter()
    exporter.held.clear()
    made = tracer(exporter=exporter, batch=1)
    made.start()
    made.put(some(1)[0])
    assert exporter.busy.wait(10)
    made.finish(0.01)  # closing lets it go
    assert exporter.held.is_set()


def test_without_the_extra_the_start_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(StartError, match=r"tracing.endpoint is set.* pip install 'router-daemon\[otel\]'"):
        Tracer(TracingSection(endpoint="http://127.0.0.1:4318/v1/traces"))
