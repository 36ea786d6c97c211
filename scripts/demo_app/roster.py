"""Who works in the demo: the backends, what each can do, by which algorithm, how fast and how surely.

Rules:
- The work is real (`analysis`, `sinks`); what is drawn at random is only what stands for unequal hardware and bad days:
  a lognormal time on top of the work, and failures at a stated rate with a stated reason, both from a seed.
- At least two backends can do each capability, so that losing any one of them loses none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Spec:
    """One backend process.

    Attributes:
        name: as it registers.
        work: capability -> the algorithm (a key of `work.ALGORITHMS`).
        slots: how many messages it works on at once.
        extra_ms: median of the lognormal time that its slower hardware takes on top of the work.
        spread: sigma of that lognormal distribution.
        failure_share: of messages that fail, at random from the seed.
        failure_reason: what it then says.
    """

    name: str
    work: dict[str, str]
    slots: int
    extra_ms: float
    spread: float
    failure_share: float = 0.0
    failure_reason: str = ""


ROSTER: Final = (
    Spec("prep-numpy", {"data_processing": "clean_numpy"}, slots=4, extra_ms=1.0, spread=0.3),
    Spec("prep-python", {"data_processing": "clean"}, slots=2, extra_ms=4.0, spread=0.5),
    Spec("zscore-mad", {"anomaly_detection": "mad_numpy"}, slots=4, extra_ms=2.0, spread=0.3),
    Spec("ewma-band", {"anomaly_detection": "ewma"}, slots=4, extra_ms=2.5, spread=0.5),
    Spec("tukey-fences", {"anomaly_detection": "tukey"}, slots=2, extra_ms=5.0, spread=0.5),
    Spec("trend-ols", {"trend_analysis": "ols_numpy"}, slots=4, extra_ms=1.5, spread=0.3),
    Spec("trend-theil-sen", {"trend_analysis": "theil_sen"}, slots=4, extra_ms=3.0, spread=0.4),
    Spec("aggregate-numpy", {"metric_aggregation": "aggregate_numpy"}, slots=4, extra_ms=1.5, spread=0.3),
    Spec("alert-desk", {"alert_generation": "alert"}, slots=2, extra_ms=2.0, spread=0.3),
    Spec(
        "old-box",
        {
            "data_processing": "clean",
            "anomaly_detection": "mad",
            "trend_analysis": "ols",
            "metric_aggregation": "aggregate",
            "alert_generation": "alert",
        },
        slots=4,
        extra_ms=15.0,
        spread=0.8,
        failure_share=0.06,
        failure_reason="worker ran out of memory (simulated: 6 % of messages)",
    ),
    Spec("export-spool", {"external_integration": "spool"}, slots=1, extra_ms=8.0, spread=0.5),
    Spec(
        "export-syslog",
        {"external_integration": "syslog"},
        slots=2,
        extra_ms=5.0,
        spread=1.0,
        failure_share=0.2,
        failure_reason="upstream does not answer (simulated: 20 % of messages)",
    ),
)

BY_NAME: Final = {spec.name: spec for spec in ROSTER}
CAPABILITIES: Final = tuple(dict.fromkeys(capability for spec in ROSTER for capability in spec.work))
