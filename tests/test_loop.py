"""The loop between a transport and a broker, on a clock and an event loop of the test's own: nothing here waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest
from core_kit import InOrder, deliver, error, malformed, registered, reply, unwanted
from structlog.testing import capture_logs

from router_daemon.core import events
from router_daemon.core.actions import Bye, Deliver, Error, Reply
from router_daemon.core.backends import Backend
from router_daemon.core.ranking import Candidate
from router_daemon.core.types import Peer
from router_daemon.daemon import FLUSH_EVERY_S, Loop
from router_daemon.testing import CLIENT, BrokerFixture, MemoryTransport, only


class Handle:
    """A timer that `Scheduler` was asked for."""

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Scheduler:
    """What of an event loop the daemon's loop uses."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.soon: list[Callable[[], None]] = []
        self.timers: list[Handle] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle:
        assert delay >= 0
        self.timers.append(Handle(self.clock() + delay, callback))
        return self.timers[-1]

    @property
    def armed(self) -> list[Handle]:
        return [handle for handle in self.timers if not handle.cancelled]

    def settle(self) -> None:
        """Run whatever was to be called soon, until nothing is."""
        for _ in range(1_000):
            if not self.soon:
                return
            self.soon.pop(0)()
        raise AssertionError("the loop never rests")

    def pass_time(self, seconds: float) -> None:
        """Let time pass and ring every timer at its moment."""
        until = self.clock() + seconds
        while self.armed and min(handle.due for handle in self.armed) <= until:
            handle = min(self.armed, key=lambda armed: armed.due)
            self.timers.remove(handle)
            self.clock.advance_to(handle.due)
            handle.callback()
            self.settle()
        self.clock.advance_to(until)


class Bench:
    """A loop on a scheduler, a memory transport and a broker with a fake clock."""

    def __init__(self, policy: Any = None, *, batch_messages: int = 256, **settings: Any) -> None:
        settings.setdefault("heartbeat_s", 60.0)
        self.fixture = BrokerFixture(policy=policy or InOrder(), **settings)
        self.transport = MemoryTransport()
        self.scheduler = Scheduler(self.fixture.clock)
        self.loop = Loop(
            self.fixture.broker, self.transport, batch_messages=batch_messages, batch_s=0.005, clock=self.fixture.clock
        )
        self.loop.start(cast("asyncio.AbstractEventLoop", self.scheduler))
        self.scheduler.settle()

    def arrive(self, *arrived: events.Event) -> list[Any]:
        """Let these arrive, run the loop until it rests, and return what was sent."""
        self.transport.put(*arrived)
        self.loop.wake()
        self.scheduler.settle()
        self.fixture.broker.check()
        return self.transport.take()


def register(name: str, **keys: Any) -> events.Register:
    return events.Register(name.encode(), False, events.Registration(name, ["c"], **keys))


def send(client_id: Any = 1, capability: str = "c", peer: Peer = CLIENT, **keys: Any) -> events.Send:
    return events.Send(peer, False, events.Request(client_id, capability, **keys))


def ack(sent: Deliver, *body: bytes) -> events.Ack:
    return events.Ack(sent.peer, False, events.AckHeader(sent.header.id), body)


@pytest.fixture
def bench() -> Bench:
    bench = Bench(mode="single")
    assert bench.arrive(register("a", slots=4), register("b", slots=4)) == [
        registered("a", heartbeat_ms=60000),
        registered("b", heartbeat_ms=60000),
    ]
    return bench


def test_what_arrives_is_handled_and_what_comes_of_it_is_sent(bench: Bench) -> None:
    [sent] = bench.arrive(send())
    assert sent == deliver("a", 1)
    assert bench.arrive(ack(sent, b"done")) == [reply("a", b"done")]


def test_a_batch_is_sent_in_the_order_of_its_events(bench: Bench) -> None:
    sent = bench.arrive(*(send(number) for number in range(3)))
    assert [action.header.message for action in sent] == ["m1", "m2", "m3"]


