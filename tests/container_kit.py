"""Manifests as they would be applied, and their containers started by hand, as far as no cluster can run here.

Rules:
- `rendered` is what `kubectl kustomize` makes of a directory: the tests look at objects, never at their sources.
- A `Recipe` is what a container would be started with: the image's own command and variables under the container's.
  `Pod.start` starts it as a process, with the daemon of the wheel. Only three things differ: ports are free ones of the
  loopback interface, names of hosts are that interface, and mounted paths are directories of the test's own.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from conftest import START_S, free_port
from packaging_kit import DEFAULTS, REPOSITORY, bare_environment, image_command, image_environment
from tools import require_tool
from typer.main import get_command

from router_daemon.cli import app
from router_daemon.config import Config, load_config

KUBERNETES: Final = REPOSITORY / "deploy/kubernetes"
OVERLAYS: Final = ("base", "overlays/shared", "overlays/ring", "overlays/sidecar")
SHARED: Final = ("base", "overlays/shared", "overlays/ring")
MOUNTS: Final = ("/etc/router-daemon", "/var/lib/router-daemon", "/opt")
Object = dict[str, Any]
_opener: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


# --- manifests ---


def build(directory: Path) -> str:
    """Return what kustomize makes of a directory."""
    command = [require_tool("kubectl"), "kustomize", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def rendered(overlay: str) -> tuple[Object, ...]:
    """Return the objects of one of our directories."""
    return tuple(yaml.safe_load_all(build(KUBERNETES / overlay)))


def of_kind(overlay: str, *kinds: str) -> list[Object]:
    """Return the objects of these kinds."""
    return [found for found in rendered(overlay) if found["kind"] in kinds]


def named(overlay: str, kind: str, name: str) -> Object:
    """Return the one object of that kind and name."""
    (found,) = [found for found in of_kind(overlay, kind) if found["metadata"]["name"] == name]
    return found


def workloads(overlay: str) -> list[Object]:
    """Return what makes pods."""
    return of_kind(overlay, "Deployment", "StatefulSet")


def pod_spec(workload: Object) -> Object:
    """Return the specification of its pods."""
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def pod_labels(workload: Object) -> dict[str, str]:
    """Return the labels of its pods."""
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def containers(workload: Object) -> list[Object]:
    """Return the containers of its pods in the order in which they start."""
    spec = pod_spec(workload)
    return [*spec.get("initContainers", ()), *spec["containers"]]


def daemon_of(overlay: str) -> tuple[Object, Object]:
    """Return the workload that has the daemon, and the daemon's container."""
    (found,) = [
        (workload, container)
        for workload in workloads(overlay)
        for container in containers(workload)
        if container["name"] == "router-daemon"
    ]
    return found


def container_of(overlay: str, name: str) -> Object:
    """Return the one container of that name."""
    (found,) = [one for workload in workloads(overlay) for one in containers(workload) if one["name"] == name]
    return found


# --- containers ---


@dataclass(frozen=True)
class Recipe:
    """What a container is started with.

    Args:
        command: program and arguments.
        environment: its variables; what a Secret would say is not among them.
        files: path -> content of what is mounted.
    """

    command: list[str]
    environment: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)


def image_recipe(*arguments: str, entrypoint: Sequence[str] = ()) -> Recipe:
    """Return what `docker run IMAGE ARGUMENTS...` starts."""
    entry, default = image_command()
    shipped = default[-1]
    command = [*(entrypoint or entry), *(arguments or default)]
    return Recipe(command, image_environment(), {shipped: DEFAULTS.read_text()})


def variables_of(container: Object, pod_name: str = "pod-0") -> dict[str, str]:
    """Return the variables of a container that stand in its manifest, or follow from its name."""
    index = pod_name.rpartition("-")[2]
    fields = {"metadata.name": pod_name, "metadata.labels['apps.kubernetes.io/pod-index']": index}
    found = {}
    for variable in container.get("env", ()):
        source = variable.get("valueFrom", {})
        if "value" in variable:
            found[variable["name"]] = variable["value"]
        elif "fieldRef" in source:
            found[variable["name"]] = fields[source["fieldRef"]["fieldPath"]]
        else:
            assert source["secretKeyRef"]["optional"], variable
    return found


