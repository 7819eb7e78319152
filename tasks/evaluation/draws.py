"""Which parts of a defense are applied once per prediction, and which once per draw."""

from __future__ import annotations

from itertools import takewhile

from tasks.defenses.base import Defense

Stages = tuple[tuple[str, Defense], ...]


def split_stages(defense: Defense) -> tuple[Stages, Stages]:
    """Return the stages applied once per prediction, and those applied in each draw.

    A stage that combines several answers is always of the latter, even with a single draw.
    """
    stages = defense.stages()
    once = tuple(takewhile(lambda stage: stage[1].once and not stage[1].combines(), stages))
    return once, stages[len(once) :]


def draw_count(defense: Defense) -> int:
    """Return K, the draws that a prediction averages; 1 if no stage is applied in each draw."""
    return defense.draws if split_stages(defense)[1] else 1


def shares_a_draw(defense: Defense, classes: int) -> bool:
    """Return whether an attacker's draws share the stages applied once, as later ones draw."""
    _, each = split_stages(defense)
    return any(not stage.deterministic(classes) for _, stage in each)


def attacker_draws(defense: Defense, classes: int, draws: int, *, randomised: bool = False) -> int:
    """Return how many draws an attacker gets who asks for `draws`: one if all are the same.

    randomised: whether the network itself draws.
    """
    return 1 if defense.deterministic(classes) and not randomised else draws


def whole_predictions(
    defense: Defense, classes: int, predictions: int, *, randomised: bool = False
) -> int:
    """Return how many whole predictions to make besides single draws: none if all are the same."""
    return 0 if defense.deterministic(classes) and not randomised else predictions
