"""Measure the daemon's data plane against libzmq's own proxy, in one run: docs/benchmarks.md says how and why.

Rules:
- Broker and reference take turns under the same load within each round, and the order changes from round to round: a
  ratio of two numbers taken minutes apart measures the machine.
- The load generator (`loadgen.c`) is a process of its own on a core of its own; whether it was the bottleneck is said.
- CPU is read from the broker's process clock at both ends of the measured window; warm-up is outside of it.
- What was lost or answered wrongly makes the run fail: a fast broker that drops messages is not fast.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import zmq
from bench_report import LOADS, TARGETS, Load, Phase, Row, Run, as_json, markdown, progress

SCRIPTS: Final = Path(__file__).resolve().parent
REFERENCE_FLAG: Final = "--reference"  # how this script starts itself as the proxy
START_TIMEOUT_S: Final = 15.0
PHASE_GRACE_S: Final = 30.0
BACKENDS: Final = 4
SLOTS: Final = 128


class CannotRunError(Exception):
    """This machine lacks what the benchmark needs."""


class Broker(NamedTuple):
    """A running broker: where it listens, and its process."""

    kind: str
    frontend: str
    backend: str
    pid: int
    core: int


# --- the generator ---


def find_libzmq() -> tuple[list[str], str]:
    """Return the linker's arguments for a libzmq, and its name for the report: pyzmq's own, else the system's."""
    bundled = Path(zmq.__file__).resolve().parent.parent / "pyzmq.libs"
    for library in sorted(bundled.glob("libzmq*.so*")):
        return [str(library), f"-Wl,-rpath,{bundled}"], f"libzmq {zmq.zmq_version()} of pyzmq {zmq.__version__}"
    return ["-lzmq"], "the system's libzmq"


def compile_generator(directory: Path) -> Path:
    """Compile loadgen.c and return the program."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if compiler is None:
        raise CannotRunError("no C compiler (cc, gcc or clang; or set CC): the load generator cannot be built")
    program = directory / "loadgen"
    link, _ = find_libzmq()
    command = [compiler, "-O2", "-std=gnu11", "-o", str(program), str(SCRIPTS / "loadgen.c"), *link]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotRunError(f"the load generator does not compile here:\n{done.stderr.strip()}")
    return program


def run_phase(generator: Path, broker: Broker, load: Load, size: int, args: argparse.Namespace) -> Phase:
    """Run the generator once against a broker."""
    options = {
        "mode": "car1" if broker.kind == "daemon" or args.against else "proxy",
        "frontend": broker.frontend,
        "backend": broker.backend,
        "send-mode": args.mode if broker.kind == "daemon" else "single",
        "clients": load.clients,
        "outstanding": load.outstanding,
        "backends": args.backends,
        "slots": args.slots,
        "size": size,
        "pid": broker.pid,
        "seconds": args.seconds,
        "warmup": args.warmup,
        "broker-core": broker.core,
        "own-core": choose_cores()[1],
    }
    command = [str(generator), *(text for name, value in options.items() for text in (f"--{name}", str(value)))]
    timeout_s = args.seconds + args.warmup + PHASE_GRACE_S
    try:
        with pinned(choose_cores()[1]):
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise CannotRunError(f"the generator got no end of it against the {broker.kind}") from None
    if done.returncode:
        raise CannotRunError(f"the generator failed against the {broker.kind}:\n{done.stderr.strip()}")
    phase = Phase(**json.loads(done.stdout))
    if phase.faults:
        print(f"{broker.kind}, {load.name}, {size} B: {done.stderr.strip()}", file=sys.stderr)
    return phase


# --- the brokers ---


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Keep whatever is started inside on one core: a child inherits it from this process."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def choose_cores() -> tuple[int, int]:
    """Return a core for the broker and one for the generator; the same one where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


