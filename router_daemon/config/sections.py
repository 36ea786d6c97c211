"""The sections of the configuration, key by key: meaning, unit, bounds, and why the default is what it is.

Rules:
- No value is coerced: `"2"` is no number and `true` no integer; an integer does where a number is asked.
- The texts here are what users read: `config/schema.json` and `config/router-daemon.toml` are written from them.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from router_daemon.config import addresses
from router_daemon.config.base import DAY_MS, Section, Weight
from router_daemon.config.text import Rule

TIB = 1 << 40


def _endpoints(value: Any) -> str | tuple[str, ...]:
    """Return one address as it is, a list of them as a tuple, each checked."""
    if isinstance(value, str):
        return addresses.check_endpoint(value)
    if not isinstance(value, list | tuple) or not value or not all(isinstance(text, str) for text in value):
        raise ValueError("must be an address or a list of addresses")
    return tuple(map(addresses.check_endpoint, value))


ENDPOINT_SCHEMA = {"type": "string", "pattern": "^(tcp|ipc)://.+$"}
Endpoints = Annotated[
    str | tuple[str, ...],
    Rule(f"{addresses.ENDPOINT_RULE}; or a list of such"),
    BeforeValidator(_endpoints),
    WithJsonSchema({"anyOf": [ENDPOINT_SCHEMA, {"type": "array", "items": ENDPOINT_SCHEMA, "minItems": 1}]}),
]
HostPort = Annotated[str, Rule(addresses.HOST_PORT_RULE), AfterValidator(addresses.check_host_port)]
Bytes = Annotated[int, Field(ge=256, le=TIB)]


class _Bound(Section):
    bind: Endpoints

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return what to bind to, whether one address was given or a list."""
        return (self.bind,) if isinstance(self.bind, str) else self.bind


class FrontendSection(_Bound):
    """Where clients connect."""

    bind: Endpoints = Field(
        default="tcp://127.0.0.1:5570",
        description="Address, or list of addresses, that clients connect to: tcp://HOST:PORT or ipc://PATH. The "
        "default is reachable from this machine only, because the protocol has no password.",
    )


class BackendSection(_Bound):
    """Where backends connect, and how soon a silent one is given up."""

    bind: Endpoints = Field(
        default="tcp://127.0.0.1:5571",
        description="Address, or list of addresses, that backends connect to. A port of its own, so that a firewall "
        "can keep clients from posing as backends; the default is reachable from this machine only.",
    )
    heartbeat_ms: int = Field(
        default=1000,
        ge=10,
        le=3_600_000,
        description="Backends say that they live at least this often, in milliseconds; silent for three of them, one "
        "is lost and its messages go elsewhere. The default notices a loss within 3 s and costs a thousand"
        " backends a thousand small messages a second.",
    )


class TransportSection(Section):
    """What speaks ZeroMQ's protocol with clients and backends; both keep the same contract."""

    engine: Literal["native", "libzmq"] = Field(
        default="native",
        description="native: ZMTP 3.1 spoken by the daemon itself, at a third of the CPU per message and with bounded "
        "memory whatever a peer sends; libzmq: the library's ROUTER sockets.",
    )


TOKEN_RULE: Final = "16 to 1024 printable ASCII characters without spaces"  # noqa: S105 - the rule, not a token
Token = Annotated[
    str,
    Rule(f"{TOKEN_RULE}, or empty"),
    Field(pattern="^([!-~]{16,1024})?$"),
]


class AdminSection(Section):
    """The HTTP room for people and monitoring: /metrics, /readyz, /backends, /routes, /explain, /decisions, /ring."""

    bind: HostPort = Field(
        default="127.0.0.1:9575",
        description='HOST:PORT of the HTTP server, or "" for none. It tells everything to whoever asks, hence loopback'
        " by default; bind it wider only where Prometheus needs it and a firewall stands before it.",
    )
    token: Token = Field(
        default="",
        repr=False,
        description='What the pages that change something (POST /routes/...) ask for, as "Authorization: Bearer '
        'TOKEN". "": none, and then they work only where bind is loopback. Better said in token_file or in '
        "ROUTER_DAEMON__ADMIN__TOKEN than in a file that others may read.",
    )
    token_file: str = Field(
        default="",
        description='The file that has the token, read at the start; spaces and line ends around it do not count. "": '
        "none.",
    )


PolicyName: TypeAlias = Literal[
    "attention",
    "paper",
    "round_robin",
    "capability_only",
    "paper_no_reliability",
    "least_in_flight",
    "p2c_peak_ewma",
    "prequal",
    "c3",
    "ring",
    "ring_multi",
    "ring_greedy",
]


