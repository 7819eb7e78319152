"""One pass of images through the stages of a defense and the classifier.

Public functions raise BadDefense if a stage returns an invalid result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from tasks.data.arrays import BadTensor, check_pixels, require
from tasks.data.seeding import Rows
from tasks.defenses.base import Context, Defense
from tasks.defenses.transforms.combining import log_mean
from tasks.evaluation.draws import Stages


class BadDefense(RuntimeError):
    """A defense returned an invalid result, or lets no gradient through."""


NO_PATH = (
    "its transform lets no gradient through (it detaches its input); "
    "write what has none with tasks.straight.through"
)
"""Message for a defense that detaches its result from its input."""


def stage_logits(each: Stages, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
    """Return the logits of images after some stages, differentiable in the pixels.

    They are computed in parts of at most the context's `rows_at_once` rows of the network.

    Args:
        each: The stages, with the scopes of their draws.
        pixels: float32 [M, C, H, W] in [0, 1].
        rows: Identities of the M images.
        context: The classifier, and how gradients are to pass.

    Returns:
        float32 [M, classes], one answer for all views and iterates of an image.
    """
    size = len(pixels)
    if context.rows_at_once is not None:
        size = max(1, context.rows_at_once // _copies(each, context))
    if len(pixels) <= size:
        return _asked(each, pixels, rows, context)

    def ask(part: slice) -> Callable[[Tensor], Tensor]:
        own = rows[part]
        return lambda given: _asked(each, given, own, context)

    answers = [_Part.apply(pixels[part], ask(part)) for part in batches(len(pixels), size)]
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
    applied = applied_stages(each, pixels, rows, context)
    own = copied_rows(rows, len(applied) // len(pixels))
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


def copied_rows(rows: Rows, copies: int) -> Rows:
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


def applied_stages(stages: Stages, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
    """Return what some stages make of images, float32 [N x copies, C, H, W].

    The copies of an image, its views or the iterates of an inner optimiser, are adjacent. See
    `stage_logits` for the arguments.
    """
    classes = context.classifier.classes
    for scope, defense in stages:
        own = copied_rows(rows, len(pixels) // len(rows)).within(scope)
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


def batches(count: int, size: int) -> Iterator[slice]:
    """Return the slices of `size` that divide `count` rows; the last one may be smaller."""
    return (slice(start, start + size) for start in range(0, count, size))
