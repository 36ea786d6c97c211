"""The sections of rollouts: which routes there are, and which messages take them; key by key, with the reasons.

Rules as in `sections`. `[routes.NAME]` is the one table of tables: each is a policy with settings of its own.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from router_daemon.config.balancing import AttentionSection
from router_daemon.config.base import Section, Weight
from router_daemon.config.sections import PolicyName, RoutingSection
from router_daemon.config.text import Rule

MOST_ROUTES: Final = 16
MOST_STAGES: Final = 20
NAME: Final = "^[a-z][a-z0-9_-]{0,31}$"


def _rising(stages: tuple[float, ...]) -> tuple[float, ...]:
    if any(later <= earlier for earlier, later in zip(stages, stages[1:], strict=False)):
        raise ValueError("must rise")
    return stages


Percent = Annotated[float, Field(gt=0, le=100)]
Stages = Annotated[
    tuple[Percent, ...],
    Rule(f"up to {MOST_STAGES} numbers above 0 up to 100, each above the one before; [] to stay where percent says"),
    Field(max_length=MOST_STAGES, strict=False),
    AfterValidator(_rising),
]
RouteName = Annotated[str, Rule("the name of a route: a to z, 0 to 9, _ and -, beginning with a letter; or empty")]


def _shared(section: type[Section], key: str) -> str:
    """Return the text of a route's own key, which is that of the section that it is of."""
    return f"As in its section, for this route alone. {section.model_fields[key].description}"


class RouteSection(Section):
    """A route: a policy with settings of its own. Keys that are absent are as for everybody."""

    policy: PolicyName = Field(
        default="attention",
        description="How this route scores backends; see routing.policy.",
    )
    threshold: float | None = Field(default=None, ge=0, le=1000, description=_shared(RoutingSection, "threshold"))
    cache_ttl_s: float | None = Field(default=None, ge=0, le=86_400, description=_shared(RoutingSection, "cache_ttl_s"))
    capability: Weight | None = Field(default=None, description="The weight of offering the capability.")
    performance: Weight | None = Field(default=None, description="The weight of the latency term.")
    reliability: Weight | None = Field(default=None, description="The weight of the success ratio.")
    priority: Weight | None = Field(default=None, description="The weight of the message's priority.")
    cost_weight: float | None = Field(
        default=None, ge=0, le=1000, description=_shared(AttentionSection, "cost_weight")
    )
    scan_most: int | None = Field(default=None, ge=1, le=1_000_000, description=_shared(AttentionSection, "scan_most"))
    sample: int | None = Field(default=None, ge=1, le=1_000_000, description=_shared(AttentionSection, "sample"))

    @property
    def changes(self) -> dict[str, float | int]:
        """Return the settings that differ for this route."""
        return {key: value for key, value in self if key != "policy" and value is not None}


READS: Final[dict[str, tuple[str, ...]]] = {
    "attention": (
        *("threshold", "cache_ttl_s", "capability", "performance", "reliability", "priority"),
        *("cost_weight", "scan_most", "sample"),
    ),
    "paper": ("threshold", "cache_ttl_s", "capability", "performance", "reliability", "priority"),
    "paper_no_reliability": ("threshold", "cache_ttl_s", "capability", "performance", "priority"),
}
"""What each policy reads of a route's keys; any other policy: `OTHERS`."""
OTHERS: Final = ("cache_ttl_s",)


class RolloutSection(Section):
    """Which messages take which route: a candidate gets more of them in stages, while a guard compares it with stable."""

    stable: str = Field(
        default="stable",
        pattern=NAME,
        description="The route of every message that nothing else is said of. Where no [routes] section has this "
        "name, it is made of routing.policy and the settings of everybody.",
    )
    candidate: RouteName = Field(
        default="",
        pattern=f"{NAME}|^$",
        description='The route to be tried, one of [routes]. "": no rollout: one route, and nothing is paid for this.',
    )
    control: RouteName = Field(
        default="",
        pattern=f"{NAME}|^$",
        description='The route of the control group, a fixed baseline that is reported apart. "": as stable is, under '
        "the name control, so that at 100 % there is still something to compare with.",
    )
    name: str = Field(
        default="",
        max_length=128,
        description="What keys are hashed with, the same in every daemon of the rollout. \"\": the candidate's name. "
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
        default=0.005,
        ge=0,
        lt=1,
        description="By how much the candidate's share of answered messages may be below stable's. Half a percent is "
        "what a thousand answers can just rule out; a smaller margin makes stages longer.",
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
        lt=1,
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
        "takes about 10 ms, and a pause of the machine should not count.",
    )
    fallback: PolicyName = Field(
        default="least_in_flight",
        description="The policy that decides where another one raises, chooses whom it may not, or is too slow. The "
        "default is the simplest that knows load.",
    )
