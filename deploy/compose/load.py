"""Asks for something now and then, so that there is something to see: `load.py ADDRESS PER_SECOND CAPABILITY...`.

One message at a time is open for each capability; how each ends is the daemon's affair, and its metrics say so.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys

from router_daemon import Client
from router_daemon.errors import RouterError


async def ask(client: Client, capability: str, per_s: float) -> None:
    """Send messages of one capability until cancelled, so many a second on average, at random times."""
    while True:
        await asyncio.sleep(random.expovariate(per_s))
        try:
            await client.send(capability, b"the quick brown fox", priority=random.randint(1, 4), ttl_ms=2_000)
        except RouterError as error:
            print(f"{capability}: {error}", file=sys.stderr, flush=True)


async def main(address: str, per_s: float, capabilities: list[str]) -> None:
    """Ask for every capability until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Client(address) as client:
        tasks = [asyncio.create_task(ask(client, capability, per_s)) for capability in capabilities]
        await stop.wait()
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
