"""What outlives a restart of what people have said, the rollback file, and both with daemons that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import stat
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import structlog
from command_line import invoke
from conftest import Daemon, DaemonFactory, free_port
from rollout_kit import rollout_of, send_and_answer, with_candidate

from router_daemon.core.operating import Act, Operator, Refused
from router_daemon.core.overrides import MOST_S
from router_daemon.core.rollout import ROLLED_BACK, RUNNING
from router_daemon.errors import StartError
from router_daemon.operations.file import NAME, VERSION, Kept, OperationsFile
from router_daemon.operations.keeper import OperationsKeeper
from router_daemon.testing import BrokerFixture

WALL: Final = 1_750_000_000.0
STAGES: Final = (1.0, 5.0, 100.0)


class Life:
    """One process's worth of it: a broker with a rollout, its operator and its keeper."""

    def __init__(self, directory: Path | None, *, wall: float = WALL, rollback_file: str = "", **rollout: Any) -> None:
        self.broker = with_candidate("a", "b", **{"stages": STAGES} | rollout)
        self.operator = Operator(self.broker.broker)
        self.wall = wall
        self.woken = 0
        self.keeper = OperationsKeeper(
            self.broker.broker,
            self.operator,
            directory=str(directory or ""),
            rollback_file=rollback_file,
            wake=self._wake,
            clock=self.broker.clock,
            wall=lambda: self.wall,
        )
        self.keeper.restore()

    def _wake(self) -> None:
        self.woken += 1

    def save(self) -> None:
        """Write, and let go as a kill would: without a last write."""
        asyncio.run(self._save())

    async def _save(self) -> None:
        await self.keeper.save()
        await self.keeper.finish()

    def acts(self) -> list[str]:
        return [act["what"] for act in self.operator.view()["acts"]]


def test_that_another_daemon_has_stopped_it_is_known_after_a_restart(tmp_path: Path) -> None:
    """Or it would tell the ring so on its own behalf."""
    first = Life(tmp_path)
    rollout_of(first.broker).stop_elsewhere("b", first.broker.clock.now)
    first.save()
    rollout = rollout_of(Life(tmp_path).broker)
    assert (rollout.state, rollout.elsewhere, rollout.reason) == (ROLLED_BACK, True, "daemon b has stopped it")


def test_a_rolled_back_rollout_stays_so_over_a_restart(tmp_path: Path) -> None:
    first = Life(tmp_path, percent=100.0)
    assert send_and_answer(first.broker, 1) == "candidate"
    first.operator.roll_back(first.broker.clock.now, "odd")
    first.operator.remember(Act(WALL, "rollback", "odd", "127.0.0.1"))
    first.save()
    second = Life(tmp_path, percent=100.0, wall=WALL + 60.0)
    rollout = rollout_of(second.broker)
    assert (rollout.state, rollout.reason, second.acts()) == (ROLLED_BACK, "odd", ["rollback"])
    [told] = rollout.view(second.broker.clock.now)["history"]
    assert (told["what"], told["age_s"]) == ("rollout rolled back", pytest.approx(60.0))
    assert send_and_answer(second.broker, 1) == "stable"
    second.operator.resume(second.broker.clock.now)
    second.save()
    assert rollout_of(Life(tmp_path).broker).state == RUNNING


def test_a_stage_goes_on_with_its_share_and_the_time_served(tmp_path: Path) -> None:
    first = Life(tmp_path)
    first.operator.advance(first.broker.clock.now)
    first.broker.clock.advance(100.0)
    first.save()
    second = Life(tmp_path, wall=WALL + 3600.0)
    rollout = rollout_of(second.broker)
    assert rollout.percent == 5.0
    assert rollout.view(second.broker.clock.now)["stage_s"] == pytest.approx(100.0), "an hour without a daemon is none"
    assert rollout.windows == rollout_of(first.broker).windows + 1, "alpha that was spent stays spent"


