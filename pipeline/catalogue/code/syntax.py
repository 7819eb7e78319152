"""Content hash and imports of a module, independent of comments, layout and docstrings.

The digest is computed from the syntax tree, in a canonical form that is the same under all
supported Python versions. Digests are cached by path, size, times and inode.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.problems import BadInput
from pipeline.store.files import cache_folder, is_fresh, replace_text, stamp_of

# the name contains the hash of this file, so that a change of the form invalidates the cache
_MEMORY = f"syntax-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]}.json"
WHOLE = "#whole"
_LAYOUT = frozenset({"ctx", "kind", "type_comment", "type_ignores"})


@dataclass(frozen=True)
class ModuleSource:
    """Digest of a module's syntax tree, and the names that it imports.

    imports: absolute dotted names, or relative ones with their leading dots.
    """

    digest: str
    imports: tuple[str, ...]


def read_sources(paths: Iterable[Path], *, whole: bool = False) -> dict[Path, ModuleSource]:
    """Parse the files, or take them from the cache; BadInput if one is not Python.

    whole: see `parse_text`.
    """
    memory, found, learned = _remembered(), {}, False
    for path in paths:
        status = path.stat()
        stamp = stamp_of(status)
        entry = memory.get(key := f"{path.resolve()}{WHOLE * whole}")
        if entry is not None and entry["stamp"] == stamp:
            found[path] = ModuleSource(entry["digest"], tuple(entry["imports"]))
            continue
        found[path] = parse(path, whole=whole)
        if not is_fresh(status):
            memory[key] = {"stamp": stamp, **asdict(found[path])}
            learned = True
    if learned:
        _remember(memory)
    return found


def parse(path: Path, *, whole: bool = False) -> ModuleSource:
    """Parse a file without the cache; see `parse_text`."""
    return parse_text(path.read_bytes(), path, whole=whole)


def parse_text(text: bytes | str, path: Path, *, whole: bool = False) -> ModuleSource:
    """Parse source text.

    Args:
        text: The source.
        path: Its file, for messages.
        whole: Whether the digest includes `version` and `changes` of classes, which this program's
            own specs compare separately.

    Raises:
        BadInput: With `path` and line, if the text is not Python.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        # the text of a SyntaxError repeats its place
        raise BadInput(f"{path}:{line}: not Python: {getattr(error, 'msg', error)}") from None
    digest = hashlib.sha256(canonical(tree, whole=whole).encode("ascii")).hexdigest()
    return ModuleSource(digest, tuple(sorted(set(_imports(tree)))))


def canonical(value: object, *, whole: bool = False) -> str:
    """Canonical ASCII form of a syntax tree, without positions and anything that has no effect.

    Unless `whole` is set, the `version` of a spec and its `changes` are left out too: versions are
    compared separately.
    """
    within = partial(canonical, whole=whole)
    if isinstance(value, ast.JoinedStr):
        # Python 3.12 appends an empty string to some format specifications
        parts = [part for part in value.values if getattr(part, "value", None) != ""]
        return f"JoinedStr{within(parts)}"
    if isinstance(value, ast.AST):
        fields = (
            f"{name}={within(field)}"
            for name, field in sorted(ast.iter_fields(value))
            if name not in _LAYOUT and field is not None and field != []
        )
        return f"{type(value).__name__}({','.join(fields)})"
    if isinstance(value, list):
        told = (item for item in value if not _says_nothing(item, whole=whole))
        return f"[{','.join(map(within, told))}]"
    return f"{type(value).__name__}:{value!a}"


def _says_nothing(item: object, *, whole: bool) -> bool:
    match item:
        case ast.Pass() | ast.Expr(value=ast.Constant(value=str())):
            return True
        case ast.AnnAssign(
            target=ast.Name(id="version"),
            annotation=ast.Subscript(value=ast.Name(id="ClassVar")),
            value=ast.Constant(value=int()),
        ):
            return not whole
        case ast.AnnAssign(
            target=ast.Name(id="changes"), annotation=ast.Subscript(value=ast.Name(id="ClassVar"))
        ):
            return not whole
        case _:
            return False


def _imports(node: ast.AST) -> Iterator[str]:
    """All names imported below a node, inside functions too, but not under `if TYPE_CHECKING`."""
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            package = "." * level + (module or "")
            yield package
            joint = "" if package.endswith(".") else "."
            yield from (f"{package}{joint}{alias.name}" for alias in names)
        case ast.If(
            test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"), orelse=orelse
        ):
            for statement in orelse:
                yield from _imports(statement)
        case _:
            for child in ast.iter_child_nodes(node):
                yield from _imports(child)


def _remembered() -> dict[str, dict[str, Any]]:
    try:
        memory = json.loads((cache_folder() / _MEMORY).read_text(encoding="utf-8"))
    except (OSError, RuntimeError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}


def _remember(memory: Mapping[str, Mapping[str, Any]]) -> None:
    kept = {key: entry for key, entry in memory.items() if Path(key.removesuffix(WHOLE)).exists()}
    with contextlib.suppress(OSError, RuntimeError):
        target = cache_folder() / _MEMORY
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_text(target, json.dumps(kept))
