"""The compose file: valid by Docker's own reading of it, in step with the daemon, and tried with processes."""

from __future__ import annotations

import functools
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from conftest import STOP_S
from container_kit import Pod, Recipe, accepted, image_recipe
from packaging_kit import REPOSITORY, image_config, output
from tools import require_tool

from router_daemon import __version__
from router_daemon.config import load_config

COMPOSE: Final = REPOSITORY / "deploy/compose"
OURS: Final = ("router-daemon", "shout", "shout-slow", "digest", "load", "send")
BACKENDS: Final = ("shout", "shout-slow", "digest")
Service = dict[str, Any]


def read_by_docker(file: Path) -> tuple[dict[str, Any] | None, str]:
    """Return a compose file as Docker understands it, None where it refuses it; and what it complains of."""
    options = ["--file", str(file), "--profile", "*", "config", "--format", "json"]
    done = subprocess.run([require_tool("docker-compose"), *options], capture_output=True, text=True, check=False)
    return (json.loads(done.stdout) if done.stdout.strip() else None), done.stderr


@functools.cache
def services() -> dict[str, Service]:
    model, complaint = read_by_docker(COMPOSE / "compose.yml")
    assert model is not None, complaint
    found: dict[str, Service] = model["services"]
    return found


def recipe_of(name: str) -> Recipe:
    """Return what Docker would start for one of our services."""
    service = services()[name]
    recipe = image_recipe(*(service["command"] or ()), entrypoint=service["entrypoint"] or ())
    if service["entrypoint"] and not service["command"]:
        del recipe.command[len(service["entrypoint"]) :]  # the image's own arguments go with its entry point
    files = {
        volume["target"]: Path(volume["source"]).read_text()
        for volume in service.get("volumes", ())
        if volume["type"] == "bind"
    }
    return Recipe(recipe.command, recipe.environment | service.get("environment", {}), recipe.files | files)


# --- what Docker reads ---


def test_docker_refuses_a_key_that_is_none(tmp_path: Path) -> None:
    text = (COMPOSE / "compose.yml").read_text()
    file = tmp_path / "compose.yml"
    file.write_text(text.replace("cap_drop:", "cap_dropp:"))
    model, complaint = read_by_docker(file)
    assert model is None
    assert "cap_dropp" in complaint


def test_docker_reads_it_without_a_complaint() -> None:
    model, complaint = read_by_docker(COMPOSE / "compose.yml")
    assert complaint == ""
    assert model is not None
    assert set(model["services"]) == {*OURS, "prometheus", "grafana"}


def test_every_container_is_confined_and_bounded() -> None:
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["pids_limit"] > 0, name
        assert "user" not in service, name  # the images name one that is not root
        assert name == "send" or int(service["mem_limit"]) > 0, name


def test_ports_are_the_defaults_and_open_to_this_machine_only() -> None:
    defaults = load_config(None, {})
    published = {
        name: [entry["target"] for entry in service["ports"]]
        for name, service in services().items()
        if "ports" in service
    }
    addresses = [defaults.frontend.addresses[0], defaults.backend.addresses[0], defaults.admin.bind]
    assert published["router-daemon"] == [int(address.rpartition(":")[2]) for address in addresses]
    assert published == {"router-daemon": [5570, 5571, 9575], "prometheus": [9090], "grafana": [3000]}
    for service in services().values():
        for entry in service.get("ports", ()):
            assert entry["host_ip"] == "127.0.0.1"
            assert entry["published"] == str(entry["target"])


def test_images_are_ours_of_this_version_or_pinned() -> None:
    for name, service in services().items():
        tag = service["image"].rpartition(":")[2]
        assert tag == __version__ if name in OURS else re.fullmatch(r"v?\d+\.\d+\.\d+", tag), name
    (built,) = [name for name, service in services().items() if "build" in service]
    assert built == "router-daemon"
    assert Path(services()[built]["build"]["context"]) == REPOSITORY


def test_only_the_daemon_has_the_image_s_health_check() -> None:
    """It asks for a daemon at loopback: elsewhere it would call every container ill."""
    for name in OURS:
        health = services()[name].get("healthcheck", {})
        assert health.get("disable", False) is (name != "router-daemon"), name
        assert "test" not in health, name
    for name in OURS[1:]:
        assert services()[name]["depends_on"]["router-daemon"]["condition"] == "service_healthy"


