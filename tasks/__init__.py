"""Training, attacks, defenses and scoring: tensors and specs in, tensors and facts out.

Nothing here depends on Ray, MLflow, Arrow, files or the command line. Importing a spec does not
import torch; only computing with it does.
"""

from __future__ import annotations

import importlib

PUBLIC = {"straight": "tasks.defenses.transforms.straight"}
"""Modules that are also attributes of the package, such as `tasks.straight`."""


def __getattr__(name: str) -> object:
    if name not in PUBLIC:
        raise AttributeError(f"module 'tasks' has no attribute '{name}'")
    # by name: an import would make the code of every module part of this package's
    return importlib.import_module(PUBLIC[name])
