"""Memory and CPU of an idle daemon, and of one with many connections: what docs/deploy.md sizes containers by.

    python scripts/measure_memory.py [--clients N] [--backends N] [--seconds N] [--engine native|libzmq]

Starts a daemon with the defaults on free ports, reads the memory that is its own (USS: what would be free if it ended)
and its resident set, opens connections (a client says PING once; a backend REGISTER, and HEARTBEAT every second), and
reads both again. CPU is the share of one core over some seconds in which nothing else is said. A peer is one DEALER
socket. Needs twice as many open files as connections (`ulimit -n`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import msgpack
import psutil
import zmq

MIB: Final = 1024 * 1024
START_S: Final = 30.0


def free_addresses() -> list[str]:
    """Return three free ports of the loopback interface: frontend, backend, HTTP."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


def start(front: str, back: str, admin: str, engine: str) -> psutil.Popen:
    """Start a daemon with the defaults but for where it listens."""
    options = [f"--frontend=tcp://{front}", f"--backend=tcp://{back}", f"--admin={admin}", "--log-level=warning"]
    command = [sys.executable, "-m", "router_daemon", "run", *options, "--set", f"transport.engine={engine}"]
    return psutil.Popen(command, stdin=subprocess.DEVNULL)


def told(label: str, process: psutil.Process, cpu: float) -> int:
    """Print one line; return the daemon's own memory in bytes."""
    memory = process.memory_full_info()
    uss, rss = memory.uss / MIB, memory.rss / MIB
    print(f"{label:<32} USS {uss:6.1f} MiB  RSS {rss:6.1f} MiB  CPU {100 * cpu:5.1f} % of a core", flush=True)
    return int(memory.uss)


class Peers:
    """Connections of this process to the daemon, and their heartbeats."""

    def __init__(self, most: int) -> None:
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, most + 100)
        self._sockets: list[zmq.Socket[bytes]] = []
        self._backends: list[zmq.Socket[bytes]] = []

    def open(self, address: str, verb: bytes, header: dict[str, Any]) -> zmq.Socket[bytes]:
        """Connect, say one thing, and return the socket once it is answered."""
        one = self._context.socket(zmq.DEALER)
        one.linger = 0
        one.connect(address)
        self._sockets.append(one)
        one.send_multipart([b"CAR1." + verb, msgpack.packb(header)])
        if not one.poll(int(START_S * 1000)):
            raise SystemExit(f"no answer to {verb.decode()} within {START_S:.0f} s")
        one.recv_multipart()
        return one

    def add_clients(self, address: str, count: int) -> None:
        """Connect so many clients."""
        for _ in range(count):
            self.open(address, b"PING", {})

    def add_backends(self, address: str, count: int) -> None:
        """Register so many backends for one capability."""
        for number in range(count):
            header = {"name": f"b{number}", "capabilities": ["work"]}
            self._backends.append(self.open(address, b"REGISTER", header))
            if number % 100 == 99:
                self.beat()  # the first ones must not be given up meanwhile

    def beat(self) -> None:
        """Say of every backend that it lives."""
        for one in self._backends:
            one.send_multipart([b"CAR1.HEARTBEAT", msgpack.packb({})])
            while one.poll(0):
                one.recv_multipart()

    def close(self) -> None:
        """Leave without a word."""
        self._context.destroy(linger=0)


def cpu_share(process: psutil.Process, peers: Peers, seconds: int) -> float:
    """Return what share of one core the daemon takes while nothing but heartbeats comes."""

    def used_s() -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    before, began = used_s(), time.monotonic()
    for second in range(seconds):
        peers.beat()
        time.sleep(max(0.0, began + second + 1 - time.monotonic()))
    return (used_s() - before) / (time.monotonic() - began)


def measure(clients: int, backends: int, seconds: int, front: str, back: str, process: psutil.Process) -> None:
    """Open the connections one kind after the other, and tell what each adds."""
    with contextlib.closing(Peers(clients + backends)) as peers:
        peers.add_clients(f"tcp://{front}", 1)
        idle = told("idle", process, cpu_share(process, peers, seconds))
        peers.add_clients(f"tcp://{front}", clients)
        with_clients = told(f"{clients} clients", process, cpu_share(process, peers, seconds))
        peers.add_backends(f"tcp://{back}", backends)
        with_both = told(f"{clients} clients, {backends} backends", process, cpu_share(process, peers, seconds))
    for what, count, more in (
        ("client", clients, with_clients - idle),
        ("backend", backends, with_both - with_clients),
    ):
        if count:
            print(f"a {what} takes {more / count / 1024:.1f} KiB")


def main(arguments: Sequence[str]) -> int:
    """Measure once; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--backends", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=5, help="for how long the CPU is watched each time")
    parser.add_argument("--engine", choices=("native", "libzmq"), default="native")
    options = parser.parse_args(arguments)
    front, back, admin = free_addresses()
    process = start(front, back, admin, options.engine)
    try:
        print(f"Python {sys.version.split()[0]}, {os.uname().machine}, engine {options.engine}", flush=True)
        measure(options.clients, options.backends, options.seconds, front, back, process)
    finally:
        process.terminate()
        process.wait(30)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