def test_a_flood_is_taken_in_batches_and_other_calls_get_their_turn() -> None:
    bench = Bench(mode="single", batch_messages=2)
    bench.transport.put(register("a", slots=9), *(send(number) for number in range(4)))
    bench.loop.wake()
    bench.loop.wake()
    turns = 0
    while bench.scheduler.soon:
        assert len(bench.scheduler.soon) == 1
        left = len(bench.transport.incoming)
        bench.scheduler.soon.pop(0)()
        assert left - len(bench.transport.incoming) <= 2
        turns += 1
    assert turns >= 4
    assert len(only(bench.transport.take(), Deliver)) == 4


def test_one_timer_serves_all_deadlines(bench: Bench) -> None:
    before = len(bench.scheduler.timers)
    for number in range(100):
        [sent] = bench.arrive(send(number, ttl_ms=20_000 + number))
        bench.arrive(ack(sent))
    assert len(bench.scheduler.armed) == 1
    assert len(bench.scheduler.timers) - before <= 2


def test_an_earlier_deadline_arms_the_timer_anew(bench: Bench) -> None:
    bench.arrive(send(1, ttl_ms=20_000, mode="fanout"))
    [first] = bench.scheduler.armed
    bench.arrive(send(2, ttl_ms=100, mode="fanout"))
    [second] = bench.scheduler.armed
    assert first.cancelled
    assert second.due < first.due
    bench.scheduler.pass_time(0.15)
    assert [answer.header.code for answer in only(bench.transport.take(), Error)] == ["expired"]
    assert len(bench.scheduler.armed) == 1


def test_what_is_due_is_done_though_input_never_ends() -> None:
    bench = Bench(mode="single", batch_messages=1)
    bench.arrive(register("a", slots=1_000))
    bench.arrive(send("short", ttl_ms=100))
    bench.transport.put(*(send(number) for number in range(10)))
    bench.loop.wake()
    for _ in range(3):
        bench.fixture.clock.advance(0.06)
        bench.scheduler.soon.pop(0)()
    assert bench.transport.incoming
    assert [answer.header.id for answer in only(bench.transport.take(), Error)] == ["short"]


def test_nothing_is_armed_where_the_timer_rings_early_enough(bench: Bench) -> None:
    [before] = bench.scheduler.armed
    bench.arrive(send(ttl_ms=200_000, mode="fanout"))
    assert bench.scheduler.armed == [before]


def test_who_cannot_be_reached_is_told_to_the_broker_and_its_work_goes_elsewhere(bench: Bench) -> None:
    bench.transport.gone.add(b"a")
    assert bench.arrive(send()) == [deliver("b", 2, attempt=2)]
    assert list(bench.fixture.broker.registry.by_name) == ["b"]


def test_who_leaves_too_much_unread_is_told_to_the_broker(bench: Bench) -> None:
    bench.transport.full.add(b"a")
    assert bench.arrive(send()) == [deliver("b", 2, attempt=2)]
    assert bench.fixture.backend("a").state == "paused"


def test_a_client_that_does_not_read_its_stream_loses_it(bench: Bench) -> None:
    [sent] = bench.arrive(send())
    bench.transport.full.add(CLIENT)
    assert bench.arrive(events.Part(b"a", False, events.PartHeader(sent.header.id), (b"x",))) == [unwanted("a", 1)]
    assert bench.fixture.broker.open_messages == 0
    assert bench.fixture.broker.counts.lost_answers == {"unread": 2}


def test_a_client_that_is_gone_has_its_deliveries_cancelled(bench: Bench) -> None:
    first, second = bench.arrive(send(1), send(2))
    bench.transport.gone.add(CLIENT)
    assert bench.arrive(ack(first)) == [unwanted("a", second.header.id)]
    assert bench.fixture.broker.counts.lost_answers == {"gone": 1}


