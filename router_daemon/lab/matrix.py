"""All cells by name."""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from router_daemon.lab.hardships import hardship_cells
from router_daemon.lab.workloads import Cell, load_cells

if TYPE_CHECKING:
    from collections.abc import Mapping


@cache
def cells() -> Mapping[str, Cell]:
    """Return the whole matrix."""
    return MappingProxyType({cell.name: cell for cell in (*load_cells(), *hardship_cells())})
