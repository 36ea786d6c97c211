"""The keys of backends as rows of matrices, and queries to hold against them: q.k for all candidates in one product.

Rules:
- One matrix of float32 for each length of embedding. A row is written when its backend registers or updates, and given
  back when it leaves; nothing is built per message. Rows never move while their backend is there, so a key that changes
  and keeps its length disturbs nobody's notes of who is in which row; `Keys.changes` says when such notes are void.
- Scaling `unit` brings queries and keys to length 1, so that q.k is the cosine of the angle between them; `raw` leaves
  them as they are, cut off at `MOST`, so that no product is infinite.
- Products are `einsum`'s, not `@`: BLAS would split all but the smallest among threads, which on busy cores wait for
  each other (10,000 keys of 384 numbers: 9 ms instead of 0.6; a QR decomposition: seconds), and its sums depend on the
  machine more than need be.
- Every attention head has its own projection of queries and keys; the plain one is a single head without any.
- An embedding without numbers, all zero, or longer than the limit is none. At most `MOST_LENGTHS` lengths have a
  matrix: keys of further ones do not fit. So keys take at most 4 x backends x longest bytes, twice that while growing.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from router_daemon.core.backends import Backend
from router_daemon.core.types import Embedding

Floats: TypeAlias = NDArray[np.float32]

MOST: Final = 1e15
"""Of a number in an embedding that is used as it is: squares of it, added up, stay finite in float32."""
SAFE: Final = (1e-15, 1e15)
"""Lengths between which a vector can be divided by its length in float32 without a loss."""
MOST_LENGTHS: Final = 8
HEAD_SIZE: Final = 64
"""Numbers that a random head keeps at most, as is usual for attention heads: longer ones cost more and say the same."""
FIRST_ROWS: Final = 16


class Heads(Protocol):
    """The projections of some attention heads.

    Attributes:
        count: how many heads.
    """

    count: int

    def size(self, length: int) -> int:
        """Return how many numbers a head keeps of an embedding of that length; 0 where they have none for it."""

    def query(self, vector: Floats) -> Floats:
        """Return W_q q, of shape (heads, size)."""

    def key(self, vector: Floats) -> Floats:
        """Return W_k k, of shape (heads, size)."""


class OneHead:
    """The vectors as they are."""

    count = 1

    def size(self, length: int) -> int:
        """Return the same length."""
        return length

    def query(self, vector: Floats) -> Floats:
        """Return the vector as the only row."""
        return vector[np.newaxis]

    key = query


class RandomHeads:
    """Each head looks at a random subspace, the same one of queries and keys: else their products would say nothing.

    A head keeps length / heads numbers, at least 1 and at most `HEAD_SIZE`: the coordinates along as many orthonormal
    directions, drawn uniformly from `seed` and the length.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self._seed = seed
        self._drawn: dict[int, Floats] = {}

    def size(self, length: int) -> int:
        """Return how many numbers a head keeps."""
        return max(1, min(HEAD_SIZE, length // self.count))

    def query(self, vector: Floats) -> Floats:
        """Return the coordinates in each head's subspace."""
        projected: Floats = np.einsum("hsd,d->hs", self._of(len(vector)), vector)
        return projected

    key = query

    def _of(self, length: int) -> Floats:
        drawn = self._drawn.get(length)
        if drawn is None:
            while len(self._drawn) >= MOST_LENGTHS:
                del self._drawn[next(iter(self._drawn))]
            random = np.random.default_rng((self._seed, length))
            directions = random.standard_normal((self.count, self.size(length), length))
            drawn = self._drawn[length] = orthonormal(directions).astype(np.float32)
        return drawn


class LearnedHeads:
    """Given projections, for embeddings of one length.

    Args:
        projections: of shape (heads, size, length), the same for queries and keys; or (2, heads, size, length), first
            those of queries, then those of keys.
    """

    def __init__(self, projections: NDArray[Any]) -> None:
        both = projections if projections.ndim == 4 else np.stack([projections, projections])
        self._of_query, self._of_key = np.ascontiguousarray(both, dtype=np.float32)
        self.count = self._of_key.shape[0]

    def size(self, length: int) -> int:
        """Return how many numbers a head keeps; 0 of any but the one length."""
        return self._of_key.shape[1] if length == self._of_key.shape[2] else 0

    def query(self, vector: Floats) -> Floats:
        """Return W_q q."""
        projected: Floats = np.einsum("hsd,d->hs", self._of_query, vector)
        return projected

    def key(self, vector: Floats) -> Floats:
        """Return W_k k."""
        projected: Floats = np.einsum("hsd,d->hs", self._of_key, vector)
        return projected


class Matrix:
    """The keys of one length: `rows` has shape (heads, room, size), of which the first `used` have had a backend."""

    __slots__ = ("given_back", "rows", "used")

    def __init__(self, heads: int, size: int) -> None:
        self.rows: Floats = np.zeros((heads, FIRST_ROWS, size), dtype=np.float32)
        self.used = 0
        self.given_back: list[int] = []

    def take(self) -> int:
        """Return a row that nobody has."""
        if self.given_back:
            return self.given_back.pop()
        if self.used == self.rows.shape[1]:
            self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)], axis=1)
        self.used += 1
        return self.used - 1

    def give_back(self, row: int) -> None:
        """Let another backend have the row."""
        self.rows[:, row] = 0.0
        self.given_back.append(row)

    @property
    def empty(self) -> bool:
        """No backend has a row."""
        return len(self.given_back) == self.used

    def products(self, query: Floats, rows: NDArray[np.intp]) -> Floats:
        """Return q.k per head for these rows, of shape (heads, rows); `query`: (heads, size)."""
        if 2 * len(rows) < self.used:
            return _products(self.rows[:, rows], query)
        return _products(self.rows[:, : self.used], query)[:, rows]


