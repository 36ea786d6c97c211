"""The pages that change something: POST /routes/rollback, resume, advance, percent, override; POST /backends/drain.

Overrides and drains are ended by DELETE /routes/override and DELETE /backends/drain.

Rules:
- Who asks is looked at first (see `gate`), then what: a body that is no such JSON is refused with one sentence.
- What was done is logged, remembered with who said it, and kept on disk before it is answered, so that an answer is a
  promise that holds over a kill.
- The answer is what GET /routes would say now; after a drain or its end, who is drained.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import structlog
from aiohttp import web
from msgspec import Meta, Struct

from router_daemon.admin.gate import Gate
from router_daemon.core.operating import NOBODY, Act, Operator, Refused
from router_daemon.core.overrides import MOST_S

BODY_BYTES: Final = 16_384
_log = structlog.get_logger("router_daemon.admin")

Name = Annotated[str, Meta(min_length=1, max_length=64)]
Answer = Callable[[Any, int], Awaitable[web.Response]]


class Plain(Struct, forbid_unknown_fields=True):
    """Nothing more is to be said."""


class RollBack(Struct, forbid_unknown_fields=True):
    """`why`: for those who look at it later."""

    why: Annotated[str, Meta(min_length=1, max_length=200)] = NOBODY


class Percent(Struct, forbid_unknown_fields=True):
    """`percent`: of the messages, for the candidate."""

    percent: Annotated[float, Meta(ge=0.0, le=100.0)]


class OverrideOf(Struct, forbid_unknown_fields=True):
    """`for_s`: seconds."""

    capability: Annotated[str, Meta(min_length=1, max_length=128)]
    backend: Name
    for_s: Annotated[float, Meta(gt=0.0, le=MOST_S)]


class DrainOf(Struct, forbid_unknown_fields=True):
    """`backend`: also one of another daemon, `daemon/name`."""

    backend: Annotated[str, Meta(min_length=1, max_length=256)]


class Command(NamedTuple):
    """What a page takes, and what it does with it; the text that is returned says what was done."""

    body: type[Struct]
    do: Callable[[Operator, Any, float], str]


class End(NamedTuple):
    """What DELETE of a page ends: what it says of it, the key of the query that names it, and how."""

    what: str
    key: str
    do: Callable[[Operator, str, float], str]


DRAIN: Final = "/backends/drain"
PAGES: Final[Mapping[str, Command]] = {
    "/routes/rollback": Command(RollBack, lambda operator, body, now: operator.roll_back(now, body.why)),
    "/routes/resume": Command(Plain, lambda operator, _, now: operator.resume(now)),
    "/routes/advance": Command(Plain, lambda operator, _, now: operator.advance(now)),
    "/routes/percent": Command(Percent, lambda operator, body, now: operator.set_percent(body.percent, now)),
    "/routes/override": Command(
        OverrideOf, lambda operator, body, now: operator.override(body.capability, body.backend, body.for_s, now)
    ),
    DRAIN: Command(DrainOf, lambda operator, body, now: operator.drain(body.backend, now)),
}
ENDS: Final[Mapping[str, End]] = {
    "/routes/override": End("end override", "capability", lambda operator, name, _: operator.end_override(name)),
    DRAIN: End("undrain", "backend", lambda operator, name, now: operator.undrain(name, now)),
}


class Commands:
    """The pages.

    Args:
        operator: does what is asked.
        gate: says who may ask.
        view: returns what /routes says. drained: returns who is drained.
        answer: makes a response of data and a status.
        clock: seconds, the broker's. calendar: seconds since 1970.
        done: called and awaited after each change, before the answer.
    """

    def __init__(
        self,
        operator: Operator,
        gate: Gate,
        view: Callable[[], dict[str, Any]],
        drained: Callable[[], dict[str, Any]],
        answer: Answer,
        *,
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
        done: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._operator = operator
        self._gate = gate
        self._view = view
        self._drained = drained
        self._answer = answer
        self._clock = clock
        self._calendar = calendar
        self._done = done

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Open the pages."""
        for path in PAGES:
            router.add_post(path, self._post)
        for path in ENDS:
            router.add_delete(path, self._delete)

    async def _post(self, request: web.Request) -> web.Response:
        objection = self._gate.objection(request.headers, request.content_type)
        if objection is not None:
            return await self._refuse(*objection)
        command = PAGES[request.path]
        try:
            body = msgspec.json.decode(await request.read() or b"{}", type=command.body)
        except web.HTTPRequestEntityTooLarge:
            return await self._refuse(413, f"the body may have up to {BODY_BYTES} bytes")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return await self._refuse(400, str(error))
        what = request.path.rpartition("/")[2]
        return await self._do(request, what, lambda now: command.do(self._operator, body, now))

    async def _delete(self, request: web.Request) -> web.Response:
        objection = self._gate.objection(request.headers, None)
        if objection is not None:
            return await self._refuse(*objection)
        end = ENDS[request.path]
        name = request.query.get(end.key, "")
        if not name:
            return await self._refuse(400, f"{end.key} is missing: DELETE {request.path}?{end.key}=NAME")
        return await self._do(request, end.what, lambda now: end.do(self._operator, name, now))

    async def _do(self, request: web.Request, what: str, do: Callable[[float], str]) -> web.Response:
        try:
            detail = do(self._clock())
        except Refused as refused:
            return await self._refuse(409, str(refused))
        except ValueError as error:
            return await self._refuse(400, str(error))
        by = request.remote or "unknown"
        self._operator.remember(Act(self._calendar(), what, detail, by))
        _log.warning("operator", said=what, detail=detail, by=by)
        if self._done is not None:
            await self._done()
        return await self._answer(self._drained() if request.path == DRAIN else self._view(), 200)

    async def _refuse(self, status: int, why: str) -> web.Response:
        response = await self._answer({"error": why}, status)
        if status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response
