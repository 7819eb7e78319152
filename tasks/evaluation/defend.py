"""Predictions of a defended classifier: the mean over K draws of softmax f(T_k(C(x))).

For a defense with views, `combine` makes one answer of all views of a draw.

`draw_logits` is differentiable, for adaptive attacks; `predict` gives the same answers in bounded
memory. The composition and size of a batch change an answer at most by float rounding, since random
numbers belong to an image and a draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import takewhile

import torch
from torch import Tensor

from tasks.data.arrays import Crafted, Outcomes, require
from tasks.data.seeding import Rows
from tasks.defenses.base import Context, Defense
from tasks.defenses.transforms.combining import log_mean
from tasks.evaluation.draws import Stages, draw_count, split_stages
from tasks.evaluation.seen import Seen
from tasks.evaluation.specs import DefendSpec
from tasks.evaluation.stages import applied_stages, batches, copied_rows, stage_logits
from tasks.progress import Progress, Tell


def draw_logits(
    defense: Defense, context: Context, pixels: Tensor, rows: Rows, *, draws: int | None = None
) -> Tensor:
    """Return the logits of each draw of one prediction, differentiable in the pixels.

    Under the rule `iterates` they are the log of the mean probability over the iterates of each
    draw.

    Args:
        defense: The defense.
        context: The classifier, and how gradients are to pass.
        pixels: float32 [N, C, H, W] in [0, 1].
        rows: Identities of the N images.
        draws: Number of draws; the defense's own K by default.

    Returns:
        float32 [N, draws, classes].
    """
    return _draw_logits(split_stages(defense), context, pixels, rows, draws or draw_count(defense))


def single_draw_logits(
    defense: Defense, context: Context, pixels: Tensor, rows: Rows, *, draws: int
) -> Tensor:
    """Return the logits of draws that each draw everything anew, including what is applied once.

    Only leading stages that are deterministic are applied once. Float32 [N, draws, classes]; see
    `draw_logits`.
    """
    classes = context.classifier.classes
    stages = defense.stages()
    first = tuple(
        takewhile(lambda stage: stage[1].deterministic(classes) and not stage[1].combines(), stages)
    )
    return _draw_logits((first, stages[len(first) :]), context, pixels, rows, draws)


def _draw_logits(
    split: tuple[Stages, Stages], context: Context, pixels: Tensor, rows: Rows, draws: int
) -> Tensor:
    first, rest = split
    prepared = applied_stages(first, pixels, rows, context)
    copies = len(prepared) // len(pixels)  # the iterates of an inner optimiser, or one
    numbers = torch.arange(draws, device=pixels.device)
    repeated = copied_rows(rows, copies).repeated(numbers)
    logits = stage_logits(rest, prepared.repeat_interleave(draws, dim=0), repeated, context)
    return log_mean(logits.view(len(pixels), copies, draws, -1).transpose(1, 2))


def predict(
    defense: Defense,
    context: Context,
    pixels: Tensor,
    rows: Rows,
    batch_size: int,
    advance: Callable[[float], None] | None = None,
    seen: Seen | None = None,
) -> Tensor:
    """Return the defended classifier's probabilities, float32 [N, classes].

    They are float64 for a defense that combines several answers.

    Args:
        defense: The defense.
        context: The classifier.
        pixels: float32 [N, C, H, W] in [0, 1].
        rows: Identities of the N images.
        batch_size: Most rows (images, draws or views) in one pass of a transform or the network.
        advance: Called with the images' worth of draws in each batch.
        seen: Looks at the network's logits.
    """
    draws = draw_count(defense)
    answers = []
    with torch.no_grad():
        for logits in logits_by_batch(defense, context, pixels, rows, batch_size):
            answers.append(precise(defense, logits).softmax(dim=1))
            if seen is not None:
                seen.logits(logits)
            if advance is not None:
                advance(len(logits) / draws)
    return torch.cat(answers).view(len(pixels), draws, -1).mean(dim=1)


def logits_by_batch(
    defense: Defense, context: Context, pixels: Tensor, rows: Rows, batch_size: int
) -> Iterator[Tensor]:
    """Yield the logits of all draws of all images, float32 [M, classes], in batches.

    See `predict`.
    """
    once, each = split_stages(defense)
    draws = torch.arange(draw_count(defense), device=pixels.device)
    repeated = rows.repeated(draws)
    image = torch.arange(len(pixels), device=pixels.device).repeat_interleave(len(draws))
    prepared = torch.cat(
        [
            applied_stages(once, pixels[batch], rows[batch], context)
            for batch in batches(len(pixels), batch_size)
        ]
    )
    views = defense.views(context.classifier.classes)
    for batch in batches(len(image), max(1, batch_size // views)):
        yield stage_logits(each, prepared[image[batch]], repeated[batch], context)


def precise(defense: Defense, logits: Tensor) -> Tensor:
    """Convert logits to float64 if the defense combines several answers.

    If several views are confident, each in another class, the combined scores of classes may differ
    by less than float32 can represent.
    """
    return logits.double() if defense.combines() else logits


def defend(
    crafted: Crafted,
    context: Context,
    spec: DefendSpec,
    *,
    batch_size: int,
    tell: Tell,
    seen: Seen | None = None,
) -> Outcomes:
    """Predict every example of a shard R times, each time with its own draws.

    A redraw of a deterministic defense repeats the first, so such a spec should have one.

    Args:
        crafted: The examples.
        context: The classifier, on whose device this runs.
        spec: The defense, R and the seed.
        batch_size: See `predict`.
        tell: Called with the progress.
        seen: Looks at the network's first logits.

    Returns:
        Outcomes on the CPU.

    Raises:
        BadDefense: If the defense returns an invalid result.
        BadTensor: If there are no examples.
    """
    require(len(crafted) > 0, "there are no examples to defend against")
    device = context.classifier.device
    if context.pool is not None:
        context = replace(context, pool=context.pool.to(device))
    pixels, ids = crafted.pixels.to(device), crafted.ids.to(device)
    total = float(len(crafted) * spec.redraws)
    done = 0.0
    redraws = []
    for redraw in range(spec.redraws):
        note = f"redraw {redraw + 1} of {spec.redraws}"

        def advance(images: float, note: str = note) -> None:
            nonlocal done
            done += images
            tell(Progress(done, total, note))

        rows = redraw_rows(spec, ids, redraw)
        answered = predict(spec.defense, context, pixels, rows, batch_size, advance, seen)
        redraws.append(answered)
    probabilities = torch.stack(redraws, dim=1)
    abstained = spec.defense.abstains(probabilities, draw_count(spec.defense))
    return Outcomes(
        probabilities.cpu(),
        crafted.labels.cpu(),
        crafted.ids.cpu(),
        None if abstained is None else abstained.cpu(),
    )


def redraw_rows(spec: DefendSpec, ids: Tensor, redraw: int) -> Rows:
    """Return the identities of images, by ids, int64 [N], in a redraw, numbered from 0."""
    return Rows(spec.seed, ids, torch.full_like(ids, redraw)).within("defend")


def acted(crafted: Crafted, context: Context, outcomes: Outcomes, *, batch_size: int) -> int | None:
    """Return how many predictions, over images and redraws, differ from the bare classifier's.

    An abstention differs. The passes for this are not counted. None if the classifier is
    randomised, and so differs from itself.
    """
    classifier = context.classifier
    if classifier.randomised:
        return None
    with torch.no_grad(), classifier.aside():
        parts = [crafted.pixels[part] for part in batches(len(crafted), batch_size)]
        bare = torch.cat(
            [classifier.logits(part.to(classifier.device)).argmax(dim=1).cpu() for part in parts]
        )
    differs = outcomes.predicted != bare[:, None]
    if outcomes.abstained is not None:
        differs |= outcomes.abstained
    return int(differs.sum())


def first_draw(
    defense: Defense, context: Context, pixels: Tensor, ids: Tensor, *, seed: int
) -> Tensor:
    """Return images as `defend` transforms them in its first redraw: the first draw and view.

    Args:
        defense: The defense.
        context: The classifier.
        pixels: float32 [N, C, H, W] in [0, 1].
        ids: int64 [N].
        seed: Seed of the draws.

    Returns:
        float32 [N, C, H, W], clipped to [0, 1].
    """
    rows = Rows(seed, ids, torch.zeros_like(ids)).within("defend")
    with torch.no_grad():
        for scope, stage in defense.stages():
            made = stage.transform(pixels, rows.within(scope), context)
            pixels = made[:: len(made) // len(pixels)].clamp(0, 1)
    return pixels
