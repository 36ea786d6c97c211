"""A backend process: works for a while on whatever comes, fails a share, writes down what may not run twice."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
from pathlib import Path

from demo_app.guard import die_with, watch_stdin

from chaos_app.work import CAPABILITIES, ID, answer_to, parse
from router_daemon.backend import Backend, Delivery

SPREAD = 0.35
"""Of the logarithm of the service time."""


def main() -> None:
    """Serve until SIGTERM."""
    options = _options()
    die_with(options.parent)
    if sys.platform != "linux":
        watch_stdin()
    rng = random.Random(f"{options.seed}{options.name}")
    ran = os.open(options.ran, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    backend = Backend(options.name, options.connect, slots=options.slots, drain_timeout_s=2.0)

    @backend.handler(*CAPABILITIES)
    async def work(delivery: Delivery) -> bytes:
        ident, once, answer_size = parse(delivery.data)
        if once:
            os.write(ran, ID.pack(ident))  # one system call: it is there even after a kill -9
        await asyncio.sleep(options.service_ms / 1000.0 * rng.lognormvariate(0.0, SPREAD))
        if rng.random() < options.fail:
            raise RuntimeError("failing a share, as told")
        return answer_to(ident, answer_size)

    backend.serve()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--connect", required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--service-ms", type=float, required=True)
    parser.add_argument("--fail", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--ran", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
