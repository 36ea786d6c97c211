"""A real Prometheus scrapes two daemons of a ring under load: every query of the dashboard and every alert is asked.

Rules:
- Prometheus runs with the project's own configuration; only where and how often it scrapes is the test's.
- A query without data fails, unless `NOTHING` names it with the reason why nothing can be there; and one that it names
  must have none. What is only "not a number" counts as none.
- Nothing sleeps for a fixed time: the load goes on until every query has its data, or the time is up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import yaml
from conftest import Daemon, DaemonFactory, Room, free_port
from deployed import (
    GRAFANA,
    PROMETHEUS,
    alert_names,
    dashboard_queries,
    metrics_in,
    recorded_in,
    rules,
    without_thresholds,
)
from tools import FULL, require_tool

from router_daemon import Backend, Client
from router_daemon.backend import Delivery
from router_daemon.errors import RouterError

pytestmark = [
    pytest.mark.skipif(not FULL, reason="of the full form: --full"),
    pytest.mark.slow,
]
WITHIN_S: Final = 38.0
DASHBOARD: Final[dict[str, Any]] = json.loads((GRAFANA / "router-daemon.json").read_text())
NOTHING: Final = {
    "Alerts": "no alert has been true for as long as it must be",
    "Starts": "nothing was restarted",
    "Fallback and faults A": "the policies do no wrong here",
    "Fallback and faults B": "the policies do no wrong here",
    "Lost B": "no client goes while its answer is on its way",
    "Trouble G": "no message was undeliverable",
    "Trouble H": "no neighbour has broken the protocol",
    "alert RouterDaemonLatencyHigh": "it compares with the day before",
    "alert RouterDaemonPolicyFallback": "the policies do no wrong here",
}
PENDING: Final = {
    *("RouterDaemonNoBackend", "RouterDaemonErrorRatioHigh", "RouterDaemonRefusing", "RouterDaemonBackendEjected"),
    *("RouterDaemonBackendFailing", "RouterDaemonBackendLost", "RouterDaemonProtocolErrors"),
}
"""Alerts that this load must raise; they wait for their time to be up."""


class Server:
    """A Prometheus that runs, asked over HTTP."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._url = f"http://{address}"

    async def ready(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            async with self._session.get(f"{self._url}/-/ready") as response:
                return response.status == 200
        return False

    async def ask(self, path: str, **parameters: str) -> Any:
        async with self._session.get(f"{self._url}/api/v1/{path}", params=parameters) as response:
            answer = await response.json()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    async def has(self, expr: str) -> bool:
        """Ask a query and tell whether any number came."""
        found = (await self.ask("query", query=expr))["result"]
        return any(not math.isnan(float(sample["value"][1])) for sample in found)

    async def values(self, label: str, selector: str) -> list[str]:
        found: list[str] = await self.ask(f"label/{label}/values", **{"match[]": selector})
        return found


@asynccontextmanager
async def prometheus(directory: Path, targets: Iterable[str]) -> AsyncIterator[Server]:
    """Run Prometheus with the project's configuration on these targets; ended by its pid."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(config["global"], "500ms")
    config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
    [job] = config["scrape_configs"]
    job["static_configs"] = [{"targets": list(targets)}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        require_tool("prometheus"),
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: ASYNC220 - at once
    try:
        async with aiohttp.ClientSession() as session:
            server = Server(session, address)
            await until(server.ready, process)
            yield server
    finally:
        process.terminate()
        process.wait(10)


async def until(done: Callable[[], Coroutine[Any, Any, bool]], process: subprocess.Popen[bytes] | None = None) -> None:
    """Return once it is so; fail where it is not in time, or the process has ended."""
    deadline_s = time.monotonic() + WITHIN_S
    while not await done():
        assert process is None or process.poll() is None, "prometheus has ended"
        assert time.monotonic() < deadline_s, done
        await asyncio.sleep(0.1)  # between two looks


def start_ring(start: DaemonFactory) -> tuple[dict[str, Daemon], dict[str, str]]:
    """Start two daemons, the first with a rollout and a collector that is not there; return them and their targets."""
    place = f"tcp://127.0.0.1:{free_port()}"
    admins = {name: f"127.0.0.1:{free_port()}" for name in "ab"}
    sections: dict[str, Any] = {"admin": {"bind": admins["b"]}, "ring": {"name": "b", "listen": place, "echo_ms": 100}}
    far = start(**sections)
    sections = {
        "admin": {"bind": admins["a"]},
        "ring": {"name": "a", "listen": f"tcp://127.0.0.1:{free_port()}", "neighbours": [place], "echo_ms": 100},
        "routes.next": {"policy": "ring"},
        "tracing": {"endpoint": f"http://127.0.0.1:{free_port()}/v1/traces", "ratio": 0.1, "timeout_ms": 100},
        "rollout": {"candidate": "next", "percent": 30.0, "stages": [100.0], "control_percent": 10.0},
    }
    return {"a": start(**sections), "b": far}, admins


def backend(name: str, address: str, *capabilities: str, service_s: float = 0.0, **keys: Any) -> Backend:
    """Return a backend that answers after so long, in a time of its own."""
    made = Backend(name, address, group="test", **keys)

    @made.handler(*capabilities)
    async def work(delivery: Delivery) -> bytes:
        await asyncio.sleep(service_s)
        return delivery.data

    return made


def broken(address: str, breaks: asyncio.Event) -> Backend:
    """Return a backend that fails each time from then on."""
    made = Backend("broken", address)

    @made.handler("work")
    async def work(delivery: Delivery) -> bytes:
        if breaks.is_set():
            raise RuntimeError("as told")
        return delivery.data

    return made


async def ask_on(client: Client, capability: str, **keys: Any) -> None:
    """Send one message after the other, whatever becomes of them."""
    for number in range(1_000_000):
        with contextlib.suppress(RouterError):
            call = f"{capability} {id(keys)} {number}"
            await client.send(capability, b"x", id=call, ttl_ms=2_000, **keys)
            await client.feedback(call, 0.5)
        await asyncio.sleep(0.02)


@asynccontextmanager
async def load(daemons: dict[str, Daemon], breaks: asyncio.Event) -> AsyncIterator[None]:
    """Have backends work and clients ask, until the end of the block; one of them breaks."""
    near, far = daemons["a"], daemons["b"]
    backends = [
        backend("quick", near.backend, "work", slots=8, embedding=[1.0, 0.0]),
        backend("steady", near.backend, "work", service_s=0.01, slots=8, cost=1.0),
        backend("narrow", near.backend, "narrow", service_s=0.3),
        backend("distant", far.backend, "abroad"),
        broken(near.backend, breaks),
    ]
    async with Client(near.frontend) as client, Client(far.frontend) as other:
        asking = [
            *(ask_on(client, "work") for _ in range(4)),
            ask_on(client, "work", embedding=[0.6, 0.8], mode="fanout"),
            ask_on(client, "work", priority=4, mode="hedge"),
            *(ask_on(client, "narrow") for _ in range(12)),
            ask_on(client, "nobody can do this"),
            ask_on(client, "abroad"),
            ask_on(other, "work"),
        ]
        tasks = [asyncio.ensure_future(work) for work in (*(each.run() for each in backends), *asking)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def tell(admin: str, what: str, **body: Any) -> None:
    """Tell a daemon's rollout what to do."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{admin}/routes/{what}", json=body) as response,
    ):
        assert response.status == 200, await response.text()


