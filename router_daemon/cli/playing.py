"""The sockets and the program of `router-daemon conform`: a play gets what comes, and what it wants done is done.

Rules:
- Nothing is decided here. One ROUTER socket of libzmq, one clock, and a child where there is a command.
- The child is a process group of its own, and gone when this returns: told to end (SIGTERM) and given a while, then
  killed with all that it started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import zmq

from router_daemon.config import addresses
from router_daemon.conform.play import Action, Play, Restart, Scenario, Send, Terminate
from router_daemon.errors import StartError

LOOK_S: Final = 0.05
"""How often the child is looked after."""
REBIND_S: Final = 5.0
"""How long an address may stay taken by the socket that was closed."""
END_S: Final = 2.0
"""How long a child that was told to end may take at the end of a play."""

Socket = zmq.Socket[bytes]


class Stage:
    """Where a play is performed: a socket at an address, and the program that connects to it.

    Args:
        address: to listen at; port 0 takes any free one.
        command: of the program, `{address}` in it replaced; empty where it is started by somebody else.

    Attributes:
        address: where it listens, with the port it got. reachable: where to connect to for that.

    Raises:
        StartError: the address cannot be listened at, or there is no such program.
    """

    def __init__(self, address: str, command: Sequence[str]) -> None:
        self._context: zmq.Context[Socket] = zmq.Context()
        try:
            self._socket = self._open(address)
        except StartError:
            self._context.destroy(0)
            raise
        self.address: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.reachable = addresses.reachable(self.address)
        self._child: subprocess.Popen[bytes] | None = None
        self._told_exit = False
        if command:
            self._start([part.replace("{address}", self.reachable) for part in command])

    def perform(self, play: Play, scenarios: Sequence[Scenario[Any]], announce: Callable[[str], None]) -> None:
        """Play until the last script is over; `announce` is told the name of each."""
        scene = ""
        self._do(play.start(scenarios, time.monotonic()))
        while not play.finished:
            if play.scene != scene:
                scene = play.scene
                announce(scene)
            for frames in self._received(play.deadline - time.monotonic()):
                self._do(play.on_message(frames, time.monotonic()))
            if (code := self._exit_code()) is not None:
                self._do(play.on_exit(code, time.monotonic()))
            self._do(play.on_time(time.monotonic()))

    def await_first(self, seconds: float) -> None:
        """Return once something came, or nothing in so many seconds: for a program that somebody starts by hand."""
        until = time.monotonic() + seconds
        while not self._socket.poll(int(LOOK_S * 1000)) and time.monotonic() < until:
            pass

    def close(self) -> None:
        """End the program and close the socket."""
        if self._child is not None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(END_S)
            self._signal(signal.SIGKILL)
            self._child.wait()
        self._context.destroy(0)

    def _open(self, address: str) -> Socket:
        socket: Socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        if "[" in address:
            socket.setsockopt(zmq.IPV6, 1)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            socket.close(0)
            raise StartError(f"cannot listen at {address}: {zmq.strerror(error.errno or 0)}") from None
        return socket

    def _start(self, command: Sequence[str]) -> None:
        try:
            self._child = subprocess.Popen(  # noqa: S603 - what the user has typed
                command,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"CAR_ADDRESS": self.reachable},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            self._context.destroy(0)
            raise StartError(f"cannot start {command[0]}: {error}") from None

    def _received(self, seconds: float) -> Iterator[list[bytes]]:
        """Yield what has come by then, at most once around."""
        if self._socket.poll(max(0, int(min(seconds, LOOK_S) * 1000) + 1)):
            with contextlib.suppress(zmq.Again):
                yield self._socket.recv_multipart(zmq.NOBLOCK)

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                with contextlib.suppress(zmq.Again):  # the program reads nothing: the play will see that
                    self._socket.send_multipart([action.peer, *action.frames], zmq.NOBLOCK)
            elif isinstance(action, Restart):
                self._restart()
            elif isinstance(action, Terminate):
                self._signal(signal.SIGTERM)

    def _restart(self) -> None:
        """Close the socket, with all connections, and open another one at the same address."""
        self._socket.close(0)
        until = time.monotonic() + REBIND_S
        while True:
            try:
                self._socket = self._open(self.address)
            except StartError:  # libzmq closes in the background
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)
            else:
                return

    def _exit_code(self) -> int | None:
        """Return the exit code of a program that has ended, once."""
        if self._child is None or self._told_exit or (code := self._child.poll()) is None:
            return None
        self._told_exit = True
        return code

    def _signal(self, number: signal.Signals) -> None:
        assert self._child is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, number)


def perform(
    play: Play, scenarios: Sequence[Scenario[Any]], stage: Stage, first_s: float, announce: Callable[[str], None]
) -> None:
    """Play on a stage, once something has come or after `first_s`, and leave nothing of it behind."""
    try:
        stage.await_first(first_s)
        stage.perform(play, scenarios, announce)
    finally:
        stage.close()
