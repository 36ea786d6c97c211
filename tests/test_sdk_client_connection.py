"""The client and its connection: lost, not there yet, silent, full; and the one clock that ends what stays open."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
import zmq
from sdk_fakes import FakeDaemon, task_of, until, with_client

from router_daemon import errors
from router_daemon.client import Client, Pong, SyncClient
from router_daemon.sdk import link as link_module
from router_daemon.sdk.calls import STALE_DEADLINES, Call, Deadlines


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
        parked_until = asyncio.get_running_loop().time() + 0.01
        await until(lambda: asyncio.get_running_loop().time() > parked_until)
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
                assert 0.08 <= time.monotonic() - began < 5.0
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


def test_a_full_pipe_makes_sends_wait_and_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "HIGH_WATER_MARK", 10)

    async def main() -> None:
        with FakeDaemon(RCVHWM=1, RCVBUF=65536) as daemon:
            async with asyncio.timeout(30), Client(daemon.address) as client:
                count = 700
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
    monkeypatch.setattr(link_module, "HIGH_WATER_MARK", 10)

    async def main() -> None:
        with FakeDaemon(RCVHWM=1, RCVBUF=65536) as daemon:
            async with asyncio.timeout(30), Client(daemon.address) as client:
                link = client._link
                assert link is not None
                tasks = [asyncio.create_task(client.post("echo", bytes(65_536))) for _ in range(200)]
                await asyncio.to_thread(daemon.socket.poll, 5_000)
                await until(lambda: link._waiting and link.connected)
                sent = -1
                while sent != (sent := sum(call.sent for call in client._calls.values())):
                    await asyncio.wait(tasks, timeout=0.2)
                pumps = itertools.count()
                pump = link._pump
                monkeypatch.setattr(link, "_pump", lambda: (next(pumps), pump()))
                await asyncio.wait(tasks, timeout=0.2)
                assert next(pumps) < 20
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    asyncio.run(main())


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
