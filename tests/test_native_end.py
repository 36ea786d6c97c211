"""How connections of the native transport end: news of peers that are gone, and `close`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from pathlib import Path
from typing import Final

import pytest
from native_kit import (
    ANY,
    EMPTY,
    HEAD_BYTES,
    Raw,
    Run,
    dealing,
    frames_of,
    gone,
    limits,
    on_both_loops,
    raw,
    reply,
    run_on,
    shell,
    undelivered,
)
from zmtp_bytes import frame, handshake, message

from router_daemon.core.actions import Bye
from router_daemon.core.events import EmptyHeader, Gone, Malformed

PING: Final = message(b"CAR1.PING", EMPTY)
COUNT: Final = 400  # as many as may wait without the connection being paused
WAITING: Final = message(b"unknown", EMPTY) * COUNT
RESET: Final = struct.pack("ii", 1, 0)
LATE_S: Final = 2.0  # how much later than asked for a busy machine may be
TICK_S = 0.002
"""The clock of uvloop goes by whole milliseconds, of the beginning of its turn."""


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Run:
    return run_on(getattr(request, "param", "asyncio"))


async def connected(address: str) -> socket.socket:
    """Return a plain socket that has said nothing yet."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    link = socket.socket()
    link.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(link, (host, int(port)))
    except OSError:
        link.close()
        raise
    return link


async def linked(address: str, data: bytes) -> socket.socket:
    """Return a plain socket that has shaken hands and sent this."""
    link = await connected(address)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(link, handshake() + data)
    greeted = b""
    while len(greeted) < HEAD_BYTES:  # left unread it would make a reset of the end
        greeted += await loop.sock_recv(link, HEAD_BYTES - len(greeted))
    return link


