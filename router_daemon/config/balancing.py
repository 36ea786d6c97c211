"""The sections about what is measured, how load is spread and how faults are met: each constant with its reason.

Rules: as in `sections`. Where a reason is a figure, `docs/compare.md` says how it was measured.
"""

from __future__ import annotations

from pydantic import Field

from router_daemon.config.base import DAY_MS, Alpha, Section


class ProfileSection(Section):
    """How measurements of a backend enter its profile, and what stands there before the first one."""

    latency_alpha: Alpha = Field(
        default=0.1,
        description="Weight of a new latency in the moving average. Published: 0.1, about the last 20 deliveries.",
    )
    success_alpha: Alpha = Field(
        default=0.05,
        description="Weight of a new outcome in the success ratio. Published: 0.05, about the last 40 deliveries.",
    )
    initial_latency_ms: float = Field(
        default=1.0,
        gt=0,
        le=DAY_MS,
        description="Latency, in milliseconds, that a new backend is assumed to have while nobody of its capability "
        "was measured. Low, so that it is tried and measured.",
    )
    initial_success: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Success ratio that a new backend is assumed to have: below that of one known to be good, above "
        "that of one known to fail.",
    )
    reference_alpha: Alpha = Field(
        default=0.002,
        description="Weight of a new latency in the mean of its capability, against which backends are held. Small: it"
        " is to say what is usual there.",
    )
    forget_s: float = Field(
        default=3.0,
        gt=0,
        le=86_400,
        description="An estimate above the mean of its capability drifts back to it with this time constant, in "
        "seconds, once it is old: whoever was slow is tried again.",
    )
    forget_from: float = Field(
        default=1 / 30,
        ge=0,
        le=1,
        description="It begins to drift once it is older than this share of that time: earlier, what is measured often "
        "would be forgotten between two measurements.",
    )
    queue_alpha: Alpha = Field(
        default=0.5,
        description="Weight of a backend's new report of its queue in what is known of its load from elsewhere. "
        "Half: a report is old when it comes, and the next one comes soon.",
    )
    forget_services: float = Field(
        default=100.0,
        ge=0,
        le=1_000_000,
        description="Or with this many times the estimate, where that is longer: services of seconds are not forgotten"
        " within seconds.",
    )


class AttentionSection(Section):
    """The live part of the policy attention."""

    silence_services: float = Field(
        default=5.0,
        gt=0,
        le=1_000_000,
        description="While work is out, a silence of more than this many mean services counts as latency, so that a "
        "hung backend shows long before its timeout.",
    )
    cost_weight: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="How much a backend's cost counts: each multiple of the cheapest one's cost as this many mean "
        "latencies. 0: cost is no reason to choose.",
    )
    scarcity: float = Field(
        default=3.0,
        ge=0,
        le=1000,
        description="A backend's failures count as latency lost to a retry; this many times more when the budget of "
        "retries is empty. Where a backend failed at once, that saved two thirds of the messages lost for want of a "
        "retry; more than 3 saved no more.",
    )
    scan_most: int = Field(
        default=50,
        ge=1,
        le=100_000,
        description="Up to this many candidates, each is looked at for every message; of more, a random sample.",
    )
    sample: int = Field(
        default=32,
        ge=2,
        le=1000,
        description="The size of that sample. With 240 backends, and against looking at all of them, the 99th "
        "percentile was 81 % longer with 2, 19 % with 8, 7 % with 16, 1 % with 32 (docs/compare.md).",
    )
    hold_times: float = Field(
        default=4.0,
        ge=0,
        le=1000,
        description="A message waits for a full backend, though another has room, where the full one would score "
        "better even at this many times the latency to expect of it, the wait included; and for no longer than the "
        "latency of the one with room over this. Under 1: whoever has room gets it. With backends of 20 ms beside 2, 8 "
        "and 30 s, at a load of 0.7, the 99th percentile was 7.9 s with 0, 1.0 with 4, 2.9 with 10; with 2, where "
        "estimates are less sure, messages waited that had better gone (docs/compare.md).",
    )


class RetrySection(Section):
    """How often a message may be tried again, and when a head counts as timed out."""

    share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Retries per message, at most: each message of a capability adds this much to its budget. Retries "
        "without a budget turn a failing backend into an overloaded one; with 0.1, backends that fail 1 in 10 "
        "used all of it up, and messages that a retry would have saved were lost.",
    )
    start: float = Field(default=3.0, ge=0, le=1_000_000, description="What is in the budget at first.")
    per_s: float = Field(
        default=1.0,
        ge=0,
        le=1_000_000,
        description="What a second adds at least, so that rare messages have retries, too.",
    )
    most: float = Field(
        default=10.0,
        ge=0,
        le=1_000_000,
        description="The most that is saved up. A full budget is spent within one outage: keep it small.",
    )
    same_backend: bool = Field(
        default=True,
        description="In modes auto and hedge, once all candidates were tried, the same ones may be tried again after "
        "half to one mean service time; else a single backend would have no retry.",
    )
    pause_services: float = Field(
        default=1.0,
        ge=0,
        le=1000,
        description="Before the same backend is tried again, half to all of so many mean service times go by: time for "
        "what ailed it to end, and at random, so that not all come back at once.",
    )
    timeout_floor_ms: float = Field(
        default=50.0,
        gt=0,
        le=DAY_MS,
        description="An attempt timeout learnt from latencies is never shorter than this, in milliseconds.",
    )
    timeout_times: float = Field(
        default=3.0,
        gt=0,
        le=1000,
        description="The learnt timeout is this many times the latency after which a hedge leaves: see [hedge].",
    )
    timeout_samples: int = Field(
        default=20, ge=2, le=1_000_000, description="Latencies that must be known before a timeout is learnt from them."
    )


