"""The cost of an integrity card, from its spec alone and without torch."""

from __future__ import annotations

from tasks.attacks.apgd import APGD
from tasks.attacks.base import Attack
from tasks.attacks.fgsm import FGSM
from tasks.attacks.pgd import PGD
from tasks.attacks.square import Square
from tasks.evaluation.costs import craft_passes, prediction_passes, query_passes, single_passes
from tasks.evaluation.draws import attacker_draws, draw_count
from tasks.evaluation.specs import CardSpec, CraftSpec
from tasks.specs import Passes, Shard

MULTIPLES = (0.25, 0.5, 2.0)
"""Multiples of a card's epsilon at which accuracy is measured, besides 0 and 1."""

ALONE = 8
"""Number of images that are asked alone as well as in a batch."""


def answer_draws(spec: CardSpec, classes: int) -> int:
    """Return how many draws an answer of a card averages: the defense's own, at most the card's."""
    return attacker_draws(spec.against, classes, min(draw_count(spec.against), spec.draws))


def own_draws(spec: CardSpec, classes: int) -> int:
    """Return how many draws a prediction of the model averages; one if all are the same."""
    return attacker_draws(spec.against, classes, draw_count(spec.against))


def climb(spec: CardSpec, epsilon: float, *, steps: int | None = None) -> APGD:
    """Return the attack that is checked: APGD on the margin, from the image, in the card's norm.

    The adaptive numbers of a table come from this attack.

    Args:
        spec: The card.
        epsilon: Radius of the ball, in 1/255.
        steps: Number of steps; the card's by default.
    """
    return APGD(
        norm=spec.norm,
        epsilon=epsilon,
        loss="margin",
        steps=steps or spec.climb_steps,
        random_start=False,
    )


def card_passes(spec: CardSpec, classes: int) -> Passes:
    """Return the passes of all checks of a card, for all its images."""
    sizes = 1 + len(MULTIPLES) + 1  # epsilon itself and a very large one
    attacks = [
        climb(spec, 0.0, steps=1),
        FGSM(),
        PGD(steps=spec.steps[-1]),
        *[climb(spec, spec.epsilon)] * sizes,
    ]
    total = sum((_known(spec, attack, classes) for attack in attacks), _gradient(spec, classes))
    total += _still(spec, classes)
    asked = 2 + 3 + len(spec.steps) + sizes - 1 + spec.corners
    if spec.queries:
        square = Square(queries=spec.queries)
        total += _known(spec, square, classes, draws=spec.query_draws)
        asked += 1
    if spec.converges:
        longer = climb(spec, spec.epsilon, steps=2 * spec.climb_steps)
        total += _known(spec, longer, classes, draws=2 * spec.draws)
        asked += 1
    answer = prediction_passes(spec.against, classes, draws=answer_draws(spec, classes))
    alone = 2 * min(ALONE, spec.images)
    return (total + answer * asked) * spec.images + answer * alone


def _known(spec: CardSpec, attack: Attack, classes: int, *, draws: int | None = None) -> Passes:
    """Return the passes of an attack on the defended model, for an image."""
    made = CraftSpec(
        attack=attack,
        shard=Shard(start=0, stop=spec.images),
        seed=spec.seed,
        precision=spec.precision,
        against=spec.against,
        draws=draws or spec.draws,
    )
    return craft_passes(made, classes)


def _gradient(spec: CardSpec, classes: int) -> Passes:
    """Return the passes of one query with two gradients."""
    back = attacker_draws(spec.against, classes, spec.draws) * spec.against.views(classes)
    return query_passes(spec.against, classes, spec.draws) + Passes(backwards=2 * back)


def _still(spec: CardSpec, classes: int) -> Passes:
    """Return the passes of APGD runs on one fixed draw and on the bare model.

    The fixed draw answers the points of both.
    """
    asked = climb(spec, spec.epsilon).forwards_and_backwards()
    one = single_passes(spec.against, classes, 1)
    both = (one + Passes(forwards=1)) * asked.forwards + one * 2
    return both + Passes(backwards=1 + spec.against.views(classes)) * asked.backwards
