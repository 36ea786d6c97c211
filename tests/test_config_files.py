"""Lines of TOML texts, the files that are generated from the configuration, and what must stay in step with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_daemon.config import Config, load_config, schema_text, section_types
from router_daemon.config.lines import key_lines
from router_daemon.config.text import commented_default, effective_text
from router_daemon.policies.base import NAMES

REPOSITORY: Final = Path(__file__).resolve().parent.parent


def write(directory: Path, text: str) -> Path:
    path = directory / "router.toml"
    path.write_text(text)
    return path


# --- the lines of a TOML text ---

TRICKY: Final = '''\
title = "a # b [c]" # comment = 1
[ "quoted.table" . inner ] # [not.this]
'bare = 1' = 1
text = """
[no.table]
key = 1 \\""" still"""""
raw = \'\'\'
also = "no"
\'\'\'
a.b . c = 1.5
a.b.d = 2020-01-02 03:04:05
list = [
  1, [2, "]"], # ] comment
  { x = 1, y = { z = [ "}" ] } },
  """
  in a list = 1
  """,
]
inline = { first = 1, second.deep = "=", third = [1,
  2] }
after = 1
[[rows]]
n = 1
[[rows]]
n = 2
m = 3
[rows.sub]
k = "\\u0041"
"k\\u0041" = 1
'''


def test_every_key_is_found_on_its_line() -> None:
    lines = key_lines(TRICKY)
    table = ("quoted.table", "inner")
    expected = {
        ("title",): 1,
        table: 2,
        (*table, "bare = 1"): 3,
        (*table, "text"): 4,
        (*table, "raw"): 7,
        (*table, "a"): 10,
        (*table, "a", "b", "c"): 10,
        (*table, "a", "b", "d"): 11,
        (*table, "list"): 12,
        (*table, "list", "x"): 14,
        (*table, "list", "y", "z"): 14,
        (*table, "inline"): 19,
        (*table, "inline", "second", "deep"): 19,
        (*table, "inline", "third"): 19,
        (*table, "after"): 21,
        ("rows",): 22,
        ("rows", "n"): 23,
        ("rows", "m"): 26,
        ("rows", "sub"): 27,
        ("rows", "sub", "k"): 28,
        ("rows", "sub", "kA"): 29,
    }
    assert {path: lines[path] for path in expected} == expected
    assert set(leaves(tomllib.loads(TRICKY))) <= set(lines)
    assert not any("no" in path or "also" in path or "key" in path for path in lines)


def leaves(table: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in table.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))


VALUES: Final = st.sampled_from(
    [
        *("1", "-1.5e3", "0x1F", "+inf", "true", "1979-05-27 07:32:00Z", "[]", "{}"),
        *("''", '"\\"]"', '"a = 1 # ["', "'''\n[x]\ny = 1\n'''", '"""\n\n""\\""""'),
        *("[\n1, # ]\n[2],\n]", "{ q = [1], 'r s'.t = 2 }", "[{ u = ']' },\n{ u = 1 }]"),
    ]
)
BLANKS: Final = st.sampled_from(["", "\n", "# [c]\n", "  \n\n", "\t# d = '''\n", '# """\n'])
KEYS: Final = st.sampled_from(["k{}", "'k {}'", '"k.{}"', "p{} . q", 'p{}."q.r".s', "{}"])


@given(st.lists(st.tuples(st.booleans(), BLANKS, KEYS, VALUES), max_size=30), st.sampled_from(["\n", "\r\n"]))
def test_lines_of_generated_texts(statements: list[tuple[bool, str, str, str]], newline: str) -> None:
    text = ""
    table: tuple[str, ...] = ()
    expected = {}
    for number, (is_table, blank, key, value) in enumerate(statements):
        text += blank
        name = key.format(number)
        line = text.count("\n") + 1
        text += f"[t{number}.{name}]\n" if is_table else f" {name} = {value} # end\n"
        path = list(leaves(tomllib.loads(f"{name} = 0")))[-1]
        table = (f"t{number}", *path) if is_table else table
        expected[table if is_table else (*table, *path)] = line
    text = text.replace("\n", newline)
    lines = key_lines(text)
    assert {path: lines[path] for path in expected} == expected
    assert set(leaves(tomllib.loads(text))) <= set(lines)


# --- what is generated, and what must stay in step ---


def test_the_schema_file_is_in_step() -> None:
    stored = json.loads((REPOSITORY / "config" / "schema.json").read_text())
    # compared as values: versions of pydantic write the bound 1 of a number as 1 or as 1.0
    assert stored == json.loads(schema_text()), "write it anew: python -m router_daemon.config > config/schema.json"
    section = stored["$defs"]["RoutingSection"]
    assert section["additionalProperties"] is False
    assert section["properties"]["heads"]["maximum"] == 3


def test_the_default_file_is_in_step_and_equals_the_defaults() -> None:
    path = REPOSITORY / "config" / "router-daemon.toml"
    text = path.read_text()
    assert text == commented_default(Config()), "write it anew: python -m router_daemon.config toml > the file"
    assert load_config(path, {}) == Config()
    keys = {line.removeprefix("# ").split(" = ")[0].strip() for line in text.splitlines() if " = " in line}
    fields = {key for section in section_types().values() for key in section.model_fields}
    assert fields <= keys
    commented_in = text.replace("# attempt_timeout_ms", "attempt_timeout_ms").replace("# seed", "seed")
    config = Config.model_validate(tomllib.loads(commented_in))
    assert (config.routing.attempt_timeout_ms, config.routing.seed) == (5000, 42)


def test_every_field_says_what_it_means() -> None:
    for section, kind in section_types().items():
        assert kind.__doc__
        for name, field in kind.model_fields.items():
            assert field.description, f"{section}.{name}"
            assert len(field.description) > 20, f"{section}.{name}"


def test_what_is_shown_reads_back_as_the_same(tmp_path: Path) -> None:
    overrides = ["routing.seed=3", 'backend.bind=["ipc://a", "tcp://*:9"]', "profile.initial_latency_ms=1e-7"]
    config = load_config(None, {}, overrides)
    assert load_config(write(tmp_path, effective_text(config)), {}) == config
    assert load_config(write(tmp_path, effective_text(Config())), {}) == Config()


def test_policies_are_those_that_exist() -> None:
    assert set(get_args(type(Config().routing).model_fields["policy"].annotation)) == set(NAMES)


def test_it_imports_nothing_of_the_daemon() -> None:
    code = "import sys, router_daemon.config; print(sorted(name for name in sys.modules if name.startswith('router_')))"
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True)
    names = set(eval(result.stdout))
    rooms = {name.removeprefix("router_daemon").removeprefix(".").split(".")[0] for name in names}
    assert rooms == {"", "config", "errors"}


@pytest.mark.parametrize(
    ("arguments", "text"), [([], schema_text()), (["schema"], schema_text()), (["toml"], commented_default(Config()))]
)
def test_the_module_writes_the_files(arguments: list[str], text: str) -> None:
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "router_daemon.config", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=environ, check=True)
    assert result.stdout == text
