"""Measure `prefetch` with real backends: what it gives quick work and costs long work. docs/benchmarks.md says how.

Rules:
- A real daemon, backends of the SDK in processes of their own, loopback. Each process holds one `Backend` for each
  prefetch that is compared, under a capability of its own: those whose turn it is not are idle.
- Work is sleep, so that the backends' work does not compete for the cores that daemon and clients need; `--busy` makes
  it computing. It sleeps in a thread: asyncio rounds what is left of a sleep up to a millisecond each time that
  something wakes its loop, as a prefetched delivery does, and that alone would hide what is measured.
- Quick work is measured under a closed loop, one prefetch after the other, in another order each round; a ratio is
  taken within a round.
- Long work is measured under an open loop, all at the same time with the same arrivals and lengths: it needs next to no
  CPU, so they do not disturb each other, and meet the same moments of the machine.
- A missing answer makes the run fail; what the open loop was refused stands in its table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from subprocess import Popen
from typing import Final

from bench_broker import CannotRunError, answers_ping, free_port, wait_until
from bench_prefetch_load import Arrival, Closed, Opened, closed_loop, open_loop
from bench_prefetch_report import Quick, Streams, as_json, markdown

SCRIPTS: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(SCRIPTS.parent))

from router_daemon.backend import Backend, Delivery  # noqa: E402 - found where this script is

BACKEND_FLAG: Final = "--be-backend"  # how this script starts itself as one
ADAPTIVE: Final = "adaptive"
PIECES: Final = 10  # a stream has so many PARTs at most,
PIECE_S: Final = 0.1  # and none sooner after the one before: that each sleep is a little late must not add up
THREADS: Final = 64  # for sleeping
STOP_S: Final = 10.0
SETTLE_S: Final = 1.2  # until an UPDATE may follow the one before


class Rig:
    """A running daemon with its backends: `frontend` for clients."""

    def __init__(self, frontend: str, backend: str) -> None:
        self.frontend = frontend
        self.backend = backend


# --- the backends ---


async def work_for(seconds: float, busy: bool) -> None:
    """Take so long."""
    if not busy:
        await asyncio.to_thread(time.sleep, seconds)
        return
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def make_backend(name: str, address: str, slots: int, prefetch: str, busy: bool) -> Backend:
    """Return a backend for one prefetch; a message's body says how long to work on it."""
    number = None if prefetch == ADAPTIVE else int(prefetch)
    backend = Backend(f"{name}-{prefetch}", address, slots=slots, prefetch=number)

    @backend.handler(f"quick-{prefetch}")
    async def quick(delivery: Delivery) -> bytes:
        if seconds := float(delivery.data):
            await work_for(seconds, busy)
        return b""

    @backend.handler(f"stream-{prefetch}")
    async def stream(delivery: Delivery) -> AsyncIterator[bytes]:
        yield b"0"
        seconds = float(delivery.data)
        pieces = max(1, min(PIECES - 1, int(seconds / PIECE_S)))
        for number in range(1, pieces + 1):
            await work_for(seconds / pieces, busy)
            yield b"%d" % number

    return backend


def be_backend(argv: list[str]) -> None:
    """Be one process of backends, until terminated."""
    name, address, slots, busy, *prefetches = argv

    async def run() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
        made = [make_backend(name, address, int(slots), each, busy == "busy") for each in prefetches]
        await asyncio.gather(*(backend.run() for backend in made))

    asyncio.run(run())


# --- the rig ---


