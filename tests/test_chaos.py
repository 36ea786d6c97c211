"""`scripts/chaos`: its proxy fails as told, its ledger balances for a true story alone, and a short run of it all."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from conftest import free_port

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from chaos_app import acts, options, work  # noqa: E402
from chaos_app.books import Account, Books, Window  # noqa: E402
from chaos_app.daemon_side import Page, compare, compare_proxied  # noqa: E402
from chaos_app.main import Run, tell  # noqa: E402
from chaos_app.memory import LEAST_SAMPLES, Plateau  # noqa: E402
from chaos_app.options import Options  # noqa: E402
from chaos_app.scene import Scene  # noqa: E402
from chaos_app.schedule import EARLY, Schedule  # noqa: E402
from chaos_app.stage import StageError  # noqa: E402
from fault_proxy import TICK_S, Proxy  # noqa: E402

WAIT_S: Final = 10.0
Link = tuple[asyncio.StreamReader, asyncio.StreamWriter]


# --- the proxy ---


@asynccontextmanager
async def proxied_echo() -> AsyncIterator[tuple[Proxy, Callable[[], Awaitable[Link]]]]:
    """Return a proxy before a server that says everything back, and how to connect to it."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = Proxy(free_port(), server.sockets[0].getsockname()[1])
    await proxy.start()
    links: list[Link] = []

    async def connect() -> Link:
        links.append(await asyncio.open_connection("127.0.0.1", proxy.port))
        return links[-1]

    try:
        yield proxy, connect
    finally:
        for _, writer in links:
            writer.transport.abort()
        await proxy.stop()
        server.close()
        await server.wait_closed()


async def echoed(link: Link, data: bytes) -> bytes:
    link[1].write(data)
    return await asyncio.wait_for(link[0].readexactly(len(data)), WAIT_S)


async def is_reset(link: Link) -> bool:
    """Tell whether the connection ends, with nothing more said."""
    try:
        return await asyncio.wait_for(link[0].read(), WAIT_S) == b""
    except ConnectionError:
        return True


def test_the_proxy_relays_everything() -> None:
    async def main() -> None:
        async with proxied_echo() as (proxy, connect):
            data = random.Random(1).randbytes(300_000)
            assert await echoed(await connect(), data) == data
            assert proxy.passed_bytes == 2 * len(data)

    asyncio.run(main())


def test_the_end_of_one_side_is_passed_on() -> None:
    async def main() -> None:
        async with proxied_echo() as (_, connect):
            link = await connect()
            assert await echoed(link, b"x") == b"x"
            link[1].write_eof()
            assert await is_reset(link)

    asyncio.run(main())


def test_delay_makes_everything_late_and_keeps_its_order() -> None:
    async def main() -> None:
        async with proxied_echo() as (proxy, connect):
            link = await connect()
            assert await echoed(link, b"first") == b"first"
            proxy.set("delay", delay_s=0.1)
            began_s = time.monotonic()
            link[1].write(b"one")
            assert await echoed(link, b"two") == b"one"
            assert time.monotonic() - began_s >= 0.2  # there and back
            proxy.set("pass")
            assert await echoed(link, b"END") == b"two"
            assert await asyncio.wait_for(link[0].readexactly(3), WAIT_S) == b"END"

    asyncio.run(main())


def test_drip_passes_a_few_bytes_at_a_time() -> None:
    async def main() -> None:
        async with proxied_echo() as (proxy, connect):
            link = await connect()
            proxy.set("drip", bytes_per_tick=8)
            began_s = time.monotonic()
            data = bytes(range(80))
            assert await echoed(link, data) == data
            assert time.monotonic() - began_s >= 9 * TICK_S

    asyncio.run(main())


def test_a_hole_swallows_and_stays_open_and_what_lost_bytes_is_reset_in_the_end() -> None:
    async def main() -> None:
        async with proxied_echo() as (proxy, connect):
            old = await connect()
            assert await echoed(old, b"x") == b"x"
            proxy.set("hole")
            fresh = await connect()
            for link in (old, fresh):
                link[1].write(b"into the hole")
            reading = asyncio.create_task(old[0].read(1))
            async with asyncio.timeout(WAIT_S):
                while proxy.swallowed_bytes < 26:
                    await asyncio.wait({reading}, timeout=TICK_S)
            assert not reading.done()
            reading.cancel()
            proxy.set("pass")
            assert await is_reset(fresh)
            assert await echoed(await connect(), b"y") == b"y"

    asyncio.run(main())