class Keys:
    """The keys of all backends.

    Args:
        heads: how they are projected.
        unit: scale queries and keys to length 1 in each head.
        longest: embedding that is used, in numbers.

    Attributes:
        changes: rises when a backend gets a row or loses one.
        version: rises with every change.
    """

    def __init__(self, heads: Heads, *, unit: bool, longest: int) -> None:
        self._heads = heads
        self._unit = unit
        self._longest = longest
        self._matrices: dict[int, Matrix] = {}
        self._places: dict[Backend, tuple[int, int]] = {}
        self._empty: set[Backend] = set()
        self.changes = 0
        self.version = 0

    def watch(self, backend: Backend, there: bool) -> None:
        """Follow a backend that registers, updates or leaves."""
        self.version += 1
        vector = self.read(backend.info.embedding) if there else None
        length = 0 if vector is None or not self._fits(vector) else len(vector)
        place = self._places.get(backend)
        if place is not None and place[0] != length:
            self._drop(backend, place)
        if not there:
            self._empty.discard(backend)
        elif vector is None or not length:
            self._empty.add(backend)
        else:
            self._empty.discard(backend)
            self._write(backend, vector)

    def place(self, backend: Backend) -> tuple[int, int]:
        """Return the length and the row of a backend's key; (0, -1) where it has none.

        One that was never told of is taken in: whoever uses a policy on its own need not call `watch` for those that
        come, only for those that leave or change.
        """
        place = self._places.get(backend)
        if place is None:
            if backend in self._empty:
                return 0, -1
            self.watch(backend, True)
            place = self._places.get(backend, (0, -1))
        return place

    def matrix(self, length: int) -> Matrix | None:
        """Return the keys of that length, None where there is no such key."""
        return self._matrices.get(length)

    def size(self, length: int) -> int:
        """Return how many numbers a head compares, for embeddings of that length."""
        return self._heads.size(length)

    def read(self, embedding: Embedding | UnsetType) -> Floats | None:
        """Return an embedding as float32, of length 1 or cut off as the scaling has it; None where it is none."""
        if embedding is UNSET or not len(embedding):
            return None
        if isinstance(embedding, bytes):
            vector: NDArray[Any] = np.frombuffer(embedding, "<f4")
        else:
            vector = np.array(embedding, dtype=np.float64)
        if len(vector) > self._longest:
            return None
        if self._unit:
            return unit(vector)
        cut = np.clip(vector, -MOST, MOST).astype(np.float32)
        return cut if cut.any() else None

    def query(self, vector: Floats) -> Floats:
        """Return what `read` gave, projected for each head: (heads, size)."""
        return self._scaled(self._heads.query(vector))

    def check(self) -> None:
        """Assert that every row is its backend's key, that no two have the same, and that the others are zero."""
        held: dict[int, list[int]] = {length: [] for length in self._matrices}
        for backend, (length, row) in self._places.items():
            vector = self.read(backend.info.embedding)
            assert vector is not None
            assert len(vector) == length
            assert np.array_equal(self._matrices[length].rows[:, row], self._scaled(self._heads.key(vector)))
            held[length].append(row)
        for length, matrix in self._matrices.items():
            rows = held[length]
            assert rows
            assert len(set(rows)) == len(rows) == matrix.used - len(matrix.given_back)
            others = np.setdiff1d(np.arange(matrix.rows.shape[1]), rows)
            assert not matrix.rows[:, others].any()
        assert not self._empty & self._places.keys()

    def _fits(self, vector: Floats) -> bool:
        length = len(vector)
        return bool(self._heads.size(length)) and (length in self._matrices or len(self._matrices) < MOST_LENGTHS)

    def _write(self, backend: Backend, vector: Floats) -> None:
        length = len(vector)
        matrix = self._matrices.get(length)
        if matrix is None:
            matrix = self._matrices[length] = Matrix(self._heads.count, self._heads.size(length))
        place = self._places.get(backend)
        if place is None:
            place = self._places[backend] = (length, matrix.take())
            self.changes += 1
        matrix.rows[:, place[1]] = self._scaled(self._heads.key(vector))

    def _drop(self, backend: Backend, place: tuple[int, int]) -> None:
        length, row = place
        del self._places[backend]
        matrix = self._matrices[length]
        matrix.give_back(row)
        if matrix.empty:
            del self._matrices[length]
        self.changes += 1

    def _scaled(self, projected: Floats) -> Floats:
        """Return each head's vector at length 1, or cut off; one that a head's projection makes zero stays zero."""
        if not self._unit:
            cut: Floats = np.clip(projected, -MOST, MOST)
            return cut
        if self._heads.count == 1 and isinstance(self._heads, OneHead):
            return projected  # it is of length 1 already
        lengths = np.sqrt(np.einsum("hs,hs->h", projected, projected))
        lengths[lengths < SAFE[0]] = 1.0
        scaled: Floats = projected / lengths[:, np.newaxis]
        return scaled


