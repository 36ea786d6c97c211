"""The sections of rollouts: which routes there are, and which messages take them; key by key, with the reasons.

Rules as in `sections`. `[routes.NAME]` is the one table of tables: each is a policy with settings of its own.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from router_daemon.config.balancing import AttentionSection
from router_daemon.config.base import Section
from router_daemon.config.embedding import RingAttentionSection
from router_daemon.config.sections import PolicyName, RoutingSection, WeightsSection
from router_daemon.config.text import Rule

MOST_ROUTES: Final = 16
MOST_STAGES: Final = 20
NAME: Final = "^[a-z][a-z0-9_-]{0,31}$"


def _rising(stages: tuple[float, ...]) -> tuple[float, ...]:
    if any(later <= earlier for earlier, later in pairwise(stages)):
        raise ValueError("must rise")
    return stages


Percent = Annotated[float, Field(gt=0, le=100)]
Stages = Annotated[
    tuple[Percent, ...],
    Rule(f"up to {MOST_STAGES} numbers above 0 up to 100, each above the one before; [] to stay where percent says"),
    Field(max_length=MOST_STAGES, strict=False),
    AfterValidator(_rising),
]
_NAMED: Final = "the name of a route: up to 32 of a to z, 0 to 9, _ and -, beginning with a letter"
RouteName = Annotated[str, Rule(_NAMED), Field(pattern=NAME)]
MaybeRouteName = Annotated[str, Rule(f"{_NAMED}; or empty"), Field(pattern=f"{NAME}|^$")]


def _own(section: type[Section], key: str, **bounds: Any) -> Any:
    """Return the field of a route's own key, absent by default; its text is that of the section that it is of."""
    of = section.model_fields[key]
    text = f"For this route alone. {of.description}"
    return Field(default=None, description=text, examples=[of.default], **bounds)


class RouteSection(Section):
    """A route: a policy with settings of its own. Keys that are absent are as for everybody."""

    policy: PolicyName = Field(
        default="attention",
        description="How this route scores backends; see routing.policy.",
    )
    threshold: float | None = _own(RoutingSection, "threshold", ge=0, le=1000)
    cache_ttl_s: float | None = _own(RoutingSection, "cache_ttl_s", ge=0, le=86_400)
    capability: float | None = _own(WeightsSection, "capability", ge=0, le=1000)
    performance: float | None = _own(WeightsSection, "performance", ge=0, le=1000)
    reliability: float | None = _own(WeightsSection, "reliability", ge=0, le=1000)
    priority: float | None = _own(WeightsSection, "priority", ge=0, le=1000)
    cost_weight: float | None = _own(AttentionSection, "cost_weight", ge=0, le=1000)
    scan_most: int | None = _own(AttentionSection, "scan_most", ge=1, le=1_000_000)
    sample: int | None = _own(AttentionSection, "sample", ge=1, le=1_000_000)
    hold_times: float | None = _own(AttentionSection, "hold_times", ge=0, le=1000)
    tau: float | None = _own(RingAttentionSection, "temperature", ge=1e-6, le=1e6)
    temperature: float | None = _own(RingAttentionSection, "temperature", ge=1e-6, le=1e6)
    scaling: Literal["unit", "raw"] | None = _own(RingAttentionSection, "scaling")
    latency: Literal["live", "profile"] | None = _own(RingAttentionSection, "latency")
    path_cost: bool | None = _own(RingAttentionSection, "path_cost")
    without_embedding: Literal["attention", "refuse"] | None = _own(RingAttentionSection, "without_embedding")
    attention_heads: int | None = _own(RingAttentionSection, "attention_heads", ge=1, le=64)
    seed: int | None = _own(RingAttentionSection, "seed", ge=0, le=2**63 - 1)

    @property
    def changes(self) -> dict[str, float | int | str | bool]:
        """Return the settings that differ for this route."""
        return {key: value for key, value in self if key != "policy" and value is not None}


_ALL: Final = ("cache_ttl_s",)
_SCORE: Final = (*_ALL, "threshold", "capability", "performance", "priority")
_RING: Final = (
    *(*_ALL, "tau", "temperature", "performance", "reliability"),
    *("scaling", "latency", "path_cost", "without_embedding"),
)
READS: Final[dict[str, tuple[str, ...]]] = {
    "attention": (*_SCORE, "reliability", "cost_weight", "scan_most", "sample", "hold_times"),
    "paper": (*_SCORE, "reliability"),
    "paper_no_reliability": _SCORE,
    "ring": _RING,
    "ring_multi": (*_RING, "attention_heads", "seed"),
    "ring_greedy": _RING,
}
"""What each policy reads of a route's keys, in step with `policies.base.READS`; one that is not named here: `_ALL`."""


