"""Which parts of a defense draw once a prediction, and which in each draw."""

from __future__ import annotations

from itertools import takewhile

from tasks.defenses.base import Defense

Stages = tuple[tuple[str, Defense], ...]


def split_stages(defense: Defense) -> tuple[Stages, Stages]:
    """The stages that are applied once a prediction, and those applied in each draw.

    A stage that combines is of the latter: its views are made in each draw, of which there may be
    one.
    """
    stages = defense.stages()
    once = tuple(takewhile(lambda stage: stage[1].once and not stage[1].combines(), stages))
    return once, stages[len(once) :]


def draw_count(defense: Defense) -> int:
    """K: how many draws a prediction averages; 1 where nothing is applied in each draw."""
    return defense.draws if split_stages(defense)[1] else 1


def shares_a_draw(defense: Defense, classes: int) -> bool:
    """Whether an attacker's draws share what is applied once: where more is drawn after it."""
    _, each = split_stages(defense)
    return any(not stage.deterministic(classes) for _, stage in each)


def attacker_draws(defense: Defense, classes: int, draws: int, *, randomised: bool = False) -> int:
    """How many draws an attacker that asks for `draws` gets: one where all are the same.

    randomised: the network behind the defense draws as well.
    """
    return 1 if defense.deterministic(classes) and not randomised else draws


def whole_predictions(
    defense: Defense, classes: int, predictions: int, *, randomised: bool = False
) -> int:
    """How many whole predictions are asked beside single draws: none where all are the same."""
    return 0 if defense.deterministic(classes) and not randomised else predictions
