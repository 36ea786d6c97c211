"""The native transport and real libzmq peers: round trips, order, heartbeats, addresses, both event loops."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path
from typing import Any, Final

import msgpack  # type: ignore[import-untyped, unused-ignore]
import pytest
import zmq
from native_kit import (
    ANY,
    EMPTY,
    Run,
    Shell,
    dealing,
    frames_of,
    gone,
    limits,
    on_both_loops,
    raw,
    reply,
    run_on,
    shell,
)
from zmtp_bytes import message, ping, pong

from router_daemon import native
from router_daemon.core.actions import HeartbeatReply
from router_daemon.core.events import EmptyHeader, Heartbeat, Ping, Send
from router_daemon.errors import StartError

SIZES: Final = (0, 1, 255, 256, 65_535, 65_536, 2 << 20)
SEED: Final = 20


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Run:
    return run_on(getattr(request, "param", "asyncio"))


def send_frames(ident: int, *body: bytes) -> list[bytes]:
    return [b"CAR1.SEND", msgpack.packb({"id": ident, "capability": "c"}), *body]


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


# --- round trips ---


async def round_trip(served: Shell, peer: Any, *body: bytes, delimited: bool = False) -> bytes:
    """Send the body there and back; return the peer's name."""
    await peer.send_multipart(send_frames(7, *body))
    [event] = await served.next()
    assert isinstance(event, Send)
    assert (event.header.id, event.delimited, list(event.body)) == (7, delimited, list(body))
    assert served.send(reply(event.peer, *event.body, ident=7, delimited=delimited)) == []
    command, header, *returned = await frames_of(peer)
    assert (command, msgpack.unpackb(header)["id"], returned) == (b"CAR1.REPLY", 7, list(body))
    return event.peer


@on_both_loops
@pytest.mark.parametrize("address", [ANY, "ipc", "ipc://@router-daemon-test", pytest.param("v6", marks=needs_ipv6)])
def test_bodies_come_and_go_byte_for_byte(run: Run, address: str, tmp_path: Path) -> None:
    async def main() -> None:
        place = {"ipc": f"ipc://{tmp_path}/front", "v6": "tcp://[::1]:0"}.get(address, address)
        chance = random.Random(SEED)
        async with shell(place) as served:
            with dealing(served.address, IPV6=1) as peer:
                await round_trip(served, peer)
                for size in SIZES:
                    await round_trip(served, peer, chance.randbytes(size))
                await round_trip(served, peer, *[chance.randbytes(chance.choice(SIZES[:6])) for _ in range(64)])
                await round_trip(served, peer, *[b""] * 64)

    run(main())


def test_a_req_gets_its_delimiter_back(run: Run) -> None:
    async def main() -> None:
        async with shell() as served:
            with dealing(served.address, zmq.REQ) as peer:
                for body in ([], [b"x"], [b"", bytes(70_000), b""]):
                    await round_trip(served, peer, *body, delimited=True)

    run(main())


@on_both_loops
def test_order_is_kept_both_ways_under_many_messages(run: Run) -> None:
    async def main() -> None:
        async with shell(holds=limits(64 << 20)) as served:
            with dealing(served.address, SNDHWM=0, RCVHWM=0) as peer:
                for number in range(5_000):
                    await peer.send_multipart(send_frames(number, bytes(number % 700)))
                events = await served.next(5_000)
                assert [event.header.id for event in events if isinstance(event, Send)] == list(range(5_000))
                assert served.send(*(reply(e.peer, *e.body, ident=e.header.id) for e in events)) == []  # type: ignore[union-attr]
                for number in range(5_000):
                    _, header, body = await frames_of(peer)
                    assert (msgpack.unpackb(header)["id"], len(body)) == (number, number % 700)

    run(main())


def test_the_two_sides_and_their_peers_are_kept_apart(run: Run) -> None:
    async def main() -> None:
        async with shell() as served:
            with dealing(served.bound[0][0]) as client, dealing(served.bound[1][0]) as backend:
                await client.send_multipart([b"CAR1.PING", EMPTY])
                await backend.send_multipart([b"CAR1.HEARTBEAT", EMPTY])
                events = await served.next(2)
                assert {type(event) for event in events} == {Ping, Heartbeat}
                peer = next(event.peer for event in events if isinstance(event, Heartbeat))
                assert served.send(HeartbeatReply(peer, False, EmptyHeader())) == []
                assert await frames_of(backend) == [b"CAR1.HEARTBEAT", EMPTY]
                assert not await client.poll(50)

    run(main())


@on_both_loops
def test_small_messages_are_not_held_back(run: Run) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address):
            await served.until(lambda: served.clients.connections)
            link = served.connection().transport.get_extra_info("socket")
            assert link.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    run(main())


# --- heartbeats, as libzmq has them ---


@on_both_loops
def test_a_peer_with_heartbeats_of_its_own_stays_connected(run: Run) -> None:
    async def main() -> None:
        async with shell() as served:
            with dealing(served.address, HEARTBEAT_IVL=80, HEARTBEAT_TIMEOUT=250, HEARTBEAT_TTL=500) as peer:
                with peer.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
                    await peer.send_multipart([b"CAR1.PING", EMPTY])
                    await served.peer()
                    assert not await monitor.poll(700)
                    peer.disable_monitor()
                await round_trip(served, peer, b"still here")
                assert gone(served.events) == []

    run(main())


