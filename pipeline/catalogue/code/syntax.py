"""What a module's code says and imports, whatever its comments, layout and docstrings.

A digest is of the syntax tree, written in a form of our own that is the same under every
supported Python. Digests are remembered by path, size, times and inode.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.problems import BadInput
from pipeline.store.files import cache_folder, is_fresh, replace_text, stamp_of

# named by this very code, so that nothing remembered outlives the form it was made in
_MEMORY = f"syntax-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]}.json"
_LAYOUT = frozenset({"ctx", "kind", "type_comment", "type_ignores"})


@dataclass(frozen=True)
class ModuleSource:
    """A module's code: the digest of its syntax tree, and the names that it imports.

    imports: absolute dotted names, or relative ones with their leading dots.
    """

    digest: str
    imports: tuple[str, ...]


def read_sources(paths: Iterable[Path]) -> dict[Path, ModuleSource]:
    """Each file's code; BadInput for one that is not Python."""
    memory, found, learned = _remembered(), {}, False
    for path in paths:
        status = path.stat()
        stamp = stamp_of(status)
        entry = memory.get(key := str(path.resolve()))
        if entry is not None and entry["stamp"] == stamp:
            found[path] = ModuleSource(entry["digest"], tuple(entry["imports"]))
            continue
        found[path] = parse(path)
        if not is_fresh(status):
            memory[key] = {"stamp": stamp, **asdict(found[path])}
            learned = True
    if learned:
        _remember(memory)
    return found


def parse(path: Path) -> ModuleSource:
    """A file's code, read afresh."""
    return parse_text(path.read_bytes(), path)


def parse_text(text: bytes | str, path: Path) -> ModuleSource:
    """The code of a text that was read from `path`; BadInput if it is not Python."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise BadInput(f"{path}:{line}: not Python: {error}") from None
    digest = hashlib.sha256(canonical(tree).encode("ascii")).hexdigest()
    return ModuleSource(digest, tuple(sorted(set(_imports(tree)))))


def canonical(value: object) -> str:
    """A syntax tree's form: ASCII, without positions and all else that changes nothing.

    The version of a spec is left out too: it is compared by itself. So is what it says of them.
    """
    if isinstance(value, ast.JoinedStr):
        # Python 3.12 ends some format specifications with an empty string.
        parts = [part for part in value.values if getattr(part, "value", None) != ""]
        return f"JoinedStr{canonical(parts)}"
    if isinstance(value, ast.AST):
        fields = (
            f"{name}={canonical(field)}"
            for name, field in sorted(ast.iter_fields(value))
            if name not in _LAYOUT and field is not None and field != []
        )
        return f"{type(value).__name__}({','.join(fields)})"
    if isinstance(value, list):
        return f"[{','.join(canonical(item) for item in value if not _says_nothing(item))}]"
    return f"{type(value).__name__}:{value!a}"


def _says_nothing(item: object) -> bool:
    match item:
        case ast.Pass() | ast.Expr(value=ast.Constant(value=str())):
            return True
        case ast.AnnAssign(
            target=ast.Name(id="version"),
            annotation=ast.Subscript(value=ast.Name(id="ClassVar")),
            value=ast.Constant(value=int()),
        ):
            return True
        case ast.AnnAssign(
            target=ast.Name(id="changes"), annotation=ast.Subscript(value=ast.Name(id="ClassVar"))
        ):
            return True
        case _:
            return False


def _imports(node: ast.AST) -> Iterator[str]:
    """Every name imported below a node, inside functions too, but not for type checkers."""
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
    kept = {path: entry for path, entry in memory.items() if Path(path).exists()}
    with contextlib.suppress(OSError, RuntimeError):
        target = cache_folder() / _MEMORY
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_text(target, json.dumps(kept))