def test_cut_resets_what_is_there_and_what_comes() -> None:
    async def main() -> None:
        async with proxied_echo() as (proxy, connect):
            old = await connect()
            assert await echoed(old, b"x") == b"x"
            proxy.set("cut")
            assert await is_reset(old)
            assert await is_reset(await connect())
            assert proxy.resets == 2
            proxy.set("pass")
            assert await echoed(await connect(), b"y") == b"y"

    asyncio.run(main())


def test_nobody_behind_the_proxy_ends_the_connection() -> None:
    async def main() -> None:
        proxy = Proxy(free_port(), free_port())
        await proxy.start()
        link = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await is_reset(link)
        link[1].close()
        await proxy.stop()

    asyncio.run(main())


# --- the driver's ledger ---


def sent(
    books: Books, count: int = 1, *, ttl_s: float = 1.0, timed: bool = True, capability: str = "work"
) -> list[int]:
    return [books.sent(capability, ttl_s, 0.0, timed=timed, watched=True) for _ in range(count)]


def reply(books: Books, ident: int, now_s: float = 0.1, *, looked_s: float | None = None, last: bool = True) -> bool:
    return books.answer(ident, "REPLY", {"last": last}, now_s, now_s if looked_s is None else looked_s)


def error(books: Books, ident: int, code: str, now_s: float = 0.1) -> bool:
    return books.answer(ident, "ERROR", {"last": True, "code": code}, now_s, now_s)


def test_a_true_story_balances() -> None:
    books = Books(0.05)
    one, two, three, four, five, six, seven, eight = sent(books, 8)
    assert not reply(books, one, last=False)
    assert reply(books, one)
    assert books.answer(two, "ACCEPT", {"last": True}, 0.1, 0.1)
    for ident, code in ((three, "failed"), (four, "overloaded"), (five, "expired"), (six, "cancelled")):
        assert error(books, ident, code)
    books.give_up(seven, "client gone")
    books.new_life()
    books.give_up(eight, "daemon gone")
    books.unsent(sent(books)[0])
    assert books.check() == []
    assert books.faults == []
    line = books.by_fate()
    assert (line["sent"], line["answered"], line["refused"], line["open"]) == (8, 2, 1, 0)
    assert [line[fate] for fate in ("failed", "expired", "cancelled", "client gone", "daemon gone")] == [1] * 5


def no_answer(books: Books) -> None:
    sent(books)


def answered_twice(books: Books) -> None:
    [ident] = sent(books)
    reply(books, ident)
    error(books, ident, "failed")


def answered_unasked(books: Books) -> None:
    reply(books, 99)


def answered_after_the_client_left(books: Books) -> None:
    [ident] = sent(books)
    books.give_up(ident, "client gone")
    reply(books, ident)


def lost_and_answered_twice(books: Books) -> None:
    [ident] = sent(books, timed=False)
    books.give_up(ident, "lost")
    reply(books, ident)
    reply(books, ident)


def answered_late(books: Books) -> None:
    [ident] = sent(books, ttl_s=1.0)
    reply(books, ident, 1.2)


def a_flood_with_an_answer_too_many(books: Books) -> None:
    books.adopt({"capability": "flood", "sent": 5, "outcomes": {"answered": 5}, "open": 0, "twice": 1, "deaf": False})


def a_flood_that_does_not_add_up(books: Books) -> None:
    books.adopt({"capability": "flood", "sent": 5, "outcomes": {"answered": 3}, "open": 0, "twice": 0, "deaf": False})


def a_count_that_was_made_up(books: Books) -> None:
    books.account("work").outcomes["answered"] += 1


def a_message_that_was_forgotten(books: Books) -> None:
    [ident] = sent(books)
    del books.open[ident]


def a_message_nobody_booked(books: Books) -> None:
    books.issued += 1


@pytest.mark.parametrize(
    "story",
    [
        no_answer,
        answered_twice,
        answered_unasked,
        answered_after_the_client_left,
        lost_and_answered_twice,
        answered_late,
        a_flood_with_an_answer_too_many,
        a_flood_that_does_not_add_up,
        a_count_that_was_made_up,
        a_message_that_was_forgotten,
        a_message_nobody_booked,
    ],
)
def test_a_wrong_story_does_not_balance(story: Callable[[Books], None]) -> None:
    books = Books(0.05)
    [ident] = sent(books)
    reply(books, ident)
    assert books.check() == []
    story(books)
    assert books.check() != []