class RoutingSection(Section):
    """How a message finds its backends."""

    policy: PolicyName = Field(
        default="attention",
        description="How backends are scored. attention: the cross-attention score with the load, the silence and the "
        "latency of this moment weighed for each message; paper: the published rule, whose winner is cached;"
        " paper_no_reliability: the same without its reliability term; round_robin: in turn; "
        "capability_only: any capable one, by chance; least_in_flight, p2c_peak_ewma, prequal, c3: published load "
        "balancers, to compare with; ring: the message's embedding held against those of the backends, with latency "
        "and reliability; ring_multi: the same with several attention heads; ring_greedy: the same, climbing from "
        "neighbour to neighbour (see [ring_attention]).",
    )
    mode: Literal["auto", "fanout", "hedge", "single"] = Field(
        default="auto",
        description="For messages that do not say. auto: to all heads at once while the backends are nearly idle, else "
        "to the best one, and to a second one where the first is late (a hedge) or fails; fanout: always to "
        "all heads at once, the first success answers (as published); hedge: one head, and a hedge whenever "
        "the first is late; single: one head, and the next one when it fails. Copies at once only for "
        "messages that may run twice: see unsaid_idempotent.",
    )
    auto_idle: float = Field(
        default=0.15,
        ge=0,
        le=1,
        description="In mode auto, all heads get a message at once while less than this share of the capability's "
        "slots is taken. Copies halve the latency where there is nothing else to do; three of all work would"
        " triple the load. 0: never.",
    )
    extra_cost_ratio: float = Field(
        default=2.0,
        ge=1,
        le=1_000_000,
        description="No second head (hedge, retry, trial, exploration) goes to a backend that costs more than this "
        "many times the first one.",
    )
    heads: int = Field(
        default=3,
        ge=1,
        le=3,
        description="The most backends that may get one message, at once or one after the other; a message may ask for"
        " fewer. Published: 3.",
    )
    threshold: float = Field(
        default=0.3,
        ge=0,
        le=1000,
        description="A backend must score more than this to be a head. Published: 0.3, which by itself lets most "
        "backends without the capability through: see require_capability.",
    )
    cache_ttl_s: float = Field(
        default=30.0,
        ge=0,
        le=86_400,
        description="For how long, in seconds, a ranking of backends serves further messages of the same capability "
        "and priority; 0 ranks anew for each. A backend that joins, leaves, drains or changes capabilities"
        " ends it sooner. Published: 30.",
    )
    require_capability: bool = Field(
        default=True,
        description="Only backends that offer the capability may get a message. false: the published soft rule, where "
        "capability is one term of the score and a fast backend without it can win.",
    )
    unsaid_idempotent: Literal["copies", "retries", "never"] = Field(
        default="copies",
        description="What may happen to a message that does not say whether it is idempotent. copies: it may run on "
        "several backends at once (needed for fanout); retries: a second time only after a failure, a loss"
        " or a timeout; never: at most once.",
    )
    allow_policy: bool = Field(
        default=False,
        description="Clients may say which route or policy decides for a message (`policy` of SEND); else it is "
        "refused as forbidden. For trying a policy on chosen messages; off, as it takes the choice out of your hands.",
    )
    allow_backend: bool = Field(
        default=False,
        description="Clients may name the backend that gets a message (`backend` of SEND), which then has no second "
        "chance; else it is refused as forbidden.",
    )
    attempt_timeout_ms: int | None = Field(
        default=None,
        ge=1,
        le=DAY_MS,
        examples=[5000],
        description="How long, in milliseconds, one head has before the next is tried. Absent: an equal share of the "
        "time the message has left, or less once it is known how long answers take (see [retry]); the last "
        "permitted head gets all that is left.",
    )
    attempt_timeouts_ms: Annotated[
        dict[str, Annotated[int, Field(ge=1, le=DAY_MS)]], Rule("a table of capability = milliseconds")
    ] = Field(
        default_factory=dict,
        description="The same for single capabilities, by name.",
    )
    default_ttl_ms: int = Field(
        default=30_000,
        ge=1,
        le=DAY_MS,
        description="How long, in milliseconds, a message that does not say may take in all before it ends as expired."
        " The default outlasts a slow language model, and a client notices a lost answer within half a "
        "minute.",
    )
    max_ttl_ms: int = Field(
        default=300_000,
        ge=1,
        le=DAY_MS,
        description="A longer time to live is lowered to this, in milliseconds: it bounds how long a message can hold "
        "memory and a place at a backend.",
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        le=2**63 - 1,
        examples=[42],
        description="Of the random choices (ties, capability_only), to repeat a run. Absent: random, and written to "
        "the log.",
    )