def _products(keys: Floats, query: Floats) -> Floats:
    """Return (heads, rows) of (heads, rows, size) and (heads, size)."""
    products: Floats = np.einsum("hrs,hs->hr", keys, query)
    return products


def unit(vector: NDArray[Any]) -> Floats | None:
    """Return a vector of any finite numbers at length 1, None where all are zero."""
    if vector.dtype == np.float32:
        length = float(np.einsum("i,i->", vector, vector)) ** 0.5
        if SAFE[0] < length < SAFE[1]:
            quick: Floats = vector * np.float32(1.0 / length)
            return quick
    largest = float(np.abs(vector).max())
    if largest == 0.0:
        return None
    wide = vector.astype(np.float64) / largest  # numbers of up to 1e308 have squares that no float holds
    scaled: Floats = (wide / np.sqrt(np.einsum("i,i->", wide, wide))).astype(np.float32)
    return scaled


def orthonormal(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an orthonormal base of what the rows of each matrix span: (heads, size, length), size at most length.

    Gram and Schmidt's way, one row after the other; twice, as once is not exact where rows are nearly dependent.
    """
    base = directions.copy()
    for row in range(base.shape[1]):
        for _ in range(2):
            before, this = base[:, :row], base[:, row]
            this -= np.einsum("hr,hrl->hl", np.einsum("hrl,hl->hr", before, this), before)
            this /= np.sqrt(np.einsum("hl,hl->h", this, this))[:, np.newaxis]
    return base
