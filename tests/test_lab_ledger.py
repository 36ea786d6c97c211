"""The simulator's checks can fail: each broker here breaks one promise, and is caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lab_kit import at, one, world
from msgspec.structs import replace

from router_daemon.core.actions import Action, Deliver, Error, Piece, PieceHeader, Reply
from router_daemon.core.broker import Broker
from router_daemon.core.events import Nack, Register, Send
from router_daemon.lab.faults import Fault
from router_daemon.lab.specs import BackendSpec, Demand
from router_daemon.lab.timeline import BrokenError


class Changed(Broker):
    """A broker whose actions are changed on their way out."""

    def handle(self, event: Any, now: float) -> list[Action]:
        return self.changed(super().handle(event, now))

    def on_timer(self, now: float) -> list[Action]:
        return self.changed(super().on_timer(now))

    def changed(self, actions: list[Action]) -> list[Action]:
        raise NotImplementedError


def changing(change: Callable[[Action], list[Action]]) -> type[Broker]:
    """Return a broker that sends these actions instead of each one."""

    class Changing(Changed):
        def changed(self, actions: list[Action]) -> list[Action]:
            return [other for action in actions for other in change(action)]

    return Changing


def of(kind: type[Any], change: Callable[[Any], list[Action]]) -> type[Broker]:
    """Return a broker that changes one kind of action."""
    return changing(lambda action: change(action) if isinstance(action, kind) else [action])


def retold(action: Any, **keys: Any) -> Action:
    """Return an action with other keys in its header."""
    return replace(action, header=replace(action.header, **keys))  # type: ignore[no-any-return]


def run(
    broker: type[Broker],
    *backends: BackendSpec,
    demand: Demand | None = None,
    faults: tuple[Fault, ...] = (),
    **settings: Any,
) -> None:
    """Run a small world on that broker."""
    chosen = backends or (one("a"), one("b"))
    wanted = at(1.0, 1.0, 2.0) if demand is None else demand
    world(*chosen, demand=wanted, settings=settings, make_broker=broker, faults=faults).run(settle_s=5.0)


def test_the_worlds_of_these_tests_are_sound() -> None:
    run(Broker)
    run(Broker, one("a", parts=3))
    run(changing(lambda action: [action]))


def test_an_answer_that_is_given_twice() -> None:
    with pytest.raises(BrokenError, match="nothing of that id is open"):
        run(of(Reply, lambda action: [action, action]))


def test_an_answer_that_is_never_given() -> None:
    with pytest.raises(BrokenError, match=r"no last answer: \[<SEND 0 at 1001"):
        run(of(Reply, lambda action: []))


def test_an_error_that_is_never_given() -> None:
    with pytest.raises(BrokenError, match="no last answer"):
        run(of(Error, lambda action: []), one(silent=True), demand=at(1.0, ttl_ms=500))


def test_an_answer_that_comes_too_late() -> None:
    class Late(Broker):
        """Says what its timers told it to say only when it next hears of something."""

        held: tuple[Action, ...] = ()

        def on_timer(self, now: float) -> list[Action]:
            self.held += tuple(super().on_timer(now))
            return []

        def handle(self, event: Any, now: float) -> list[Action]:
            held, self.held = self.held, ()
            return [*held, *super().handle(event, now)]

    with pytest.raises(BrokenError, match="was due at"):
        run(Late, one(silent=True), demand=at(1.0, ttl_ms=500))


def test_an_answer_that_is_not_the_last() -> None:
    with pytest.raises(BrokenError, match="not the last"):
        run(of(Reply, lambda action: [retold(action, last=False)]))


def test_an_answer_of_another_message() -> None:
    with pytest.raises(BrokenError, match="another body"):
        run(of(Reply, lambda action: [replace(action, body=(b"\0" * 8,))]))


def test_an_answer_to_another_client() -> None:
    with pytest.raises(BrokenError, match="nobody is at"):
        run(of(Reply, lambda action: [replace(action, peer=b"somebody")]))


def test_an_answer_to_a_client_that_is_gone() -> None:
    class Faithful(Broker):
        """Does not hear that a client is gone."""

        def handle(self, event: Any, now: float) -> list[Action]:
            return [] if type(event).__name__ == "Gone" else super().handle(event, now)

    with pytest.raises(BrokenError, match="nobody is at"):
        run(Faithful, demand=at(1.0), faults=(Fault("leave", 1.125, target=0),))


def test_a_gap_in_a_stream() -> None:
    with pytest.raises(BrokenError, match="gap"):
        run(of(Piece, lambda action: [] if action.header.seq == 1 else [action]), one(parts=3))


def test_a_stream_to_who_gets_one_message_for_each_of_its_own() -> None:
    demand = at(1.0, delimited=1)
    run(Broker, one(parts=3), demand=demand)

    class Talkative(Changed):
        """Says a piece before every answer."""

        def changed(self, actions: list[Action]) -> list[Action]:
            return [other for action in actions for other in self.with_piece(action)]

        def with_piece(self, action: Action) -> list[Action]:
            if not isinstance(action, Reply):
                return [action]
            said = action.header
            return [Piece(action.peer, True, PieceHeader(said.id, said.message, said.backend, said.head, 0)), action]

    with pytest.raises(BrokenError, match="one message for each"):
        run(Talkative, demand=demand)
    with pytest.raises(BrokenError, match="in this way"):
        run(of(Reply, lambda action: [replace(action, delimited=False)]), demand=demand)


def test_two_streams_for_one_answer() -> None:
    with pytest.raises(BrokenError, match="second stream"):
        run(of(Piece, lambda action: [action, retold(action, head=2)]), one(parts=3))


def test_a_delivery_of_what_has_ended() -> None:
    class Again(Changed):
        """Sends a message once more when it is answered."""

        last: Deliver | None = None

        def changed(self, actions: list[Action]) -> list[Action]:
            for action in actions:
                self.last = action if isinstance(action, Deliver) else self.last
            answered = any(isinstance(action, Reply) for action in actions)
            more = [retold(self.last, id=99)] if self.last and answered else []
            return [*actions, *more]

    with pytest.raises(BrokenError, match="has ended, and is delivered"):
        run(Again, demand=at(1.0))


@pytest.mark.parametrize(
    ("keys", "why"), [({"attempt": 2}, "says"), ({"head": 3}, "says"), ({"ttl_ms": 6000}, "is delivered with 6000 ms")]
)
def test_a_delivery_that_says_what_is_not_so(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(BrokenError, match=why):
        run(of(Deliver, lambda action: [retold(action, **keys)]))


def test_a_delivery_to_nobody() -> None:
    with pytest.raises(BrokenError, match="no backend has ever been"):
        run(of(Deliver, lambda action: [replace(action, peer=b"somebody")]))


def test_a_delivery_to_who_cannot_do_it() -> None:
    with pytest.raises(BrokenError, match="cannot do what it was sent"):
        run(of(Deliver, lambda action: [retold(action, capability="other")]))


def test_more_deliveries_than_there_are_places() -> None:
    class Generous(Broker):
        """Takes a backend for larger than it is."""

        def handle(self, event: Any, now: float) -> list[Action]:
            if isinstance(event, Register):
                event = replace(event, header=replace(event.header, slots=3))
            return super().handle(event, now)

    demand = at(1.0, 1.0, 1.0, 1.0)
    run(Broker, one(slots=1, prefetch=1), demand=demand)
    with pytest.raises(BrokenError, match=r"b has 2 places, and is to hold deliveries \[1, 2, 3\]"):
        run(Generous, one(slots=1, prefetch=1), demand=demand)


def test_a_delivery_id_that_was_used_before() -> None:
    with pytest.raises(BrokenError, match="delivery 7 after 7"):
        run(of(Deliver, lambda action: [retold(action, id=7)]))


def test_what_may_not_run_twice_does() -> None:
    class Careless(Broker):
        """Takes everything for idempotent."""

        def handle(self, event: Any, now: float) -> list[Action]:
            if isinstance(event, Send):
                event = replace(event, header=replace(event.header, idempotent=True))
            return super().handle(event, now)

    failing = (one("a", reliability=0.0), one("b", reliability=0.0))
    demand = at(1.0, idempotent=False)
    run(Broker, *failing, demand=demand)
    with pytest.raises(BrokenError, match="may not run twice"):
        run(Careless, *failing, demand=demand)


def test_what_was_not_begun_may_go_elsewhere() -> None:
    busy = (one("a", slots=9, busy_over=0), one("b", slots=9, busy_over=0))
    run(Broker, *busy, demand=at(1.0, 1.0, 1.0, idempotent=False, ttl_ms=1000))


def test_a_message_that_is_counted_twice_or_not_at_all() -> None:
    class Miscounting(Broker):
        def handle(self, event: Any, now: float) -> list[Action]:
            actions = super().handle(event, now)
            for series in self.counts.capabilities.values():
                series.outcomes["answered"] = min(1, series.outcomes["answered"])
            return actions

    with pytest.raises(BrokenError, match="was sent 3 messages, and has counted 1"):
        run(Miscounting)


def test_a_message_that_is_counted_as_something_else() -> None:
    class Flattering(Broker):
        def handle(self, event: Any, now: float) -> list[Action]:
            actions = super().handle(event, now)
            for series in self.counts.capabilities.values():
                series.outcomes["answered"] += series.outcomes["failed"]
                series.outcomes["failed"] = 0
            return actions

    with pytest.raises(BrokenError, match="have ended in failed"):
        run(Flattering, one(reliability=0.0))


def test_a_delivery_whose_end_is_not_counted() -> None:
    class Miscounting(Broker):
        def handle(self, event: Any, now: float) -> list[Action]:
            actions = super().handle(event, now)
            for series in self.counts.backends.values():
                series.outcomes["acked"] = 0
            return actions

    with pytest.raises(BrokenError, match="has delivered 3 times, and counted 0 ends"):
        run(Miscounting)


def test_a_taken_id_that_is_not_refused() -> None:
    demand = at(1.0, repeats=1.0, cancels_within_s=0.1)
    run(Broker, demand=demand)
    with pytest.raises(BrokenError, match="no duplicate_id"):
        run(of(Error, lambda action: []), demand=demand)


def test_a_broken_send_that_is_not_answered() -> None:
    faults = (Fault("garble_send", 1.0, target=0),)
    run(Broker, faults=faults)
    with pytest.raises(BrokenError, match="garbled"):
        run(of(Error, lambda action: []), faults=faults)


def test_a_wake_up_that_leads_nowhere() -> None:
    class Restless(Broker):
        def next_deadline(self) -> float | None:
            return 1001.0

    with pytest.raises(BrokenError, match="has made 100000 steps at 1001"):
        run(Restless)


def test_an_invariant_that_does_not_hold() -> None:
    class Leaking(Broker):
        """Forgets to take a NACK."""

        def check(self) -> None:
            raise AssertionError("leaking")

    with pytest.raises(AssertionError, match="leaking"):
        run(Leaking)


def test_a_fault_that_the_broker_has_survived() -> None:
    class Stumbling(Broker):
        def on_timer(self, now: float) -> list[Action]:
            self.faults.append(("Message", KeyError("unknown")))
            return super().on_timer(now)

    with pytest.raises(BrokenError, match=r"a fault of daemon 0 at Message: KeyError\('unknown'\)"):
        run(Stumbling, one(silent=True), demand=at(1.0, ttl_ms=500))


def test_places_that_are_never_freed() -> None:
    class Deaf(Broker):
        """Does not hear NACKs, nor of time."""

        def handle(self, event: Any, now: float) -> list[Action]:
            if isinstance(event, Nack):
                return []
            return super().handle(event, now)

    worlds = world(one(seconds=1.0), demand=at(1.0, ttl_ms=60_000, cancels=1.0), make_broker=Deaf)
    with pytest.raises(BrokenError, match="never closed"):
        worlds.run(settle_s=5.0, reunite=True)


def test_backends_that_do_not_find_back() -> None:
    class Forgetful(Broker):
        """Lets nobody in a second time."""

        def handle(self, event: Any, now: float) -> list[Action]:
            late = now > 1001.0 and type(event).__name__ == "Register"
            return [] if late else super().handle(event, now)

    faults = [Fault("crash", 2.0, for_s=0.5, target="b")]
    for broker, found in ((Broker, True), (Forgetful, False)):
        troubled = world(one(), demand=at(1.0), make_broker=broker, faults=faults)
        if found:
            troubled.run(settle_s=10.0, reunite=True)
        else:
            with pytest.raises(BrokenError, match="have not found each other"):
                troubled.run(settle_s=10.0, reunite=True)


def test_a_draining_daemon_that_takes_more() -> None:
    class Open(Broker):
        def start_drain(self) -> None:
            pass

    world(one(), demand=at(1.0)).run(drain=True)
    with pytest.raises(BrokenError, match="a draining daemon answers"):
        world(one(), demand=at(1.0), make_broker=Open).run(drain=True)
