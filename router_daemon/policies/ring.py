"""Embedding attention: a message's query vector against the backends' keys, with latency and reliability.

    z_i = q.k_i / (tau sqrt(d)) + w_perf log(1 / (1 + l_i)) + w_rel log(r_i),    a = softmax(z)

q: the embedding of the message, k_i: that of backend i, both at length 1; d: how many numbers they have; l_i: latency
in milliseconds; r_i: success ratio; tau 0.7, w_perf 0.3, w_rel 0.2 (B. J. Gilbert, "Ring attention for distributed
message processing"). The paper prints q.k / tau, without the root: `scaling = "raw"` is that, with vectors as they are;
the scaled one is what gives its latencies. Cold start: latency and success as in `core.service` and `core.profile`.

- `ring` sends to the arg max over all candidates.
- `ring_multi` has several attention heads, each with projections of its own, and averages their weights:
  a = (1/H) sum_h softmax(z^h), arg max. The paper says "averaged" and not of what. Not the logits: summed over heads
  that together span the space, they are q.k again, one head in disguise. A mean of weights keeps what heads are for:
  one that is sure of a backend counts for more than several that are not.
- `ring_greedy` climbs from neighbour to neighbour; see `ring_greedy`.

Rules:
- Who has no room, or was tried, is masked out. Ties (within `TIE`: float32 says no more) are broken at random.
- l_i is what is to be expected of the backend now, with its load; `latency = "profile"` takes the mean of what was
  measured, as published. Either includes the way to a backend of another daemon, unless `path_cost` is off.
- A backend without a key of the query's length, where others have one, is taken as perpendicular: q.k = 0, what is to
  be expected of a random direction. It can still be chosen for its latency, and starves nobody. Counted as `partial`.
- A message without an embedding, with a zero one, or with one that no key fits goes by the policy `attention`, counted,
  or is refused (`without_embedding`). Nothing that a peer sends raises.
- Up to `ALL_UP_TO` candidates, each is looked at for every message; of more, what `view` says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from math import exp, inf, log, log1p
from random import Random
from typing import Final

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from router_daemon.core.backends import Backend
from router_daemon.core.events import Request
from router_daemon.core.messages import Delivery
from router_daemon.core.ranking import NOBODY, Account, Candidate, Ranking
from router_daemon.core.settings import Settings
from router_daemon.policies.attention import Attention
from router_daemon.policies.keys import Heads, Keys, LearnedHeads, OneHead, RandomHeads
from router_daemon.policies.view import Asked, Held, Touched, View

ALL_UP_TO: Final = 50
IN_TURN: Final = 32
"""Of more candidates, so many are looked at in turn for each message."""
TRIES: Final = 32
"""So often the best turns out to be worse than its columns said before all are looked at."""
TIE: Final = 1e-6
LEAST_SUCCESS: Final = 1e-9
"""Success ratios come near to 0, and a file of profiles may say 0."""

Column = NDArray[np.float64]
Mask = NDArray[np.bool_]


class RingAttention(ABC):
    """What the variants share: keys, the live terms, what becomes of messages that cannot be held against keys."""

    name = ""
    threshold = 0.0
    random_ties = False

    def __init__(self, settings: Settings, rng: Random, heads: Heads) -> None:
        own = self._settings = settings.ring_attention
        self._profile, self._live_settings = settings.profile, settings.attention
        self._rng = rng
        self._fallback = Attention(settings, rng)
        self._keys = Keys(heads, unit=own.scaling == "unit", longest=own.dimensions)
        self._touched = Touched()
        self._asked: Asked | None = None
        self.watch = self._keys.watch
        self._refuses = own.without_embedding == "refuse"
        self.objection = self._object if self._refuses else None

    def observe(self, delivery: Delivery, latency_s: float, ok: bool, now: float) -> None:
        """Note whose load, latency or success has changed."""
        self._touched.add(delivery.backend)

    def score(self, capability: str, priority: int, backends: Sequence[Backend]) -> list[Candidate]:
        """Return every backend with exp(z) as for a query perpendicular to all keys, by measured means, best first."""
        scored = self._fallback.score(capability, priority, backends)  # leaves `fixed`, for when it has to decide
        for candidate in scored:
            profile = candidate.backend.profile
            candidate.terms = self._terms(candidate.backend, profile.latency_s, profile.success)
            candidate.logit = sum(candidate.terms.values())
            candidate.score = exp(candidate.logit)
        scored.sort(key=lambda candidate: candidate.score, reverse=True)
        return scored

    def pick(self, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float) -> Candidate | None:
        """Return the candidate to send to; see the module."""
        if not ranking.candidates:
            return None
        view = self._view(ranking)
        asked = self._ask(view, request)
        if not tried:
            self._count(ranking, view, asked)
        if asked.held is None:
            return None if self._refuses else self._fallback.pick(ranking, request, tried, now)
        chosen = self._choose(view, asked.held, ranking, request, tried, now)
        if chosen is not None:
            self._touched.add(chosen.backend)
        return chosen

    def peek(self, ranking: Ranking, request: Request, now: float) -> Iterable[Candidate]:
        """Return copies with the terms of z as of now and the weights among those with room, by weight."""
        if not ranking.candidates:
            return []
        view = View(ranking.candidates, self._keys)
        held, _ = self._hold(view, request)
        if held is None:
            return self._fallback.peek(ranking, request, now)
        self._look_at(view, range(len(ranking.candidates)), now)
        logits = held.all()
        masked = np.where(view.room, logits + view.live, -inf) if view.room.any() else logits + view.live
        weights = softmax(masked).mean(axis=0)
        alignments = logits.mean(axis=0)
        live = [
            self._copy(candidate, float(alignment), float(weight))
            for candidate, alignment, weight in zip(ranking.candidates, alignments, weights, strict=True)
        ]
        live.sort(key=lambda candidate: (candidate.score, candidate.logit), reverse=True)
        return self._in_order(live, view, held, request)

    def account(self, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float) -> Account:
        """Return z, and what alignment and the rest are of it, of whom `pick` has just looked at."""
        view: View | None = ranking.own
        asked = None if view is None else self._known(view, request)
        if view is None or asked is None:
            return NOBODY
        if asked.held is not None:
            return self._account(view, asked.held, ranking, tried)
        return NOBODY if self._refuses else self._fallback.account(ranking, request, tried, now)

    @abstractmethod
    def _account(self, view: View, held: Held, ranking: Ranking, tried: Sequence[Backend]) -> Account:
        """Return the same for a message that can be held against keys."""

    @abstractmethod
    def _choose(
        self, view: View, held: Held, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float
    ) -> Candidate | None:
        """Return whom a message goes to that can be held against keys."""

    def _in_order(self, live: list[Candidate], view: View, held: Held, request: Request) -> list[Candidate]:
        """Return copies that are sorted by weight in the order in which they would be chosen."""
        return live

    # --- the message ---

    def _ask(self, view: View, request: Request) -> Asked:
        """Return what is known of the message, which may have been asked about just before (a further head)."""
        asked = self._known(view, request)
        if asked is None:
            held, reason = self._hold(view, request)
            asked = self._asked = Asked(request, view, self._keys.version, held, reason)
        return asked

    def _known(self, view: View, request: Request) -> Asked | None:
        asked = self._asked
        if asked is None or asked.request is not request or asked.view is not view:
            return None
        return asked if asked.version == self._keys.version else None

    def _hold(self, view: View, request: Request) -> tuple[Held | None, str]:
        """Return the query held against the candidates' keys; None where it cannot be, and the reason."""
        view.locate()
        given = request.embedding
        if given is UNSET or not given:
            return None, "missing"
        if not view.lengths:
            return None, "no_keys"
        length = _length(request)
        if length not in view.lengths:
            return None, "dimension"
        vector = self._keys.read(given)
        if vector is None:
            return None, "zero"
        own = self._settings
        scale = 1.0 / own.temperature
        if own.scaling == "unit":
            scale /= self._keys.size(length) ** 0.5
        return view.held(self._keys.query(vector), length, scale), ""

    def _count(self, ranking: Ranking, view: View, asked: Asked) -> None:
        """Count a message that goes by another policy, or whose candidates did not all have a key that fits."""
        if asked.held is None:
            if not self._refuses:
                ranking.counts.fallbacks[asked.reason] += 1
        elif view.lengths[_length(asked.request)] < len(view.candidates):
            ranking.counts.fallbacks["partial"] += 1

    def _object(self, ranking: Ranking, request: Request) -> tuple[str, str] | None:
        """Return code and detail for a message that cannot be held against keys; None where it can be."""
        if not ranking.candidates:
            return None
        view = self._view(ranking)  # the ranking's own: refusals may come by the thousand
        asked = self._ask(view, request)
        if asked.held is not None:
            return None
        reason = asked.reason
        what = f"{ranking.capability}: the policy {self.name} needs"
        if reason == "no_keys":
            return "no_backend", f"{what} embeddings, and no backend that offers it has one"
        if reason == "missing":
            return "bad_header", f"{what} an embedding"
        if reason == "zero":
            return "bad_header", f"{what} an embedding that is not all zeros"
        lengths = ", ".join(f"{length} ({count} backends)" for length, count in view.lengths.items())
        return "bad_header", f"{what} an embedding as long as keys are: got {_length(request)}, keys: {lengths}"

    # --- the backends ---

    def _view(self, ranking: Ranking) -> View:
        """Return the columns of the whole ranking: a message that may not go to all is held against the same keys."""
        whole = ranking.whole or ranking
        view: View | None = whole.own
        if view is None:
            view = whole.own = View(whole.candidates, self._keys)
        return view

    def _bring_up_to_date(self, view: View, now: float) -> None:
        """Look at all of few candidates, of many at those that `view` says."""
        self._look_at(view, self._changed(view), now)
        view.seen = self._touched.end

    def _changed(self, view: View) -> Sequence[int]:
        """Return the places to look at: of those something happened to, and the next few in turn."""
        count = len(view.candidates)
        touched = None if count <= ALL_UP_TO else self._touched.since(view.seen)
        if touched is None:
            return range(count)
        places = [place for backend in touched if (place := view.place.get(backend)) is not None]
        places += [(view.turn + step) % count for step in range(IN_TURN)]
        view.turn = (view.turn + IN_TURN) % count
        return places

    def _look_at(self, view: View, places: Iterable[int], now: float) -> None:
        """Bring the columns up to date at these places, where something happened or time may have changed something."""
        candidates, live, room, versions, until = view.candidates, view.live, view.room, view.versions, view.until
        for place in places:
            candidate = candidates[place]
            backend, service = candidate.backend, candidate.service
            if not versions[place] == service.version == backend.version or now >= until[place]:
                live[place] = self._live(candidate, now)
                versions[place], until[place] = backend.version, service.fresh_until
            room[place] = backend.free > 0

    def _live(self, candidate: Candidate, now: float) -> float:
        """Return the part of z that does not depend on the message."""
        own, backend, service = self._settings, candidate.backend, candidate.service
        service.bring_up_to_date(now, self._profile, self._live_settings)
        latency_s = service.latency_s if own.latency == "live" else backend.profile.latency_s
        if not own.path_cost:
            latency_s = max(0.0, latency_s - backend.path_s)
        success = backend.profile.success
        return own.reliability * log(success if success > LEAST_SUCCESS else LEAST_SUCCESS) - own.performance * log1p(
            1000.0 * latency_s
        )

    def _terms(self, backend: Backend, latency_s: float, success: float) -> dict[str, float]:
        """Return the live terms one by one."""
        own = self._settings
        if not own.path_cost:
            latency_s = max(0.0, latency_s - backend.path_s)
        return {
            "performance": -own.performance * log1p(1000.0 * latency_s),
            "reliability": own.reliability * log(max(success, LEAST_SUCCESS)),
        }

    def _copy(self, candidate: Candidate, alignment: float, weight: float) -> Candidate:
        """Return a candidate, up to date, as people are shown it."""
        backend, service = candidate.backend, candidate.service
        latency_s = service.latency_s if self._settings.latency == "live" else backend.profile.latency_s
        terms = {"alignment": alignment, **self._terms(backend, latency_s, backend.profile.success)}
        return Candidate(
            backend,
            weight,
            terms,
            weight=weight,
            surcharge=candidate.surcharge,
            fixed=candidate.fixed,
            logit=sum(terms.values()),
            service=service,
        )


