"""PURE: on which line of a TOML text each key stands, which tomllib does not keep.

Rules:
- It runs on text that tomllib has accepted, so it relies on the syntax being right and checks none of it.
- It reads keys as tomllib does, and passes over values, whatever strings, arrays or inline tables they are made of.
"""

from __future__ import annotations

import re
import tomllib
from typing import Final, NamedTuple

KeyPath = tuple[str, ...]

_TOKEN: Final = re.compile(
    r'''
    (?P<string> """(?:[^\\]|\\.)*?"""(?:"{0,2}) | \'\'\'.*?\'\'\'(?:'{0,2}) | "(?:[^"\\\n]|\\.)*" | '[^'\n]*' )
  | (?P<skip> [ \t\r]+ | \#[^\n]* )
  | (?P<mark> [\n\[\]{}=,.] )
  | (?P<bare> [^\s\[\]{}=,."'\#]+ )
    ''',
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):
    text: str
    is_mark: bool
    line: int


def _tokens(text: str) -> list[_Token]:
    """Return what a TOML text is made of, without blanks and comments, ended by an empty mark."""
    tokens, line = [], 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "skip":
            tokens.append(_Token(match[0], match.lastgroup == "mark", line))
        line += match[0].count("\n")
    return [*tokens, _Token("", True, line)]


class _Locator:
    """Walks over the tokens of a right TOML text and notes on which line each key stands first."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0
        self.lines: dict[KeyPath, int] = {}

    def document(self) -> None:
        table: KeyPath = ()
        while not self._is(""):
            if self._is("\n"):
                self._at += 1
            elif self._is("["):
                table = self._header()
            else:
                self._pair(table)

    def _is(self, mark: str) -> bool:
        token = self._tokens[self._at]
        return token.is_mark and token.text == mark

    def _header(self) -> KeyPath:
        """Pass `[a.b]` or `[[a.b]]`."""
        while self._is("["):
            self._at += 1
        path = self._key(())
        while self._is("]"):
            self._at += 1
        return path

    def _pair(self, table: KeyPath) -> None:
        path = self._key(table)
        self._at += 1  # the equals sign
        self._value(path)

    def _key(self, table: KeyPath) -> KeyPath:
        """Pass a dotted key and note its line for each of its parts."""
        path = table
        while True:
            token = self._tokens[self._at]
            path = (*path, _key_text(token.text))
            self.lines.setdefault(path, token.line)
            self._at += 1
            if not self._is("."):
                return path
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        if self._is("["):
            self._array(path)
        elif self._is("{"):
            self._inline_table(path)
        else:
            while not any(map(self._is, ("\n", ",", "]", "}", ""))):
                self._at += 1

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        while not self._is("]"):
            if self._is(",") or self._is("\n"):
                self._at += 1
            else:
                self._value(path)
        self._at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        while not self._is("}"):
            if self._is(",") or self._is("\n"):
                self._at += 1
            else:
                self._pair(path)
        self._at += 1


def _key_text(token: str) -> str:
    """Return a key as tomllib does: quotes and escapes undone."""
    if token[0] in "\"'":
        (key,) = tomllib.loads(f"{token} = 0")
        return key
    return token


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line (from 1) on which each key and each table of a TOML text is written first.

    Args:
        text: that tomllib has accepted.
    """
    locator = _Locator(text.replace("\r\n", "\n"))
    locator.document()
    return locator.lines