def reset(link: socket.socket) -> None:
    """End a connection as a crashed machine's successor does."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    link.close()


# --- gone ---


@on_both_loops
def test_that_a_peer_is_gone_comes_once_and_after_its_last_message(run: Run) -> None:
    async def main() -> None:
        async with shell() as served:
            (await linked(served.address, WAITING)).close()
            await served.until(lambda: len(served.clients.ready) and not served.clients.connections, receive=False)
            while found := served.receive(100):
                assert len(found) <= 101
            assert [type(event) for event in served.events] == [Malformed] * COUNT + [Gone]

    run(main())


@on_both_loops
def test_sending_to_a_peer_that_is_gone_does_not_put_the_news_before_its_messages(run: Run) -> None:
    async def main() -> None:
        async with shell() as served:
            link = await linked(served.address, PING)
            name = await served.peer()
            await asyncio.get_running_loop().sock_sendall(link, WAITING)
            link.close()
            await served.until(lambda: not served.clients.connections, receive=False)
            assert undelivered(served.send(reply(name, b"x")), full=False)
            await served.until(lambda: gone(served.events))
            assert [type(event) for event in served.events] == [Malformed] * COUNT + [Gone]
            assert undelivered(served.send(reply(name, b"x")), full=False)
            assert undelivered(served.send(reply(b"never seen", b"x")), full=False)
            assert served.receive() == []

    run(main())


@on_both_loops
def test_a_reset_connection_ends_without_a_fault_wherever_it_strikes(run: Run) -> None:
    async def main() -> None:
        async with shell() as served:
            link = await linked(served.address, PING)
            name = await served.peer()
            reset(link)
            for _ in range(5):  # the loop has not noticed
                served.send(reply(name, bytes(100_000)))
            served.clients.look(served.clients.loop.time() + 5, paused=False)
            await served.until(lambda: gone(served.events) == [name])
            assert undelivered(served.send(reply(name)), full=False)

    run(main())


@on_both_loops
def test_a_flooding_connection_that_breaks_while_it_is_not_read_ends_well(run: Run) -> None:
    async def main() -> None:
        async with shell() as served:
            link = await linked(served.address, PING)
            name = await served.peer()
            await asyncio.get_running_loop().sock_sendall(link, WAITING * 2)
            await served.until(lambda: served.clients.ready and not served.connection().reading, receive=False)
            reset(link)
            while not (problems := served.send(reply(name, bytes(100_000)))):  # the break is found by writing
                await served.until(lambda: True, receive=False)
            assert undelivered(problems, full=False)
            await served.until(lambda: gone(served.events) == [name])
            assert len(served.events) > 500

    run(main())


def test_of_who_never_sent_a_whole_message_there_is_no_news(run: Run) -> None:
    async def main() -> None:
        async with shell() as served:
            for data in (b"", frame(b"CAR1.PING", more=True), frame(b"CAR1.PING", more=True) + frame(EMPTY)[:-1]):
                (await linked(served.address, data)).close()
            await served.until(lambda: not served.clients.connections and next(served.clients._numbers) > 3)
            assert served.events == []

    run(main())


def test_a_peer_that_breaks_the_protocol_is_gone_after_what_it_sent_before(run: Run) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address) as peer:
            peer.write(WAITING + b"\xff\xff" + WAITING)
            assert await peer.closed()
            await served.until(lambda: gone(served.events))
            assert [type(event) for event in served.events] == [Malformed] * COUNT + [Gone]

    run(main())


@on_both_loops
def test_a_peer_that_will_send_no_more_is_gone_as_it_is_for_libzmq(run: Run) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address) as peer:
            peer.write(PING + PING)
            peer.writer.write_eof()
            assert await peer.closed()
            events = await served.next(3)
            assert gone(events[2:])

    run(main())


# --- close ---


@on_both_loops
def test_close_delivers_what_was_written_to_a_peer_that_goes_on_sending(run: Run) -> None:
    async def main() -> None:
        async with shell(holds=limits(64 << 20)) as served, raw(served.address) as peer:
            peer.write(PING)
            name = await served.peer()
            peer.write(WAITING * 50)
            body = bytes(range(256)) * 40_000
            assert served.send(reply(name, body), reply(name, b"last")) == []
            reading = asyncio.create_task(read_while_sending(peer))
            await served.transport.close(5.0)
            data = await reading
            assert data.count(body) == 1
            assert data.endswith(frame(b"last"))

    run(main())


async def read_while_sending(peer: Raw) -> bytes:
    """Return all that comes until the end, having sent something for each piece of it."""
    data = b""
    while piece := await peer.reader.read(100_000):
        data += piece
        peer.write(WAITING)
    peer.writer.close()
    return data


@on_both_loops
def test_a_peer_of_libzmq_gets_what_was_written_before_the_end(run: Run) -> None:
    async def main() -> None:
        async with shell(holds=limits(64 << 20)) as served:
            with dealing(served.address, RCVHWM=0) as peer:
                await peer.send_multipart([b"CAR1.PING", EMPTY])
                name = await served.peer()
                for _ in range(500):
                    await peer.send_multipart([b"CAR1.PING", EMPTY])
                assert served.send(*(reply(name, b"%d" % number, bytes(5_000)) for number in range(1_000))) == []
                started = time.monotonic()
                await served.transport.close(5.0)
                assert time.monotonic() - started < LATE_S  # it closes its end, so there is no need to wait
                assert [int((await frames_of(peer))[2]) for _ in range(1_000)] == list(range(1_000))

    run(main())


@on_both_loops
@pytest.mark.parametrize("linger_s", [0.0, 0.2])
def test_close_takes_no_longer_than_it_may(run: Run, linger_s: float) -> None:
    async def main() -> None:
        async with shell(holds=limits(64 << 20)) as served, raw(served.address, SO_RCVBUF=8_192) as deaf:
            deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]
            deaf.write(PING)
            name = await served.peer()
            assert served.send(reply(name, bytes(32 << 20))) == []
            started = time.monotonic()
            await served.transport.close(linger_s)
            assert linger_s - TICK_S <= time.monotonic() - started < linger_s + LATE_S

    run(main())


@on_both_loops
def test_a_client_that_does_not_let_go_costs_no_backend_its_bye(run: Run) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address), raw(served.bound[1][0]) as backend:
            backend.write(message(b"CAR1.HEARTBEAT", EMPTY))
            name = await served.peer()
            connection = served.connection(side=served.backends)
            connection.reading = False
            connection.transport.pause_reading()
            backend.write(WAITING * 5)  # unread when it ends
            assert served.send(Bye(name, False, EmptyHeader())) == []
            closing = asyncio.create_task(served.transport.close(1.0))
            bye = message(b"CAR1.BYE", EMPTY)
            assert await backend.exactly(len(bye)) == bye
            assert await backend.rest() == b""
            assert not closing.done()  # the client still holds on
            await closing

    run(main())


@on_both_loops
def test_close_right_after_a_peer_was_reset_or_came_is_no_fault(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with shell([ANY, f"ipc://{tmp_path}/front"]) as served:
            links = [await linked(served.address, PING) for _ in range(3)]
            await served.next(3)
            for link in links:
                reset(link)
            newcomer = await connected(served.address)
            await served.transport.close(0.3)
            assert not (tmp_path / "front").exists()
            with contextlib.suppress(ConnectionError):
                data = b"more"
                while data:
                    data = await asyncio.get_running_loop().sock_recv(newcomer, HEAD_BYTES)
            newcomer.close()
            with pytest.raises(ConnectionRefusedError):
                await connected(served.address)

    run(main())


@on_both_loops
@pytest.mark.parametrize("linger_s", [0.0, 0.2])
def test_close_leaves_nothing_of_who_was_accepted_in_the_same_moment(run: Run, linger_s: float) -> None:
    async def main() -> None:
        async with shell() as served:
            [listener] = served.clients._listeners
            link = socket.create_connection(listener.getsockname())
            with link:
                served.clients._accept(listener)
                assert served.clients.adopting
                started = time.monotonic()
                await served.transport.close(linger_s)
                assert time.monotonic() - started < linger_s + LATE_S
                assert not served.clients.adopting
                assert not served.clients.connections
                with contextlib.suppress(ConnectionError):
                    while link.recv(HEAD_BYTES):
                        pass

    run(main())


def test_a_transport_that_was_never_started_closes(run: Run) -> None:
    async def main() -> None:
        async with shell([], []) as served:
            assert served.receive() == []

    run(main())
