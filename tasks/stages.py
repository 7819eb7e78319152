"""What a defense applies once a prediction and what in each draw, and what that costs."""

from __future__ import annotations

from itertools import takewhile

from tasks.defenses.base import Defense
from tasks.passes import Passes

Stages = tuple[tuple[str, Defense], ...]


def split_stages(defense: Defense) -> tuple[Stages, Stages]:
    """The stages that are applied once a prediction, and those applied in each draw."""
    stages = defense.stages()
    once = tuple(takewhile(lambda stage: stage[1].once, stages))
    return once, stages[len(once) :]


def draw_count(defense: Defense) -> int:
    """K: how many draws a prediction averages; 1 where nothing is applied in each draw."""
    return defense.draws if split_stages(defense)[1] else 1


def prediction_passes(defense: Defense, classes: int) -> Passes:
    """The passes of one prediction for one image: those of every stage, and K answers.

    A batch that begins among the draws of an image asks again what it could not remember,
    and draws that happen to be equal are asked once; neither is counted.
    """
    once, each = split_stages(defense)
    draws = draw_count(defense)
    total = Passes(forwards=draws)
    for _, stage in once:
        total += stage.forwards_and_backwards(rows=1, distinct=1, classes=classes)
    distinct = 1
    for _, stage in each:
        total += stage.forwards_and_backwards(rows=draws, distinct=distinct, classes=classes)
        if not stage.deterministic(classes):
            distinct = draws
    return total
