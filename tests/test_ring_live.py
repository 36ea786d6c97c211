"""Daemons in a ring as processes: messages to backends of others, a way that breaks, who leaves, what people may ask."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from command_line import process
from conftest import Daemon, DaemonFactory, Room, free_port
from tools import BOTH_ENGINES

from router_daemon.cli import asking

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from fault_proxy import Proxy

WAIT_S: Final = 15.0
BACKENDS: Final = 6
ROUTING: Final = {"mode": "single", "unsaid_idempotent": "retries"}
OpenRoom = Callable[[Daemon], Room]


class Ring:
    """Daemons linked as told, each with the places where it is asked; `over`: what stands in the place of a link.

    A link counts as lost when it is closed; for its silence alone after five seconds, since the machine may be busy.
    """

    def __init__(
        self,
        start: DaemonFactory,
        engine: str,
        *links: str,
        at: Mapping[str, str] | None = None,
        over: Mapping[str, str] | None = None,
        lost_after: int = 100,
    ) -> None:
        names = sorted({name for link in links for name in link}, reverse=True)  # who is dialled is there first
        ports: set[int] = set()
        while len(ports) < 4 * len(names):
            ports.add(free_port())  # all before the first is taken, so that none is drawn twice
        self.places = {name: f"tcp://127.0.0.1:{ports.pop()}" for name in names} | dict(at or {})
        dialled = {link: (over or {}).get(link, self.places[link[1]]) for link in links}
        self.admins = {name: f"127.0.0.1:{ports.pop()}" for name in names}
        self.daemons = {
            name: start(
                front=f"tcp://127.0.0.1:{ports.pop()}",
                back=f"tcp://127.0.0.1:{ports.pop()}",
                ring={
                    "name": name,
                    "listen": self.places[name],
                    "neighbours": [place for link, place in dialled.items() if link[0] == name],
                    "echo_ms": 50,
                    "lost_after": lost_after,
                },
                admin={"bind": self.admins[name]},
                transport={"engine": engine},
                routing=ROUTING,
            )
            for name in names
        }

    def ask(self, name: str, path: str = "/ring") -> dict[str, Any]:
        return asking.fetch(self.admins[name], path)

    def until(self, name: str, done: Callable[[dict[str, Any]], bool], path: str = "/ring") -> dict[str, Any]:
        """Return what a daemon answers once that is so."""
        deadline_s = time.monotonic() + WAIT_S
        while not done(answer := self.ask(name, path)):
            assert time.monotonic() < deadline_s, answer
        return answer

    def knows(self, name: str, *backends: str) -> None:
        """Wait until a daemon has just these backends up, its own and those of others."""
        self.until(name, lambda found: up_in(found) == set(backends), "/backends")

    def __getitem__(self, name: str) -> Daemon:
        return self.daemons[name]


def up_in(found: dict[str, Any]) -> set[str]:
    return {row["name"] for row in found["backends"] if row["state"].startswith("up")}


def reached(answer: dict[str, Any]) -> dict[str, int]:
    """Return the daemons that can be reached, with the links that it takes."""
    return {row["name"]: row["hops"] for row in answer["daemons"] if row["reachable"]}


def links_of(answer: dict[str, Any]) -> dict[str, list[str]]:
    """Return who is linked with whom, as each of the others has told."""
    return {row["name"]: row["links"] for row in answer["daemons"]}


@BOTH_ENGINES
def test_a_message_finds_a_backend_of_another_daemon_and_its_answer_the_way_back(
    daemon: DaemonFactory, open_room: OpenRoom, engine: str
) -> None:
    ring = Ring(daemon, engine, "ab", "bc")
    near, far = open_room(ring["a"]), open_room(ring["c"])
    backend = far.backend(name="worker", capabilities=["c"])
    ring.knows("a", "c/worker")
    client = near.client()
    client.send("c", b"one", b"", bytes(70_000), id=7, priority=3)
    delivery = backend.delivery(WAIT_S, capability="c", priority=3, head=1, heads=1)
    assert delivery.body == [b"one", b"", bytes(70_000)]
    backend.ack(delivery, b"done", b"")
    [reply] = client.until_last(7, WAIT_S)
    assert (reply.verb, reply.header["backend"], reply.body) == ("REPLY", "c/worker", [b"done", b""])
    assert reply.header["message"] == delivery.header["message"]
    assert reached(ring.ask("a")) == {"b": 1, "c": 2}
    assert ring.ask("b")["counts"]["relayed"] >= 2


def test_who_drains_is_left_alone_and_who_has_left_is_not_there(daemon: DaemonFactory, open_room: OpenRoom) -> None:
    ring = Ring(daemon, "native", "ab", "bc", "ac")
    near, far = open_room(ring["a"]), open_room(ring["c"])
    backend = far.backend(name="worker", capabilities=["c"])
    ring.knows("a", "c/worker")
    client = near.client()
    client.send("c", b"first", id=1)
    delivery = backend.delivery(WAIT_S)
    ring["c"].signal(signal.SIGTERM)
    ring.knows("a")
    client.send("c", b"second", id=2)
    client.error("no_backend", 2, timeout_s=WAIT_S)
    backend.ack(delivery, b"still done")  # what was open goes on
    assert client.until_last(1, WAIT_S)[-1].body == [b"still done"]
    assert ring["c"].wait() == 0
    ring.until("a", lambda answer: reached(answer) == {"b": 1})


def test_a_message_under_way_is_answered_though_a_daemon_between_is_killed(
    daemon: DaemonFactory, open_room: OpenRoom
) -> None:
    ring = Ring(daemon, "native", "ab", "bd", "ac", "ce", "de")
    near, far = open_room(ring["a"]), open_room(ring["d"])
    backends = [far.backend(name=f"worker{number}", capabilities=["c"]) for number in range(BACKENDS)]
    ring.knows("a", *(f"d/{backend.name}" for backend in backends))
    other_way = {"c": ["a", "e"], "e": ["c", "d"], "d": ["b", "e"]}
    ring.until("a", lambda answer: other_way.items() <= links_of(answer).items())
    client = near.client()
    sent = {client.send("c", b"%d" % number) for number in range(BACKENDS)}
    deliveries = [(backend, backend.delivery(WAIT_S)) for backend in backends]
    ring["b"].process.kill()
    ring["b"].process.wait()
    daemon.daemons.remove(ring["b"])
    for backend, delivery in deliveries:
        backend.ack(delivery, *delivery.body)
    assert {client.expect("REPLY", timeout_s=WAIT_S).header["id"] for _ in sent} == sent
    ring.until("a", lambda answer: reached(answer) == {"c": 1, "d": 3, "e": 2})


@contextlib.contextmanager
def proxied(target: str) -> Iterator[tuple[str, Callable[[str], None]]]:
    """Stand before an address; return where, and how to have it fail (see `fault_proxy`)."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    proxy = Proxy(free_port(), int(target.rpartition(":")[2]))

    def run(coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result(WAIT_S)

    async def changed(fault: str) -> None:
        proxy.set(fault)

    thread.start()
    try:
        run(proxy.start())
        yield f"tcp://127.0.0.1:{proxy.port}", lambda fault: run(changed(fault))
    finally:
        run(proxy.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def way_to(answer: dict[str, Any], name: str) -> list[str]:
    return next((row["path"] for row in answer["daemons"] if row["name"] == name), [])


@BOTH_ENGINES
def test_what_falls_into_a_black_hole_between_two_daemons_goes_the_other_way(
    daemon: DaemonFactory, open_room: OpenRoom, engine: str
) -> None:
    place = f"tcp://127.0.0.1:{free_port()}"
    with proxied(place) as (hole, fail):
        ring = Ring(daemon, engine, "ab", "ac", "bc", at={"b": place}, over={"ab": hole}, lost_after=10)
        near, far = open_room(ring["a"]), open_room(ring["b"])
        backend = far.backend(name="worker", capabilities=["c"])
        ring.knows("a", "b/worker")
        ring.until("a", lambda answer: links_of(answer) == {"b": ["a", "c"], "c": ["a", "b"]})
        ring.until("a", lambda answer: way_to(answer, "b") == ["b"])
        client = near.client()
        fail("hole")
        client.send("c", b"into the hole", id=1)
        delivery = backend.delivery(WAIT_S)
        assert delivery.body == [b"into the hole"]
        backend.ack(delivery, b"and out")
        assert client.until_last(1, WAIT_S)[-1].body == [b"and out"]
        ring.until("a", lambda answer: way_to(answer, "b") == ["c", "b"])
        fail("pass")
        ring.until("a", lambda answer: way_to(answer, "b") == ["b"])
        client.send("c", b"again", id=2)
        backend.ack(backend.delivery(WAIT_S), b"fine")
        assert client.until_last(2, WAIT_S)[-1].body == [b"fine"]


def test_another_ring_is_not_let_in(daemon: DaemonFactory) -> None:
    place = f"tcp://127.0.0.1:{free_port()}"
    daemon(ring={"name": "a", "ring": "blue", "listen": place})
    admin = f"127.0.0.1:{free_port()}"
    listen = f"tcp://127.0.0.1:{free_port()}"
    daemon(ring={"name": "b", "ring": "red", "listen": listen, "neighbours": [place]}, admin={"bind": admin})
    deadline_s = time.monotonic() + WAIT_S
    while True:
        [link] = asking.fetch(admin, "/ring")["links"] or [{}]
        if link.get("state") == "refused":
            break
        assert time.monotonic() < deadline_s, link
    assert link["why"] == "wrong_ring"


def test_people_may_ask_a_ring(daemon: DaemonFactory) -> None:
    ring = Ring(daemon, "native", "ab")
    ring.until("a", lambda answer: reached(answer) == {"b": 1})
    told = ring.ask("a")
    assert (told["name"], told["ring"], told["draining"]) == ("a", "ring", False)
    [link] = told["links"]
    assert (link["neighbour"], link["state"], link["dialled"]) == ("b", "up", True)
    assert 0 < link["rtt_ms"] < 1000
    text = process("ring", "--admin", ring.admins["a"])
    assert text.returncode == 0
    assert "a of ring ring: 1 of 1 other daemons can be reached" in text.stdout
    assert json.loads(process("ring", "--json", "--admin", ring.admins["b"]).stdout)["name"] == "b"


def test_without_a_ring_there_is_none(daemon: DaemonFactory) -> None:
    admin = f"127.0.0.1:{free_port()}"
    daemon(admin={"bind": admin})
    assert asking.fetch(admin, "/ring") == {}
    assert process("ring", "--admin", admin).stdout == "no ring\n"
