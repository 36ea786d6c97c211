"""The native transport at its limits: floods, peers that do not read, that fall silent, that never shake hands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from native_kit import (
    EMPTY,
    HEAD_BYTES,
    WAIT_S,
    Run,
    Shell,
    dealing,
    frames_of,
    gone,
    limits,
    on_both_loops,
    raw,
    refusal,
    reply,
    run_on,
    shell,
    undelivered,
)
from structlog.testing import capture_logs
from zmtp_bytes import command, frame, greeting, handshake, message, metadata, ping

from router_daemon import native, zmtp
from router_daemon.core.actions import Pong, PongHeader
from router_daemon.core.events import Malformed, Ping
from router_daemon.transport import PARKED_RESERVE_BYTES

PING: Final = message(b"CAR1.PING", EMPTY)
READ_BYTES: Final = 262_144  # what a loop hands over at once at most
KERNEL_BYTES: Final = 16 << 20  # what two sockets' buffers may hold of what was written


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Run:
    return run_on(getattr(request, "param", "asyncio"))


def numbered(count: int, body: bytes = b"") -> bytes:
    """Return so many messages that say their number."""
    return b"".join(message(b"%d" % number, EMPTY, body) for number in range(count))


def numbers(served: Shell) -> list[int]:
    """Return the numbers of the messages that came."""
    found = [event.detail for event in served.events if isinstance(event, Malformed)]
    return [int(detail.partition("b'")[2].rstrip("'")) for detail in found]


# --- floods ---


@on_both_loops
def test_a_flood_of_small_messages_is_not_read_until_it_is_handled_and_none_is_lost(run: Run) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address) as peer:
            flood = numbered(100_000)
            peer.write(flood)
            await served.until(lambda: served.clients.ready and not served.connection().reading, receive=False)
            waiting = served.connection().inbox
            size = len(waiting)
            assert native.INBOX_MESSAGES < size < native.INBOX_MESSAGES + READ_BYTES // 10
            await peer_is_held(served)
            assert len(waiting) == size
            await served.until(lambda: len(served.events) == 100_000)
            assert numbers(served) == list(range(100_000))
            assert served.connection().reading

    run(main())


async def peer_is_held(served: Shell) -> None:
    """Another peer's round trip, while nothing is received: the loop has been round many times."""
    async with raw(served.address):
        await served.until(lambda: len(served.clients.connections) == 2, receive=False)


@on_both_loops
def test_a_flood_of_large_messages_is_bounded_in_bytes(run: Run) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address) as peer:
            peer.write(numbered(400, bytes(100_000)))
            await served.until(lambda: served.clients.ready and not served.connection().reading, receive=False)
            held = sum(len(frames[-1]) for frames in served.connection().inbox)
            assert held <= native.INBOX_BYTES + READ_BYTES
            await served.until(lambda: len(served.events) == 400)
            assert numbers(served) == list(range(400))

    run(main())


def test_a_message_larger_than_what_may_wait_is_read_whole(run: Run) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address) as peer:
            peer.write(numbered(3, bytes(5 << 20)))
            await served.until(lambda: len(served.events) == 3)
            assert numbers(served) == [0, 1, 2]

    run(main())


@on_both_loops
def test_who_floods_holds_up_nobody_else(run: Run) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address) as flooder, raw(served.address) as other:
            flooder.write(numbered(20_000))
            await served.until(lambda: served.clients.ready, receive=False)
            other.write(PING)
            await served.until(lambda: len(served.clients.ready) == 2, receive=False)
            assert served.receive(256)
            assert len(served.events) == 256
            [event] = [event for event in served.events if isinstance(event, Ping)]
            assert served.events.index(event) <= 2 * native.TURN_MESSAGES
            await served.until(lambda: len(served.events) == 20_001)
            assert numbers(served) == list(range(20_000))

    run(main())


@pytest.mark.parametrize("limit", [1, 7, 64, 100])
def test_no_more_is_received_than_was_asked_for(run: Run, limit: int) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address) as peer, raw(served.address) as other:
            peer.write(numbered(300))
            other.write(numbered(300))
            await served.until(
                lambda: sum(len(each.inbox) for each in served.clients.connections.values()) == 600, receive=False
            )
            while found := served.receive(limit):
                assert len(found) <= limit
            assert sorted(numbers(served)) == sorted([*range(300)] * 2)

    run(main())


@on_both_loops
def test_who_gets_errors_is_left_alone_for_a_while_and_loses_nothing(run: Run) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address) as flooder, raw(served.address) as other:
            flooder.write(numbered(2_000))
            await served.until(lambda: served.clients.ready, receive=False)
            [first] = {event.peer for event in served.receive(200) if isinstance(event, Malformed)}
            began_s = served.clients.loop.time()
            assert served.send(*[refusal(first)] * 200) == []
            assert served.receive() == []
            other.write(PING)
            await served.until(lambda: any(isinstance(event, Ping) for event in served.events))
            assert len(served.events) == 201 or served.clients.loop.time() >= began_s + 200 * native.HOLD_S
            await served.until(lambda: len(served.events) == 2_001)
            assert served.clients.loop.time() >= began_s + 200 * native.HOLD_S
            assert numbers(served) == list(range(2_000))

    run(main())


