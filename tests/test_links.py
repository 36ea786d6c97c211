"""Connections that a daemon dials: when they are told of, what becomes of them, when they are tried again."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from conftest import free_port
from link_kit import ANY, ENGINES, gone, node
from native_kit import Run, on_both_loops, run_on
from zmtp_bytes import handshake

from router_daemon import dialling, links, zmq_links
from router_daemon.core.events import Malformed, Undelivered
from router_daemon.core.types import Side
from router_daemon.dialling import BackOff
from router_daemon.native import NativeTransport
from router_daemon.ring.messages import Forward, ForwardHeader, Hello, HelloHeader
from router_daemon.transport import SocketLimits
from router_daemon.wire import Limits
from router_daemon.zmtp import Reader, ready

both = pytest.mark.parametrize("engine", ENGINES)
SOON_S: Final = 0.02


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Run:
    return run_on(getattr(request, "param", "asyncio"))


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialling, "FIRST_S", SOON_S)
    monkeypatch.setattr(dialling, "MOST_S", 2 * SOON_S)


def hello(peer: bytes, name: str = "a") -> Hello:
    return Hello(peer, HelloHeader(name, "ring", 1, "0"))


# --- one connection ---


@on_both_loops
@pytest.mark.parametrize("dials", ENGINES)
@pytest.mark.parametrize("listens", ENGINES)
def test_messages_pass_both_ways_on_a_connection_that_was_dialled(run: Run, dials: str, listens: str) -> None:
    async def main() -> None:
        async with node(listens) as there, node(dials, there.address, listen="") as here:
            peer = await here.opened(there.address, there)
            assert here.send(hello(peer, "here")) == []
            said = await there.next(here)
            assert said == hello(said.peer, "here")
            assert there.send(hello(said.peer, "there")) == []
            assert await here.next(there) == hello(peer, "there")

    run(main())


@on_both_loops
@both
@pytest.mark.parametrize("place", ["path", "abstract"])
def test_unix_sockets_are_dialled_too(run: Run, engine: str, place: str, tmp_path: Path) -> None:
    async def main() -> None:
        address = f"ipc://@router-daemon-ring-{tmp_path.name}" if place == "abstract" else f"ipc://{tmp_path}/ring"
        async with node(engine, listen=address) as there, node(engine, address) as here:
            peer = await here.opened(address, there)
            assert here.send(hello(peer)) == []
            assert isinstance(await there.next(here), Hello)

    run(main())


@both
def test_a_neighbour_that_starts_later_is_found(run: Run, engine: str) -> None:
    async def main() -> None:
        address = f"tcp://127.0.0.1:{free_port()}"
        async with node(engine, address) as here:
            for _ in range(5):  # some tries find nobody
                await asyncio.sleep(0)
                here.transport.receive(256, 0.005)
            async with node(engine, listen=address) as there:
                await here.opened(address, there)

    run(main())


@both
def test_a_neighbour_that_dies_is_gone_after_its_last_message_and_known_by_another_name_later(
    run: Run, engine: str
) -> None:
    async def main() -> None:
        address = f"tcp://127.0.0.1:{free_port()}"
        async with node(engine, address) as here:
            names = []
            for _ in range(3):
                async with node(engine, listen=address) as there:
                    names.append(peer := await here.opened(address, there))
                    assert here.send(hello(peer)) == []
                    said = await there.next(here)
                    assert there.send(hello(said.peer, "last words")) == []
                    await here.until(lambda: here.events, there)
                assert await here.next() == hello(peer, "last words")
                assert await here.next() == gone(peer)
                problems = here.send(hello(peer))
                assert isinstance(problems[0], Undelivered)
                action: Any = problems[0].action
                assert (action, problems[0].full) == (hello(peer), False)
            assert len(set(names)) == 3
            assert here.events == []

    run(main())


@both
def test_who_listens_is_told_that_who_dialled_is_gone(run: Run, engine: str) -> None:
    async def main() -> None:
        async with node(engine) as there:
            async with node(engine, there.address) as here:
                assert here.send(hello(await here.opened(there.address, there))) == []
                said = await there.next(here)
            assert await there.next() == gone(said.peer)

    run(main())


@both
def test_a_neighbour_that_leaves_too_much_unread_is_full(run: Run, engine: str) -> None:
    async def main() -> None:
        header = ForwardHeader("b", 1, "x", "a", 1, 1, "m", "c", 2, 9, 1, 1, 1, 1, ["a"])
        async with node(engine) as there, node(engine, there.address, unread_bytes=1 << 20) as here:
            peer = await here.opened(there.address)
            problems: list[Any] = []
            while not problems:
                problems = here.send(Forward(peer, header, [bytes(1 << 20)]))
            assert problems == [Undelivered(problems[0].action, full=True)]

    run(main())


# --- who does not answer as a neighbour would ---


@both
def test_a_black_hole_is_given_up_and_tried_again(run: Run, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (links, zmq_links):
        monkeypatch.setattr(module, "CONNECT_S", 0.1)

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            silent.settimeout(0.0)
            port = silent.getsockname()[1]
            async with node(engine, f"tcp://127.0.0.1:{port}") as here:
                accepted: list[socket.socket] = []

                def called_twice() -> bool:
                    try:
                        accepted.append(silent.accept()[0])
                    except BlockingIOError:
                        return False
                    return len(accepted) == 2

                await here.until(called_twice)
                assert here.events == []
                for each in accepted:
                    each.close()

    run(main())


@both
@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(64), handshake(b"PUB")])
def test_who_is_no_router_is_never_heard_of(run: Run, engine: str, answer: bytes) -> None:
    calls = 0

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal calls
            calls += 1
            writer.write(answer)
            with contextlib.suppress(ConnectionResetError):  # who leaves an answer unread resets the connection
                await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with node(engine, address) as here:
                await here.until(lambda: calls > 1)
                assert here.events == []

    run(main())


def test_a_connection_to_itself_is_cut(run: Run) -> None:
    async def main() -> None:
        async with node("native") as here:
            side = here.transport._sides[2]  # type: ignore[union-attr]
            assert isinstance(side, links.Links)
            with socket.socket() as link:
                link.bind(("127.0.0.1", 0))
                link.connect(link.getsockname())  # what the kernel may do with a port that nobody listens on
                link.setblocking(False)
                connection = links._Dialled(side, "itself")
                await asyncio.get_running_loop().create_connection(lambda: connection, sock=link)
                assert not await connection.shaken
            assert here.events == []

    run(main())


@both
def test_a_name_that_nobody_knows_is_asked_for_again(run: Run, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq_links, "CONNECT_S", 0.1)
    waits = []
    next_s = BackOff.next_s

    def noted(self: BackOff, stood_s: float) -> float:
        waits.append(stood_s)
        return next_s(self, stood_s)

    monkeypatch.setattr(BackOff, "next_s", noted)

    async def main() -> None:
        async with node(engine, "tcp://no-such-host.invalid:1") as here:
            await here.until(lambda: len(waits) > 1)

    run(main())


def test_without_a_ring_there_are_two_sides_as_before(run: Run) -> None:
    async def main() -> None:
        holds = SocketLimits(Limits(), 32, 1 << 20)
        transport = NativeTransport(holds, holds)
        bound = await transport.start([[ANY], [ANY]], lambda: None)
        assert len(bound) == len(transport._sides) == 2
        await transport.close(0.0)

    run(main())


# --- what a daemon that dials says of itself ---


def test_who_dials_is_a_dealer_and_wants_a_router() -> None:
    reader = Reader(b"peer", Limits(), b"DEALER")
    reader.feed(handshake(b"ROUTER"), [])
    assert reader.ready
    assert reader.replies == [ready(b"DEALER")]


@both
def test_another_version_is_malformed_and_says_which_one_is_spoken(run: Run, engine: str) -> None:
    async def main() -> None:
        async with node(engine) as there:
            from native_kit import dealing

            with dealing(there.address) as peer:
                await peer.send_multipart([b"RING2.HELLO", b"\x80"])
                await peer.send_multipart([b"CAR1.SEND", b"\x80"])
                await peer.send_multipart([b"", b"RING1.HELLO", b"\x80"])
                told = [await there.next() for _ in range(3)]
        assert all(isinstance(each, Malformed) and each.side is Side.RING for each in told)
        assert [each.code for each in told] == ["unsupported_version", "unknown_command", "bad_header"]
        assert told[0].detail == "this is RING1, got b'RING2.HELLO'"

    run(main())


# --- how long to wait ---


def test_waits_double_up_to_a_bound_and_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    back_off = BackOff(Random(3))
    fulls = [0.1 * 2**tries for tries in range(6)] + [5.0, 5.0]
    waits = [back_off.next_s(0.0) for _ in fulls]
    assert all(full / 2 <= wait <= full for full, wait in zip(fulls, waits, strict=True))
    assert len(set(waits)) == len(waits)


def test_a_connection_that_stood_makes_the_next_wait_short_and_one_that_did_not_leaves_it_long() -> None:
    back_off = BackOff(Random(3))
    for _ in range(10):
        back_off.next_s(0.0)
    assert back_off.next_s(dialling.STOOD_S / 2) >= dialling.MOST_S / 2
    assert back_off.next_s(dialling.STOOD_S) <= dialling.FIRST_S
