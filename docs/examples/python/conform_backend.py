"""A backend for `router-daemon conform`: everything that it asks a backend for, on the Python SDK.

router-daemon conform --backend tcp://127.0.0.1:0 --run "python docs/examples/python/conform_backend.py {address}"
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

from router_daemon.backend import Backend, Delivery, Reject


def main(address: str) -> None:
    """Serve until SIGTERM, which drains."""
    backend = Backend("conform-python", address, slots=2, prefetch=1)

    @backend.handler("conform.echo")
    async def echo(delivery: Delivery) -> list[bytes]:
        return delivery.body

    @backend.handler("conform.stream")
    async def stream(delivery: Delivery) -> AsyncIterator[bytes]:
        for frame in delivery.body:
            yield frame

    @backend.handler("conform.slow")
    async def slow(delivery: Delivery) -> list[bytes]:
        await asyncio.sleep(int(delivery.data) / 1000)  # a CANCEL ends it here
        return delivery.body

    @backend.handler("conform.fail")
    async def fail(delivery: Delivery) -> bytes:
        raise RuntimeError(f"cannot do {delivery.message}")

    @backend.handler("conform.reject")
    async def reject(delivery: Delivery) -> bytes:
        raise Reject(f"{delivery.message} is not what I work on")

    backend.serve()


if __name__ == "__main__":
    main(sys.argv[1])
