"""The pages that change something: POST /routes/rollback, resume, advance, percent, override; DELETE /routes/override.

Rules:
- Who asks is looked at first (see `gate`), then what: a body that is no such JSON is refused with one sentence.
- What was done is logged, remembered with who said it, and kept on disk before it is answered, so that an answer is a
  promise that holds over a kill.
- The answer is what GET /routes would say now.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
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


class Command(NamedTuple):
    """What a page takes, and what it does with it; the text that is returned says what was done."""

    body: type[Struct]
    do: Callable[[Operator, Any, float], str]


PAGES: Final = {
    "rollback": Command(RollBack, lambda operator, body, now: operator.roll_back(now, body.why)),
    "resume": Command(Plain, lambda operator, _, now: operator.resume(now)),
    "advance": Command(Plain, lambda operator, _, now: operator.advance(now)),
    "percent": Command(Percent, lambda operator, body, now: operator.set_percent(body.percent, now)),
    "override": Command(
        OverrideOf, lambda operator, body, now: operator.override(body.capability, body.backend, body.for_s, now)
    ),
}


class Commands:
    """The pages.

    Args:
        operator: does what is asked.
        gate: says who may ask.
        view: returns what /routes says.
        answer: makes a response of data and a status.
        clock: seconds, the broker's. calendar: seconds since 1970.
        done: called and awaited after each change, before the answer.
    """

    def __init__(
        self,
        operator: Operator,
        gate: Gate,
        view: Callable[[], dict[str, Any]],
        answer: Answer,
        *,
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
        done: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._operator = operator
        self._gate = gate
        self._view = view
        self._answer = answer
        self._clock = clock
        self._calendar = calendar
        self._done = done

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Open the pages."""
        for name in PAGES:
            router.add_post(f"/routes/{name}", self._post)
        router.add_delete("/routes/override", self._delete)

    async def _post(self, request: web.Request) -> web.Response:
        objection = self._gate.objection(request.headers, request.content_type)
        if objection is not None:
            return await self._refuse(*objection)
        name = request.path.rpartition("/")[2]
        command = PAGES[name]
        try:
            body = msgspec.json.decode(await request.read() or b"{}", type=command.body)
        except web.HTTPRequestEntityTooLarge:
            return await self._refuse(413, f"the body may have up to {BODY_BYTES} bytes")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return await self._refuse(400, str(error))
        return await self._do(request, name, lambda now: command.do(self._operator, body, now))

    async def _delete(self, request: web.Request) -> web.Response:
        objection = self._gate.objection(request.headers, None)
        if objection is not None:
            return await self._refuse(*objection)
        capability = request.query.get("capability", "")
        if not capability:
            return await self._refuse(400, "capability is missing: DELETE /routes/override?capability=NAME")
        return await self._do(request, "end override", lambda _: self._operator.end_override(capability))

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
        return await self._answer(self._view(), 200)

    async def _refuse(self, status: int, why: str) -> web.Response:
        response = await self._answer({"error": why}, status)
        if status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response
