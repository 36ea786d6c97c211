"""Which backends a message goes to now: how many, who of them, and who is passed over.

Rules:
- The policy of the message's route ranks; what every policy shares is decided here: who has tried what, the reserve of
  critical messages, all heads at once or one (`mode`), trials of ejected backends, exploration, the cost that a further
  head may have.
- What a policy says is looked at before it is done; where it is nonsense, or the policy raises, the fallback decides
  (`routes`). In the plain case that is two comparisons.
- A decision reads sums (`pools`); it walks through candidates only in the policy's `pick`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from math import inf

from msgspec import UNSET

from router_daemon.core.backends import Backend
from router_daemon.core.counts import MOST_NOTED, Counts
from router_daemon.core.messages import Message
from router_daemon.core.pools import Pool
from router_daemon.core.ranking import Candidate, NonsenseError, Ranking, check_choice
from router_daemon.core.registry import Registry
from router_daemon.core.routes import Route
from router_daemon.core.settings import Settings
from router_daemon.core.waiting import CRITICAL


class Chooser:
    """Decides; `timer` (seconds) measures how long that takes."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        counts: Counts,
        timer: Callable[[], float],
    ) -> None:
        self.configure(settings)
        self._registry = registry
        self._counts = counts
        self._timer = timer

    def configure(self, settings: Settings) -> None:
        """Take over other settings."""
        self._settings = settings

    def decide(self, message: Message, now: float, by: Route | None = None) -> tuple[Ranking, Sequence[Candidate]]:
        """Return the ranking in force and the heads to send to now, timed as one decision; `by`: not its own route."""
        route = message.route.acting if by is None else by
        timer, cache, request = self._timer, route.rankings, message.request
        hits = cache.hits
        started = timer()
        try:
            ranking = cache.get(request.capability, request.priority, now)
            pool = ranking.pool
            chosen: Sequence[Candidate] = ()
            if pool.free > pool.reserved or (pool.free and request.priority == CRITICAL):
                if message.special or message.deliveries or pool.messages >= pool.explore_from or pool.trials:
                    chosen = self._choose(message, ranking, now)
                elif message.mode == "auto" and self.is_idle(pool) and may_spread(message, pool):
                    chosen = self._spread(message, ranking, (), now)
                else:
                    candidate = ranking.policy.pick(ranking, request, (), now)
                    if candidate is not None:
                        # `check_choice`, without the call and without the walk
                        if ranking.candidates[candidate.rank] is not candidate or candidate.backend.free <= 0:
                            raise NonsenseError("the choice is none of the candidates, or has no room")
                        chosen = (candidate,)
            elif pool.trials and not message.deliveries and not message.fan_out and self.may_risk(message):
                chosen = self._last_resort(message, ranking, now)
            elif message.special and message.named:
                chosen = self._named(message, ranking, now)
        except Exception as fault:  # noqa: BLE001 - whatever a policy raises must not cost the message
            return self._fall_back(message, route, fault, now)
        seconds = timer() - started
        histogram = self._counts.decision_miss if cache.hits == hits else self._counts.decision_hit
        noted = histogram.noted  # `observe`, without the call
        noted.append(seconds)
        if len(noted) >= MOST_NOTED:
            histogram.settle()
        if (seconds > message.route.budget_s or route is not message.route) and by is None:
            message.route.judge(route, seconds, now)
        return ranking, chosen

    def _fall_back(
        self, message: Message, route: Route, fault: Exception, now: float
    ) -> tuple[Ranking, Sequence[Candidate]]:
        """Decide by who stands in for a route whose policy has failed this message."""
        if route is not message.route:  # it is who stands in that has failed
            raise fault
        stand_in = route.stumbled(fault, now)
        route.fell_back(fault)
        return self.decide(message, now, stand_in)

    def hedge(self, message: Message, now: float) -> Candidate | None:
        """Return the backend for a second head while the first is out, where one is allowed."""
        request = message.request
        ranking = self.ranking(message, now)
        pool, settings = ranking.pool, self._settings.hedge
        asked = request.mode == "hedge"
        obstacle = None if asked else self.hedge_obstacle(pool, now)
        exploring = message.exploring
        if obstacle is not None and (obstacle == "off" or not exploring):  # those are few, whatever the load
            return None
        if pool.free <= pool.reserved and request.priority != CRITICAL:
            return None
        ranking = self.among(message, ranking, hedge=True)
        try:
            candidate = self._pick(message, ranking, self.tried(message), now)
        except Exception as fault:  # noqa: BLE001 - whatever a policy raises; a hedge is a favour
            message.route.stumbled(fault, now)
            return None
        if candidate is not None and not asked and not exploring and settings.share:
            pool.hedges.spend()
        return candidate

    def ranking(self, message: Message, now: float) -> Ranking:
        """Return the ranking in force for a message without counting a look-up where there is one."""
        request, route = message.request, message.route
        try:
            return route.acting.rankings.look(request.capability, request.priority, now)
        except Exception as fault:  # noqa: BLE001 - whatever a policy raises
            return route.stumbled(fault, now).rankings.look(request.capability, request.priority, now)

    def _pick(self, message: Message, ranking: Ranking, tried: Sequence[Backend], now: float) -> Candidate | None:
        candidate = ranking.policy.pick(ranking, message.request, tried, now)
        if candidate is not None:
            check_choice(candidate, ranking, tried)
        return candidate

    def tried(self, message: Message) -> list[Backend]:
        """Return the backends, as they are registered now, that a message may not go to again."""
        if message.again or not message.deliveries:
            return []
        by_name = self._registry.by_name
        return [by_name.get(backend.info.name, backend) for backend in message.tried()]

    def has_untried(self, message: Message, now: float) -> bool:
        """Tell whether there is a candidate that the message may still go to, with room or without."""
        if message.named:
            return self.named(message) is not None and not message.tried()
        ranking = self.affordable(message, self.ranking(message, now))
        tried = self.tried(message)
        return any(candidate.backend not in tried for candidate in ranking.candidates)

    def objection(self, message: Message, ranking: Ranking, now: float) -> tuple[str, str] | None:
        """Return code and detail where the policy chooses nobody for a message, whoever has room."""
        object_to = ranking.policy.objection
        if object_to is None or message.named:
            return None
        try:
            return object_to(ranking, message.request)
        except Exception as fault:  # noqa: BLE001 - whatever a policy raises: it is not asked
            message.route.stumbled(fault, now)
            return None

    def named(self, message: Message) -> Backend | None:
        """Return the backend that a message names, where it is there, offers the capability and does not drain."""
        backend = self._registry.by_name.get(str(message.request.backend))
        if backend is None or self._registry.pool(message.request.capability) not in backend.pools:
            return None
        return backend if suits(backend, message) else None

    def named_latency_s(self, message: Message, now: float) -> tuple[float, float]:
        """Return the wait and the latency to expect at the backend that a message names; 0.0 where little is known."""
        settings, backend = self._settings, self.named(message)
        if backend is None:
            return 0.0, 0.0
        service = self._registry.service(backend, message.request.capability, now)
        if service.samples < settings.hedge.samples:
            return 0.0, 0.0
        service.bring_up_to_date(now, settings.profile, settings.attention)
        return service.wait_s, service.latency_s

    def _named(self, message: Message, ranking: Ranking, now: float) -> Sequence[Candidate]:
        """Return the backend that a message names, where it has room, also where it is ejected."""
        backend, pool = self.named(message), ranking.pool
        if backend is None:
            return ()
        if backend.ejected:
            free = backend.may_try(now)
        else:
            free = backend.free > 0 and (pool.free > pool.reserved or message.request.priority == CRITICAL)
        if not free:
            return ()
        service = self._registry.service(backend, message.request.capability, now)
        return (Candidate(backend, 1.0, {}, weight=1.0, service=service),)

    def shortest_s(self, message: Message, ranking: Ranking, now: float) -> float:
        """Return the shortest latency to expect where a message may go; 0.0 where too little is known."""
        return self.named_latency_s(message, now)[1] if message.named else self.least_latency_s(ranking, now)

    def least_latency_s(self, ranking: Ranking, now: float) -> float:
        """Return the shortest latency to expect at any candidate that was measured; of many, at the first few."""
        settings = self._settings
        least = inf
        for candidate in islice(ranking.candidates, settings.attention.scan_most):
            service = candidate.service
            if service.samples < settings.hedge.samples:
                return 0.0
            service.bring_up_to_date(now, settings.profile, settings.attention)
            least = min(least, service.latency_s)
        return 0.0 if least == inf else least

    def forecast(self, message: Message, ranking: Ranking, ahead: int, now: float) -> tuple[float, bool]:
        """Return how long a new message would wait behind so many, and whether that is too long for it."""
        settings, ttl_s = self._settings.waiting, message.deadline - now
        if message.named:
            wait_s, latency_s = self.named_latency_s(message, now)
            return wait_s, wait_s > settings.longest * ttl_s or latency_s > ttl_s
        rate = ranking.pool.rate(now, settings.rate_window_s)
        wait_s = (ahead + 1) / rate if rate > 0.0 else 0.0
        too_long = wait_s > settings.longest * ttl_s
        return wait_s, too_long or wait_s + self.least_latency_s(ranking, now) > ttl_s

    def _choose(self, message: Message, ranking: Ranking, now: float) -> Sequence[Candidate]:
        """Choose for a message that is not a first and plain one."""
        if message.named:
            return self._named(message, ranking, now)
        pool = ranking.pool
        ranking = self.affordable(message, ranking)
        tried = self.tried(message)
        if message.fan_out:
            chosen = self._spread(message, ranking, tried, now)
            return self._with_trial(message, ranking, chosen, now) if pool.trials and not tried else chosen
        first = self._pick(message, ranking, tried, now)
        if not message.deliveries and first is not None and self.may_risk(message):
            other = self.risk(ranking, first, now)
            if other is not None:
                if not other.backend.ejected:
                    pool.explored(self._settings, found=True)
                    ranking.counts.explorations += 1
                notes = message.noted()
                notes.risked, notes.late_s = True, first.service.late_s
                return (other,)
        if not message.deliveries and first is not None and self.is_idle(pool) and may_spread(message, pool):
            return self._spread(message, ranking, tried, now)
        return () if first is None else (first,)

    def risk(self, ranking: Ranking, first: Candidate, now: float) -> Candidate | None:
        """Return who should get a message instead of the first choice, to be found out about: on trial, or unused."""
        pool = ranking.pool
        other = self._due_trial(ranking, now) if pool.trials else None
        if other is None and pool.messages >= pool.explore_from:
            other = (self._stale(ranking) if pool.stale else None) or self._unused(ranking, pool, now)
        return other if other is not None and self._not_much_dearer(other.backend, first.backend) else None

    def _with_trial(
        self, message: Message, ranking: Ranking, chosen: Sequence[Candidate], now: float
    ) -> Sequence[Candidate]:
        """Let the last head beside the first be one whose trial is due, or mode fanout would never let it in again."""
        if not chosen or message.request.reply == "all" or not self.may_risk(message):
            return chosen
        other = self._due_trial(ranking, now)
        if other is None or not self._not_much_dearer(other.backend, chosen[0].backend):
            return chosen
        message.noted().risked = True
        return [*chosen[: message.heads - 1], other]

    def _due_trial(self, ranking: Ranking, now: float) -> Candidate | None:
        ready = [backend for backend in ranking.pool.trials if backend.may_try(now)]
        for candidate in ranking.candidates if ready else ():
            if candidate.backend in ready:
                return candidate
        return None

    def _spread(self, message: Message, ranking: Ranking, tried: Sequence[Backend], now: float) -> Sequence[Candidate]:
        """Choose as many heads as may get the message at once; copies, too, leave the reserve alone."""
        chosen: list[Candidate] = []
        seen = list(tried)
        pool = ranking.pool
        room = pool.free if message.request.priority == CRITICAL else pool.free - pool.reserved
        most = message.heads - len(message.tried())  # `tried` is empty where the same ones may try again
        for _ in range(min(most, room)):
            candidate = self._pick(message, ranking, seen, now)
            if candidate is None:
                break
            chosen.append(candidate)
            seen.append(candidate.backend)
        return chosen

    def affordable(self, message: Message, ranking: Ranking) -> Ranking:
        """Leave out who costs more than the message may cost, or a further head much more than the first."""
        limit = inf if message.request.max_cost is UNSET else message.request.max_cost
        if message.deliveries and ranking.pool.costly:
            limit = min(limit, self.most_for_more(message.deliveries[0].backend))
        return ranking if limit == inf else ranking.only(lambda candidate: (candidate.backend.cost or 0.0) <= limit)

    def among(self, message: Message, ranking: Ranking, *, hedge: bool) -> Ranking:
        """Return what the policy picks from: whom the message may cost, for a hedge those of them that are idle."""
        ranking = self.affordable(message, ranking)
        return ranking.only(_idle if message.request.mode == "hedge" else surely_idle) if hedge else ranking

    def most_for_more(self, first: Backend) -> float:
        """Return what a further head may cost where this was the first; any sum where its own cost is not known."""
        return inf if first.cost is None else self._settings.extra_cost_ratio * first.cost

    def _not_much_dearer(self, other: Backend, first: Backend) -> bool:
        return (other.cost or 0.0) <= self.most_for_more(first)

    def is_idle(self, pool: Pool) -> bool:
        """Tell whether so little is going on that copies cost nobody anything."""
        return pool.busy < self._settings.auto_idle * pool.slots

    def hedge_obstacle(self, pool: Pool, now: float) -> str | None:
        """Return why there are no hedges now (`off`, `load`, `budget`, `trouble`); None where there may be."""
        settings = self._settings.hedge
        if settings.share <= 0.0:
            return "off"
        if pool.busy >= settings.load_below * pool.slots:
            return "load"
        if pool.hedges.look(pool.messages, now) < 1.0:
            return "budget"
        return "trouble" if pool.trouble_share(now) >= settings.trouble_below else None

    def may_risk(self, message: Message) -> bool:
        """Tell whether a message may go to a backend of which little is known: it can be tried again, or copied."""
        return message.reruns and message.heads > 1 and message.request.priority != CRITICAL

    def _last_resort(self, message: Message, ranking: Ranking, now: float) -> Sequence[Candidate]:
        """Return an ejected candidate whose trial is due: with the others full, it would never come back else."""
        if (
            ranking.pool.costly or self.objection(message, ranking, now) is not None
        ):  # costly: more than whom is not known
            return ()
        trial = self._due_trial(self.affordable(message, ranking), now)
        if trial is None:
            return ()
        message.noted().risked = True
        return (trial,)

    def _stale(self, ranking: Ranking) -> Candidate | None:
        """Return a candidate with room that came with a new version, and forget those that are known by now."""
        pool = ranking.pool
        for candidate in ranking.candidates:
            if candidate.backend in pool.stale:
                if candidate.service.samples >= self._settings.hedge.samples:
                    del pool.stale[candidate.backend]
                elif candidate.backend.free > 0:
                    return candidate
        return None

    def _unused(self, ranking: Ranking, pool: Pool, now: float) -> Candidate | None:
        """Return the idle candidate that has been unused for longest, where that is long enough."""
        settings = self._settings.exploration
        after_s = max(settings.after_s, settings.after_services * pool.reference_s)
        found, used_at = None, now - after_s
        for candidate in ranking.candidates:
            backend = candidate.backend
            if candidate.service.used_at <= used_at and backend.free > 0 and not backend.open and backend.other < 1.0:
                found, used_at = candidate, candidate.service.used_at
        if found is None:
            pool.explored(self._settings, found=False)
        return found


def may_spread(message: Message, pool: Pool) -> bool:
    """Tell whether mode auto may give a message to all its heads at once: copies are allowed, and nothing costs."""
    return message.mode == "auto" and message.copies and message.heads > 1 and not pool.costly


def suits(backend: Backend, message: Message) -> bool:
    """Tell whether a message may go to a backend as far as that is quickly said: its name, its cost, who was tried."""
    if message.named and message.request.backend != backend.info.name:
        return False
    limit = message.request.max_cost
    if limit is not UNSET and (backend.cost or 0.0) > limit:
        return False
    return message.again or backend not in message.tried()


def began_at(backend: Backend, message: Message) -> bool:
    """Tell whether the message's first head was there, or at whoever had the name before."""
    return bool(message.deliveries) and message.deliveries[0].backend.profile is backend.profile


def _idle(candidate: Candidate) -> bool:
    backend = candidate.backend
    return len(backend.open) + backend.other < backend.info.slots


def surely_idle(candidate: Candidate) -> bool:
    """Leave out, too, who has been busy with work of others that it does not report."""
    backend = candidate.backend
    return _idle(candidate) and not (backend.said_busy and backend.queue is None)
