"""What the daemon's loop is promised of a transport, on real sockets: both engines, raw ZeroMQ peers."""

from __future__ import annotations

import random
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import zmq
from conftest import free_port
from transport_kit import (
    MIB,
    SEND,
    Bench,
    Context,
    Kind,
    bodies,
    deliver,
    ended,
    piece,
    reply,
    run,
    socket_limits,
)

from router_daemon.core.actions import Piece
from router_daemon.core.events import Cancel, Gone, Heartbeat, Malformed, Ping, Send, Undelivered
from router_daemon.core.types import Side
from router_daemon.errors import StartError
from router_daemon.native import NativeTransport
from router_daemon.transport import ZmqTransport
from router_daemon.wire import Limits

KINDS: list[Kind] = [ZmqTransport, NativeTransport]
both = pytest.mark.parametrize("kind", KINDS, ids=["libzmq", "native"])


@both
def test_messages_in_and_answers_out_on_either_side(kind: Kind, zmq_context: Context) -> None:
    async def test(bench: Bench) -> None:
        client, backend = bench.peer(), bench.peer(Side.BACKEND)
        client.send_multipart([b"CAR1.SEND", SEND, b"one", b"", b"three"])
        backend.send_multipart([b"CAR1.HEARTBEAT", b"\x80"])
        await bench.until(lambda: len(bench.received) == 2)
        [sent] = [event for event in bench.received if isinstance(event, Send)]
        [beat] = [event for event in bench.received if isinstance(event, Heartbeat)]
        assert [bytes(frame) for frame in sent.body] == [b"one", b"", b"three"]
        assert bench.send(reply(sent.peer, b"done", b""), deliver(beat.peer, 7, *sent.body)) == []
        [answer] = await bench.read(client)
        assert (answer[0], answer[2:]) == (b"CAR1.REPLY", [b"done", b""])
        [delivery] = await bench.read(backend)
        assert (delivery[0], delivery[2:]) == (b"CAR1.DELIVER", [b"one", b"", b"three"])

    run(kind, zmq_context, test)


@both
def test_a_req_peer_gets_its_delimiter_back(kind: Kind, zmq_context: Context) -> None:
    async def test(bench: Bench) -> None:
        client = bench.peer(kind=zmq.REQ)
        client.send_multipart([b"CAR1.SEND", SEND, b"x"])
        await bench.until(lambda: bench.received)
        [sent] = bench.received
        assert isinstance(sent, Send)
        assert sent.delimited
        bench.send(reply(sent.peer, b"done", delimited=True))
        [answer] = await bench.read(client)
        assert answer[2:] == [b"done"]

    run(kind, zmq_context, test)


@both
@pytest.mark.parametrize("size", [65_536, 65_537, 262_144, MIB])
def test_big_frames_pass_byte_for_byte(kind: Kind, zmq_context: Context, size: int) -> None:
    seed = random.randrange(2**32)
    body = [random.Random(seed).randbytes(size), b"", b"x" * 255, b"y" * 256, random.Random(seed + 1).randbytes(9_000)]

    async def test(bench: Bench) -> None:
        client, backend = bench.peer(), bench.peer(Side.BACKEND)
        worker = await bench.meet(backend, Side.BACKEND)
        client.send_multipart([b"CAR1.SEND", SEND, *body])
        await bench.until(lambda: isinstance(bench.received[-1], Send))
        sent = bench.received[-1]
        assert isinstance(sent, Send)
        assert [bytes(frame) for frame in sent.body] == body, f"seed {seed}"
        assert bench.send(deliver(worker, 1, *sent.body), reply(sent.peer, *sent.body)) == []
        assert bodies(await bench.read(backend)) == [body], f"seed {seed}"
        assert bodies(await bench.read(client)) == [body], f"seed {seed}"

    run(kind, zmq_context, test)