def test_an_override_has_its_time_by_the_calendar(tmp_path: Path) -> None:
    first = Life(tmp_path)
    now = first.broker.clock.now
    for capability, for_s in (("c", 100.0), ("short", 20.0)):
        first.broker.broker.overrides.set(capability, "b", for_s, now)
    first.save()
    second = Life(tmp_path, wall=WALL + 40.0)
    [kept] = second.broker.broker.overrides.snapshot(second.broker.clock.now)
    assert kept == {"capability": "c", "backend": "b", "left_s": pytest.approx(60.0)}
    third = Life(tmp_path, wall=WALL - 2 * MOST_S)
    assert third.broker.broker.overrides.in_force == {}, "a clock that was set back makes no override for weeks"


def test_who_was_drained_is_drained_after_a_restart(tmp_path: Path) -> None:
    first = Life(tmp_path)
    first.operator.drain("b", first.broker.clock.now)
    first.broker.clock.advance(5.0)
    first.save()
    second = Life(tmp_path, wall=WALL + 60.0)
    second.broker.register("b", "c")  # again: with_candidate registers before the file is read
    [for_s] = second.broker.broker.registry.drains.snapshot(second.broker.clock.now).values()
    assert for_s == pytest.approx(65.0), "by the calendar"
    assert second.broker.backend("b").state == "drained"
    second.operator.undrain("b", second.broker.clock.now)
    second.save()
    third = Life(tmp_path)
    third.broker.register("b", "c")
    assert third.broker.backend("b").state == "up"


def test_a_file_from_before_there_were_drains_is_taken_over(tmp_path: Path) -> None:
    first = Life(tmp_path)
    first.operator.remember(Act(WALL, "advance", "", "somebody"))
    first.save()
    with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as database:
        database.execute("DROP TABLE drains")
    second = Life(tmp_path)
    assert second.acts() == ["advance"]
    second.operator.drain("b", second.broker.clock.now)
    second.save()
    assert list(Life(tmp_path).broker.broker.registry.drains.since) == ["b"]


def test_another_rollout_begins_anew(tmp_path: Path) -> None:
    first = Life(tmp_path, name="spring")
    first.operator.roll_back(0.0)
    first.save()
    with structlog.testing.capture_logs() as logs:
        second = Life(tmp_path, name="autumn")
    assert rollout_of(second.broker).state == RUNNING
    assert [log["event"] for log in logs] == ["kept rollout is another one, and not gone on with"]


def test_nothing_is_written_where_nothing_has_changed(tmp_path: Path) -> None:
    life = Life(tmp_path)
    written: list[Kept] = []
    file = life.keeper._file
    assert file is not None
    write = file.write

    def noted(kept: Kept) -> None:
        written.append(kept)
        write(kept)

    file.write = noted  # type: ignore[method-assign]

    async def run() -> None:
        await life.keeper.save()
        await life.keeper.save()
        life.operator.advance(0.0)
        await asyncio.gather(life.keeper.save(), life.keeper.save())
        await life.keeper.finish()

    asyncio.run(run())
    assert [kept.rollout and kept.rollout.percent for kept in written] == [1.0, 5.0]


def test_what_is_no_utf_8_is_kept_escaped(tmp_path: Path) -> None:
    first = Life(tmp_path)
    first.operator.roll_back(0.0, "odd \udcff")
    first.operator.remember(Act(WALL, "rollback", "\udcff", "x"))
    first.save()
    assert rollout_of(Life(tmp_path).broker).reason == "odd \\udcff"


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    life = Life(tmp_path)
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    life.save()


# --- files that are no such files ---


