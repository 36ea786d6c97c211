"""The configuration: its sources and their order, every kind of fault with its place, and what is generated from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import ValidationError

from router_daemon.assembly import make_settings
from router_daemon.config import Config, load_config
from router_daemon.config.sources import Flag, toml_value
from router_daemon.errors import ConfigError

REPOSITORY: Final = Path(__file__).resolve().parent.parent


def faults(path: Path | None = None, environ: dict[str, str] | None = None, *overrides: str, **flags: str) -> list[str]:
    """Return the lines of the ConfigError that these sources raise."""
    given_flags = [Flag(f"--{key}", f"{key}.bind", text) for key, text in flags.items()]
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ or {}, overrides, given_flags)
    return str(caught.value).splitlines()


def fault(*overrides: str) -> str:
    """Return the one fault of these `--set`s, without its place."""
    (line,) = faults(None, None, *overrides)
    return line.removeprefix("--set: ")


def write(directory: Path, text: str) -> Path:
    path = directory / "router.toml"
    path.write_text(text)
    return path


# --- sources and their order ---


def test_without_sources_all_is_default() -> None:
    config = load_config(None, {})
    assert config == Config()
    assert config.frontend.addresses == ("tcp://127.0.0.1:5570",)
    assert config.routing.attempt_timeout_ms is None
    weights = config.weights
    assert (weights.capability, weights.performance, weights.reliability, weights.priority) == (0.4, 0.3, 0.2, 0.1)


def test_each_source_is_stronger_than_the_one_before(tmp_path: Path) -> None:
    path = write(
        tmp_path, '[routing]\nheads = 1\nthreshold = 0.1\nseed = 1\n[frontend]\nbind = "ipc:///file"\n[backend]\n'
    )
    environ = {
        "ROUTER_DAEMON__ROUTING__THRESHOLD": "0.2",
        "ROUTER_DAEMON__ROUTING__SEED": "2",
        "ROUTER_DAEMON__FRONTEND__BIND": "ipc:///environment",
        "ROUTER_DAEMON_ROUTING_HEADS": "9",
        "HEADS": "9",
    }
    overrides = ["routing.seed=3", "routing.seed=4", "frontend.bind=ipc:///set"]
    config = load_config(path, environ, overrides, [Flag("--frontend", "frontend.bind", "ipc:///flag")])
    assert (config.routing.heads, config.routing.threshold, config.routing.seed) == (1, 0.2, 4)
    assert config.frontend.bind == "ipc:///flag"
    assert config.routing.mode == "auto"


def test_values_of_environment_and_set_are_toml_where_they_can_be() -> None:
    overrides = [
        'frontend.bind=["tcp://*:1", "ipc:///x"]',
        "routing.require_capability=false",
        "routing.mode=single",
        'routing.policy="round_robin"',
        "admin.bind=",
        "weights={capability = 1, priority = 2.5}",
    ]
    config = load_config(None, {"ROUTER_DAEMON__LIMITS__BATCH_MS": "7"}, overrides)
    assert config.frontend.addresses == ("tcp://*:1", "ipc:///x")
    assert config.routing.require_capability is False
    assert (config.routing.mode, config.routing.policy, config.admin.bind) == ("single", "round_robin", "")
    assert (config.weights.capability, config.weights.performance, config.weights.priority) == (1.0, 0.3, 2.5)
    assert config.limits.batch_ms == 7.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        ("2.5", 2.5),
        ("true", True),
        ('"2"', "2"),
        ("info", "info"),
        ("", ""),
        ("1\nother = 2", "1\nother = 2"),
        ("[" * 20_000, "[" * 20_000),
        ("1" * 5_000, "1" * 5_000),
    ],
    ids=["integer", "number", "bool", "quoted", "bare", "empty", "two lines", "too deep", "too many digits"],
)
def test_toml_value(text: str, value: Any) -> None:
    assert toml_value(text) == value


def test_an_integer_does_for_a_number_and_arrives_as_one() -> None:
    ttl_s = load_config(None, {}, ["routing.cache_ttl_s=0"]).routing.cache_ttl_s
    assert (type(ttl_s), ttl_s) == (float, 0.0)


def test_it_is_frozen() -> None:
    config = Config()
    with pytest.raises(ValidationError):
        config.routing.heads = 1
    with pytest.raises(ValidationError):
        config.routing = config.routing


# --- faults of one key ---


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("routing.heads=7", "routing.heads = 7: must be an integer from 1 to 3"),
        ("routing.heads=0", "routing.heads = 0: must be an integer from 1 to 3"),
        ('routing.heads="2"', 'routing.heads = "2": must be an integer from 1 to 3'),
        ("routing.heads=true", "routing.heads = true: must be an integer from 1 to 3"),
        ("routing.heads=2.0", "routing.heads = 2.0: must be an integer from 1 to 3"),
        ("routing.heads=[2]", "routing.heads = [2]: must be an integer from 1 to 3"),
        ("routing.heads={x = 2}", "routing.heads = a table: must be an integer from 1 to 3"),
        ("routing.heads=2020-01-02", "routing.heads = 2020-01-02: must be an integer from 1 to 3"),
        ("routing.threshold=nan", "routing.threshold = nan: must be a number from 0 to 1000"),
        ("routing.threshold=inf", "routing.threshold = inf: must be a number from 0 to 1000"),
        ("routing.threshold=true", "routing.threshold = true: must be a number from 0 to 1000"),
        ("routing.threshold=-0.1", "routing.threshold = -0.1: must be a number from 0 to 1000"),
        ("routing.require_capability=1", "routing.require_capability = 1: must be true or false"),
        ("routing.require_capability=yes", 'routing.require_capability = "yes": must be true or false'),
        ("profile.latency_alpha=0", "profile.latency_alpha = 0: must be a number above 0, up to 1"),
        ("profile.success_alpha=1.1", "profile.success_alpha = 1.1: must be a number above 0, up to 1"),
        ("weights.priority=-1", "weights.priority = -1: must be a number from 0 to 1000"),
        (
            "routing.mode=hegde",
            'routing.mode = "hegde": must be one of "auto", "fanout", "hedge", "single"; did you mean "hedge"?',
        ),
        (
            "routing.policy=papr",
            (
                'routing.policy = "papr": must be one of "attention", "paper", "round_robin", "capability_only", '
                '"paper_no_reliability", "least_in_flight", "p2c_peak_ewma", "prequal", "c3", '
                '"ring", "ring_multi", "ring_greedy"; did you mean "paper"?'
            ),
        ),
        ("log.level=3", 'log.level = 3: must be one of "debug", "info", "warning", "error", "critical"'),
        ("admin.bind=9575", 'admin.bind = 9575: must be HOST:PORT, or "" to switch it off'),
        ("admin.bind=*:9575", 'admin.bind = "*:9575": must be HOST:PORT, or "" to switch it off'),
        ("routing=3", "routing = 3: must be a table"),
        ("routing.seed=-1", "routing.seed = -1: must be an integer from 0 to 9223372036854775807"),
    ],
)
def test_a_wrong_value_is_shown_with_what_is_allowed(override: str, text: str) -> None:
    assert fault(override) == text


@pytest.mark.parametrize(
    "value",
    [
        "5570",
        "[]",
        '["tcp://a:1", 3]',
        '["ipc://a", "b"]',
        "tcp://",
        "tcp://a",
        "tcp://a:70000",
        "tcp://[x]:1",
        "udp://a:1",
        "tcp://a b:1",
        "ipc://",
        f"ipc:///{'x' * 107}",
        "inproc://x",
        "tcp://a:1/x",
    ],
)
def test_a_wrong_address(value: str) -> None:
    text = fault(f"frontend.bind={value}")
    assert text.startswith("frontend.bind = ")
    assert text.endswith(
        ": must be tcp://HOST:PORT (port 0: any free one) or ipc://PATH (1 to 107 bytes); or a list of such"
    )


@pytest.mark.parametrize(
    "address",
    [
        "tcp://*:5570",
        "tcp://127.0.0.1:0",
        "tcp://*:*",
        "tcp://[::1]:5570",
        "tcp://eth0:5570",
        "tcp://a.b-c.de:1",
        "ipc://x",
    ],
)
def test_right_addresses(address: str) -> None:
    assert load_config(None, {}, [f"frontend.bind={address}"]).frontend.addresses == (address,)


def test_a_long_value_is_cut() -> None:
    assert fault(f"log.level={'x' * 1000}").startswith(f'log.level = "{"x" * 79}...: must be')


# --- unknown names ---


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("routing.heds=2", "routing.heds = 2: unknown key; did you mean routing.heads?"),
        ("routing.heartbeat_ms=2", "routing.heartbeat_ms = 2: unknown key; did you mean backend.heartbeat_ms?"),
        ("log.bind=x", 'log.bind = "x": unknown key; did you mean frontend.bind or backend.bind or admin.bind?'),
        ("log.xyzzy=x", 'log.xyzzy = "x": unknown key; known are level, format'),
        ("routng.heads=2", "routng: unknown section; did you mean routing?"),
        ("heads=2", "heads = 2: outside of any section; did you mean routing.heads?"),
        (
            "xyzzy.a=2",
            "xyzzy: unknown section; known are frontend, backend, transport, admin, routing, weights, "
            "profile, attention, ring_attention, routes, rollout, retry, hedge, ejection, waiting, exploration, state, "
            "why, tracing, ring, limits, log",
        ),
        ("log.colour.red=1", "log.colour: unknown table; known are level, format"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(override: str, text: str) -> None:
    assert fault(override) == text


def test_an_unknown_section_is_one_fault_for_each_source_however_many_keys_it_has(tmp_path: Path) -> None:
    path = write(tmp_path, "[log]\n[routng]\nheads = 2\nmode = 3\n")
    found = faults(path, {"ROUTER_DAEMON__ROUTNG__HEADS": "2"}, "routng.a=1", "routng.b=1")
    assert found == [
        f"{place}: routng: unknown section; did you mean routing?"
        for place in (f"{path}:2", "ROUTER_DAEMON__ROUTNG__HEADS", "--set", "--set")
    ]


def test_all_faults_of_all_sources_come_at_once_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, "# first line\n\n[routing]\nheads = 9 # too many\nmodus = 1\n\n[limits]\nbackends = 0\n")
    environ = {"ROUTER_DAEMON__LOG__LEVEL": "loud", "ROUTER_DAEMON__ROUTING": "3", "ROUTER_DAEMON__": "x"}
    found = faults(path, environ, "log.format=xml", "nonsense", frontend="here")
    assert [line.split(": ")[0] for line in found] == [
        f"{path}:8",
        "ROUTER_DAEMON__",
        "ROUTER_DAEMON__LOG__LEVEL",
        "ROUTER_DAEMON__ROUTING",
        "--set",
        "--set nonsense",
        "--frontend",
    ]
    assert found[1] == "ROUTER_DAEMON__: must be ROUTER_DAEMON__SECTION__KEY"
    assert found[3] == "ROUTER_DAEMON__ROUTING: routing = 3: must be a table"
    assert found[5] == "--set nonsense: must be SECTION.KEY=VALUE"
    del environ["ROUTER_DAEMON__ROUTING"]
    assert [line.split(": ")[0] for line in faults(path, environ)][:3] == [f"{path}:{line}" for line in (4, 5, 8)]


def test_what_a_later_source_mends_is_no_fault(tmp_path: Path) -> None:
    path = write(tmp_path, "[routing]\nheads = 9\n")
    assert load_config(path, {"ROUTER_DAEMON__ROUTING__HEADS": "2"}).routing.heads == 2


def test_what_stands_below_no_table_leaves_the_fault_where_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, "routing = 3\n")
    assert faults(path, None, "routing.heads=2") == [f"{path}:1: routing = 3: must be a table"]


def test_an_empty_table_takes_nothing_away(tmp_path: Path) -> None:
    path = write(tmp_path, "[routing]\nheads = 2\n[log]\n")
    assert load_config(path, {"ROUTER_DAEMON__ROUTING": "{}"}).routing.heads == 2


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"[routing\nheads = 2", ":1: not TOML: Expected ']'"),
        (b"[log]\n\nlevel = \n", ":3: not TOML: Invalid value (column 9)"),
        (b"[log]\n[log]\n", ":2: not TOML: Cannot declare ('log',) twice (column "),
        (b'[log]\nlevel = "x', ": not TOML: "),
        (b"[log]\nlevel = \xff\n", ":2: not UTF-8, which TOML must be"),
        (b"x = " + b"[" * 20_000, ": nested too deeply"),
        (b"x = " + b"1" * 5_000, ": not TOML: Exceeds the limit"),
    ],
    ids=["header", "no value", "twice", "open string", "no UTF-8", "too deep", "too many digits"],
)
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    lines = faults(path, None, "routing.heads=7")
    assert lines[0].startswith(f"{path}{text}"), lines
    assert lines[1] == "--set: routing.heads = 7: must be an integer from 1 to 3"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    assert faults(path) == [f"{path}: cannot be read: No such file or directory"]
    assert faults(tmp_path) == [f"{tmp_path}: cannot be read: Is a directory"]


def test_a_byte_order_mark_and_windows_lines_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "router.toml"
    path.write_bytes("\ufeff[routing]\r\nheads = 2\r\nmode = 3\r\n".encode())
    assert faults(path) == [f'{path}:3: routing.mode = 3: must be one of "auto", "fanout", "hedge", "single"']


# --- relations between keys ---


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            ["routing.default_ttl_ms=400000"],
            "routing.default_ttl_ms = 400000: must be at most routing.max_ttl_ms = 300000 (default)",
        ),
        (
            ["routing.max_ttl_ms=1000"],
            "routing.default_ttl_ms = 30000 (default): must be at most routing.max_ttl_ms = 1000",
        ),
        (
            ["limits.max_header_bytes=100000", "limits.max_message_bytes=99999"],
            "limits.max_header_bytes = 100000: must be at most limits.max_message_bytes = 99999",
        ),
        (
            ["limits.client_unread_bytes=1000000"],
            "limits.max_message_bytes = 16777216 (default): must be at most limits.client_unread_bytes = 1000000",
        ),
        (
            ["limits.backend_unread_bytes=1000000"],
            "limits.max_message_bytes = 16777216 (default): must be at most limits.backend_unread_bytes = 1000000",
        ),
        (
            ["weights={capability = 0, performance = 0, reliability = 0, priority = 0}"],
            (
                "weights.capability = 0.0, weights.performance = 0.0, weights.reliability = 0.0, weights.priority = 0.0"
                ": one at least must be above 0"
            ),
        ),
        (
            ["backend.bind=tcp://*:5570"],
            'frontend.bind = "tcp://127.0.0.1:5570" (default), backend.bind = "tcp://*:5570": cannot both be bound',
        ),
        (
            ["admin.bind=127.0.0.1:5571"],
            'backend.bind = "tcp://127.0.0.1:5571" (default), admin.bind = "127.0.0.1:5571": cannot both be bound',
        ),
        (
            ['frontend.bind=["ipc://a", "ipc://b", "ipc://a"]'],
            'frontend.bind = "ipc://a", frontend.bind = "ipc://a": cannot both be bound',
        ),
    ],
)
def test_keys_that_do_not_fit_together(overrides: list[str], text: str) -> None:
    lines = faults(None, None, *overrides)
    assert [line.removeprefix("--set: ") for line in lines] == [text]


@pytest.mark.parametrize(
    "overrides",
    [
        ["frontend.bind=tcp://127.0.0.1:0", "backend.bind=tcp://127.0.0.1:0", "admin.bind=127.0.0.1:0"],
        ["frontend.bind=tcp://127.0.0.1:7", "backend.bind=tcp://127.0.0.2:7"],
        ["frontend.bind=ipc://a", "backend.bind=ipc://b", "admin.bind="],
        ["routing.default_ttl_ms=7", "routing.max_ttl_ms=7"],
        ["weights={capability = 0, performance = 0, reliability = 0}"],
    ],
)
def test_keys_that_just_fit_together(overrides: list[str]) -> None:
    assert isinstance(load_config(None, {}, overrides), Config)


def test_a_relation_names_every_place_and_comes_beside_other_faults(tmp_path: Path) -> None:
    path = write(tmp_path, "[routing]\nheads = 9\nmax_ttl_ms = 10\n")
    found = faults(path, {"ROUTER_DAEMON__ROUTING__DEFAULT_TTL_MS": "20"}, "routing.modes=1")
    assert found == [
        f"{path}:2: routing.heads = 9: must be an integer from 1 to 3",
        (
            f"{path}:3, ROUTER_DAEMON__ROUTING__DEFAULT_TTL_MS: routing.default_ttl_ms = 20: must be at most "
            "routing.max_ttl_ms = 10"
        ),
        "--set: routing.modes = 1: unknown key; did you mean routing.mode?",
    ]


def test_no_relation_is_blamed_on_a_key_that_is_wrong_itself_or_could_not_be_read(tmp_path: Path) -> None:
    assert faults(None, None, "routing.default_ttl_ms=x", "routing.max_ttl_ms=1") == [
        '--set: routing.default_ttl_ms = "x": must be an integer from 1 to 86400000'
    ]
    path = tmp_path / "none.toml"
    assert faults(path, None, "routing.max_ttl_ms=1") == [f"{path}: cannot be read: No such file or directory"]


def test_a_config_made_in_code_obeys_the_relations_too() -> None:
    with pytest.raises(ValidationError, match=r"must be at most routing\.max_ttl_ms"):
        Config.model_validate({"routing": {"max_ttl_ms": 1}})


# --- routes ---


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("routes.x.tua=1", "routes.x.tua = 1: unknown key; did you mean routes.x.tau?"),
        ("routes.x.threshold=-1", "routes.x.threshold = -1: must be a number from 0 to 1000"),
        (
            'routes.x={policy="round_robin",tau=1}',
            "routes.x.tau = 1.0: policy round_robin does not read it; it reads cache_ttl_s",
        ),
        (
            'routes.x={policy="ring",tau=1,temperature=2}',
            "routes.x.tau = 1.0: means the same as routes.x.temperature = 2.0",
        ),
        ("rollout.candidate=x", 'rollout.candidate = "x": must be one of [routes]: none'),
        ("rollout.candidate=stable", 'rollout.candidate = "stable": must be another route than rollout.stable'),
        ("rollout.stages=[5,1]", "rollout.stages = [5, 1]: must be up to 20 numbers above 0 up to 100"),
        ("rollout.confidence=1", "rollout.confidence = 1: must be a number from 0.5 to 0.999999"),
    ],
)
def test_routes_and_rollouts_are_checked(override: str, text: str) -> None:
    assert fault(override).startswith(text)


def test_a_route_has_settings_of_its_own() -> None:
    overrides = ['routes.x={policy="ring",tau=0.5}', "rollout.candidate=x", "rollout.stages=[2,100]"]
    config = load_config(None, {"ROUTER_DAEMON__ROUTES__X__CACHE_TTL_S": "3"}, overrides)
    assert config.routes["x"].changes == {"tau": 0.5, "cache_ttl_s": 3}
    assert config.rollout.stages == (2.0, 100.0)
    settings = make_settings(config)
    assert settings.routes["x"].policy == "ring"
    assert (settings.rollout.candidate, settings.rollout.stage_s, settings.rollout.budget_s) == ("x", 600.0, 0.05)
