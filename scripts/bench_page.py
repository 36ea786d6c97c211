"""What an open page costs the daemon: its CPU time, with nobody, one and ten who listen to /events.

    python scripts/bench_page.py [--backends 12] [--seconds 20] [--listeners 0,1,10]

Starts a daemon on loopback and registers backends for six capabilities, each backend for two of them; no message is
sent, so that all that is measured is the page: the history that is always kept, and the snapshots of who listens. The
listeners read everything. CPU time is the process's own, as Linux's scheduler counts it in nanoseconds, so that other
work on the machine does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import aiohttp
from demo_app.processes import free_ports

from router_daemon import Backend

CAPABILITIES: Final = 6
START_S: Final = 60.0
CONFIG: Final = """\
[frontend]
bind = "tcp://127.0.0.1:{}"
[backend]
bind = "tcp://127.0.0.1:{}"
heartbeat_ms = 60000
[admin]
bind = "127.0.0.1:{}"
[log]
level = "error"
"""


async def listen(session: aiohttp.ClientSession, url: str, read: list[int]) -> None:
    """Read a stream until cancelled, and count its bytes."""
    async with session.get(f"{url}/events") as response:
        async for part in response.content.iter_any():
            read[0] += len(part)


def cpu_s(pid: int) -> float:
    """Return for how long the threads of a process have run, in seconds (proc(5), schedstat)."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


async def measure(pid: int, url: str, listeners: int, seconds: float) -> tuple[float, float]:
    """Return milliseconds of CPU time a second, and kilobytes a second to each listener."""
    read = [0]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        tasks = [asyncio.create_task(listen(session, url, read)) for _ in range(listeners)]
        await asyncio.sleep(2.0)
        began_s, before, bytes_before = time.monotonic(), cpu_s(pid), read[0]
        await asyncio.sleep(seconds)
        lasted_s = time.monotonic() - began_s
        cpu_ms = (cpu_s(pid) - before) * 1000.0
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return cpu_ms / lasted_s, (read[0] - bytes_before) / 1000.0 / lasted_s / max(1, listeners)


async def await_backends(url: str, count: int) -> None:
    """Return once so many are registered."""
    deadline_s = time.monotonic() + START_S
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline_s:
            try:
                async with session.get(f"{url}/snapshot") as response:
                    if (await response.json())["backends_there"] == count:
                        return
            except aiohttp.ClientConnectionError:
                pass  # it has just been started
            await asyncio.sleep(0.1)
    raise SystemExit("the backends did not register in time")


async def run(options: argparse.Namespace, directory: Path) -> None:
    """Start everything, measure, and end it."""
    ports = free_ports(3)
    config = directory / "router-daemon.toml"
    config.write_text(CONFIG.format(*ports))
    command = [sys.executable, "-m", "router_daemon", "run", "--config", str(config)]
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL)
    backends = []
    try:
        for number in range(options.backends):
            backend = Backend(f"backend-{number:04}", f"tcp://127.0.0.1:{ports[1]}")
            for offset in range(2):
                backend.handler(f"capability-{(number + offset) % CAPABILITIES}")(_nothing)
            backends.append(asyncio.create_task(backend.run()))
        url = f"http://127.0.0.1:{ports[2]}"
        await await_backends(url, options.backends)
        print(f"{options.backends} backends, {CAPABILITIES} capabilities, {options.seconds:g} s each")
        for listeners in map(int, options.listeners.split(",")):
            cpu_ms, kilobytes = await measure(process.pid, url, listeners, options.seconds)
            print(
                f"{listeners:3} listeners: {cpu_ms:6.2f} ms of CPU a second, {kilobytes:6.1f} kB/s to each", flush=True
            )
    finally:
        for task in backends:
            task.cancel()
        await asyncio.gather(*backends, return_exceptions=True)
        process.terminate()
        await process.wait()


async def _nothing(_: object) -> bytes:
    return b""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--listeners", default="0,1,10")
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(parser.parse_args(), Path(directory)))


if __name__ == "__main__":
    main()