class Ring(RingAttention):
    """Policy `ring`: the arg max over all candidates with room."""

    name = "ring"

    def __init__(self, settings: Settings, rng: Random, heads: Heads | None = None) -> None:
        super().__init__(settings, rng, heads or OneHead())

    def _choose(
        self, view: View, held: Held, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float
    ) -> Candidate | None:
        """Return the best, looked at again; with few candidates the columns are as of now."""
        self._bring_up_to_date(view, now)
        logits = held.all()
        if len(view.candidates) > ALL_UP_TO:
            chosen = self._best_by_columns(view, logits, view.open_to(ranking.candidates, tried), now)
            if chosen is not None:
                return chosen
            self._look_at(view, range(len(view.candidates)), now)
        mask = view.open_to(ranking.candidates, tried)
        z = np.where(mask, self._merged(logits, view.live, mask) + view.live, -inf)
        top = z.max()
        return None if top == -inf else view.candidates[self._one_of(z, top)]

    def _account(self, view: View, held: Held, ranking: Ranking, tried: Sequence[Backend]) -> Account:
        """Return it by the columns, which of few candidates are as of now."""
        mask = view.open_to(ranking.candidates, tried)
        return view.account(self._merged(held.all(), view.live, mask), mask.nonzero()[0])

    def _merged(self, logits: Column, live: Column, mask: Mask) -> Column:
        """Return what alignment adds to a candidate's standing: (heads, n) -> (n,)."""
        only: Column = logits[0]
        return only

    def _best_by_columns(self, view: View, logits: Column, mask: Mask, now: float) -> Candidate | None:
        """Return the best that is as good as the columns say; None where none was in a few tries."""
        aligned = self._merged(logits, view.live, mask)
        z = np.where(mask, aligned + view.live, -inf)
        for _ in range(TRIES):
            top = z.max()
            if top == -inf:
                return None
            place = self._one_of(z, top)
            self._look_at(view, (place,), now)
            z[place] = aligned[place] + view.live[place] if view.room[place] else -inf
            if z[place] >= top - TIE:
                return view.candidates[place]
        return None

    def _one_of(self, z: Column, top: float) -> int:
        """Return the place of the best; any one of equals."""
        best = (z >= top - TIE).nonzero()[0]
        return int(best[0] if len(best) == 1 else best[int(self._rng.random() * len(best))])


