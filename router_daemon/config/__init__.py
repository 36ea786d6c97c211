"""The configuration: one frozen, typed object, and how it comes to be (`load_config`).

Rules:
- What must hold between fields is in `_broken_relations`; it holds for every `Config`, however it was made.
- A wrong configuration is refused as a whole, with all its faults at once.
- Nothing of the daemon is imported here: the daemon translates a `Config` into what its rooms need.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from router_daemon.config import addresses
from router_daemon.config.balancing import (
    AttentionSection,
    EjectionSection,
    ExplorationSection,
    HedgeSection,
    ProfileSection,
    RetrySection,
    StateSection,
    WaitingSection,
)
from router_daemon.config.base import Section
from router_daemon.config.embedding import RingAttentionSection
from router_daemon.config.faults import Broken, Unrelated, field_faults, relation_faults, without_faulty
from router_daemon.config.ring import RingSection
from router_daemon.config.routes import MOST_ROUTES, NAME, RolloutSection, RouteSection, reads
from router_daemon.config.sections import (
    AdminSection,
    BackendSection,
    FrontendSection,
    LimitsSection,
    LogSection,
    RoutingSection,
    TransportSection,
    WeightsSection,
)
from router_daemon.config.sources import Flag, read_sources
from router_daemon.config.text import Rule, commented_default, plain_type, tables_of
from router_daemon.config.tracing import TracingSection
from router_daemon.config.why import WhySection
from router_daemon.errors import ConfigError

ROUTES_RULE: Final = (
    f"up to {MOST_ROUTES} tables [routes.NAME], NAME of up to 32 of a to z, 0 to 9, _ and -, beginning with a letter"
)
RouteTables = Annotated[
    dict[Annotated[str, Field(pattern=NAME)], RouteSection], Rule(ROUTES_RULE), Field(max_length=MOST_ROUTES)
]


class Config(Section):
    """Everything that can be set; immutable, checked field by field and between fields."""

    frontend: FrontendSection = Field(default_factory=FrontendSection)
    backend: BackendSection = Field(default_factory=BackendSection)
    transport: TransportSection = Field(default_factory=TransportSection)
    admin: AdminSection = Field(default_factory=AdminSection)
    routing: RoutingSection = Field(default_factory=RoutingSection)
    weights: WeightsSection = Field(default_factory=WeightsSection)
    profile: ProfileSection = Field(default_factory=ProfileSection)
    attention: AttentionSection = Field(default_factory=AttentionSection)
    ring_attention: RingAttentionSection = Field(default_factory=RingAttentionSection)
    routes: RouteTables = Field(default_factory=dict)
    rollout: RolloutSection = Field(default_factory=RolloutSection)
    retry: RetrySection = Field(default_factory=RetrySection)
    hedge: HedgeSection = Field(default_factory=HedgeSection)
    ejection: EjectionSection = Field(default_factory=EjectionSection)
    waiting: WaitingSection = Field(default_factory=WaitingSection)
    exploration: ExplorationSection = Field(default_factory=ExplorationSection)
    state: StateSection = Field(default_factory=StateSection)
    why: WhySection = Field(default_factory=WhySection)
    tracing: TracingSection = Field(default_factory=TracingSection)
    ring: RingSection = Field(default_factory=RingSection)
    limits: LimitsSection = Field(default_factory=LimitsSection)
    log: LogSection = Field(default_factory=LogSection)

    @model_validator(mode="after")
    def _related(self) -> Self:
        broken = _broken_relations(self)
        if broken:
            raise Unrelated(broken)
        return self


_AT_MOST = (
    ("routing.default_ttl_ms", "routing.max_ttl_ms"),
    ("ejection.failures", "ejection.window"),
    ("ejection.first_s", "ejection.most_s"),
    ("retry.start", "retry.most"),
    ("limits.max_header_bytes", "limits.max_message_bytes"),
    ("limits.max_message_bytes", "limits.client_unread_bytes"),
    ("limits.max_message_bytes", "limits.backend_unread_bytes"),
)


def section_types() -> dict[str, type[BaseModel]]:
    """Return what each section is; of tables by name, what each table is."""
    return {name: tables_of(field) or plain_type(field.annotation) for name, field in Config.model_fields.items()}


def value_of(config: Config, key: str) -> Any:
    """Return the value of `section.key`."""
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def _broken_relations(config: Config) -> list[Broken]:
    """Return every relation between fields that does not hold."""
    broken = []
    for low, high in _AT_MOST:
        small, large = value_of(config, low), value_of(config, high)
        if small > large:
            broken.append(Broken(((low, small),), "must be at most", (high, large)))
    broken += _broken_routes(config)
    if config.admin.token and config.admin.token_file:
        pair = ("admin.token_file", config.admin.token_file)
        broken.append(Broken((("admin.token", "..."),), "must not be set together with", pair))
    weights = tuple((f"weights.{name}", value) for name, value in config.weights)
    if not any(value for _, value in weights):
        broken.append(Broken(weights, "one at least must be above 0"))
    return broken + _alone(config) + _clashes(config)


def _alone(config: Config) -> list[Broken]:
    """Return what makes no neighbours: they need a name to call each other by, and nobody is his own."""
    ring = config.ring
    setting = ("ring.neighbours", ring.neighbours)
    if ring.neighbours and not ring.name:
        return [Broken((setting,), "needs a name, but there is", ("ring.name", ring.name))]
    own = [bind for bind in ring.addresses if bind in ring.neighbours]
    return [Broken((setting,), "must not name this daemon itself:", ("ring.listen", bind)) for bind in own]


def _broken_routes(config: Config) -> list[Broken]:
    """Return each key of a route that its policy does not read, and each route that the rollout names in vain."""
    broken = []
    for name, route in config.routes.items():
        known = reads(route.policy)
        for key, value in route.changes.items():
            if key not in known:
                rule = f"policy {route.policy} does not read it; it reads {', '.join(known)}"
                broken.append(Broken(((f"routes.{name}.{key}", value),), rule))
        if route.tau is not None and route.temperature is not None:
            taken = (f"routes.{name}.temperature", route.temperature)
            broken.append(Broken(((f"routes.{name}.tau", route.tau),), "means the same as", taken))
    rollout = config.rollout
    there = {*config.routes, rollout.stable, ""}
    for key, value in (("candidate", rollout.candidate), ("control", rollout.control)):
        if value not in there:
            known_routes = ", ".join(sorted(config.routes)) or "none"
            broken.append(Broken(((f"rollout.{key}", value),), f"must be one of [routes]: {known_routes}"))
    if rollout.candidate == rollout.stable:
        pair = ("rollout.stable", rollout.stable)
        broken.append(Broken((("rollout.candidate", rollout.candidate),), "must be another route than", pair))
    if rollout.candidate and not rollout.stages and rollout.percent is None:
        broken.append(Broken((("rollout.stages", rollout.stages),), "without stages, rollout.percent must be set"))
    return broken


def _clashes(config: Config) -> list[Broken]:
    """Return each pair of addresses of which only one could be bound."""
    binds = [("frontend.bind", bind) for bind in config.frontend.addresses]
    binds += [("backend.bind", bind) for bind in config.backend.addresses]
    binds += [("admin.bind", config.admin.bind)] if config.admin.bind else []
    binds += [("ring.listen", bind) for bind in config.ring.addresses if config.ring.name]
    return [
        Broken(pair, "cannot both be bound")
        for pair in itertools.combinations(binds, 2)
        if addresses.clash(pair[0][1], pair[1][1])
    ]


def load_config(
    path: Path | None, environ: Mapping[str, str], overrides: Sequence[str] = (), flags: Sequence[Flag] = ()
) -> Config:
    """Return the configuration: defaults < TOML file < environment < `--set` < flags of their own.

    Args:
        path: of the TOML file, None for none.
        environ: variables like `ROUTER_DAEMON__ROUTING__HEADS=2` are read, all others are passed over.
        overrides: each `section.key=value`, as after `--set`.
        flags: options like `--frontend` that stand for one setting.

    Raises:
        ConfigError: something is wrong; its text has one line for each fault, in the order of the sources.
    """
    sources = read_sources(path, environ, overrides, flags)
    tree = sources.tree()
    config, errors = _validate(tree)
    faults = sources.faults + field_faults(errors, Config, sources)
    if not any(fault.origin.rank == 0 for fault in sources.faults):  # an unread file may set what is compared
        faults += relation_faults(_validate(without_faulty(tree, errors, Config))[1], errors, Config, sources)
    if config is None or faults:
        raise ConfigError("\n".join(map(str, sorted(set(faults)))))
    return config


def _validate(tree: dict[str, Any]) -> tuple[Config | None, list[ErrorDetails]]:
    try:
        return Config.model_validate(tree), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def schema_text() -> str:
    """Return the JSON schema of the file, as `config/schema.json` has it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Config.model_json_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write `config/schema.json` or `config/router-daemon.toml` to stdout: `python -m router_daemon.config [toml]`."""
    texts: dict[str, Callable[[], str]] = {"schema": schema_text, "toml": lambda: commented_default(Config())}
    (wanted,) = arguments or ["schema"]
    sys.stdout.write(texts[wanted]())
    return 0