async def trouble(server: Server, room: Room, admin: str, breaks: asyncio.Event) -> None:
    """Have happen what is to be seen: backends broken and lost, a peer that is wrong, a rollout led, stopped, begun again.

    A counter that has just appeared has not risen yet: it must have been seen before it does.
    """
    await until(lambda: server.has('router_backend_ejections_total{backend="broken"} == 0'))
    breaks.set()
    lost = room.backend(name="lost", capabilities=["lost"])
    stranger = room.client()
    stranger.command("NONSENSE")
    await until(lambda: server.has('router_backend_up{backend="lost"} == 1'))
    await until(lambda: server.has('router_protocol_errors_total{code="unknown_command"}'))
    for _ in range(20):
        stranger.command("NONSENSE")
    lost.close()
    await until(lambda: server.has('router_rollout_percent{route="next"} == 30'))
    await tell(admin, "percent", percent=40.0)
    await until(lambda: server.has('router_rollout_percent{route="next"} == 40'))
    await tell(admin, "rollback")
    await until(lambda: server.has("router_rollout_stopped == 1"))
    await tell(admin, "resume")


async def filled(server: Server) -> Callable[[str], str]:
    """Return how Grafana fills the variables in, once each has values: all of them, as alternatives."""
    values = {"$__rate_interval": "10s"}

    def fill(text: str) -> str:
        for name, value in values.items():
            text = text.replace(name, value)
        return text

    for variable in DASHBOARD["templating"]["list"][1:]:
        selector, _, label = (
            fill(variable["definition"]).removeprefix("label_values(").removesuffix(")").rpartition(", ")
        )
        found: list[str] = []

        async def look(label: str = label, selector: str = selector, into: list[str] = found) -> bool:
            into[:] = await server.values(label, selector)
            return bool(into)

        await until(look)
        values[f"${variable['name']}"] = "(" + "|".join(value.replace(".", r"\\.") for value in found) + ")"
    return fill


