"""An embedding on the command line: numbers between commas, or a file of them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from router_daemon.cli.exits import USAGE, CommandError

FILE_BYTES: Final = 16 * 1024 * 1024


def read(text: str) -> NDArray[np.float32]:
    """Return the numbers that are written here, or in the file of that name (.npy, or JSON: a list of numbers).

    Raises:
        CommandError: there is no such file, or what it holds is no embedding.
    """
    try:
        given = _written(text) if _is_list(text) else _from_file(Path(text))
        array = np.asarray(given, dtype=np.float64)
    except OSError as error:
        raise CommandError(USAGE, f"--embedding {text}: {error.strerror or error}") from None
    except (ValueError, TypeError, OverflowError, EOFError, RecursionError):
        raise CommandError(USAGE, f"--embedding {text}: no list of numbers") from None
    if array.ndim != 1 or not array.size or not (np.abs(array) <= np.finfo(np.float32).max).all():
        raise CommandError(USAGE, f"--embedding {text}: expected finite numbers in one dimension")
    return array.astype("<f4")


def packed(embedding: NDArray[np.float32]) -> str:
    """Return it as the admin room takes it: little-endian float32 in base64url."""
    return base64.urlsafe_b64encode(embedding.tobytes()).decode()


def _is_list(text: str) -> bool:
    try:
        _written(text)
    except ValueError:
        return False
    return True


def _written(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def _from_file(path: Path) -> Any:
    if path.stat().st_size > FILE_BYTES:
        raise ValueError("too large")
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    return json.loads(path.read_text())
