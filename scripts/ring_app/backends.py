"""All backends of the run, in one process: each works for its time, fails its share.

Rules:
- `python -m ring_app.backends --parent PID FILE`: a JSON list of name, address, service_ms, reliability, embedding.
- The event loop waits by select(2), which knows microseconds: epoll's millisecond would round a service of half of one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import selectors
import signal
from pathlib import Path
from typing import Any

from demo_app.guard import die_with

from ring_app.plan import CAPABILITY
from router_daemon.backend import Backend, Delivery


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    die_with(options.parent)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(_serve(json.loads(options.file.read_text())))


async def _serve(specs: list[dict[str, Any]]) -> None:
    tasks = [asyncio.ensure_future(_backend(spec).run()) for spec in specs]
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _backend(spec: dict[str, Any]) -> Backend:
    rng = random.Random(spec["name"])
    backend = Backend(spec["name"], spec["address"], embedding=spec["embedding"])
    service_s, reliability = spec["service_ms"] / 1000.0, spec["reliability"]

    @backend.handler(CAPABILITY)
    async def work(delivery: Delivery) -> bytes:
        await asyncio.sleep(service_s)
        if rng.random() > reliability:
            raise RuntimeError("failing a share, as told")
        return delivery.data

    return backend


if __name__ == "__main__":
    main()
