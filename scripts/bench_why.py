"""What the record of decisions costs, and what traces cost: instructions of the core per round trip, by callgrind.

    python scripts/bench_why.py

Needs valgrind (with callgrind). For each setting two runs of the same core, one with more round trips, are counted;
their difference over the round trips they differ by is free of start-up. 12 backends with 128 slots; 128 SENDs, then
their 128 ACKs, every 12 ms of virtual time (10,700 messages/s). No transport: of a whole daemon the shares are smaller.
Of traces this is the loop's part: which message is traced, what is queued of it, what its deliveries are marked with.
"""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from router_daemon.core import events
from router_daemon.core.actions import Action, Deliver
from router_daemon.core.broker import Broker
from router_daemon.core.settings import Settings, WhySettings
from router_daemon.policies.base import make_policy

BACKENDS: Final = 12
SLOTS: Final = 128
BATCH: Final = 128
FEW: Final = 4
MANY: Final = 44
WAYS: Final[dict[str, tuple[WhySettings, int, float | None]]] = {
    "off": (WhySettings(entries=0), 2, None),
    "default": (WhySettings(), 2, None),
    "default, all critical": (WhySettings(), 4, None),
    "all kept with terms": (WhySettings(sample_every_s=0.0), 2, None),
    "default, 1 % traced": (WhySettings(), 2, 0.01),
    "default, all traced": (WhySettings(), 2, 1.0),
}
"""What is kept, the messages' priority, and the share that is traced."""


def traced(settings: Settings, ratio: float) -> tuple[dict[str, Any], Callable[[Sequence[Action]], None]]:
    """Return what a broker needs for traces, and what marks its deliveries; the thread that sends is not started."""
    from router_daemon.config.tracing import TracingSection  # noqa: PLC0415 - the other ways are free of what it loads
    from router_daemon.core.traces import Traced  # noqa: PLC0415
    from router_daemon.tracing import Tracer  # noqa: PLC0415

    class Nowhere:
        def send(self, ended: Sequence[Any]) -> str:
            return f"{len(ended)} are not sent"

        def close(self) -> None:
            pass

    tracer = Tracer(TracingSection(ratio=ratio, queue=1), exporter=Nowhere())
    return {"decisions": Traced(settings, tracer.sampling, tracer.put)}, tracer.mark


def run(mode: str, why: WhySettings, priority: int, ratio: float | None, batches: int) -> None:
    """Let so many batches through a core."""
    settings, rng = Settings(mode=mode, why=why), Random(1)
    policy = make_policy("attention", settings, rng)
    keys, mark = ({}, None) if ratio is None else traced(settings, ratio)
    broker = Broker(settings, policy, rng=rng, timer=lambda: 0.0, instance="x", **keys)
    for number in range(BACKENDS):
        registration = events.Registration(f"b{number}", ["c"], slots=SLOTS)
        broker.handle(events.Register(str(number).encode(), False, registration), 0.0)
    gc.freeze()  # as the daemon does: what was loaded is not looked through again and again
    now, ids = 1.0, 0
    for _ in range(batches):
        now += 0.010
        sent = []
        for _ in range(BATCH):
            ids += 1
            sent += broker.handle(events.Send(b"client", False, events.Request(ids, "c", priority)), now)
        if mark is not None:
            mark(sent)
        now += 0.002
        for action in sent:
            if type(action) is Deliver:
                broker.handle(events.Ack(action.peer, False, events.AckHeader(action.header.id)), now)


def instructions(mode: str, way: str, batches: int) -> int:
    """Return what callgrind counts of a process that does so."""
    command = [
        *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
        *(sys.executable, __file__, mode, way, str(batches)),
    ]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1])


def main(arguments: list[str]) -> None:
    """Measure all, or be what is measured."""
    if arguments:
        mode, way, batches = arguments
        run(mode, *WAYS[way], int(batches))
        return
    for mode in ("single", "auto"):
        base = 0.0
        for way in WAYS:
            more = instructions(mode, way, MANY) - instructions(mode, way, FEW)
            each = more / (BATCH * (MANY - FEW))
            base = base or each
            print(f"{mode:8}{way:24}{each:12,.0f}{each / base - 1.0:+8.1%}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
