"""Reads the daemon's pages again and again, in a thread of its own, and never two at a time.

Rules:
- The next reading begins `every_s` after the last one began, but never before as long as `IDLE_TIMES` as that took has
  passed since its end: with ten thousand backends a reading is work for the daemon, and looking must not be what
  slows it down.
- A daemon that does not answer is asked again at the same pace; it is told of once for each attempt.
- The thread is a daemon thread: who quits does not wait for a page that hangs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from router_daemon.cli.exits import CommandError
from router_daemon.cli.top.reading import Reading

IDLE_TIMES: Final = 3.0

Source = Callable[[], Reading]
Told = Callable[["Reading | CommandError"], None]


class Reader:
    """Reads until `stop`.

    Args:
        source: reads once; raises CommandError where there is no daemon.
        told: gets what was read, or why not, in this thread.
        every_s: between the beginnings of two readings, at least.
    """

    def __init__(self, source: Source, told: Told, every_s: float) -> None:
        self._source = source
        self._told = told
        self._every_s = every_s
        self._stopped = False
        self._now = threading.Event()
        self._thread = threading.Thread(target=self._run, name="top-reader", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def hurry(self) -> None:
        """Read at once: something was changed."""
        self._now.set()

    def stop(self) -> None:
        """Begin no further reading, and return at once."""
        self._stopped = True
        self._now.set()

    def _run(self) -> None:
        while not self._stopped:
            self._now.clear()
            began = time.monotonic()
            try:
                found: Reading | CommandError = self._source()
            except CommandError as error:
                found = error
            if not self._stopped:
                self._told(found)
            self._now.wait(pause_s(self._every_s, time.monotonic() - began, read=isinstance(found, Reading)))


def pause_s(every_s: float, took_s: float, *, read: bool) -> float:
    """Return how long to wait after an attempt that took so long; `read`: it gave a reading."""
    return max(every_s - took_s, IDLE_TIMES * took_s if read else 0.0)
