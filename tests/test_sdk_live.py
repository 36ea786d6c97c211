"""Client and backend through a real daemon: the whole way, both codecs."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from conftest import Daemon, DaemonFactory
from peers import unique
from sdk_fakes import PATIENCE_S, echo, registered, task_of, until

from router_daemon import errors
from router_daemon.backend import Answer, Backend, Busy, Delivery, Reject
from router_daemon.client import Client

Work = Callable[[Client, str], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def live(session_daemon: DaemonFactory) -> Daemon:
    """Return a daemon that sends each message to one backend and soon misses a silent one."""
    return session_daemon(backend={"heartbeat_ms": 200}, routing={"mode": "single"})


def with_both(daemon: Daemon, handler: Callable[[Delivery], Any], work: Work, **options: Any) -> None:
    """Run a test's coroutine with a client, and a backend for a capability of its own."""

    async def main() -> None:
        capability = unique("sdk")
        backend = Backend(unique("backend"), daemon.backend, **options)
        backend.handler(capability)(handler)
        async with asyncio.timeout(30), registered(backend), Client(daemon.frontend) as client:
            await work(client, capability)

    asyncio.run(main())


def test_bodies_of_any_shape_come_back_byte_for_byte(live: Daemon) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - replays a failure
    chance = random.Random(seed)
    bodies = [[], [b""], [b"", b""], [chance.randbytes(2_000_000)]]
    bodies += [[chance.randbytes(chance.randrange(300)) for _ in range(chance.randrange(1, 64))] for _ in range(50)]

    async def work(client: Client, capability: str) -> None:
        replies = await asyncio.gather(*(client.send(capability, body) for body in bodies))
        assert [reply.body for reply in replies] == bodies
        assert len({reply.message for reply in replies}) == len(bodies)
        assert all((reply.head, reply.heads) == (1, 1) and reply.elapsed_ms > 0 for reply in replies)

    with_both(live, echo, work, slots=4, prefetch=4)


def test_every_kind_of_handler_and_every_key_passes_the_daemon(live: Daemon) -> None:
    got: list[Delivery] = []

    def in_thread(delivery: Delivery) -> Answer:
        got.append(delivery)
        return Answer(b"done", quality=0.5, cost=0.1, timing_us={"compute": 5})

    async def work(client: Client, capability: str) -> None:
        reply = await client.send(
            capability,
            b"x",
            id=b"mine",
            priority=4,
            ttl_ms=5_000,
            heads=2,
            mode="single",
            idempotent=False,
            embedding=np.array([1.0, 2.0]),
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            budget=1.0,
            max_cost=2,
            first_ms=1_000,
            idle_ms=1_000,
            key="sticky",
            resources=[{"id": "kv", "bytes": 10}],
        )
        assert reply.data == b"done"
        await client.feedback(b"mine", 0.75)
        pong = await client.ping()
        assert pong.max_ttl_ms == 300_000
        assert pong.max_heads == 3

    with_both(live, in_thread, work, cost=0.5, embedding=[0.5, 1.0], zone="z", group="g", version="1")
    assert got[0].priority == 4
    assert got[0].ttl_ms <= 5_000
    assert got[0].header["embedding"] == np.array([1.0, 2.0], dtype="<f4").tobytes()
    assert got[0].header["traceparent"].startswith("00-0af7")


def test_what_handlers_raise_reaches_the_client_as_its_error(live: Daemon) -> None:
    async def handle(delivery: Delivery) -> bytes:
        if delivery.data == b"reject":
            raise Reject("never")
        if delivery.data == b"fail":
            raise ValueError("broken")
        if delivery.data == b"busy" and delivery.attempt == 1:
            raise Busy(retry_after_ms=1)
        return b"ok"

    async def work(client: Client, capability: str) -> None:
        with pytest.raises(errors.RequestRefused) as refused:
            await client.send(capability, b"reject")
        assert refused.value.code == "rejected"
        with pytest.raises(errors.Failed):
            await client.send(capability, b"fail")
        assert (await client.send(capability, b"busy", ttl_ms=5_000)).data == b"ok"
        with pytest.raises(errors.Unavailable):
            await client.send("nobody-offers-this")
        with pytest.raises(errors.RequestRefused) as bad:
            await client.send(capability, priority=9)
        assert bad.value.code == "bad_header"
        with pytest.raises(errors.RequestRefused) as forbidden:
            await client.send(capability, durable=True)
        assert forbidden.value.code == "forbidden"

    with_both(live, handle, work)


