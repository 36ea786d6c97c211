"""What an act may touch, and what it does more than once: end the daemon's life, wait for everybody to be back."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable

from demo_app.processes import Child
from fault_proxy import Proxy

from chaos_app.books import Books, Window
from chaos_app.clients import ChaosClient, Context
from chaos_app.daemon_side import Page, scrape
from chaos_app.load import Load
from chaos_app.memory import Memory
from chaos_app.stage import SPECS, Spec, Stage, StageError

FENCE_S = 10.0


class Scene:
    """One run's things.

    Attributes:
        front, back: the proxies before the daemon's two ports.
        pages: what /metrics last said in each life of the daemon, the present one excepted.
        floods: the windows of the others' traffic during each flood, by the flood's name.
        broken: an act has let messages of clients behind the proxy get lost.
    """

    def __init__(self, stage: Stage, books: Books, load: Load, context: Context, rng: random.Random) -> None:
        self.stage = stage
        self.books = books
        self.load = load
        self.context = context
        self.rng = rng
        self.memory = Memory(books.paused)
        self.front = Proxy(stage.front_proxy_port, stage.frontend_port)
        self.back = Proxy(stage.back_proxy_port, stage.backend_port)
        self.pages: list[Page | None] = []
        self.floods: list[tuple[str, Window, str]] = []
        self.flood_seconds = 4.0
        self.pace = 1.0
        self.broken = False
        self.say: Callable[[str], None] = print

    @property
    def daemon(self) -> Child:
        """Return the daemon's process."""
        assert self.stage.daemon is not None
        return self.stage.daemon

    def pick(self, *, direct: bool = False) -> Spec:
        """Return one of the backends."""
        return self.rng.choice([spec for spec in SPECS if not (direct and spec.proxied)])

    async def start_daemon(self) -> None:
        """Start the daemon, and have its memory watched."""
        child = await self.stage.start_daemon()
        self.memory.pid = child.pid

    async def next_life(self, page: Page | None, stopped_s: float) -> int:
        """After the daemon's end: open the direct connections anew, start the next daemon, wait for the backends.

        Args:
            page: what /metrics said last.
            stopped_s: when it ended.

        Returns:
            How many messages were open.
        """
        self.pages.append(page)
        self.memory.pid = None
        self.memory.new_life()
        rate, self.load.rate = self.load.rate, 0.0
        lost = self.load.reconnect()
        self.books.new_life()
        self.broken = True
        await self.start_daemon()
        await self.all_back()
        self.books.paused(stopped_s, time.monotonic())
        self.load.rate = rate
        return lost

    async def all_back(self) -> None:
        """Wait until every backend that runs is registered."""
        if not await self.stage.registered():
            raise StageError("a backend did not come back")

    def client(self, **options: int) -> ChaosClient:
        """Return a further client; `leave` it when done."""
        client = ChaosClient(self.context, self.stage.frontend, self.books, timed=False, **options)
        self.load.others.append(client)
        return client

    def leave(self, client: ChaosClient, why: str) -> int:
        """Close a client; return how many messages were open, booked for that reason."""
        if client in self.load.others:
            self.load.others.remove(client)
        return client.close(why)

    async def fence(self, client: ChaosClient) -> None:
        """Wait until a client, which the load reads, has got all that the daemon had to say to it.

        Raises:
            StageError: no PONG came.
        """
        pongs = client.pongs
        until_s = time.monotonic() + FENCE_S
        client.ping()
        while client.pongs == pongs:
            if time.monotonic() > until_s:
                raise StageError(f"no PONG within {FENCE_S:.0f} s")
            await asyncio.sleep(0.01)

    async def page(self) -> Page:
        """Return what /metrics says.

        Raises:
            StageError: nobody answers.
        """
        page = await scrape(self.stage.admin)
        if page is None:
            raise StageError("/metrics does not answer")
        return page

    async def lost_unread(self) -> float:
        """Return how many answers the daemon has dropped as unread."""
        return (await self.page()).value("router_lost_answers_total", cause="unread")

    def counts(self) -> Counter[str]:
        """Return the ledger's bottom line as it stands."""
        return self.books.by_fate()
