"""What one client may have open: beyond it `overloaded`, at once and for that client alone, until something ends."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import accept, deliver, error, make_broker, outcomes, reply

from router_daemon.core.actions import Deliver, Error
from router_daemon.core.types import Side
from router_daemon.metrics import Snapshot, render
from router_daemon.testing import BrokerFixture, only

FULL = "2 messages of this client are open"
HEAVY = "messages of this client with 256 bytes and more are open"


def refused(detail: str, client_id: int, wait_ms: int = 10, **keys: Any) -> Error:
    """What a SEND beyond a quota is answered."""
    return error("overloaded", detail, client_id=client_id, message=None, retry_after_ms=wait_ms, **keys)


def refusals(broker: BrokerFixture) -> dict[str, int]:
    counts = broker.broker.counts.capabilities["c"].refusals
    return {cause: count for cause, count in counts.items() if count}


def is_taken(broker: BrokerFixture, *body: bytes, **keys: Any) -> bool:
    return bool(only(broker.send("c", *body, **keys), Deliver))


def test_a_client_beyond_its_number_is_refused_and_the_others_are_not() -> None:
    broker = make_broker("a", slots=9, client_messages=2)
    for client_id in (1, 2):
        assert is_taken(broker, client_id=client_id)
    assert broker.send("c", client_id=3) == [refused(FULL, 3)]
    assert is_taken(broker, client_id=3, peer=b"somebody else")
    assert outcomes(broker) == {"overloaded": 1}
    assert refusals(broker) == {"client_messages": 1}


def test_a_place_comes_free_with_each_end() -> None:
    broker = make_broker("a", slots=9, heartbeat_s=60.0, client_messages=2)
    broker.send("c", client_id=1)
    broker.send("c", client_id=2)
    assert broker.ack(deliver("a", 1)) == [reply("a")]
    assert is_taken(broker, client_id=3)
    assert broker.send("c", client_id=4) == [refused(FULL, 4)]
    broker.cancel(2)
    assert is_taken(broker, client_id=4)
    broker.advance(31.0)
    assert broker.broker.open_messages == 0
    assert is_taken(broker, client_id=5)


def test_messages_without_reply_count_for_as_long_as_they_are_worked_on() -> None:
    broker = make_broker("a", slots=9, client_messages=2)
    broker.send("c", client_id=1, reply="none")
    broker.send("c", client_id=1, reply="none")
    assert broker.send("c", client_id=1, reply="none") == [refused(FULL, 1, 100)]
    broker.ack(deliver("a", 2))
    assert broker.send("c", client_id=1, reply="none") == [
        accept(message="m3"),
        deliver("a", 3, message="m3"),
    ]


def test_bytes_of_bodies_are_bounded_over_all_their_frames() -> None:
    broker = make_broker("a", slots=9, client_bytes=256)
    assert is_taken(broker, bytes(100), bytes(155), client_id=1)
    assert is_taken(broker, bytes(1), client_id=2)
    assert broker.send("c", client_id=3) == [refused(HEAVY, 3)]
    assert is_taken(broker, client_id=3, peer=b"somebody else")
    assert refusals(broker) == {"client_bytes": 1}
    broker.ack(deliver("a", 2))
    assert is_taken(broker, client_id=3)


def test_a_client_with_nothing_open_gets_in_whatever_the_size() -> None:
    broker = make_broker("a", slots=9, client_bytes=256)
    assert is_taken(broker, bytes(10_000), client_id=1)
    assert broker.send("c", client_id=2) == [refused(HEAVY, 2)]


def test_messages_that_wait_count_as_well() -> None:
    broker = make_broker("a", slots=1, client_messages=2)
    assert is_taken(broker, client_id=1)
    assert broker.send("c", client_id=2) == []
    assert broker.send("c", client_id=3) == [refused(FULL, 3)]


def test_what_was_refused_for_another_reason_is_not_charged() -> None:
    broker = make_broker("a", slots=9, client_messages=2)
    for client_id in range(5):
        broker.send("nobody offers", client_id=client_id)
        broker.send("c", client_id=client_id, durable=True)
    assert is_taken(broker, client_id=1)
    assert is_taken(broker, client_id=2)


def test_a_taken_id_is_told_before_a_quota() -> None:
    broker = make_broker("a", client_messages=1)
    broker.send("c")
    [answer] = only(broker.send("c"), Error)
    assert (answer.header.code, answer.header.last) == ("duplicate_id", False)


def test_the_delimiter_comes_back_with_a_refusal() -> None:
    broker = make_broker("a", client_messages=1)
    broker.send("c", client_id=1, delimited=True)
    detail = "1 messages of this client are open"
    assert broker.send("c", client_id=2, delimited=True) == [refused(detail, 2, delimited=True)]


@pytest.mark.parametrize(("age_s", "wait_ms"), [(0.0, 10), (0.5, 125), (20.0, 1000)])
def test_when_to_come_again_is_a_quarter_of_the_age_of_the_oldest_within_bounds(age_s: float, wait_ms: int) -> None:
    broker = make_broker("a", heartbeat_s=60.0, client_messages=2)
    broker.send("c", client_id=1, heads=1)
    broker.advance(age_s)
    broker.send("c", client_id=2)
    assert broker.send("c", client_id=3) == [refused(FULL, 3, wait_ms)]


def test_a_client_that_is_gone_takes_its_charges_along_but_for_what_goes_on() -> None:
    broker = make_broker("a", slots=9, client_messages=3)
    broker.send("c", client_id=1)
    broker.send("c", client_id=2, reply="none")
    broker.gone(b"client", Side.CLIENT)
    assert broker.broker.open_messages == 1
    for client_id in (1, 2, 3):
        assert is_taken(broker, client_id=client_id)
    broker.ack(deliver("a", 2))
    assert broker.send("c", client_id=4) == [refused("3 messages of this client are open", 4)]


def test_each_limit_on_what_is_open_has_its_cause_in_the_metrics() -> None:
    broker = make_broker("a", slots=9, client_messages=2, client_bytes=256, open_messages=4)
    for number, peer in enumerate((b"x", b"x", b"x", b"z")):
        broker.send("c", bytes(60), client_id=number, peer=peer)
    broker.send("c", bytes(256), client_id=2, peer=b"y")
    broker.send("c", client_id=3, peer=b"y")
    broker.send("c", client_id=3, peer=b"w")
    text = render(Snapshot(broker.broker, broker.clock.now), openmetrics=False).decode()
    for cause in ("client_messages", "client_bytes", "open_messages"):
        assert f'router_refusals_total{{capability="c",cause="{cause}"}} 1.0' in text
