"""Runs spread over processes, for the commands that make many of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any


def mapper(stack: ExitStack, processes: int) -> Callable[..., Any]:
    """Return `map`, or that of a pool of processes which ends with the stack, or with this process however it ends."""
    if processes == 1:
        return map
    pool = stack.enter_context(
        ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=end_with_parent)
    )
    stack.callback(pool.shutdown, cancel_futures=True)
    return pool.map


def end_with_parent() -> None:
    """End this worker when its parent has ended: the queue that it sleeps on has both ends here, and says nothing."""
    Thread(target=_wait_for_parent, name="end with parent", daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