class WeightsSection(Section):
    """Of the score's terms, in the policies attention, paper and paper_no_reliability; published values by default."""

    capability: Weight = Field(default=0.4, description="Of offering the capability: 1 or 0.")
    performance: Weight = Field(
        default=0.3,
        description="Of speed. paper: 1 / (1 + the backend's mean latency in milliseconds); attention: 1 / (1 + the "
        "latency to expect there now over that of the best).",
    )
    reliability: Weight = Field(default=0.2, description="Of the share of deliveries that succeeded lately.")
    priority: Weight = Field(
        default=0.1,
        description="Of the message's priority: priority / 4. The same for all backends, so it moves the score against"
        " the threshold and never the order.",
    )


class LimitsSection(Section):
    """What the daemon takes before it refuses, and how it works through it."""

    max_message_bytes: Bytes = Field(
        default=16_777_216,
        description="The largest message, all frames together, in bytes; larger: too_large. The memory that libzmq may"
        " use grows with it: peers x high_water_mark x message size.",
    )
    max_header_bytes: Bytes = Field(
        default=65_536,
        description="The largest header, in bytes; larger: too_large. Room for an embedding of 16,000 numbers.",
    )
    max_body_frames: int = Field(
        default=64,
        ge=1,
        le=65_536,
        description="The most body frames of a message; more: too_large. Each costs the daemon a call.",
    )
    queue_messages: int = Field(
        default=10_000,
        ge=0,
        le=100_000_000,
        description="The most messages that wait for a place where all capable backends are full; more: overloaded. 0:"
        " none waits. The default is about a second of work for a busy daemon; longer queues only make "
        "answers late.",
    )
    queue_bytes: int = Field(
        default=268_435_456,
        ge=0,
        le=TIB,
        description="The most bytes of waiting messages; more: overloaded. Keeps few large messages from taking the "
        "memory that many small ones would not.",
    )
    open_messages: int = Field(
        default=100_000,
        ge=1,
        le=100_000_000,
        description="The most messages without a final answer; more: overloaded. Each costs about a kilobyte and its "
        "body.",
    )
    client_messages: int = Field(
        default=2_500,
        ge=1,
        le=100_000_000,
        description="The most messages without a final answer of one client connection; more: overloaded. A quarter of "
        "queue_messages, so that one client that floods leaves the waiting room to the others.",
    )
    client_bytes: Bytes = Field(
        default=67_108_864,
        description="With bodies of this many bytes open, a client connection gets overloaded for further messages; "
        "with less, one more is taken, whatever its size. A quarter of queue_bytes.",
    )
    client_unread_bytes: Bytes = Field(
        default=33_554_432,
        description="What one client may leave unread, in bytes; further answers to it are dropped and counted. Room "
        "for two messages of the largest size.",
    )
    backend_unread_bytes: Bytes = Field(
        default=67_108_864,
        description="What one backend may leave unread, in bytes, before it counts as full. Room for four messages of "
        "the largest size, so that prefetch works with them.",
    )
    backends: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="The most registered backends; a further one is refused. Ranking all of them takes about 10 ms for"
        " the default number.",
    )
    high_water_mark: int = Field(
        default=32,
        ge=1,
        le=1_000_000,
        description="The most messages that libzmq itself holds for one peer in each direction. Small, because it "
        "cannot be told their size; what does not fit waits in the daemon, where it is counted.",
    )
    batch_messages: int = Field(
        default=256,
        ge=1,
        le=65_536,
        description="After this many received messages the daemon handles and sends before it receives more: larger "
        "batches save calls, smaller ones answer sooner.",
    )
    batch_ms: float = Field(
        default=5.0,
        gt=0,
        le=1000,
        description="A batch also ends after this long, in milliseconds, so that timers and HTTP get their turn.",
    )
    label_values: int = Field(
        default=200,
        ge=1,
        le=100_000,
        description="The most capabilities, and the most backends, that have series of their own in /metrics; the rest"
        " are counted as `other`. Bounds the page and what Prometheus stores.",
    )
    drain_timeout_s: float = Field(
        default=10.0,
        ge=0,
        le=3600,
        description="How long, in seconds, open messages may finish after SIGTERM before they end as draining. The "
        "default is below the 30 s after which Kubernetes kills, and the 90 s of systemd.",
    )


class LogSection(Section):
    """What the daemon says on stderr."""

    level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        default="info",
        description="The least important lines to write. info: joins, losses, the life of the daemon, nothing per "
        "message.",
    )
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: console where stderr is a terminal, else json (one object per line)."
    )
