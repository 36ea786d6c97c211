"""Answers in pieces, against a daemon driven by hand: order, gaps, early ends, readers that do not read."""

from __future__ import annotations

import asyncio

import pytest
from sdk_fakes import FakeDaemon, task_of, until, with_client

from router_daemon import errors
from router_daemon.client import Client


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
                pieces.append(piece)  # noqa: PERF401 - a comprehension would lose them when it raises

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
        async with task_of(anext(pieces)) as first:
            send = await daemon.soon("SEND")
            for seq in range(20):
                daemon.send(send.peer, "PART", {"id": 1, "head": 1, "seq": seq}, bytes(1000))
            assert await first == [bytes(1000)]
            assert (await daemon.soon("CANCEL")).header == {"id": 1}
        rest = 0
        with pytest.raises(errors.Unavailable, match="unread"):  # noqa: PT012 - only the last of them raises
            while await anext(pieces):
                rest += 1
        assert 0 < rest < 19

    with_client(work, stream_buffer_bytes=5_000)


def test_a_stream_that_fails_raises_after_its_pieces() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        pieces = []

        async def read() -> None:
            async for piece in client.stream("chat"):
                pieces.append(piece)  # noqa: PERF401 - a comprehension would lose them when it raises

        async with task_of(read()) as reading:
            send = await daemon.soon("SEND")
            daemon.send(send.peer, "PART", {"id": 1, "head": 1, "seq": 0}, b"0")
            daemon.error(send, "failed")
            with pytest.raises(errors.Failed):
                await reading
        assert pieces == [[b"0"]]
        assert await daemon.quiet()

    with_client(work)