def spoiled(path: Path, how: str) -> None:
    if how == "garbage":
        path.write_bytes(b"no database at all" * 100)
        return
    with sqlite3.connect(path) as database:
        statements = {
            "version": [f"PRAGMA user_version = {VERSION + 1}"],
            "foreign": ["PRAGMA user_version = 0"],
            "table": ["DROP TABLE acts"],
            "column": ["DROP TABLE acts", "CREATE TABLE acts (at TEXT)", "INSERT INTO acts VALUES ('now')"],
            "record": ["UPDATE rollout SET record = '{}'"],
            "nested": [f"UPDATE rollout SET record = '{'[' * 100_000}'"],
            "percent": ["""UPDATE rollout SET record = replace(record, '"percent":1.0', '"percent":101.0')"""],
            "type": ["UPDATE rollout SET record = x'ff'"],
        }[how]
        for statement in statements:
            database.execute(statement)
    database.close()


@pytest.mark.parametrize(
    "how", ["garbage", "version", "foreign", "table", "column", "record", "nested", "percent", "type"]
)
def test_a_broken_file_is_set_aside_and_the_daemon_starts(tmp_path: Path, how: str) -> None:
    Life(tmp_path).save()
    (tmp_path / f"{NAME}.broken").write_text("an older one")
    path = tmp_path / NAME
    spoiled(path, how)
    spoilt = path.read_bytes()
    with structlog.testing.capture_logs() as logs:
        life = Life(tmp_path)
    [log] = [log for log in logs if log["log_level"] == "error"]
    assert (log["event"], log["file"]) == ("operations not read: set aside", str(path))
    assert "\n" not in log["why"]
    assert (tmp_path / f"{NAME}.broken").read_bytes()[100:] == spoilt[100:]
    life.operator.roll_back(0.0)
    life.save()
    assert rollout_of(Life(tmp_path).broker).state == ROLLED_BACK


