"""The blocking client: the same methods, from any thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sdk_fakes import FakeDaemon

from router_daemon import errors
from router_daemon.client import Reply, SyncClient


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
            pieces = client.stream("chat")
            with pytest.raises(StopIteration) as stopped:
                next(pieces)
            reply: Reply = stopped.value.value
            return reply

        replying = pool.submit(final)
        daemon.reply(daemon.expect("SEND"), b"all of it")
        assert replying.result().data == b"all of it"


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
