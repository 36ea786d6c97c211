"""How a run does, on stderr while it runs: a bar by rich where that is installed, else a line that is written over.

Where stderr is no terminal, nothing: a pipe wants the result.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from router_daemon.cli.bench.plan import Plan

Tell = Callable[[float, int, int], None]


@contextmanager
def shown(plan: Plan, *, quiet: bool) -> Iterator[Tell]:
    """Show what is told within: seconds since the warm-up began, messages answered, and not answered."""
    if quiet or not sys.stderr.isatty():
        yield lambda *_: None
    elif find_spec("rich") is None:
        yield from _line(plan)
    else:
        yield from _bar(plan)


def _bar(plan: Plan) -> Iterator[Tell]:
    from rich.console import Console  # noqa: PLC0415 - optional
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    whole_s = plan.warmup_s + plan.seconds
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[done]}")
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting ", total=whole_s, done="")

        def tell(after_s: float, answered: int, others: int) -> None:
            bar.update(
                task, completed=min(after_s, whole_s), description=_phase(plan, after_s), done=_done(answered, others)
            )

        yield tell


def _line(plan: Plan) -> Iterator[Tell]:
    def tell(after_s: float, answered: int, others: int) -> None:
        passed = f"{max(0.0, after_s):.0f}/{plan.warmup_s + plan.seconds:.0f} s"
        text = f"{_phase(plan, after_s)} {passed}, {_done(answered, others)}"
        sys.stderr.write(f"\r{text:<78}")
        sys.stderr.flush()

    try:
        yield tell
    finally:
        sys.stderr.write(f"\r{'':<78}\r")


def _phase(plan: Plan, after_s: float) -> str:
    if after_s < plan.warmup_s:
        return "warming up"
    return "measuring " if after_s < plan.warmup_s + plan.seconds else "waiting for the last answers"


def _done(answered: int, others: int) -> str:
    return f"{answered} answered" + (f", {others} not" if others else "")
