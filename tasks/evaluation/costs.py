"""What a defense applies once a prediction and what in each draw, and what that costs."""

from __future__ import annotations

from tasks.defenses.base import Defense
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
    """The passes of one prediction for one image: those of every stage, and K answers a view.

    draws: how many answers instead of the defense's own K.

    A batch that begins among the draws of an image asks again what it could not remember,
    and draws that happen to be equal are asked once; neither is counted.
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
    """What a stage takes for `rows` rows of one image, beside the answers about what it gives."""
    asked = stage.forwards_and_backwards(rows=rows, distinct=distinct, classes=classes)
    return asked + Passes(touched=rows * stage.touched())


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
    if not as_it_is or not spec.against.deterministic(classes):
        total += whole * spec.attack.judgements()
    if spec.smoothing is not None or rule == "unrolled":
        # back through every gradient of the defense as well, a pass each way
        back += 2 * query.backwards
    return total + Passes(backwards=back) * asked.backwards


def select_passes(spec: SelectSpec, classes: int) -> Passes:
    """What it costs to ask a defended model about one candidate of an image."""
    draws = attacker_draws(spec.against, classes, spec.draws)
    single = single_passes(spec.against, classes, draws)
    whole = prediction_passes(spec.against, classes)
    return single + whole * whole_predictions(spec.against, classes, spec.predictions)


def single_passes(defense: Defense, classes: int, draws: int) -> Passes:
    """So many draws of everything for an image, what has nothing to draw first applied once."""
    total = Passes(forwards=draws * defense.views(classes))
    rows = distinct = 1
    for _, stage in defense.stages():
        if not stage.deterministic(classes) or stage.combines():
            rows = draws
        total += _asked(stage, rows=rows, distinct=distinct, classes=classes)
        if not stage.deterministic(classes):
            distinct = draws
    return total
