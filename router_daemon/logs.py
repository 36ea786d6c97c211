"""Logging: one line per event on stderr, for people or for machines, of this program and its libraries alike.

Rules:
- Everything goes one way: structlog and the standard library's loggers (asyncio, aiohttp, `warnings`) end in the same
  handler and look the same. Times are UTC, ISO 8601.
- What peers named themselves cannot break out of its line: JSON escapes it, and so does `printable`.
- stdout stays free: it belongs to what a command is asked for.
- A line costs about 13 us, so there is none per message at `info` and above.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from typing import Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Level = Literal["debug", "info", "warning", "error", "critical"]
Format = Literal["auto", "json", "console"]

_SHARED: Final[tuple[Processor, ...]] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    structlog.processors.StackInfoRenderer(),
)


def configure_logging(level: Level = "info", format: Format = "auto") -> None:  # noqa: A002 - the configuration's word
    """Send all logging of this process to stderr from now on.

    Args:
        level: the least important lines to write.
        format: `json` (an object per line), `console`, or `auto`: console where stderr is a terminal.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(format, sys.stderr)],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    quiet = logging.INFO if level == "debug" else logging.WARNING
    logging.getLogger("aiohttp.access").setLevel(quiet)  # a line per scrape says nothing
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _renderers(format: Format, stream: TextIO) -> list[Processor]:  # noqa: A002
    """Return what turns an event into a line."""
    terminal = stream.isatty()
    if format == "console" or (format == "auto" and terminal):
        colors = terminal and not os.environ.get("NO_COLOR")
        console = structlog.dev.ConsoleRenderer(
            colors=colors, timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
        )
        return [_printable_texts, console]
    return [structlog.processors.format_exc_info, _finite_numbers, structlog.processors.JSONRenderer()]


def printable(text: str) -> str:
    r"""Return `text` with everything escaped that would move a terminal's cursor or change its colours.

    Example:
        >>> print(printable("a\x1b[2Jb"))
        a\x1b[2Jb
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _printable_texts(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {
        key: printable(value.strip()) if isinstance(value, str) and key != "stack" else value
        for key, value in event.items()
    }


def _finite_numbers(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """JSON has no NaN and no infinity: they become texts."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in event.items()
    }
