"""Costs of a defense, of attacks on it and of selection, in passes through the network."""

from __future__ import annotations

from tasks.defenses.base import Defense, passes_gradients
from tasks.evaluation.draws import (
    attacker_draws,
    draw_count,
    shares_a_draw,
    split_stages,
    whole_predictions,
)
from tasks.evaluation.specs import CraftSpec, SelectSpec
from tasks.specs import Passes


def prediction_passes(defense: Defense, classes: int, *, draws: int | None = None) -> Passes:
    """Return the passes of one prediction for one image: of all stages, draws and views.

    Not counted are repeated passes where a batch begins among the draws of an image, nor the
    savings where draws happen to be equal.

    Args:
        defense: The defense.
        classes: Number of classes.
        draws: Number of draws instead of the defense's own K.
    """
    return _passes(defense, classes, draws or draw_count(defense))


def _passes(defense: Defense, classes: int, draws: int) -> Passes:
    once, each = split_stages(defense)
    total = Passes(forwards=draws * defense.views(classes))
    for _, stage in once:
        total += _asked(stage, rows=1, distinct=1, classes=classes)
    distinct = 1
    for _, stage in each:
        total += _asked(stage, rows=draws, distinct=distinct, classes=classes)
        if not stage.deterministic(classes):
            distinct = draws
    return total


def _asked(stage: Defense, *, rows: int, distinct: int, classes: int) -> Passes:
    """Return what a stage takes for `rows` rows of one image, without predictions of its result."""
    asked = stage.forwards_and_backwards(rows=rows, distinct=distinct, classes=classes)
    return asked + Passes(touched=rows * stage.touched())


def query_passes(defense: Defense, classes: int, draws: int) -> Passes:
    """Return the passes of one query of an attacker for an image.

    See `tasks.evaluation.victim.defended`.
    """
    count = attacker_draws(defense, classes, draws)
    if shares_a_draw(defense, classes) or count == 1:
        return _passes(defense, classes, count)
    return single_passes(defense, classes, count)


def craft_passes(spec: CraftSpec, classes: int) -> Passes:
    """Return the passes of an attack for an image, on the bare or a defended model."""
    asked = spec.attack.forwards_and_backwards()
    if spec.against is None or spec.draws is None:
        return asked
    whole = query_passes(spec.against, classes, spec.draws)
    climbed = spec.against
    if spec.inner_steps is not None:
        climbed = climbed.shorter(spec.inner_steps)
    rule = spec.rule or climbed.gradients()[0]
    draws = attacker_draws(climbed, classes, spec.draws)
    back = draws * climbed.views(classes)
    query = query_passes(climbed, classes, spec.draws)
    if rule == "iterates":
        query += Passes(forwards=back * climbed.inner_steps())
        back *= 1 + climbed.inner_steps()
    as_it_is = spec.smoothing is None and rule == "straight-through" and climbed == spec.against
    total = query * asked.forwards
    # a surrogate is asked besides the defense where points are compared; see `defended`
    answers = 1 if passes_gradients(spec.against) else 2
    if not asked.backwards:
        total *= answers
    if not as_it_is or not spec.against.deterministic(classes):
        total += whole * answers * spec.attack.judgements()
    if spec.smoothing is not None or rule == "unrolled":
        # also back through every gradient of the defense, which takes two passes each
        back += 2 * query.backwards
    return total + Passes(backwards=back) * asked.backwards


def select_passes(spec: SelectSpec, classes: int) -> Passes:
    """Return the passes for trying one candidate of an image on a defended model."""
    draws = attacker_draws(spec.against, classes, spec.draws)
    single = single_passes(spec.against, classes, draws)
    whole = prediction_passes(spec.against, classes)
    return single + whole * whole_predictions(spec.against, classes, spec.predictions)


def single_passes(defense: Defense, classes: int, draws: int) -> Passes:
    """Return the passes of single draws for an image.

    Leading deterministic stages are applied once.
    """
    total = Passes(forwards=draws * defense.views(classes))
    rows = distinct = 1
    for _, stage in defense.stages():
        if not stage.deterministic(classes) or stage.combines():
            rows = draws
        total += _asked(stage, rows=rows, distinct=distinct, classes=classes)
        if not stage.deterministic(classes):
            distinct = draws
    return total
