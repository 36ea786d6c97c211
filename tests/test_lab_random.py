"""Random worlds: each keeps every promise, every kind of fault strikes, and a seed replays to the last action.

`python tests/test_lab_random.py` writes lab_digests.json anew, after a change of the core that is meant to change what
it does. A change that is not meant to must leave that file as it is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import pytest
from tools import FULL

from router_daemon.lab.random_world import CLIENTS, KINDS, WAYS, random_plan
from router_daemon.policies.base import NAMES

DIGESTS: Final = Path(__file__).resolve().parent / "lab_digests.json"
BY_NUMPY: Final[tuple[str, ...]] = ()
"""Policies that decide by numpy, and do the same only on the same machine with the same versions: not on record."""
SEEDS: Final = (4, 8, 12)
GOLDEN_MESSAGES: Final = 100

WORLDS: Final = 200 if FULL else 100
BATCH: Final = 20
MESSAGES: Final = 100


def digests() -> dict[str, str]:
    """Return the digest of a few worlds for each policy, by "policy/seed"."""
    return {
        f"{policy}/{seed}": random_plan(seed, messages=GOLDEN_MESSAGES, policy=policy).run(check_every=0).digest
        for policy in NAMES
        if policy not in BY_NUMPY
        for seed in SEEDS
    }


def test_the_digests_are_those_on_record() -> None:
    assert digests() == json.loads(DIGESTS.read_text()), f"if this was meant: python {Path(__file__).name}"


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    plan = random_plan(5, messages=MESSAGES)
    first, second = plan.run(check_every=0), random_plan(5, messages=MESSAGES).run(check_every=1)
    assert first.digest == second.digest
    assert first.summary() == second.summary()
    assert random_plan(6, messages=MESSAGES).run(check_every=0).digest != first.digest


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_digest_does_not_depend_on_the_order_of_sets(hash_seed: str) -> None:
    code = "from router_daemon.lab.random_world import random_plan as r; print(*[r(s).run().digest for s in range(4)])"
    env = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == [random_plan(seed).run(check_every=0).digest for seed in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, WORLDS, BATCH))
def test_a_random_world_keeps_every_promise(first: int) -> None:
    for seed in range(first, first + BATCH):
        try:
            random_plan(seed, messages=MESSAGES).run(check_every=1)
        except Exception as fault:
            fault.add_note(f"replay: router-daemon simulate --seed {seed} --messages {MESSAGES}")
            raise


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [(), WAYS + CLIENTS], ids=["none", "backends and clients"])
def test_a_world_with_a_faithful_network_keeps_the_stricter_promises(kinds: tuple[str, ...]) -> None:
    for seed in range(2000, 2020):
        random_plan(seed, messages=MESSAGES, kinds=kinds).run(check_every=1)


def test_a_kind_of_fault_strikes_where_it_is_asked_for_and_no_other() -> None:
    for kind in KINDS:
        struck = Counter[str]()
        for seed in range(40):
            struck.update(random_plan(seed, messages=40, kinds=[kind]).run(check_every=0).happened)
            if struck[kind]:
                break
        assert set(+struck) == {kind}


def test_without_faults_nothing_goes_wrong() -> None:
    for seed in range(10):
        assert not +Counter(random_plan(seed, messages=MESSAGES, kinds=()).run().happened)


@pytest.mark.parametrize("policy", NAMES)
def test_every_policy_survives(policy: str) -> None:
    for seed in range(1000, 1003):
        plan = random_plan(seed, messages=MESSAGES, policy=policy)
        assert plan.policy == policy
        plan.run(check_every=1)


def test_leaving_out_a_policy_or_a_kind_of_fault_leaves_the_rest_of_the_world() -> None:
    plan, other = random_plan(7), random_plan(7, kinds=(), policy="paper")
    assert (plan.settings, plan.daemons, plan.seconds) == (other.settings, other.daemons, other.seconds)
    assert [backend.name for backend in plan.backends] == [backend.name for backend in other.backends]
    assert other.faults == ()


if __name__ == "__main__":
    DIGESTS.write_text(json.dumps(digests(), indent=2) + "\n")
