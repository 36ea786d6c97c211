"""`router-daemon top` on textual's own test terminal, against a real admin server: keys, clicks, drains, a lost daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Final

import pytest
import structlog
from admin_kit import Served

pytest.importorskip("textual", reason="the extra `top` is not installed")

from textual.pilot import Pilot
from textual.widgets import Input, Static, Tabs

from router_daemon.cli import asking
from router_daemon.cli.draining import PATH
from router_daemon.cli.exits import CommandError
from router_daemon.cli.top.app import Top
from router_daemon.cli.top.grid import MOST_ROWS, Grid
from router_daemon.cli.top.reading import Reading, read
from router_daemon.cli.top.screens import Help, Question
from router_daemon.testing import BrokerFixture

HOSTILE: Final = "evil\x1b[2J[red]x[/]"
HARMLESS: Final = "evil\\x1b[2J[red]x[/]"
LOOKS: Final = 500
Act = Callable[[Top, "Pilot[None]"], Awaitable[None]]


def broker_of(*names: str) -> BrokerFixture:
    broker = BrokerFixture(mode="single")
    for number, name in enumerate(names):
        broker.register(name, "c", slots=1 + number)
    return broker


@pytest.fixture
def served() -> Iterator[Served]:
    room = Served(broker_of("w1", "w2", "w10", HOSTILE))
    room.start()
    with structlog.testing.capture_logs():
        yield room
        room.stop()


def play(room: Served, act: Act, *, size: tuple[int, int] = (120, 30), **options: Any) -> None:
    """Run the terminal and what a test does with it."""

    def drain(name: str, drained: bool) -> None:
        if drained:
            asking.tell(room.address, PATH, {"backend": name}, "")
        else:
            asking.tell(room.address, PATH, {}, "", method="DELETE", backend=name)

    async def run() -> None:
        app = Top(partial(read, room.address), room.address, drain, **{"every_s": 0.2} | options)
        async with app.run_test(size=size) as pilot:
            await act(app, pilot)

    asyncio.run(run())


async def until(pilot: Pilot[None], so: Callable[[], bool]) -> None:
    """Let the terminal do what it has to until that is so."""
    for _ in range(LOOKS):
        if so():
            return
        await pilot.pause(0.01)
    raise AssertionError("it did not become so")


def column(app: Top, number: int = 0) -> list[str]:
    grid = app.query_one(Grid)
    return [str(grid.get_row_at(row)[number]) for row in range(grid.row_count)]


def line(app: Top, name: str) -> str:
    return str(app.query_one(f"#{name}", Static).render())


def titles(app: Top) -> list[str]:
    return [str(each.label) for each in app.query_one(Grid).columns.values()]


def place_of(app: Top, title: str) -> int | None:
    """Return where in the table's first line that title begins; None while it is not yet drawn where it is to be."""
    grid = app.query_one(Grid)
    number = next(number for number, each in enumerate(titles(app)) if each.split()[0] == title)
    widths = [each.get_render_width(grid) for each in grid.columns.values()]
    at = sum(widths[:number])
    drawn = [app.screen.get_style_at(grid.region.x + x, grid.region.y).meta for x in (at - 1, at)]
    there = [meta.get("column") for meta in drawn] == [number - 1, number]
    return at if there and grid.virtual_size.width == sum(widths) else None


async def click_title(app: Top, pilot: Pilot[None], title: str) -> None:
    """Click a title: columns are there sooner than they have their widths, and those sooner than they are drawn."""
    await until(pilot, lambda: place_of(app, title) is not None)
    assert await pilot.click(Grid, offset=((place_of(app, title) or 0) + 1, 0))


def test_it_shows_the_backends_with_harmless_names(served: Served) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.query_one(Grid).row_count == 4)
        assert column(app) == [HARMLESS, "w1", "w2", "w10"]
        assert served.address in line(app, "head")
        await until(pilot, lambda: "0 msg/s" in line(app, "head"))
        assert "\x1b[2J" not in app.export_screenshot()
        assert titles(app)[0] == "NAME ▲"

    play(served, act)