@on_both_loops
def test_an_idle_peer_of_libzmq_answers_our_pings_and_stays(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "PING_EVERY_S", 0.05)
    monkeypatch.setattr(native, "TIMEOUT_S", 0.3)

    async def main() -> None:
        async with shell() as served:
            with dealing(served.address) as peer, peer.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
                await peer.send_multipart([b"CAR1.PING", EMPTY])
                await served.peer()
                assert not await monitor.poll(800)
                peer.disable_monitor()
                assert served.receive() == []

    run(main())


def test_a_peer_that_only_sends_is_not_cut_after_one_ping(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "PING_EVERY_S", 0.05)
    monkeypatch.setattr(native, "TIMEOUT_S", 0.2)

    async def main() -> None:
        async with shell() as served:
            with dealing(served.address) as peer, peer.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
                await peer.send_multipart([b"CAR1.PING", EMPTY])
                await served.peer()
                assert not await monitor.poll(150)  # silent: it is asked for a sign of life
                for _ in range(20):  # then it talks, and hears nothing of us for long
                    await peer.send_multipart([b"CAR1.PING", EMPTY])
                    assert not await monitor.poll(30)
                peer.disable_monitor()
                await served.until(lambda: len(served.events) == 20)
                assert gone(served.events) == []

    run(main())


@on_both_loops
def test_a_ping_is_answered_with_its_context(run: Run) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address) as peer:
            peer.write(ping(b"ctx", 50) + ping())
            assert await peer.exactly(len(pong(b"ctx") + pong())) == pong(b"ctx") + pong()

    run(main())


# --- addresses ---


@on_both_loops
def test_a_port_in_use_is_one_clear_line(run: Run) -> None:
    async def main() -> None:
        async with shell() as served:
            with pytest.raises(StartError) as caught:
                async with shell(served.address):
                    pass
            assert str(caught.value) == f"cannot listen on {served.address}: Address already in use"

    run(main())


@pytest.mark.parametrize(
    "address",
    ["tcp://no.such.host.invalid:1", "tcp://a..b:1", "tcp://203.0.113.1:0", "ipc:///no/such/directory/x", "ipc:///"],
)
def test_an_address_that_is_none_is_one_clear_line(run: Run, address: str) -> None:
    async def main() -> None:
        with pytest.raises(StartError) as caught:
            async with shell([ANY, address]):
                pass
        text = str(caught.value)
        assert text.startswith(f"cannot listen on {address}: ")
        assert "\n" not in text
        assert len(text) < 200

    run(main())


@pytest.mark.parametrize("address", ["tcp://*:0", "tcp://127.0.0.1:*", "tcp://localhost:0"])
def test_any_interface_and_any_port_are_what_libzmq_means_by_them(run: Run, address: str) -> None:
    async def main() -> None:
        async with shell([address, ANY]) as served:
            host, _, port = served.address.rpartition(":")
            assert (host, int(port) > 0) == (address.rpartition(":")[0], True)
            for place in (f"tcp://127.0.0.1:{port}", served.bound[0][1]):
                with dealing(place) as peer:
                    name = await round_trip(served, peer, b"x")
                assert gone(await served.next()) == [name]

    run(main())


@needs_ipv6
def test_every_ipv6_interface_is_every_ipv4_one_too(run: Run) -> None:
    async def main() -> None:
        async with shell("tcp://[::]:0") as served:
            port = served.address.rpartition(":")[2]
            for place in (f"tcp://127.0.0.1:{port}", f"tcp://[::1]:{port}"):
                with dealing(place, IPV6=1) as peer:
                    name = await round_trip(served, peer, b"x")
                assert gone(await served.next()) == [name]

    run(main())


@on_both_loops
def test_the_path_of_a_dead_process_is_used_again_and_that_of_a_living_one_is_not(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "front"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def main() -> None:
        async with shell(f"ipc://{path}") as served:
            with pytest.raises(StartError, match="Address already in use"):
                async with shell(f"ipc://{path}"):
                    pass
            with dealing(served.address) as peer:
                await round_trip(served, peer, b"the first keeps its path")
        assert not path.exists()

    run(main())


def test_a_file_that_is_no_socket_is_left_alone(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")

    async def main() -> None:
        with pytest.raises(StartError, match="no socket"):
            async with shell(f"ipc://{path}"):
                pass

    run(main())
    assert path.read_text() == "data"


@on_both_loops
def test_several_addresses_serve_one_side(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with shell([ANY, f"ipc://{tmp_path}/front", ANY]) as served:
            names = []
            for address in served.bound[0]:
                with dealing(address) as peer:
                    names.append(await round_trip(served, peer, b"x"))
                assert gone(await served.next()) == names[-1:]
            assert len(set(names)) == 3

    run(main())


def test_messages_of_a_stream_with_many_in_one_segment(run: Run) -> None:
    async def main() -> None:
        async with shell() as served, raw(served.address) as peer:
            peer.write(b"".join(message(*send_frames(number, b"x" * number)) for number in range(300)))
            events = await served.next(300)
            assert [len(event.body[0]) for event in events if isinstance(event, Send)] == list(range(300))

    run(main())