class RingMulti(Ring):
    """Policy `ring_multi`: the mean of several heads' weights."""

    name = "ring_multi"

    def __init__(self, settings: Settings, rng: Random, heads: Heads | None = None) -> None:
        own = settings.ring_attention
        if heads is None:
            given = own.projections
            heads = RandomHeads(own.attention_heads, own.seed) if given is None else LearnedHeads(given)
        super().__init__(settings, rng, heads)

    def _merged(self, logits: Column, live: Column, mask: Mask) -> Column:
        """Return g with g_i + live_i = log(sum_h softmax(z^h)_i), the softmax over those in the mask."""
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        totals = np.einsum("hn,n->h", raised, np.where(mask, np.exp(live), 0.0))
        if not totals.all() or not (weights := np.einsum("hn,h->n", raised, 1.0 / totals)).all():
            return _merged_far_apart(logits, np.where(mask, live, -inf))
        merged: Column = np.log(weights)
        return merged


def _merged_far_apart(logits: Column, live: Column) -> Column:
    """Return the same where some exponentials are too small for a float, as a very low temperature makes them."""
    z = logits + live
    top = z.max(axis=1, keepdims=True)
    if top.min() == -inf:  # nobody is in the mask
        return np.zeros(len(live))
    shares = logits - top - np.log(np.exp(z - top).sum(axis=1, keepdims=True))
    most = shares.max(axis=0)
    merged: Column = most + np.log(np.exp(shares - most).sum(axis=0))
    return merged


def softmax(z: Column) -> Column:
    """Return exp(z) over its sum, along the last axis."""
    raised = np.exp(z - z.max(axis=-1, keepdims=True))
    shares: Column = raised / raised.sum(axis=-1, keepdims=True)
    return shares


def _length(request: Request) -> int:
    """Return how many numbers a message's embedding has."""
    given = request.embedding
    if given is UNSET:
        return 0
    return len(given) // 4 if isinstance(given, bytes) else len(given)
