"""Auto-PGD (Croce and Hein, ICML 2020): gradient ascent that halves its step when it stalls."""

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
"""Share of the new step in an update; the rest continues the previous update."""

RISES = 0.75
"""Share of a window's steps that must raise the objective for the step size to stay."""


@dataclass(frozen=True)
class Candidates:
    """One point for each image, with what the search knows of it."""

    pixels: Tensor
    """float [N, C, H, W]."""
    values: Tensor
    """float [N], the objective at each point."""
    reached: Tensor
    """bool [N], whether the point reaches its goal."""

    def or_better(self, other: Candidates) -> Candidates:
        """Return, for each image, the point that reaches its goal or else has the higher value.

        The objective alone does not suffice: a high cross-entropy is not always a wrong answer.
        """
        higher = (self.reached == other.reached) & (other.values > self.values)
        better = higher | (other.reached & ~self.reached)
        return Candidates(
            _where(better, other.pixels, self.pixels),
            _where(better, other.values, self.values),
            _where(better, other.reached, self.reached),
        )

    def first(self, count: int) -> Candidates:
        """Return the points of the first `count` images."""
        return Candidates(self.pixels[:count], self.values[:count], self.reached[:count])

    def improved(self, places: Tensor, other: Candidates) -> Candidates:
        """Return these points, improved by `or_better` for some images.

        Args:
            places: int64 [n], the positions of those images.
            other: Points of those n images.
        """
        own = Candidates(self.pixels[places], self.values[places], self.reached[places])
        better = own.or_better(other)
        return Candidates(
            self.pixels.index_copy(0, places, better.pixels),
            self.values.index_copy(0, places, better.values),
            self.reached.index_copy(0, places, better.reached),
        )


class Ask(Protocol):
    """What a search calls at each step, to get its points as `Candidates` and their gradient."""

    def __call__(self, pixels: Tensor, step: int, *, climb: bool) -> tuple[Candidates, Tensor]:
        """Return the candidates and a gradient of the pixels' shape, zero without `climb`."""
        ...


Renew = Callable[[Candidates, Candidates], tuple[Candidates, Candidates]]
"""Judges the best point and the one of the highest objective again, with the draws of a new
window."""


@dataclass
class Question:
    """The objective of a goal on a victim, as an `Ask` with its `Renew`.

    A call is one forward pass, and one backward pass if `climb` is set. If the victim has `judged`,
    the gradient is of fresh draws, but candidates are compared on the draws of the window: kept for
    the lucky draws of one step, a point would look better than it is.
    """

    victim: Victim
    goal: Goal
    loss: Loss
    window: int = 0
    """Number of the current window of draws."""

    def __call__(self, pixels: Tensor, step: int, *, climb: bool) -> tuple[Candidates, Tensor]:
        """See `Ask`."""
        judged = self.victim.judged
        if judged is not None and not climb:
            return self._candidates(pixels, judged(pixels, self.window)), torch.zeros_like(pixels)
        with torch.set_grad_enabled(climb):
            leaf = pixels.detach().requires_grad_(climb)
            logits = self.victim.logits(leaf, step)
            values = self.goal.objective(logits, self.loss)
            # A sum and not a mean, so that an image's gradient does not depend on the batch size.
            gradient = (
                torch.autograd.grad(values.sum(), leaf)[0] if climb else torch.zeros_like(pixels)
            )
        if judged is not None:
            logits = judged(pixels, self.window)
        return self._candidates(pixels, logits.detach()), gradient

    def renew(self, best: Candidates, highest: Candidates) -> tuple[Candidates, Candidates]:
        """See `Renew`. If both points are the same, as with the margin, they are judged once."""
        self.window += 1
        judged = self.again(best)
        same = torch.equal(best.pixels, highest.pixels)
        return judged, judged if same else self.again(highest)

    def again(self, candidates: Candidates) -> Candidates:
        """Return the candidates judged on the window's draws, or unchanged without `judged`."""
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
    """Run Auto-PGD and return the best of the start and `steps` iterates.

    Each image has its own step size: twice the radius at first, and halved at a checkpoint if too
    few steps raised the objective, or if neither the step size nor the highest objective changed
    since the checkpoint before. Such an image continues from its point of the highest objective.

    Args:
        ask: Judges points and returns gradients.
        pixels: float32 [N, C, H, W] in [0, 1], the originals.
        start: float32 [N, C, H, W], the first iterate, in the ball.
        ball: Set of permitted perturbations.
        steps: Number of steps.
        first_step: Step number passed to `ask` at the start; the iterates count on from it.
        renew: Called after each checkpoint but the last, to judge what is kept on new draws.
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
    """Return whole rows of `one` where the mask, bool [N], is true, and of `other` elsewhere."""
    return one.where(mask.reshape(-1, *[1] * (one.dim() - 1)), other)
