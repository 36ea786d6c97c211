"""A running daemon reads its configuration again: by SIGHUP and by command, under load, and when the file is wrong."""

from __future__ import annotations

import http.client
import json
import signal
import time
from collections.abc import Callable
from typing import Any, Final

import pytest
from command_line import invoke
from conftest import Daemon, DaemonFactory, Room, free_port, write_config
from peers import RawBackend, RawClient

WAIT_S: Final = 15.0
OpenRoom = Callable[[Daemon], Room]
ENGINES = ("native", "libzmq")


def rewrite(daemon: Daemon, **sections: dict[str, Any]) -> None:
    """Change the file that a daemon was started with."""
    names = dict.fromkeys((*daemon.settings, *sections))
    merged = {name: daemon.settings.get(name, {}) | sections.get(name, {}) for name in names}
    write_config(daemon.log.parent / "router.toml", merged)


def started(daemon: DaemonFactory, **sections: Any) -> tuple[Daemon, str]:
    """Start a daemon with an admin room; return both."""
    admin = f"127.0.0.1:{free_port()}"
    return daemon(admin={"bind": admin}, log={"format": "json"}, **sections), admin


def logged(daemon: Daemon, event: str, count: int = 1) -> list[dict[str, Any]]:
    """Return the log's lines of an event, once there are so many."""
    deadline = time.monotonic() + WAIT_S
    found: list[dict[str, Any]] = []
    while len(found) < count:
        assert time.monotonic() < deadline, daemon.printed()
        lines = [json.loads(line) for line in daemon.printed().splitlines() if line.startswith("{")]
        found = [line for line in lines if line["event"] == event]
    return found


def test_the_command_says_what_has_changed(daemon: DaemonFactory) -> None:
    running, admin = started(daemon)
    rewrite(running, weights={"priority": 0.5}, routing={"heads": 1}, log={"format": "json", "level": "warning"})
    result = invoke("reload", "--admin", admin)
    assert result.exit_code == 0
    assert set(result.stdout.splitlines()) == {
        "weights.priority: 0.1 -> 0.5",
        "routing.heads: 3 -> 1",
        'log.level: "info" -> "warning"',
    }
    assert invoke("reload", "--admin", admin).stdout == "nothing has changed\n"


def test_what_needs_a_restart_is_named_and_the_rest_takes_effect(daemon: DaemonFactory, open_room: OpenRoom) -> None:
    running, admin = started(daemon)
    rewrite(running, transport={"engine": "libzmq"}, limits={"client_messages": 1})
    result = invoke("reload", "--admin", admin, "--json")
    answer = json.loads(result.stdout)
    assert answer["changed"] == [{"key": "limits.client_messages", "old": "2500", "new": "1"}]
    assert answer["needs_restart"] == [{"key": "transport.engine", "old": '"native"', "new": '"libzmq"'}]
    assert result.stderr == 'needs a restart: transport.engine: "native" -> "libzmq"\n'
    assert logged(running, "needs a restart")[0]["key"] == "transport.engine"
    room = open_room(running)
    backend = room.backend(slots=4)
    client = room.client()
    first, second = client.send(room.capability), client.send(room.capability)
    client.error("overloaded", second)
    for delivery in room.deliveries([backend]):
        delivery[0].ack(delivery[1], b"done")
    client.until_last(first)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"weights": {"priorty": 0.5}}, "priority"),
        ({"routing": {"heads": 9}}, "routing.heads"),
        ({"rollout": {"candidate": "nobody"}}, "rollout.candidate"),
        ({"ring_attention": {"projections": "/nowhere.npy"}}, "projections"),
    ],
    ids=["unknown key", "out of bounds", "no such route", "no such file"],
)
def test_a_wrong_file_changes_nothing_and_is_told_as_check_does(
    daemon: DaemonFactory, sections: dict[str, Any], told: str
) -> None:
    running, admin = started(daemon)
    rewrite(running, routing={"mode": "single"} | sections.get("routing", {}), **{
        name: keys for name, keys in sections.items() if name != "routing"
    })  # fmt: skip
    result = invoke("reload", "--admin", admin)
    checked = invoke("check", "--config", str(running.log.parent / "router.toml"))
    assert (result.exit_code, checked.exit_code) == (3, 2)
    assert told in result.stderr
    assert result.stderr.removeprefix("error: ").splitlines() == checked.stderr.splitlines()
    assert logged(running, "reload refused, the configuration stays as it was")[0]["faults"] == (
        checked.stderr.splitlines()
    )
    rewrite(running)
    assert invoke("reload", "--admin", admin).stdout == "nothing has changed\n", "mode single was half applied"


def settle(client: RawClient, backend: RawBackend, idents: list[Any]) -> None:
    """Do as many messages as there are names, and see that each of those is answered."""
    for _ in idents:
        backend.ack(backend.delivery(WAIT_S), b"done")
    for ident in idents:
        assert [answer.verb for answer in client.until_last(ident, WAIT_S)] == ["REPLY"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_signal_under_load_loses_nothing(daemon: DaemonFactory, open_room: OpenRoom, engine: str) -> None:
    """Weights, routes, a rollout and limits change four times, while every message is answered over one connection."""
    running, _ = started(daemon, transport={"engine": engine})
    room = open_room(running)
    backend = room.backend(slots=8)
    client = room.client()
    others: list[dict[str, Any]] = [
        {"routes.try": {"policy": "c3"}, "rollout": {"candidate": "try", "percent": 50.0}},
        {"routes.try": {"policy": "ring", "tau": 0.5}, "rollout": {"candidate": "try"}, "weights": {"priority": 0.2}},
        {"routing": {"policy": "least_in_flight"}, "limits": {"queue_messages": 10}},
        {"retry": {"most": 20.0}, "hedge": {"share": 0.0}},
    ]
    for turn, sections in enumerate(others):
        for _ in range(20):
            settle(client, backend, [client.send(room.capability, heads=1, mode="single") for _ in range(4)])
        idents = [client.send(room.capability, heads=1, mode="single") for _ in range(12)]  # four of them wait
        rewrite(running, **sections)
        running.process.send_signal(signal.SIGHUP)
        settle(client, backend, idents[:4])
        logged(running, "reloaded", turn + 1)
        settle(client, backend, idents[4:])
    running.check()


def post(admin: str, content_type: str) -> int:
    connection = http.client.HTTPConnection(admin, timeout=WAIT_S)
    connection.request("POST", "/reload", b"{}", {"Content-Type": content_type})
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_page_in_a_browser_cannot_reload(daemon: DaemonFactory) -> None:
    """A form and a plain `fetch` send these content types without asking first."""
    _, admin = started(daemon)
    assert [post(admin, kind) for kind in ("text/plain", "application/x-www-form-urlencoded")] == [415, 415]
    assert post(admin, "application/json") == 200


def test_without_a_daemon() -> None:
    result = invoke("reload", "--admin", f"127.0.0.1:{free_port()}")
    assert result.exit_code == 1
    assert "no daemon's admin room" in result.stderr
