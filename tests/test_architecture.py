"""Which room may know which: the imports of every module, read from its source, and the sizes of files and functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "router_daemon"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 70

# What may be neither read, waited for nor drawn by what is pure.
IMPURE = {
    "aiohttp",
    "asyncio",
    "concurrent",
    "datetime",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "signal",
    "socket",
    "ssl",
    "structlog",
    "subprocess",
    "threading",
    "time",
    "uuid",
    "uvloop",
    "zmq",
}
SHELL = (
    *("transport", "native", "dialling", "links", "zmq_links", "metrics", "admin", "state", "operations"),
    *("journal", "fleet", "tracing"),
)
MAY_KNOW = {("admin", "metrics"), ("tracing", "transport"), ("native", "transport"), ("transport", "zmq_links")} | {
    (links, other) for links in ("links", "zmq_links") for other in ("native", "transport", "dialling")
}
SDK = ("client", "backend", "sdk")
DAEMON_SIDE = (
    "core",
    "policies",
    "ring",
    "wire",
    "zmtp",
    "transport",
    "native",
    "dialling",
    "links",
    "zmq_links",
    "metrics",
    "ring_metrics",
    "operating_metrics",
    "route_metrics",
    "families",
    "news",
    "admin",
    "state",
    "operations",
    "tracing",
    "daemon",
    "config",
    "conform",
    "testing",
)


def module_name(path: Path) -> str:
    """Return the dotted name inside the package; "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text())