def test_a_half_of_a_file_is_set_aside(tmp_path: Path) -> None:
    life = Life(tmp_path)
    for number in range(200):
        life.operator.remember(Act(float(number), "advance", "x" * 200, "somebody"))
    life.save()
    path = tmp_path / NAME
    os.truncate(path, path.stat().st_size // 2)
    with structlog.testing.capture_logs() as logs:
        assert Life(tmp_path).acts() == []
    assert "operations not read: set aside" in [log["event"] for log in logs]


def test_a_place_that_cannot_be_written_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(StartError, match=r"operations\.db cannot be written"):
        Life(tmp_path)


def test_a_write_that_fails_is_said_once_and_tried_again(tmp_path: Path) -> None:
    life = Life(tmp_path)
    file = life.keeper._file
    assert file is not None
    write, fails = file.write, True

    def full(kept: Kept) -> None:
        if fails:
            raise sqlite3.OperationalError("database or disk is full")
        write(kept)

    file.write = full  # type: ignore[method-assign]

    async def run() -> None:
        nonlocal fails
        await life.keeper.save()
        await life.keeper.save()
        fails = False
        await life.keeper.save()
        await life.keeper.finish()

    life.operator.advance(0.0)
    with structlog.testing.capture_logs() as logs:
        asyncio.run(run())
    assert [log["event"] for log in logs] == ["operations not written"]
    assert rollout_of(Life(tmp_path).broker).percent == 5.0


def test_a_write_that_is_cut_off_leaves_what_was_there(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.operator.advance(0.0)
    life.save()
    file = OperationsFile(tmp_path)
    kept = file.open()
    kept.acts = [object()]  # type: ignore[list-item]
    with pytest.raises(TypeError):
        file.write(kept)
    file.close()
    assert rollout_of(Life(tmp_path).broker).percent == 5.0


# --- the rollback file ---


def look(life: Life) -> None:
    asyncio.run(life.keeper._look())


def test_while_the_file_is_there_the_rollout_is_rolled_back(tmp_path: Path) -> None:
    file = tmp_path / "rollback"
    life = Life(None, rollback_file=str(file), percent=100.0)
    look(life)
    assert (send_and_answer(life.broker, 1), life.woken) == ("candidate", 0)
    file.touch()
    look(life)
    look(life)
    rollout = rollout_of(life.broker)
    assert (rollout.reason, life.woken) == (f"the file {file} is there", 1)
    assert send_and_answer(life.broker, 2) == "stable"
    for command in (life.operator.resume, life.operator.advance):
        with pytest.raises(Refused, match="held back: the file"):
            command(0.0)
    assert life.operator.view()["held"] == rollout.reason
    file.unlink()
    look(life)
    assert (rollout.state, life.woken) == (ROLLED_BACK, 2), "and stays so"
    life.operator.resume(life.broker.clock.now)
    look(life)
    assert rollout.state == RUNNING


def test_the_file_is_looked_at_before_the_first_message(tmp_path: Path) -> None:
    life = Life(None, rollback_file=str(tmp_path), percent=100.0)
    assert send_and_answer(life.broker, 1) == "stable"


def test_a_file_that_cannot_be_looked_at_is_said_once_and_is_no_rollback(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        life = Life(None, rollback_file=str(tmp_path / ("x" * 300)))
        look(life)
    assert [log["event"] for log in logs] == ["rollback file cannot be looked at"]
    assert rollout_of(life.broker).state == RUNNING


def test_without_a_rollout_the_file_changes_nothing(tmp_path: Path) -> None:
    operator = Operator(BrokerFixture(mode="single").broker)
    assert operator.hold("the file is there", 0.0)
    assert not operator.hold("the file is there", 0.0)


# --- daemons ---


def sections(directory: Path, port: int) -> dict[str, Any]:
    return {
        "admin": {"bind": f"127.0.0.1:{port}"},
        "routes.candidate": {"policy": "round_robin"},
        "rollout": {"candidate": "candidate", "rollback_file": str(directory / "rollback")},
        "state": {"dir": str(directory / "state")},
    }


def shown(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/routes", timeout=5) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def until(port: int, state: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline_s = time.monotonic() + 10.0
    while not state(found := shown(port)):
        assert time.monotonic() < deadline_s, found
        threading.Event().wait(0.05)
    return found


@pytest.fixture
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ROUTER_DAEMON__")]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("_plain_environment")
def test_what_was_answered_outlives_a_kill(daemon: DaemonFactory, tmp_path: Path) -> None:
    port = free_port()
    first: Daemon = daemon(**sections(tmp_path, port))
    room = ["--admin", f"127.0.0.1:{port}"]
    assert invoke("route", "percent", "20", *room).exit_code == 0
    assert invoke("route", "rollback", "--why", "odd", *room).exit_code == 0
    first.signal(signal.SIGKILL)
    first.wait()
    daemon.daemons.remove(first)  # it did not end well, and was not to
    second: Daemon = daemon(**sections(tmp_path, port))
    told = shown(port)
    assert (told["rollout"]["state"], told["rollout"]["reason"]) == ("rolled back", "odd")
    assert [act["what"] for act in told["acts"]] == ["percent", "rollback"]
    assert invoke("route", "resume", *room).exit_code == 0
    second.stop()


@pytest.mark.usefixtures("_plain_environment")
def test_on_call_touches_the_file(daemon: DaemonFactory, tmp_path: Path) -> None:
    port = free_port()
    started: Daemon = daemon(**sections(tmp_path, port))
    file = tmp_path / "rollback"
    file.touch()
    told = until(port, lambda found: found["held"] is not None)
    assert told["rollout"]["state"] == "rolled back"
    result = invoke("route", "resume", "--admin", f"127.0.0.1:{port}")
    assert (result.exit_code, "held back" in result.stderr) == (3, True)
    file.unlink()
    until(port, lambda found: found["held"] is None)
    assert invoke("route", "resume", "--admin", f"127.0.0.1:{port}").exit_code == 0
    started.stop()
    for line in ("rollback file is there", "rollout rolled back", "rollback file is gone", "rollout stage"):
        assert line in started.printed()
