"""What a defense applies once a prediction and what in each draw, and what that costs."""

from __future__ import annotations

from itertools import takewhile

from tasks.defenses.base import Defense
from tasks.evaluation.specs import CraftSpec, SelectSpec
from tasks.specs import Passes

Stages = tuple[tuple[str, Defense], ...]


def split_stages(defense: Defense) -> tuple[Stages, Stages]:
    """The stages that are applied once a prediction, and those applied in each draw."""
    stages = defense.stages()
    once = tuple(takewhile(lambda stage: stage[1].once, stages))
    return once, stages[len(once) :]


def draw_count(defense: Defense) -> int:
    """K: how many draws a prediction averages; 1 where nothing is applied in each draw."""
    return defense.draws if split_stages(defense)[1] else 1


def prediction_passes(defense: Defense, classes: int, *, draws: int | None = None) -> Passes:
    """The passes of one prediction for one image: those of every stage, and K answers.

    draws: how many answers instead of the defense's own K.

    A batch that begins among the draws of an image asks again what it could not remember,
    and draws that happen to be equal are asked once; neither is counted.
    """
    return _passes(defense, classes, draws or draw_count(defense))


def _passes(defense: Defense, classes: int, draws: int) -> Passes:
    once, each = split_stages(defense)
    total = Passes(forwards=draws)
    for _, stage in once:
        total += stage.forwards_and_backwards(rows=1, distinct=1, classes=classes)
    distinct = 1
    for _, stage in each:
        total += stage.forwards_and_backwards(rows=draws, distinct=distinct, classes=classes)
        if not stage.deterministic(classes):
            distinct = draws
    return total


def shares_a_draw(defense: Defense, classes: int) -> bool:
    """Whether an attacker's draws share what is applied once: where more is drawn after it."""
    _, each = split_stages(defense)
    return any(not stage.deterministic(classes) for _, stage in each)


def attacker_draws(defense: Defense, classes: int, draws: int) -> int:
    """How many draws an attacker that asks for `draws` gets: one where all are the same."""
    return 1 if defense.deterministic(classes) else draws


def query_passes(defense: Defense, classes: int, draws: int) -> Passes:
    """What one question of an attacker about an image costs.

    See `tasks.evaluation.victim.defended`.
    """
    count = attacker_draws(defense, classes, draws)
    if shares_a_draw(defense, classes) or count == 1:
        return _passes(defense, classes, count)
    return single_passes(defense, classes, count)


def craft_passes(spec: CraftSpec, classes: int) -> Passes:
    """What an attack costs for an image, on the bare model or on a defended one."""
    asked = spec.attack.forwards_and_backwards()
    if spec.against is None or spec.draws is None:
        return asked
    query = query_passes(spec.against, classes, spec.draws)
    judged = not spec.against.deterministic(classes) or spec.smoothing is not None
    total = query * (asked.forwards + (spec.attack.judgements() if judged else 0))
    back = attacker_draws(spec.against, classes, spec.draws)
    if spec.smoothing is not None:
        # back through every gradient of the defense as well, a pass each way
        back += 2 * query.backwards
    return total + Passes(backwards=back) * asked.backwards


def select_passes(spec: SelectSpec, classes: int) -> Passes:
    """What it costs to ask a defended model about one candidate of an image."""
    draws = attacker_draws(spec.against, classes, spec.draws)
    return single_passes(spec.against, classes, draws)


def single_passes(defense: Defense, classes: int, draws: int) -> Passes:
    """So many draws of everything for an image, what has nothing to draw first applied once."""
    total = Passes(forwards=draws)
    rows = distinct = 1
    for _, stage in defense.stages():
        if not stage.deterministic(classes):
            rows = draws
        total += stage.forwards_and_backwards(rows=rows, distinct=distinct, classes=classes)
        if not stage.deterministic(classes):
            distinct = draws
    return total
