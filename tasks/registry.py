"""Maps the `kind` in a config to its class: kind `mi-ol` of defenses is `tasks.defenses.mi_ol`.

Only the module of the requested kind is imported, and no module of these packages imports torch.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from tasks.specs import Kind

Family = Literal["attacks", "defenses", "networks"]


def kinds(family: Family) -> list[str]:
    """Return the kinds of a family, sorted."""
    package = importlib.import_module(f"tasks.{family}")
    modules = pkgutil.iter_modules(package.__path__)
    names = (module.name for module in modules if not module.ispkg)
    return sorted(name.replace("_", "-") for name in names if name != "base")


def written_kinds(family: Family) -> list[str]:
    """Return the kinds that a config may name.

    A chain is written as `counter+guo` and an ensemble as `members`, so these two are left out.
    """
    return [kind for kind in kinds(family) if kind not in {"chain", "ensemble"}]


@cache
def kind_class(family: Family, kind: str) -> type[Kind]:
    """Return the class of a kind; KeyError if there is none."""
    if kind not in kinds(family):
        raise KeyError(kind)
    module = importlib.import_module(f"tasks.{family}.{kind.replace('-', '_')}")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Kind):
            field = value.model_fields.get("kind")
            if field is not None and field.default == kind:
                return value
    raise KeyError(kind)


REQUIREMENTS: Mapping[str, str] = {
    "art": "adversarial-robustness-toolbox>=1.19",
    "foolbox": "foolbox>=3.3.4",
    "system-metrics": "psutil>=6",
    "timm": "timm>=1.0.9",
    "torchattacks": "torchattacks>=3.3,<3.4",
}
"""The extras and what each installs, as in `pyproject.toml`."""


class LibraryProblem(RuntimeError):
    """A library is not installed, lacks the requested attack, or rejects its parameters."""


def imported(library: str, module: str) -> Any:
    """Import a module of a library.

    Raises:
        LibraryProblem: If the library is not installed; the message has the command that installs
            it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise LibraryProblem(absent(library)) from None


def absent(library: str) -> str:
    """Return the message for a library, named as its extra, that is not installed."""
    return f"{library} is not installed here: {installs(library)}"


def installs(extra: str) -> str:
    """Return the command that installs an extra. The program itself is on no package index."""
    return f"pip install '{REQUIREMENTS[extra]}'"
