"""The registration of a backend as a state machine: no sockets, and time is what the test says."""

from __future__ import annotations

from typing import Any

import pytest

from router_daemon import errors
from router_daemon.sdk.link import Incoming, unpack
from router_daemon.sdk.registration import Registration

HEADER = {"name": "b1", "capabilities": ["work"], "session": b"s" * 16}


def message(verb: str, *body: bytes, **header: Any) -> Incoming:
    return Incoming(verb, header, list(body))


def said(registration: Registration) -> list[tuple[str, dict[str, Any]]]:
    """Take what the registration wants to send."""
    sent = [unpack(frames) for frames in registration.control]
    registration.control.clear()
    return [(each.verb, each.header) for each in sent if each is not None]


def told(registration: Registration) -> list[str]:
    """Take the kinds of events for the event loop."""
    kinds = [event.kind for event in registration.events]
    registration.events.clear()
    return [str(kind) for kind in kinds]


def given_up(registration: Registration) -> bool:
    return registration.reopen is not None


def finished(registration: Registration) -> bool:
    return registration.finished


def in_force(registration: Registration) -> bool:
    return registration.in_force


def registered(heartbeat_ms: int = 1000) -> Registration:
    """Return a registration in force since time 0."""
    registration = Registration(dict(HEADER), drain_timeout_s=10.0)
    registration.on_connection(began=True, now=0.0)
    assert said(registration) == [("REGISTER", HEADER)]
    assert not in_force(registration)
    registration.on_message(message("REGISTERED", name="b1", heartbeat_ms=heartbeat_ms), 0.0)
    assert in_force(registration)
    assert told(registration) == ["registered"]
    return registration


def tick(registration: Registration, now: float, *, results_wait: bool = False) -> None:
    registration.on_time(now, results_wait=results_wait)


def test_nothing_is_said_and_nothing_is_due_without_a_connection() -> None:
    registration = Registration(dict(HEADER), drain_timeout_s=1.0)
    tick(registration, 1e9)
    assert said(registration) == []
    assert registration.deadline() == float("inf")


def test_heartbeats_go_out_twice_per_interval_with_what_is_in_work() -> None:
    registration = registered(heartbeat_ms=500)
    assert registration.deadline() == 0.25
    registration.on_message(message("DELIVER", b"x", id=7), 0.1)
    tick(registration, 0.2)
    assert said(registration) == []
    tick(registration, 0.25)
    assert said(registration) == [("HEARTBEAT", {"queue": 1})]
    assert registration.deadline() == 0.5


def test_a_register_without_an_answer_costs_the_socket_after_three_seconds() -> None:
    registration = Registration(dict(HEADER), drain_timeout_s=1.0)
    registration.on_connection(began=True, now=5.0)
    assert registration.deadline() == 8.0
    tick(registration, 7.9)
    assert not given_up(registration)
    tick(registration, 8.0)
    assert given_up(registration)
    registration.on_connection(began=False, now=8.0)
    assert not given_up(registration)
    registration.on_connection(began=True, now=8.5)
    assert said(registration) == [("REGISTER", HEADER)]


def test_a_daemon_silent_for_three_intervals_is_given_up() -> None:
    registration = registered()
    times = [n / 2 for n in range(1, 7)]
    for now in times:
        tick(registration, now)
        assert not given_up(registration)
    registration.on_message(message("HEARTBEAT"), 3.2)
    for now in (3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5):
        tick(registration, now)
        assert not given_up(registration)
    tick(registration, 7.0)
    assert given_up(registration)


def test_a_pause_of_this_machine_is_no_silence_of_the_daemon() -> None:
    registration = registered()
    tick(registration, 0.5)
    tick(registration, 60.0)
    assert not given_up(registration)
    assert said(registration)[-1] == ("HEARTBEAT", {"queue": 0})


def test_a_lost_connection_registers_again_with_the_same_session_and_keeps_what_is_open() -> None:
    registration = registered()
    registration.on_message(message("DELIVER", id=7), 0.1)
    registration.on_connection(began=False, now=1.0)
    assert not in_force(registration)
    registration.on_connection(began=True, now=2.0)
    assert said(registration) == [("REGISTER", HEADER)]
    assert told(registration) == ["deliver"]
    assert registration.working == {7}


def test_forgotten_by_the_daemon_it_registers_again_once() -> None:
    registration = registered()
    error = message("ERROR", id=None, code="not_registered", detail="")
    registration.on_message(error, 1.0)
    registration.on_message(error, 1.0)
    assert said(registration) == [("REGISTER", HEADER)]
    assert told(registration) == ["lost"]  # docs/protocol.md: "REGISTER, and drop unfinished work"


