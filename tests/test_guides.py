"""The guides: every command in them is run, and prints what they show (`guide_kit` says how)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from guide_kit import KINDS, blocks, follow, matches
from tools import require_tool

REPOSITORY: Final = Path(__file__).resolve().parent.parent
GUIDES: Final = sorted((REPOSITORY / "docs/guides").glob("*.md"))
RUNBOOK: Final = REPOSITORY / "docs/runbook.md"
FOLLOWED: Final = [*GUIDES, RUNBOOK]
A_NIGHT: Final = """
cat >router.toml <<END
[routes.candidate]
policy = "round_robin"
[rollout]
candidate = "candidate"
percent = 20
[ring]
name = "a"
listen = "tcp://127.0.0.1:5572"
END
router-daemon run --config router.toml 2>daemon.log &
until router-daemon backends >found.txt 2>&1; do :; done
router-daemon serve --name upper-1 --capability upper -- tr a-z A-Z 2>upper.log &
until router-daemon backends | grep -q upper-1; do :; done
"""
"""What whoever is woken up finds: a daemon with a backend, a rollout that runs, and a ring."""


@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: page.stem)
def test_each_block_says_what_it_is(page: Path) -> None:
    found = blocks(page)
    assert found
    for block in found:
        assert block.kind in KINDS, f"{page.name}:{block.line}"
        assert block.detail or block.kind not in {"file", "shown"}, f"{page.name}:{block.line}"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: page.stem)
def test_a_guide_does_what_it_says(page: Path, tmp_path: Path) -> None:
    if "curl " in page.read_text():
        require_tool("curl")
    follow(page, tmp_path, A_NIGHT if page == RUNBOOK else "")


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a  b\n", "a b\n", True),
        ("a ... c\n", "a x y c\n", True),
        ("a...c\n", "abbbc\n", True),
        ("a\n...\nb\n", "a\n1\n2\nb\n", True),
        ("a\n...\nb\n", "a\nb\n", True),
        ("a\n", "a\nb\n", False),
        ("a b\n", "ab\n", False),
        ("a.c\n", "abc\n", False),
        ("", "", True),
        ("a\n", "", False),
    ],
)
def test_what_is_shown_is_compared_with_what_is_printed(shown: str, printed: str, same: bool) -> None:
    assert matches(shown, printed) is same