def test_answers_that_were_dropped_weigh_too(run: Run) -> None:
    async def main() -> None:
        async with shell(holds=limits(100_000)) as served, raw(served.address, SO_RCVBUF=4_096) as deaf:
            deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]
            deaf.write(PING)
            peer = await served.peer()
            while not served.send(reply(peer, bytes(65_536))):
                pass
            assert not served.connection().held
            began_s = served.clients.loop.time()
            assert len(served.send(*[reply(peer, bytes(65_536))] * 200)) == 200
            assert served.connection().held
            await served.until(lambda: not served.connection().held)
            assert served.clients.loop.time() >= began_s + 200 * native.HOLD_S

    run(main())


def test_pongs_weigh_as_much_as_errors(run: Run) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address) as peer:
            peer.write(PING)
            name = await served.peer()
            pong = Pong(name, False, PongHeader("1", [], 1, 1, 1))
            assert served.send(*[pong] * native.HOLD_FROM) == []
            assert served.connection().held
            await served.until(lambda: not served.connection().held)

    run(main())


@on_both_loops
def test_a_few_errors_and_answers_of_other_kinds_hold_nobody(run: Run) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address) as peer:
            peer.write(PING)
            name = await served.peer()
            few = [refusal(name)] * (native.HOLD_FROM - 1)
            assert served.send(*few, *[reply(name)] * 1_000) == []
            assert not served.connection().held

    run(main())


@on_both_loops
def test_that_one_is_gone_who_is_left_alone_is_told_after_its_last_message(run: Run) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address) as peer:
            peer.write(PING)
            name = await served.peer()
            connection = served.connection()
            assert served.send(*[refusal(name)] * 200) == []
            peer.write(PING)
            peer.writer.transport.abort()
            await served.until(lambda: connection.lost, receive=False)
            await served.until(lambda: gone(served.events) == [name])
            assert served.receive() == []
            assert not served.clients.ready

    run(main())


def test_pings_that_are_never_read_are_not_answered_without_end(run: Run) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address, SO_RCVBUF=4_096) as peer:
            peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
            connection = served.connection()
            pings = ping(bytes(16)) * 20_000
            for _ in range(20):
                peer.write(pings)
                await asyncio.wait_for(peer.writer.drain(), WAIT_S)
            assert connection.backed_up
            assert connection.transport.get_write_buffer_size() < 2 * READ_BYTES
            assert len(connection.reader.replies) == 0

    run(main())


# --- peers that do not read ---


@on_both_loops
def test_what_a_peer_leaves_unread_is_bounded_and_others_are_served(run: Run) -> None:
    async def main() -> None:
        allowed = 1 << 20
        async with shell(holds=limits(allowed)) as served, raw(served.address, SO_RCVBUF=8_192) as deaf:
            deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]
            deaf.write(PING)
            peer = await served.peer()
            body, sent = bytes(65_536), 0
            while not (problems := served.send(reply(peer, body))):
                sent += len(body)
                assert sent < allowed + KERNEL_BYTES
            assert undelivered(problems, full=True)
            assert served.connection(peer).unread() <= allowed + 2 * len(body)
            assert served.send(refusal(peer)) == []  # the end of the message still fits
            with dealing(served.address) as other:
                await other.send_multipart([b"CAR1.PING", EMPTY])
                [event] = await served.next()
                assert isinstance(event, Ping)
                assert served.send(reply(event.peer, b"x"), reply(peer, body), reply(event.peer, b"y")) != []
                assert [(await frames_of(other))[-1] for _ in range(2)] == [b"x", b"y"]
            deaf.reader._transport.resume_reading()  # type: ignore[attr-defined]
            await deaf.exactly(sent)
            await served.until(lambda: served.connection(peer).unread() == 0)
            assert served.send(reply(peer, body)) == []

    run(main())


def test_ends_of_messages_do_not_pile_up_without_end_either(run: Run) -> None:
    async def main() -> None:
        async with shell(holds=limits(100_000)) as served, raw(served.address, SO_RCVBUF=4_096) as deaf:
            deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]
            deaf.write(PING)
            peer = await served.peer()
            ends = [refusal(peer) for _ in range(1_000)]
            for _ in range(1_000):
                if problems := served.send(*ends):
                    break
            assert undelivered(problems[:1], full=True)
            assert served.connection(peer).unread() < 100_000 + PARKED_RESERVE_BYTES + 1_000

    run(main())


# --- silence, and handshakes that do not end ---


