"""Which route a message would take, and why: for people, who may name a route or give a key.

Rules: asked are the very functions by which a message is assigned; nothing is counted, and no route is made.
"""

from __future__ import annotations

from typing import Any

from router_daemon.core.events import Request
from router_daemon.core.rollout import ROLLED_BACK, Rollout
from router_daemon.core.routes import Route
from router_daemon.core.routing import Routes


class UnknownRouteError(LookupError):
    """There is no route of that name."""


def asked_route(routes: Routes, name: str | None, key: str | None) -> tuple[Route, dict[str, Any]]:
    """Return the route to look at, and what is said of it, as plain data for JSON.

    Args:
        routes: of the broker.
        name: of a route; None: that which the key leads to, or stable.
        key: of a message.

    Raises:
        UnknownRouteError: there is none of that name.
    """
    placed = None if key is None else _placed(routes, key)
    if name is None:
        found = routes.by_name[placed["route"]] if placed is not None and placed["route"] else routes.stable
        why = "the only one" if len(routes.by_name) == 1 else "no route was asked for"
        if placed is not None and placed["route"]:
            why = "a message with this key takes it"
    elif name in routes.by_name:
        found, why = routes.by_name[name], "asked for"
    else:
        raise UnknownRouteError(f"there is no route {name!r}, but: {', '.join(routes.by_name)}")
    return found, {
        "name": found.name,
        "policy": found.policy.name,
        "decides": found.acting.name,
        "why": why,
        "others": [other for other in routes.by_name if other != found.name],
        "key": placed,
    }


def _placed(routes: Routes, key: str) -> dict[str, Any]:
    """Return where a key leads; `route` None where it does not decide."""
    rollout = routes.rollout
    if rollout is None:
        why = f"there is no rollout: what names no route takes {routes.stable.name}"
        return {"key": key, "route": routes.stable.name, "why": why}
    if rollout.settings.sticky != "key":
        why = f'rollout.sticky is "{rollout.settings.sticky}": the key decides nothing'
        return {"key": key, "route": None, "why": why}
    request = Request(0, "", key=key)
    place = 100.0 * rollout.place(request, "")
    stages = rollout.settings.stages
    begun = sum(stage <= rollout.percent for stage in stages)
    return {
        "key": key,
        "route": rollout.assign(request, "").name,
        "why": f"the key stands at {place:.4g} of 100; {', '.join(_ranges(rollout))}",
        "rollout": rollout.name,
        "state": rollout.state,
        "place_percent": place,
        "stage": {"percent": rollout.percent, "number": begun, "of": len(stages)},
    }


def _ranges(rollout: Rollout) -> list[str]:
    """Return what each route has of 0 to 100, in order."""
    shares = rollout.shares()
    names = [rollout.candidate.name, rollout.stable.name]
    if rollout.control is not None:
        names.append(rollout.control.name)
    said, begin = [], 0.0
    for name in names:
        end = begin + shares[name]
        said.append(f"{name} has {begin:.4g} to {end:.4g}" if end > begin else f"{name} has nothing")
        begin = end
    if rollout.state == ROLLED_BACK:
        said[0] += f" (rolled back: {rollout.reason})"
    return said
