"""The benchmark as a graph of cached tasks: specs, digests and places.

`load_grid`, `run` and `results` are the commands as functions; see `pipeline.commands.api`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.commands.api import load_grid, results, run

__version__ = "0.1.0"
__all__ = ["__version__", "load_grid", "results", "run"]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'pipeline' has no attribute '{name}'")
    # by name: every module imports this package, which stands below all of its layers
    return getattr(importlib.import_module("pipeline.commands.api"), name)
