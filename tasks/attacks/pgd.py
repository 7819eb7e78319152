"""Projected gradient descent as in the paper's experiments (section IV)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from tasks.attacks.base import BoundedAttack, Victim
from tasks.specs import Count, Epsilon, NonNegative, Passes, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class PGD(BoundedAttack):
    """The last iterate of `steps` projected steps up the cross-entropy, or another loss.

    step_size: in 1/255, a quarter of epsilon by default; random_start: begin at one uniform
    random point of the ball instead of the image; label: which class an untargeted attack
    leads away from, the true one or the one that the victim predicts for the clean image.
    loss: `margin` for that of Carlini and Wagner (2017), up to a margin of `confidence` in
    logits (0 by default), beyond which an image moves no more.
    """

    version: ClassVar[int] = 1
    unset_is_left_out: ClassVar[frozenset[str]] = frozenset({"loss", "confidence"})
    kind: Literal["pgd"] = "pgd"
    step_size: Epsilon | None = None
    steps: Count = 10
    """How many."""
    random_start: bool = True
    label: Literal["true", "predicted"] = "true"
    loss: Literal["margin"] | None = None
    confidence: NonNegative | None = None
    """Of the margin loss, in logits."""

    @model_validator(mode="after")
    def _targets_need_no_label(self) -> Self:
        if self.targeted and self.label == "predicted":
            raise ValueError("label: only an untargeted attack has one; leave it out")
        if self.confidence is not None and self.loss is None:
            raise ValueError("confidence: only the margin has one; add loss: margin")
        return self

    def resolved(self, problem: Problem) -> Self:
        """With the data set's epsilon, and a quarter of epsilon as the step size."""
        filled = super().resolved(problem)
        if filled.step_size is not None or filled.epsilon is None:
            return filled
        return filled.model_copy(update={"step_size": filled.epsilon / 4})

    def perturb(self, victim: Victim, pixels: Tensor, labels: Tensor, rows: Rows) -> Tensor:
        """The last iterate, from one random start unless `random_start` is off."""
        from tasks.attacks.search.descent import (
            descend,
            loss_gradient,
            margin_gradient,
            predicted,
            random_start,
        )

        if self.step_size is None:
            raise ValueError("step_size: not set; call resolved(problem) first")
        ball = self.ball()
        if self.targeted:
            aims = self.targets(labels, rows, victim.classes)
        elif self.label == "predicted":
            aims = predicted(victim, pixels)
        else:
            aims = labels
        if self.loss is None:
            gradient = loss_gradient(victim, aims, targeted=self.targeted)
        else:
            confidence = self.confidence or 0.0
            gradient = margin_gradient(victim, aims, targeted=self.targeted, confidence=confidence)
        return descend(
            gradient,
            pixels,
            random_start(pixels, rows, ball=ball) if self.random_start else pixels,
            ball=ball,
            step_size=self.step_size / 255,
            steps=self.steps,
        )

    def forwards_and_backwards(self) -> Passes:
        """One of each a step, and one forward to ask for the predicted label."""
        return Passes(1, 1) * self.steps + Passes(forwards=self.label == "predicted")
