"""The client against a daemon driven by hand: exact frames out, every answer that may come back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sdk_fakes import FakeDaemon, task_of, until, with_client

from router_daemon import errors
from router_daemon.client import Client, Reply


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


def test_a_header_that_has_no_form_on_the_wire_is_the_callers_fault_and_leaves_no_trace() -> None:
    async def work(client: Client, daemon: FakeDaemon) -> None:
        with pytest.raises(TypeError):
            await client.send("echo", key=object())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="must be bytes"):
            await client.send("echo", "text")  # type: ignore[arg-type]
        assert not client._calls

    with_client(work)
