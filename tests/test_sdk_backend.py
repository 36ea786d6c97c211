"""The backend against a daemon driven by hand: what each kind of handler gets, and what is sent for what it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from sdk_fakes import FakeDaemon, Running, answers, serving

from router_daemon.backend import Answer, Backend, Busy, Delivery, Reject
from router_daemon.sdk import runner as runner_module
from router_daemon.sdk.deliveries import REASON_CHARS, Handler


def test_register_says_exactly_who_it_is() -> None:
    with FakeDaemon() as daemon:
        backend = Backend(
            "b1", daemon.address, slots=3, prefetch=2, capabilities=["extra", "b"], embedding=[1.0], zone="z", cost=None
        )
        backend.handler("a", "b")(lambda _: b"")
        backend.handler("c")(lambda _: b"")
        with Running(backend) as running:
            register = daemon.registered()
            assert register.peer[0] == 0  # libzmq's own routing id
            session = register.header.pop("session")
            assert session == backend.session
            assert len(session) == 16
            assert register.header == {
                "name": "b1",
                "capabilities": ["a", "b", "c", "extra"],
                "slots": 3,
                "prefetch": 2,
                "embedding": b"\x00\x00\x80?",
                "zone": "z",
            }
            running.call(backend.wait_registered())
    assert Backend("b2").session != backend.session


def test_a_handler_gets_the_delivery() -> None:
    got = []

    async def handle(delivery: Delivery) -> None:
        got.append(delivery)

    answers(handle, traceparent="00-t", priority=4, attempt=2)
    (delivery,) = got
    assert (delivery.id, delivery.message, delivery.capability) == (5, "m5", "work")
    assert (delivery.priority, delivery.attempt, delivery.ttl_ms) == (4, 2, 10_000)
    assert (delivery.body, delivery.data) == ([b"in"], b"in")
    assert delivery.header["traceparent"] == "00-t"
    assert 0 < delivery.time_left_s <= 10
    assert not delivery.cancelled.is_set()


@pytest.mark.parametrize(
    ("result", "body", "keys"),
    [
        (b"out", [b"out"], {}),
        ([b"a", b""], [b"a", b""], {}),
        ((bytearray(b"a"),), [b"a"], {}),
        (None, [], {}),
        (Answer(b"x"), [b"x"], {}),
        (
            Answer([b"x"], quality=0.5, cost=2.0, timing_us={"compute": 7}),
            [b"x"],
            {"quality": 0.5, "cost": 2.0, "timing_us": {"compute": 7}},
        ),
    ],
)
def test_what_a_handler_returns_is_the_ack(result: Any, body: list[bytes], keys: dict[str, Any]) -> None:
    async def handle(_: Delivery) -> Any:
        return result

    def handle_in_thread(_: Delivery) -> Any:
        return result

    for function in (handle, handle_in_thread):
        ack = answers(function)
        assert (ack.verb, ack.header, ack.body) == ("ACK", {"id": 5, "queue": 0, **keys}, body)


@pytest.mark.parametrize(
    ("error", "nack"),
    [
        (Reject("no such account"), {"code": "rejected", "reason": "no such account"}),
        (Busy(), {"code": "busy", "reason": "busy"}),
        (Busy("later", retry_after_ms=70), {"code": "busy", "reason": "later", "retry_after_ms": 70}),
        (ValueError("bad"), {"code": "failed", "reason": "ValueError: bad"}),
        (StopIteration("odd"), {"code": "failed"}),
        (ValueError("x" * 1000), {"code": "failed", "reason": "ValueError: " + "x" * (REASON_CHARS - 12)}),
        (ValueError("\ud800"), {"code": "failed", "reason": "ValueError: ?"}),
    ],
)
def test_what_a_handler_raises_is_the_nack(error: Exception, nack: dict[str, Any]) -> None:
    async def handle(_: Delivery) -> Any:
        raise error

    def handle_in_thread(_: Delivery) -> Any:
        raise error

    async def handle_stream(delivery: Delivery) -> AsyncIterator[bytes]:
        if delivery.body:
            raise error
        yield b""

    for function in (handle, handle_in_thread, handle_stream):
        message = answers(function)
        assert message.verb == "NACK"
        assert {**message.header, "id": 5, **nack} == message.header


def test_a_result_that_is_no_result_is_a_failure() -> None:
    results: list[Any] = ["text", 5, [1], Answer(b"", cost=object())]  # type: ignore[arg-type]
    for result in results:
        message = answers(Mock(return_value=result))
        assert message.verb == "NACK"
        assert message.header["code"] == "failed"
        assert "Error: " in message.header["reason"]


def test_leaving_a_thread_by_force_fails_the_delivery_only() -> None:
    def handle(delivery: Delivery) -> bytes:
        if delivery.attempt == 1:
            raise SystemExit(3)
        return b"alive"

    with serving(handle) as (daemon, peer, _):
        daemon.deliver(peer, 1)
        assert "SystemExit: 3" in daemon.expect("NACK").header["reason"]
        daemon.deliver(peer, 2, attempt=2)
        assert daemon.expect("ACK").body == [b"alive"]


def test_a_generator_sends_parts_and_then_the_ack() -> None:
    async def handle(delivery: Delivery) -> AsyncIterator[Any]:
        yield b"one"
        yield [b"two", b"three"]
        if delivery.data == b"final":
            yield Answer(b"end", quality=1.0)
            raise AssertionError("an Answer is the last item")

    for body, ack in (
        (b"", ({"id": 5, "queue": 0}, [])),
        (b"final", ({"id": 5, "queue": 0, "quality": 1.0}, [b"end"])),
    ):
        with serving(handle) as (daemon, peer, _):
            daemon.deliver(peer, 5, body)
            parts = [daemon.expect("PART") for _ in range(2)]
            assert [part.header for part in parts] == [{"id": 5}, {"id": 5}]
            assert [part.body for part in parts] == [[b"one"], [b"two", b"three"]]
            message = daemon.expect("ACK")
            assert (message.header, message.body) == ack


def test_a_handler_of_everything_takes_what_has_none_of_its_own() -> None:
    with FakeDaemon() as daemon:
        backend = Backend("b1", daemon.address, capabilities=["x"])
        backend.handler("work")(lambda _: b"own")
        backend.handler()(lambda delivery: delivery.capability.encode())
        with Running(backend):
            peer = daemon.registered().peer
            for capability, body in (("work", b"own"), ("x", b"x")):
                daemon.deliver(peer, 1, capability=capability)
                assert daemon.expect("ACK", "HEARTBEAT").body == [body]


def test_a_capability_nobody_handles_fails() -> None:
    assert "no handler for 'x'" in answers(lambda _: b"", capability="x").header["reason"]


def test_handlers_are_checked_when_they_are_given() -> None:
    backend = Backend("b1")
    backend.handler("a")(lambda _: b"")
    backend.handler()(lambda _: b"")
    with pytest.raises(ValueError, match="'a' already"):
        backend.handler("b", "a")(lambda _: b"")
    with pytest.raises(ValueError, match="all other"):
        backend.handler()(lambda _: b"")

    def plain_generator(_: Delivery) -> Iterator[bytes]:
        yield b""

    with pytest.raises(TypeError, match="plain generator"):
        backend.handler("c")(plain_generator)


def test_objects_are_handlers_as_their_call_is() -> None:
    class Async:
        async def __call__(self, _: Delivery) -> bytes:
            return b""

    class Streaming:
        async def __call__(self, _: Delivery) -> AsyncIterator[bytes]:
            yield b""

    styles = [Handler.of(each).style for each in (Async(), Streaming(), print)]
    assert styles == ["coroutine", "generator", "thread"]


@pytest.mark.parametrize("keys", [{"name": "other"}, {"session": b"x"}, {"slots": 0}, {"slots": True}])
def test_an_update_that_cannot_be_is_refused_here(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"keeps|slots"):
        asyncio.run(Backend("b1").update(**keys))


@pytest.mark.parametrize("options", [{"slots": 0}, {"slots": 1.5}, {"slots": True}, {"prefetch": -1}])
def test_counts_are_checked_at_the_start(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be an int"):
        Backend("b1", **options)


def test_a_backend_without_capabilities_does_not_start() -> None:
    with pytest.raises(ValueError, match="no handler"):
        asyncio.run(Backend("b1").run())


def test_failures_are_logged_with_their_traceback_and_refusals_are_not(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(delivery: Delivery) -> None:
        raise Reject("r") if delivery.data == b"reject" else KeyError("k")

    with caplog.at_level("DEBUG", runner_module.__name__), serving(handle) as (daemon, peer, _):
        daemon.deliver(peer, 1, b"reject")
        daemon.expect("NACK")
        assert not caplog.records
        daemon.deliver(peer, 2)
        assert "Traceback" not in daemon.expect("NACK").header["reason"]
        assert caplog.records[0].exc_info
