"""User code: attacks, defenses and networks from a single file or an installed package.

Code is imported only when it is needed: a class when a config names it, the factory of a network
when a run builds the network. A file is imported as a module whose name contains the digest of its
code, so two versions never mix; its classes carry that digest into the digests of nodes. The digest
includes the user's other modules that the code imports. Ray workers receive files as text, and
check that an installed package, what a file imports, and the version of a library that a node uses
are the same as the driver's.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pickle
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pydantic import PydanticUndefinedAnnotation, PydanticUserError

from pipeline.catalogue.code.data import record_open
from pipeline.catalogue.code.imported import uncovered
from pipeline.catalogue.code.known import (
    KNOWN,
    OwnCode,
    WrongReference,
    code_of_file,
    code_of_module,
    declared_at,
    place_of,
    read_file,
    source_file,
)
from pipeline.catalogue.code.libraries import library_version
from pipeline.catalogue.code.members import (
    SUPPORTED,
    annotated_with,
    not_class_variable,
    unsupported,
)
from pipeline.problems import BadInput, shown, suggestion
from pipeline.problems.sanitize import clean
from tasks.defenses.base import Defense
from tasks.networks.factory import Factory
from tasks.specs import Kind, Spec

GROUP = "test_time_defense_bench"
"""Prefix of the entry-point groups of installed packages: `test_time_defense_bench.defenses` etc.
"""

AnyKind = TypeVar("AnyKind", bound=Kind)


@dataclass(frozen=True)
class Parcel:
    """A pickled object, with the user code that is needed to unpickle it.

    Attributes:
        libraries: Versions of the libraries that the driver uses for it, by name.
    """

    content: bytes
    codes: tuple[OwnCode, ...]
    libraries: Mapping[str, str] = field(default_factory=dict)


def is_reference(kind: str) -> bool:
    """Whether a kind refers to code: `jpeg.py`, `jpeg.py:Jpeg` or `package.module:Jpeg`."""
    return kind.endswith(".py") or ":" in kind


def packaged(section: str) -> dict[str, str]:
    """The entry points of installed packages for a section: name → `package.module:Class`."""
    return {entry.name: entry.value for entry in entry_points(group=f"{GROUP}.{section}")}


def own_class(reference: str, folder: Path, base: type[AnyKind]) -> type[AnyKind]:
    """Import the class that a reference names; files are relative to `folder`.

    Raises:
        WrongReference: If there is no such class, or if a file has several and none is named.
    """
    module, name = own_module(reference, folder)
    place = KNOWN[module.__name__].place if module.__name__ in KNOWN else module.__name__
    if name:
        found = getattr(module, name, None)
        if not (isinstance(found, type) and issubclass(found, base)):
            known = _classes(module, base)
            raise WrongReference(
                f"{place}: no class '{name}' derived from {base.__name__}{suggestion(name, known)}"
            )
        if "source_digest" not in vars(found) and not found.__module__.startswith("tasks."):
            _from_package(found.__module__)
        return found
    classes = _classes(module, base)
    if not classes:
        raise WrongReference(f"{place}: no class derived from {base.__module__}.{base.__name__}")
    if len(classes) > 1:
        choices = " or ".join(f"`kind: {reference}:{name}`" for name in classes)
        raise WrongReference(f"{place}: has several classes; a YAML file says which: {choices}")
    return next(iter(classes.values()))


def own_module(reference: str, folder: Path) -> tuple[ModuleType, str]:
    """Import the module that a reference names; returns it and the name after the colon."""
    place, _, name = reference.partition(":")
    if place.endswith(".py"):
        return _from_file(folder / Path(place).expanduser()), name
    if not name.isidentifier():
        raise WrongReference(f"{reference}: expected package.module:Class")
    if not _binds(source_file(place), name):
        # importing a module executes it, which is avoided if it does not define the name
        raise WrongReference(f"{place}: no class '{name}'")
    return _from_package(place), name


def with_source(network: Factory, folder: Path) -> Factory:
    """A copy of a factory spec with the digest of its code, and without the folder of its file.

    The code is read, not executed.

    Raises:
        WrongReference: If there is no such file or module, or nothing of that name in it.
    """
    place, _, name = network.factory.partition(":")
    if place.endswith(".py"):
        code = read_file(folder / Path(place).expanduser())
        factory, source = f"{Path(place).name}:{name}", code.digest
    else:
        # known, so that a worker compares its code
        KNOWN[place] = code = code_of_module(place)
        factory, source = network.factory, code.digest
    text = source_file(place).read_bytes() if code.text is None else code.text
    tree = ast.parse(text)
    if (names := _names(tree)) is not None and name not in names:
        known = [
            node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
        ]
        raise WrongReference(f"{code.place}: no callable '{name}'{suggestion(name, known)}")
    return network.model_copy(update={"factory": factory, "source": source})


def pack(content: object, libraries: Mapping[str, str] | None = None) -> Parcel:
    """Pickle an object for a worker, together with the user code that it refers to.

    Args:
        content: The object.
        libraries: Versions of the libraries that it uses, which a worker must have, by name.
    """
    pickled = pickle.dumps(content)
    # pickles refer to a class by its module, to a factory by the digest of its code
    needed = [
        code
        for code in KNOWN.values()
        if code.module.encode() in pickled or code.digest.encode() in pickled
    ]
    return Parcel(pickled, tuple(needed), dict(libraries or {}))


def unpack(parcel: Parcel) -> Any:
    """Unpickle a parcel; BadInput if an installed package or library differs from the driver's."""
    for name, version in parcel.libraries.items():
        if (here := library_version(name)) != version:
            raise BadInput(
                f"{name}: this worker has version {here} of it, the driver {version}: install the "
                "same everywhere"
            )
    for code in parcel.codes:
        if code.module in KNOWN:
            continue
        if code.text is None:
            _from_package(code.module)
            if KNOWN[code.module].digest != code.digest:
                raise BadInput(
                    f"{code.module}: this worker has other code of it than the driver, or of what "
                    "it imports"
                )
        elif code_of_file(code.place, code.text).digest != code.digest:
            raise BadInput(
                f"{code.place}: this worker has other code of what it imports than the driver, or "
                "does not find it (PYTHONPATH has to be absolute, and the same everywhere)"
            )
        else:
            KNOWN[code.module] = code
    return pickle.loads(parcel.content)  # noqa: S301  the driver's own, by way of Ray


