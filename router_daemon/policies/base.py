"""Policies by name: the one list that the configuration, the daemon and the lab choose from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Final

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
_SCAN: Final = {key: f"attention.{key}" for key in ("cost_weight", "scan_most", "sample")}
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


def make_policy(name: str, settings: Settings, rng: Random) -> Policy:
    """Return the policy of that name.

    Raises:
        KeyError: there is none of that name; `config` has checked it before.
    """
    return _MAKERS[name](settings, rng)