@contextmanager
def process(command: list[str], log: Path) -> Iterator[Popen[bytes]]:
    """Run a Python process with this package; end it."""
    path = os.pathsep.join(filter(None, (str(SCRIPTS.parent), os.environ.get("PYTHONPATH"))))
    with log.open("wb") as output:
        started = Popen(
            [sys.executable, *command], stdout=output, stderr=output, env={**os.environ, "PYTHONPATH": path}
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(STOP_S)
        finally:
            started.kill()
            started.wait()


@contextmanager
def rig(count: int, slots: int, args: argparse.Namespace) -> Iterator[Rig]:
    """Start a daemon and `count` processes of backends; wait until all can be used."""
    frontend, backend = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench_prefetch-")))
        config = directory / "bench.toml"
        config.write_text(
            f'[frontend]\nbind = "{frontend}"\n[backend]\nbind = "{backend}"\n[admin]\nbind = ""\n'
            f'[routing]\npolicy = "{args.policy}"\nmode = "{args.mode}"\n[log]\nlevel = "warning"\n'
        )
        log = directory / "daemon.log"
        daemon = stack.enter_context(process(["-m", "router_daemon", "run", "--config", str(config)], log))
        wait_until(lambda: answers_ping(frontend), daemon, log)
        busy = "busy" if args.busy else "sleep"
        for number in range(count):
            command = [__file__, BACKEND_FLAG, f"b{number}", backend, str(slots), busy, *args.prefetch]
            stack.enter_context(process(command, directory / f"b{number}.log"))
        for prefetch in args.prefetch:
            await_backends(frontend, f"quick-{prefetch}", count)
        yield Rig(frontend, backend)


def await_backends(frontend: str, capability: str, count: int) -> None:
    """Return once that many backends work for a capability: as many long messages at once as there are processes."""
    give_up_at = time.monotonic() + 30
    while time.monotonic() < give_up_at:
        arrivals = [Arrival(0.0, capability, 0.05)] * count
        if len(open_loop(frontend, arrivals, patience_s=5).backends) == count:
            return
        time.sleep(0.1)
    raise CannotRunError(f"not all backends came for {capability}")


# --- the runs ---


def measure_quick(args: argparse.Namespace) -> list[Quick]:
    """Closed loop: each slots and work, the prefetches in turn."""
    found = []
    for slots in args.slots:
        with rig(args.backends, slots, args) as running:
            for work_ms in args.work:
                row = Quick(slots, work_ms, {prefetch: [] for prefetch in args.prefetch})
                for number in range(args.rounds):
                    order = list(args.prefetch)
                    Random(number).shuffle(order)
                    for prefetch in order:
                        row.runs[prefetch].append(one_closed(running, prefetch, slots, work_ms, args))
                found.append(row)
                print(row.progress(), file=sys.stderr)
    return found


def one_closed(running: Rig, prefetch: str, slots: int, work_ms: float, args: argparse.Namespace) -> Closed:
    """Measure one prefetch once."""
    outstanding = args.backends * slots * args.outstanding
    capability = f"quick-{prefetch}"
    return closed_loop(running.frontend, capability, work_ms / 1000, outstanding, args.seconds, args.warmup)


def lengths(mix: str, count: int, chance: Random) -> list[float]:
    """Return so many lengths in seconds: `0.3,1,3` in equal shares, `exp0.05`, or `0.005+2%1` (2 % last 1 s).

    Shares are exact and only their order is drawn, so that the offered load is what was asked for.
    """
    if mix.startswith("exp"):
        mean = float(mix[3:])
        drawn = [chance.expovariate(1.0) for _ in range(count)]
        return [mean * each * count / sum(drawn) for each in drawn]
    if "+" in mix:
        usual, _, rest = mix.partition("+")
        share, _, rare = rest.partition("%")
        many = round(count * float(share) / 100)
        drawn = [float(rare)] * many + [float(usual)] * (count - many)
    else:
        some = [float(each) for each in mix.split(",")]
        drawn = [some[number % len(some)] for number in range(count)]
    chance.shuffle(drawn)
    return drawn


def mean_s(mix: str) -> float:
    """Return the mean length of a mixture."""
    return sum(drawn := lengths(mix, 3000, Random(0))) / len(drawn)


def measure_streams(args: argparse.Namespace) -> list[Streams]:
    """Open loop: each mixture, all prefetches at the same time."""
    found = []
    with rig(args.stream_backends, 1, args) as running:
        for mix in args.mix:
            row = Streams(mix, args.load, args.stream_seconds, {prefetch: [] for prefetch in args.prefetch})
            for number in range(args.rounds):
                one_open(running, mix, row, args.seed + number, args)
                time.sleep(SETTLE_S)
            found.append(row)
            print(row.progress(), file=sys.stderr)
    return found


def one_open(running: Rig, mix: str, row: Streams, seed: int, args: argparse.Namespace) -> None:
    """Offer one stream of arrivals to all prefetches at once."""
    chance = Random(seed)
    rate = args.load * args.stream_backends / mean_s(mix)
    count = max(10, round(rate * args.stream_seconds))
    at, arrivals = 0.0, []
    for length in lengths(mix, count, chance):
        at += chance.expovariate(rate)
        arrivals += [Arrival(at, f"stream-{prefetch}", length) for prefetch in args.prefetch]
    result: Opened = open_loop(running.frontend, arrivals, patience_s=args.patience)
    for prefetch in args.prefetch:
        row.first_s[prefetch].append(result.first_s[f"stream-{prefetch}"])
        row.refused[prefetch] += result.refused[f"stream-{prefetch}"]


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="bench_prefetch", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("quick", "streams"), help="the closed loop, or the open one")
    parser.add_argument("--prefetch", nargs="+", default=["0", "1", "2", "4", ADAPTIVE], help="to compare")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--policy", default="attention", help="[routing] policy (default: %(default)s)")
    parser.add_argument("--mode", default="single", help="[routing] mode (default: %(default)s)")
    parser.add_argument("--busy", action="store_true", help="work computes instead of sleeping")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, unrounded")
    quick = parser.add_argument_group("quick")
    quick.add_argument("--work", type=float, nargs="+", default=[0.0, 1.0, 5.0, 20.0], metavar="MS")
    quick.add_argument("--slots", type=int, nargs="+", default=[1, 4])
    quick.add_argument("--backends", type=int, default=2)
    quick.add_argument("--outstanding", type=int, default=3, help="requests kept out, times all slots")
    quick.add_argument("--seconds", type=float, default=2.0, help="measured, each time")
    quick.add_argument("--warmup", type=float, default=0.5, help="seconds before it")
    streams = parser.add_argument_group("streams")
    streams.add_argument("--mix", nargs="+", default=["0.3,1,3", "0.005+2%1"], help="lengths: see `lengths`")
    streams.add_argument("--load", type=float, default=0.7, help="offered, of capacity (default: %(default)s)")
    streams.add_argument("--stream-backends", type=int, default=4)
    streams.add_argument("--stream-seconds", type=float, default=40.0, help="of arrivals, each round")
    streams.add_argument(
        "--patience", type=float, default=290.0, help="seconds until a stream must have begun and ended"
    )
    streams.add_argument("--seed", type=int, default=1, help="of arrivals and lengths")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run; 0 measured, 1 something was refused or not answered, 2 it cannot run here."""
    if argv[:1] == [BACKEND_FLAG]:
        be_backend(argv[1:])
        return 0
    args = parse(argv)
    try:
        rows = measure_quick(args) if args.what == "quick" else measure_streams(args)
    except CannotRunError as error:
        print(f"bench_prefetch: {error}", file=sys.stderr)
        return 2
    except AssertionError as error:
        print(f"bench_prefetch: {error}", file=sys.stderr)
        return 1
    print(markdown(rows))
    if args.json:
        args.json.write_text(json.dumps(as_json(rows), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