def test_what_was_given_up_as_lost_may_be_answered_once() -> None:
    books = Books(0.05)
    [ident] = sent(books, timed=False)
    books.give_up(ident, "lost")
    assert books.by_fate()["lost"] == 1
    assert reply(books, ident, 9.0)
    assert books.check() == []
    assert (books.by_fate()["lost"], books.by_fate()["answered"]) == (0, 1)


def test_a_late_look_of_the_drivers_and_a_pause_of_the_daemon_are_no_broken_promise() -> None:
    books = Books(0.05)
    late_look, paused = sent(books, 2, ttl_s=1.0)
    reply(books, late_look, 5.0, looked_s=1.1)
    reply(books, paused, 4.0)
    books.paused(0.5, 3.5)
    assert books.check() == []
    assert (books.timed, books.excused, books.late) == (2, 1, 0)


def test_goodput_is_what_was_answered_in_time_of_what_was_offered_in_the_window() -> None:
    books = Books(0.05)
    sent(books)
    books.window = window = Window()
    in_time, too_late, refused, _ = sent(books, 4, timed=False)
    books.window = None
    sent(books)
    reply(books, in_time, 0.5)
    reply(books, too_late, 3.0)
    error(books, refused, "overloaded")
    assert (window.offered, window.answered, window.goodput) == (4, 1, 0.25)


# --- the daemon's books ---

TRUE: Final = {
    ("work", "answered"): 7,
    ("work", "expired"): 1,
    ("bulk", "answered"): 3,
    ("leaving", "client_gone"): 2,
    ("proxied", "answered"): 2,
}


def page(counts: dict[tuple[str, str], int], *, unread: int = 1, gone: int = 0, in_flight: int = 0) -> Page:
    lines = [f'router_messages_total{{capability="{c}",outcome="{o}"}} {n}.0' for (c, o), n in counts.items()]
    lines += [f'router_lost_answers_total{{cause="{c}"}} {n}.0' for c, n in (("unread", unread), ("gone", gone))]
    return Page("\n".join(["# HELP", *lines, f"router_messages_in_flight {in_flight}.0"]))


def account(count: int, **outcomes: int) -> Account:
    made = Account()
    made.sent = count
    made.outcomes.update({name.replace("_", " "): n for name, n in outcomes.items()})
    return made


def driver() -> dict[str, Account]:
    return {
        "work": account(8, answered=7, expired=1),
        "bulk": account(3, answered=2, lost=1),
        "leaving": account(2, client_gone=2),
        "proxied": account(3, answered=1, lost=2),
    }


def test_both_books_agree() -> None:
    assert compare(driver(), page(TRUE), quiet=True) == []
    assert compare_proxied([driver()], [page(TRUE)]) == []


@pytest.mark.parametrize(
    "wrong",
    [
        page(TRUE | {("work", "answered"): 6}),
        page(TRUE | {("work", "answered"): 8}),
        page(TRUE | {("work", "answered"): 6, ("work", "failed"): 1}),
        page(TRUE | {("bulk", "answered"): 2}),
        page(TRUE | {("leaving", "client_gone"): 1}),
        page(TRUE | {("flood", "answered"): 1}),
        page(TRUE | {("bulk", "answered"): 1, ("bulk", "failed"): 2}),
        page(TRUE, unread=0),
        page(TRUE, unread=2),
        page(TRUE, gone=9),
        page(TRUE, in_flight=1),
    ],
)
def test_books_that_contradict_each_other_are_found(wrong: Page) -> None:
    assert compare(driver(), wrong, quiet=True) != []


def test_of_a_life_that_was_killed_the_last_page_is_a_lower_bound() -> None:
    killed = {"work": account(8, answered=5, daemon_gone=3)}
    assert compare(killed, page({("work", "answered"): 4}), quiet=False) == []
    assert compare(killed, page({("work", "answered"): 8}), quiet=False) == []
    assert compare(killed, page({("work", "answered"): 9}), quiet=False) != []
    assert compare(killed, page({("work", "failed"): 4}), quiet=False) != []


def test_no_daemon_reads_what_was_never_sent() -> None:
    lives = [{"proxied": account(2)}, {"proxied": account(3)}]
    assert compare_proxied(lives, [page({("proxied", "answered"): 4}), page({("unknown", "no_capability"): 1})]) == []
    assert compare_proxied(lives, [page({("proxied", "answered"): 4}), page({("unknown", "no_capability"): 2})]) != []


# --- memory, schedule, options ---