def test_everybody_gone_at_once_comes_to_rest(bench: Bench) -> None:
    bench.transport.gone |= {b"a", b"b", CLIENT}
    assert bench.arrive(*(send(number) for number in range(5))) == []
    assert bench.fixture.broker.open_messages == 0
    assert bench.fixture.broker.registry.by_name == {}


def test_what_is_parked_is_tried_again_soon_and_in_order(bench: Bench) -> None:
    bench.transport.held.add(b"a")
    assert bench.arrive(send(1), send(2)) == []
    [timer] = bench.scheduler.armed
    assert timer.due - bench.fixture.clock.now == pytest.approx(FLUSH_EVERY_S)
    bench.scheduler.pass_time(0.02)
    assert bench.transport.parked == 2
    bench.transport.held.clear()
    bench.scheduler.pass_time(2 * FLUSH_EVERY_S)
    assert bench.transport.take() == [deliver("a", 1), deliver("a", 2, message="m2")]
    assert bench.transport.parked == 0


def test_what_is_parked_goes_before_what_is_new(bench: Bench) -> None:
    bench.transport.held.add(b"a")
    bench.arrive(send(1))
    bench.transport.held.clear()
    sent = bench.arrive(send(2))
    assert [action.header.message for action in sent] == ["m1", "m2"]


def test_stop_ends_everything_and_nothing_is_handled_after_it(bench: Bench) -> None:
    bench.arrive(send())
    bench.loop.stop()
    sent = bench.transport.take()
    assert error("draining", "the daemon exits") in sent
    assert [farewell.peer for farewell in only(sent, Bye)] == [b"a", b"b"]
    assert bench.scheduler.armed == []
    bench.transport.put(send(2))
    bench.loop.wake()
    assert bench.scheduler.soon == []


def test_a_turn_asked_for_before_the_stop_does_nothing(bench: Bench) -> None:
    bench.transport.put(send(2))
    bench.loop.wake()
    bench.loop.stop()
    bench.transport.take()
    bench.scheduler.settle()
    assert bench.transport.take() == []


# --- faults of ours ---------------------------------------------------------------------------------------------------


class Faulty(InOrder):
    """A policy that cannot think about "poison", and not at all while `broken`."""

    broken = False

    def score(self, capability: str, priority: int, backends: Sequence[Backend]) -> list[Candidate]:
        if self.broken or capability == "poison":
            raise ZeroDivisionError("a fault in a policy")
        return super().score(capability, priority, backends)


@pytest.fixture
def faulty() -> Iterator[Bench]:
    bench = Bench(Faulty(), mode="single", attempt_timeout_s=0.5, cache_ttl_s=0.0)
    broker = bench.fixture.broker
    broker.routes.fallback.rankings._policy = broker.policy  # else a policy's fault is none of ours: it stands in
    bench.arrive(register("a", slots=4), register("b", slots=4))
    yield bench
    bench.transport.take()


def test_a_fault_in_handling_a_send_is_logged_and_answered_with_internal(faulty: Bench) -> None:
    with capture_logs() as logs:
        sent = faulty.arrive(send(1), send(2, "poison"), send(3))
    assert [action.header.id for action in only(sent, Error)] == [2]
    [answer] = only(sent, Error)
    assert (answer.header.code, answer.header.last, answer.header.retry) == ("internal", True, True)
    assert len(only(sent, Deliver)) == 2
    [entry] = [entry for entry in logs if entry["log_level"] == "error"]
    assert entry["exc_info"]
    assert faulty.fixture.broker.open_messages == 2


