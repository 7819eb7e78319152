"""From the `kind` in a config to its class: kind `mi-ol` of defenses is `tasks.defenses.mi_ol`.

Only the module that is asked for is imported, and no module of these packages imports torch.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from functools import cache
from typing import Any, Literal

from tasks.specs import Kind

Family = Literal["attacks", "defenses", "networks"]


def kinds(family: Family) -> list[str]:
    """The kinds of a family, sorted."""
    package = importlib.import_module(f"tasks.{family}")
    modules = pkgutil.iter_modules(package.__path__)
    names = (module.name for module in modules if not module.ispkg)
    return sorted(name.replace("_", "-") for name in names if name != "base")


def written_kinds(family: Family) -> list[str]:
    """Those that a config may name: a chain is written `counter+guo`, an ensemble as `members`."""
    return [kind for kind in kinds(family) if kind not in {"chain", "ensemble"}]


@cache
def kind_class(family: Family, kind: str) -> type[Kind]:
    """The class of a kind; KeyError where there is none."""
    if kind not in kinds(family):
        raise KeyError(kind)
    module = importlib.import_module(f"tasks.{family}.{kind.replace('-', '_')}")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Kind):
            field = value.model_fields.get("kind")
            if field is not None and field.default == kind:
                return value
    raise KeyError(kind)


PROGRAM = "test-time-defense-bench"


class LibraryProblem(RuntimeError):
    """A library that is not there, has no such attack, or does not take these parameters."""


def imported(library: str, module: str) -> Any:
    """A library's module; LibraryProblem, with the extra that installs it, where it is absent."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise LibraryProblem(absent(library)) from None


def absent(library: str) -> str:
    """What to say where a library is not installed."""
    return f"{library} is not installed here: pip install '{PROGRAM}[{library}]'"
