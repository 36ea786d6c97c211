"""One run: for each row start the ring, load it, kill its busiest daemon at 60 % of the time, and tell.

Rules:
- Whatever happens, Ctrl-C included, every child is ended.
- The plan, the topics and the arrivals of all rows are drawn from one seed; what the machine does is not.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from chaos_app.daemon_side import Page

from ring_app.load import Load
from ring_app.options import Options, Row, parse
from ring_app.plan import Plan, daemon_name, make_plan
from ring_app.report import Measured, table
from ring_app.stage import Stage, StageError

KILL_AT: Final = 0.6
WARM_UP_S: Final = 1.0
"""Of load before that which counts: connections are made, the first estimates too."""


async def measure(row: Row, options: Options, directory: Path, say: Callable[[str], None]) -> Measured:
    """Run one row.

    Raises:
        StageError: a process did not do what it must.
    """
    plan = make_plan(options.daemons, options.shortcuts if row.shortcuts else 0, options.seed)
    stage = Stage(directory, plan, row, options)
    load = Load(plan, [ports.frontend_address for ports in stage.ports], options.rate, options.seed)
    try:
        began_s = time.monotonic()
        await stage.start()
        say(f"{row.name}: {plan.size} daemons know each other's backends after {time.monotonic() - began_s:.1f} s")
        await load.open()
        return await _play(row, options, plan, stage, load, say)
    finally:
        await load.close()
        await stage.stop()


async def _play(
    row: Row, options: Options, plan: Plan, stage: Stage, load: Load, say: Callable[[str], None]
) -> Measured:
    warm_up = Load(plan, [ports.frontend_address for ports in stage.ports], options.rate, options.seed + 1)
    await warm_up.open()
    await warm_up.run(WARM_UP_S)
    await warm_up.settle()
    await warm_up.close()
    begun = await stage.pages()
    killed_s = KILL_AT * options.seconds
    running = asyncio.ensure_future(load.run(options.seconds))
    await asyncio.sleep(killed_s)
    pages, killed = await stage.pages(), ""
    if options.kill:
        busiest = max(pages, key=lambda node: _traffic(pages[node]) - _traffic(begun[node]))
        killed = daemon_name(busiest)
        say(f"{row.name}: {killed} passed {_traffic(pages[busiest]):.0f} messages, more than any other: killed")
        stage.kill(busiest)
        await load.move(busiest)
    await running
    await load.settle()
    pages |= await stage.pages()
    measured = Measured(row.name, load.ledger, _hops(pages), killed, killed_s, options.seconds)
    measured.wrong = stage.complaints()
    measured.wrong += [] if load.ledger.balanced else ["a message is missing in the ledger, or there twice"]
    measured.wrong += [f"{load.ledger.unanswered} messages were not answered"] if load.ledger.unanswered else []
    return measured


def _traffic(page: Page) -> float:
    """Return how many messages a daemon had to do with: its clients', those for its backend, those passed on."""
    own = sum(page.by("router_messages_total", "outcome").values())
    return own + page.value("router_ring_taken_total") + page.value("router_ring_relayed_total")


def _hops(pages: dict[int, Page]) -> float:
    """Return the mean number of links to the backend, over all deliveries; one of a daemon's own takes none."""
    remote = sum(page.value("router_ring_hops_count") for page in pages.values())
    links = sum(page.value("router_ring_hops_sum") for page in pages.values())
    all_of_them = sum(sum(page.by("router_deliveries_total", "outcome").values()) for page in pages.values())
    # The home counts a delivery of another daemon, too: as one to its own backend.
    own = max(0.0, all_of_them - 2.0 * remote)
    return links / max(1.0, remote + own)


async def run(options: Options, say: Callable[[str], None]) -> bool:
    """Run every row and print the table; return whether all is well."""
    say(
        f"seed {options.seed}: {options.daemons} daemons, {options.shortcuts} shortcuts, {options.rate:g} messages/s "
        f"for {options.seconds:g} s a row, links {options.link_ms:g} ms longer"
    )
    rows: list[Measured] = []
    for row in options.rows:
        with tempfile.TemporaryDirectory(prefix="ring-") as directory:
            rows.append(await measure(row, options, Path(directory), say))
    say("")
    say(table(rows))
    wrong = [f"{row.name}: {text}" for row in rows for text in row.wrong]
    for text in wrong:
        say(f"FAILED {text}")
    return not wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and return the exit code: 0 well, 1 not, 2 it could not be done."""
    options = parse(arguments)
    try:
        return 0 if asyncio.run(run(options, lambda text: print(text, flush=True))) else 1
    except StageError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