@both
def test_a_batch_is_bounded_and_nothing_is_lost(kind: Kind, zmq_context: Context) -> None:
    async def test(bench: Bench) -> None:
        client = bench.peer(SNDHWM=0)
        for number in range(300):
            client.send_multipart([b"CAR1.CANCEL", b"\x81\xa2id\xcd" + number.to_bytes(2, "big")])
        await bench.until(lambda: bench.received)
        while len(bench.received) < 300:
            batch = bench.look(50)
            assert len(batch) <= 50
            if not batch:
                await bench.turn()
        assert [event.header.id for event in bench.received if isinstance(event, Cancel)] == list(range(300))

    run(kind, zmq_context, test)


@both
def test_a_peer_that_closes_is_gone_after_all_that_it_said(kind: Kind, zmq_context: Context) -> None:
    async def test(bench: Bench) -> None:
        peers = [(side, bench.peer(side)) for side in (Side.CLIENT, Side.BACKEND)]
        names = [await bench.meet(peer, side) for side, peer in peers]
        other = await bench.meet(bench.peer())
        bench.received.clear()
        for _, peer in peers:
            for _ in range(5):
                peer.send_multipart([b"CAR1.NOTHING", b"\x80"])
            bench.close(peer)
        await bench.until(lambda: len(bench.gone()) == 2)
        for (side, _), name in zip(peers, names, strict=True):
            news = [event for event in bench.received if isinstance(event, Malformed | Gone) and event.side is side]
            heard = [event for event in news if event.peer == name]
            assert [type(event) for event in heard] == [Malformed] * 5 + [Gone]
            assert heard[-1] == Gone(side, name)
        assert bench.send(reply(other)) == []

    run(kind, zmq_context, test)


@both
def test_a_peer_that_never_said_anything_is_nobody(kind: Kind, zmq_context: Context) -> None:
    async def test(bench: Bench) -> None:
        silent = bench.peer()
        speaker = bench.peer()
        await bench.meet(speaker)
        bench.close(silent)
        bench.close(speaker)
        await bench.until(bench.gone)
        assert len(bench.gone()) == 1

    run(kind, zmq_context, test)


@both
def test_a_connection_that_takes_the_place_of_another_is_never_mistaken_for_it(
    kind: Kind, zmq_context: Context
) -> None:
    """The system gives a new connection the descriptor of one just closed."""

    async def test(bench: Bench) -> None:
        staying, left = [], []
        for _ in range(20):
            passing = bench.peer()
            left.append(await bench.meet(passing))
            bench.close(passing)
            staying.append(bench.peer())
            staying[-1].send_multipart([b"CAR1.PING", b"\x80"])
        await bench.until(lambda: len(bench.gone()) == 20)
        await bench.until(lambda: sum(isinstance(event, Ping) for event in bench.received) == 20)
        assert sorted(bench.gone()) == sorted(left)
        alive = [event.peer for event in bench.received if isinstance(event, Ping)]
        assert bench.send(*(reply(name) for name in alive)) == []
        for peer in staying:
            await bench.read(peer)
        assert len(bench.gone()) == 20

    run(kind, zmq_context, test)


@both
def test_a_peer_that_speaks_once_and_closes_at_once_is_gone_too(kind: Kind, zmq_context: Context) -> None:
    """Its end may be known before what it said is read."""

    async def test(bench: Bench) -> None:
        for _ in range(20):
            passing = bench.peer()
            passing.send_multipart([b"CAR1.PING", b"\x80"])
            bench.close(passing)
        await bench.until_closed()
        await bench.until(lambda: len(bench.gone()) == 20)
        assert sum(isinstance(event, Ping) for event in bench.received) == 20

    run(kind, zmq_context, test)


@both
def test_who_is_not_there_gets_nothing_and_the_broker_is_told(kind: Kind, zmq_context: Context) -> None:
    async def test(bench: Bench) -> None:
        action = reply(b"\0nobody", b"x")
        assert bench.send(action)[0] == Undelivered(action, full=False)
        delivery = deliver(b"\0nobody", 1)
        assert bench.send(delivery)[0] == Undelivered(delivery, full=False)

    run(kind, zmq_context, test)


