"""The benchmark as a graph of cached tasks: specs, digests and places.

`load_grid`, `run` and `results` are the commands as functions; see `pipeline.commands.api`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.commands.api import load_grid, results, run

__version__ = "0.1.0"
__all__ = ["__version__", "load_grid", "results", "run"]


def hidden_tasks() -> str | None:
    """In one line, which other module called `tasks` stands before this program's; None if none.

    Python looks in the current folder first, and the name is common.
    """
    loaded = sys.modules.get("tasks")
    spec = loaded.__spec__ if loaded is not None else importlib.util.find_spec("tasks")
    found = spec.origin if spec is not None else getattr(loaded, "__file__", None)
    own = Path(__file__).parents[1] / "tasks" / "__init__.py"
    if found is not None and Path(found).resolve() == own.resolve():
        return None
    return (
        f"the package 'tasks' of this program is hidden by another module of that name, {found}: "
        "rename that one, or start from another folder with the command `pipeline`"
    )


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'pipeline' has no attribute '{name}'")
    # by name: every module imports this package, which stands below all of its layers
    return getattr(importlib.import_module("pipeline.commands.api"), name)