def _from_file(path: Path) -> ModuleType:
    code = read_file(path)
    try:
        return importlib.import_module(code.module)
    except BadInput:
        raise
    except PydanticUserError as error:
        raise BadInput(_misdeclared(error, code)) from error
    except ModuleNotFoundError as error:
        raise BadInput(
            f"{place_of(error) or code.place}: {error}; it has to be installed, or in a folder of "
            "PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())
        raise BadInput(
            f"{place_of(error) or code.place}: {type(error).__name__}: {said}"
        ) from error


def _misdeclared(error: PydanticUserError, code: OwnCode) -> str:
    """What is wrong with the declaration of a class, in a line with its place."""
    place = place_of(error) or code.place
    if error.code == "schema-for-unknown-type":
        kind = re.search(r"schema for (?:<class ')?([\w.]+)", error.message)
        text = source_file(code.module).read_bytes() if code.text is None else code.text
        name, line = kind[1] if kind else "", place.rpartition(":")[2]
        found = annotated_with(text, int(line), name.rpartition(".")[2]) if line.isdigit() else None
        which = f"{code.place}:{found[1]}: {found[0]}" if found else place
        return f"{which}: the type {name} is not supported; {SUPPORTED}"
    named = re.match(r"A non-annotated attribute was detected: `(\w+) = |Field '(\w+)'", str(error))
    if error.code not in {"model-field-missing-annotation", "model-field-overridden"} or not named:
        return f"{place}: {clean(error.message)}"
    name = named[1] or named[2]
    example = f"`{name}: float = 0.1`"
    return f"{place}: {name} has no type; a parameter is declared with one, such as {example}"


class _OwnFiles(MetaPathFinder, Loader):
    """An importer (finder and loader) for registered files of user code."""

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        code = KNOWN.get(fullname)
        return None if code is None or code.text is None else ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        code = KNOWN[module.__name__]
        module.__file__ = code.place
        with _covered(code.place, code.modules):
            exec(compile(code.text or "", code.place, "exec"), module.__dict__)  # noqa: S102  the user's own
        _mark(module, code.digest, code.text or "")


sys.meta_path.append(_OwnFiles())
sys.addaudithook(record_open)


def _binds(path: Path, name: str) -> bool:
    """Whether a module's file defines a class of a name, or may import one."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return False
    for statement in ast.walk(tree):
        if isinstance(statement, ast.ClassDef) and statement.name == name:
            return True
        if isinstance(statement, ast.ImportFrom) and any(
            (alias.asname or alias.name) in {name, "*"} for alias in statement.names
        ):
            return True
    return False


def _names(tree: ast.Module) -> set[str] | None:
    """All names that a module's code gives to something; None if it may have others."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.alias(name=name, asname=other):
                found.add(other or name)
            case ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case ast.Name(id="globals" | "vars" | "locals" | "setattr" | "exec"):
                return None
    return None if found & {"*", "__getattr__"} else found


def _from_package(name: str) -> ModuleType:
    # read before it is imported, so that a later change is noticed
    code = None if name.partition(".")[0] == "tasks" else code_of_module(name)
    if code is not None:
        KNOWN[name] = code
    try:
        with _covered(name, () if code is None else code.modules):
            module = importlib.import_module(name)
    except PydanticUserError as error:
        if code is None:
            raise
        raise BadInput(_misdeclared(error, code)) from error
    except SystemExit as error:
        raise BadInput(f"module '{name}' ends the program where it is imported") from error
    except ImportError as error:
        raise BadInput(f"no module '{name}': {' '.join(str(error).split())}") from None
    if code is not None:
        _mark(module, code.digest, source_file(name).read_bytes())
    return module


@contextmanager
def _covered(place: str, modules: Collection[str]) -> Iterator[None]:
    """Refuse imports of a user's other modules that no digest covers.

    Args:
        place: The file or module that imports, for the message.
        modules: Names of the modules that its digest covers.

    Raises:
        BadInput: If one is found only while the code runs, for example in a folder that it adds to
            `sys.path`. A change of that module would change no digest.
    """
    before = set(sys.modules)
    yield
    if found := uncovered(before, modules):
        for name in found:
            del sys.modules[name]
        name, path = min(found.items())
        raise BadInput(
            f"{place}: {name} ({shown(path)}) is found only while this code runs, so a change of "
            "it would recompute nothing; import it with a statement, from an installed package or "
            "a folder of PYTHONPATH"
        )


def _mark(module: ModuleType, digest: str, text: str | bytes) -> None:
    uses_rows = _transforms(text)
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Spec) and _is_of(value, module):
            _check_types(value)
            if meant := not_class_variable(value):
                place, line = declared_at(value, meant[0]) or (module.__name__, 1)
                raise BadInput(f"{place}:{line}: {meant[0]} is no parameter; write `{meant[1]}`")
            value.source_digest = digest
            if issubclass(value, Defense) and value.__qualname__ in uses_rows:
                value.without_chance = not uses_rows[value.__qualname__]


