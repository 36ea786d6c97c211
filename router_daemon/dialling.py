"""Keeping connections to addresses that may not answer: when to try, and when to try again.

Rules:
- One task per address, which are few and named by the operator; none per message.
- The first try comes at once, since neighbours mostly start together. The next waits `FIRST_S`, and each that fails
  doubles the wait up to `MOST_S`: soon enough for a daemon that starts again, too seldom to matter to one that is gone
  for good. A connection that stood for `STOOD_S` makes the next wait short again; one that ended sooner does not, so a
  neighbour that accepts and hangs up is not called ten times a second.
- Each wait is a random share between half and the whole of that, or all neighbours of a daemon that starts again would
  call it in the same moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final

import structlog

FIRST_S: Final = 0.1
MOST_S: Final = 5.0
STOOD_S: Final = 5.0
CONNECT_S: Final = 5.0
"""A host that does not answer at all is given up after this; the kernel would try for two minutes."""
BROKE_OFF: Final = "refused, or ended before the handshake"

_log = structlog.get_logger("router_daemon")


class BackOff:
    """The waits between tries, seconds; see the rules above."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._full_s = FIRST_S

    def next_s(self, stood_s: float) -> float:
        """Return how long to wait after a connection that stood so long; 0: it never came to be."""
        full_s = FIRST_S if stood_s >= STOOD_S else self._full_s
        self._full_s = min(2.0 * full_s, MOST_S)
        return full_s * self._rng.uniform(0.5, 1.0)


class Dialling:
    """Tries each address for as long as it is not told to stop.

    Args:
        attempt: connects to an address and returns once that connection has ended, or raises OSError, TimeoutError or
            UnicodeError where it never came to be; the seconds that it stood.
        rng: spreads the waits.
    """

    def __init__(self, attempt: Callable[[str], Awaitable[float]], rng: Random) -> None:
        self._attempt = attempt
        self._rng = rng
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, addresses: tuple[str, ...]) -> None:
        """Begin with each of them."""
        for address in addresses:
            task = asyncio.get_running_loop().create_task(self._keep(address))
            self._tasks.add(task)

    def cancel(self) -> set[asyncio.Task[None]]:
        """Try nothing any more; return what has to be waited for. Connections that stand are their owner's affair."""
        for task in self._tasks:
            task.cancel()
        return self._tasks

    async def _keep(self, address: str) -> None:
        back_off = BackOff(self._rng)
        told = False
        while True:
            stood_s = 0.0
            try:
                stood_s = await self._attempt(address)
                told = False
            except (OSError, TimeoutError, UnicodeError) as error:  # UnicodeError: a host name that cannot be asked for
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                (_log.debug if told else _log.warning)("cannot connect to a neighbour", address=address, reason=reason)
                told = True  # once until it stands again: tries are many
            await asyncio.sleep(back_off.next_s(stood_s))
