"""The counter-perturbation: the paper's contribution (section IV, equation 4, algorithm 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from tasks.defenses.base import Context, Defense
from tasks.specs import Count, Positive, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.seeding import Rows


class Counter(Defense):
    """One signed gradient step for each of N class labels, summed, clamped and added.

    All N gradients of the cross-entropy are taken at the same x. A targeted step goes down the
    loss of its label, an untargeted one up. `step_size` (the paper's alpha; half the problem's
    epsilon by default) and `limit` (mu; epsilon) are in 1/255; `label_count` (N) is 9 by
    default, or all the other classes where there are fewer.
    """

    kind: Literal["counter"] = "counter"
    version: ClassVar[int] = 1
    once: ClassVar[bool] = True

    direction: Literal["targeted", "untargeted"] = "targeted"
    label_pool: Literal["not-predicted", "all"] = "not-predicted"
    label_count: Count | None = None
    step_size: Positive | None = None
    limit: Positive | None = None

    def resolved(self, problem: Problem) -> Self:
        """N, alpha and mu filled in; ValueError where there are fewer labels than N."""
        available = self._available(problem.classes)
        count = self.label_count or min(9, problem.classes - 1)
        if count > available:
            raise ValueError(f"counter: label_count is {count}, but there are {available} labels")
        return self.model_copy(
            update={
                "label_count": count,
                "step_size": self.step_size or problem.epsilon / 2,
                "limit": self.limit or problem.epsilon,
            }
        )

    def deterministic(self, classes: int) -> bool:
        """Whether N takes all the labels there are to draw from."""
        return (self.label_count or min(9, classes - 1)) == self._available(classes)

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        """Add the perturbation, which the gradient holds constant, and clip."""
        from tasks import straight

        return straight.clip(pixels + self.perturbation(pixels, rows, context))

    def labels(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        """int64 [M, N]: the labels drawn for each row, no label twice."""
        import torch

        from tasks import straight

        classes = context.classifier.classes
        allowed = torch.ones(len(pixels), classes, dtype=torch.bool, device=pixels.device)
        if self.label_pool == "not-predicted":
            predicted = straight.predicted_classes(context.classifier, pixels)
            allowed.scatter_(1, predicted[:, None], value=False)
        return rows.choices("labels", allowed, self.label_count or min(9, classes - 1))

    def perturbation(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        """float32 [M, C, H, W] in [0, 1] units, no entry beyond the limit; detached."""
        if self.step_size is None or self.limit is None:
            raise ValueError("counter: step_size and limit are unset; call resolved(problem)")
        pixels = pixels.detach()
        labels = self.labels(pixels, rows, context)
        gradients = context.classifier.label_gradients(pixels, labels)  # [M, N, C, H, W]
        step = self.step_size / 255 * (-1 if self.direction == "targeted" else 1)
        bound = self.limit / 255
        return (step * gradients.sign().sum(dim=1)).clamp(-bound, bound).detach()

    def _available(self, classes: int) -> int:
        return classes if self.label_pool == "all" else classes - 1