def test_memory_that_levels_off_is_told_from_memory_that_grows() -> None:
    flat = [30.0 + min(n, 50) for n in range(4 * LEAST_SAMPLES)]
    growing = [30.0 + n / 10 for n in range(4 * LEAST_SAMPLES)]
    assert Plateau(flat).holds
    assert not Plateau(growing).holds
    assert "last quarter 80.0 MiB" in str(Plateau(flat))
    assert Plateau(growing[: LEAST_SAMPLES - 1]).holds
    assert "too short" in str(Plateau(growing[: LEAST_SAMPLES - 1]))
    assert Plateau([]).holds


def drawn(seed: int, **keys: Any) -> list[tuple[float, str]]:
    schedule, elapsed_s, found = Schedule(Options(seconds=300.0, seed=seed, **keys)), 0.0, []
    while (act := schedule.next(elapsed_s)) is not None:
        found.append((elapsed_s, act))
        elapsed_s += 4.0
    return found


def test_the_schedule_is_drawn_from_the_seed() -> None:
    assert drawn(5) == drawn(5)
    assert drawn(5) != drawn(6)
    names = [act for _, act in drawn(5)]
    assert set(names) == set(acts.ACTS)
    assert all(at < EARLY * 300 for at, act in drawn(5) if act in acts.ENDS_DAEMON)


def test_the_acts_can_be_named() -> None:
    assert [act for _, act in drawn(1, acts=["cut", "hole", "cut"], in_order=True)] == ["cut", "hole", "cut"]
    assert {act for _, act in drawn(1, acts=["kill_daemon"])} == {"kill_daemon"}
    found = options.parse(["--seconds", "9", "--seed", "3", "--acts", "cut,drip", "--set", "routing.heads=2"])
    assert (found.seconds, found.seed, found.acts, found.settings) == (9.0, 3, ["cut", "drip"], ["routing.heads=2"])


def test_an_act_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        options.parse(["--acts", "cut,earthquake"])
    assert ended.value.code == 2
    assert "no such act: earthquake" in capsys.readouterr().err


def test_a_body_says_whose_it_is_and_what_it_asks_for() -> None:
    body = work.body_of(2**40, once=True, size=100, answer_size=7)
    assert len(body) == 100
    assert work.parse(body) == (2**40, True, 7)
    assert work.id_in(work.answer_to(2**40, 500)) == 2**40


# --- all of it ---

SHORT: Final = ["kill_backend", "stop_daemon", "leaving_client", "cut", "drain_daemon", "flood_bytes"]


@pytest.mark.slow
def test_a_short_run_balances(tmp_path: Path) -> None:
    told: list[str] = []
    short = Options(
        seed=2,
        acts=SHORT,
        in_order=True,
        capacity_seconds=0.5,
        flood_seconds=1.0,
        pace=0.3,
        slack_ms=3000.0,
        goodput=0.5,
    )
    run = Run(short, tmp_path, told.append)
    found = asyncio.run(run.play())
    assert tell(run, found, told.append), "\n".join(told)
    assert run.capacity > 0
    totals = run.scene.books.totals()
    assert set(totals) == {"work", "oneway", "all", "proxied", "leaving", "flood"}
    assert totals["flood"].outcomes["overloaded"] > 0
    assert totals["leaving"].outcomes["client gone"] + totals["leaving"].outcomes["answered"] == 50
    assert len(run.scene.pages) == 2


@pytest.mark.slow
def test_a_daemon_that_dies_is_noticed_and_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def murder(scene: Scene) -> str:
        scene.daemon.signal(signal.SIGKILL)
        await asyncio.Event().wait()
        return "never"

    monkeypatch.setitem(acts.ACTS, "murder", murder)
    short = Options(seed=2, acts=["murder"], in_order=True, capacity_seconds=0.1)
    run = Run(short, tmp_path, lambda _: None)
    with pytest.raises(StageError, match="the daemon died in murder: killed by SIGKILL"):
        asyncio.run(run.play())
    assert run.scene.books.check() != []


@pytest.mark.slow
def test_ctrl_c_ends_every_process_and_still_tells(tmp_path: Path) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT / "scripts"), str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "chaos_app", "--seed", "1", "--acts", "leaving_client", "--capacity-seconds", "60"]
    env = os.environ | {"PYTHONPATH": path, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        started = next((line for line in lines if "backends registered" in line), "")
        pid = int(started.partition("pid ")[2].partition(",")[0])
        process.send_signal(signal.SIGINT)
        rest = "".join(lines)
    assert process.returncode == 130, rest
    assert "stopped; the ledger as far as it got" in rest
    assert not Path(f"/proc/{pid}").exists()
    assert list(tmp_path.iterdir()) == []
