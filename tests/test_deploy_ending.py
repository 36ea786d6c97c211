"""How the manifests' containers end, tried with processes: what is open is answered, and in time.

The kubelet's order is the test's: the hook of the daemon, then SIGTERM; in a pod with sidecars first the application, then
the sidecars from the last to the first. A process that is not gone within the grace period would be killed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import closing
from typing import Any, Final

import pytest
import zmq
from command_line import environ
from conftest import STOP_S
from container_kit import Object, Pod, container_of, container_recipe, daemon_of, pod_spec
from packaging_kit import REPOSITORY
from peers import RawBackend, RawClient, Stopwatch
from tools import FULL

OPEN: Final = 20
PROBES: Final = ("startupProbe", "livenessProbe", "readinessProbe")
Context = zmq.Context[zmq.Socket[bytes]]


def hook_of(container: Object) -> list[str]:
    """Return the command of the daemon's hook; in the short form its wait is a short one."""
    command = list(container["lifecycle"]["preStop"]["exec"]["command"])
    assert command[0] == "sleep"
    return command if FULL else ["sleep", "0.3"]


def probed(pod: Pod, container: Object) -> dict[str, int]:
    """Return what each probe of the container would get."""
    return {probe: pod.get(container[probe]["httpGet"]["path"]) for probe in PROBES}


def shut(process: subprocess.Popen[bytes]) -> int:
    """End a container's process as the kubelet does; return its exit code."""
    process.terminate()
    return process.wait(STOP_S)


class Peers:
    """A client and a backend of a pod."""

    def __init__(self, pod: Pod, context: Context) -> None:
        self.client = RawClient(context, f"tcp://{pod.address('5570')}")
        self.backend = RawBackend(context, f"tcp://{pod.address('5571')}", "b")
        self.backend.register("work", slots=2 * OPEN)

    def send(self, count: int) -> list[Any]:
        """Have the daemon take so many messages; return their ids."""
        sent = [self.client.send("work", b"x") for _ in range(count)]
        assert self.client.pending() == []  # it has read them
        return sent

    def close(self) -> None:
        self.client.close()
        self.backend.close()


@pytest.mark.parametrize("overlay", ["base", "overlays/shared"])
def test_a_shared_daemon_answers_what_is_open_and_is_gone_in_time(overlay: str, pod: Pod, zmq_context: Context) -> None:
    workload, container = daemon_of(overlay)
    process = pod.start(container_recipe(overlay, container, "router-daemon-0"))
    pod.until(lambda: pod.get("/livez") == 200)
    assert probed(pod, container) == dict.fromkeys(PROBES, 200)
    with closing(Peers(pod, zmq_context)) as peers:
        sent, watch = peers.send(OPEN), Stopwatch()
        with subprocess.Popen(hook_of(container)) as hook:
            sent += peers.send(OPEN)  # it still serves
            assert hook.wait(STOP_S) == 0
        assert pod.get("/readyz") == 200
        process.terminate()
        pod.until(lambda: pod.get("/readyz") == 503)
        assert pod.get("/livez") == 200  # it drains, and must not be restarted for it
        peers.client.error("draining", peers.client.send("work", b"too late"))
        for _ in sent:  # whether they were out or waited for a place
            peers.backend.ack(peers.backend.delivery(), b"done")
        assert {peers.client.expect("REPLY", last=True).header["id"] for _ in sent} == set(sent)
        peers.backend.expect("BYE")
        assert process.wait(STOP_S) == 0, pod.printed()
        assert watch.elapsed_s < pod_spec(workload)["terminationGracePeriodSeconds"]


def test_a_backend_that_never_answers_costs_its_messages_but_not_the_grace_period(
    pod: Pod, zmq_context: Context
) -> None:
    recipe = container_recipe("base", daemon_of("base")[1], "router-daemon-0")
    recipe.environment["ROUTER_DAEMON__LIMITS__DRAIN_TIMEOUT_S"] = "0.5"
    process = pod.start(recipe)
    pod.until(lambda: pod.get("/readyz") == 200)
    with closing(Peers(pod, zmq_context)) as peers:
        sent = peers.send(OPEN)
        assert shut(process) == 0, pod.printed()
        answers = [peers.client.recv() for _ in sent]
    assert {(answer.verb, answer.header["code"]) for answer in answers} == {("ERROR", "draining")}
    assert {answer.header["id"] for answer in answers} == set(sent)


@pytest.mark.timeout(180)  # the pod's processes, and what they start
def test_sidecars_start_before_the_application_and_end_after_it(pod: Pod) -> None:
    """The pod of overlays/sidecar, with its own commands: nothing of the application's is refused to its last moment."""
    overlay = "overlays/sidecar"
    workload, daemon = daemon_of(overlay)
    first = pod.start(container_recipe(overlay, daemon))
    pod.until(lambda: probed(pod, daemon) == dict.fromkeys(PROBES, 200))
    second = pod.start(container_recipe(overlay, container_of(overlay, "shout")))
    application = pod.start(container_recipe(overlay, container_of(overlay, "application")))
    pod.until(
        lambda: "HELLO" in pod.printed()
    )  # it waits for the backend by its time to live, not by an order of start

    watch = Stopwatch()
    assert shut(application) == 0, pod.printed()
    assert shut(second) == 0, pod.printed()
    assert shut(first) == 0, pod.printed()
    assert watch.elapsed_s < pod_spec(workload)["terminationGracePeriodSeconds"]
    assert "draining" not in pod.printed().replace('"event": "draining"', "")
    assert "Traceback" not in pod.printed()


def test_a_daemon_that_was_killed_starts_again_on_its_volume(pod: Pod, zmq_context: Context) -> None:
    """The kubelet restarts a container beside others that go on: the state is there, and its address is free."""
    overlay = "overlays/sidecar"
    recipe = container_recipe(overlay, daemon_of(overlay)[1])
    first = pod.start(recipe)
    pod.until(lambda: pod.get("/readyz") == 200)
    with closing(Peers(pod, zmq_context)) as peers:
        assert peers.client.pending() == []
        first.kill()
        first.wait()
        second = pod.start(recipe)
        pod.until(lambda: pod.get("/readyz") == 200)
        assert peers.client.pending() == []  # connected again, and asked
    assert shut(second) == 0, pod.printed()


def test_what_the_sizes_were_measured_with_runs() -> None:
    script = REPOSITORY / "scripts/measure_memory.py"
    options = ["--clients", "3", "--backends", "2", "--seconds", "1"]
    command = [sys.executable, str(script), *options]
    said = subprocess.run(command, env=environ(), capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 0, said.stderr
    measured = re.findall(
        r"^(.+?) +USS +(\d+\.\d) MiB  RSS +(\d+\.\d) MiB  CPU +\d+\.\d % of a core$", said.stdout, re.MULTILINE
    )
    assert [label for label, _, _ in measured] == ["idle", "3 clients", "3 clients, 2 backends"]
    assert all(10 < float(uss) < float(rss) for _, uss, rss in measured)