def expanded(text: str, environment: dict[str, str]) -> str:
    """Return a command's text as the kubelet expands it: `$(NAME)` where there is such a variable, `$$` is `$`."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else environment.get(match[1], match[0])

    return re.sub(r"\$\$|\$\((\w+)\)", value, text)


def container_recipe(overlay: str, container: Object, pod_name: str = "pod-0") -> Recipe:
    """Return what the kubelet starts."""
    entry, default = image_command()
    own = variables_of(container, pod_name)
    written = [*container.get("command", entry), *container.get("args", [] if "command" in container else default)]
    return Recipe([expanded(text, own) for text in written], image_environment() | own, files_of(overlay, container))


def files_of(overlay: str, container: Object) -> dict[str, str]:
    """Return what its pod mounts from ConfigMaps, by the path in the container."""
    (spec,) = [pod_spec(workload) for workload in workloads(overlay) if container in containers(workload)]
    maps = {volume["name"]: volume["configMap"]["name"] for volume in spec.get("volumes", ()) if "configMap" in volume}
    return {
        f"{mount['mountPath']}/{name}": text
        for mount in container.get("volumeMounts", ())
        if mount["name"] in maps
        for name, text in named(overlay, "ConfigMap", maps[mount["name"]])["data"].items()
    }


def accepted(command: Sequence[str]) -> str:
    """Return the subcommand of a `router-daemon ...`; the command line's own parser fails the test where it is wrong."""
    program, name, *arguments = command
    assert program == "router-daemon"
    group: Any = get_command(app)
    group.commands[name].make_context(name, list(arguments))
    return name


class Pod:
    """Processes that find each other as the containers of a pod, or of a compose file, do.

    Args:
        programs: the directory with the installed `router-daemon` and `python`.
        directory: for what is mounted, and for what they print.
    """

    def __init__(self, programs: Path, directory: Path) -> None:
        self._programs = programs
        self.directory = directory
        self.ports = {port: str(free_port()) for port in ("5570", "5571", "5572", "9575")}
        self._started: list[subprocess.Popen[bytes]] = []
        for mount in MOUNTS:
            (directory / mount.lstrip("/")).mkdir(parents=True)

    def here(self, text: str) -> str:
        """Return a text of a recipe with its ports, hosts and paths replaced by the ones here."""
        text = re.sub(r"(?<=tcp://)[a-z][a-z-]*(?=:)|\b0\.0\.0\.0\b", "127.0.0.1", text)
        text = re.sub(r"(?<=:)(5570|5571|5572|9575)\b", lambda match: self.ports[match[0]], text)
        return re.sub("|".join(MOUNTS), lambda match: f"{self.directory}{match[0]}", text)

    def environment(self, recipe: Recipe) -> dict[str, str]:
        """Return the variables of a container's process."""
        own = {name: self.here(text) for name, text in recipe.environment.items()}
        return bare_environment(**own) | {"PATH": f"{self._programs}{os.pathsep}/usr/bin{os.pathsep}/bin"}

    def config(self, recipe: Recipe) -> Config:
        """Return the configuration that a daemon of that recipe runs under."""
        self._mount(recipe)
        (path,) = recipe.files
        return load_config(Path(self.here(path)), self.environment(recipe))

    def start(self, recipe: Recipe, *before: str) -> subprocess.Popen[bytes]:
        """Start a container's process, by another program where one is named; its output goes to `printed()`."""
        self._mount(recipe)
        command = [*before, *map(self.here, recipe.command)]
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd="/",
                env=self.environment(recipe),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def printed(self) -> str:
        """Return what all of them have printed."""
        return (self.directory / "log").read_text()

    def address(self, port: str) -> str:
        """Return where what listens on that port of a container listens here."""
        return f"127.0.0.1:{self.ports[port]}"

    def page(self, path: str) -> str:
        """Return a page of the daemon."""
        with _opener.open(f"http://{self.address('9575')}{path}", timeout=5) as response:
            content: bytes = response.read()
        return content.decode()

    def get(self, path: str) -> int:
        """Return the status of a page of the daemon; 0 where nobody answers."""
        try:
            with _opener.open(f"http://{self.address('9575')}{path}", timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return 0

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds; not in time fails the test with all that was printed."""
        deadline_s = time.monotonic() + START_S
        while not holds():
            assert time.monotonic() < deadline_s, self.printed()
            time.sleep(0.02)

    def close(self) -> None:
        """End what still runs, with what it has started."""
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _mount(self, recipe: Recipe) -> None:
        for path, content in recipe.files.items():
            file = Path(self.here(path))
            file.write_text(content)


def every_container() -> Iterator[tuple[str, Object, Object]]:
    """Yield overlay, workload and container, of all."""
    for overlay in OVERLAYS:
        for workload in workloads(overlay):
            for container in containers(workload):
                yield overlay, workload, container
