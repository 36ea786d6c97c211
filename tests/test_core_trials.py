"""An ejected backend comes back by a trial in every mode, also where another head answers first."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import InOrder, delivery_outcomes
from routing_kit import name_of, room_only_at, send, send_one

from router_daemon.core.actions import Deliver
from router_daemon.testing import BrokerFixture, only


def with_one_ejected(mode: str) -> BrokerFixture:
    """Return a broker whose backend `bad` is ejected and due for its trial."""
    broker = BrokerFixture(policy=InOrder(), mode=mode, heartbeat_s=60.0, heads=3)
    for name in ("good", "fair", "bad"):
        broker.register(name, "c", slots=8)
    for number in range(20):
        heads = only(broker.send("c", client_id=number, mode="fanout"), Deliver)
        for sent in reversed(heads):
            (broker.nack if sent.peer == b"bad" else broker.ack)(sent)
        if broker.backend("bad").ejected:
            break
    assert broker.backend("bad").ejected
    broker.advance(0.4)
    return broker


def trial(broker: BrokerFixture, **keys: Any) -> tuple[Deliver, list[Deliver]]:
    """Send a message; return its delivery to `bad`, and the others."""
    heads = only(broker.send("c", client_id="trial", **keys), Deliver)
    [mine] = [sent for sent in heads if sent.peer == b"bad"]
    return mine, [sent for sent in heads if sent is not mine]


def test_of_a_fan_out_one_head_is_the_trial() -> None:
    broker = with_one_ejected("fanout")
    mine, others = trial(broker)
    assert len(others) == 2
    broker.ack(mine)
    assert not broker.backend("bad").ejected


def test_a_trial_decides_though_another_head_has_answered_first() -> None:
    broker = with_one_ejected("fanout")
    mine, others = trial(broker)
    broker.ack(others[0])
    assert broker.backend("bad").ejected, "it is not cancelled, and has not answered yet"
    broker.ack(mine)
    assert not broker.backend("bad").ejected


def test_a_trial_that_fails_after_another_has_answered_ejects_for_longer() -> None:
    broker = with_one_ejected("fanout")
    mine, others = trial(broker)
    broker.ack(others[0])
    failed = delivery_outcomes(broker, "bad")["failed"]
    broker.nack(mine)
    backend = broker.backend("bad")
    assert (backend.ejected, backend.ejections) == (True, 2)
    assert delivery_outcomes(broker, "bad")["failed"] == failed + 1
    broker.advance(0.3)
    assert not broker.broker.registry.pool("c").trials, "the second time takes twice as long"


@pytest.mark.parametrize("how", ["unregister", "drain"])
def test_one_that_leaves_with_its_work_is_not_ejected(how: str) -> None:
    """It would be watched after it has gone, and leave a second time."""
    broker = BrokerFixture(policy=InOrder(), mode="single", heartbeat_s=1.0)
    for name in ("leaves", "stays"):
        broker.register(name, "c", slots=8)
    sent = [only(broker.send("c", client_id=number, heads=1), Deliver)[0] for number in range(6)]
    assert {one.peer for one in sent} == {b"leaves"}
    if how == "unregister":
        broker.unregister(b"leaves")
    else:
        broker.drain(b"leaves")
        for one in sent[:-1]:
            broker.nack(one)
        assert not broker.backend("leaves").ejected
        broker.nack(sent[-1])
    broker.advance(30.0)


@pytest.mark.parametrize("mode", ["single", "auto", "hedge"])
def test_one_head_at_a_time_the_trial_is_the_first(mode: str) -> None:
    broker = with_one_ejected(mode)
    mine, others = trial(broker)
    assert others == []
    broker.ack(mine)
    assert not broker.backend("bad").ejected


@pytest.mark.parametrize("keys", [{"priority": 4}, {"heads": 1}, {"reply": "all"}], ids=str)
def test_there_is_no_trial_with_what_may_not_be_risked(keys: dict[str, Any]) -> None:
    broker = with_one_ejected("fanout")
    heads = only(broker.send("c", client_id="trial", **keys), Deliver)
    assert heads
    assert b"bad" not in [sent.peer for sent in heads]


def eject_the_second(**settings: Any) -> BrokerFixture:
    """Return a broker with one place at each of two backends, the second of which was ejected just now."""
    broker = BrokerFixture(policy=InOrder(), mode="single", heartbeat_s=1.0, **settings)
    for name in ("good", "bad"):
        broker.register(name, "c")
    with room_only_at(broker, "bad"):
        for number in range(5):
            broker.nack(send_one(broker, number, heads=1))
    assert broker.backend("bad").ejected
    return broker


def test_one_that_updates_its_registration_all_the_time_is_let_in_again() -> None:
    """An UPDATE drops the trial that was due, and puts off the moment at which the backend is looked at."""
    broker = eject_the_second()
    for _ in range(15):
        broker.advance(1.0)
        broker.update(b"good", slots=1)
        broker.update(b"bad", slots=1)
    assert not broker.backend("bad").ejected


def test_an_update_keeps_the_trial_that_is_due() -> None:
    broker = eject_the_second()
    broker.advance(0.4)
    broker.update(b"bad", slots=1)
    assert name_of(send_one(broker, 9)) == "bad"


def test_who_waits_is_the_trial_when_it_is_due() -> None:
    """Where the others are full, nobody else may come for long."""
    broker = eject_the_second()
    assert name_of(send_one(broker, 10)) == "good"
    assert send(broker, 11) == []
    [tried] = only(broker.advance(0.4), Deliver)
    assert (name_of(tried), broker.broker.dispatcher.waiting.size) == ("bad", 0)


def test_a_trial_that_is_never_answered_has_failed_though_another_head_answered() -> None:
    broker = with_one_ejected("fanout")
    _, others = trial(broker, ttl_ms=5_000)
    for other in others:
        broker.ack(other)
    for _ in range(12):
        broker.advance(16.0)
        for name in (b"good", b"fair", b"bad"):
            broker.heartbeat(name)
    assert (broker.backend("bad").ejected, broker.backend("bad").ejections) == (True, 2)
    assert delivery_outcomes(broker, "bad")["timeout"] == 1


def test_a_trial_that_cannot_be_had_costs_no_look_at_every_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = eject_the_second(heads=2)
    broker.update(b"bad", session=b"12345678")
    broker.advance(0.4)
    broker.gone(b"bad")
    assert broker.broker.registry.pool("c").trials
    ranking = broker.broker.rankings.look("c", 2, broker.clock.now)
    monkeypatch.setattr(ranking, "candidates", None)
    assert broker.broker.dispatcher.chooser._due_trial(ranking, broker.clock.now) is None
