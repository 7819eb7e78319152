"""Predictive normalised maximum likelihood as a defense (Pesso, Bibas and Feder, 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.defenses.base import Context, Defense
from tasks.specs import Passes, Pixel255

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class PNML(Defense):
    """A view for each class, one signed gradient step down the cross-entropy of that class.

    All gradients are taken at the same x. The probability of a class is the one that its own view
    gives it, divided by the sum over classes. `step_size`, in 1/255, is 0.11 of the pixel range by
    default, as published for a network that was trained adversarially.
    """

    kind: Literal["pnml"] = "pnml"
    version: ClassVar[int] = 1

    step_size: Pixel255 = 28.05
    """Lambda, in 1/255."""

    def deterministic(self, classes: int) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def views(self, classes: int) -> int:
        """One for each class."""
        return classes

    def smooths(self) -> bool:
        """Always: the sign of each gradient."""
        return True

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """A step to each class, which the gradient holds constant unless smoothed, and a clip."""
        import torch

        from tasks.defenses.transforms import straight

        def every_class(logits: Tensor) -> Tensor:
            classes = torch.arange(logits.shape[1], device=logits.device)
            return classes.expand(len(logits), -1)

        smoothing, classifier = context.smoothing, context.classifier
        if smoothing is None:
            signs = classifier.label_gradients(pixels.detach(), every_class).sign()
        else:
            gradients = classifier.label_gradients(
                pixels, every_class, differentiable=True, relu_width=context.relu_width
            )
            signs = straight.smooth_sign(gradients.flatten(0, 1), smoothing).view_as(gradients)
        moved = pixels[:, None] - self.step_size / 255 * signs  # [M, classes, C, H, W]
        return straight.clip(moved).flatten(0, 1)

    def combine(self, logits: Tensor) -> Tensor:
        """The log of each class's probability in its own view, which softmax then normalises.

        In float64, since the distance from 1 of a confident one is lost in float32.
        """
        own = logits.double().log_softmax(dim=-1).diagonal(dim1=-2, dim2=-1)
        return own.to(logits.dtype)

    def forwards_and_backwards(self, *, rows: int, distinct: int, classes: int) -> Passes:  # noqa: ARG002
        """One forward for the gradients of all classes."""
        return Passes(1, classes) * rows