class HedgeSection(Section):
    """When a message gets a second head while the first is still out."""

    share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Hedges per message, at most, by a budget of each capability that starts empty. 0: no hedges but "
        "those that a message asks for with mode hedge, which cost no budget; nor do those of messages that explore.",
    )
    most: float = Field(default=10.0, ge=0, le=1_000_000, description="The most that is saved up.")
    deviations: float = Field(
        default=4.0,
        ge=0,
        le=1000,
        description="A hedge leaves after the mean latency plus this many mean deviations: about 1 message in 30.",
    )
    load_below: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="Hedges leave only while less than this share of the capability's slots is taken, but for those "
        "of messages that explore.",
    )
    trouble_below: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="And only while retries and timeouts are less than this share of messages: copies do not help "
        "backends that fail under load.",
    )
    trouble_window: int = Field(
        default=512,
        ge=2,
        le=1_000_000,
        description="Of so many last messages: enough to tell 10 % from chance, few enough to be of now.",
    )
    trouble_s: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="Trouble longer ago than this, in seconds, is forgotten: where messages are rare, the last ones "
        "are long ago.",
    )
    samples: int = Field(
        default=16, ge=2, le=1_000_000, description="Latencies that must be known before a hedge is timed by them."
    )
    unknown_times: float = Field(
        default=3.0,
        gt=0,
        le=1000,
        description="Before that, an answer is late after so many mean latencies of the capability, if that is known.",
    )


class EjectionSection(Section):
    """When a backend that fails gets nothing for a while."""

    failures: int = Field(
        default=5,
        ge=0,
        le=1000,
        description="At least this many failures among the last deliveries, none older than window_s. 0: never.",
    )
    share: float = Field(default=0.5, ge=0, lt=1, description="And more than this share of them.")
    window: int = Field(default=20, ge=1, le=1000, description="So many last deliveries are looked at.")
    window_s: float = Field(default=30.0, gt=0, le=86_400, description="See failures; in seconds.")
    elsewhere: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Not while a larger share of the capability's deliveries fails elsewhere, too: then something that"
        " they share is broken, and fewer backends would not mend it.",
    )
    first_s: float = Field(
        default=0.25,
        gt=0,
        le=86_400,
        description="For how many seconds the first time; each further time twice as long. A message on trial ends it.",
    )
    most_s: float = Field(default=10.0, gt=0, le=86_400, description="The longest ejection, in seconds.")
    jitter: float = Field(
        default=0.2, ge=0, lt=1, description="Times vary by +- this share, so that trials do not come all at once."
    )


class WaitingSection(Section):
    """Messages that wait because all capable backends are full."""

    longest: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="A message that would wait for more than this share of its time to live is refused at once, with "
        "the time after which to try again: an early no is worth more than a late one.",
    )
    reserve: float = Field(
        default=0.1,
        ge=0,
        le=0.9,
        description="The share of a capability's places, rounded down, and of the waiting room, that only critical "
        "messages (priority 4) may take.",
    )
    step_share: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="A waiting message rises by one priority for each such share of its time to live at the latest, so "
        "that nobody waits to its end for being less important.",
    )
    step_services: float = Field(
        default=4.0,
        gt=0,
        le=1_000_000,
        description="A waiting message rises by one priority, up to high, for each quarter of its time to live, or for "
        "so many mean latencies of its capability where that is shorter: what is less important waits longer,"
        " but not for as long as there is something more important.",
    )
    rate_window_s: float = Field(
        default=10.0, gt=0, le=3600, description="Completions of so many seconds are counted to predict the wait."
    )


class ExplorationSection(Section):
    """How backends that nobody has heard of for a while, and new ones, are tried."""

    share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Of a capability's messages, at most so many go to a backend that has been unused for long. Never "
        "critical ones, nor those that may not run twice. 0: none.",
    )
    after_s: float = Field(
        default=1.0, ge=0, le=86_400, description="Unused for long is this many seconds at least, ..."
    )
    after_services: float = Field(
        default=50.0, ge=0, le=1_000_000, description="... and this many mean latencies of the capability."
    )
    complete_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Of the fan-outs of mode auto, so many let those that come second finish: what is always cancelled "
        "is never measured, and looks faster than it is.",
    )
    slow_start: bool = Field(
        default=True,
        description="A backend that joins others that are warm gets one message at once, then two, four, ...: it is "
        "neither flooded nor starved.",
    )


class StateSection(Section):
    """What outlives a restart of the daemon."""

    dir: str = Field(
        default="",
        description="Directory in which profiles are kept, written every write_every_s and at exit, and what "
        'people have said of rollouts and overrides, written at once; "" for none. '
        "A restarted daemon then knows at once who is fast and who fails. One for each daemon; made where it is "
        "missing, and if it cannot be written, the daemon does not start.",
    )
    write_every_s: float = Field(
        default=10.0,
        gt=0,
        le=86_400,
        description="How often, in seconds. What was measured after the last time is lost where the daemon is killed.",
    )
    read_younger_s: float = Field(
        default=600.0,
        gt=0,
        le=31_536_000,
        description="Profiles older than this, in seconds, are not read: backends change.",
    )
