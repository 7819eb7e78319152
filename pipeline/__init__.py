"""Benchmark of test-time defenses: configs in, a cached task graph, an artifact store, reports out.

The public API for scripts and notebooks is `load_grid`, `run` and `results`, which do what the
commands of the same purpose do; see `pipeline.commands.api`.
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
    """Check that `import tasks` finds this program's package and not another module of that name.

    Python searches the current folder first, and `tasks` is a common name.

    Returns:
        None if the right package is found, otherwise an error message of one line that names the
            module in its place.
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
    # imported by name and only on demand: every module imports this package, which is the lowest of
    # the layers
    return getattr(importlib.import_module("pipeline.commands.api"), name)
