"""A defended model as the victim of an adaptive attack.

Expectation over transformation (EOT) and straight-through gradients (Athalye et al., ICML 2018),
from what a defense declares: its stages, its draws and a differentiable transform. The attacker
knows the distribution of the random numbers but not those that the defender will draw: it has its
own streams.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from tasks.attacks.base import Victim
from tasks.data.seeding import Rows
from tasks.defenses.base import Context, Defense, GradientRule, passes_gradients
from tasks.defenses.transforms.combining import log_mean
from tasks.evaluation.defend import draw_logits, single_draw_logits
from tasks.evaluation.draws import attacker_draws, shares_a_draw
from tasks.evaluation.stages import NO_PATH, BadDefense

TIE = 1e-3
"""Weight of a surrogate's logits where points are compared: small, so that they decide only between
points that the defense answers alike, as a vote of few draws often does."""


def defended(
    defense: Defense,
    context: Context,
    rows: Rows,
    *,
    draws: int,
    smoothing: float | None = None,
    rule: GradientRule | None = None,
    inner_steps: int | None = None,
    relu_width: float | None = None,
    window: int | None = None,
) -> Victim:
    """Return a defended model as a victim, with `draws` fresh draws for each image at each step.

    Its logits are the log of the mean probability over draws. If the model is randomised, or if
    gradients are not those of the defense as it is, points are compared by `Victim.judged`, with
    draws that stay the same within a window. Ties of a defense whose gradients are those of a
    surrogate are broken by the surrogate.

    Args:
        defense: The defense.
        context: The classifier.
        rows: Identities of the images.
        draws: Draws at each step; one if all draws are the same.
        smoothing: See `Context`; for gradients only, as are the arguments below.
        rule: See `Context`; the first rule that the defense declares by default.
        inner_steps: Differentiate a copy of the defense with at most so many inner steps.
        relu_width: See `Context`.
        window: See `Victim.window`.

    Raises:
        BadDefense: When the victim is called, if the defense lets no gradient through.
    """
    classes, randomised = context.classifier.classes, context.classifier.randomised
    count = attacker_draws(defense, classes, draws, randomised=randomised)
    ask = draw_logits if shares_a_draw(defense, classes) else single_draw_logits
    passing = rule or defense.gradients()[0]
    climbed = defense if inner_steps is None else defense.shorter(inner_steps)
    attacked = replace(context, smoothing=smoothing, rule=passing, relu_width=relu_width)
    fixed = defense.deterministic(classes) and not randomised
    surrogate = None if passes_gradients(defense) else replace(context, rule="surrogate")

    def answered(pixels: Tensor, own: Rows) -> Tensor:
        with torch.no_grad():
            found = log_mean(ask(defense, context, pixels, own, draws=count))
            if surrogate is not None:
                found += TIE * log_mean(ask(defense, surrogate, pixels, own, draws=count))
        return found

    def logits(pixels: Tensor, step: int) -> Tensor:
        own = rows
        if fixed and len(pixels) != len(rows):
            # libraries ask about subsets of the batch; a deterministic defense draws nothing, so
            # any rows will do
            own = rows[torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device)]
        found = ask(climbed, attacked, pixels, own.within("eot").at(step), draws=count)
        if torch.is_grad_enabled() and pixels.requires_grad and not found.requires_grad:
            raise BadDefense(f"{defense.kind}: {NO_PATH}")
        return log_mean(found)

    def judged(pixels: Tensor, window: int) -> Tensor:
        return answered(pixels, rows.within("judge").at(window))

    def queried(pixels: Tensor, step: int) -> Tensor:
        return answered(pixels, rows.within("eot").at(step))

    as_it_is = smoothing is None and passing == "straight-through" and climbed == defense

    def part(places: Tensor) -> Victim:
        return defended(
            defense,
            context,
            rows[places],
            draws=draws,
            smoothing=smoothing,
            rule=rule,
            inner_steps=inner_steps,
            relu_width=relu_width,
            window=window,
        )

    return Victim(
        logits,
        classes,
        judged=None if fixed and as_it_is else judged,
        queried=None if surrogate is None else queried,
        window=window,
        part=part,
    )


def reporting(victim: Victim, images: int, tell: Callable[[float], None]) -> Victim:
    """Return the same victim, which reports how far the attack is whenever it has answered.

    Args:
        victim: The victim, with its parts.
        images: How many images the attack asks about at most, one that it asks about twice counted
            twice.
        tell: Called with the share of these, in [0, 1].
    """
    asked = 0

    def counted(answer: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
        def call(pixels: Tensor, step: int) -> Tensor:
            nonlocal asked
            found = answer(pixels, step)
            asked += len(pixels)
            tell(min(1.0, asked / images))
            return found

        return call

    def wrapped(victim: Victim) -> Victim:
        return replace(
            victim,
            logits=counted(victim.logits),
            judged=victim.judged and counted(victim.judged),
            queried=victim.queried and counted(victim.queried),
            part=victim.part and (lambda places: wrapped(victim.of(places))),
        )

    return wrapped(victim)
