"""Run many random worlds and stop at the first that breaks a promise: exit code 1, and the command that replays it.

Rules:
- Seeds are run in order, split over processes; of several that break, the smallest is reported.
- The broker's invariants are checked after every step. Every 20th world runs twice, and must do the same twice.
- Being stopped by the time is success, with the number of worlds that were run: 0 worlds are not.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import NamedTuple

from router_daemon.cli.lab import replay_command, what_broke
from router_daemon.lab.random_ring import kinds_for, plan_for

BATCH = 10
TWICE_EVERY = 20
PROGRESS_S = 10.0


class Options(NamedTuple):
    """What every world of this run has in common."""

    messages: int
    faults: str
    policy: str | None
    ring: int | None = None

    def kinds(self) -> Sequence[str]:
        """Return the kinds of faults that may happen."""
        return {"all": kinds_for(self.ring), "none": ()}.get(self.faults, tuple(self.faults.split(",")))


class Outcome(NamedTuple):
    """What a batch of seeds has come to; `broken`: seed and text of the first that broke."""

    worlds: int
    messages: int
    happened: Counter[str]
    broken: tuple[int, str] | None


def run_seed(seed: int, options: Options) -> tuple[int, Counter[str]]:
    """Run one world; return its number of messages and its faults."""
    plan = plan_for(seed, options.ring, messages=options.messages, kinds=options.kinds(), policy=options.policy)
    result = plan.run(check_every=1)
    if seed % TWICE_EVERY == 0:
        again = plan.run(check_every=0).digest
        assert again == result.digest, f"the digest is {result.digest}, and {again} the second time"
    return len(result.records), Counter(result.happened)


def run_batch(seeds: Sequence[int], options: Options) -> Outcome:
    """Run some worlds, until one breaks."""
    messages, happened = 0, Counter[str]()
    for done, seed in enumerate(seeds):
        try:
            count, faults = run_seed(seed, options)
        except Exception as fault:  # noqa: BLE001 - whatever it is, its seed is what is wanted
            return Outcome(done, messages, happened, (seed, what_broke(fault)))
        messages += count
        happened += faults
    return Outcome(len(seeds), messages, happened, None)


def batches(start: int, count: int) -> Iterator[range]:
    """Yield the seeds, a few at a time."""
    for first in range(start, start + count, BATCH):
        yield range(first, min(first + BATCH, start + count))


def soak(options: Options, start: int, count: int, seconds: float, jobs: int) -> Outcome:
    """Run all seeds until the time is up or one breaks."""
    began = shown = time.monotonic()
    todo = batches(start, count)
    total = Outcome(0, 0, Counter(), None)
    with ProcessPoolExecutor(jobs) as pool:
        running: set[Future[Outcome]] = set()
        while True:
            now = time.monotonic()
            while total.broken is None and now - began < seconds and len(running) < jobs:
                seeds = next(todo, None)
                if seeds is None:
                    break
                running.add(pool.submit(run_batch, seeds, options))
            if not running:
                return total
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                total = merged(total, future.result())
            if time.monotonic() - shown > PROGRESS_S:
                shown = time.monotonic()
                print(f"{total.worlds} worlds, {total.messages} messages in {shown - began:.0f} s", flush=True)


def merged(one: Outcome, other: Outcome) -> Outcome:
    """Return both together; the smaller of two seeds that broke."""
    broken = min(filter(None, (one.broken, other.broken)), default=None)
    return Outcome(one.worlds + other.worlds, one.messages + other.messages, one.happened + other.happened, broken)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser("scripts/soak_sim", description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--seeds", type=int, default=1_000_000, help="how many worlds at most")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seconds", type=float, default=60.0, help="begin no world after so long")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--messages", type=int, default=200, help="per world")
    parser.add_argument("--faults", default="all", help="all, none, or kinds separated by commas")
    parser.add_argument("--policy", default=None, help="default: drawn per world")
    parser.add_argument("--ring", type=int, default=None, help="rings of so many daemons")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run; return the exit code."""
    asked = parse(arguments)
    options = Options(asked.messages, asked.faults, asked.policy, asked.ring)
    began = time.monotonic()
    total = soak(options, asked.start, asked.seeds, asked.seconds, asked.jobs)
    print(f"{total.worlds} worlds kept every promise: {total.messages} messages, {time.monotonic() - began:.0f} s")
    print("faults:", ", ".join(f"{kind} {count}" for kind, count in sorted(total.happened.items())) or "none")
    if total.broken is not None:
        seed, text = total.broken
        again = replay_command(
            seed, faults=options.faults, messages=options.messages, policy=options.policy, ring=options.ring
        )
        print(f"seed {seed} breaks a promise: {text}\nreplay: {again}", flush=True)
        return 1
    return 0 if total.worlds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
