"""No module imports itself by way of others."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class _WithoutTyping(ast.NodeTransformer):
    """Leaves out what is imported for type checkers alone."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        self.generic_visit(node)
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else node


def modules(root: Path, *packages: str) -> dict[str, ast.AST]:
    found = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = _WithoutTyping().visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    """All that a module may import, inside functions as well: modules, and names that may be."""
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
    assert len(order(trees)) == len(trees) > 200


def test_a_circle_is_found_where_an_import_inside_a_function_closes_it(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "one.py").write_text("from toy import two\n")
    (tmp_path / "toy" / "two.py").write_text("def late():\n    from toy.one import late\n")
    with pytest.raises(CycleError):
        order(modules(tmp_path, "toy"))
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from toy.one import late\n"
    (tmp_path / "toy" / "two.py").write_text(text)
    assert order(modules(tmp_path, "toy")) == ["toy.two", "toy.one"]
