"""What a message is told that no backend gets: who is missing, or what there is too little of."""

from __future__ import annotations

from typing import Final

NOBODY: Final = {
    "no_capability": "no backend has ever offered it",
    "no_backend": "no backend offers it now",
}
"""By error code."""
REFUSED: Final = {
    "room": "every backend is full and the waiting room too",
    "displaced": "every backend is full, and a more important message took the place in the waiting room",
    "wait": "every backend is full, and the wait would be too long",
    "late": "too little time was left when a backend had room",
    "budget": "no budget for a further head",
}
"""By the cause of `overloaded`: see `counts.REFUSALS`."""
