"""The client against a daemon driven by hand: exact frames out, every way in which a send may end."""

from __future__ import annotations

import array
import asyncio
import itertools
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest
import zmq
from sdk_fakes import FakeDaemon, until

from router_daemon import errors
from router_daemon.answers import send_header
from router_daemon.calls import STALE_DEADLINES, Call, Deadlines
from router_daemon.client import Client, Pong, Reply, SyncClient
from router_daemon.link import body_frames, embedding_bytes, pack, unpack

Work = Callable[[Client, FakeDaemon], Coroutine[Any, Any, None]]


def with_client(work: Work, **options: Any) -> None:
    """Run a test's coroutine with a client and the daemon it talks to."""

    async def main() -> None:
        with FakeDaemon() as daemon:
            async with asyncio.timeout(30), Client(daemon.address, **options) as client:
                await work(client, daemon)

    asyncio.run(main())


@asynccontextmanager
async def task_of(work: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """Run a coroutine beside the test and leave nothing of it behind."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()


def test_send_puts_exactly_these_frames_on_the_wire_and_returns_the_reply() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        async with task_of(client.send("echo", [b"a", b"", b"c"], priority=3, heads=None)) as sending:
            send = await daemon.soon("SEND")
            assert send.header == {"capability": "echo", "priority": 3, "ttl_ms": 30_000, "id": 1}
            assert send.body == [b"a", b"", b"c"]
            daemon.reply(send, b"x", b"y", head=2, heads=3, elapsed_ms=0.25)
            reply = await sending
        assert reply == Reply([b"x", b"y"], backend="b1", head=2, heads=3, elapsed_ms=0.25, message="m1")
        assert reply.data == b"xy"

    with_client(work)


def test_the_routing_id_is_left_to_libzmq() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        async with task_of(client.post("echo")):
            assert (await daemon.soon("SEND")).peer[0] == 0  # its own ids begin with a zero, given ones may not

    with_client(work)


def test_all_header_keys_go_out_by_name_and_newer_ones_too() -> None:
    keys: Any = {"id": b"me", "ttl_ms": 5, "mode": "single", "idempotent": False, "embedding": [1, 0.5]}
    keys |= {"resources": [{"id": "kv", "bytes": 3}], "traceparent": "00-x", "durable": True, "not_yet_known": [1]}
    assert send_header("all", "c", keys, 30_000) == {
        **keys,
        "capability": "c",
        "reply": "all",
        "embedding": struct.pack("<2f", 1.0, 0.5),
    }
    assert send_header("stream", "c", {"reply": "first"}, 7) == {"capability": "c", "ttl_ms": 7}
    with pytest.raises(ValueError, match="send_all"):
        send_header("first", "c", {"reply": "all"}, 7)


@pytest.mark.parametrize(
    "embedding",
    [
        [1.0, -2.5],
        (1, -2.5),
        struct.pack("<2f", 1.0, -2.5),
        np.array([1.0, -2.5]),
        np.array([1.0, -2.5], dtype=">f4"),
        np.array([1.0, 9.0, -2.5])[::2],
        array.array("d", [1.0, -2.5]),
    ],
)
def test_an_embedding_becomes_little_endian_float32_whatever_it_was(embedding: Any) -> None:
    assert embedding_bytes(embedding) == b"\x00\x00\x80?\x00\x00 \xc0"


def test_a_matrix_is_no_embedding() -> None:
    with pytest.raises(ValueError, match="one dimension"):
        embedding_bytes(np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("body", "frames"),
    [
        (b"x", [b"x"]),
        (b"", [b""]),
        ((), []),
        (None, []),
        (bytearray(b"x"), [b"x"]),
        (memoryview(b"x"), [b"x"]),
        ([b"x", bytearray(b"y")], [b"x", b"y"]),
    ],
)
def test_a_body_is_one_buffer_or_a_list_of_them(body: Any, frames: list[bytes]) -> None:
    assert body_frames(body) == frames
    assert all(type(frame) is bytes for frame in body_frames(body))


@pytest.mark.parametrize("body", ["text", ["text"], 5, {b"x"}, [1]])
def test_a_body_that_is_no_buffer_is_refused(body: Any) -> None:
    with pytest.raises(TypeError, match="must be bytes"):
        body_frames(body)


@pytest.mark.parametrize("call_id", [True, 1.5, 2**64, -(2**63) - 1, "x" * 65, "ü" * 33, b"x" * 65, [1]])
def test_an_id_that_no_daemon_could_answer_is_refused(call_id: Any) -> None:
    with pytest.raises(ValueError, match="an id must be"):
        send_header("first", "c", {"id": call_id}, 1)


@pytest.mark.parametrize("ttl_ms", [0, -1, True, 1.5, "9"])
def test_a_ttl_that_cannot_be_kept_is_refused(ttl_ms: Any) -> None:
    with pytest.raises(ValueError, match="ttl_ms"):
        send_header("first", "c", {"ttl_ms": ttl_ms}, 1)
    with pytest.raises(ValueError, match="ttl_ms"):
        Client(ttl_ms=ttl_ms)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"CAR1.REPLY"],
        [b"CAR2.REPLY", b"\x80"],
        [b"CAR1.REPLY", b"\x90"],
        [b"CAR1.REPLY", b"\x80\x80"],
        [b"CAR1.REPLY", b"\x81\xa1"],
        [b"CAR1.REPLY", b"\x81\xa1\xff\x01"],
        [b"CAR1.REPLY", b"\xc1"],
        [b"CAR1.\xff", b"\x80"],
        [b"", b"CAR1.REPLY", b"\x80"],
        [b"CAR1.REPLY", b"\x91" * 5000 + b"\xc0"],
    ],
)
def test_bytes_that_are_no_message_are_dropped(frames: list[bytes]) -> None:
    assert unpack(frames) is None


def test_what_is_packed_can_be_unpacked() -> None:
    message = unpack(pack("SEND", {"id": "ü", "bin": b"\xff", "list": [1, 2.5, None]}, [b"body"]))
    assert message == ("SEND", {"id": "ü", "bin": b"\xff", "list": [1, 2.5, None]}, [b"body"])


def test_garbage_and_late_answers_of_a_daemon_do_no_harm() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        async with task_of(client.send("echo")) as sending:
            send = await daemon.soon("SEND")
            daemon.socket.send_multipart([send.peer, b"rubbish"])
            daemon.send(send.peer, "REPLY", {"id": 77, "last": True})
            daemon.send(send.peer, "REPLY", {"id": [1], "last": True})
            daemon.send(send.peer, "ERROR", {"id": None, "code": "bad_frames", "detail": "", "last": False})
            daemon.send(send.peer, "NEWS", {"id": 1, "last": True})
            daemon.reply(send, b"still here")
            assert (await sending).data == b"still here"

    with_client(work)


def test_ids_count_up_and_skip_those_the_caller_took() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        ids: list[Any] = [2, None, None, "two", b"two"]
        tasks = [asyncio.create_task(client.send("echo", id=each)) for each in ids]
        sends = [await daemon.soon("SEND") for _ in ids]
        assert [send.header["id"] for send in sends] == [2, 1, 3, "two", b"two"]
        for send in reversed(sends):
            daemon.reply(send, repr(send.header["id"]).encode())
        assert [(await task).data for task in tasks] == [b"2", b"1", b"3", b"'two'", b"b'two'"]

    with_client(work)


def test_an_open_id_is_refused_and_the_first_send_is_undisturbed() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        async with task_of(client.send("echo", b"first", id="same")) as sending:
            send = await daemon.soon("SEND")
            with pytest.raises(errors.RequestRefused) as caught:
                await client.send("echo", b"second", id="same")
            assert caught.value.code == "duplicate_id"
            assert await daemon.quiet()
            daemon.reply(send, b"one")
            assert (await sending).data == b"one"
        async with task_of(client.send("echo", b"third", id="same")) as sending:
            daemon.reply(await daemon.soon("SEND"), b"three")
            assert (await sending).data == b"three"

    with_client(work)


def test_a_duplicate_id_of_the_daemon_ends_the_send_it_is_about() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        async with task_of(client.send("echo")) as sending:
            daemon.error(await daemon.soon("SEND"), "duplicate_id", last=False)
            with pytest.raises(errors.RequestRefused, match="duplicate_id"):
                await sending

    with_client(work)


@pytest.mark.parametrize(
    ("code", "family"),
    [
        ("overloaded", errors.Unavailable),
        ("no_backend", errors.Unavailable),
        ("expired", errors.Expired),
        ("failed", errors.Failed),
        ("rejected", errors.RequestRefused),
        ("cancelled", errors.Cancelled),
        ("of_the_future", errors.RouterError),
    ],
)
def test_an_error_is_raised_as_its_family_with_all_it_says(code: str, family: type[errors.RouterError]) -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        async with task_of(client.send("echo")) as sending:
            more: dict[str, Any] = {"retry": True, "retry_after_ms": 40, "message": "m9", "backend": "b2"}
            daemon.error(await daemon.soon("SEND"), code, **more)
            with pytest.raises(family) as caught:
                await sending
        error = caught.value
        assert type(error) is family
        assert (error.code, error.detail) == (code, f"because {code}")
        assert {key: getattr(error, key) for key in more} == more

    with_client(work)


def test_send_all_returns_what_became_of_each_head() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        async with task_of(client.send_all("echo", heads=3)) as sending:
            send = await daemon.soon("SEND")
            assert send.header["reply"] == "all"
            daemon.reply(send, b"one", last=False)
            daemon.error(send, "failed", head=2, backend="b2", last=False)
            daemon.reply(send, b"three", head=3, backend="b3")
            first, second, third = await sending
        assert (first.data, third.data, third.backend) == (b"one", b"three", "b3")
        assert isinstance(second, errors.Failed)
        assert second.backend == "b2"

    with_client(work)


@pytest.mark.parametrize(("code", "answered"), [("no_capability", False), ("cancelled", True), ("cancelled", False)])
def test_send_all_raises_when_the_message_as_a_whole_failed(code: str, answered: bool) -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        async with task_of(client.send_all("echo")) as sending:
            send = await daemon.soon("SEND")
            if answered:
                daemon.reply(send, last=False)
            daemon.error(send, code)
            with pytest.raises(errors.RouterError, match=code):
                await sending

    with_client(work)


def test_send_all_keeps_the_answers_it_has_when_the_rest_fails() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        async with task_of(client.send_all("echo")) as sending:
            send = await daemon.soon("SEND")
            daemon.reply(send, b"one", last=False)
            daemon.error(send, "draining")
            first, second = await sending
        assert first.data == b"one"
        assert second.code == "draining"

    with_client(work)


def test_post_returns_once_the_message_is_accepted() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        async with task_of(client.post("echo", b"x")) as posting:
            send = await daemon.soon("SEND")
            assert send.header["reply"] == "none"
            daemon.send(send.peer, "ACCEPT", {"id": send.header["id"], "message": "m7", "last": True})
            assert await posting == "m7"
        async with task_of(client.send("echo", durable=True)) as sending:
            send = await daemon.soon("SEND")
            daemon.send(send.peer, "ACCEPT", {"id": send.header["id"], "message": "m8", "last": False})
            daemon.reply(send, b"after")
            assert (await sending).data == b"after"

    with_client(work)


def test_cancelling_the_task_cancels_the_message_and_keeps_its_id_until_the_end() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        async with task_of(client.send("echo", id="mine")) as sending:
            send = await daemon.soon("SEND")
            sending.cancel()
            cancel = await daemon.soon("CANCEL")
            assert cancel.header == {"id": "mine"}
            with pytest.raises(asyncio.CancelledError):
                await sending
        with pytest.raises(errors.RequestRefused, match="duplicate_id"):
            await client.send("echo", id="mine")
        daemon.error(send, "cancelled")
        await until(lambda: not client._calls)
        async with task_of(client.send("echo", id="mine")) as sending:
            daemon.reply(await daemon.soon("SEND"), b"new")
            assert (await sending).data == b"new"

    with_client(work)


def test_a_timeout_around_a_send_cancels_it() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.send("echo")
        assert (await daemon.soon("CANCEL", "SEND")).header == {"id": 1}

    with_client(work)


def test_cancel_ends_the_open_send_and_of_other_ids_sends_nothing() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        async with task_of(client.send("echo", id="mine")) as sending:
            send = await daemon.soon("SEND")
            await client.cancel("other")
            await client.cancel("mine")
            assert (await daemon.soon("CANCEL")).header == {"id": "mine"}
            daemon.error(send, "cancelled")
            with pytest.raises(errors.Cancelled):
                await sending
        await client.cancel("mine")
        assert await daemon.quiet()

    with_client(work)


def test_a_stream_yields_its_pieces_in_order_and_then_has_the_reply() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        stream = client.stream("chat", b"hi", first_ms=100)
        with pytest.raises(RuntimeError, match="read to its end"):
            stream.reply.data  # noqa: B018

        async def read() -> list[list[bytes]]:
            return [piece async for piece in stream]

        async with task_of(read()) as reading:
            send = await daemon.soon("SEND")
            assert send.header == {"id": 1, "capability": "chat", "first_ms": 100, "ttl_ms": 30_000}
            for seq in range(3):
                part = {"id": 1, "message": "m1", "backend": "b1", "head": 2, "seq": seq}
                daemon.send(send.peer, "PART", part, b"%d" % seq, b"more")
            daemon.reply(send, b"end", head=2)
            assert await reading == [[b"%d" % seq, b"more"] for seq in range(3)]
        assert stream.reply.data == b"end"
        with pytest.raises(RuntimeError, match="read once"):
            await read()
        assert await daemon.quiet()

    with_client(work)


@pytest.mark.parametrize("way", ["break", "aclose", "with", "cancel"])
def test_leaving_a_stream_early_cancels_the_message(way: str) -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        got = asyncio.Event()
        stream = client.stream("chat")

        async def read() -> None:
            async for piece in stream:
                assert piece == [b"0"]
                got.set()
                if way == "break":
                    break

        async def read_with() -> None:
            async with stream:
                async for _ in stream:
                    got.set()
                    break

        async with task_of(read_with() if way == "with" else read()) as reading:
            send = await daemon.soon("SEND")
            daemon.send(send.peer, "PART", {"id": 1, "head": 1, "seq": 0}, b"0")
            await got.wait()
            if way == "aclose":
                await stream.aclose()
            if way == "cancel":
                reading.cancel()
            assert (await daemon.soon("CANCEL")).header == {"id": 1}
        daemon.send(send.peer, "PART", {"id": 1, "head": 1, "seq": 1}, b"1")
        daemon.error(send, "cancelled")
        await until(lambda: not client._calls)

    with_client(work)


@pytest.mark.parametrize(
    ("parts", "read"),
    [([(1, 0), (1, 2)], 1), ([(1, 1)], 0), ([(1, 0), (2, 1)], 1), ([(1, 0), (1, 0)], 1), ([(1, None)], 0)],
)
def test_a_stream_with_a_gap_fails_after_what_came_before(parts: list[tuple[int, int]], read: int) -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        pieces = []

        async def reading() -> None:
            async for piece in client.stream("chat"):
                pieces.append(piece)

        async with task_of(reading()) as task:
            send = await daemon.soon("SEND")
            for head, seq in parts:
                daemon.send(send.peer, "PART", {"id": 1, "head": head, "seq": seq}, b"x")
            assert (await daemon.soon("CANCEL")).header == {"id": 1}
            with pytest.raises(errors.Failed, match="gap"):
                await task
        assert len(pieces) == read

    with_client(work)


def test_a_stream_that_is_not_read_ends_in_overloaded_after_what_was_buffered() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        pieces = aiter(client.stream("chat"))
        async with task_of(anext(pieces)) as first:  # type: ignore[arg-type]
            send = await daemon.soon("SEND")
            for seq in range(20):
                daemon.send(send.peer, "PART", {"id": 1, "head": 1, "seq": seq}, bytes(1000))
            assert await first == [bytes(1000)]
            assert (await daemon.soon("CANCEL")).header == {"id": 1}
        rest = []
        with pytest.raises(errors.Unavailable, match="unread"):
            while True:
                rest.append(await anext(pieces))
        assert 0 < len(rest) < 19

    with_client(work, stream_buffer_bytes=5_000)


def test_a_stream_that_fails_raises_after_its_pieces() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        pieces = []

        async def read() -> None:
            async for piece in client.stream("chat"):
                pieces.append(piece)

        async with task_of(read()) as reading:
            send = await daemon.soon("SEND")
            daemon.send(send.peer, "PART", {"id": 1, "head": 1, "seq": 0}, b"0")
            daemon.error(send, "failed")
            with pytest.raises(errors.Failed):
                await reading
        assert pieces == [[b"0"]]
        assert await daemon.quiet()

    with_client(work)


def test_a_lost_connection_ends_what_was_sent_and_later_sends_work_again() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        waits = [client.send("a"), client.send("b", idempotent=False), client.post("c"), client.ping()]
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        for _ in tasks:
            await asyncio.to_thread(daemon.receive)
        daemon.vanish()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [errors.ConnectionLost] * 4
        assert [getattr(result, "retry", None) for result in results] == [True, False, True, True]
        assert not client._calls
        async with task_of(client.send("later")) as sending:
            daemon.bind()
            daemon.reply(await daemon.soon("SEND"), b"again")
            assert (await sending).data == b"again"

    with_client(work)


def test_answers_that_came_before_the_connection_went_are_still_answers() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        async with task_of(client.send("echo")) as sending, task_of(client.send("echo")) as other:
            daemon.reply(await daemon.soon("SEND"), b"last words")
            await daemon.soon("SEND")
            daemon.socket.close(1000)
            assert (await sending).data == b"last words"
            with pytest.raises(errors.ConnectionLost, match="gone"):
                await other

    with_client(work)


def test_what_is_sent_before_there_is_a_daemon_waits_and_leaves_with_what_is_left_of_its_ttl() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        daemon.vanish()
        tasks = [asyncio.create_task(client.send("echo", b"%d" % n, ttl_ms=9_000)) for n in range(3)]
        gone = asyncio.create_task(client.send("echo", b"gone"))
        await until(lambda: len(client._calls) == 4)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        await client.cancel(2)
        await asyncio.to_thread(daemon.bind)
        sends = [await daemon.soon("SEND") for _ in range(2)]
        assert [send.body for send in sends] == [[b"0"], [b"2"]]
        assert all(0 < send.header["ttl_ms"] < 9_000 for send in sends)
        for send in sends:
            daemon.reply(send, b"ok")
        assert [(await tasks[n]).data for n in (0, 2)] == [b"ok", b"ok"]
        with pytest.raises(errors.Cancelled, match="before it was sent"):
            await tasks[1]
        assert await daemon.quiet()

    async def main() -> None:
        with FakeDaemon() as daemon:
            address = daemon.address
            daemon.vanish()
            async with Client(address) as client:
                await work(client, daemon)

    asyncio.run(main())


def test_without_a_daemon_a_send_ends_at_its_ttl_as_never_sent() -> None:
    async def main() -> None:
        with FakeDaemon() as daemon:
            daemon.vanish()
            async with Client(daemon.address) as client:
                began = time.monotonic()
                with pytest.raises(errors.ConnectionLost, match="could not be sent") as caught:
                    await client.send("echo", ttl_ms=80, idempotent=False)
                assert 0.08 <= time.monotonic() - began < 1.0
                assert caught.value.retry
                with pytest.raises(errors.ConnectionLost, match="not connected"):
                    await client.feedback(1, 1.0)
                with pytest.raises(errors.ConnectionLost, match="PING"):
                    await client.ping(timeout_s=0.05)
                assert not client._calls
                assert not client._link._waiting  # type: ignore[union-attr]

    asyncio.run(main())


def test_a_silent_daemon_is_given_up_at_ttl_and_a_second_each_send_at_its_own_time() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        ended: dict[int, float] = {}

        async def send(ttl_ms: int) -> None:
            began = time.monotonic()
            with pytest.raises(errors.ConnectionLost, match="ttl \\+ 1 s"):
                await client.send("echo", ttl_ms=ttl_ms)
            ended[ttl_ms] = time.monotonic() - began

        async with task_of(client.send("keep", ttl_ms=60_000)) as keep:
            await asyncio.gather(*map(send, (200, 50, 120)))
            assert list(ended) == [50, 120, 200]
            assert all(1 + ttl_ms / 1000 <= took_s < 1.6 + ttl_ms / 1000 for ttl_ms, took_s in ended.items())
            assert not keep.done()
            assert len(client._calls) == 1

    with_client(work)


def test_a_known_maximum_of_the_daemon_shortens_the_clock() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        async with task_of(client.ping()) as pinging:
            ping = await daemon.soon("PING")
            assert (ping.header, ping.body) == ({}, [])
            pong = {"version": "9", "features": ["stream"], "max_ttl_ms": 20}
            pong |= {"max_message_bytes": 5, "max_heads": 3}
            daemon.send(ping.peer, "PONG", pong)
            assert await pinging == Pong("9", ["stream"], 20, 5, 3)
        began = time.monotonic()
        with pytest.raises(errors.ConnectionLost):
            await client.send("echo", ttl_ms=60_000)
        assert 1.02 <= time.monotonic() - began < 2.0
        assert (await daemon.soon("SEND")).header["ttl_ms"] == 20

    with_client(work)


def test_pongs_find_their_pings_though_a_caller_has_gone() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        with pytest.raises(errors.ConnectionLost, match="no answer to a PING"):
            await client.ping(timeout_s=0.05)
        async with task_of(client.ping()) as pinging:
            ping = await daemon.soon("PING")
            await daemon.soon("PING")
            daemon.send(ping.peer, "PONG", {"version": "late"})
            daemon.send(ping.peer, "PONG", {"version": "mine"})
            assert (await pinging).version == "mine"

    with_client(work)


def test_one_timer_serves_all_calls_and_forgets_the_ended_ones() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        due: list[Call] = []
        deadlines = Deadlines(due.append)
        calls = [Call("first", {"id": n, "ttl_ms": 1}, []) for n in range(1000)]
        now = loop.time()
        for number, call in enumerate(calls):
            deadlines.add(now + 60 - number / 1000, call)
        for call in calls[5:]:
            call.freed = True
            deadlines.forget()
        assert len(deadlines._heap) <= 5 + 2 * STALE_DEADLINES
        deadlines.add(now, calls[0])
        await until(lambda: due)
        assert due == [calls[0]]
        assert deadlines._timer is not None
        deadlines.stop()

    asyncio.run(main())


def test_a_full_pipe_makes_sends_wait_and_loses_none() -> None:
    async def main() -> None:
        with FakeDaemon(RCVHWM=1, RCVBUF=65536) as daemon:
            async with asyncio.timeout(30), Client(daemon.address) as client:
                count = 2_500
                tasks = [asyncio.create_task(client.post("echo", n.to_bytes(4) + bytes(16_384))) for n in range(count)]
                await until(lambda: len(client._calls) == count and client._link.connected)  # type: ignore[union-attr]
                link = client._link
                assert link is not None
                await asyncio.to_thread(daemon.socket.poll, 5_000)
                await until(lambda: 0 < sum(call.sent for call in client._calls.values()) < count)
                assert link._waiting

                def read() -> list[int]:
                    numbers = []
                    for _ in range(count):
                        send = daemon.expect("SEND")
                        numbers.append(int.from_bytes(send.body[0][:4]))
                        header = {"id": send.header["id"], "message": "m", "last": True}
                        daemon.send(send.peer, "ACCEPT", header)
                    return numbers

                assert await asyncio.to_thread(read) == list(range(count))
                assert await asyncio.gather(*tasks) == ["m"] * count

    asyncio.run(main())


def test_waiting_for_room_does_not_keep_the_loop_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with FakeDaemon(RCVHWM=1, RCVBUF=65536) as daemon:
            async with asyncio.timeout(30), Client(daemon.address) as client:
                link = client._link
                assert link is not None
                tasks = [asyncio.create_task(client.post("echo", bytes(65_536))) for _ in range(1_200)]
                await asyncio.to_thread(daemon.socket.poll, 5_000)
                await until(lambda: link._waiting and link.connected)
                sent = -1
                while sent != (sent := sum(call.sent for call in client._calls.values())):
                    await asyncio.to_thread(threading.Event().wait, 0.2)
                pumps = itertools.count()
                pump = link._pump
                monkeypatch.setattr(link, "_pump", lambda: (next(pumps), pump()))
                await asyncio.to_thread(threading.Event().wait, 0.2)
                assert next(pumps) < 20
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    asyncio.run(main())


def test_feedback_goes_out_with_its_score() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        async with task_of(client.send("echo", id="mine")) as sending:
            daemon.reply(await daemon.soon("SEND"))
            await sending
        await client.feedback("mine", 0.25)
        assert (await daemon.soon("FEEDBACK")).header == {"id": "mine", "score": 0.25}
        for score in (1.5, -0.1, float("nan")):
            with pytest.raises(ValueError, match="between 0 and 1"):
                await client.feedback("mine", score)

    with_client(work)


def test_closing_ends_open_sends_and_what_was_sent_still_leaves() -> None:
    async def main() -> None:
        with FakeDaemon() as daemon:
            async with Client(daemon.address) as client:
                sending = asyncio.create_task(client.send("echo"))
                await daemon.soon("SEND")
                await client.feedback(9, 1)
            with pytest.raises(errors.ConnectionLost, match="closed"):
                await sending
            assert (await daemon.soon("FEEDBACK")).header == {"id": 9, "score": 1}
            await client.close()
            for call in (client.send("echo"), client.ping(), client.cancel(1)):
                with pytest.raises(errors.ConnectionLost, match="not open"):
                    await call

    asyncio.run(main())


def test_a_client_may_be_opened_again() -> None:
    async def main() -> None:
        with FakeDaemon() as daemon:
            client = Client(daemon.address)
            for _ in range(2):
                async with client, task_of(client.send("echo")) as sending:
                    daemon.reply(await daemon.soon("SEND"), b"ok")
                    assert (await sending).data == b"ok"

    asyncio.run(main())


def test_an_address_that_cannot_be_read_is_said_at_once() -> None:
    async def main() -> None:
        with pytest.raises(zmq.ZMQError):
            await Client("nonsense").open()

    asyncio.run(main())
    with pytest.raises(zmq.ZMQError), SyncClient("nonsense"):
        pass


def test_a_header_that_has_no_form_on_the_wire_is_the_callers_fault_and_leaves_no_trace() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        with pytest.raises(TypeError):
            await client.send("echo", key=object())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="must be bytes"):
            await client.send("echo", "text")  # type: ignore[arg-type]
        assert not client._calls

    with_client(work)


def answer(daemon: FakeDaemon, count: int) -> None:
    """Echo so many SENDs."""
    for _ in range(count):
        send = daemon.expect("SEND")
        daemon.reply(send, *send.body)


def test_the_blocking_client_sends_from_several_threads() -> None:
    with FakeDaemon() as daemon, ThreadPoolExecutor(8) as pool, SyncClient(daemon.address) as client:
        answering = pool.submit(answer, daemon, 60)
        bodies = [b"%d" % n for n in range(60)]
        replies = list(pool.map(lambda body: client.send("echo", body), bodies))
        answering.result()
        assert [reply.data for reply in replies] == bodies


def test_the_blocking_client_mirrors_every_method() -> None:
    with FakeDaemon() as daemon, ThreadPoolExecutor(1) as pool, SyncClient(daemon.address) as client:
        pinging = pool.submit(client.ping)
        ping = daemon.expect("PING")
        daemon.send(ping.peer, "PONG", {"version": "1", "max_ttl_ms": 50_000})
        assert pinging.result().version == "1"
        posting = pool.submit(client.post, "echo")
        daemon.send(ping.peer, "ACCEPT", {"id": daemon.expect("SEND").header["id"], "message": "m", "last": True})
        assert posting.result() == "m"
        all_of = pool.submit(client.send_all, "echo", heads=1)
        daemon.reply(daemon.expect("SEND"), b"x")
        assert [each.data for each in all_of.result() if isinstance(each, Reply)] == [b"x"]
        sending = pool.submit(client.send, "echo", id="mine")
        send = daemon.expect("SEND")
        client.cancel("mine")
        assert daemon.expect("CANCEL").header == {"id": "mine"}
        daemon.error(send, "cancelled")
        assert isinstance(sending.exception(), errors.Cancelled)
        client.feedback("mine", 1.0)
        assert daemon.expect("FEEDBACK").header == {"id": "mine", "score": 1.0}


def test_the_blocking_client_streams() -> None:
    with FakeDaemon() as daemon, ThreadPoolExecutor(1) as pool, SyncClient(daemon.address) as client:

        def read(limit: int) -> list[list[bytes]]:
            pieces = []
            for piece in client.stream("chat"):
                pieces.append(piece)
                if len(pieces) == limit:
                    break
            return pieces

        for limit in (9, 1):
            reading = pool.submit(read, limit)
            send = daemon.expect("SEND")
            for seq in range(2):
                part = {"id": send.header["id"], "head": 1, "seq": seq}
                daemon.send(send.peer, "PART", part, b"%d" % seq)
            if limit == 9:
                daemon.reply(send, b"end")
            assert reading.result() == [[b"0"], [b"1"]][:limit]
        assert daemon.expect("CANCEL").header == {"id": send.header["id"]}

        def final() -> Reply:
            return (yield from client.stream("chat"))  # type: ignore[misc]

        generator = final()
        next_piece = pool.submit(next, generator)  # type: ignore[call-overload]
        send = daemon.expect("SEND")
        daemon.reply(send, b"all of it")
        with pytest.raises(StopIteration) as stopped:
            next_piece.result()
        assert stopped.value.value.data == b"all of it"


def test_closing_the_blocking_client_ends_its_callers_and_its_thread() -> None:
    with FakeDaemon() as daemon, ThreadPoolExecutor(1) as pool:
        client = SyncClient(daemon.address)
        client.open()
        thread = client._thread
        sending = pool.submit(client.send, "echo")
        daemon.expect("SEND")
        client.close()
        client.close()
        assert isinstance(sending.exception(), errors.ConnectionLost)
        assert thread is not None
        assert not thread.is_alive()
        with pytest.raises(errors.ConnectionLost, match="not open"):
            client.send("echo")


def test_unpackable_bytes_of_the_wire_are_logged_not_raised(caplog: pytest.LogCaptureFixture) -> None:
    assert unpack([b"CAR1.REPLY", msgpack.packb(5)]) is None
    assert "no message of CAR/1" in caplog.text
