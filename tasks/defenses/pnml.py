"""Predictive normalised maximum likelihood (pNML) as a defense (Pesso, Bibas and Feder, 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.defenses.base import Context, Defense
from tasks.specs import Passes, Pixel255

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class PNML(Defense):
    """pNML: one view for each class, after a signed gradient step down that class's cross-entropy.

    All gradients are taken at the same image x. The score of a class is its probability in its own
    view; scores are divided by their sum over classes.
    """

    kind: Literal["pnml"] = "pnml"
    version: ClassVar[int] = 1

    step_size: Pixel255 = 28.05
    """Size of the step, lambda, in 1/255; the default, 0.11 of the pixel range, was published for
    an adversarially trained network."""

    def deterministic(self, classes: int) -> bool:  # noqa: ARG002
        """Always true."""
        return True

    def views(self, classes: int) -> int:
        """One view for each class."""
        return classes

    def smooths(self) -> bool:
        """Always true, for the sign of each gradient."""
        return True

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Take a step for each class and clip. The step has no gradient unless it is smoothed.

        Each class has a width of the smoothed sign of its own, where `counter` has one for a row.
        """
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
        """Return the log-probability of each class in its own view; a softmax then normalises.

        Computed in float64, since float32 loses how far a confident probability is from 1.
        """
        own = logits.double().log_softmax(dim=-1).diagonal(dim1=-2, dim2=-1)
        return own.to(logits.dtype)

    def forwards_and_backwards(self, *, rows: int, distinct: int, classes: int) -> Passes:  # noqa: ARG002
        """One forward pass, and one backward pass for each class."""
        return Passes(1, classes) * rows
