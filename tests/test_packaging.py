"""What is shipped: the wheel, the systemd unit, the scripts. The image has tests of its own (test_image)."""

from __future__ import annotations

import configparser
import os
import signal
import socket
import subprocess
import time
import tomllib
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from conftest import Sections, free_port, write_config
from packaging_kit import DEFAULTS, REPOSITORY, bare_environment, output, run
from tools import require_tool

from router_daemon import __version__
from router_daemon.config import load_config

UNIT: Final = REPOSITORY / "deploy/systemd/router-daemon.service"
START_S: Final = 20.0
STOP_S: Final = 15.0
MOST_EXPOSED: Final = 20
"""`systemd-analyze security` in tenths: 2.0 of 10."""


# --- the wheel ---


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {Path(name) for name in archive.namelist()}
    package = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "router_daemon").rglob("*.py")}
    assert {name for name in names if name.suffix == ".py"} == package
    assert Path("router_daemon/py.typed") in names
    page = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "router_daemon/admin/page").rglob("*.*")}
    assert {name for name in names if name.parts[:3] == ("router_daemon", "admin", "page")} == page
    assert Path("router_daemon/admin/page/vendor/uPlot-LICENSE.txt") in page
    info = f"router_daemon-{__version__}.dist-info"
    assert {name.parts[0] for name in names} == {"router_daemon", info}
    assert {name.name for name in names if name.parts[0] == info} >= {"METADATA", "entry_points.txt", "LICENSE"}


def test_the_installed_package_is_the_wheel_s(installed: Path) -> None:
    where = output(installed / "python", "-c", "import router_daemon; print(router_daemon.__file__)")
    assert Path(where.strip()).is_relative_to(installed.parent)
    assert output(installed / "router-daemon", "--version") == f"router-daemon {__version__}\n"
    assert output(installed / "python", "-m", "router_daemon", "--version") == f"router-daemon {__version__}\n"
    public = "import router_daemon as r; print(r.Client.__name__, r.SyncClient.__name__, r.Backend.__name__)"
    assert output(installed / "python", "-c", public) == "Client SyncClient Backend\n"


# --- the daemon of the wheel ---


class Served:
    """A running daemon: where it can be asked, and its process."""

    def __init__(self, process: subprocess.Popen[bytes], admin: str) -> None:
        self.process = process
        self.admin = admin

    def get(self, path: str) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self.admin}{path}", timeout=5) as response:
            found: bytes = response.read()
        return found

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)


