"""What is done to the daemon and its peers, one act at a time, under load; each says in words what it did.

An act ends with everything as it was before: processes run, proxies pass, extra clients are gone. What it left open
ends by its time to live. Acts that end the daemon's life are named in `ENDS_DAEMON`.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import msgpack
import zmq
from fault_proxy import Proxy

from chaos_app.books import Window
from chaos_app.clients import ChaosClient
from chaos_app.daemon_side import Page, scrape
from chaos_app.load import quantile
from chaos_app.scene import Scene
from chaos_app.stage import StageError

Act = Callable[[Scene], Awaitable[str]]
HEARTBEAT_S: Final = 0.5
BULK_BYTES: Final = 65_536
UNREAD_GOAL: Final = 20
FLOOD_STARTS_S: Final = 5.0
SMALL: Final = {"RCVHWM": 1, "RCVBUF": 8_192}


# --- backends ---


async def kill_backend(scene: Scene) -> str:
    """Kill -9 a backend and start it again."""
    spec = scene.pick()
    child = scene.stage.backends[spec.name]
    child.signal(signal.SIGKILL)
    await scene.stage.ended(child)
    await asyncio.sleep(scene.rng.uniform(0.2, 1.5))
    await scene.stage.start_backend(spec)
    await scene.all_back()
    return f"{spec.name} (pid {child.pid}) killed, started again"


async def restart_backend(scene: Scene) -> str:
    """Have a backend drain and end, as on an upgrade, and start it again."""
    spec = scene.pick(direct=True)
    child = scene.stage.backends[spec.name]
    child.signal(signal.SIGTERM)
    code = await scene.stage.ended(child)
    if code != 0:
        raise StageError(f"{spec.name} ended with exit code {code} after SIGTERM\n{child.last_words()}")
    await scene.stage.start_backend(spec)
    await scene.all_back()
    return f"{spec.name} drained and ended, started again"


async def stop_backend(scene: Scene) -> str:
    """SIGSTOP a backend for less or more than three heartbeats, then SIGCONT."""
    spec = scene.pick()
    child = scene.stage.backends[spec.name]
    seconds = scene.rng.uniform(0.5, 6 * HEARTBEAT_S) * scene.pace
    child.signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    child.signal(signal.SIGCONT)
    await scene.all_back()
    return f"{spec.name} stopped for {seconds:.1f} s"


async def deaf_backend(scene: Scene) -> str:
    """Register a backend that sends heartbeats and never reads, and send what would go to it."""
    socket = scene.context.socket(zmq.DEALER)
    for name, value in (SMALL | {"LINGER": 0}).items():
        socket.setsockopt(getattr(zmq, name), value)
    socket.connect(scene.stage.backend)
    header = {"name": "deaf", "capabilities": ["bulk"], "slots": 64}
    socket.send_multipart([b"CAR1.REGISTER", msgpack.packb(header)])
    client = scene.client()
    for number in range(64):
        client.send("bulk", time.monotonic(), ttl_ms=1500, size=BULK_BYTES)
        if number % 8 == 7:
            socket.send_multipart([b"CAR1.HEARTBEAT", b"\x80"])
            await asyncio.sleep(HEARTBEAT_S / 4)
    for _ in range(6):
        socket.send_multipart([b"CAR1.HEARTBEAT", b"\x80"])
        await asyncio.sleep(HEARTBEAT_S / 2)
    await _until_empty(client, 5.0)
    socket.close(linger=0)
    scene.leave(client, "lost")
    return "a backend of 64 slots took 64 KiB messages and never read them"


# --- the daemon ---


async def stop_daemon(scene: Scene) -> str:
    """SIGSTOP the daemon for a while, then SIGCONT."""
    seconds = scene.rng.uniform(0.3, 1.2) * scene.pace
    began_s = time.monotonic()
    scene.daemon.signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    scene.daemon.signal(signal.SIGCONT)
    scene.books.paused(began_s, time.monotonic())
    await scene.all_back()
    return f"the daemon stood still for {seconds:.1f} s"


async def kill_daemon(scene: Scene) -> str:
    """Kill -9 the daemon and start another one at the same addresses."""
    page = await scrape(scene.stage.admin)
    old = scene.daemon
    stopped_s = time.monotonic()
    old.signal(signal.SIGKILL)
    await scene.stage.ended(old)
    lost = await scene.next_life(page, stopped_s)
    return f"pid {old.pid} killed with {lost} messages of direct clients open, back after {_since(stopped_s)}"


async def drain_daemon(scene: Scene) -> str:
    """SIGTERM the daemon under load, look at its end, start another one."""
    old, stopped_s = scene.daemon, time.monotonic()
    page = await scrape(scene.stage.admin)
    old.signal(signal.SIGTERM)
    ending = asyncio.create_task(scene.stage.ended(old))
    while not ending.done():
        page = await scrape(scene.stage.admin) or page
        await asyncio.sleep(0.02)
    code = await ending
    if code != 0:
        raise StageError(f"the daemon ended with exit code {code} after SIGTERM\n{old.last_words()}")
    drained = _since(stopped_s)
    await asyncio.sleep(0.3)  # what it wrote last is on its way to the clients
    lost = await scene.next_life(page, stopped_s)
    return f"drained in {drained}, exit code 0, {lost} SENDs came too late for it; back after {_since(stopped_s)}"


# --- the wire ---


async def delay(scene: Scene) -> str:
    """Delay everything through one proxy."""
    return await _fault(scene, "delay", f"by {(ms := scene.rng.randrange(20, 300))} ms", delay_s=ms / 1000.0)


async def drip(scene: Scene) -> str:
    """Let only a few bytes at a time through one proxy."""
    count = scene.rng.choice((16, 64, 256))
    return await _fault(scene, "drip", f"of {count} bytes every 10 ms", bytes_per_tick=count)


async def hole(scene: Scene) -> str:
    """Swallow everything at one proxy, connections stay open."""
    return await _fault(scene, "hole", "that swallowed")


async def cut(scene: Scene) -> str:
    """Reset every connection through one proxy, and whatever comes."""
    return await _fault(scene, "cut", "with resets")


async def _fault(scene: Scene, fault: str, detail: str, *, delay_s: float = 0.0, bytes_per_tick: int = 64) -> str:
    which = scene.rng.choice(("clients", "backends"))
    proxy: Proxy = scene.front if which == "clients" else scene.back
    seconds = scene.rng.uniform(1.0, 4.0) * scene.pace
    scene.broken = scene.broken or which == "clients"
    swallowed, resets = proxy.swallowed_bytes, proxy.resets
    proxy.set(fault, delay_s=delay_s, bytes_per_tick=bytes_per_tick)
    await asyncio.sleep(seconds)
    proxy.set("pass")
    await scene.all_back()
    done = f"{proxy.swallowed_bytes - swallowed} bytes swallowed, {proxy.resets - resets} connections reset"
    return f"{fault} {detail} before the {which}, {seconds:.1f} s; {done}"


# --- clients ---


async def leaving_client(scene: Scene) -> str:
    """Close a client that has messages open."""
    client = scene.client()
    for _ in range(50):
        client.send("leaving", time.monotonic())
    await scene.fence(client)
    left = scene.leave(client, "client gone")
    return f"a client left with {left} of 50 messages open"


async def deaf_client(scene: Scene) -> str:
    """A client asks for large answers and does not read them; in the end it does."""
    client = scene.client(**SMALL)
    scene.load.others.remove(client)
    lost = before = await scene.lost_unread()
    sent = 0
    while lost < before + UNREAD_GOAL and sent < 400:
        for _ in range(20):
            sent += client.send("bulk", time.monotonic(), ttl_ms=5000, answer_size=BULK_BYTES) is not None
        await asyncio.sleep(0.25)
        lost = await scene.lost_unread()
    await asyncio.sleep(1.0)
    scene.load.others.append(client)
    await _until_quiet(client)
    await scene.fence(client)
    missing = scene.leave(client, "lost")
    return f"a client left {sent} answers of 64 KiB unread; {missing} of them were dropped"


async def flood_messages(scene: Scene) -> str:
    """One client sends small messages as fast as it can."""
    return await _flood(scene, "flood of messages", "flood", 100, deaf=False)


async def flood_bytes(scene: Scene) -> str:
    """One client sends large messages as fast as it can."""
    return await _flood(scene, "flood of bytes", "flood", BULK_BYTES, deaf=False)


async def flood_unread(scene: Scene) -> str:
    """One client sends as fast as it can and reads nothing."""
    return await _flood(scene, "flood, nothing read", "deaf", 100, deaf=True)


async def _flood(scene: Scene, name: str, capability: str, size: int, *, deaf: bool) -> str:
    before = await scene.page()
    flooding = asyncio.create_task(scene.stage.flood(capability, scene.flood_seconds, size, deaf=deaf))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FLOOD_STARTS_S):
            while (await scene.page()).outcomes(capability) == before.outcomes(capability):  # noqa: ASYNC110 - a poll
                await asyncio.sleep(0.05)
    scene.books.window = window = Window()
    await asyncio.sleep(max(0.5, scene.flood_seconds - 0.5))
    scene.books.window = None
    report = await flooding
    scene.books.adopt(report)
    await _until_answered(scene, window)
    after = await scene.page()
    told = (
        f"{report['sent'] / report['seconds']:.0f}/s sent, refused by quota: "
        f"{_words(_since_then(before, after, 'router_refusals_total'))}; answers dropped: "
        f"{_words(_since_then(before, after, 'router_lost_answers_total'))}; "
        f"the others {window.answered} of {window.offered} in time ({window.goodput:.1%}), "
        f"p50 {quantile(window.latencies_s, 0.5) * 1e3:.0f} ms, p99 {quantile(window.latencies_s, 0.99) * 1e3:.0f} ms"
    )
    scene.floods.append((name, window, told))
    return told


def _since_then(before: Page, after: Page, counter: str) -> Counter[str]:
    return after.by(counter, "cause") - before.by(counter, "cause")


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {cause}" for cause, count in sorted(counts.items())) or "none"


async def _until_empty(client: ChaosClient, timeout_s: float) -> None:
    until_s = time.monotonic() + timeout_s
    while client.open and time.monotonic() < until_s:  # noqa: ASYNC110 - others fill and empty it
        await asyncio.sleep(0.05)


async def _until_answered(scene: Scene, window: Window) -> None:
    """Wait for the last answers to the messages of a window; their time to live bounds it."""
    while any(entry.window is window for entry in scene.books.open.values()):  # noqa: ASYNC110 - `load` ends them
        await asyncio.sleep(0.05)


async def _until_quiet(client: ChaosClient) -> None:
    """Wait until a client that reads again has got nothing for a while."""
    last, quiet = -1, 0
    while quiet < 10:
        count = len(client.open)
        quiet = quiet + 1 if count == last else 0
        last = count
        await asyncio.sleep(0.05)


def _since(began_s: float) -> str:
    return f"{time.monotonic() - began_s:.1f} s"


ACTS: Final[dict[str, Act]] = {
    act.__name__: act
    for act in (
        kill_backend,
        restart_backend,
        stop_backend,
        deaf_backend,
        stop_daemon,
        kill_daemon,
        drain_daemon,
        delay,
        drip,
        hole,
        cut,
        leaving_client,
        deaf_client,
        flood_messages,
        flood_bytes,
        flood_unread,
    )
}
ENDS_DAEMON: Final = frozenset({"kill_daemon", "drain_daemon"})
