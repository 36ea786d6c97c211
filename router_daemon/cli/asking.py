"""What the admin room of a running daemon says, fetched over HTTP and laid out as plain text.

Rules:
- Names come from peers: nothing of them reaches the terminal unescaped.
- A key that is missing (an older or newer daemon) is a dash, never a traceback.
- No proxy: the admin room is on this machine or in this network.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, Final

from router_daemon.cli.exits import NO_DAEMON, REFUSED, CommandError
from router_daemon.logs import printable

TIMEOUT_S: Final = 5.0
ANSWER_BYTES: Final = 64 * 1024 * 1024
DETAIL_BYTES: Final = 500

Row = Mapping[str, Any]


def fetch(admin: str, path: str, **query: str | int) -> dict[str, Any]:
    """Return the JSON object that the daemon whose admin room is at `admin` (HOST:PORT) answers.

    Raises:
        CommandError: there is no daemon, or its answer is none.
    """
    url = f"http://{admin}{path}?{urllib.parse.urlencode(query)}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as response:
            answer = json.loads(response.read(ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            detail = _detail(error.read(DETAIL_BYTES))
        raise CommandError(NO_DAEMON, f"http://{admin}{path} answered {error.code} {error.reason}: {detail}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise CommandError(NO_DAEMON, f"no daemon's admin room at {admin}: {_why(reason)}") from None
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise CommandError(NO_DAEMON, f"http://{admin}{path} answered something that is no JSON object")
    return answer


def _detail(body: bytes) -> str:
    """Return what an answer that is an error says: the daemon's sentence, or whatever another server sent."""
    with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError):
        return str(json.loads(body)["error"])
    return body.decode(errors="replace").strip()


def _why(reason: object) -> str:
    return (getattr(reason, "strerror", None) or str(reason) or type(reason).__name__).lower()


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns; those of numbers stand right."""
    cells = [[printable(cell) for cell in row] for row in (header, *rows)]
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numbers = [len(column) > 1 and all(_is_number(cell) for cell in column[1:]) for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ).rstrip()
        for row in cells
    )


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace("/", "").replace(".", "").isdigit()


def _text(row: Row, key: str) -> str:
    """Return one value in few characters."""
    value = row.get(key)
    if value is None or value == "":
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _table_of(row: Row, key: str) -> Row:
    value = row.get(key)
    return value if isinstance(value, dict) else {}


def _rows(answer: Row, key: str) -> list[Row]:
    value = answer.get(key)
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _total(counts: Row) -> int:
    total = 0
    for count in counts.values():
        total += count if isinstance(count, int) else 0
    return total


def _list(row: Row, key: str) -> str:
    value = row.get(key)
    return ", ".join(map(str, value)) if isinstance(value, list) and value else "-"


def backends_text(answer: Row) -> str:
    """Return the answer of /backends for a person."""
    rows = _rows(answer, "backends")
    if not rows:
        return "no backends"
    said = [key for key in ("group", "zone", "version") if any(row.get(key) for row in rows)]
    header = ["NAME", "STATE", "OPEN/PLACES", "QUEUE", "LATENCY MS", "SUCCESS", "ACKED", "FAILED", "SEEN S AGO"]
    header += [*map(str.upper, said), "CAPABILITIES"]
    return table(header, [_backend_cells(row, said) for row in rows])


def _backend_cells(row: Row, said: Sequence[str]) -> list[str]:
    slots, prefetch = row.get("slots"), row.get("prefetch")
    places = slots + prefetch if isinstance(slots, int) and isinstance(prefetch, int) else "-"
    return [
        _text(row, "name"),
        _text(row, "state"),
        f"{_text(row, 'in_flight')}/{places}",
        _text(row, "queue"),
        _text(row, "latency_ms"),
        _text(row, "success_ratio"),
        str(_table_of(row, "deliveries").get("acked", 0)),
        str(_total(_table_of(row, "failures"))),
        _text(row, "last_seen_s"),
        *(_text(row, key) for key in said),
        _list(row, "capabilities"),
    ]


def explain_text(answer: Row) -> str:
    """Return the answer of /explain for a person: the rule, the cache, each candidate term by term."""
    cache = _table_of(answer, "cache")
    rule = "required" if answer.get("require_capability") else "one term of the score"
    said = (
        f"{_text(answer, 'capability')} at priority {_text(answer, 'priority')}: policy {_text(answer, 'policy')}, "
        f"mode {_text(answer, 'mode')}, up to {_text(answer, 'heads')} heads scoring over "
        f"{_text(answer, 'threshold')}, capability {rule}"
    )
    age = f", {_text(cache, 'age_s')} s old" if cache.get("age_s") is not None else ""
    ranking = f"cached ranking: {_text(cache, 'state')}{age}, kept for {_text(cache, 'ttl_s')} s"
    text = f"{printable(said)}\n{printable(ranking)}"
    rows = _rows(answer, "candidates")
    return f"{text}\n{_candidates_table(rows)}" if rows else text


def _candidates_table(rows: Sequence[Row]) -> str:
    terms = list(dict.fromkeys(term for row in rows for term in _table_of(row, "terms")))
    header = ["HEAD", "BACKEND", "WEIGHT", "SCORE", *map(str.upper, terms), "OPEN/PLACES", "REASON"]
    cells = [
        [
            _text(row, "head"),
            _text(row, "backend"),
            _text(row, "weight"),
            _text(row, "score"),
            *(_text(_table_of(row, "terms"), term) for term in terms),
            f"{_text(row, 'in_flight')}/{_text(row, 'places')}",
            _text(row, "reason"),
        ]
        for row in rows
    ]
    return table(header, cells)


def raise_error_of(answer: Row) -> None:
    """Raise what /explain says would be answered instead of a decision, if it says so.

    Raises:
        CommandError: with the protocol's error code.
    """
    error = _table_of(answer, "error")
    if error:
        raise CommandError(REFUSED, f"{_text(error, 'code')}: {_text(error, 'detail')}")