class Notified:
    """The socket that systemd would listen on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(START_S)

    def next(self) -> str:
        """Return the next message; none in time fails the test."""
        return self._socket.recv(4096).decode()

    def pending(self) -> list[str]:
        """Return what has come and was not read."""
        self._socket.setblocking(False)
        found = []
        while True:
            try:
                found.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


Serve = Callable[..., Served]


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[Notified]:
    with closing(Notified(tmp_path / "notify")) as found:
        yield found


@pytest.fixture
def serve(installed: Path, tmp_path: Path, notified: Notified) -> Iterator[Serve]:
    """Start the installed daemon; return once it says that it is ready."""
    with _served(installed, tmp_path, notified) as start:
        yield start


@contextmanager
def _served(installed: Path, tmp_path: Path, notified: Notified) -> Iterator[Serve]:
    processes: list[subprocess.Popen[bytes]] = []

    def start(**variables: str) -> Served:
        front, back, admin = (f"127.0.0.1:{free_port()}" for _ in range(3))
        sections: Sections = {
            "frontend": {"bind": f"tcp://{front}"},
            "backend": {"bind": f"tcp://{back}"},
            "admin": {"bind": admin},
        }
        config = tmp_path / "router.toml"
        write_config(config, sections)
        env = bare_environment(NOTIFY_SOCKET=str(notified.path), **variables)
        with (tmp_path / "log").open("wb") as log:
            command = [str(installed / "router-daemon"), "run", "--config", str(config)]
            process = subprocess.Popen(command, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, stderr=log)
        processes.append(process)
        assert notified.next() == "READY=1", (tmp_path / "log").read_text()
        return Served(process, admin)

    try:
        yield start
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_systemd_is_told_of_start_and_stop(serve: Serve, notified: Notified) -> None:
    served = serve()
    assert served.get("/livez") == b"ok\n"  # READY=1 was true
    assert served.process.poll() is None
    served.process.send_signal(signal.SIGTERM)
    assert notified.next() == "STOPPING=1"
    assert served.process.wait(STOP_S) == 0
    assert notified.pending() == []


def test_systemd_may_listen_on_an_abstract_socket(installed: Path, tmp_path: Path) -> None:
    name = f"router-daemon-test-{os.getpid()}-{time.monotonic_ns()}"
    with closing(Notified(Path("\0" + name))) as notified:
        notified.path = Path("@" + name)
        with _served(installed, tmp_path, notified) as start:
            assert start().stop() == 0


# --- the systemd unit ---


def unit() -> Mapping[str, Sequence[str]]:
    """Return the unit's [Service] keys, each with all its values."""

    class Repeated(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            if isinstance(value, list) and key in self:
                self[key].extend(value)
            else:
                super().__setitem__(key, value)

    parser = configparser.RawConfigParser(dict_type=Repeated, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # keys are case-sensitive here
    parser.read_string(UNIT.read_text())
    return {key: value.split("\n") for key, value in parser["Service"].items()}


@pytest.fixture
def placed_unit(installed: Path, tmp_path: Path) -> Path:
    """Write the unit as it would be with the daemon installed where this test has it."""
    path = tmp_path / UNIT.name
    (command,) = unit()["ExecStart"]
    program = command.split()[0]
    assert Path(program).is_absolute()
    path.write_text(UNIT.read_text().replace(f"={program} ", f"={installed / 'router-daemon'} "))
    return path


def test_systemd_finds_no_fault_in_the_unit(placed_unit: Path) -> None:
    done = run(require_tool("systemd-analyze"), "verify", "--man=no", placed_unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_finds_the_unit_little_exposed(placed_unit: Path) -> None:
    options = ["--no-pager", "--offline=true", f"--threshold={MOST_EXPOSED}"]
    output(require_tool("systemd-analyze"), "security", *options, placed_unit)


def test_the_unit_runs_the_daemon_as_its_life_cycle_is() -> None:
    keys = unit()
    program, *arguments = keys["ExecStart"][0].split()
    assert arguments == ["run", "--config", "/etc/router-daemon/router-daemon.toml"]
    assert keys["ExecReload"] == [f"{program} reload --config /etc/router-daemon/router-daemon.toml"]
    assert keys["Type"] == ["notify"]
    assert keys["KillSignal"] == ["SIGTERM"]
    assert keys["RestartPreventExitStatus"] == ["2"]  # a wrong configuration


def test_the_unit_waits_for_the_drain_and_bounds_what_the_daemon_cannot() -> None:
    keys, config = unit(), load_config(DEFAULTS, {})
    assert int(keys["TimeoutStopSec"][0]) > config.limits.drain_timeout_s + 2
    assert int(keys["LimitNOFILE"][0]) > config.limits.backends
    assert keys["MemoryMax"][0]
    assert {"DynamicUser", "NoNewPrivileges"} <= {key for key, value in keys.items() if value == ["yes"]}
    assert keys["ProtectSystem"] == ["strict"]


def test_the_unit_allows_what_libzmq_aborts_without() -> None:
    keys = unit()
    assert "AF_NETLINK" in keys["RestrictAddressFamilies"][0].split()
    assert "@resources" not in " ".join(keys["SystemCallFilter"][1:])


# --- scripts ---

SCRIPTS: Final = (
    "scripts/test",
    "scripts/demo",
    "scripts/docs",
    "scripts/bench_broker",
    "scripts/bench_prefetch",
    "scripts/chaos",
    ".ci/run",
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_can_be_run(script: str) -> None:
    path = REPOSITORY / script
    assert os.access(path, os.X_OK)
    assert path.read_bytes().startswith(b"#!/")


def test_shellcheck() -> None:
    scripts = [REPOSITORY / script for script in SCRIPTS]
    sourced = ["--external-sources", f"--source-path={REPOSITORY}"]
    output(require_tool("shellcheck"), *sourced, REPOSITORY / "scripts/venv.sh", *scripts)


def test_the_extra_of_the_tests_holds_that_of_the_demo() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]["demo"]) <= set(project["optional-dependencies"]["dev"])
