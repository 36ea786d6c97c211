"""What `router-daemon top` shows, without a terminal: rates, percentiles, tables, sorting, how often it reads, --once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from math import inf
from typing import Any, Final

import pytest
import structlog
from admin_kit import Served
from command_line import invoke
from conftest import free_port

from router_daemon.cli import asking
from router_daemon.cli.exits import CommandError
from router_daemon.cli.top import cells, status, views
from router_daemon.cli.top.cells import Cell, Column, Line, Table, arranged, bar, natural, number, percent, text
from router_daemon.cli.top.command import VIEWS, printed
from router_daemon.cli.top.figures import WINDOW_S, Figures, quantile_of
from router_daemon.cli.top.reader import IDLE_TIMES, Reader, pause_s
from router_daemon.cli.top.reading import START, Labels, Reading, Samples, read, samples_of
from router_daemon.core.actions import Deliver
from router_daemon.core.operating import Operator
from router_daemon.testing import BrokerFixture, only

HOSTILE: Final = "evil\x1b[2J[red]x[/]\u202e"
MESSAGES: Final = "router_messages_total"
ANSWERED: Final = (("capability", "c"), ("outcome", "answered"))
EXPIRED: Final = (("capability", "c"), ("outcome", "expired"))


def reading(
    at: float, *, acked: int = 0, started: float = 1.0, ring: Any = None, samples: Samples | None = None
) -> Reading:
    rows = [{"name": "a", "state": "up", "deliveries": {"acked": acked}, "failures": {"timeout": acked // 10}}]
    return Reading(at, {"backends": rows}, {}, ring or {}, {START: {(): started}, **(samples or {})}, 0.01)


def figures_of(*readings: Reading) -> Figures:
    figures = Figures()
    for each in readings:
        figures.take(each)
    return figures


def cells_of(table: Table, key: str) -> dict[str, str]:
    line = next(line for line in table.lines if line.key == key)
    return {column.key: cell.text for column, cell in zip(table.columns, line.cells, strict=True)}


# --- rates ---


def test_rates_are_differences_over_the_time_between() -> None:
    before: dict[Labels, float] = {ANSWERED: 100.0, EXPIRED: 1.0}
    figures = figures_of(reading(10.0, acked=100, samples={MESSAGES: before}))
    assert (figures.rate(MESSAGES), figures.backend_rates("a")) == (None, (None, None))
    figures.take(reading(12.0, acked=140, samples={MESSAGES: {ANSWERED: 120.0, EXPIRED: 3.0}}))
    assert figures.rate(MESSAGES) == pytest.approx(11.0)
    assert figures.rate(MESSAGES, outcome="answered") == pytest.approx(10.0)
    assert figures.rate(MESSAGES, capability="other") == 0.0
    assert figures.backend_rates("a") == pytest.approx((20.0, 2.0))
    assert figures.backend_rates("nobody") == (None, None)


def test_a_series_that_is_new_began_at_zero() -> None:
    figures = figures_of(reading(0.0, samples={MESSAGES: {}}), reading(1.0, samples={MESSAGES: {ANSWERED: 7.0}}))
    assert figures.rate(MESSAGES) == pytest.approx(7.0)


def test_the_window_is_bounded() -> None:
    figures = Figures()
    for second in range(100):
        figures.take(reading(float(second), samples={MESSAGES: {ANSWERED: float(second * second)}}))
        assert figures.seconds <= WINDOW_S
    assert figures.rate(MESSAGES) == pytest.approx((99**2 - 94**2) / 5.0)


def test_a_daemon_that_was_started_anew_has_no_rates_yet() -> None:
    figures = figures_of(reading(0.0, samples={MESSAGES: {ANSWERED: 50.0}}))
    figures.take(reading(1.0, started=2.0, samples={MESSAGES: {ANSWERED: 60.0}}))
    assert figures.rate(MESSAGES) is None
    figures.take(reading(2.0, started=2.0, samples={MESSAGES: {ANSWERED: 63.0}}))
    assert figures.rate(MESSAGES) == pytest.approx(3.0)
    figures.forget()
    assert (figures.rate(MESSAGES), figures.value(START)) == (None, None)


def test_a_counter_that_went_back_has_no_rate() -> None:
    figures = figures_of(reading(0.0, acked=50, samples={MESSAGES: {ANSWERED: 50.0}}))
    figures.take(reading(1.0, acked=3, samples={MESSAGES: {ANSWERED: 3.0}}))
    assert (figures.rate(MESSAGES), figures.backend_rates("a")) == (None, (None, None))


@pytest.mark.parametrize(
    ("share", "cumulative", "expected"),
    [
        (0.5, {1.0: 10.0, 2.0: 10.0, inf: 10.0}, 0.5),
        (0.5, {1.0: 0.0, 2.0: 10.0, inf: 10.0}, 1.5),
        (0.99, {1.0: 50.0, 2.0: 90.0, inf: 100.0}, 2.0),
        (0.9, {1.0: 50.0, 2.0: 90.0, inf: 100.0}, 2.0),
        (0.5, {1.0: 0.0, inf: 0.0}, None),
        (0.5, {}, None),
    ],
)
def test_a_quantile_lies_within_its_bucket(share: float, cumulative: Mapping[float, float], expected: Any) -> None:
    assert quantile_of(share, cumulative) == (None if expected is None else pytest.approx(expected))


def test_quantiles_are_of_what_came_in_the_window() -> None:
    def buckets(*counts: float) -> dict[str, Any]:
        bounds = ("0.001", "0.01", "+Inf")
        return {"s_bucket": {(("le", bound),): count for bound, count in zip(bounds, counts, strict=True)}}

    figures = figures_of(
        reading(0.0, samples=buckets(1000.0, 1000.0, 1000.0)), reading(1.0, samples=buckets(1000, 1010, 1010))
    )
    assert figures.quantile(0.5, "s") == pytest.approx(0.0055)
    assert figures.quantile(0.5, "another") is None


# --- cells and their order ---


def table_of(*lines: tuple[str, float | str | None]) -> Table:
    columns = (Column("name", "NAME", right=False, falling=False), Column("n", "N"))
    made = tuple(Line(name, (text(name), text(by) if isinstance(by, str) else number(by))) for name, by in lines)
    return Table("t", "T", columns, made, "name")


def test_names_are_sorted_as_people_count_and_the_unknown_comes_last() -> None:
    table = table_of(("w10", 1.0), ("w2", None), ("w1", 3.0), ("W3", 2.0))
    assert [line.key for line in arranged(table, "name", falling=False)] == ["w1", "w2", "W3", "w10"]
    assert [line.key for line in arranged(table, "n", falling=True)] == ["w1", "W3", "w10", "w2"]
    assert [line.key for line in arranged(table, "n", falling=False)] == ["w10", "W3", "w1", "w2"]
    assert next(line.key for line in arranged(table, "no such", falling=True)) == "w10"


def test_a_filter_looks_into_every_cell_in_any_case() -> None:
    table = table_of(("alpha", 1.0), ("BETA", 22.0))
    assert [line.key for line in arranged(table, "name", falling=False, wanted="bet")] == ["BETA"]
    assert [line.key for line in arranged(table, "name", falling=False, wanted="22")] == ["BETA"]
    assert arranged(table, "name", falling=False, wanted="gamma") == []
    assert natural("²5") != natural("25"), "digits of other scripts are letters here"


def test_cells_say_in_few_characters_what_they_mean() -> None:
    assert text(HOSTILE).text == "evil\\x1b[2J[red]x[/]\\u202e"
    assert len(text("x" * 300).text) == cells.LONGEST
    assert text("x" * 300).long == "x" * 300
    assert [number(value).text for value in (None, True, "5", 0, 0.0, 1234.567)] == ["-", "-", "-", "0", "0", "1235"]
    assert number(0.00123, unit=1000.0).text == "1.23"
    assert percent(0.5, warn_below=0.9, bad_below=0.8) == Cell("50", 0.5, "bad")
    assert percent(None).by is None
    assert (bar(4, 4).tone, bar(1, 100).text.count("━"), bar(0, 0).long, bar(None, 4).text) == ("warn", 1, "0/0", "-")


# --- the tables, of a real broker ---


@pytest.fixture
def served() -> Iterator[Served]:
    broker = BrokerFixture(mode="single")
    for name in ("a", "b", HOSTILE):
        broker.register(name, "c", "d" if name == "b" else HOSTILE, slots=2, group="blue")
    room = Served(broker)
    room.start()
    with structlog.testing.capture_logs():
        yield room
        room.stop()


def work(room: Served, messages: int, after_s: float = 0.004) -> None:
    def act() -> None:
        for client_id in range(messages):
            [sent] = only(room.broker.send("c", client_id=client_id), Deliver)
            room.broker.advance(after_s)
            room.broker.ack(sent)

    room.do(act)


def test_every_table_is_there_for_a_real_daemon(served: Served) -> None:
    figures = figures_of(read(served.address, lambda: 10.0))
    work(served, 20)
    served.do(lambda: Operator(served.broker.broker).drain("b", served.broker.clock.now))
    figures.take(read(served.address, lambda: 12.0))
    found = views.tables(figures)
    assert list(found) == ["backends", "capabilities", "routes", "waiting"], "no ring, no tables of one"
    assert cells_of(found["backends"], "b")["state"] == "drained"
    done = [float(cells_of(found["backends"], line.key)["rate"]) for line in found["backends"].lines]
    assert sum(done) == pytest.approx(10.0)
    row = cells_of(found["capabilities"], "c")
    assert (row["up"], row["rate"], row["success"], row["failing"]) == ("2/3", "10.0", "100", "0")
    assert 2.5 <= float(row["p50"]) <= 5.0
    assert cells_of(found["routes"], "stable")["rate"] == "10.0"
    assert [line.key for line in found["waiting"].lines] == ["1", "2", "3", "4"]
    assert all(len(line.cells) == len(table.columns) for table in found.values() for line in table.lines)
    shown = [cell.text for table in found.values() for line in table.lines for cell in line.cells]
    assert all(each.isprintable() for each in shown)


def test_a_drained_name_that_nobody_has_is_told(served: Served) -> None:
    served.do(lambda: Operator(served.broker.broker).drain("b", served.broker.clock.now))
    served.do(lambda: served.broker.unregister(b"b"))
    table = views.backends(figures_of(read(served.address)))
    assert table.notes == ("drained and not there: b",)


def test_a_ring_has_two_tables() -> None:
    ring = {
        "name": "x",
        "ring": "r",
        "links": [{"neighbour": HOSTILE, "state": "down", "rtt_ms": None}, {"neighbour": "y", "state": "up"}],
        "daemons": [{"name": "y", "reachable": True, "hops": 1, "way_ms": 0.5, "path": ["y"], "backends": ["b"]}],
    }
    found = views.tables(figures_of(reading(0.0, ring=ring)))
    assert list(found) == list(VIEWS)
    assert [line.cells[1].tone for line in found["links"].lines] == ["bad", "good"]
    assert cells_of(found["daemons"], "y") == {
        "daemon": "y",
        "reached": "yes",
        "hops": "1",
        "way": "0.50",
        "heard": "-",
        "backends": "1",
        "path": "y",
    }


def test_an_answer_of_another_daemon_is_dashes_and_no_traceback() -> None:
    odd: dict[str, Any] = {"backends": [{"name": 5}, "x"], "drained": 3}
    found = views.tables(figures_of(Reading(0.0, odd, {"routes": [{}], "rollout": 7}, {"name": "x"}, {}, 0.0)))
    assert cells_of(found["backends"], "5")["latency"] == "-"
    assert all(len(line.cells) == len(table.columns) for table in found.values() for line in table.lines)


def test_what_is_no_metrics_is_no_daemon() -> None:
    with pytest.raises(CommandError, match="no metrics"):
        samples_of("# a page {of} another server\nx y z", "h:1")


# --- the lines above ---


def test_the_lines_above_lose_what_does_not_fit(served: Served) -> None:
    figures = figures_of(read(served.address, lambda: 0.0))
    work(served, 10)
    figures.take(read(served.address, lambda: 1.0))
    whole = status.traffic_line(figures)
    assert whole.startswith("10.0 msg/s · 100 % answered · p99 ")
    assert whole.endswith("cache 90 %"), whole
    for room in range(len(whole) + 1):
        line = status.traffic_line(figures, room)
        assert len(line) <= max(room, len("10.0 msg/s"))
        assert whole.startswith(line)
    assert f"at {served.address}" in status.daemon_line(figures, served.address, 0.0)


def test_times_and_sparks() -> None:
    assert [status.duration(seconds) for seconds in (-1.0, 59.9, 61.0, 7260.0, 90_000.0)] == [
        *("0 s", "59 s", "1 min 1 s", "2 h 1 min", "1 d 1 h")
    ]
    assert status.spark([1.0, None, 2.0], 10) == "▄ ▇"
    assert status.spark([0.0, 0.0], 10) == "▁▁"
    assert status.spark([1.0] * 50, 3) == "▇▇▇"
    assert status.spark([1.0], 0) == ""


# --- how often it reads ---


def test_readings_follow_each_other_and_leave_the_daemon_its_time() -> None:
    assert pause_s(1.0, 0.01, read=True) == pytest.approx(0.99)
    assert pause_s(1.0, 2.0, read=True) == pytest.approx(2.0 * IDLE_TIMES)
    assert pause_s(1.0, 5.0, read=False) == 0.0


def test_there_are_never_two_readings_at_a_time_and_none_after_the_end() -> None:
    inside, most, enough = [0], [0], threading.Event()
    told: list[object] = []

    def source() -> Reading:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        inside[0] -= 1
        if len(told) % 2:
            raise CommandError(1, "no daemon")
        return reading(0.0)

    def take(found: object) -> None:
        told.append(found)
        reader.hurry()
        if len(told) == 6:
            enough.set()
            reader.stop()

    reader = Reader(source, take, every_s=0.0)
    reader.start()
    assert enough.wait(10.0)
    reader._thread.join(10.0)
    assert not reader._thread.is_alive()
    assert (len(told), most) == (6, [1])
    assert [isinstance(each, CommandError) for each in told] == [False, True] * 3


# --- --once ---


def test_once_prints_a_table_for_pipes(served: Served) -> None:
    text_ = printed(
        served.address, "backends", "done/s", reverse=False, wanted="", every_s=1.0, pause=lambda _: work(served, 5)
    )
    head, table = text_.split("\n\n")
    assert head.splitlines()[0].startswith("router-daemon ")
    lines = [line.split() for line in table.splitlines()]
    assert lines[0][:3] == ["NAME", "STATE", "OPEN"]
    assert len(lines) == 4
    assert text_.replace("\n", "").isprintable()
    rates = [float(line[3]) for line in lines[1:]]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.0


def test_once_filters_and_sorts(served: Served) -> None:
    def names(**options: Any) -> list[str]:
        asked: dict[str, Any] = {"sort": "", "reverse": False, "wanted": ""} | options
        text_ = printed(served.address, "backends", every_s=0.2, pause=lambda _: None, **asked)
        return [line.split()[0] for line in text_.split("\n\n")[1].splitlines()[1:]]

    assert names() == ["a", "b", "evil\\x1b[2J[red]x[/]\\u202e"]
    assert names(reverse=True) == ["evil\\x1b[2J[red]x[/]\\u202e", "b", "a"]
    assert names(wanted="C, D") == ["b"]
    assert names(wanted="nobody") == []


def test_what_the_command_line_refuses() -> None:
    address = f"127.0.0.1:{free_port()}"
    result = invoke("top", "--once", "--admin", address)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    result = invoke("top", "--once", "--view", "nothing", "--admin", address)
    assert (result.exit_code, "must be one of backends" in result.stderr) == (2, True)
    result = invoke("top", "--admin", address)
    assert (result.exit_code, "needs a terminal" in result.stderr) == (2, True)


def test_what_a_daemon_does_not_have_is_said(served: Served) -> None:
    said: dict[str, Any] = {"reverse": False, "wanted": "", "every_s": 0.2, "pause": lambda _: None}
    with pytest.raises(CommandError, match="in no ring"):
        printed(served.address, "links", "", **said)
    with pytest.raises(CommandError, match="has the columns NAME, STATE"):
        printed(served.address, "backends", "colour", **said)


def test_without_textual_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    result = invoke("top", "--admin", "127.0.0.1:1")
    assert result.exit_code == 2
    assert result.stderr == "error: top needs textual: pip install 'router-daemon[top]' (without it: top --once)\n"


def test_a_page_that_is_no_text_is_no_daemon(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_body", lambda *_: b"\xff")
    with pytest.raises(CommandError, match="no text"):
        asking.fetch_text(served.address, "/metrics")