@pytest.mark.parametrize("code", ["name_taken", "draining", "internal"])
def test_a_refusal_that_may_pass_is_tried_again_every_second(code: str) -> None:
    registration = Registration(dict(HEADER), drain_timeout_s=1.0)
    registration.on_connection(began=True, now=0.0)
    for now in (0.0, 1.0, 2.0):
        assert said(registration) == [("REGISTER", HEADER)]
        registration.on_message(message("ERROR", id=None, code=code, detail=""), now)
        tick(registration, now + 0.9)
        assert said(registration) == []
        tick(registration, now + 1.0)


@pytest.mark.parametrize("code", ["bad_header", "forbidden", "too_large", "unsupported_version", "of_the_future"])
def test_a_refusal_for_good_is_raised(code: str) -> None:
    registration = Registration(dict(HEADER), drain_timeout_s=1.0)
    registration.on_connection(began=True, now=0.0)
    with pytest.raises(errors.RouterError, match=f"{code}: why"):
        registration.on_message(message("ERROR", id=None, code=code, detail="why"), 0.0)


def test_errors_about_deliveries_are_not_about_the_registration() -> None:
    registration = registered()
    registration.on_message(message("ERROR", id=7, code="too_large", detail=""), 1.0)
    registration.on_message(message("ERROR", id=None, code="bad_frames", detail=""), 1.0)
    assert in_force(registration)
    assert said(registration) == []


def test_a_bye_nobody_asked_for_loses_what_is_open_and_registers_again_after_a_second() -> None:
    registration = registered()
    registration.on_message(message("BYE"), 4.0)
    assert told(registration) == ["lost"]
    assert not in_force(registration)
    assert not finished(registration)
    tick(registration, 5.0)
    assert said(registration) == [("REGISTER", HEADER)]


def test_a_drain_ends_with_bye() -> None:
    registration = registered()
    registration.on_message(message("DELIVER", id=7), 0.1)
    registration.drain(1.0)
    registration.drain(1.1)
    assert said(registration) == [("DRAIN", {})]
    tick(registration, 1.2)
    assert not finished(registration)
    registration.on_message(message("BYE"), 2.0)
    assert finished(registration)
    assert said(registration) == []


def test_a_drain_is_said_again_after_a_reconnect() -> None:
    registration = registered()
    registration.on_message(message("DELIVER", id=7), 0.1)
    registration.drain(1.0)
    registration.on_connection(began=False, now=1.5)
    registration.on_connection(began=True, now=2.0)
    assert said(registration) == [("REGISTER", HEADER)]
    registration.on_message(message("REGISTERED", heartbeat_ms=1000), 2.1)
    assert said(registration) == [("DRAIN", {})]


def test_a_drain_that_takes_too_long_unregisters() -> None:
    registration = registered()
    registration.on_message(message("DELIVER", id=7), 0.1)
    registration.drain(1.0)
    said(registration)
    registration.on_message(message("HEARTBEAT"), 10.9)
    tick(registration, 10.9)
    assert not finished(registration)
    tick(registration, 11.0)
    assert finished(registration)
    assert said(registration) == [("UNREGISTER", {})]


def test_a_drain_without_a_daemon_waits_only_for_what_is_unfinished() -> None:
    registration = registered()
    registration.on_message(message("DELIVER", id=7), 0.1)
    registration.on_connection(began=False, now=1.0)
    registration.drain(1.0)
    tick(registration, 1.1)
    assert not finished(registration)
    registration.working.clear()
    tick(registration, 1.2, results_wait=True)
    assert not finished(registration)
    tick(registration, 1.3)
    assert finished(registration)


def test_updates_go_out_one_at_a_time_and_change_the_next_register() -> None:
    registration = registered()
    registration.update({"slots": 8})
    registration.update({"cost": -1})
    registration.update({"zone": "z"})
    assert said(registration) == [("UPDATE", {"slots": 8})]
    registration.on_message(message("REGISTERED", heartbeat_ms=1000), 1.0)
    assert said(registration) == [("UPDATE", {"cost": -1})]
    registration.on_message(message("ERROR", id=None, code="bad_header", detail=""), 1.0)
    assert said(registration) == [("UPDATE", {"zone": "z"})]
    assert told(registration) == ["updated", "refused"]
    registration.on_connection(began=False, now=2.0)
    registration.on_connection(began=True, now=2.0)
    assert said(registration) == [("REGISTER", {**HEADER, "slots": 8})]
    registration.on_message(message("REGISTERED", heartbeat_ms=1000), 2.0)
    assert said(registration) == [("UPDATE", {"zone": "z"})]
    registration.on_message(message("REGISTERED", heartbeat_ms=1000), 2.0)
    assert told(registration) == ["registered", "updated"]
    assert said(registration) == []


def test_messages_of_a_newer_daemon_and_odd_ones_are_skipped() -> None:
    registration = registered()
    registration.on_message(message("NEWS", id=1), 1.0)
    registration.on_message(message("DELIVER", id="x"), 1.0)
    registration.on_message(message("REGISTERED", heartbeat_ms="soon"), 1.0)
    assert told(registration) == []
    assert in_force(registration)
