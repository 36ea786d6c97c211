"""One backend process of the demo: `python -m demo_app.backends --name NAME --connect ADDRESS ...`.

It registers under its name, does the real work of its capabilities, and takes as much longer and fails as often as the
roster says. An exception of the work (a window too short for the algorithm) is its honest failure: the daemon's NACK
`failed`, upon which another head may answer.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgpack

from demo_app import guard, roster, work
from router_daemon import Backend
from router_daemon.backend import Delivery

Handler = Callable[[Delivery], Awaitable[bytes]]


class SimulatedFailure(RuntimeError):  # noqa: N818 - reads as what happened
    """The failure that the roster states for this backend."""


def handler_of(spec: roster.Spec, do: work.Work, rng: random.Random) -> Handler:
    """Return the handler of one capability: the extra time first, so that a cancelled copy costs nothing."""

    async def handle(delivery: Delivery) -> bytes:
        await asyncio.sleep(rng.lognormvariate(math.log(spec.extra_ms), spec.spread) / 1e3)
        if rng.random() < spec.failure_share:
            raise SimulatedFailure(spec.failure_reason)
        result: bytes = msgpack.packb(do(msgpack.unpackb(delivery.data)))
        return result

    return handle


def build(spec: roster.Spec, address: str, seed: int, spool_path: Path, syslog_port: int) -> Backend:
    backend = Backend(spec.name, address, slots=spec.slots)
    rng = random.Random(f"{seed}/{spec.name}")
    for capability, name in spec.work.items():
        do = work.algorithm(name, spool_path, syslog_port)
        backend.handler(capability)(handler_of(spec, do, rng))
    return backend


def main() -> None:
    parser = argparse.ArgumentParser(description="One backend of the demo.")
    parser.add_argument("--name", required=True, choices=sorted(roster.BY_NAME))
    parser.add_argument("--connect", required=True, metavar="ADDRESS")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--spool", type=Path, required=True, metavar="FILE")
    parser.add_argument("--syslog-port", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True, metavar="PID")
    options = parser.parse_args()
    guard.die_with(options.parent)
    guard.watch_stdin()
    spec = roster.BY_NAME[options.name]
    build(spec, options.connect, options.seed, options.spool, options.syslog_port).serve()


if __name__ == "__main__":
    main()
