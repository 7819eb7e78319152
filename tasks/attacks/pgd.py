"""Projected gradient descent (PGD), as in the paper's experiments (section IV)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from tasks.attacks.base import BoundedAttack, Victim
from tasks.specs import Count, Epsilon, NonNegative, Passes, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class PGD(BoundedAttack):
    """PGD: the last of `steps` projected gradient steps up the cross-entropy or the margin loss."""

    version: ClassVar[int] = 1
    unset_is_left_out: ClassVar[frozenset[str]] = frozenset({"loss", "confidence"})
    kind: Literal["pgd"] = "pgd"
    step_size: Epsilon | None = None
    """In 1/255, a quarter of epsilon by default."""
    steps: Count = 10
    """Number of steps."""
    random_start: bool = True
    """Start at a uniform random point of the ball instead of at the image."""
    label: Literal["true", "predicted"] = "true"
    """Class that an untargeted attack ascends away from: the true one, or the one that the victim
    predicts for the original image."""
    loss: Literal["margin"] | None = None
    """`margin` for the loss of Carlini and Wagner (2017), which stops pushing an image once its
    margin reaches `confidence`; unset, the cross-entropy."""
    confidence: NonNegative | None = None
    """Confidence of the margin loss, in logits; 0 by default."""

    @model_validator(mode="after")
    def _targets_need_no_label(self) -> Self:
        if self.targeted and self.label == "predicted":
            raise ValueError("label: only an untargeted attack has one; leave it out")
        if self.confidence is not None and self.loss is None:
            raise ValueError("confidence: only the margin has one; add loss: margin")
        return self

    def resolved(self, problem: Problem) -> Self:
        """Return the spec with the problem's epsilon, and a quarter of epsilon as step size."""
        filled = super().resolved(problem)
        if filled.step_size is not None or filled.epsilon is None:
            return filled
        return filled.model_copy(update={"step_size": filled.epsilon / 4})

    def perturb(self, victim: Victim, pixels: Tensor, labels: Tensor, rows: Rows) -> Tensor:
        """Return the last iterate, from one random start unless `random_start` is off."""
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
        """One of each at every step, and one forward pass if the label is the predicted one."""
        return Passes(1, 1) * self.steps + Passes(forwards=self.label == "predicted")