def test_a_send_nobody_answers_expires_and_the_handler_is_cancelled(live: Daemon) -> None:
    ended = asyncio.Event()

    async def hang(_: Delivery) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    async def work(client: Client, capability: str) -> None:
        with pytest.raises(errors.Expired):
            await client.send(capability, ttl_ms=150)
        await ended.wait()

    with_both(live, hang, work)


@pytest.mark.parametrize("way", ["task", "cancel"])
def test_a_cancel_reaches_the_handler_and_frees_its_slot(live: Daemon, way: str) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def handle(delivery: Delivery) -> bytes:
        if delivery.data != b"hang":
            return b"free"
        began.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()
        return b""

    async def work(client: Client, capability: str) -> None:
        async with task_of(client.send(capability, b"hang", id="mine")) as sending:
            await began.wait()
            if way == "task":
                sending.cancel()
            else:
                await client.cancel("mine")
                with pytest.raises(errors.Cancelled):
                    await sending
            await ended.wait()
        await until(lambda: not client._calls)
        assert (await client.send(capability, id="mine")).data == b"free"

    with_both(live, handle, work)


def test_a_stream_passes_in_order_and_ends_early_when_its_reader_leaves(live: Daemon) -> None:
    ended = asyncio.Event()

    async def count(delivery: Delivery) -> AsyncIterator[Any]:
        try:
            for number in range(int(delivery.data)):
                yield [b"%d" % number, b"x"]
                await asyncio.sleep(0)
            yield Answer(b"total")
        finally:
            ended.set()

    async def work(client: Client, capability: str) -> None:
        stream = client.stream(capability, b"500")
        assert [piece async for piece in stream] == [[b"%d" % number, b"x"] for number in range(500)]
        assert stream.reply.data == b"total"
        assert (await client.send(capability, b"3")).data == b"total"
        ended.clear()
        async for piece in client.stream(capability, b"1000000000"):
            if piece[0] == b"5":
                break
        async with asyncio.timeout(PATIENCE_S):
            await ended.wait()

    with_both(live, count, work)


def test_all_heads_answer_and_a_post_is_accepted(live: Daemon) -> None:
    got = asyncio.Event()

    async def main() -> None:
        capability = unique("sdk")

        async def well(delivery: Delivery) -> bytes:
            if delivery.data == b"post":
                got.set()
            return b"well"

        async def badly(delivery: Delivery) -> bytes:
            if delivery.data == b"post":
                got.set()
            raise ValueError("badly")

        one, two = Backend(unique("one"), live.backend), Backend(unique("two"), live.backend)
        one.handler(capability)(well)
        two.handler(capability)(badly)
        async with registered(one), registered(two), Client(live.frontend) as client:
            answers = await client.send_all(capability, heads=2, mode="fanout")
            assert sorted(type(answer).__name__ for answer in answers) == ["Failed", "Reply"]
            assert {answer.backend for answer in answers} == {one.name, two.name}
            message = await client.post(capability, b"post")
            assert 0 < len(message) <= 32
            await got.wait()

    asyncio.run(main())


def test_slots_and_prefetch_bound_what_a_backend_has_and_all_is_answered(live: Daemon) -> None:
    now, most = 0, 0
    changing = threading.Lock()

    def handle(delivery: Delivery) -> list[bytes]:
        nonlocal now, most
        with changing:
            now += 1
            most = max(most, now)
        sum(range(2_000))
        with changing:
            now -= 1
        return delivery.body

    async def work(client: Client, capability: str) -> None:
        bodies = [b"%d" % number for number in range(400)]
        replies = await asyncio.gather(*(client.send(capability, body) for body in bodies))
        assert [reply.data for reply in replies] == bodies
        assert most <= 3

    with_both(live, handle, work, slots=3, prefetch=5)
