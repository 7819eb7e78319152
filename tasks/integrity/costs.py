"""What an integrity card asks, and what that costs: from its spec alone, without torch."""

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
"""The epsilons, in those of a card, at which the accuracy is measured beside 0 and 1."""

ALONE = 8
"""How many images are asked alone as well as in a batch."""


def answer_draws(spec: CardSpec, classes: int) -> int:
    """How many draws an answer of a card is the mean of: the defense's own, the card's at most."""
    return attacker_draws(spec.against, classes, min(draw_count(spec.against), spec.draws))


def own_draws(spec: CardSpec, classes: int) -> int:
    """How many draws an answer of the judged model is the mean of; one where all are the same."""
    return attacker_draws(spec.against, classes, draw_count(spec.against))


def climb(spec: CardSpec, epsilon: float, *, steps: int | None = None) -> APGD:
    """The margin climbed from the image in a ball of `epsilon`, in 1/255, of the card's norm.

    This is what the adaptive numbers of a table come from, so it is what is examined.
    """
    return APGD(
        norm=spec.norm,
        epsilon=epsilon,
        loss="margin",
        steps=steps or spec.climb_steps,
        random_start=False,
    )


def card_passes(spec: CardSpec, classes: int) -> Passes:
    """The passes of all checks of a card about all its images."""
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
    """An attack on the defended model, for an image."""
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
    """One question, with two gradients back through it."""
    back = attacker_draws(spec.against, classes, spec.draws) * spec.against.views(classes)
    return query_passes(spec.against, classes, spec.draws) + Passes(backwards=2 * back)


def _still(spec: CardSpec, classes: int) -> Passes:
    """A climb on one draw that stays the same and one on the bare model, and what they leave."""
    asked = climb(spec, spec.epsilon).forwards_and_backwards()
    one = single_passes(spec.against, classes, 1)
    both = (one + Passes(forwards=1)) * (asked.forwards + 1)
    return both + Passes(backwards=1 + spec.against.views(classes)) * asked.backwards