def free_port() -> int:
    """Return a free TCP port below the range that outgoing connections are given."""
    for _ in range(1000):
        port = random.randrange(15000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise CannotRunError("no free TCP port between 15000 and 32000")


def run_reference(frontend: str, backend: str) -> None:
    """Be the reference: libzmq's proxy between a ROUTER and a DEALER, until terminated."""
    context = zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.bind(frontend)
    dealer.bind(backend)
    zmq.proxy(router, dealer)


def daemon_command(directory: Path, frontend: str, backend: str, policy: str, args: argparse.Namespace) -> list[str]:
    """Write a configuration and return the command that runs the daemon with it."""
    config = directory / f"bench-{policy}.toml"
    config.write_text(
        f'[frontend]\nbind = "{frontend}"\n[backend]\nbind = "{backend}"\n[admin]\nbind = ""\n'
        f'[transport]\nengine = "{args.engine}"\n[routing]\npolicy = "{policy}"\n[log]\nlevel = "warning"\n'
    )
    return [sys.executable, "-m", "router_daemon", "run", "--config", str(config)]


@contextmanager
def running(kind: str, directory: Path, args: argparse.Namespace) -> Iterator[Broker]:
    """Start a broker, wait until it can be used, and stop it at the end."""
    core = choose_cores()[0]
    frontend, backend = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    is_daemon = kind == "daemon" or bool(args.against)
    if is_daemon:
        policy = args.policy if kind == "daemon" else args.against
        command = daemon_command(directory, frontend, backend, policy, args)
    else:
        command = [sys.executable, str(Path(__file__).resolve()), REFERENCE_FLAG, frontend, backend]
    path = os.pathsep.join(filter(None, (str(SCRIPTS.parent), os.environ.get("PYTHONPATH"))))
    log = directory / f"{kind}.log"
    with log.open("wb") as output, pinned(core):
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "PYTHONPATH": path})
    try:
        wait_until(lambda: answers_ping(frontend) if is_daemon else accepts(frontend), process, log)
        yield Broker(kind, frontend, backend, process.pid, core)
    finally:
        process.terminate()
        try:
            process.wait(timeout=START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once a broker is ready; raise when it ends or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise CannotRunError(f"the broker did not start:\n{log.read_text(errors='replace')[-2000:]}")


def answers_ping(frontend: str) -> bool:
    """Tell whether a daemon answers PING there."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(frontend)
        dealer.send_multipart([b"CAR1.PING", b"\x80"])
        return bool(dealer.poll(500)) and dealer.recv_multipart()[0] == b"CAR1.PONG"


def accepts(frontend: str) -> bool:
    """Tell whether something listens there; wait a moment if not."""
    host, port = frontend.removeprefix("tcp://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        time.sleep(0.02)
        return False
    return True


# --- the run ---


def measure(args: argparse.Namespace) -> list[Row]:
    """Measure every load and size, broker and proxy in turn."""
    if sys.platform != "linux":
        raise CannotRunError("needs Linux: it pins processes to cores and reads their CPU time from /proc")
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench_broker-") as name:
        directory = Path(name)
        generator = compile_generator(directory)
        with (
            running("daemon", directory, args) as daemon,
            running("proxy", directory, args) as proxy,
        ):
            for load in LOADS:
                for size in args.sizes:
                    row = Row(load, size)
                    rows.append(row)
                    for number in range(args.rounds):
                        pair = [(daemon, row.broker), (proxy, row.proxy)]
                        for broker, phases in pair if number % 2 == 0 else reversed(pair):
                            phases.append(run_phase(generator, broker, load, size, args))
                    print(progress(row), file=sys.stderr)
    return rows


def describe(args: argparse.Namespace) -> Run:
    """Return what the numbers depend on."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return Run(
        processor=model,
        cores=len(os.sched_getaffinity(0)),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        libzmq=find_libzmq()[1],
        mode=args.mode,
        policy=args.policy,
        engine=args.engine,
        against=args.against,
        backends=args.backends,
        rounds=args.rounds,
        seconds=args.seconds,
    )


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="bench_broker", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--policy", default="paper", help="[routing] policy of the daemon (default: %(default)s)")
    parser.add_argument("--mode", default="single", help="mode of every SEND (default: %(default)s)")
    parser.add_argument(
        "--engine", default="native", choices=("native", "libzmq"), help="[transport] engine (default: %(default)s)"
    )
    parser.add_argument(
        "--against",
        default="",
        metavar="POLICY",
        help="compare with a daemon of this policy, mode single, not the proxy",
    )
    parser.add_argument("--backends", type=int, default=BACKENDS, help="how many (default: %(default)s)")
    parser.add_argument("--slots", type=int, default=SLOTS, help="of each backend (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured, per phase (default: %(default)s)")
    parser.add_argument("--warmup", type=float, default=0.5, help="seconds before it (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of broker and proxy in turn (default: %(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(TARGETS), help="body bytes, each way")
    parser.add_argument(
        "--decision", action="store_true", help="time one cached decision, in-process, and nothing else"
    )
    parser.add_argument(
        "--candidates",
        action="store_true",
        help="time a choice among 3 to 10,000 backends, in-process; nothing else",
    )
    parser.add_argument(
        "--embeddings",
        action="store_true",
        help="time a choice by embedding among 12 to 10,000 backends, in-process; nothing else",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every phase there")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run the benchmark; 0 measured, 1 messages were lost or answered wrongly, 2 it cannot run here."""
    if argv[:1] == [REFERENCE_FLAG]:
        run_reference(*argv[1:3])
        return 0
    args = parse(argv)
    if args.decision or args.candidates or args.embeddings:
        sys.path.insert(0, str(SCRIPTS.parent))
        import bench_candidates  # noqa: PLC0415 - nothing else needs the package in this process
        import bench_decision  # noqa: PLC0415
        import bench_embeddings  # noqa: PLC0415

        if args.embeddings:
            print(bench_embeddings.report())
        else:
            print(bench_candidates.report() if args.candidates else bench_decision.report(args.policy))
        return 0
    try:
        rows = measure(args)
    except CannotRunError as error:
        print(f"bench_broker: {error}", file=sys.stderr)
        return 2
    run = describe(args)
    print(markdown(rows, run))
    if args.json:
        args.json.write_text(as_json(rows, run))
    return 1 if any(phase.faults for row in rows for phase in row.broker + row.proxy) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