def test_keys_and_clicks_sort_by_any_column(served: Served) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.query_one(Grid).row_count == 4)
        for _ in titles(app):
            await pilot.press("greater_than_sign")
            await pilot.pause()
        assert titles(app)[0] == "NAME ▲", "once through all of them"
        await pilot.press("r")
        await until(pilot, lambda: column(app) == ["w10", "w2", "w1", HARMLESS])
        await click_title(app, pilot, "SLOTS")
        await until(pilot, lambda: column(app) == [HARMLESS, "w10", "w2", "w1"])
        await click_title(app, pilot, "SLOTS")
        await until(pilot, lambda: column(app) == ["w1", "w2", "w10", HARMLESS])
        await pilot.press("less_than_sign")
        await until(pilot, lambda: "QUEUE ▼" in titles(app))

    play(served, act)


def test_the_views_are_turned_by_numbers_by_tab_and_by_clicks(served: Served) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: bool(app.query_one(Grid).row_count))
        for key, title in (("2", "CAPABILITY ▲"), ("3", "ROUTE ▲"), ("tab", "PRIORITY ▲"), ("tab", "NAME ▲")):
            await pilot.press(key)
            await until(pilot, lambda title=title: titles(app)[0] == title)  # type: ignore[misc]
        await pilot.press("shift+tab")
        await until(pilot, lambda: titles(app)[0] == "PRIORITY ▲")
        assert line(app, "notes") == "refused: nothing"
        await pilot.press("6")
        assert app.query_one(Tabs).active == "waiting", "there is no sixth view"
        await pilot.click("#capabilities")
        await until(pilot, lambda: titles(app)[0] == "CAPABILITY ▲")
        assert column(app) == ["c"]

    play(served, act)


def test_a_filter_is_typed_kept_and_ended(served: Served) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.query_one(Grid).row_count == 4)
        await pilot.press("slash", "W", "1")
        await until(pilot, lambda: column(app) == ["w1", "w10"])
        assert "2 of 4 rows have 'W1' in them" in line(app, "notes")
        await pilot.press("enter")
        assert not app.query_one("#filter", Input).display
        await pilot.press("2", "1")
        await until(pilot, lambda: column(app) == ["w1", "w10"])
        await pilot.press("slash", "q")
        await until(pilot, lambda: column(app) == [])
        assert "no row has 'q' in it" in line(app, "notes"), "q is a letter there, in place of the old text"
        await pilot.press("escape")
        await until(pilot, lambda: app.query_one(Grid).row_count == 4)

    play(served, act)


def test_a_backend_is_drained_only_when_one_says_yes(served: Served) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.query_one(Grid).row_count == 4)
        await pilot.press("down", "down", "d")
        await until(pilot, lambda: isinstance(app.screen, Question))
        await pilot.press("enter")
        await until(pilot, lambda: not isinstance(app.screen, Question))
        assert served.broker.backend("w2").state == "up", "Enter is no"
        await pilot.press("d", "n", "d", "escape", "d", "y")
        await until(pilot, lambda: served.broker.backend("w2").state == "drained")
        await until(pilot, lambda: column(app, 1) == ["up", "up", "drained", "up"])
        await pilot.press("u")
        await until(pilot, lambda: isinstance(app.screen, Question))
        await pilot.click("#yes")
        await until(pilot, lambda: served.broker.backend("w2").state == "up")

    play(served, act)


def test_a_hostile_name_is_drained_by_that_name_and_asked_for_harmlessly(served: Served) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.query_one(Grid).row_count == 4)
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, Question))
        assert str(app.screen.query(Static).first().render()) == f"Drain {HARMLESS}?"
        await pilot.press("y")
        await until(pilot, lambda: served.broker.backend(HOSTILE).state == "drained")

    play(served, act)


def test_a_refusal_is_shown(served: Served) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.query_one(Grid).row_count == 4)
        await pilot.press("u", "y")
        await until(pilot, lambda: bool(app._notifications))
        [told] = app._notifications
        assert (told.severity, told.message) == (
            "error",
            f"backend {HOSTILE!r} is not drained by anybody".replace("\\x1b", "\\x1b"),
        )
        await pilot.press("2", "d")
        await until(pilot, lambda: len(app._notifications) == 2)
        assert not isinstance(app.screen, Question), "a capability cannot be drained"

    play(served, act)


