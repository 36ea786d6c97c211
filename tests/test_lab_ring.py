"""Rings in the simulator: each keeps every promise whatever befalls links and daemons, and a seed replays.

`python tests/test_lab_ring.py` writes lab_ring_digests.json anew, after a change that is meant to change what rings do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
from tools import FULL

from router_daemon.core.actions import Deliver, DeliverHeader
from router_daemon.core.events import Request
from router_daemon.core.settings import Settings
from router_daemon.lab.chance import Constant, Exponential
from router_daemon.lab.faults import NOTICES, Fault
from router_daemon.lab.ledger import Ledger, Record
from router_daemon.lab.random_ring import RING_KINDS, random_ring
from router_daemon.lab.random_world import random_plan
from router_daemon.lab.result import Result
from router_daemon.lab.ring import RingDaemon
from router_daemon.lab.specs import BackendSpec, Demand, RingSpec, circle
from router_daemon.lab.timeline import BrokenError
from router_daemon.lab.world import World

DIGESTS: Final = Path(__file__).resolve().parent / "lab_ring_digests.json"
MESSAGES = 60
WORLDS = 40 if FULL else 20
BATCH = 10


def ring(
    daemons: int, *shortcuts: tuple[int, int], faults: tuple[Fault, ...] = (), latency_s: float = 0.002, **keys: Any
) -> World:
    """Return a circle of daemons with a backend each, of 50 ms, to whom messages go in turn."""
    backends = [BackendSpec(f"b{k}", Exponential(0.05), ("work",), workers=4) for k in range(daemons)]
    demand: dict[str, Any] = {"messages": 600, "rate_per_s": 20.0 * daemons, "ttl_ms": 5000, "starts_at_s": 1.0}
    return World(
        seed=1,
        policy="round_robin",
        settings=Settings(mode="single"),
        backends=backends,
        demands=[Demand(connections=daemons, **(demand | keys))],
        faults=faults,
        daemons=daemons,
        ring=RingSpec(circle(daemons, latency_s, *shortcuts), {f"b{k}": k for k in range(daemons)}),
    )


def run(world: World) -> Result:
    return world.run(check_every=1, settle_s=5.0, reunite=True, drain=True)


def total(world: World, name: str) -> int:
    return sum(getattr(daemon.node.counts, name) for daemon in world.daemons if isinstance(daemon, RingDaemon))


# --- links ---


def test_a_ring_is_one_pool() -> None:
    world = ring(6)
    result = run(world)
    assert Counter(record.outcome for record in result.records) == {"answered": 600, "draining": 6}
    assert total(world, "forwarded") == total(world, "taken") == pytest.approx(600 * 5 / 6, abs=30)
    assert max(result.busy.values()) < 1.5 * min(result.busy.values())


@pytest.mark.parametrize("notice", NOTICES)
@pytest.mark.parametrize("idempotent", [True, False])
def test_nothing_is_lost_with_a_link_nor_done_twice(notice: str, idempotent: bool) -> None:
    """One link of a circle after the other is cut: there is always another way."""
    faults = tuple(Fault("cut_link", 1.5 + 0.5 * k, for_s=0.3, target=k, notice=notice) for k in range(6))
    world = ring(6, faults=faults, idempotent=idempotent)
    result = run(world)
    assert result.happened["cut_link"] == 6
    assert Counter(record.outcome for record in result.records) == {"answered": 600, "draining": 6}
    assert all(record.deliveries == 1 for record in result.records[:600])
    assert total(world, "asked") > 0


def test_nor_with_links_that_stand_still_or_take_nothing() -> None:
    faults = tuple(Fault(("freeze_link", "full_link")[k % 2], 1.5 + 0.5 * k, for_s=0.4, target=k) for k in range(6))
    result = run(ring(6, faults=faults, idempotent=False))
    assert Counter(record.outcome for record in result.records) == {"answered": 600, "draining": 6}


def test_shortcuts_make_ways_shorter() -> None:
    plain, short = ring(12), ring(12, (0, 6), (3, 9), (2, 7), (5, 11))
    run(plain)
    run(short)
    assert total(short, "relayed") < 0.8 * total(plain, "relayed")


# --- daemons ---


def test_when_a_daemon_dies_its_clients_alone_have_lost_something() -> None:
    world = ring(6, faults=(Fault("crash_daemon", 3.0, for_s=1.0, target=2),))
    result = run(world)
    outcomes = {daemon: Counter(r.outcome for r in result.records[:600] if r.daemon == daemon) for daemon in range(6)}
    assert set(outcomes.pop(2)) == {"answered", "daemon_gone"}
    assert all(set(others) == {"answered"} for others in outcomes.values())


def test_a_daemon_that_stands_still_and_goes_on() -> None:
    world = ring(6, faults=(Fault("stall", 3.0, for_s=1.5, target=2),))
    result = run(world)
    assert {record.outcome for record in result.records[:600] if record.daemon != 2} == {"answered"}


def test_a_ring_that_falls_apart_and_together_again() -> None:
    faults = (Fault("cut_link", 3.0, for_s=2.0, target=0), Fault("cut_link", 3.0, for_s=2.0, target=3))
    result = run(ring(6, faults=faults))
    assert set(Counter(record.outcome for record in result.records)) == {"answered", "draining"}


def test_streams_over_the_ring() -> None:
    world = World(
        seed=1,
        policy="round_robin",
        settings=Settings(mode="single"),
        backends=[BackendSpec("b", Constant(0.05), ("work",), workers=30, parts=5)],
        demands=[Demand(messages=200, rate_per_s=100.0, ttl_ms=5000, starts_at_s=1.0, connections=3)],
        daemons=3,
        ring=RingSpec(circle(3, 0.001), {"b": 2}),
    )
    result = run(world)
    assert {record.outcome for record in result.records[:200]} == {"answered"}
    assert all(record.pieces is not None and sum(record.pieces.values()) == 5 for record in result.records[:200])


# --- random ones ---


@pytest.mark.parametrize("seed", range(12))
def test_a_small_random_ring_keeps_every_promise(seed: int) -> None:
    random_ring(3000 + seed, messages=MESSAGES).run(check_every=1)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, WORLDS, BATCH))
def test_a_random_ring_keeps_every_promise(first: int) -> None:
    for seed in range(first, first + BATCH):
        try:
            random_ring(seed, 2 + seed % 7, messages=MESSAGES).run(check_every=1)
        except Exception as fault:
            fault.add_note(f"replay: router-daemon simulate --ring {2 + seed % 7} --seed {seed} --messages {MESSAGES}")
            raise


def test_each_kind_of_fault_of_a_ring_strikes_and_no_other() -> None:
    for kind in RING_KINDS:
        struck = Counter[str]()
        for seed in range(20):
            struck.update(random_ring(seed, messages=20, kinds=[kind]).run(check_every=0).happened)
            if struck[kind]:
                break
        assert set(+struck) == {kind}


def digests() -> dict[str, str]:
    """Return the digest of a few rings, by seed."""
    return {
        str(seed): random_ring(seed, 4, messages=40, policy="attention").run(check_every=0).digest for seed in (1, 2, 3)
    }


def test_the_digests_are_those_on_record() -> None:
    assert digests() == json.loads(DIGESTS.read_text()), f"if this was meant: python {Path(__file__).name}"


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    first = random_ring(5, messages=MESSAGES).run(check_every=0)
    assert random_ring(5, messages=MESSAGES).run(check_every=1).digest == first.digest
    assert random_ring(6, messages=MESSAGES).run(check_every=0).digest != first.digest


def test_the_digest_does_not_depend_on_the_order_of_sets() -> None:
    code = "from router_daemon.lab.random_ring import random_ring as r"
    code += "; print(*[r(s, 4, messages=30).run().digest for s in (2, 3)])"
    digests = set()
    for hash_seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=60
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_the_world_around_the_ring_is_that_of_its_seed() -> None:
    plan, world = random_ring(7, 5), random_plan(7)
    assert (plan.settings, plan.backends, plan.network, plan.seconds) == (
        world.settings,
        world.backends,
        world.network,
        world.seconds,
    )


# --- the ledger of a ring ---


def test_a_delivery_that_is_begun_twice_is_a_broken_promise() -> None:
    ledger = Ledger(ring=True)
    record = Record(0, b"c", 0, Request(0, "work"), (b"\0" * 8,))
    ledger.records.append(record)
    ledger.sent(record, 0.0, 1000)
    ledger.delivered(1, _deliver(1), 0.0)
    ledger.delivered(2, _deliver(2), 0.0)
    with pytest.raises(BrokenError, match=r"delivery 2 of .* is begun twice"):
        ledger.delivered(1, _deliver(2), 0.0)


def test_and_so_is_one_that_may_not_run_again() -> None:
    ledger = Ledger(ring=True)
    record = Record(0, b"c", 0, Request(0, "work"), (b"\0" * 8,))
    record.once = True
    ledger.records.append(record)
    ledger.sent(record, 0.0, 1000)
    ledger.delivered(1, _deliver(1), 0.0)
    with pytest.raises(BrokenError, match="may not run twice"):
        ledger.delivered(2, _deliver(2), 0.0)


def _deliver(attempt: int) -> Deliver:
    return Deliver(b"b", False, DeliverHeader(attempt, "m", "work", 2, 100, attempt, attempt, attempt), (b"\0" * 8,))


if __name__ == "__main__":
    DIGESTS.write_text(json.dumps(digests(), indent=2) + "\n")
