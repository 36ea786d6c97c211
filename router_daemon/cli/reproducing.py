"""`router-daemon reproduce`: a paper's own experiment again, with the policies that route live traffic.

Rules:
- Each paper gets a directory of its own below `--out`; files of an earlier run there are overwritten, none is deleted.
- How far it is is said on stderr: a bar on a terminal, a line for each stage elsewhere.
"""

# ruff: noqa: PLC0415 - a command loads only the rooms that it needs

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Final

import typer

from router_daemon.cli.exits import USAGE, CommandError, reported
from router_daemon.cli.processes import mapper

if TYPE_CHECKING:
    from router_daemon.lab.papers.content import Report
    from router_daemon.lab.papers.report import Painter
    from router_daemon.lab.papers.running import Options, Progress, Reproduce

ALL: Final = "all"


@reported
def reproduce(
    paper: Annotated[str, typer.Argument(metavar="cross-attention|ring|all", help="Which paper.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Write the report of each paper into a directory there.")],
    runs: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="Runs, with a seed each.")] = 5,
    messages: Annotated[
        int | None, typer.Option(metavar="N", min=100, help="Of a run. [default: as many as the paper has]")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="Of everything random.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="A look: fewer and shorter runs, in seconds.")] = False,
    jobs: Annotated[int | None, typer.Option(metavar="J", min=1, help="Processes. [default: one per core]")] = None,
) -> None:
    """Run a paper's experiment again.

    Writes report.html and report.md with its tables and figures, what was printed beside what was seen, and which
    statements follow from the paper's own description; CSV of every table and figure, and pictures where the extra
    `lab` is installed.

    Exit code: 0, or 2 for wrong usage. A statement that does not follow is a result, not a failure.
    """
    from router_daemon.lab.papers.registry import PAPERS
    from router_daemon.lab.papers.running import Options

    if paper not in (*PAPERS, ALL):
        raise CommandError(USAGE, f"there is no paper {paper}; there are: {', '.join(PAPERS)}, {ALL}")
    chosen = list(PAPERS) if paper == ALL else [paper]
    folders = {name: _folder(out / name) for name in chosen}  # before the minutes are spent
    paint = _painter()
    with ExitStack() as stack:
        spread = mapper(stack, jobs or os.cpu_count() or 1)
        options = Options(perf_counter, runs, messages, seed, quick, spread)
        for name in chosen:
            _one(name, PAPERS[name], options, folders[name], paint)


def _one(name: str, make: Reproduce, options: Options, folder: Path, paint: Painter | None) -> None:
    """Reproduce one paper, write its files and say what came of it."""
    from router_daemon.lab.papers.report import files

    began = perf_counter()
    with ExitStack() as stack:
        report = make(options, _progress(name, stack))
    for file, content in files(report, paint).items():
        (folder / file).write_bytes(content)
    print(f"{folder / 'report.html'}: {_verdicts(report)}; {perf_counter() - began:.0f} s")


def _folder(path: Path) -> Path:
    """Return the directory, made where it is not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(USAGE, f"--out: {path}: {error.strerror}") from None
    return path


def _verdicts(report: Report) -> str:
    kinds = [claim.verdict for claim in report.claims]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) or "no statements"


def _painter() -> Painter | None:
    from router_daemon.lab.papers.report import painter

    try:
        return painter()
    except ModuleNotFoundError as missing:
        print(f"no pictures: {missing.name} is not installed; pip install 'router-daemon[lab]'")
        return None


def _progress(name: str, stack: ExitStack) -> Progress:
    return _Bar(name, stack) if sys.stderr.isatty() else _Lines(name)


class _Bar:
    """A bar on a terminal."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self._name = name
        self._stack = stack

    def start(self, steps: int) -> None:
        """Draw an empty bar."""
        self._bar = self._stack.enter_context(typer.progressbar(length=steps, label=self._name, file=sys.stderr))

    def advance(self, what: str, steps: int = 1) -> None:
        """Fill some of it."""
        self._bar.label = f"{self._name}, {what}"
        self._bar.update(steps)


class _Lines:
    """A line for each stage."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._steps = self._done = 0
        self._what = ""

    def start(self, steps: int) -> None:
        """Take note."""
        self._steps = steps

    def advance(self, what: str, steps: int = 1) -> None:
        """Write a line where a stage begins."""
        if what != self._what:
            self._what = what
            sys.stderr.write(f"{self._name}: {what} ({100 * self._done // max(1, self._steps)} %)\n")
            sys.stderr.flush()
        self._done += steps
