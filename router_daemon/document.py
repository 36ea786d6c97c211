"""docs/routing-policies.md, in the policies' own words: `python -m router_daemon.document` writes it.

Rules:
- Nothing about a policy is written here: what a policy is stands in its docstrings, what can be set in the
  configuration. So the document cannot say something else than the code.
- A docstring is shown as it is, since its line breaks, lists and formulas are meant to be read that way.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from functools import reduce
from random import Random
from typing import Any, Final

from router_daemon.config.routes import RouteSection
from router_daemon.config.text import toml_value_text
from router_daemon.core.settings import Settings
from router_daemon.policies.base import NAMES, READS, make_policy

PREAMBLE: Final = """\
# Routing policies

Why a message went where it went: what each policy looks at, in the words of its own source. Which policy decides is
`routing.policy`, or that of the message's route ([rollouts](rollout.md)); who may get the message at all, in which
mode, and what happens when a backend fails, is the same for every policy ([operations](operations.md)).
`router-daemon explain CAPABILITY` shows the terms for each backend now.

Written by `python -m router_daemon.document`.
"""


def document() -> str:
    """Return the document."""
    shown: set[str] = set()
    lines = [PREAMBLE]
    for name in NAMES:
        lines += _policy(name, shown)
    return "\n".join(lines)


def _policy(name: str, shown: set[str]) -> Iterator[str]:
    """Yield one policy's chapter; what its file says of several is shown with the first of them."""
    policy = make_policy(name, Settings(), Random(0))
    kind = type(policy)
    module = inspect.getmodule(kind)
    yield f"## {name}\n"
    yield from _quoted(inspect.getdoc(kind))
    if module is not None and module.__name__ not in shown:
        shown.add(module.__name__)
        yield f"From `{module.__name__.rpartition('.')[2]}.py`:\n"
        yield from _quoted(inspect.getdoc(module))
    yield f"- Ranking: {_first(kind.score)}"
    yield f"- Choice: {_first(kind.pick)}"
    yield "- Ties: " + ("ranked at random." if policy.random_ties else "left to the choice.")
    yield "- Outcomes: " + ("it learns from them itself." if policy.observe is not None else "only through profiles.")
    yield ""
    yield from _settings(name)


def _quoted(text: str | None) -> Iterator[str]:
    yield f"```text\n{text or ''}\n```\n"


def _first(method: Any) -> str:
    return (inspect.getdoc(method) or "").split("\n")[0]


def _settings(name: str) -> Iterator[str]:
    """Yield what can be set, for all or for one route."""
    yield "| setting | key of a route | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for key, path in READS[name].items():
        default = reduce(getattr, path.split("."), Settings())
        text = (RouteSection.model_fields[key].description or "").removeprefix("For this route alone. ")
        where = path if "." in path else f"routing.{path}"
        yield f"| `{where}` | `{key}` | {toml_value_text(default)} | {text} |"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(document())
