"""The guides: every command in them is run, and prints what they show (`guide_kit` says how)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from guide_kit import KINDS, blocks, follow, matches

REPOSITORY: Final = Path(__file__).resolve().parent.parent
GUIDES: Final = sorted((REPOSITORY / "docs/guides").glob("*.md"))
FOLLOWED: Final = [*GUIDES, REPOSITORY / "docs/runbook.md"]


@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: page.stem)
def test_each_block_says_what_it_is(page: Path) -> None:
    found = blocks(page)
    assert found
    for block in found:
        assert block.kind in KINDS, f"{page.name}:{block.line}"
        assert block.detail or block.kind not in {"file", "shown"}, f"{page.name}:{block.line}"


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: page.stem)
def test_a_guide_does_what_it_says(page: Path, tmp_path: Path) -> None:
    follow(page, tmp_path)


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
