"""A broker in memory behind a real admin server, for tests of what asks one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from command_line import invoke
from conftest import free_port

from router_daemon.admin.server import AdminServer
from router_daemon.testing import BrokerFixture

_Kind = TypeVar("_Kind")


class Served:
    """A broker behind an admin server that runs on a thread of its own."""

    def __init__(self, broker: BrokerFixture, token: str = "") -> None:
        self.broker = broker
        self.address = f"127.0.0.1:{free_port()}"
        self._token = token
        self._loop = asyncio.new_event_loop()
        self._server = self._new_server()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def start(self) -> None:
        self._loop.run_until_complete(self._server.start())
        self._thread.start()

    def stop(self) -> None:
        self.go_away()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def go_away(self) -> None:
        """Be not there for a while."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)

    async def _end(self) -> None:
        """Stop the server, and what had been accepted and not begun by then: nobody would close its socket."""
        await self._server.stop()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        for _ in range(2):  # a closed transport lets go of its socket in the next round
            await asyncio.sleep(0)

    def come_back(self, broker: BrokerFixture | None = None) -> None:
        """Be there again, at the same address; with another broker, as after a restart."""
        self.broker = broker or self.broker
        self._server = self._new_server()
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(10)

    def do(self, act: Callable[[], _Kind]) -> _Kind:
        """Do something with the broker on the thread it lives on, between two requests."""

        async def on_loop() -> _Kind:
            return act()

        return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result(10)

    def says(self, *arguments: str) -> tuple[int, str]:
        """Return exit code and output of `router-daemon route ...`."""
        return self.told("route", *arguments)

    def told(self, *arguments: str) -> tuple[int, str]:
        """Return exit code and output of any command."""
        result = invoke(*arguments, "--admin", self.address)
        return result.exit_code, result.stdout + result.stderr

    def _new_server(self) -> AdminServer:
        return AdminServer(self.broker.broker, self.address, clock=self.broker.clock, token=self._token)