def reads(policy: str) -> tuple[str, ...]:
    """Return the keys of a route that its policy reads."""
    return READS.get(policy, _ALL)


class RolloutSection(Section):
    """Which messages take which route: a candidate gets more of them in stages, while a guard compares it."""

    stable: RouteName = Field(
        default="stable",
        description="The route of every message that nothing else is said of. Where no [routes] section has this "
        "name, it is made of routing.policy and the settings of everybody.",
    )
    candidate: MaybeRouteName = Field(
        default="",
        description='The route to be tried, one of [routes]. "": no rollout: one route, and nothing is paid for this.',
    )
    control: MaybeRouteName = Field(
        default="",
        description='The route of the control group, a fixed baseline that is reported apart. "": as stable is, under '
        "the name control, so that at 100 % there is still something to compare with.",
    )
    name: str = Field(
        default="",
        max_length=128,
        description='What keys are hashed with, the same in every daemon of the rollout. "": the candidate\'s name. '
        "Another name assigns anew who gets the candidate.",
    )
    percent: float | None = Field(
        default=None,
        ge=0,
        le=100,
        examples=[5.0],
        description="The share of messages, in percent, that the candidate gets at first; stages above it follow. "
        "Absent: the first stage.",
    )
    control_percent: float = Field(
        default=1.0,
        ge=0,
        le=50,
        description="The share of messages, in percent, that the control group gets whatever the stage. 1: a thousand "
        "answers of every hundred thousand, which tells 1 % from 2 % of failures; 0: no control group.",
    )
    stages: Stages = Field(
        default=(1.0, 5.0, 25.0, 50.0, 100.0),
        description="The candidate's shares, in percent. The first is as small as the damage may be, each further one "
        "about five times as much, so that a load that grows shows before it is everybody's.",
    )
    stage_minutes: float = Field(
        default=10.0,
        gt=0,
        le=43_200,
        description="How long a stage lasts at least, in minutes. Ten see caches warm and the slowest answers end; "
        "whatever goes by the hour or by the day needs more.",
    )
    sticky: Literal["key", "trace", "message"] = Field(
        default="key",
        description="Who keeps their route. key: all messages with the same `key`, else those of one trace, else each "
        "message by itself; trace: those of one trace, else each by itself; message: each by itself.",
    )
    max_success_drop: float = Field(
        default=0.01,
        ge=0,
        le=0.99,
        description="By how much the candidate's share of answered messages may be below stable's. One percent is "
        "what one to two thousand answers can rule out where few fail; half of it takes two to four times as many.",
    )
    max_p99_ratio: float = Field(
        default=1.5,
        ge=1,
        le=100,
        description="How many times as long as stable's the candidate's 99th percentile may be. The comparison is by "
        "buckets of 6 %; 1.5 is above what chance does to a percentile of some thousand answers.",
    )
    confidence: float = Field(
        default=0.99,
        ge=0.5,
        le=0.999999,
        description="How sure the guard must be, over the whole rollout: with 0.99 it stops one harmless candidate in "
        "a hundred at most, however often it looks. More takes longer to stop a bad one.",
    )
    min_answers: int = Field(
        default=1000,
        ge=1,
        le=1_000_000_000,
        description="Answers of the candidate, and of stable, without which no stage ends: fewer say nothing of the "
        "slowest percent.",
    )
    window_minutes: float = Field(
        default=60.0,
        gt=0,
        le=43_200,
        description="What is compared is no older than this, in minutes, once there are min_answers of it on both "
        "sides: a candidate that turned bad today should not live on a good yesterday.",
    )
    budget_ms: float = Field(
        default=50.0,
        gt=0,
        le=60_000,
        description="How long a decision may take, in milliseconds. After a longer one the fallback decides the next "
        "100 messages of that route; three such faults in a row open the route's breaker. Ranking 10,000 backends "
        "takes about 10 ms; the rest is for pauses of the machine: a longer one that falls into a decision counts.",
    )
    fallback: PolicyName = Field(
        default="least_in_flight",
        description="The policy that decides where another one raises, chooses whom it may not, or is too slow. The "
        "default is the simplest that knows load.",
    )
    rollback_file: str = Field(
        default="",
        description="While this file exists the rollout is rolled back, and stays so afterwards until somebody resumes "
        'it: what on-call can touch where nothing else works. Looked at once a second. "": none.',
    )