@both
def test_what_a_slow_reader_leaves_waits_and_comes_in_order(kind: Kind, zmq_context: Context) -> None:
    async def test(bench: Bench) -> None:
        slow, quick = bench.peer(RCVHWM=1, RCVBUF=8_192), bench.peer()
        name, other = await bench.meet(slow), await bench.meet(quick)
        body = bytes(100_000)
        for number in range(200):
            assert bench.send(piece(name, body, seq=number)) == []
        if kind is ZmqTransport:
            assert bench.transport.parked > 0
        assert bench.send(reply(other, b"not behind it")) == []
        assert bodies(await bench.read(quick)) == [[b"not behind it"]]
        assert bench.send(reply(name, b"last")) == []
        got = await bench.read(slow, 201)
        assert [message[0] for message in got] == [b"CAR1.PART"] * 200 + [b"CAR1.REPLY"]
        assert [message[1][-1] for message in got[:128]] == list(range(128))
        assert all(message[2] == body for message in got[:200])
        assert bench.transport.parked == 0

    run(kind, zmq_context, test)


@both
def test_what_is_left_unread_is_bounded_and_the_end_of_a_message_still_gets_through(
    kind: Kind, zmq_context: Context
) -> None:
    async def test(bench: Bench) -> None:
        slow = bench.peer(RCVHWM=1, RCVBUF=8_192)
        name = await bench.meet(slow)
        body, accepted = bytes(50_000), 0
        for number in range(2_000):
            refused = bench.send(piece(name, body, seq=number % 128))
            if refused:
                break
            accepted += 1
        [problem] = refused
        assert isinstance(problem, Undelivered)
        assert problem.full
        assert isinstance(problem.action, Piece)
        assert bench.send(ended(name)) == []
        got = await bench.read(slow, accepted + 1)
        assert got[-1][0] == b"CAR1.ERROR"
        assert len(got) == accepted + 1

    run(kind, zmq_context, test, limits=socket_limits(unread_bytes=500_000))


@both
def test_a_slow_reader_that_leaves_gives_back_what_waited_and_is_gone(kind: Kind, zmq_context: Context) -> None:
    async def test(bench: Bench) -> None:
        slow = bench.peer(Side.BACKEND, RCVHWM=1, RCVBUF=8_192)
        name = await bench.meet(slow, Side.BACKEND)
        for number in range(200):
            bench.send(deliver(name, number, bytes(100_000)))
        bench.problems.clear()
        bench.close(slow, linger_ms=0)
        await bench.until(bench.gone)
        assert set(bench.gone()) == {name}
        assert bench.transport.parked == 0
        if kind is ZmqTransport:
            back = [event.action for event in [*bench.received, *bench.problems] if isinstance(event, Undelivered)]
            numbers: list[Any] = [action.header.id for action in back]
            assert numbers == list(range(numbers[0], 200))

    run(kind, zmq_context, test)


@both
def test_odd_numbers_of_frames_disturb_nobody(kind: Kind, zmq_context: Context) -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)

    async def test(bench: Bench) -> None:
        odd, good = bench.peer(SNDHWM=0), bench.peer(SNDHWM=0)
        odd_name, good_name = await bench.meet(odd), await bench.meet(good)
        bench.received.clear()
        for number in range(100):
            count = rng.choice([1, 1, 2, 3, 4, 70, 200])
            odd.send_multipart([rng.choice([b"", b"x", b"CAR1.SEND"]) for _ in range(count)])
            good.send_multipart([b"CAR1.SEND", SEND, number.to_bytes(2, "big"), b"y" * (number % 7) * 3_000])
        await bench.until(lambda: len(bench.received) == 200)
        sent = [event for event in bench.received if isinstance(event, Send) and event.peer == good_name]
        assert [int.from_bytes(event.body[0], "big") for event in sent] == list(range(100)), f"seed {seed}"
        strange = [event for event in bench.received if getattr(event, "peer", None) == odd_name]
        assert len(strange) == 100
        assert all(isinstance(event, Malformed) for event in strange), f"seed {seed}"

    run(kind, zmq_context, test)


