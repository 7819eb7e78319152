"""User code that this process has read: its digest, and the lines that errors and classes are of.

Reading a file or a module executes nothing; `pipeline.catalogue.code.own` imports it.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from pipeline.catalogue.code.digests import source_digest, source_modules
from pipeline.catalogue.code.imported import module_files, own_modules
from pipeline.catalogue.code.syntax import ModuleSource, parse, parse_text
from pipeline.problems import BadInput, regular, shown
from pipeline.problems.sanitize import clean
from tasks.networks.factory import own_module_name


class WrongReference(BadInput):
    """What a config names is not there: a file, a module, a class or a callable."""


@dataclass(frozen=True)
class OwnCode:
    """A module of user code.

    Attributes:
        module: Name of the module.
        place: The file's path as shown to people, or the name of an installed module.
        digest: Digest of its code, see `source_digest`.
        text: Source text of a file; None for a module of an installed package.
        modules: Digests of the modules that it consists of, by name, see `source_modules`.
    """

    module: str
    place: str
    digest: str
    text: str | None
    modules: Mapping[str, str]


KNOWN: dict[str, OwnCode] = {}
"""All of it, by the name of its module."""
_seen: dict[str, str] = {}
"""Digest of an installed module's code when it was last read before this process imported it, or
first read afterwards. A later difference means that the process runs outdated code."""


def read_file(path: Path) -> OwnCode:
    """Read a file and register its code, so that it can be imported by its module's name."""
    place = shown(path)
    try:
        text = regular(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise WrongReference(f"{place}: cannot be read: {reason.lower()}") from None
    code = code_of_file(place, text)
    return KNOWN.setdefault(code.module, code)


def code_of_file(place: str, text: str) -> OwnCode:
    """The code of a file, from its text."""
    path = Path(place)
    digest, modules = _read(path.name, parse_text(text, path, whole=True))
    return OwnCode(own_module_name(path.stem, digest), place, digest, text, modules)


def code_of_module(name: str) -> OwnCode:
    """The current code of an installed module."""
    source = parse(source_file(name), whole=True)
    _refuse_outdated({name: source})
    digest, modules = _read(name, source, name)
    return OwnCode(name, name, digest, None, modules)


def source_file(name: str) -> Path:
    """The file of an installed module, found without importing it; WrongReference if none."""
    found = module_files(name)
    if not found and importlib.util.find_spec(first := name.partition(".")[0]) is None:
        raise WrongReference(f"no module '{name}': {first} is not installed here")
    if name not in found:
        raise WrongReference(f"no module '{name}' that is a Python file")
    return found[name]


def modules_of(digest: str) -> dict[str, str]:
    """The modules that user code of a digest consists of, by name, with 16 digits of their own.

    Empty if this process has not read that code.
    """
    found = next((code.modules for code in KNOWN.values() if code.digest == digest), {})
    return {name: seen[:16] for name, seen in found.items()}


def require_unchanged(name: str, digest: str) -> None:
    """Check that what this process has of some user code, or will import, is what a digest is of.

    Modules that it has imported stay as they are, even if their files change afterwards. The others
    are read again, since a factory, or an import within a function, runs long after the digest was
    taken.

    Args:
        name: The code's module, for the message.
        digest: Digest of the code, as taken when the grid was loaded.

    Raises:
        BadInput: If a module has changed: results would be stored under the digest of other code.
    """
    code = next((code for code in KNOWN.values() if code.digest == digest), None)
    taken = {} if code is None else code.modules
    changed = [each for each in taken.keys() & _seen.keys() if _current(each) != taken[each]]
    if code is None or changed:
        raise BadInput(
            f"{min(changed, default=name)}: its code has changed since the grid was loaded; load "
            "the grid again"
        )


def declared_at(cls: type, name: str = "") -> tuple[str, int] | None:
    """File and line at which a user's class, or one of its fields or methods, is declared.

    The line is that of the class if the name is declared elsewhere. None for other classes.
    """
    code = KNOWN.get(cls.__module__)
    if code is None:
        return None
    text = source_file(code.module).read_bytes() if code.text is None else code.text
    classes = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    if (own := classes.get(cls.__name__)) is None:
        return code.place, 1
    # the last of several declarations is the one that counts
    lines = [node.lineno for node in own.body if name in _declares(node)]
    return code.place, lines[-1] if lines else own.lineno


def place_of(error: BaseException) -> str | None:
    """The innermost line of user code in an error's traceback, such as `jpeg.py:7`, or None."""
    found = _last_frame(error)
    return None if found is None else f"{found[0].place}:{found[1]}"


def module_of(error: BaseException) -> str | None:
    """The module of the innermost frame of user code in an error's traceback, or None."""
    found = _last_frame(error)
    return None if found is None else found[0].module


def line_of(error: BaseException) -> str:
    """An error of user code in one line, with its place."""
    return placed(error, words_of(error))


def words_of(error: BaseException) -> str:
    """An error of user code in one line."""
    if isinstance(error, ValidationError) and error.errors()[0]["type"] == "frozen_instance":
        name = error.errors()[0]["loc"][0]
        return f"self.{name} = …: parameters cannot be changed; keep nothing on self"
    return f"{type(error).__name__}: {clean(error) or 'no message'}"


def placed(error: BaseException, line: str) -> str:
    """Append the place in user code that an error passed through, if it did."""
    place = place_of(error)
    return f"{line} ({place})" if place else line


def _last_frame(error: BaseException) -> tuple[OwnCode, int] | None:
    found = None
    frame: TracebackType | None = error.__traceback__
    while frame is not None:
        code = KNOWN.get(str(frame.tb_frame.f_globals.get("__name__")))
        if code is not None:
            found = code, frame.tb_lineno
        frame = frame.tb_next
    if found is None and error.__cause__ is not None:
        return _last_frame(error.__cause__)
    return found


def _declares(statement: ast.stmt) -> set[str]:
    """The names that a statement in the body of a class declares."""
    match statement:
        case ast.FunctionDef(name=name):
            return {name}
        case ast.AnnAssign(target=target):
            return {ast.unparse(target)}
        case ast.Assign(targets=targets):
            return {ast.unparse(target) for target in targets}
    return set()


def _read(name: str, source: ModuleSource, module: str = "") -> tuple[str, dict[str, str]]:
    """Digest of code, and those of the modules that it consists of, see `source_modules`.

    Args:
        name: The code's name among the modules.
        source: The code.
        module: Name of its module, if it is part of a package.
    """
    imported = own_modules(source, module)
    _refuse_outdated(imported)
    modules = source_modules(name, source, imported)
    return source_digest(modules, imported), modules


def _current(name: str) -> str:
    """Digest of a module's own code: as imported, otherwise as it would be imported now."""
    return _seen[name] if name in sys.modules else parse(source_file(name), whole=True).digest


def _refuse_outdated(sources: Mapping[str, ModuleSource]) -> None:
    """Compare modules with the code that this process imported.

    Raises:
        BadInput: If it imported an older version, as a notebook does whose package was edited
            since: its results would be stored under the digest of the new code.
    """
    for name, source in sources.items():
        if name not in sys.modules:
            _seen[name] = source.digest
        elif _seen.setdefault(name, source.digest) != source.digest:
            raise BadInput(
                f"{name}: its code has changed since this process imported it; begin a new process"
            )
