"""The section about embedding attention (policies ring, ring_multi, ring_greedy), and the file it may name.

Rules: as in `sections`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from router_daemon.config.base import Section
from router_daemon.errors import ConfigError

PROJECTIONS_BYTES: Final = 256 * 1024 * 1024
"""A larger file is not read: 16 heads of 64 numbers for embeddings of 4,096, of queries and of keys, take 32 MiB."""


class RingAttentionSection(Section):
    """Embedding attention: policies ring, ring_multi and ring_greedy, with the published values by default."""

    temperature: float = Field(
        default=0.7,
        ge=1e-6,
        le=1e6,
        description="tau: alignment counts as q.k / tau. The lower it is, the more a message goes to whoever fits it "
        "best, and the less latency and reliability are heard. Published: 0.7.",
    )
    performance: float = Field(
        default=0.3,
        ge=0,
        le=1000,
        description="Weight of log(1 / (1 + latency in milliseconds)). Published: 0.3.",
    )
    reliability: float = Field(
        default=0.2,
        ge=0,
        le=1000,
        description="Weight of the logarithm of the success ratio. Published: 0.2.",
    )
    scaling: Literal["unit", "raw"] = Field(
        default="unit",
        description="unit: queries and keys at length 1, and q.k / (tau sqrt(numbers)), as attention is scaled "
        "elsewhere and as the published latencies come out; raw: q.k / tau with vectors as they are, as printed.",
    )
    latency: Literal["live", "profile"] = Field(
        default="live",
        description="live: what is to be expected of a backend now, with the work that is there; profile: the moving "
        "average of what was measured, as published, which sends too much to whoever was fast.",
    )
    path_cost: bool = Field(
        default=True,
        description="Latency includes the way to a backend of another daemon. false: only its own, as published.",
    )
    without_embedding: Literal["attention", "refuse"] = Field(
        default="attention",
        description="What becomes of a message without an embedding, with a zero one, or with one that no key of its "
        "capability can be held against. attention: that policy chooses for it; refuse: ERROR bad_header, or "
        "no_backend where the backends have no keys.",
    )
    attention_heads: int = Field(
        default=4,
        ge=1,
        le=64,
        description="Attention heads of ring_multi, each a random subspace of its own, unless projections are given.",
    )
    seed: int = Field(
        default=1,
        ge=0,
        le=2**63 - 1,
        description="Of those subspaces. Daemons that are to choose alike need the same.",
    )
    projections: str = Field(
        default="",
        description="File of learnt projections for ring_multi, as numpy.save writes it: (heads, size, numbers) for "
        'queries and keys alike, or (2, heads, size, numbers), those of queries first. "": none, random ones.',
    )
    dimensions: int = Field(
        default=4096,
        ge=1,
        le=1_000_000,
        description="The most numbers of an embedding; a longer one is taken as none. Keys take 4 bytes for each "
        "number of each backend, and twice that while backends join.",
    )


def load_projections(path: str) -> NDArray[Any] | None:
    """Return the array in a file as float32, None where no file is named.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    if not path:
        return None
    where = f"ring_attention.projections = {path!r}"
    try:
        if Path(path).stat().st_size > PROJECTIONS_BYTES:
            raise ConfigError(f"{where}: larger than {PROJECTIONS_BYTES} bytes")
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise ConfigError(f"{where}: no array as numpy.save writes it ({error})") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise ConfigError(f"{where}: expected one array of numbers")
    shaped = array.ndim == 3 or (array.ndim == 4 and array.shape[0] == 2)
    if not shaped or not array.size:
        raise ConfigError(f"{where}: expected shape (heads, size, numbers) or (2, heads, ...), got {array.shape}")
    if not (np.abs(array) < np.finfo(np.float32).max).all():
        raise ConfigError(f"{where}: NaN, infinity, or a number too large for float32")
    return array.astype(np.float32)
