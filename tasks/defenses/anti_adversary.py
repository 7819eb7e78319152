"""The anti-adversary layer (Alfarra et al., AAAI 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.defenses.base import Context
from tasks.defenses.transforms.optimised import Optimised
from tasks.specs import Count, Pixel255

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.defenses.transforms.descent import Descent, Scalar


class AntiAdversary(Optimised):
    """Signed steps down the cross-entropy to the class that the classifier gives the image.

    `step_size` is in 1/255, 0.15 of the pixel range by default, and the offset has no limit.
    `box` keeps the image in [0, 1], which the authors' own code does not.
    """

    kind: Literal["anti-adversary"] = "anti-adversary"
    version: ClassVar[int] = 1

    steps: Count = 2
    """Of the optimiser inside."""
    step_size: Pixel255 = 38.25
    """Of each step, in 1/255."""
    box: bool = True
    """Keep the moved image in [0, 1]."""

    def leaves_range(self) -> bool:
        """Without the box."""
        return not self.box

    def descent(self) -> Descent:
        """See `Optimised.descent`."""
        from tasks.defenses.transforms.descent import Descent

        return Descent(self.steps, self.step_size / 255, box=self.box)

    def value(self, pixels: Tensor, context: Context) -> Scalar:  # noqa: ARG002
        """The cross-entropy to the predicted class, in float64.

        That class is the one of the first question, which is about the image itself.
        """
        from torch.nn.functional import cross_entropy

        predicted: list[Tensor] = []

        def value(moved: Tensor) -> Tensor:
            logits = context.logits(moved).double()
            if not predicted:
                predicted.append(logits.detach().argmax(dim=1))
            return cross_entropy(logits, predicted[0], reduction="none")

        return value