def imported(name: str) -> Iterator[str]:
    """Yield every imported module, and every name imported from one, as written; also those for types only."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute here"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(name: str) -> set[str]:
    """Return the modules of the package that a module imports."""
    found = set()
    for target in imported(name):
        head, _, rest = target.partition(".")
        if head == "router_daemon":
            while rest not in MODULES:
                rest = rest.rpartition(".")[0]
            found.add(rest)
    return found - {name}


def foreign(name: str) -> set[str]:
    """Return the top-level modules from outside the package that a module imports."""
    return {target.partition(".")[0] for target in imported(name)} - {"router_daemon"}


def reachable(*names: str) -> set[str]:
    """Return everything of the package that these modules import, directly or not."""
    seen: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += own(name) - {""}  # the package itself loads what it offers on first use
    return seen


def room(name: str) -> str:
    return name.partition(".")[0]


def modules_of(*rooms: str) -> list[str]:
    return [name for name in MODULES if room(name) in rooms]


def test_the_rooms_are_there() -> None:
    assert {"core", "policies", "wire", "errors", "transport", "metrics", "admin", "state", "daemon", "cli", *SDK} <= {
        room(name) for name in MODULES
    }


@pytest.mark.parametrize("name", modules_of("core"))
def test_the_core_knows_nothing_but_itself_and_the_errors(name: str) -> None:
    assert {room(other) for other in own(name)} <= {"core", "errors"}
    assert not foreign(name) & (IMPURE - {"random"})
    check_randomness(name)


def test_the_layout_of_the_ring_is_pure() -> None:
    assert {room(other) for other in own("ring_layout")} <= {"core", "policies", "ring"}
    assert not foreign("ring_layout") & IMPURE


@pytest.mark.parametrize("name", modules_of("ring"))
def test_the_ring_knows_the_core_and_draws_nothing(name: str) -> None:
    assert {room(other) for other in own(name)} <= {"ring", "core", "errors"}
    assert not foreign(name) & IMPURE


def test_nobody_below_the_daemon_knows_the_ring_but_who_speaks_for_it() -> None:
    knowing = {room(name) for name in MODULES if any(room(other) == "ring" for other in own(name))}
    speaking = {
        "ring_layout",
        "wire",
        "links",
        "zmq_links",
        "admin",
        "metrics",
        "ring_metrics",
        "assembly",
        "daemon",
        "tracing",
        "cli",
        "lab",
        "testing",
    }
    assert knowing <= {"ring", *speaking}


@pytest.mark.parametrize("name", modules_of("policies"))
def test_policies_know_the_core_alone_and_draw_from_what_they_are_given(name: str) -> None:
    assert {room(other) for other in own(name)} <= {"policies", "core", "errors"}
    assert not foreign(name) & (IMPURE - {"random"})
    check_randomness(name)


def check_randomness(name: str) -> None:
    """Assert that a module knows the type of a generator at most: it is injected, never made."""
    drawn = {target for target in imported(name) if target.partition(".")[0] == "random"}
    assert drawn <= {"random.Random"}
    made = [node for node in ast.walk(tree(name)) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Random"]
    assert made == []


@pytest.mark.parametrize("name", modules_of("conform"))
def test_the_other_side_of_the_protocol_knows_the_wire_and_does_no_io(name: str) -> None:
    assert {room(other) for other in own(name)} <= {"conform", "wire", "core", "errors"}
    assert not foreign(name) & IMPURE


@pytest.mark.parametrize("name", modules_of("lab"))
def test_the_simulator_knows_the_core_and_policies_and_draws_from_its_seed_alone(name: str) -> None:
    assert {room(other) for other in own(name)} <= {"lab", "core", "policies", "ring", "errors", "testing"}
    assert not foreign(name) & (IMPURE - {"random"})
    drawn = {target for target in imported(name) if target.partition(".")[0] == "random"}
    assert drawn <= {"random.Random"}
    made = [node for node in ast.walk(tree(name)) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Random"]
    assert all(node.args for node in made), "a generator without a seed"


def test_the_core_never_imports_a_policy_nor_does_the_wire() -> None:
    assert not any(room(name) == "policies" for name in reachable(*modules_of("core", "wire")))


@pytest.mark.parametrize("name", modules_of("wire", "zmtp", "errors"))
def test_what_turns_bytes_into_events_is_pure(name: str) -> None:
    allowed = {"wire": {"core", "ring", "errors"}, "zmtp": {"wire", "errors"}, "errors": set()}[name]
    assert {room(other) for other in own(name)} <= allowed
    assert not foreign(name) & IMPURE


@pytest.mark.parametrize("name", modules_of(*SHELL))
def test_the_rooms_of_the_shell_do_not_know_each_other(name: str) -> None:
    others = {room(other) for other in own(name)} & set(SHELL) - {room(name)}
    assert {(room(name), other) for other in others} <= MAY_KNOW


@pytest.mark.parametrize("name", modules_of("core", "policies", "wire", "zmtp", "errors", *SHELL))
def test_nobody_below_knows_the_daemon_or_the_command_line(name: str) -> None:
    above = {"daemon", "cli", "testing", "lab", "conform", *SDK}
    assert not {room(other) for other in reachable(name) - {name}} & above


def test_only_the_command_line_knows_the_daemon() -> None:
    knowing = {name for name in MODULES if any(room(other) == "daemon" for other in own(name))}
    assert {room(name) for name in knowing} <= {"cli", "lab", "__main__"}
    assert {name for name in MODULES if "cli" in own(name)} <= {"__main__"}


def test_what_users_import_knows_nothing_of_the_daemon() -> None:
    known = {room(name) for name in reachable(*modules_of(*SDK))}
    assert not known & set(DAEMON_SIDE)


def test_the_fakes_for_tests_need_no_sockets() -> None:
    assert not {room(name) for name in reachable("testing")} & {
        "transport",
        "native",
        "daemon",
        "admin",
        "metrics",
        "state",
    }
    assert not foreign("testing") & (IMPURE - {"random"})


def test_the_core_reads_no_clock_by_another_name() -> None:
    calls = {"open", "print", "input", "__import__", "eval", "exec"}
    for name in modules_of("core", "policies", "ring", "ring_layout", "wire", "zmtp", "lab", "conform"):
        used = {ast.unparse(node.func) for node in ast.walk(tree(name)) if isinstance(node, ast.Call)}
        assert not used & calls, name


@pytest.mark.parametrize("name", MODULES, ids=lambda name: name or "__init__")
def test_files_and_functions_stay_short(name: str) -> None:
    lines = MODULES[name].read_text().count("\n")
    assert lines <= MAX_FILE_LINES, f"{lines} lines"
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name}: {length} lines"


@pytest.mark.parametrize("name", MODULES, ids=lambda name: name or "__init__")
def test_every_file_states_what_it_is(name: str) -> None:
    assert ast.get_docstring(tree(name)), "no module docstring"
