"""Predictions of a defended classifier: the mean over K draws of softmax f(T_k(C(x))).

For a defense with views, `combine` makes one answer of all views of a draw.

`draw_logits` is differentiable, for adaptive attacks; `predict` gives the same answers in bounded
memory. The composition and size of a batch change an answer at most by float rounding, since random
numbers belong to an image and a draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from tasks.data.arrays import BadTensor, Crafted, Outcomes, check_pixels, require
from tasks.data.seeding import Rows
from tasks.defenses.base import Context, Defense
from tasks.defenses.transforms.combining import log_mean
from tasks.evaluation.draws import Stages, draw_count, split_stages
from tasks.evaluation.seen import Seen
from tasks.evaluation.specs import DefendSpec
from tasks.progress import Progress, Tell


class BadDefense(RuntimeError):
    """A defense returned an invalid result, or lets no gradient through."""


NO_PATH = (
    "its transform lets no gradient through (it detaches its input); "
    "write what has none with tasks.straight.through"
)
"""Message for a defense that detaches its result from its input."""


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
    prepared = _applied(first, pixels, rows, context)
    copies = len(prepared) // len(pixels)  # the iterates of an inner optimiser, or one
    numbers = torch.arange(draws, device=pixels.device)
    repeated = _copied(rows, copies).repeated(numbers)
    logits = _drawn_logits(rest, prepared.repeat_interleave(draws, dim=0), repeated, context)
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
            _applied(once, pixels[batch], rows[batch], context)
            for batch in _batches(len(pixels), batch_size)
        ]
    )
    views = defense.views(context.classifier.classes)
    for batch in _batches(len(image), max(1, batch_size // views)):
        yield _drawn_logits(each, prepared[image[batch]], repeated[batch], context)


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
        parts = [crafted.pixels[part] for part in _batches(len(crafted), batch_size)]
        bare = torch.cat(
            [classifier.logits(part.to(classifier.device)).argmax(dim=1).cpu() for part in parts]
        )
    differs = outcomes.predicted != bare[:, None]
    if outcomes.abstained is not None:
        differs |= outcomes.abstained
    return int(differs.sum())


def _batches(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _drawn_logits(each: Stages, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
    """Return logits, float32 [M, classes], in parts of at most the context's `rows_at_once`."""
    size = len(pixels)
    if context.rows_at_once is not None:
        size = max(1, context.rows_at_once // _copies(each, context))
    if len(pixels) <= size:
        return _asked(each, pixels, rows, context)

    def ask(part: slice) -> Callable[[Tensor], Tensor]:
        own = rows[part]
        return lambda given: _asked(each, given, own, context)

    answers = [_Part.apply(pixels[part], ask(part)) for part in _batches(len(pixels), size)]
    return torch.cat(answers)


def _copies(stages: Stages, context: Context) -> int:
    """Return how many images the stages make of one, as views or iterates."""
    classes = context.classifier.classes
    counts = (
        stage.inner_steps() + 1 if _by_iterates(stage, context) else stage.views(classes)
        for _, stage in stages
    )
    return math.prod(counts)


def _by_iterates(defense: Defense, context: Context) -> bool:
    return context.rule == "iterates" and "iterates" in defense.gradients()


def _asked(each: Stages, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
    classifier = context.classifier
    applied = _applied(each, pixels, rows, context)
    own = _copied(rows, len(applied) // len(pixels))
    last = each[-1][1] if each else None
    views = 1 if last is None else last.views(classifier.classes)
    if last is not None and last.asks_members():
        logits = classifier.member_logits(applied, own)
        views *= logits.shape[1]
    else:
        logits = classifier.logits(applied, own)
    logits = logits.view(len(pixels), -1, views, classifier.classes)
    combined = logits[:, :, 0] if last is None else _combined(last, logits, context)
    return log_mean(combined)  # over the iterates of an inner optimiser


def _combined(defense: Defense, logits: Tensor, context: Context) -> Tensor:
    """Combine the views of each draw, [M, copies, views, classes] to [M, copies, classes]."""
    rules = defense.gradients()
    instead = context.rule == "surrogate" and "surrogate" in rules
    instead |= context.rule != "straight-through" and "straight-through" not in rules
    found: object = defense.surrogate(logits) if instead else defense.combine(logits)
    expected = (*logits.shape[:2], logits.shape[3])
    if not isinstance(found, Tensor) or found.shape != expected:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise BadDefense(f"{defense.kind}: combined {tuple(logits.shape)} to {shape}")
    if defense.combines() and not found.isfinite().all():
        raise BadDefense(f"{defense.kind}: combined logits to values that are not finite")
    return found


def _copied(rows: Rows, copies: int) -> Rows:
    """Repeat each row, the copies adjacent and with the same random numbers."""
    if copies == 1:
        return rows
    return rows[torch.arange(len(rows), device=rows.images.device).repeat_interleave(copies)]


class _Part(torch.autograd.Function):
    """A function of pixels that saves nothing for the backward pass and is computed again there."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, ask: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(pixels)
        ctx.ask = ask
        with torch.no_grad():
            return ask(pixels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:
        (pixels,) = ctx.saved_tensors
        with torch.enable_grad():
            leaf = pixels.detach().requires_grad_()
            answers = ctx.ask(leaf)
            if not answers.requires_grad:
                raise BadDefense(NO_PATH)
            return torch.autograd.grad(answers, leaf, gradients)[0], None


def _applied(stages: Stages, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
    classes = context.classifier.classes
    for scope, defense in stages:
        own = _copied(rows, len(pixels) // len(rows)).within(scope)
        # a user's code gets a copy: the stored examples, the next redraw and the attack need these
        given = pixels.clone() if type(defense).source_digest else pixels
        if _by_iterates(defense, context):
            result, copies = defense.iterates(given, own, context), defense.inner_steps() + 1
        else:
            result, copies = defense.transform(given, own, context), defense.views(classes)
        if given is not pixels and not torch.equal(given, pixels):
            raise BadDefense(f"{defense.kind}: changes the pixels that it is given")
        pixels = _checked(defense, result, pixels, copies)
    return pixels


def _checked(defense: Defense, result: object, pixels: Tensor, copies: int) -> Tensor:
    """Return the result of a stage; BadDefense if it is no batch of images."""
    if not isinstance(result, Tensor):
        raise BadDefense(f"{defense.kind}: returned {type(result).__name__}, expected a tensor")
    expected = (copies * len(pixels), *pixels.shape[1:])
    if result.shape != expected:
        views = f" ({copies} copies of each image)" if copies > 1 else ""
        raise BadDefense(
            f"{defense.kind}: returned shape {tuple(result.shape)}, expected {expected}{views}"
        )
    try:
        if defense.leaves_range():
            require(result.isfinite().all(), "transformed pixels: not all finite")
        else:
            check_pixels(result.detach(), "transformed pixels")
    except BadTensor as error:
        raise BadDefense(f"{defense.kind}: {error}") from error
    return result


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