def queries(fill: Callable[[str], str]) -> dict[str, str]:
    """Return all that is to have data: the dashboard's queries, what is recorded, alerts without their thresholds."""
    found = {name: fill(expr) for name, expr in dashboard_queries(DASHBOARD).items()}
    found |= {f"recorded {rule['record']}": rule["record"] for rule in rules("record")}
    return found | {f"alert {rule['alert']}": without_thresholds(rule["expr"]) for rule in rules("alert")}


async def all_have_data(server: Server, asked: dict[str, str]) -> None:
    """Wait until every query has had data, but those of which none is expected, which must have none."""
    missing = asked.keys() - NOTHING.keys()
    deadline_s = time.monotonic() + WITHIN_S
    while missing:
        missing = {name for name in missing if not await server.has(asked[name])}
        assert time.monotonic() < deadline_s, {name: asked[name] for name in missing}
    assert NOTHING.keys() <= asked.keys()
    there = {name: asked[name] for name in NOTHING if await server.has(asked[name])}
    assert not there, "these have data, and need no excuse"


async def all_rules_are_well(server: Server) -> None:
    """Assert that Prometheus has every rule, computes each, and takes for trouble what is."""
    for rule in rules("alert"):
        await server.ask("query", query=rule["expr"])
    found = [rule for group in (await server.ask("rules"))["groups"] for rule in group["rules"]]
    assert len(found) == len(rules("alert")) + len(rules("record"))
    assert {(rule["health"], rule.get("lastError", "")) for rule in found} == {("ok", "")}
    raised = {rule["name"] for rule in found if rule.get("state", "inactive") != "inactive"}
    assert PENDING <= raised <= set(alert_names())
    for alert in (await server.ask("alerts"))["alerts"]:
        assert "<no value>" not in json.dumps(alert["annotations"]), alert


@pytest.mark.timeout(120)
def test_every_query_and_every_alert_is_answered_by_a_real_prometheus(
    daemon: DaemonFactory, open_room: Callable[[Daemon], Room], tmp_path: Path
) -> None:
    daemons, admins = start_ring(daemon)

    async def watched() -> None:
        breaks = asyncio.Event()
        async with load(daemons, breaks), prometheus(tmp_path, admins.values()) as server:
            await trouble(server, open_room(daemons["a"]), admins["a"], breaks)
            fill = await filled(server)
            await all_have_data(server, queries(fill))
            await until_raised(server)
            await all_rules_are_well(server)
            assert sorted(await server.values("instance", "router_build_info")) == sorted(admins.values())

    asyncio.run(watched())


async def until_raised(server: Server) -> None:
    """Wait until every alert is pending that this load must raise."""
    deadline_s, missing = time.monotonic() + WITHIN_S, PENDING
    while missing:
        missing = PENDING - {alert["labels"]["alertname"] for alert in (await server.ask("alerts"))["alerts"]}
        assert time.monotonic() < deadline_s, missing


def test_what_has_no_data_is_a_query() -> None:
    known = dashboard_queries(DASHBOARD).keys() | {f"alert {name}" for name in alert_names()}
    assert NOTHING.keys() <= known
    for name, expr in dashboard_queries(DASHBOARD).items():
        assert metrics_in(expr) or recorded_in(expr) or name == "Alerts", name