def _check_types(cls: type[Spec]) -> None:
    """Raise BadInput for a parameter whose type is not defined, or whose values have no digest."""

    def at(name: str) -> str:
        place, line = declared_at(cls, name) or (cls.__module__, 1)
        return f"{place}:{line}: {cls.__name__}"

    try:
        cls.model_rebuild()  # names that annotations use may be defined below the class
    except PydanticUndefinedAnnotation as error:
        raise BadInput(f"{at('')}: the type {error.name} of a parameter is not defined") from error
    for name, declared in cls.model_fields.items():
        if (kind := unsupported(declared.annotation)) is not None:
            words = inspect.formatannotation(kind).replace(f"{cls.__module__}.", "")
            raise BadInput(f"{at(name)}.{name}: the type {words} is not supported; {SUPPORTED}")


def _transforms(text: str | bytes) -> dict[str, bool]:
    """Classes of a module that define `transform`, and whether it uses its argument `rows`."""
    found = {}
    for cls in (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)):
        for method in cls.body:
            if isinstance(method, ast.FunctionDef) and method.name == "transform":
                arguments = [*method.args.posonlyargs, *method.args.args]
                name = arguments[2].arg if len(arguments) > 2 else None
                found[cls.name] = name is None or any(
                    isinstance(node, ast.Name) and node.id in {name, "locals", "super"}
                    for node in ast.walk(method)
                )
    return found


def _classes(module: ModuleType, base: type[AnyKind]) -> dict[str, type[AnyKind]]:
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and _is_of(value, module)
    }


def _is_of(value: type, module: ModuleType) -> bool:
    return value.__module__ == module.__name__
