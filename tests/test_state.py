"""The file of profiles: whole or not at all, never trusted, and read by the next daemon before anybody registers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import zmq
from conftest import Daemon, DaemonFactory, Room, Sections, free_port, start_daemon

from router_daemon.core.memory import BackendRecord, Profiles, ReferenceRecord, ServiceRecord
from router_daemon.errors import StartError
from router_daemon.state import FORMAT, NAME, VERSION, ProfileFile, StateKeeper, Unusable
from router_daemon.testing import BrokerFixture

WRITTEN_AT = 1_700_000_000.0


class Wall:
    """A wall clock that somebody may set."""

    now = WRITTEN_AT

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def file(tmp_path: Path, wall: Wall) -> ProfileFile:
    found = ProfileFile(tmp_path / "state", wall)
    found.prepare()
    return found


def profiles(age_s: float = 2.0) -> list[Profiles]:
    services = {"c": ServiceRecord(0.2, 0.25, 0.01, 7, age_s)}
    return [
        Profiles({}, {"c": ReferenceRecord(0.1, 40)}),
        Profiles({'odd "näme"\n': BackendRecord(0.75, 0.3, 7, 2.5, True, 0.0, services)}, {}),
        Profiles({"left": BackendRecord(0.5, 0.0, 0, age_s=300.0)}, {}),
    ]


def test_what_was_written_is_read_back_as_old_as_it_is_by_then(file: ProfileFile, wall: Wall) -> None:
    file.write(profiles())
    wall.now += 60.0
    found, age_s = file.read(600.0)
    assert age_s == 60.0
    assert found.capabilities == {"c": ReferenceRecord(0.1, 40)}
    odd = found.backends['odd "näme"\n']
    assert odd == BackendRecord(0.75, 0.3, 7, 2.5, True, 60.0, {"c": ServiceRecord(0.2, 0.25, 0.01, 7, 62.0)})
    assert found.backends["left"].age_s == 360.0


def test_nobody_else_may_read_it_and_nothing_is_left_beside_it(file: ProfileFile) -> None:
    file.write(profiles())
    file.write(profiles())
    assert [path.name for path in file.path.parent.iterdir()] == [NAME]
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700


def test_it_is_small_and_json_for_whoever_looks(file: ProfileFile) -> None:
    file.write(profiles())
    told = json.loads(file.path.read_text())
    assert (told["format"], told["version"], told["written_at"]) == (FORMAT, VERSION, WRITTEN_AT)


def test_too_old_is_not_read_and_old_backends_in_it_are_left_out(file: ProfileFile, wall: Wall) -> None:
    file.write(profiles())
    wall.now += 301.0
    found, _ = file.read(600.0)
    assert list(found.backends) == ['odd "näme"\n'], "the other one has been gone for 601 s"
    wall.now = WRITTEN_AT + 600.0
    with pytest.raises(Unusable, match="600 s old, and only what is younger than 600 s is read"):
        file.read(600.0)


def test_a_clock_set_back_a_little_is_no_age_and_a_lot_is_said(file: ProfileFile, wall: Wall) -> None:
    file.write(profiles())
    wall.now -= 30.0
    assert file.read(600.0)[1] == 0.0
    wall.now -= 3600.0
    with pytest.raises(Unusable, match="3630 s in the future"):
        file.read(600.0)


def head(**keys: Any) -> bytes:
    return json.dumps({"format": FORMAT, "version": VERSION, "written_at": WRITTEN_AT, "parts": []} | keys).encode()


def part(**record: Any) -> bytes:
    whole = {"success": 0.9, "latency_s": 0.1, "samples": 3}
    return head(parts=[{"backends": {"a": whole | record}}])


UNUSABLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "damaged"),
    "half": (head(parts=[{"backends": {"a": {"success": 0.9}}}])[:-20], "damaged"),
    "no JSON": (b"\x00\xff\x00", "damaged"),
    "no UTF-8": (b'{"format": "\xff"}', "damaged"),
    "another shape": (b"[]", "damaged"),
    "too deep": (b'{"format": ' + b"[" * 100_000, "damaged"),
    "foreign": (head(format="something else"), "not a file of profiles"),
    "too new": (head(version=VERSION + 1, parts=3), f"of version {VERSION + 1}"),
    "no stamp": (head(written_at=None), "damaged"),
    "a negative latency": (part(latency_s=-1), "damaged"),
    "an infinite latency": (part(latency_s=1e300), "damaged"),
    "success above 1": (part(success=1.5), "damaged"),
    "a word for a number": (part(samples="3"), "damaged"),
    "a short service": (part(services={"c": [1.0, 1.0]}), "damaged"),
}


@pytest.mark.parametrize(("data", "why"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_is_damaged_foreign_or_too_new_is_not_used(file: ProfileFile, data: bytes, why: str) -> None:
    file.path.write_bytes(data)
    with pytest.raises(Unusable, match=why):
        file.read(600.0)


def test_a_directory_in_its_place_is_not_used_either(file: ProfileFile) -> None:
    file.path.mkdir()
    with pytest.raises(Unusable, match="cannot be read"):
        file.read(600.0)


def test_a_directory_that_cannot_be_written_is_a_start_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"state\.dir .*file.* cannot be written: Not a directory"):
        ProfileFile(tmp_path / "file" / "below").prepare()


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(file: ProfileFile, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (file.path.parent / f"{NAME}.tmp").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        file.write(profiles())
    assert victim.read_text() == "precious"


# --- the keeper ---


def keeper(broker: BrokerFixture, directory: Path) -> StateKeeper:
    return StateKeeper(broker.broker, str(directory), write_every_s=0.01, read_younger_s=600.0, clock=broker.clock)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - files have no events
            await asyncio.sleep(0.005)


def test_it_is_written_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    broker = BrokerFixture()
    broker.register("a", "c")
    path = tmp_path / NAME

    async def run() -> None:
        kept = keeper(broker, tmp_path)
        kept.restore()
        kept.start()
        await until(path.exists)
        broker.register("b", "c")
        await until(lambda: '"b"' in path.read_text())
        broker.register("c", "c")
        write = await kept.finish()
        broker.stop()
        await asyncio.to_thread(write)

    asyncio.run(run())
    again = BrokerFixture()
    keeper(again, tmp_path).restore()
    assert set(again.broker.registry.remembered()) == {"a", "b", "c"}


def test_a_failing_write_is_said_once_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = BrokerFixture()
    directory = tmp_path / "state"

    async def run() -> None:
        kept = keeper(broker, directory)
        kept.restore()
        directory.rename(tmp_path / "elsewhere")
        tries: list[float] = []
        export = broker.broker.export_parts

        def counted(now: float) -> Iterator[Profiles]:
            tries.append(now)
            return export(now)

        monkeypatch.setattr(broker.broker, "export_parts", counted)
        kept.start()
        await until(lambda: len(tries) > 3)
        (tmp_path / "elsewhere").rename(directory)
        await until((directory / NAME).exists)
        (await kept.finish())()

    with structlog.testing.capture_logs() as logs:
        asyncio.run(run())
    [line] = said(logs, "profiles not written")
    assert (line["log_level"], line["why"]) == ("warning", "No such file or directory")


def said(logs: Any, event: str) -> list[Any]:
    return [line for line in logs if line["event"] == event]


def test_a_damaged_file_is_one_warning(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("{")
    broker = BrokerFixture()
    with structlog.testing.capture_logs() as logs:
        keeper(broker, tmp_path).restore()
    [line] = logs
    assert (line["event"], line["log_level"]) == ("profiles not read", "warning")
    assert line["why"].startswith("damaged: ")
    assert not broker.broker.registry.remembered()


def test_without_a_directory_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def run() -> None:
        kept = StateKeeper(BrokerFixture().broker, "", write_every_s=0.01, read_younger_s=1.0)
        kept.restore()
        kept.start()
        (await kept.finish())()

    asyncio.run(run())
    assert not list(tmp_path.iterdir())


# --- the daemon ---


def listed(daemon: Daemon) -> dict[str, Any]:
    """Return what /backends says, by name."""
    with urllib.request.urlopen(f"http://{daemon.settings['admin']['bind']}/backends", timeout=5) as answer:
        return {entry["name"]: entry for entry in json.load(answer)["backends"]}


Start = Callable[[], Daemon]


@pytest.fixture
def start(tmp_path: Path, zmq_context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Start]:
    """Yield what starts a daemon that keeps its profiles in the same directory as the one before."""
    factory = DaemonFactory(zmq_context, lambda: tmp_path)

    def started() -> Daemon:
        admin = {"bind": f"127.0.0.1:{free_port()}"}
        return factory(admin=admin, state={"dir": str(tmp_path / "state"), "write_every_s": 0.1})

    yield started
    for daemon in factory.daemons:
        if daemon.process.poll() is None:
            daemon.process.kill()
        daemon.process.wait()


def measure(room: Room) -> None:
    """Let the backend `a` answer and fail."""
    backend, client = room.backend(name="a", capabilities=["c"]), room.client()
    for _ in range(3):
        client.send("c", mode="single")
        backend.ack(backend.delivery())
        client.expect("REPLY")
    client.send("c", mode="single", idempotent=False)
    backend.nack(backend.delivery())
    client.expect("ERROR")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["drained", "killed"])
def test_the_next_daemon_knows_before_any_message(
    how: signal.Signals, start: Start, open_room: Callable[[Daemon], Room], tmp_path: Path
) -> None:
    daemon = start()
    measure(open_room(daemon))
    before = listed(daemon)["a"]
    assert before["samples"] == 4
    path = tmp_path / "state" / NAME
    if how == signal.SIGKILL:  # what was measured since the last write is lost
        deadline_s = time.monotonic() + 10.0
        while '"samples":4' not in (path.read_text() if path.exists() else ""):
            assert time.monotonic() < deadline_s, path.read_text()
    daemon.signal(how)
    assert daemon.wait() == (0 if how == signal.SIGTERM else -how)
    daemon = start()
    open_room(daemon).backend(name="a", capabilities=["c"])
    after = listed(daemon)["a"]
    for key in ("samples", "latency_ms", "success_ratio"):
        assert after[key] == before[key], key
    daemon.check()


def test_a_daemon_with_a_damaged_file_starts_and_says_so(start: Start, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / NAME).write_bytes(os.urandom(1000))
    daemon = start()
    [line] = [line for line in daemon.printed().splitlines() if "profiles not read" in line]
    assert json.loads(line)["level"] == "warning"
    daemon.check()


def test_a_daemon_that_cannot_write_there_says_so_and_ends(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    sections: Sections = {"state": {"dir": str(tmp_path / "state")}}
    address = "tcp://127.0.0.1:{}"
    daemon = start_daemon(tmp_path, address.format(free_port()), address.format(free_port()), sections)
    assert daemon.wait() == 1
    [line] = daemon.printed().splitlines()
    assert line == f"error: state.dir {tmp_path / 'state'} cannot be written: File exists"
