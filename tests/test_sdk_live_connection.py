"""Client and backend with a real daemon that drains, dies, stands still or comes back."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Daemon, DaemonFactory
from peers import unique
from sdk_fakes import PATIENCE_S, Running, echo, registered, task_of

from router_daemon import errors
from router_daemon.backend import Backend, Delivery
from router_daemon.client import Client, Reply, SyncClient


@pytest.fixture(scope="module")
def live(session_daemon: DaemonFactory) -> Daemon:
    """Return a daemon that sends each message to one backend and soon misses a silent one."""
    return session_daemon(backend={"heartbeat_ms": 200}, routing={"mode": "single"})


def test_a_handler_that_blocks_the_loop_keeps_its_registration(live: Daemon) -> None:
    go_on = threading.Event()
    backend = Backend(unique("backend"), live.backend)
    capability = unique("sdk")

    @backend.handler(capability)
    async def block(_: Delivery) -> bytes:
        assert go_on.wait(PATIENCE_S)
        return b"kept"

    with Running(backend) as running, SyncClient(live.frontend) as client, ThreadPoolExecutor(1) as pool:
        running.call(backend.wait_registered())
        sending = pool.submit(client.send, capability, idempotent=False)
        with pytest.raises(TimeoutError):
            sending.result(timeout=1.2)  # twice the silence after which a backend counts as lost
        go_on.set()
        assert sending.result(PATIENCE_S).data == b"kept"


def test_stop_drains_and_the_work_goes_to_the_other_backend(live: Daemon) -> None:
    async def main() -> None:
        capability = unique("sdk")
        go_on = asyncio.Event()
        began = asyncio.Event()
        leaving, staying = Backend(unique("leaving"), live.backend), Backend(unique("staying"), live.backend)

        @leaving.handler(capability)
        async def slow(_: Delivery) -> bytes:
            began.set()
            await go_on.wait()
            return b"finished"

        staying.handler(capability)(echo)
        async with Client(live.frontend) as client:
            running = asyncio.create_task(leaving.run())
            await leaving.wait_registered()
            async with task_of(client.send(capability)) as first:
                await began.wait()
                async with registered(staying):
                    leaving.request_stop()
                    for _ in range(20):
                        reply = await client.send(capability, b"x")
                        assert reply.backend == staying.name
                    go_on.set()
                    assert (await first).data == b"finished"
                    await running

    asyncio.run(main())


def test_an_update_holds_and_a_bad_one_is_refused(live: Daemon) -> None:
    async def main() -> None:
        first, second = unique("sdk"), unique("sdk")
        backend = Backend(unique("backend"), live.backend)
        backend.handler(first, second)(echo)
        async with registered(backend), Client(live.frontend) as client:
            await backend.update(capabilities=[second], slots=4)
            assert (await client.send(second, b"x")).data == b"x"
            with pytest.raises(errors.Unavailable):
                await client.send(first)
            with pytest.raises(errors.RequestRefused):
                await backend.update(cost=-1.0)
            assert backend.slots == 4

    asyncio.run(main())


def test_a_registration_the_daemon_cannot_take_ends_run(live: Daemon) -> None:
    backend = Backend("x" * 65, live.backend, capabilities=["work"])
    with pytest.raises(errors.RequestRefused) as caught:
        asyncio.run(backend.run())
    assert caught.value.code == "bad_header"


def test_a_taken_name_is_taken_over_once_it_is_free(live: Daemon) -> None:
    async def main() -> None:
        name, capability = unique("backend"), unique("sdk")
        first, second = Backend(name, live.backend), Backend(name, live.backend)
        first.handler(capability)(lambda _: b"first")
        second.handler(capability)(lambda _: b"second")
        async with Client(live.frontend) as client:
            async with registered(first):
                running = asyncio.create_task(second.run())
                assert (await client.send(capability)).data == b"first"
            async with asyncio.timeout(PATIENCE_S):
                await second.wait_registered()
            assert (await client.send(capability)).data == b"second"
            await second.stop()
            await running

    asyncio.run(main())


def test_client_and_backend_outlive_the_daemon(daemon: DaemonFactory) -> None:
    first = daemon(backend={"heartbeat_ms": 200})

    async def main() -> None:
        backend = Backend(unique("backend"), first.backend)
        backend.handler("work")(echo)
        async with registered(backend), Client(first.frontend) as client:
            assert (await client.send("work", b"1")).data == b"1"
            await asyncio.to_thread(kill, daemon, first)
            async with task_of(client.send("work", b"2")) as sending:
                await asyncio.to_thread(daemon, front=first.frontend, back=first.backend)
                reply = await until_served(sending, client)
            assert reply.data == b"2"

    asyncio.run(main())


def kill(factory: DaemonFactory, daemon: Daemon) -> None:
    """End a daemon as a crash does; its factory need not end it any more."""
    factory.daemons.remove(daemon)
    daemon.process.kill()
    daemon.wait()


async def until_served(first: asyncio.Task[Reply], client: Client) -> Reply:
    """Return the reply to a message that is sent again while the backend is not back yet."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(errors.Unavailable, errors.ConnectionLost):
                return await first
            first = asyncio.ensure_future(client.send("work", b"2"))


def test_a_killed_daemon_ends_open_sends(daemon: DaemonFactory) -> None:
    mine = daemon()

    async def main() -> None:
        began = asyncio.Event()
        backend = Backend(unique("backend"), mine.backend, drain_timeout_s=0.1)

        @backend.handler("work")
        async def hang(_: Delivery) -> None:
            began.set()
            await asyncio.get_running_loop().create_future()

        async with registered(backend), Client(mine.frontend) as client, task_of(client.send("work")) as sending:
            await began.wait()
            await asyncio.to_thread(kill, daemon, mine)
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(errors.ConnectionLost, match="gone"):
                    await sending

    asyncio.run(main())


def test_a_new_connection_takes_the_registration_and_its_open_deliveries_over(live: Daemon) -> None:
    async def main() -> None:
        go_on, began = asyncio.Event(), asyncio.Event()
        capability = unique("sdk")
        backend = Backend(unique("backend"), live.backend)

        @backend.handler(capability)
        async def work(_: Delivery) -> bytes:
            began.set()
            await go_on.wait()
            return b"survived"

        async with (
            registered(backend),
            Client(live.frontend) as client,
            task_of(client.send(capability, idempotent=False)) as sending,
        ):
            await began.wait()
            link = backend._link
            assert link is not None
            for _ in range(3):
                backend._registered.clear()
                link._request(lambda _now: setattr(link._registration, "reopen", "the test says so"))
                async with asyncio.timeout(PATIENCE_S):
                    await backend.wait_registered()
            go_on.set()
            assert (await sending).data == b"survived"

    asyncio.run(main())