@on_both_loops
def test_a_silent_peer_is_asked_and_then_closed_and_told_of_if_it_ever_spoke(run: Run) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address) as mute, raw(served.address) as spoke:
            spoke.write(PING)
            name = await served.peer()
            await served.until(lambda: len(served.clients.connections) == 2)
            now = served.clients.loop.time()
            served.clients.look(now + native.PING_EVERY_S - 0.5, paused=False)
            served.clients.look(now + native.PING_EVERY_S + 0.5, paused=False)
            for peer in (mute, spoke):
                assert await peer.exactly(len(zmtp.PING)) == zmtp.PING
            served.clients.look(now + native.TIMEOUT_S + 0.5, paused=False)
            assert await mute.closed()
            assert await spoke.closed()
            assert gone(await served.next()) == [name]
            assert served.receive() == []

    run(main())


@on_both_loops
def test_the_sweep_runs_by_itself(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "PING_EVERY_S", 0.02)
    monkeypatch.setattr(native, "TIMEOUT_S", 0.1)

    async def main() -> None:
        async with shell() as served, raw(served.address) as silent, raw(served.address, b"\xff") as half:
            assert (await silent.rest()).startswith(zmtp.PING)
            assert await half.rest() == zmtp.GREETING

    run(main())


def test_a_pause_of_our_own_is_nobody_elses_silence(run: Run) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address) as peer, raw(served.address, b"\xff"):
            await served.until(lambda: len(served.clients.connections) == 2)
            now = served.clients.loop.time()
            served.clients.look(now + 1_000, paused=True)
            assert len(served.clients.connections) == 2
            peer.write(PING)
            await served.peer()

    run(main())


def test_who_is_not_read_because_he_floods_is_not_silent(run: Run) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address) as peer:
            peer.write(numbered(100_000))
            await served.until(lambda: served.clients.ready and not served.connection().reading, receive=False)
            served.clients.look(served.clients.loop.time() + 1_000, paused=False)
            await served.until(lambda: len(served.events) == 100_000)
            assert gone(served.events) == []

    run(main())


@on_both_loops
@pytest.mark.parametrize(
    "opening",
    [b"", b"\xff", greeting()[:63], greeting(), greeting() + command(b"READY", metadata(Socket_Type=b"R"))[:9]],
)
def test_half_a_handshake_is_closed_in_the_end_though_bytes_still_come(run: Run, opening: bytes) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address, opening) as half:
            await served.until(lambda: served.clients.connections)
            connection = served.connection()
            now = served.clients.loop.time()
            connection.heard_at = now + native.TIMEOUT_S  # it dribbles
            served.clients.look(now + native.TIMEOUT_S - 0.5, paused=False)
            assert not connection.transport.is_closing()
            served.clients.look(now + native.TIMEOUT_S + 0.5, paused=False)
            with contextlib.suppress(ConnectionError):
                assert (zmtp.GREETING + zmtp.ready()).startswith(await half.rest())
            assert served.receive() == []

    run(main())


@pytest.mark.parametrize("opening", [b"\x01\x00\x01\x00", greeting(0, major=1), greeting(mechanism=b"CURVE"), b"GET /"])
def test_what_is_no_zmtp_3_peer_is_closed_at_once(run: Run, opening: bytes) -> None:
    async def main() -> None:
        with capture_logs() as logs:
            async with shell() as served, raw(served.address, opening) as other:
                with contextlib.suppress(ConnectionError):
                    assert await other.rest() in {b"", zmtp.GREETING}
                assert served.receive() == []
        assert [line["log_level"] for line in logs] == ["debug"]

    run(main())


def test_a_peer_of_zmtp_3_0_is_neither_pinged_nor_closed_for_silence(run: Run) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address, handshake(minor=0)) as peer:
            now = served.clients.loop.time()
            for later_s in (native.PING_EVERY_S + 1, native.TIMEOUT_S + 1, 1_000):
                served.clients.look(now + later_s, paused=False)
            peer.write(PING)
            name = await served.peer()
            assert served.send(reply(name, b"x")) == []
            assert (await peer.exactly(len(frame(b"CAR1.REPLY"))))[2:] == b"CAR1.REPLY"  # and no PING before it

    run(main())


# --- no descriptors left ---


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = [int(each.name) for each in Path("/proc/self/fd").iterdir()]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(used) + 2, hard))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@on_both_loops
def test_without_descriptors_nobody_is_accepted_and_with_them_everybody_is(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "ACCEPT_AGAIN_S", 0.05)

    async def main() -> None:
        async with shell() as served, raw(served.address) as early:
            port = int(served.address.rpartition(":")[2])
            with contextlib.ExitStack() as stack:
                late = [stack.enter_context(socket.socket()) for _ in range(3)]
                with capture_logs() as logs, no_descriptors():
                    for link in late:
                        link.setblocking(False)
                        await asyncio.get_running_loop().sock_connect(link, ("127.0.0.1", port))
                    early.write(PING)
                    await served.peer()  # who is there is served
                    await served.until(lambda: len(logs) >= 2)
                    assert len(served.clients.connections) == 1
                assert {(line["log_level"], line["reason"]) for line in logs} == {("warning", "Too many open files")}
                await served.until(lambda: len(served.clients.connections) == 4)
                for link in late:
                    assert await asyncio.get_running_loop().sock_recv(link, HEAD_BYTES) == zmtp.GREETING

    run(main())
