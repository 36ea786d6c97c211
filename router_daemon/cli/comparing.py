"""`router-daemon compare`: the matrix of policies and workloads, run in the simulator.

Rules:
- Runs are functions of cell, contender, seed and number of messages: the same wherever they run, so they are spread
  over processes.
- Rows are printed as they come, goals at the end; `--out` gets comparison.md, .csv and .png, the last where the extra
  `lab` is installed.
"""

# ruff: noqa: PLC0415 - a command loads only the rooms that it needs

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router_daemon.cli.exits import USAGE, CommandError, reported
from router_daemon.cli.processes import mapper

if TYPE_CHECKING:
    from router_daemon.lab.compare import Row

SEEDS, MESSAGES = 6, 20_000
QUICK_SEEDS, QUICK_MESSAGES = 2, 1_000


@reported
def compare(
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write comparison.md, .csv and .png there.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"{QUICK_SEEDS} seeds of {QUICK_MESSAGES} messages: about two minutes.")
    ] = False,
    cells: Annotated[str | None, typer.Option(metavar="A,B", help="These cells only; --list names them.")] = None,
    policies: Annotated[str | None, typer.Option(metavar="X,Y", help="These policies only.")] = None,
    seeds: Annotated[int | None, typer.Option(metavar="N", min=1, max=1000, help=f"[default: {SEEDS}]")] = None,
    messages: Annotated[int | None, typer.Option(metavar="N", min=10, help=f"Per seed. [default: {MESSAGES}]")] = None,
    jobs: Annotated[int | None, typer.Option(metavar="J", min=1, help="Processes. [default: one per core]")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Try a setting in our shell: waiting.reserve=0; repeatable."),
    ] = None,
    prefetch: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="What backends register in our shell beside slots. [default: as the SDK]"
        ),
    ] = None,
    tuning: Annotated[
        bool, typer.Option("--tuning", help="Use the seeds that constants may be tuned on, not those for reports.")
    ] = False,
    list_cells: Annotated[bool, typer.Option("--list", help="Name the cells and exit.")] = False,
) -> None:
    """Compare the routing with published load balancers.

    Runs every policy on every workload in virtual time and prints success and latency, then the goals and where they
    are missed.

    Exit code: 0, or 2 for wrong usage. A goal that is missed is a result, not a failure.
    """
    from router_daemon.lab import contenders, workloads
    from router_daemon.lab.compare import compare as make
    from router_daemon.lab.compare import jobs as todo
    from router_daemon.lab.compare import table
    from router_daemon.lab.goals import verdicts
    from router_daemon.lab.matrix import cells as cell_names
    from router_daemon.lab.report import HEADER, csv_text, goals_text, line, markdown
    from router_daemon.policies.base import NAMES

    known = cell_names()
    if list_cells:
        print("\n".join(f"{cell.name:24} {cell.title}" for cell in known.values()))
        return
    names = _chosen("--cells", cells, known)
    chosen = _chosen("--policies", policies, NAMES) if policies else (contenders.OURS, *contenders.BASELINES)
    count = seeds or (QUICK_SEEDS if quick else SEEDS)
    per_seed = messages or (QUICK_MESSAGES if quick else MESSAGES)
    numbers = (workloads.TUNING if tuning else workloads.REPORTING)[:count]
    tried = _changes(changes or ())
    rows: list[Row] = []
    with ExitStack() as stack:
        work = todo(names, contenders.contenders(chosen), numbers, per_seed, tried, prefetch)
        for row in make(work, mapper(stack, jobs or os.cpu_count() or 1)):
            if not rows or row.cell != rows[-1].cell:
                print(f"\n{row.cell.name}: {row.cell.title}", *HEADER, sep="\n")
            print(line(row), flush=True)
            rows.append(row)
    made = table(rows)
    found = verdicts(made)
    print("\n" + goals_text(found))
    if out is not None:
        text = markdown(made, found, messages=per_seed, seeds=numbers)
        _write(out, text, csv_text(rows), made)


def _chosen(option: str, text: str | None, known: Iterable[str]) -> Sequence[str]:
    names = list(known)
    chosen = names if text is None else [name for name in text.split(",") if name]
    if strange := [name for name in chosen if name not in names]:
        raise CommandError(USAGE, f"{option}: there is no {', '.join(strange)}; there are: {', '.join(names)}")
    return chosen


def _changes(texts: Iterable[str]) -> Sequence[tuple[str, Any]]:
    from router_daemon.lab.contenders import changed, in_our_shell

    found = []
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found.append((name, json.loads(value)))
            changed(in_our_shell(), found)
        except json.JSONDecodeError:
            raise CommandError(USAGE, f"--set {text}: the value must be as in JSON") from None
        except ValueError as error:
            raise CommandError(USAGE, f"--set {error}") from None
    return found


def _write(out: Path, text: str, csv: str, made: Any) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "comparison.md").write_text(text, encoding="utf-8")
    (out / "comparison.csv").write_text(csv, encoding="utf-8")
    try:
        from router_daemon.lab.plot import png
    except ModuleNotFoundError as missing:
        print(f"no picture: {missing.name} is not installed; pip install 'router-daemon[lab]'")
    else:
        (out / "comparison.png").write_bytes(png(made))