def test_the_daemon_goes_away_and_comes_back_as_another(served: Served) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.query_one(Grid).row_count == 4)
        await asyncio.to_thread(served.go_away)
        await until(pilot, lambda: app.query_one("#problem").display)
        assert "no daemon's admin room at" in line(app, "problem")
        assert "asking again" in line(app, "problem")
        assert app.query_one(Grid).row_count == 4, "what was seen last stays"
        await asyncio.to_thread(served.come_back, broker_of("new"))
        await until(pilot, lambda: column(app) == ["new"])
        assert not app.query_one("#problem").display

    play(served, act)


def test_it_may_be_started_before_the_daemon(served: Served) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.query_one("#problem").display)
        assert "no daemon yet" in line(app, "head")
        await pilot.press("r", "greater_than_sign", "d", "tab", "2", "slash", "w", "enter")
        await asyncio.to_thread(served.come_back)
        await until(pilot, lambda: column(app) == ["w1", "w2", "w10"])

    served.go_away()
    play(served, act)


def test_paused_it_shows_what_it_showed(served: Served) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.query_one(Grid).row_count == 4)
        await pilot.press("p")
        await until(pilot, lambda: "PAUSED" in line(app, "head"))
        served.do(lambda: served.broker.register("late", "c"))
        seen = app._figures.reading
        await pilot.press("R")
        await until(pilot, lambda: app._figures.reading is not seen)
        assert app.query_one(Grid).row_count == 4
        await pilot.press("p")
        await until(pilot, lambda: app.query_one(Grid).row_count == 5)

    play(served, act)


@pytest.mark.parametrize("size", [(120, 30), (60, 20), (30, 10), (12, 5)])
def test_every_view_fits_any_terminal(served: Served, size: tuple[int, int]) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: bool(app.query_one(Grid).row_count))
        for key in ("1", "2", "3", "4", "question_mark"):
            await pilot.press(key)
            await pilot.pause()
        assert isinstance(app.screen, Help)
        await pilot.press("escape")
        await pilot.resize_terminal(200, 50)
        await pilot.pause()
        await pilot.press("1", "d", "escape")
        assert column(app)[-1] == "w10"

    play(served, act, size=size)


def test_q_quits_though_a_page_hangs() -> None:
    """The reader's thread is not waited for."""

    async def run() -> None:
        asked = asyncio.Event()
        loop, release = asyncio.get_running_loop(), __import__("threading").Event()

        def hangs() -> Reading:
            loop.call_soon_threadsafe(asked.set)
            release.wait(30.0)
            raise CommandError(1, "no daemon")

        app = Top(hangs, "127.0.0.1:1", lambda *_: None)
        async with app.run_test() as pilot:
            await asyncio.wait_for(asked.wait(), 10.0)
            await pilot.press("q")
        assert app._exit
        release.set()

    asyncio.run(run())


def test_of_many_rows_a_part_is_laid_out_and_a_filter_finds_the_others() -> None:
    rows = [{"name": f"b{number}", "state": "up"} for number in range(MOST_ROWS + 50)]
    source = partial(Reading, 0.0, {"backends": rows}, {}, {}, {}, 0.0)

    async def run() -> None:
        app = Top(source, "127.0.0.1:1", lambda *_: None, every_s=60.0)
        async with app.run_test() as pilot:
            await until(pilot, lambda: app.query_one(Grid).row_count == MOST_ROWS)
            assert f"{MOST_ROWS} of {len(rows)} rows" in line(app, "notes")
            await pilot.press("end", "slash", *"b549")
            await until(pilot, lambda: column(app) == ["b549"])

    asyncio.run(run())


def test_the_command_line_says_where_to_begin(served: Served) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: bool(app.query_one(Grid).row_count))
        assert (column(app), "SLOTS ▼" in titles(app)) == (["w10", "w2", "w1"], True)

    play(served, act, view="backends", sort="slots", wanted="w")


def test_a_view_that_is_not_there_is_the_first_one(served: Served) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: bool(app.query_one(Grid).row_count))
        assert titles(app)[0] == "NAME ▲"

    play(served, act, view="links", sort="colour")
