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
from collections.abc import Collection, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from router_daemon.cli.exits import NO_DAEMON, REFUSED, CommandError
from router_daemon.logs import printable

TIMEOUT_S: Final = 5.0
ANSWER_BYTES: Final = 64 * 1024 * 1024
ERROR_BYTES: Final = 65_536
DETAIL_BYTES: Final = 500
REFUSALS: Final = frozenset({400, 401, 403, 409, 413, 415, 422})

Row = Mapping[str, Any]


class _Straight(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: a token would go with it."""

    def redirect_request(self, *_: Any) -> None:
        return None


def fetch(admin: str, path: str, **query: str | float) -> dict[str, Any]:
    """Return the JSON object that the daemon whose admin room is at `admin` (HOST:PORT) answers.

    Raises:
        CommandError: there is no daemon, its answer is none, or it is one that the daemon has nothing for (404).
    """
    url = f"http://{admin}{path}?{urllib.parse.urlencode(query)}"
    return _answer(urllib.request.Request(url), f"http://{admin}{path}", {HTTPStatus.NOT_FOUND})


def fetch_text(admin: str, path: str) -> str:
    """Return the text that the daemon whose admin room is at `admin` (HOST:PORT) answers.

    Raises:
        CommandError: there is no daemon, or its answer is no text.
    """
    place = f"http://{admin}{path}"
    body = _body(urllib.request.Request(place), place, ())
    try:
        return body.decode()
    except ValueError:
        raise CommandError(NO_DAEMON, f"{place} answered something that is no text") from None


def tell(
    admin: str, path: str, body: Mapping[str, Any], token: str, *, method: str = "POST", **query: str
) -> dict[str, Any]:
    """Have a daemon do something, and return the JSON object that it answers; `token`: "" for none.

    Raises:
        CommandError: there is no daemon, or it refuses (400, 401, 403, 409, 413, 415, 422).
    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    url = f"http://{admin}{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
    data = json.dumps(body).encode() if method == "POST" else None
    request = urllib.request.Request(url, data, headers, method=method)
    return _answer(request, f"http://{admin}{path}", REFUSALS)


def _answer(request: urllib.request.Request, place: str, refusals: Collection[int]) -> dict[str, Any]:
    """Return a JSON object; an answer with one of the statuses `refusals` is the daemon's no."""
    body = _body(request, place, refusals)
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise CommandError(NO_DAEMON, f"{place} answered something that is no JSON object")
    return answer


def _body(request: urllib.request.Request, place: str, refusals: Collection[int]) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Straight)
    try:
        with opener.open(request, timeout=TIMEOUT_S) as response:
            body: bytes = response.read(ANSWER_BYTES)
            return body
    except urllib.error.HTTPError as error:
        with error:
            body = error.read(ERROR_BYTES)
        said = _said(body)
        if error.code in refusals and said is not None:
            raise CommandError(REFUSED, said) from None
        detail = body[:DETAIL_BYTES].decode(errors="replace").strip() if said is None else said
        raise CommandError(NO_DAEMON, f"{place} answered {error.code} {error.reason}: {detail}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise CommandError(NO_DAEMON, f"no daemon's admin room at {request.host}: {_why(reason)}") from None


def _said(body: bytes) -> str | None:
    """Return the daemon's sentence of an answer that is an error; None where another server sent it."""
    with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError):
        return str(json.loads(body)["error"])
    return None


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
    return cell == "-" or cell.removeprefix("-").replace("/", "").replace(".", "").isdigit()


def number_of(row: Row, key: str, digits: int = 3) -> str:
    """Return a float in about so many digits, a whole number whole, whatever else there is as `text_of` has it."""
    value = row.get(key)
    if not isinstance(value, float):
        return text_of(row, key)
    magnitude = abs(value)
    if magnitude < 10.0 ** (1 - digits):
        return "0" if magnitude == 0.0 else f"{value:.1g}"
    whole = len(str(int(magnitude)))
    return f"{value:.{max(0, digits - whole)}f}"


def text_of(row: Row, key: str) -> str:
    """Return one value in few characters."""
    value = row.get(key)
    if value is None or value == "":
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def table_of(row: Row, key: str) -> Row:
    """Return a table; an empty one where there is none."""
    value = row.get(key)
    return value if isinstance(value, dict) else {}


def rows_of(answer: Row, key: str) -> list[Row]:
    """Return the tables of a list."""
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


def backends_text(answer: Row, *, services: bool = False) -> str:
    """Return the answer of /backends for a person; `services`: with what was measured for each capability."""
    rows = rows_of(answer, "backends")
    if not rows:
        return "no backends"
    said = [key for key in ("group", "zone", "version") if any(row.get(key) for row in rows)]
    header = ["NAME", "STATE", "OPEN", "QUEUE", "MS", "SUCCESS", "ACKED", "FAILED", "SEEN S"]
    header += [*map(str.upper, said), "CAPABILITIES"]
    text = table(header, [_backend_cells(row, said) for row in rows])
    return f"{text}\n\n{_services_table(rows)}" if services else text


def _services_table(rows: Sequence[Row]) -> str:
    header = ["NAME", "CAPABILITY", "WORK MS", "MEAN MS", "DEV", "N", "WAIT", "LATENCY", "EXPECTED", "UNUSED S"]
    keys = ["service_ms", "response_ms", "deviation_ms", "samples"]
    keys += ["expected_wait_ms", "expected_latency_ms", "expected_ms", "unused_s"]
    cells = [
        [text_of(row, "name"), capability, *(number_of(service, key) for key in keys)]
        for row in rows
        for capability, service in table_of(row, "services").items()
        if isinstance(service, dict)
    ]
    return table(header, cells) if cells else "nothing was measured yet"


def state_text(row: Row) -> str:
    """Return the state of a backend with what limits it."""
    state, ejected = text_of(row, "state"), table_of(row, "ejected")
    if ejected:
        return f"{state} {number_of(ejected, 'for_s', 2)} s"
    paused_s = row.get("paused_s")
    if state == "paused" and isinstance(paused_s, int | float):
        return f"{state} {paused_s:.1f} s"
    window = row.get("window")
    return f"{state}, slow: {window}" if state == "up" and window is not None else state


def _backend_cells(row: Row, said: Sequence[str]) -> list[str]:
    slots, prefetch = row.get("slots"), row.get("prefetch")
    places = slots + prefetch if isinstance(slots, int) and isinstance(prefetch, int) else "-"
    return [
        text_of(row, "name"),
        state_text(row),
        f"{text_of(row, 'in_flight')}/{places}",
        text_of(row, "queue"),
        number_of(row, "latency_ms"),
        text_of(row, "success_ratio"),
        str(table_of(row, "deliveries").get("acked", 0)),
        str(_total(table_of(row, "failures"))),
        number_of(row, "last_seen_s"),
        *(text_of(row, key) for key in said),
        _list(row, "capabilities"),
    ]


def raise_error_of(answer: Row) -> None:
    """Raise what /explain says would be answered instead of a decision, if it says so.

    Raises:
        CommandError: with the protocol's error code.
    """
    error = table_of(answer, "error")
    if error:
        raise CommandError(REFUSED, f"{text_of(error, 'code')}: {text_of(error, 'detail')}")
