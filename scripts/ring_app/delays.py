"""All links' delays, in one process: a proxy before each daemon that is dialled over a slow link.

`python -m ring_app.delays --parent PID --delay-ms X PORT:TARGET...`
"""

from __future__ import annotations

import argparse
import asyncio
import selectors
import signal

from demo_app.guard import die_with
from fault_proxy import Proxy


def main() -> None:
    """Relay until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--delay-ms", type=float, required=True)
    parser.add_argument("links", nargs="+")
    options = parser.parse_args()
    die_with(options.parent)
    pairs = [tuple(map(int, link.split(":"))) for link in options.links]
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(_relay(pairs, options.delay_ms / 1000.0))


async def _relay(pairs: list[tuple[int, ...]], delay_s: float) -> None:
    proxies = [Proxy(port, target) for port, target in pairs]
    for proxy in proxies:
        proxy.set("delay", delay_s=delay_s)
        await proxy.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    for proxy in proxies:
        await proxy.stop()


if __name__ == "__main__":
    main()
