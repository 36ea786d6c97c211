"""What every reproduction is asked with: its size, its seed, how to spread its runs, and whom to tell how far it is.

Rules:
- A run is a function of what is handed to it alone, so it may be made in another process and the numbers do not depend
  on where, nor on how many processes there are. Measured times do, and are told apart in the reports.
- The clock is handed in like the processes: this room reads none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, TypeVar

from router_daemon.lab.papers.content import Report

T = TypeVar("T")
R = TypeVar("R")

RUNS: Final = 5
"""As in both papers."""


class Mapper(Protocol):
    """`map` of one function over many items, in the order of the items; perhaps in other processes."""

    def __call__(self, function: Callable[[T], R], items: Sequence[T], /) -> Iterable[R]:
        """Return what the function makes of each item."""


def in_turn(function: Callable[[T], R], items: Sequence[T], /) -> Iterable[R]:
    """Map in this process."""
    return map(function, items)


class Progress(Protocol):
    """Whom to tell how far a reproduction is."""

    def start(self, steps: int) -> None:
        """Say how many steps there will be, before the first one."""

    def advance(self, what: str, steps: int = 1) -> None:
        """Say that so many steps of a stage are done."""


class Quiet:
    """Tells nobody."""

    def start(self, steps: int) -> None:
        """Do nothing."""

    def advance(self, what: str, steps: int = 1) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Options:
    """How large a reproduction is.

    Attributes:
        timer: a clock in seconds that measures decisions, as `time.perf_counter`.
        runs: with a seed of its own each.
        messages: per run; None: as many as the paper has, or fewer where `quick`.
        seed: of everything random.
        quick: a look, in seconds instead of minutes: fewer and shorter runs.
        mapper: spreads runs over processes.
    """

    timer: Callable[[], float]
    runs: int = RUNS
    messages: int | None = None
    seed: int = 1
    quick: bool = False
    mapper: Mapper = in_turn

    def size(self, full: int, quick: int) -> int:
        """Return the messages of a run: as asked for, else the one or the other size."""
        return self.messages or (quick if self.quick else full)

    def each(self, progress: Progress, what: str, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return what the function makes of each item, a step of progress each."""
        made = []
        for result in self.mapper(function, items):
            made.append(result)
            progress.advance(what)
        return made


Reproduce: TypeAlias = Callable[[Options, Progress], Report]