@both
def test_too_many_frames_and_too_many_bytes_are_too_large_and_the_peer_stays(kind: Kind, zmq_context: Context) -> None:
    async def test(bench: Bench) -> None:
        client = bench.peer()
        client.send_multipart([b"CAR1.SEND", SEND, *[b"x"] * 5])
        client.send_multipart([b"CAR1.SEND", SEND, *[b"x"] * 5_000])
        client.send_multipart([b"CAR1.SEND", SEND, b"x" * 60_000, b"x" * 60_000])
        client.send_multipart([b"CAR1.SEND", SEND, *[b"x"] * 4])
        await bench.until(lambda: len(bench.received) == 4)
        codes = [event.code if isinstance(event, Malformed) else "" for event in bench.received]
        assert codes == ["too_large", "too_large", "too_large", ""]
        assert [event.id for event in bench.received if isinstance(event, Malformed)] == [1, 1, 1]

    limits = socket_limits(Limits(body_frames=4, header_bytes=1_000, message_bytes=100_000))
    run(kind, zmq_context, test, limits=limits)


@both
def test_ipc_frees_the_path_of_a_process_that_is_gone(kind: Kind, zmq_context: Context, tmp_path: Path) -> None:
    paths = [tmp_path / "clients.sock", tmp_path / "backends.sock"]
    for path in paths:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        assert path.is_socket()

    async def test(bench: Bench) -> None:
        client = bench.peer()
        name = await bench.meet(client)
        bench.send(reply(name, b"done"))
        assert bodies(await bench.read(client)) == [[b"done"]]

    run(kind, zmq_context, test, addresses=[f"ipc://{path}" for path in paths])


@both
def test_ipc_refuses_the_path_of_a_living_process(kind: Kind, zmq_context: Context, tmp_path: Path) -> None:
    path = tmp_path / "living.sock"

    async def never(bench: Bench) -> None:
        raise AssertionError("it has started")

    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen(8)
        with pytest.raises(StartError, match="Address already in use"):
            run(kind, zmq_context, never, addresses=[f"ipc://{path}", "tcp://127.0.0.1:0"])
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))


@both
def test_ipc_does_not_remove_what_is_no_socket(kind: Kind, zmq_context: Context, tmp_path: Path) -> None:
    path = tmp_path / "precious.txt"
    path.write_text("do not lose me")

    async def never(bench: Bench) -> None:
        raise AssertionError("it has started")

    with pytest.raises(StartError, match=r"precious\.txt"):
        run(kind, zmq_context, never, addresses=["tcp://127.0.0.1:0", f"ipc://{path}"])
    assert path.read_text() == "do not lose me"


@both
def test_an_address_in_use_or_impossible_is_one_clear_error(kind: Kind, zmq_context: Context) -> None:
    async def never(bench: Bench) -> None:
        raise AssertionError("it has started")

    with socket.create_server(("127.0.0.1", free_port())) as holder:
        address = f"tcp://127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(StartError, match=f"cannot listen on {address}"):
            run(kind, zmq_context, never, addresses=[address, "tcp://127.0.0.1:0"])
    with pytest.raises(StartError, match=re.escape("cannot listen on tcp://192.0.2.1:20001")):
        run(kind, zmq_context, never, addresses=["tcp://192.0.2.1:20001", "tcp://127.0.0.1:0"])
    with pytest.raises(StartError, match="cannot listen on ipc:///nonexistent"):
        run(kind, zmq_context, never, addresses=["ipc:///nonexistent/place.sock", "tcp://127.0.0.1:0"])


@both
def test_what_was_sent_before_the_end_still_arrives(kind: Kind, zmq_context: Context) -> None:
    async def test(bench: Bench) -> None:
        client = bench.peer()
        name = await bench.meet(client)
        body = random.randbytes(300_000)
        bench.send(*(reply(name, body) for _ in range(5)))
        await bench.transport.close(2.0)
        got: list[list[bytes]] = []
        while len(got) < 5 and client.poll(5_000):
            got.append(client.recv_multipart())
        assert bodies(got) == [[body]] * 5

    async def twice(bench: Bench) -> None:
        await test(bench)
        bench.transport = kind(socket_limits(), socket_limits())  # so that the bench has one to close

    run(kind, zmq_context, twice)
