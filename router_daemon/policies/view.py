"""The candidates of one ranking as columns, for a policy that holds a message against all of them at once.

Rules:
- A column says what was true when its place was last looked at. `Touched` tells of the backends something has happened
  to since; what else may change (reports of queues, time) is met by looking at a few places in turn, and by looking
  again at whoever is about to be chosen.
- Rows of keys are found again only after some backend got or lost one (`Keys.changes`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from router_daemon.core.backends import Backend
from router_daemon.core.events import Request
from router_daemon.core.ranking import Account, Candidate
from router_daemon.policies.keys import Floats, Keys, Matrix
from router_daemon.policies.layout import Arrangement

MOST_TOUCHED: Final = 4096


class View:
    """The columns; `n` candidates.

    Attributes:
        place: backend -> where it is in the columns.
        live: what does not depend on the message, as last looked at: float64, shape (n,).
        room: whether it could get a delivery then: bool, shape (n,).
        versions, until: of what `live` says, of its backend; and how long that holds if nothing happens there.
        lengths: length of key -> how many candidates have such a one.
        seen: up to where `Touched` has been read, -1 before anybody was. turn: the next to be looked at in turn.
        arrangement, arranged: of a layout, and its version.
    """

    __slots__ = (
        "_keys",
        "_located",
        "_rows",
        "arranged",
        "arrangement",
        "candidates",
        "lengths",
        "live",
        "place",
        "room",
        "seen",
        "turn",
        "until",
        "versions",
    )

    def __init__(self, candidates: Sequence[Candidate], keys: Keys) -> None:
        self.candidates = candidates
        self.place = {candidate.backend: place for place, candidate in enumerate(candidates)}
        self.live = np.zeros(len(candidates))
        self.room = np.ones(len(candidates), dtype=bool)
        self.versions = [-1] * len(candidates)
        self.until = [0.0] * len(candidates)
        self.lengths: dict[int, int] = {}
        self.seen, self.turn = -1, 0
        self.arrangement: Arrangement | None = None
        self.arranged = -1
        self._keys = keys
        self._located = -1
        self._rows: dict[int, tuple[NDArray[np.intp], NDArray[np.intp]]] = {}

    def locate(self) -> None:
        """Find the rows of the candidates' keys, where some may have changed since."""
        if self._located == self._keys.changes:
            return
        places = [self._keys.place(candidate.backend) for candidate in self.candidates]
        lengths = np.array([length for length, _ in places], dtype=np.intp)
        rows = np.array([row for _, row in places], dtype=np.intp)
        self._rows.clear()
        self.lengths.clear()
        for length in np.unique(lengths[lengths > 0]).tolist():
            having = np.flatnonzero(lengths == length)
            self._rows[length] = having, rows[having]
            self.lengths[length] = len(having)
        self._located = self._keys.changes

    def held(self, query: Floats, length: int, scale: float) -> Held:
        """Return a query held against the keys of its length, of which there is one at least."""
        matrix = self._keys.matrix(length)
        assert matrix is not None
        having, rows = self._rows[length]
        return Held(query, matrix, having, rows, scale, len(self.candidates))

    def open_to(self, candidates: Sequence[Candidate], tried: Iterable[Backend]) -> NDArray[np.bool_]:
        """Return who has room, is among these and was not tried."""
        mask = self.room.copy()
        if candidates is not self.candidates:
            some = np.zeros(len(mask), dtype=bool)
            some[[self.place[candidate.backend] for candidate in candidates]] = True
            mask &= some
        for backend in tried:
            place = self.place.get(backend)
            if place is not None:
                mask[place] = False
        return mask

    def account(self, aligned: NDArray[np.float64], places: Iterable[int]) -> Account:
        """Return z and its parts at these places; `aligned`: what alignment is of it, shape (n,)."""
        rows: list[tuple[Candidate, float, tuple[float, ...]]] = []
        for place in places:
            alignment, live = float(aligned[place]), float(self.live[place])
            rows.append((self.candidates[place], alignment + live, (alignment, live)))
        return ("alignment", "live"), rows


class Held:
    """One query held against the keys of a view: the logits of alignment, scale * q.k for each head."""

    __slots__ = ("_all", "_count", "_having", "_matrix", "_query", "_rows", "_scale")

    def __init__(
        self,
        query: Floats,
        matrix: Matrix,
        having: NDArray[np.intp],
        rows: NDArray[np.intp],
        scale: float,
        count: int,
    ) -> None:
        self._query = query
        self._matrix = matrix
        self._having = having
        self._rows = rows
        self._scale = scale
        self._count = count
        self._all: NDArray[np.float64] | None = None

    def all(self) -> NDArray[np.float64]:
        """Return the logits of all candidates, float64 of shape (heads, n); 0 for one without a key that fits."""
        if self._all is None:
            products = self._matrix.products(self._query, self._rows).astype(np.float64) * self._scale
            if len(self._having) < self._count:
                every = np.zeros((len(products), self._count))
                every[:, self._having] = products
                products = every
            self._all = products
        return self._all

    def one(self, place: int) -> float:
        """Return the logit of the first head for one candidate."""
        if self._all is not None:
            return float(self._all[0, place])
        at = int(np.searchsorted(self._having, place))
        if at == len(self._having) or self._having[at] != place:
            return 0.0
        return float(np.einsum("s,s->", self._matrix.rows[0, self._rows[at]], self._query[0])) * self._scale


class Touched:
    """The backends something has happened to, in order; of too many the oldest are forgotten."""

    __slots__ = ("_backends", "_forgotten")

    def __init__(self) -> None:
        self._backends: list[Backend] = []
        self._forgotten = 0

    def add(self, backend: Backend) -> None:
        """Note that something happened to it."""
        self._backends.append(backend)
        if len(self._backends) > 2 * MOST_TOUCHED:
            del self._backends[:MOST_TOUCHED]
            self._forgotten += MOST_TOUCHED

    @property
    def end(self) -> int:
        """How many there have ever been."""
        return self._forgotten + len(self._backends)

    def since(self, seen: int) -> Sequence[Backend] | None:
        """Return those after the first `seen`; None where some of them are forgotten."""
        return None if seen < self._forgotten else self._backends[seen - self._forgotten :]


class Asked(NamedTuple):
    """What was found of one message, for when it is asked about again: `held`, or the reason why not."""

    request: Request
    view: View
    version: int
    held: Held | None
    reason: str
