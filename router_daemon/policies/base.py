"""Policies by name: the one list that the configuration, the daemon and the lab choose from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from random import Random
from typing import Any, Final

import numpy as np

from router_daemon.core.ranking import Policy
from router_daemon.core.settings import Settings
from router_daemon.policies.attention import Attention
from router_daemon.policies.balancers import C3, LeastInFlight, P2cPeakEwma
from router_daemon.policies.baselines import CapabilityOnly, RoundRobin
from router_daemon.policies.paper import Paper
from router_daemon.policies.prequal import Prequal
from router_daemon.policies.ring import Ring, RingMulti
from router_daemon.policies.ring_greedy import RingGreedy


def _paper(settings: Settings, _rng: Random) -> Policy:
    return Paper("paper", settings.weights, settings.threshold)


def _paper_no_reliability(settings: Settings, _rng: Random) -> Policy:
    weights = replace(settings.weights, reliability=0.0)
    return Paper("paper_no_reliability", weights, settings.threshold)


_MAKERS: Final[dict[str, Callable[[Settings, Random], Policy]]] = {
    "attention": Attention,
    "paper": _paper,
    "paper_no_reliability": _paper_no_reliability,
    "round_robin": lambda _settings, _rng: RoundRobin(),
    "capability_only": lambda _settings, rng: CapabilityOnly(rng),
    "least_in_flight": lambda _settings, rng: LeastInFlight(rng),
    "p2c_peak_ewma": P2cPeakEwma,
    "prequal": Prequal,
    "c3": C3,
    "ring": Ring,
    "ring_multi": RingMulti,
    "ring_greedy": RingGreedy,
}

NAMES: Final = tuple(_MAKERS)

_ALL: Final = {"cache_ttl_s": "cache_ttl_s"}
_SCORE: Final = _ALL | {"threshold": "threshold"}
_WEIGHTS: Final = {key: f"weights.{key}" for key in ("capability", "performance", "reliability", "priority")}
_SCAN: Final = {key: f"attention.{key}" for key in ("cost_weight", "scan_most", "sample", "hold_times")}
_RING: Final = (
    _ALL
    | {"tau": "ring_attention.temperature"}
    | {
        key: f"ring_attention.{key}"
        for key in ("temperature", "performance", "reliability", "scaling", "latency", "path_cost", "without_embedding")
    }
)
READS: Final[dict[str, dict[str, str]]] = dict.fromkeys(_MAKERS, _ALL) | {
    "attention": _SCORE | _WEIGHTS | _SCAN,
    "paper": _SCORE | _WEIGHTS,
    "paper_no_reliability": _SCORE | {key: name for key, name in _WEIGHTS.items() if key != "reliability"},
    "ring": _RING,
    "ring_multi": _RING | {key: f"ring_attention.{key}" for key in ("attention_heads", "seed")},
    "ring_greedy": _RING,
}
"""What each policy reads of the settings, and a route may therefore set for itself: key, and where `Settings` has it.

What describes measurements (`[profile]`, the rest of `[attention]`) is not among them: all routes read the same."""


_SCORED: Final = ("weights", "threshold")
_LIVE: Final = (*_SCORED, "profile", "attention")
_MEASURED: Final = ("profile.initial_latency_s",)
_EMBEDDED: Final = (*_LIVE, "ring_attention")
HELD: Final[dict[str, tuple[str, ...]]] = dict.fromkeys(_MAKERS, ()) | {
    "attention": _LIVE,
    "paper": _SCORED,
    "paper_no_reliability": _SCORED,
    **dict.fromkeys(("p2c_peak_ewma", "prequal", "c3"), _MEASURED),
    **dict.fromkeys(("ring", "ring_multi", "ring_greedy"), _EMBEDDED),
}
"""What each policy is made of, and holds: a test compares it with what each constructor reads."""


def alike(name: str, settings: Settings, other_name: str, other: Settings) -> bool:
    """Tell whether a policy made of one pair would be as one made of the other, but for what it has learnt."""
    if name != other_name or any(attrgetter(path)(settings) != attrgetter(path)(other) for path in HELD[name]):
        return False
    mine, its = settings.ring_attention.projections, other.ring_attention.projections
    return "ring_attention" not in HELD[name] or np.array_equal(_numbers(mine), _numbers(its))


def _numbers(projections: Any) -> Any:
    return np.zeros(0) if projections is None else np.asarray(projections)


def make_policy(name: str, settings: Settings, rng: Random) -> Policy:
    """Return the policy of that name.

    Raises:
        KeyError: there is none of that name; `config` has checked it before.
    """
    return _MAKERS[name](settings, rng)
