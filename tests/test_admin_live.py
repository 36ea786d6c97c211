"""The stream of /events and the page's files: what is sent, to how many, and what happens to who does not read."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from aiohttp import web
from conftest import free_port

from router_daemon.admin import live
from router_daemon.admin.assets import HERE, TYPES, wants_page
from router_daemon.admin.live import HISTORY_EVERY_S, HISTORY_S, Live
from router_daemon.admin.server import AdminServer
from router_daemon.core.chronicle import Chronicle
from router_daemon.testing import BrokerFixture

BROWSER: Final = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
WAIT_S: Final = 10.0


class Stage:
    """A broker, its stream on a socket, and a session that asks."""

    def __init__(self, session: aiohttp.ClientSession, live_: Live, broker: BrokerFixture, port: int) -> None:
        self.session = session
        self.live = live_
        self.broker = broker
        self.port = port

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def until(self, so: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not so():
            assert time.monotonic() < deadline_s, "it did not become so"
            await asyncio.sleep(0.001)


def play(script: Callable[[Stage], Awaitable[None]], *, every_s: float = 0.005, history_every_s: float = 60.0) -> None:
    """Run a stream for a broker with one backend, and the script against it."""

    async def run() -> None:
        broker = BrokerFixture(mode="single")
        broker.register("a", "c")
        stream = Live(
            broker.broker, Chronicle(), time.monotonic, time.time, every_s=every_s, history_every_s=history_every_s
        )
        app = web.Application()
        stream.add_to(app.router)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        stream.start()
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S)) as session:
                await script(Stage(session, stream, broker, port))
        finally:
            await stream.stop()
            await runner.cleanup()

    asyncio.run(run())


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    """Yield (event, data) of a stream, comments as ("", text)."""
    name = ""
    async for line in response.content:
        text = line.decode().rstrip("\n")
        if text.startswith(":"):
            yield "", text
        elif text.startswith("event: "):
            name = text.removeprefix("event: ")
        elif text.startswith("data: "):
            yield name, json.loads(text.removeprefix("data: "))


async def times(response: aiohttp.ClientResponse, count: int) -> list[float]:
    """Return when the next so many snapshots were made."""
    found = []
    async for name, data in events(response):
        if name == "snapshot":
            found.append(data["point"]["at"])
        if len(found) == count:
            break
    return found


def test_who_comes_gets_the_history_and_then_a_snapshot_every_time() -> None:
    async def script(stage: Stage) -> None:
        stage.live.keep()
        async with stage.session.get(stage.url("/events")) as response:
            assert response.headers["Content-Type"] == "text/event-stream"
            assert response.headers["Cache-Control"] == "no-store"
            found = []
            async for name, data in events(response):
                found.append((name, data))
                if len(found) == 4:
                    break
        assert [name for name, _ in found] == ["history", "snapshot", "snapshot", "snapshot"]
        told, *snapshots = [data for _, data in found]
        assert told["points"]
        assert {each["boot"] for each in snapshots} == {told["boot"]}
        assert snapshots[0]["backends"][0]["name"] == "a"
        times = [each["point"]["at"] for each in snapshots]
        assert times == sorted(set(times))

    play(script)


def test_nothing_is_made_while_nobody_listens_and_once_for_all_who_do() -> None:
    async def script(stage: Stage) -> None:
        assert stage.live.snapshots == 0
        async with stage.session.get(stage.url("/events")) as one, stage.session.get(stage.url("/events")) as two:
            [first, *_] = await times(two, 3)
            seen = 0.0
            while seen < first:
                [seen] = await times(one, 1)
            assert seen == first, "the same snapshots"
            assert stage.live.listeners == 2
        await stage.until(lambda: stage.live.listeners == 0)
        task = stage.live._tasks["stream"]
        await stage.until(task.done)
        made = stage.live.snapshots
        assert made >= 3
        async with stage.session.get(stage.url("/snapshot")) as response:
            assert (await response.json())["backends_there"] == 1
        assert stage.live.snapshots == made

    play(script)


def test_more_than_so_many_may_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_LISTENERS", 1)

    async def script(stage: Stage) -> None:
        async with stage.session.get(stage.url("/events")) as first:
            assert first.status == 200
            async with stage.session.get(stage.url("/events")) as second:
                assert second.status == 503
                assert second.headers["Retry-After"] == "10"
                assert (await second.json())["error"] == "1 listen already, and no more may"
        await stage.until(lambda: stage.live.listeners == 0)
        async with stage.session.get(stage.url("/events")) as third:
            assert third.status == 200

    play(script)


def test_who_does_not_read_is_dropped_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(stage: Stage) -> None:
        monkeypatch.setattr(stage.live, "_show", lambda *_: "x" * 2_000_000)
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(deaf, ("127.0.0.1", stage.port))
            await loop.sock_sendall(deaf, b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            async with stage.session.get(stage.url("/events")) as reader:
                while not stage.live.dropped:
                    await reader.content.readany()
                assert stage.live.dropped == 1
                await stage.until(lambda: stage.live.listeners == 1)
                after = stage.live.snapshots
                while stage.live.snapshots < after + 3:
                    assert await reader.content.readany()

    play(script, every_s=0.02)


def test_a_silent_stream_has_a_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BEAT_S", 0.005)

    async def script(stage: Stage) -> None:
        async with stage.session.get(stage.url("/events")) as response:
            async for name, data in events(response):
                if name == "":
                    assert data == ": still here"
                    return

    play(script, every_s=60.0)


def test_a_fault_in_a_snapshot_does_not_end_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(stage: Stage) -> None:
        whole, faults = stage.live._show, list[str]()

        def now_and_then(*arguments: Any) -> dict[str, Any]:
            if not faults:
                faults.append("once")
                raise ArithmeticError("a fault of ours")
            return whole(*arguments)

        monkeypatch.setattr(stage.live, "_show", now_and_then)
        async with stage.session.get(stage.url("/events")) as response:
            async for name, _ in events(response):
                if name == "snapshot":
                    break
        assert faults

    play(script)


def test_the_stream_ends_with_the_server() -> None:
    async def script(stage: Stage) -> None:
        async with stage.session.get(stage.url("/events")) as response:
            await stage.until(lambda: stage.live.snapshots > 0)
            await stage.live.stop()
            await response.content.read()
        assert stage.live.listeners == 0

    play(script)


def test_the_history_is_of_ten_minutes_and_no_more() -> None:
    async def script(stage: Stage) -> None:
        for _ in range(int(HISTORY_S / HISTORY_EVERY_S) + 20):
            stage.live.keep()
        async with stage.session.get(stage.url("/events")) as response:
            async for name, data in events(response):
                assert name == "history"
                assert len(data["points"]) == HISTORY_S / HISTORY_EVERY_S == 120
                break

    play(script)


def test_the_history_is_kept_by_itself() -> None:
    async def script(stage: Stage) -> None:
        await stage.until(lambda: len(stage.live._history) > 2)
        assert stage.live.snapshots == 0

    play(script, history_every_s=0.001)


# --- the page's files ---


def serve(script: Callable[[aiohttp.ClientSession, str], Awaitable[None]]) -> None:
    async def run() -> None:
        bind = f"127.0.0.1:{free_port()}"
        server = AdminServer(BrokerFixture().broker, bind)
        await server.start()
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S)) as session:
                await script(session, f"http://{bind}")
        finally:
            await server.stop()

    asyncio.run(run())


def test_browsers_get_the_page_and_everybody_else_json() -> None:
    async def script(session: aiohttp.ClientSession, base: str) -> None:
        for accept, kind in (
            (BROWSER, "text/html"),
            ("application/json", "application/json"),
            ("*/*", "application/json"),
        ):
            async with session.get(f"{base}/", headers={"Accept": accept}) as response:
                assert (response.status, response.content_type) == (200, kind)
        async with session.get(f"{base}/", headers={"Accept": "application/json"}) as response:
            assert (await response.json())["stream"] == "/events"

    serve(script)
    assert wants_page("TEXT/HTML")
    assert not wants_page("application/json")


def test_every_file_comes_with_a_strict_policy_and_only_when_it_has_changed() -> None:
    async def script(session: aiohttp.ClientSession, base: str) -> None:
        files = [path.relative_to(HERE).as_posix() for path in HERE.rglob("*") if path.suffix in TYPES]
        assert {"index.html", "main.js", "vendor/uPlot.esm.js"} <= set(files)
        for path in files:
            async with session.get(f"{base}/page/{path}") as response:
                assert response.status == 200
                assert await response.read() == (HERE / path).read_bytes()
                policy = response.headers["Content-Security-Policy"]
                tag = response.headers["ETag"]
                assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert not re.search(r"https?:|\*|data:", policy), "this server and nobody else"
            async with session.get(f"{base}/page/{path}", headers={"If-None-Match": tag}) as response:
                assert response.status == 304

    serve(script)


@pytest.mark.parametrize(
    "path", ["page/../server.py", "page/%2e%2e/server.py", "page/vendor/../../gate.py", "page/none.js"]
)
def test_only_files_of_the_page_are_served(path: str) -> None:
    async def script(session: aiohttp.ClientSession, base: str) -> None:
        host, _, port = base.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))  # a client would tidy the path up
        writer.write(f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert answer.startswith(b"HTTP/1.1 404 ")

    serve(script)


OWN: Final = sorted(path for path in HERE.iterdir() if path.suffix in (".js", ".html", ".css"))
FORBIDDEN: Final = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|https?://(?!www\.w3\.org/2000/svg)"
)


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_text_becomes_markup_and_nothing_is_asked_of_others(path: Path) -> None:
    text = path.read_text()
    assert FORBIDDEN.search(text) is None
    assert len(text.splitlines()) < 400
    if path.suffix == ".html":
        assert "<style" not in text
        assert " style=" not in text
        assert not re.search(r"<script(?![^>]* src=)", text)
        assert not re.search(r"\son\w+=", text)


def test_what_is_vendored_is_what_was_published() -> None:
    """Hashes of npm's uplot 1.6.32 (`npm pack uplot@1.6.32`)."""
    published = {
        "uPlot.esm.js": "5dd9b3281aa64b461b42d9945f6adb2649d346502b12281a9ae0d46599a80eba",
        "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
        "uPlot-LICENSE.txt": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    }
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (HERE / "vendor").iterdir()}
    assert found == published
