"""The Kubernetes manifests: valid by the API's own schemas, in step with the daemon's defaults, and as safe as they say."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml
from command_line import invoke
from container_kit import (
    KUBERNETES,
    OVERLAYS,
    SHARED,
    Object,
    Pod,
    accepted,
    build,
    container_recipe,
    containers,
    daemon_of,
    every_container,
    named,
    of_kind,
    pod_labels,
    pod_spec,
    rendered,
    variables_of,
    workloads,
)
from packaging_kit import output
from tools import require_tool

from router_daemon import __version__
from router_daemon.config import Config, load_config

DAEMONS: Final = pytest.mark.parametrize("overlay", OVERLAYS)
VERSIONS: Final = ("1.29", "1.37")
"""Of Kubernetes: the oldest with native sidecars by default, and the newest whose schemas the validator has."""
IDLE_BYTES: Final = 80 * 1024 * 1024
"""What an idle daemon takes: docs/deploy.md, "Resources"."""
UNITS: Final = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


# --- the API's own rules ---


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas_of_kubernetes_take_every_object(version: str, tmp_path: Path) -> None:
    objects = [found for overlay in OVERLAYS for found in rendered(overlay)]
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    said = output(require_tool("kubernetes-validate"), "--strict", "--kubernetes-version", version, file)
    assert said.count("passed") == len(objects)


def test_the_validator_sees_a_wrong_field_and_a_sidecar_before_there_were_any(tmp_path: Path) -> None:
    validator = require_tool("kubernetes-validate")
    file = tmp_path / "object.yaml"
    (deployment,) = of_kind("overlays/sidecar", "Deployment")
    for version, text in (
        ("1.29", yaml.safe_dump(deployment).replace("readOnlyRootFilesystem", "readonlyRootFilesystem")),
        ("1.27", yaml.safe_dump(deployment)),
    ):
        file.write_text(text)
        command = [validator, "--strict", "--kubernetes-version", version, str(file)]
        assert subprocess.run(command, capture_output=True, check=False).returncode != 0, version


# --- ports, addresses, configuration ---


def config_of(overlay: str, place: Pod) -> Config:
    return place.config(container_recipe(overlay, daemon_of(overlay)[1]))


def port(address: str) -> str:
    return address.rpartition(":")[2]


def ports_of(container: Object) -> dict[str, int]:
    return {entry["name"]: entry["containerPort"] for entry in container.get("ports", ())}


@pytest.fixture
def place(tmp_path: Path) -> Pod:
    """Return a pod of which only the files and variables matter: nothing is started in it."""
    return Pod(tmp_path / "no-programs", tmp_path)


@DAEMONS
def test_the_configuration_is_one_that_the_daemon_takes(overlay: str, place: Pod) -> None:
    recipe = container_recipe(overlay, daemon_of(overlay)[1], "router-daemon-0")
    settings = {name: text for name, text in place.environment(recipe).items() if name.startswith("ROUTER_DAEMON__")}
    config = place.config(recipe)
    (file,) = [place.here(path) for path in recipe.files]
    checked = invoke("check", "--config", file, env=settings)
    assert checked.exit_code == 0, checked.output
    assert config.state.dir == place.here("/var/lib/router-daemon")
    assert config.limits != load_config(None, {}).limits


@DAEMONS
def test_the_ports_are_the_defaults(overlay: str) -> None:
    defaults = load_config(None, {})
    workload, container = daemon_of(overlay)
    env, ports = variables_of(container), ports_of(container)
    assert port(env["ROUTER_DAEMON__FRONTEND__BIND"]) == port(defaults.frontend.addresses[0])
    assert port(env["ROUTER_DAEMON__BACKEND__BIND"]) == port(defaults.backend.addresses[0])
    assert str(ports["router-http"]) == port(env["ROUTER_DAEMON__ADMIN__BIND"]) == port(defaults.admin.bind)
    if overlay in SHARED:
        assert str(ports["frontend"]) == port(defaults.frontend.addresses[0])
        assert str(ports["backend"]) == port(defaults.backend.addresses[0])
    annotations = workload["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["router-http"])
    assert annotations["prometheus.io/path"] == "/metrics"


def test_only_http_of_a_sidecar_is_reachable_from_other_pods() -> None:
    _, container = daemon_of("overlays/sidecar")
    binds = {name: text for name, text in variables_of(container).items() if name.endswith("__BIND")}
    outside = {name for name, text in binds.items() if not re.fullmatch(r"(tcp://)?127\.0\.0\.1:\d+", text)}
    assert outside == {"ROUTER_DAEMON__ADMIN__BIND"}
    assert set(ports_of(container)) == {"router-http"}


def test_no_token_is_written_down_and_the_daemon_starts_without() -> None:
    for overlay in OVERLAYS:
        (token,) = [entry for entry in daemon_of(overlay)[1]["env"] if entry["name"] == "ROUTER_DAEMON__ADMIN__TOKEN"]
        assert set(token) == {"name", "valueFrom"}
        assert token["valueFrom"]["secretKeyRef"]["optional"] is True
        assert not of_kind(overlay, "Secret")


@pytest.mark.parametrize("overlay", SHARED)
def test_services_lead_to_ports_of_the_daemons_pods(overlay: str) -> None:
    workload, container = daemon_of(overlay)
    ports = ports_of(container)
    services = of_kind(overlay, "Service")
    for service in services:
        assert service["spec"]["selector"].items() <= pod_labels(workload).items()
        for entry in service["spec"]["ports"]:
            assert entry["port"] == ports[entry["targetPort"]]
    assert {entry["name"] for service in services for entry in service["spec"]["ports"]} == set(ports)
    assert workload["spec"]["serviceName"] in {service["metadata"]["name"] for service in services}


def test_every_command_of_ours_is_one_that_the_command_line_takes() -> None:
    recipes = [container_recipe(overlay, container) for overlay, _, container in every_container()]
    assert {accepted(recipe.command) for recipe in recipes if recipe.command[0] == "router-daemon"} == {"run", "serve"}


def test_backends_dial_the_daemon_of_their_place() -> None:
    for overlay, name, host in (
        ("overlays/shared", "backend", "router-daemon"),
        ("overlays/ring", "backend", "router-daemon"),
        ("overlays/sidecar", "shout", "127.0.0.1"),
    ):
        found = [one for workload in workloads(overlay) for one in containers(workload) if one["name"] == name]
        assert found
        for container in found:
            arguments = container["args"]
            assert arguments[arguments.index("--backend") + 1] == f"tcp://{host}:5571"
    services = {service["metadata"]["name"]: service for service in of_kind("overlays/shared", "Service")}
    assert {entry["port"] for entry in services["router-daemon"]["spec"]["ports"]} == {5570, 5571}


def test_every_image_has_the_version_of_the_package() -> None:
    images = {container["image"] for _, _, container in every_container()}
    assert {image.rpartition(":")[2] for image in images} == {__version__}
    assert len(images) == 2  # the base names none that could be pulled, the examples one


# --- who may what ---


def test_every_container_is_confined() -> None:
    for overlay, workload, container in every_container():
        pod, own = pod_spec(workload).get("securityContext", {}), container["securityContext"]
        where = f"{overlay}: {container['name']}"
        assert {**pod, **own}["runAsNonRoot"] is True, where
        assert {**pod, **own}["runAsUser"] == {**pod, **own}["runAsGroup"] == 10001, where
        assert {**pod, **own}["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert own["readOnlyRootFilesystem"] is True, where
        assert own["allowPrivilegeEscalation"] is False, where
        assert own["capabilities"] == {"drop": ["ALL"]}, where
        assert pod_spec(workload)["automountServiceAccountToken"] is False, where


def test_the_sidecar_says_itself_what_it_may_whatever_the_pod_says() -> None:
    own = daemon_of("overlays/sidecar")[1]["securityContext"]
    assert {"runAsNonRoot", "runAsUser", "runAsGroup", "seccompProfile"} <= set(own)


def test_what_is_written_goes_to_volumes() -> None:
    for overlay in OVERLAYS:
        workload, container = daemon_of(overlay)
        writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
        assert writable == [variables_of(container)["ROUTER_DAEMON__STATE__DIR"]]
        claims = [claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", ())]
        volumes = [volume["name"] for volume in pod_spec(workload)["volumes"]] + claims
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)


@pytest.mark.parametrize("overlay", OVERLAYS[1:])
def test_network_policies_let_in_who_is_meant(overlay: str) -> None:
    workload, container = daemon_of(overlay)
    (policy,) = of_kind(overlay, "NetworkPolicy")
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod_labels(workload).items()
    allowed = {rule["ports"][0]["port"]: rule["from"][0] for rule in policy["spec"]["ingress"]}
    assert set(allowed) == set(ports_of(container))
    assert "namespaceSelector" in allowed["router-http"]
    if overlay in SHARED:
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        backend = allowed["backend"]["podSelector"]["matchLabels"].items()
        others = [pod_labels(other) for other in workloads(overlay) if other is not workload]
        assert others
        assert all(backend <= labels.items() for labels in others)
        assert allowed["frontend"]["podSelector"]["matchLabels"] == {"router-daemon-client": "true"}


def test_the_ring_opens_its_port_to_its_own_daemons_only() -> None:
    workload, _ = daemon_of("overlays/ring")
    (policy,) = of_kind("overlays/ring", "NetworkPolicy")
    (source,) = [rule["from"] for rule in policy["spec"]["ingress"] if rule["ports"][0]["port"] == "ring"]
    (target,) = [rule["to"] for rule in policy["spec"]["egress"] if rule["ports"][0]["port"] == 5572]
    assert source == target
    labels = source[0]["podSelector"]["matchLabels"].items()
    assert labels <= pod_labels(workload).items()
    assert not any(labels <= pod_labels(other).items() for other in workloads("overlays/ring") if other is not workload)


# --- life ---


@DAEMONS
def test_probes_ask_the_port_of_the_daemon(overlay: str) -> None:
    _, container = daemon_of(overlay)
    paths = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    for probe, path in paths.items():  # test_deploy_ending asks them of a running daemon
        assert container[probe]["httpGet"] == {"path": path, "port": "router-http"}
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 30


@DAEMONS
def test_the_grace_period_has_room_for_the_hook_the_drain_and_what_follows(overlay: str, place: Pod) -> None:
    workload, container = daemon_of(overlay)
    hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    assert hook[0] == "sleep"
    application_s = 0 if overlay in SHARED else 30  # they share it, one after the other; Kubernetes' default
    needed_s = application_s + float(hook[1]) + config_of(overlay, place).limits.drain_timeout_s + 2
    assert pod_spec(workload)["terminationGracePeriodSeconds"] > needed_s


def test_the_sidecar_is_a_native_one_before_all_that_need_it() -> None:
    workload, container = daemon_of("overlays/sidecar")
    first, *others = pod_spec(workload)["initContainers"]
    assert first is container
    assert [one["restartPolicy"] for one in (first, *others)] == ["Always"] * 2
    assert [one["name"] for one in pod_spec(workload)["containers"]] == ["application"]
    # The kubelet runs the hooks of sidecars when the pod begins to end: a hook that drains would cut the others off.
    assert "lifecycle" not in container


def test_only_workloads_with_the_label_get_a_sidecar(tmp_path: Path) -> None:
    unlabelled = yaml.safe_load((KUBERNETES / "overlays/sidecar/application.yaml").read_text())
    unlabelled["metadata"] = {"name": "other"}
    built = component(tmp_path, "sidecar", unlabelled)
    assert [found["kind"] for found in built] == ["ConfigMap", "Deployment"]
    assert [one["name"] for one in containers(built[1])] == ["shout", "application"]


def test_a_stateful_set_with_the_label_gets_one_too(tmp_path: Path) -> None:
    labelled = yaml.safe_load((KUBERNETES / "overlays/sidecar/application.yaml").read_text())
    labelled["kind"] = "StatefulSet"
    built = component(tmp_path, "sidecar", labelled)
    assert [one["name"] for one in containers(built[1])] == ["router-daemon", "shout", "application"]


def component(directory: Path, name: str, resource: Object) -> list[Object]:
    """Return what a place that uses one of our components gets for one object of its own."""
    (directory / "resource.yaml").write_text(yaml.safe_dump(resource))
    uses = {
        "resources": ["resource.yaml"],
        "components": [os.path.relpath(KUBERNETES / "components" / name, directory)],
    }
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(uses))
    return list(yaml.safe_load_all(build(directory)))


def test_the_pod_monitor_scrapes_both_kinds(tmp_path: Path) -> None:
    """Its own schema is the operator's; what it names is ours."""
    empty = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "other"}}
    (monitor,) = [found for found in component(tmp_path, "pod-monitor", empty) if found["kind"] == "PodMonitor"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert monitor["spec"]["selector"] == {}
    for overlay in OVERLAYS:
        assert endpoint["port"] in ports_of(daemon_of(overlay)[1])
    assert {"targetLabel": "job", "replacement": "router-daemon"} in endpoint["relabelings"]


@pytest.mark.parametrize("overlay", SHARED)
def test_a_node_can_be_drained(overlay: str) -> None:
    workload, _ = daemon_of(overlay)
    (budget,) = of_kind(overlay, "PodDisruptionBudget")
    assert budget["spec"]["selector"]["matchLabels"].items() <= pod_labels(workload).items()
    assert budget["spec"]["maxUnavailable"] == 1
    assert "minAvailable" not in budget["spec"]


# --- resources ---


def in_bytes(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


@DAEMONS
def test_the_worst_that_so_many_peers_can_do_fits_into_the_memory(overlay: str, place: Pod) -> None:
    """The sum of docs/operations.md, "Memory", for the numbers that the configuration names."""
    _, container = daemon_of(overlay)
    recipe = container_recipe(overlay, container)
    (text,) = recipe.files.values()
    numbers = re.search(r"(\d+) clients and (\d+) backends of (\d+) places", text)
    assert numbers is not None
    clients, backends, places = map(int, numbers.groups())
    config = place.config(recipe)
    limits = config.limits
    worst = IDLE_BYTES + limits.queue_bytes + 1024 * limits.queue_messages
    worst += backends * places * limits.max_message_bytes
    worst += clients * limits.client_unread_bytes + backends * limits.backend_unread_bytes
    worst += (clients + backends) * (2 * limits.max_message_bytes + 2**20) + config.why.bytes
    assert worst < in_bytes(container["resources"]["limits"]["memory"])
    assert in_bytes(container["resources"]["requests"]["memory"]) > IDLE_BYTES
    assert "cpu" not in container["resources"]["limits"]


# --- the ring ---


def neighbours(name: str, tmp_path: Path) -> list[str]:
    """Return whom the pod of that name dials, by the command that its container would run."""
    recipe = container_recipe("overlays/ring", daemon_of("overlays/ring")[1], name)
    program = tmp_path / "bin/router-daemon"
    program.parent.mkdir(exist_ok=True)
    program.write_text('#!/bin/sh\nfor argument; do printf "%s\\n" "$argument"; done\n')
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}/usr/bin{os.pathsep}/bin"
    said = subprocess.run(
        recipe.command, env=recipe.environment | {"PATH": path}, capture_output=True, text=True, check=True
    )
    command, option, given, flag, setting = said.stdout.splitlines()
    assert [command, option, given, flag] == ["run", "--config", *recipe.files, "--set"]
    settings = {key: text for key, text in recipe.environment.items() if key.startswith("ROUTER_DAEMON__RING__")}
    config = load_config(None, settings, [setting])
    assert config.ring.name == name
    assert list(config.ring.addresses) == [f"tcp://0.0.0.0:{ring_port()}"]
    return list(config.ring.neighbours)


def ring_port() -> str:
    return port(load_config(None, {}).ring.addresses[0])


def test_the_ring_is_one(tmp_path: Path) -> None:
    workload, container = daemon_of("overlays/ring")
    replicas = workload["spec"]["replicas"]
    assert variables_of(container)["RING_SIZE"] == str(replicas)
    service = workload["spec"]["serviceName"]
    assert named("overlays/ring", "Service", service)["spec"]["publishNotReadyAddresses"] is True
    names = [f"{workload['metadata']['name']}-{index}" for index in range(replicas)]
    dialled = {name: neighbours(name, tmp_path) for name in names}
    ring = {name: [f"tcp://{other}.{service}:5572"] for name, other in zip(names, [*names[1:], names[0]], strict=True)}
    assert dialled == ring
