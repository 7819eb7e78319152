"""No module imports itself by way of others."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def modules(root: Path, *packages: str) -> dict[str, ast.AST]:
    found = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    """What a module may import, also in functions and for type checkers: modules, and names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            assert not node.level, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (node.module, *names)


def order(trees: Mapping[str, ast.AST]) -> list[str]:
    """The modules, each after those that it imports; CycleError where there is no such order."""
    graph = {name: {*imported(tree)} & trees.keys() - {name} for name, tree in trees.items()}
    return list(TopologicalSorter(graph).static_order())


def test_no_module_of_the_project_imports_itself_by_way_of_others() -> None:
    trees = modules(ROOT, "pipeline", "tasks")
    del trees["pipeline"]  # the public API, whose functions are imported when they are used
    assert len(order(trees)) == len(trees) > 200


@pytest.mark.parametrize("place", ["def late():", "if TYPE_CHECKING:"])
def test_a_circle_is_found_wherever_an_import_closes_it(tmp_path: Path, place: str) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "one.py").write_text("from toy import two\n")
    (tmp_path / "toy" / "two.py").write_text(f"{place}\n    from toy.one import late\n")
    with pytest.raises(CycleError):
        order(modules(tmp_path, "toy"))
