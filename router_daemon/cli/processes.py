"""Runs spread over processes, for the commands that make many of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from typing import Any


def mapper(stack: ExitStack, processes: int) -> Callable[..., Any]:
    """Return `map`, or that of a pool of processes which ends with the stack."""
    if processes == 1:
        return map
    pool = stack.enter_context(ProcessPoolExecutor(processes, mp_context=get_context("spawn")))
    stack.callback(pool.shutdown, cancel_futures=True)
    return pool.map
