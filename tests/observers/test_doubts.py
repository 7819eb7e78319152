"""What makes no sense about a model is said as soon as its clean images are scored."""

from __future__ import annotations

import pytest
from made_up import make_cell

from pipeline.execution.events import Done, NodeDone
from pipeline.grid.nodes import CellNodes
from pipeline.observers.doubts import Doubts
from pipeline.report.answers import Answers, NotTested, PerImage


def unknown(name: str) -> Answers:
    raise NotTested("gone")


@pytest.mark.parametrize(
    ("attack", "defense", "accuracy", "said"),
    [
        ("clean", "none", 12.0, 1),
        ("clean", "none", 93.0, 0),
        # a defense, and an attack, may leave as little
        ("clean", "guo", 12.0, 0),
        ("untargeted-pgd10", "none", 12.0, 0),
    ],
)
def test_a_model_that_is_no_better_than_chance_is_told_at_once(
    attack: str, defense: str, accuracy: float, said: int
) -> None:
    cell = make_cell("demo-iat", attack, defense)
    node = CellNodes().score(cell)
    lines: list[str] = []
    observer = Doubts({cell.name: cell}, {cell.name: node}, PerImage(unknown), lines.append)
    done = NodeDone(node, Done(node.digest, "0", {"accuracy": accuracy, "images": 300}, {}))
    observer.notify(done)
    observer.notify(done)
    assert len(lines) == said
    told = "demo-iat: clean-accuracy: the clean accuracy is 12.0 % of 300 images"
    assert all(told in line for line in lines)
