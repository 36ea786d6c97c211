"""A client for `router-daemon conform`: it asks for tasks, does them with the Python SDK, and says what came of each.

router-daemon conform --client tcp://127.0.0.1:0 --run "python docs/examples/python/conform_client.py {address}"
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack

from router_daemon.client import Client
from router_daemon.errors import ConnectionLost, RouterError

Frames = list[bytes]


class Tasks:
    """What there is to do, a method each; each returns what came of it, a word first."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def send(self, keys: dict[str, Any], body: Frames) -> Frames:
        return [b"reply", *(await self.client.send(body=body, **keys)).body]

    async def stream(self, keys: dict[str, Any], body: Frames) -> Frames:
        stream = self.client.stream(body=body, **keys)
        pieces = [frame async for piece in stream for frame in piece]
        return [b"reply", *pieces, *stream.reply.body]

    async def pair(self, keys: dict[str, Any], _: Frames) -> Frames:
        replies = await asyncio.gather(*(self.client.send(body=body, **keys) for body in (b"1", b"2")))
        return [b"pair", *(reply.data for reply in replies)]

    async def post(self, keys: dict[str, Any], body: Frames) -> Frames:
        await self.client.post(body=body, **keys)
        return [b"accept"]

    async def all(self, keys: dict[str, Any], body: Frames) -> Frames:
        answers = await self.client.send_all(body=body, **keys)
        return [b"all", *(each.code.encode() if isinstance(each, RouterError) else b"reply" for each in answers)]

    async def retry(self, keys: dict[str, Any], body: Frames) -> Frames:
        while True:
            try:
                return await self.send(keys, body)
            except RouterError as error:
                if not error.retry:
                    raise
                await asyncio.sleep((error.retry_after_ms or 100) / 1000)

    async def cancel(self, keys: dict[str, Any], body: Frames) -> Frames:
        sending = asyncio.create_task(self.send({"id": "to be cancelled", **keys}, body))
        await asyncio.sleep(0.1)
        await self.client.cancel("to be cancelled")
        return await sending

    async def feedback(self, keys: dict[str, Any], body: Frames) -> Frames:
        outcome = await self.send({"id": "judged", **keys}, body)
        await self.client.feedback("judged", 0.5)
        return outcome

    async def ping(self, _: dict[str, Any], __: Frames) -> Frames:
        await self.client.ping()
        return [b"pong"]


async def main(address: str) -> None:
    """Ask for tasks until there is none."""
    async with Client(address) as client:
        outcome: Frames = []
        tasks = Tasks(client)
        while (task := (await client.send("conform.task", outcome)).body)[0] != b"end":
            perform: Callable[[dict[str, Any], Frames], Awaitable[Frames]] | None
            perform = getattr(tasks, task[0].decode(), None)
            outcome = [b"unsupported"] if perform is None else await told(perform(msgpack.unpackb(task[1]), task[2:]))


async def told(work: Awaitable[Frames]) -> Frames:
    """Return what came of a task, also where that is an error."""
    try:
        return await work
    except ConnectionLost:
        return [b"lost"]
    except RouterError as error:
        return [b"error", error.code.encode()]


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
