"""Auto-PGD (Croce and Hein, ICML 2020): steps that shrink where they no longer help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tasks.attacks.base import Victim
from tasks.attacks.search.geometry import Ball
from tasks.attacks.search.objectives import Goal, Loss
from tasks.attacks.search.schedule import checkpoints

MOMENTUM = 0.75
"""The share of the new step in a move; the rest goes on along the move before."""

RISES = 0.75
"""The share of a window's steps that must raise the objective for its step size to stay."""


@dataclass(frozen=True)
class Candidates:
    """One image each, float [N, C, H, W], its objective, float [N], and whose goal is reached."""

    pixels: Tensor
    values: Tensor
    reached: Tensor

    def or_better(self, other: Candidates) -> Candidates:
        """Of each image the one that reached its goal, of equals the one of the higher value.

        A high cross-entropy is not always a wrong answer, so the value alone would lose some.
        """
        higher = (self.reached == other.reached) & (other.values > self.values)
        better = higher | (other.reached & ~self.reached)
        return Candidates(
            _where(better, other.pixels, self.pixels),
            _where(better, other.values, self.values),
            _where(better, other.reached, self.reached),
        )

    def first(self, count: int) -> Candidates:
        """Those of the first `count` images."""
        return Candidates(self.pixels[:count], self.values[:count], self.reached[:count])

    def improved(self, places: Tensor, other: Candidates) -> Candidates:
        """With `or_better` for the images at some places, int64 [n], which `other` is of."""
        own = Candidates(self.pixels[places], self.values[places], self.reached[places])
        better = own.or_better(other)
        return Candidates(
            self.pixels.index_copy(0, places, better.pixels),
            self.values.index_copy(0, places, better.values),
            self.reached.index_copy(0, places, better.reached),
        )


class Ask(Protocol):
    """What a search asks at a step: the candidates that the pixels are, and their gradient."""

    def __call__(self, pixels: Tensor, step: int, *, climb: bool) -> tuple[Candidates, Tensor]:
        """The gradient has the pixels' shape; without `climb` none is found, and it is zero."""
        ...


Renew = Callable[[Candidates, Candidates], tuple[Candidates, Candidates]]
"""The best and the highest, judged once more by what the window that begins is judged by."""


@dataclass
class Question:
    """What is asked of a victim by whoever has a goal; an `Ask`, with its `Renew`.

    One forward pass, and one backward pass where the search climbs on. Of a victim that judges
    by draws of its own, the gradient is of fresh draws and the candidates are those of the
    window's draws: kept by the lucky draws of one step, a point would look better than it is.
    """

    victim: Victim
    goal: Goal
    loss: Loss
    window: int = 0

    def __call__(self, pixels: Tensor, step: int, *, climb: bool) -> tuple[Candidates, Tensor]:
        """See `Ask`."""
        judged = self.victim.judged
        if judged is not None and not climb:
            return self._candidates(pixels, judged(pixels, self.window)), torch.zeros_like(pixels)
        with torch.set_grad_enabled(climb):
            leaf = pixels.detach().requires_grad_(climb)
            logits = self.victim.logits(leaf, step)
            values = self.goal.objective(logits, self.loss)
            # Summed, so that no image scales another's gradient.
            gradient = (
                torch.autograd.grad(values.sum(), leaf)[0] if climb else torch.zeros_like(pixels)
            )
        if judged is not None:
            logits = judged(pixels, self.window)
        return self._candidates(pixels, logits.detach()), gradient

    def renew(self, best: Candidates, highest: Candidates) -> tuple[Candidates, Candidates]:
        """See `Renew`. The same pixels, as they always are with the margin, are asked once."""
        self.window += 1
        judged = self.again(best)
        same = torch.equal(best.pixels, highest.pixels)
        return judged, judged if same else self.again(highest)

    def again(self, candidates: Candidates) -> Candidates:
        """Judged by the draws of the window; as they are where the victim does not draw."""
        if self.victim.judged is None:
            return candidates
        pixels = candidates.pixels
        return self._candidates(pixels, self.victim.judged(pixels, self.window))

    def _candidates(self, pixels: Tensor, logits: Tensor) -> Candidates:
        values = self.goal.objective(logits, self.loss)
        return Candidates(pixels, values, self.goal.reached(logits))


def climb(
    ask: Ask,
    pixels: Tensor,
    start: Tensor,
    *,
    ball: Ball,
    steps: int,
    first_step: int = 0,
    renew: Renew | None = None,
) -> Candidates:
    """The best of the start and `steps` iterates.

    pixels: the originals, float32 [N, C, H, W] in [0, 1]; start: the first iterate, in the ball;
    first_step: the number that `ask` is given at the start, the iterates' follow it; renew:
    judges anew, after each checkpoint, what is kept for the next window. Every
    image has its own step size: twice the radius at first, halved at a checkpoint where too few
    steps raised the objective or nothing changed since the one before; such an image goes on
    from its highest point.
    """
    size = torch.full_like(pixels[:, :1, :1, :1], 2 * ball.radius)
    found, gradient = ask(start, first_step, climb=True)
    best, highest, highest_gradient = found, found, gradient
    size_before, value_before = size, found.values
    rises = torch.zeros_like(found.values)
    current = previous = start
    judged, windows = 0, checkpoints(steps)
    for step in range(1, steps + 1):
        moved = ball.project(current + size * ball.steepest(gradient), pixels)
        if step > 1:
            momentum = (1 - MOMENTUM) * (current - previous)
            moved = ball.project(current + MOMENTUM * (moved - current) + momentum, pixels)
        last_value = found.values
        previous, current = current, moved
        found, gradient = ask(current, first_step + step, climb=step < steps)
        best = best.or_better(found)
        rises += found.values > last_value
        higher = found.values > highest.values
        highest = _chosen(higher, found, highest)
        highest_gradient = _where(higher, gradient, highest_gradient)
        if step in windows:
            few = rises < RISES * (step - judged)
            stuck = (size == size_before).flatten() & (highest.values == value_before)
            shrink = few | stuck
            size_before, value_before = size, highest.values
            size = _where(shrink, size / 2, size)
            found = _chosen(shrink, highest, found)
            gradient = _where(shrink, highest_gradient, gradient)
            current = found.pixels
            rises = torch.zeros_like(rises)
            judged = step
            if renew is not None and step < steps:
                best, highest = renew(best, highest)
                value_before = highest.values
    return best


def _chosen(mask: Tensor, one: Candidates, other: Candidates) -> Candidates:
    return Candidates(
        _where(mask, one.pixels, other.pixels),
        _where(mask, one.values, other.values),
        _where(mask, one.reached, other.reached),
    )


def _where(mask: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Whole rows: `one`'s where the mask, bool [N], is true."""
    return one.where(mask.reshape(-1, *[1] * (one.dim() - 1)), other)
