"""What differs between two configurations, and what of it needs a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from router_daemon.config import Config, load_config, section_types
from router_daemon.config.changes import RESTART, Change, changes
from router_daemon.errors import ConfigError


def test_what_can_change_does_and_what_cannot_is_named() -> None:
    new = load_config(None, {}, ["weights.priority=0.5", "frontend.bind=tcp://127.0.0.1:7001", "routing.seed=4"])
    found = changes(Config(), new)
    assert found.changed == (Change("weights.priority", "0.1", "0.5"),)
    assert found.restart == (
        Change("frontend.bind", '"tcp://127.0.0.1:5570"', '"tcp://127.0.0.1:7001"'),
        Change("routing.seed", "absent", "4"),
    )
    assert found.config.frontend == Config().frontend
    assert found.config.weights == new.weights


def test_a_token_is_not_told() -> None:
    """What has changed goes to the log and to whoever asked."""
    old, new = (load_config(None, {}, [f"admin.token={letter * 32}"]) for letter in "ab")
    assert changes(old, new).restart == (Change("admin.token", "(hidden)", "(hidden)"),)


def test_nothing_differs_from_itself(tmp_path: Path) -> None:
    file = tmp_path / "all.toml"
    file.write_text('[routes.try]\npolicy = "ring"\ntau = 0.5\n[rollout]\ncandidate = "try"\n')
    config = load_config(file, {})
    found = changes(config, load_config(file, {}))
    assert (found.changed, found.restart, found.config) == ((), (), config)


def test_a_route_that_comes_and_one_that_goes(tmp_path: Path) -> None:
    file = tmp_path / "all.toml"
    file.write_text('[routes.try]\npolicy = "ring"\ntau = 0.5\n')
    config = load_config(file, {})
    told = [str(change) for change in changes(Config(), config).changed]
    assert told == ['routes.try.policy: absent -> "ring"', "routes.try.tau: absent -> 0.5"]
    assert changes(config, Config()).changed[0] == Change("routes.try.policy", '"ring"', "absent")


def test_what_is_new_must_agree_with_what_stays() -> None:
    """Every key of a relation between two is of one kind, so this takes a `Config` that no file makes."""
    old = load_config(None, {}, ["ring.name=a"])
    broken = Config.model_construct(**{name: getattr(Config(), name) for name in Config.model_fields})
    broken = broken.model_copy(update={"routing": old.routing.model_copy(update={"default_ttl_ms": 10**9})})
    with pytest.raises(ConfigError, match="does not agree with what needs a restart"):
        changes(old, broken)


@pytest.mark.parametrize("name", sorted(RESTART))
def test_what_needs_a_restart_exists(name: str) -> None:
    section, _, key = name.partition(".")
    assert section in section_types()
    assert not key or key in section_types()[section].model_fields