def test_grace_periods_have_room_for_a_drain() -> None:
    needed_s = image_config().limits.drain_timeout_s + 2
    for name in ("router-daemon", *BACKENDS):
        assert int(services()[name]["stop_grace_period"].removesuffix("s")) > needed_s, name


def test_what_the_services_run_is_what_the_command_line_takes() -> None:
    ran = {name: accepted(recipe_of(name).command) for name in ("router-daemon", *BACKENDS)}
    assert ran == {"router-daemon": "run"} | dict.fromkeys(BACKENDS, "serve")
    assert accepted([*recipe_of("send").command, "--capability", "shout", "--body", "hello"]) == "send"


# --- Prometheus and Grafana ---


def mounts(name: str) -> dict[str, Path]:
    """Return target -> file of what a service has from this clone."""
    found = {}
    for volume in services()[name]["volumes"]:
        if volume["type"] == "bind":
            assert volume["read_only"] is True, volume
            found[volume["target"]] = Path(volume["source"])
    return found


def test_prometheus_takes_its_configuration_with_the_rules(tmp_path: Path) -> None:
    for target, source in mounts("prometheus").items():
        assert target.startswith("/etc/prometheus/")
        shutil.copy(source, tmp_path / Path(target).name)
    assert "/etc/prometheus/prometheus.yml" in shlex.join(services()["prometheus"]["command"])
    said = output(require_tool("promtool"), "check", "config", tmp_path / "prometheus.yml")
    assert "1 rule files found" in said


def test_prometheus_scrapes_the_daemon_under_the_name_that_the_alerts_go_by() -> None:
    (job,) = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())["scrape_configs"]
    (alone,) = yaml.safe_load((REPOSITORY / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert job["job_name"] == alone["job_name"]
    port = image_config().admin.bind.rpartition(":")[2]
    assert job["static_configs"] == [{"targets": [f"router-daemon:{port}"]}]


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    found = mounts("grafana")
    provisioning = {target: source for target, source in found.items() if "/provisioning/" in target}
    (source,) = yaml.safe_load(provisioning["/etc/grafana/provisioning/datasources/prometheus.yml"].read_text())[
        "datasources"
    ]
    directory = REPOSITORY / "deploy/grafana/provisioning"
    (alone,) = yaml.safe_load((directory / "datasources/prometheus.yml").read_text())["datasources"]
    assert {**alone, **source} == source
    assert {key for key in source if source[key] != alone[key]} == {"url", "jsonData"}
    assert source["url"] == "http://prometheus:9090"
    (file,) = provisioning["/etc/grafana/provisioning/dashboards"].glob("*.yml")
    (provider,) = yaml.safe_load(file.read_text())["providers"]
    (dashboard,) = [target for target in found if target.endswith(".json")]
    assert str(Path(dashboard).parent) == provider["options"]["path"]
    assert json.loads(found[dashboard].read_text())["title"]


# --- tried ---


@pytest.mark.timeout(180)  # seven processes
def test_the_services_find_each_other_and_the_load_is_answered(pod: Pod) -> None:
    """Every command of ours runs as Docker would run it; the load comes more often, to be seen sooner."""
    daemon = pod.start(recipe_of("router-daemon"))
    pod.until(lambda: pod.get("/livez") == 200)
    backends = [pod.start(recipe_of(name)) for name in BACKENDS]
    recipe = recipe_of("load")
    address, per_s, *capabilities = recipe.command[2:]
    assert per_s == "5"
    load = pod.start(Recipe([*recipe.command[:2], address, "50", *capabilities], recipe.environment, recipe.files))
    pod.until(lambda: all(answered(pod, capability) > 10 for capability in ("shout", "digest")))
    sent = subprocess.run(
        [pod.here(text) for text in (*recipe_of("send").command, "--capability", "shout", "--body", "hello")],
        env=pod.environment(recipe_of("send")),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert sent.stdout.strip() == "HELLO"
    for process in (load, *backends, daemon):
        process.terminate()
        assert process.wait(STOP_S) == 0, pod.printed()


def answered(pod: Pod, capability: str) -> float:
    """Return how many messages of a capability the daemon has answered well, by its metrics."""
    pattern = rf'router_messages_total{{capability="{capability}",outcome="answered"}} (\S+)'
    return sum(map(float, re.findall(pattern, pod.page("/metrics"))))
