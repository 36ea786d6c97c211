"""The image's recipe: linted, and every step of it that needs no Docker done by hand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import psutil
import pytest
from conftest import STOP_S
from container_kit import Pod, image_recipe
from packaging_kit import (
    DEFAULTS,
    REPOSITORY,
    copied_sources,
    image_config,
    image_settings,
    instructions,
    output,
    run,
    the,
)
from tools import require_tool

from router_daemon import __version__


def test_hadolint() -> None:
    output(require_tool("hadolint"), REPOSITORY / "Dockerfile")


def test_what_the_image_copies_is_all_that_its_wheel_needs(wheel: Path) -> None:
    assert set(copied_sources()) == {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "router_daemon",
        "config/router-daemon.toml",
    }
    with zipfile.ZipFile(wheel) as archive:  # built from these
        assert not [name for name in archive.namelist() if "__pycache__" in name]


def test_the_image_runs_without_rights_and_names_its_version() -> None:
    user, _, group = the("USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert f"VERSION={__version__}" in [rest for name, rest in instructions() if name == "ARG"]
    assert 'image.version="${VERSION}"' in the("LABEL")


def test_both_stages_start_from_one_base_of_a_named_release() -> None:
    base = next(rest for name, rest in instructions() if name == "ARG").partition("=")[2]
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+", base)
    assert {rest.split()[0] for name, rest in instructions() if name == "FROM"} == {"${BASE}"}
    minor = re.search(r":(3\.\d+)-", base)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert minor is not None
    assert f"Programming Language :: Python :: {minor[1]}" in project["classifiers"]


def test_the_image_listens_on_every_interface_on_the_ports_it_names() -> None:
    config = image_config()
    binds = [*config.frontend.addresses, *config.backend.addresses, config.admin.bind]
    assert [bind.removeprefix("tcp://").rpartition(":")[0] for bind in binds] == ["0.0.0.0"] * 3
    assert [bind.rpartition(":")[2] for bind in binds] == the("EXPOSE").split()


def test_the_image_s_command_is_right_with_the_file_it_ships(installed: Path) -> None:
    recipe = image_recipe()
    assert recipe.command[:3] == ["router-daemon", "run", "--config"]
    shipped = next(rest.split()[-1] for name, rest in instructions() if name == "COPY" and rest.endswith(".toml"))
    assert recipe.command[3:] == [shipped]
    output(installed / "router-daemon", "check", "--config", DEFAULTS, **image_settings())


def test_the_build_s_install_step_takes_extras(wheel: Path) -> None:
    """What the recipe gives to pip, with and without EXTRAS, by the shell that would run it."""
    (step,) = [rest for name, rest in instructions() if name == "RUN" and "EXTRAS" in rest]
    assignment = "wheel=" + step.split("&& wheel=", 1)[1].split("&&")[0].replace("/wheels/", f"{wheel.parent}/")
    argument = step.split()[-1]
    for extras, wanted in (("", str(wheel)), ("demo,lab", f"{wheel}[demo,lab]")):
        printed = output("sh", "-euc", f'{assignment}; printf "%s" {argument}', EXTRAS=extras)
        assert printed == wanted
    offline = ["--dry-run", "--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    output(sys.executable, "-m", "pip", "install", *offline, f"{wheel}[demo]")


# --- a container of it, without a container ---


def test_the_container_serves_is_healthy_and_drains(pod: Pod, installed: Path) -> None:
    recipe = image_recipe()
    process = pod.start(recipe)
    pod.until(lambda: pod.get("/readyz") == 200)
    interpreter, *arguments = _health_check()
    assert interpreter == "python"
    settings = pod.environment(recipe)
    asked = {"ROUTER_DAEMON__ADMIN__BIND": settings["ROUTER_DAEMON__ADMIN__BIND"].replace("127.0.0.1", "0.0.0.0")}
    proxy = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    output(installed / "python", *arguments, **asked, **proxy)
    process.terminate()
    assert process.wait(STOP_S) == 0
    assert run(installed / "python", *arguments, **asked).returncode == 1


def _health_check() -> list[str]:
    found: list[str] = json.loads(the("HEALTHCHECK").partition(" CMD ")[2])
    return found


def confining() -> list[str]:
    """Return a command that runs another as process 1, on a file system that it can't write to, without capabilities.

    The test's directory stays writable as a volume is. Skips where the kernel does not let us.
    """
    own = ["--user", "--map-root-user"] if psutil.Process().uids().real else []
    unshare = [require_tool("unshare"), *own, "--mount", "--pid", "--fork", "--kill-child"]
    setup = (
        'mount --bind "$0" "$0" && mount -o remount,bind,ro / && exec setpriv --no-new-privs --bounding-set=-all "$@"'
    )
    tried = subprocess.run([*unshare, "sh", "-c", setup, "/tmp", "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no namespaces of our own here: {tried.stderr.strip()}")
    return [*unshare, "sh", "-c", setup]


def test_it_runs_as_process_1_on_a_read_only_file_system_without_capabilities(pod: Pod, tmp_path: Path) -> None:
    """No init is needed: it gets SIGTERM although process 1 is spared signals that it does not handle."""
    before = confining()
    recipe = image_recipe()
    recipe.environment["ROUTER_DAEMON__STATE__DIR"] = "/var/lib/router-daemon"
    outer = pod.start(recipe, *before, str(tmp_path))
    pod.until(lambda: pod.get("/readyz") == 200)
    (daemon,) = psutil.Process(outer.pid).children()
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["NSpid"].split()[-1] == "1"
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    daemon.terminate()
    assert outer.wait(STOP_S) == 0, pod.printed()
    assert (tmp_path / "var/lib/router-daemon/profiles.json").exists()
    assert "Traceback" not in pod.printed()


def test_few_open_files_of_the_runtime_are_no_limit_while_it_may_have_more(pod: Pod) -> None:
    process = pod.start(image_recipe(), "sh", "-c", 'ulimit -Sn 100 && ulimit -Hn 4000 && exec "$@"', "sh")
    pod.until(lambda: pod.get("/readyz") == 200)
    assert psutil.Process(process.pid).rlimit(psutil.RLIMIT_NOFILE) == (4000, 4000)
    process.terminate()
    assert process.wait(STOP_S) == 0, pod.printed()