def test_a_fault_in_a_failover_is_logged_and_the_daemon_goes_on(faulty: Bench) -> None:
    [sent] = faulty.arrive(send(1))
    policy = faulty.fixture.broker.policy
    assert isinstance(policy, Faulty)
    policy.broken = True
    faulty.transport.put(events.Nack(b"a", False, events.NackHeader(sent.header.id)))
    with capture_logs() as logs:
        faulty.loop.wake()
        faulty.scheduler.settle()
    assert [entry["log_level"] for entry in logs].count("error") == 1
    policy.broken = False
    faulty.transport.put(send(2))
    faulty.loop.wake()
    faulty.scheduler.settle()
    [other] = [sent for sent in faulty.transport.take() if isinstance(sent, Deliver) and sent.header.message == "m2"]
    faulty.transport.put(ack(other))
    faulty.loop.wake()
    faulty.scheduler.settle()
    assert [answer.header.id for answer in only(faulty.transport.take(), Reply)] == [2]
    faulty.scheduler.pass_time(31.0)
    assert faulty.fixture.broker.open_messages == 0, "it ends at its deadline at the latest"


def test_a_fault_in_a_timer_is_logged_and_whatever_else_is_due_is_done(faulty: Bench) -> None:
    """Two attempts time out in the same tick: thinking about another head fails for both, their ends come all the same."""
    faulty.arrive(send(1, ttl_ms=1_000), send(2, ttl_ms=1_000), send(3, ttl_ms=500, idempotent=False))
    policy = faulty.fixture.broker.policy
    assert isinstance(policy, Faulty)
    policy.broken = True
    with capture_logs() as logs:
        faulty.scheduler.pass_time(0.501)
    assert [entry["log_level"] for entry in logs].count("error") == 2
    policy.broken = False
    faulty.scheduler.pass_time(1.1)
    assert sorted(answer.header.id for answer in only(faulty.transport.take(), Error)) == [1, 2, 3]
    assert faulty.fixture.broker.open_messages == 0


def test_actions_of_a_batch_are_sent_though_a_timer_has_a_fault(faulty: Bench) -> None:
    faulty.arrive(send(1, ttl_ms=1_000))
    policy = faulty.fixture.broker.policy
    assert isinstance(policy, Faulty)
    faulty.fixture.clock.advance(0.502)
    policy.broken = True
    faulty.transport.put(events.Ping(CLIENT, False, events.EmptyHeader()))
    with capture_logs():
        faulty.loop.wake()
        faulty.scheduler.settle()
    sent = faulty.transport.take()
    assert type(sent[0]).__name__ == "Pong"
    assert [answer.header.code for answer in only(sent, Error)] == ["internal"]


def test_what_happens_to_a_route_is_logged_with_its_name() -> None:
    bench = Bench(Faulty(), mode="single", cache_ttl_s=0.0)
    bench.arrive(register("a"))
    policy = bench.fixture.broker.policy
    assert isinstance(policy, Faulty)
    policy.broken = True
    with capture_logs() as logs:
        assert only(bench.arrive(send(1)), Deliver)
    [entry] = logs
    assert (entry["event"], entry["route"], entry["log_level"]) == ("route's policy raised", "stable", "warning")
    assert "a fault in a policy" in entry["detail"]


def test_malformed_frames_are_no_fault_of_ours(bench: Bench) -> None:
    with capture_logs() as logs:
        [answer] = bench.arrive(malformed(b"a", "ACK"))
    assert answer.header.code == "bad_header"
    assert logs == []


def test_the_loop_runs_on_a_real_event_loop() -> None:
    """The same, by asyncio's own clock: a message with 30 ms to live ends in time."""

    async def run() -> list[Any]:
        fixture = BrokerFixture()
        transport = MemoryTransport()
        asyncio_loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        record = transport.send

        def watched(actions: Any) -> list[events.Event]:
            problems = record(actions)
            if only(transport.sent, Error):
                ended.set()
            return problems

        transport.send = watched  # type: ignore[method-assign]
        loop = Loop(fixture.broker, transport, batch_messages=8, batch_s=0.005, clock=asyncio_loop.time)
        loop.start(asyncio_loop)
        transport.put(register("a"), send(ttl_ms=30))
        loop.wake()
        await asyncio.wait_for(ended.wait(), 5.0)
        loop.stop()
        return transport.take()

    sent = asyncio.run(run())
    assert [answer.header.code for answer in only(sent, Error)] == ["expired"]
