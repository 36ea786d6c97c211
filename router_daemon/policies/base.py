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
}

NAMES: Final = tuple(_MAKERS)

_WEIGHTS: Final = ("weights.capability", "weights.performance", "weights.reliability", "weights.priority")
READS: Final[dict[str, tuple[str, ...]]] = {
    "attention": (
        *("threshold", "cache_ttl_s", *_WEIGHTS),
        *("attention.cost_weight", "attention.scan_most", "attention.sample"),
    ),
    "paper": ("threshold", "cache_ttl_s", *_WEIGHTS),
    "paper_no_reliability": ("threshold", "cache_ttl_s", *(name for name in _WEIGHTS if "reliability" not in name)),
    "round_robin": ("cache_ttl_s",),
    "capability_only": ("cache_ttl_s",),
    "least_in_flight": ("cache_ttl_s",),
    "p2c_peak_ewma": ("cache_ttl_s",),
    "prequal": ("cache_ttl_s",),
    "c3": ("cache_ttl_s",),
}
"""What each policy reads of the settings, and a route may therefore set for itself; `section.key`, as in `Settings`."""


def make_policy(name: str, settings: Settings, rng: Random) -> Policy:
    """Return the policy of that name.

    Raises:
        KeyError: there is none of that name; `config` has checked it before.
    """
    return _MAKERS[name](settings, rng)
