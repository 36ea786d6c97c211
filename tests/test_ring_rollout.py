"""A rollout that one daemon of a ring has stopped is stopped at all that have it; and only stopping spreads."""

from __future__ import annotations

from nodes_kit import Ring

from router_daemon.core.guard import Side
from router_daemon.core.rollout import ROLLED_BACK, RUNNING, Rollout
from router_daemon.core.settings import RolloutSettings, RouteSettings
from router_daemon.ring.messages import Roster
from router_daemon.ring.settings import RingSettings
from router_daemon.ring.stops import MOST_HEARD, Stops

SOON_S = RingSettings("me").profiles_s + 0.05
"""Told with the next profiles, and some milliseconds of way."""


def ring(*names: str) -> Ring:
    """Return daemons in a circle, each with a backend and the same rollout at 50 %."""
    settings = {
        "routes": {"stable": RouteSettings("paper"), "candidate": RouteSettings("round_robin")},
        "rollout": RolloutSettings(candidate="candidate", percent=50.0),
    }
    made = Ring(*names, settings=settings)
    for name in names:
        made.register(name, "x")
    made.circle()
    return made


def rollout_of(made: Ring, name: str) -> Rollout:
    found = made.nodes[name].routes.rollout
    assert found is not None
    return found


def states(made: Ring) -> dict[str, str]:
    return {name: rollout_of(made, name).state for name in made.nodes}


def stop(made: Ring, name: str) -> None:
    rollout_of(made, name).roll_back(made.now, "odd answers")


def test_all_stop_what_the_guard_of_one_has_stopped() -> None:
    made = ring(*"abcde")
    tallies = {route.name: route.tally for route in rollout_of(made, "c").routes()}
    for name, failing in (("stable", 0), ("candidate", 200)):
        tally = tallies[name]
        assert tally is not None
        side = tally.side = Side(made.now)
        for number in range(1000):
            side.take(None if number < failing else 0.01)
    made.run(0.3)
    assert states(made)["c"] == ROLLED_BACK
    made.run(SOON_S)
    assert set(states(made).values()) == {ROLLED_BACK}
    assert "success 80.00%" in rollout_of(made, "c").reason
    assert {rollout_of(made, name).reason for name in "abde"} == {"daemon c has stopped it"}
    assert rollout_of(made, "a").shares()["candidate"] == 0.0
    assert ("rollout rolled back", "candidate", "daemon c has stopped it") in made.nodes["a"].routes.take_news()


def test_who_is_resumed_is_not_stopped_again_by_those_who_are_not() -> None:
    made = ring(*"abc")
    stop(made, "a")
    made.run(SOON_S)
    for name in "bac":
        rollout_of(made, name).resume(made.now)
        made.run(5.0)
        assert rollout_of(made, name).state == RUNNING
    assert set(states(made).values()) == {RUNNING}
    stop(made, "b")
    made.run(SOON_S)
    assert set(states(made).values()) == {ROLLED_BACK}, "the next time is another one"
    stop_again = rollout_of(made, "b")
    stop_again.resume(made.now)
    rollout_of(made, "a").resume(made.now)
    stop(made, "b")
    made.run(SOON_S)
    assert rollout_of(made, "a").state == ROLLED_BACK


def test_nothing_but_stopping_spreads() -> None:
    made = ring(*"ab")
    rollout_of(made, "a").set_percent(80.0, made.now)
    made.run(SOON_S)
    assert [rollout_of(made, name).percent for name in "ab"] == [80.0, 50.0]


def test_a_rollout_of_another_name_goes_on() -> None:
    made = ring(*"ab")
    rollout_of(made, "b").name = "another"
    stop(made, "a")
    made.run(SOON_S)
    assert states(made) == {"a": ROLLED_BACK, "b": RUNNING}


def test_who_comes_later_hears_of_it() -> None:
    made = ring(*"abc")
    stop(made, "a")
    made.run(SOON_S)
    made.start("d")
    made.link("c-d")
    made.run(SOON_S)
    assert states(made)["d"] == ROLLED_BACK
    assert rollout_of(made, "d").reason == "daemon a has stopped it"


def test_who_was_cut_off_hears_of_it_when_he_is_back() -> None:
    made = ring(*"abc")
    made.cut("a", "b")
    made.cut("a", "c")
    stop(made, "a")
    made.run(SOON_S)
    assert states(made)["b"] == RUNNING
    made.link("a-b")
    made.run(SOON_S)
    assert states(made)["b"] == ROLLED_BACK


def test_a_roster_is_as_before_where_nothing_is_stopped() -> None:
    """Daemons that know nothing of it hear nothing of it; and of one that is running no more is said."""
    made = ring(*"ab")
    made.run(3.0)
    assert not any(message.header.stopped for *_, message in made.said if isinstance(message, Roster))
    stop(made, "a")
    made.run(SOON_S)
    told = [message.header.stopped for *_, message in made.said if isinstance(message, Roster)][-1]
    assert told == {"candidate": rollout_of(made, "a").windows}
    rollout_of(made, "a").resume(made.now)
    made.run(SOON_S)
    last = [m.header for sender, _, m in made.said if isinstance(m, Roster) and sender == "a"][-1]
    assert not last.stopped


def test_who_was_stopped_by_another_does_not_say_so_himself_nor_after_a_restart() -> None:
    made = ring(*"ab")
    stop(made, "a")
    made.run(SOON_S)
    stops = Stops(made.nodes["b"].routes)
    assert stops.told() == {}
    rollout = rollout_of(made, "b")
    rollout.elsewhere = False
    assert rollout.restore(rollout.snapshot(made.now) | {"elsewhere": True}, made.now)
    assert stops.told() == {}


def test_what_is_heard_is_bounded() -> None:
    stops = Stops(ring(*"ab").nodes["a"].routes)
    for number in range(2 * MOST_HEARD):
        stops.hear("b", {f"rollout {number}": 1}, 0.0)
    assert len(stops._heard) == MOST_HEARD
