"""How a command ends badly: one clear line on stderr and an exit code, the same ones for every command."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Final, NoReturn, ParamSpec

import typer

from router_daemon.errors import (
    Cancelled,
    ConfigError,
    ConnectionLost,
    RequestRefused,
    RouterError,
    StartError,
    Unavailable,
)
from router_daemon.logs import printable

NO_DAEMON: Final = 1
USAGE: Final = 2
REFUSED: Final = 3
FAILED: Final = 4
INTERRUPTED: Final = 130
"""128 + SIGINT, as shells have it."""

P = ParamSpec("P")


class CommandError(Exception):
    """A command cannot go on.

    Attributes:
        exit_code: of the process.
    """

    def __init__(self, exit_code: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def exit_code_of(error: RouterError) -> int:
    """Return the exit code for an answer that is none."""
    if isinstance(error, ConnectionLost):
        return NO_DAEMON
    return REFUSED if isinstance(error, RequestRefused | Unavailable | Cancelled) else FAILED


def complain(text: str) -> None:
    """Write a line on stderr, whatever is in it."""
    sys.stderr.write(printable(text) + "\n")


def reported(command: Callable[P, None]) -> Callable[P, None]:
    """Have a command end with lines on stderr and an exit code instead of a traceback, for whatever may be expected."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ConfigError as error:
            _leave(USAGE, *str(error).splitlines())
        except CommandError as error:
            _leave(error.exit_code, f"error: {error}")
        except RouterError as error:
            _leave(exit_code_of(error), f"error: {error}")
        except StartError as error:
            _leave(NO_DAEMON, f"error: {error}")
        except KeyboardInterrupt:
            _leave(INTERRUPTED)

    return run


def _leave(exit_code: int, *lines: str) -> NoReturn:
    for line in lines:
        complain(line)
    raise typer.Exit(exit_code)
